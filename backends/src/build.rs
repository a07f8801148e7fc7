//! From the config to a fleet: every backend built, with its facts, behind its guard.

use std::collections::HashMap;
use std::sync::Arc;

use spectra_config as config;

use crate::forward::Forwarder;
use crate::guard::Gate;
use crate::{Backend, Continuation, Facts, Fleet, Member, Part, Price, openai, script};

/// Why a backend could not be built: the world's reasons, since the config was checked.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("backend {name}: {what}")]
    Backend { name: String, what: String },
}

/// A local model, as the caller of `fleet` made it; not yet behind a guard.
#[derive(Debug)]
pub struct Local {
    pub backend: Backend,
    /// Serves `/v1/embeddings`, if the model embeds.
    pub forwarder: Option<Forwarder>,
    /// What the model's file says; the config overrides each.
    pub facts: Facts,
    /// Requests it decodes at once; more wait in the guard's queue. `None`: the config's `concurrency`.
    pub slots: Option<u32>,
}

/// Builds every backend of the config. `local` makes the llama ones: from its name, what is common to all backends and
/// what is particular to llama.
///
/// # Errors
/// The first backend that cannot be built.
pub fn fleet(
    config: &config::Config,
    local: impl FnMut(&str, &config::Backend, &config::Llama) -> Result<Local, BuildError>,
) -> Result<Fleet, BuildError> {
    renewed(config, |_, _| None, local)
}

/// As `fleet`, but what is `kept` of an earlier fleet is not built again.
///
/// # Errors
/// As `fleet`.
pub fn renewed(
    config: &config::Config,
    kept: impl Fn(&str, &config::Backend) -> Option<Part>,
    mut local: impl FnMut(&str, &config::Backend, &config::Llama) -> Result<Local, BuildError>,
) -> Result<Fleet, BuildError> {
    let mut members = HashMap::new();
    let mut gates = HashMap::new();
    let mut forwarders = HashMap::new();
    for (name, backend) in &config.backends {
        if let Some(part) = kept(name, backend) {
            members.insert(name.clone(), part.member);
            gates.extend(part.gate.map(|gate| (name.clone(), gate)));
            forwarders.extend(part.forwarder.map(|forwarder| (name.clone(), forwarder)));
            continue;
        }
        let made = match backend.kind() {
            Some(config::BackendKind::Llama(llama)) => local(name, backend, llama)?,
            Some(config::BackendKind::Openai(settings)) => {
                let hosted = openai::backend(name, settings, &backend.deadlines)?;
                Local { backend: hosted.backend, forwarder: Some(hosted.forwarder), facts: HOSTED, slots: None }
            }
            Some(config::BackendKind::Script(answers)) => {
                Local { backend: script::backend(name, answers), forwarder: None, facts: SCRIPTED, slots: None }
            }
            None => return Err(BuildError::Backend { name: name.clone(), what: "is of no kind".into() }),
        };
        let slots = made.slots.map_or(backend.concurrency, |slots| slots.min(backend.concurrency));
        let gate = Gate::new(slots, backend.queue, backend.deadlines, backend.breaker);
        let facts = Arc::new(facts(made.facts, backend));
        members.insert(name.clone(), Member { backend: gate.guard(made.backend), facts });
        if let Some(forwarder) = made.forwarder {
            forwarders.insert(name.clone(), gate.guard_forwarder(forwarder));
        }
        gates.insert(name.clone(), gate);
    }
    Ok(Fleet::guarded(members, gates, forwarders))
}

/// What is assumed of an OpenAI-compatible server of which the operator says nothing.
const HOSTED: Facts = Facts { vision: false, ..Facts::open() };

const SCRIPTED: Facts = Facts { tools: false, logprobs: false, ..HOSTED };

fn facts(found: Facts, backend: &config::Backend) -> Facts {
    Facts {
        // A local model's has the operator's word in it already, within what the model was trained for.
        context_tokens: if found.local {
            found.context_tokens.or(backend.context_tokens)
        } else {
            backend.context_tokens.or(found.context_tokens)
        },
        tools: backend.tools.unwrap_or(found.tools),
        vision: backend.vision.unwrap_or(found.vision),
        logprobs: backend.logprobs.unwrap_or(found.logprobs),
        n_max: backend.n_max.unwrap_or(found.n_max),
        json_schema: backend.json_schema.unwrap_or(found.json_schema),
        local: found.local,
        price: Price { input: backend.price.input, output: backend.price.output },
        continues_by: match backend.continues_by {
            Some(config::Continues::Prefill) => Continuation::Prefill,
            Some(config::Continues::ContinueFinalMessage) => Continuation::Flagged,
            Some(config::Continues::Instruction) => Continuation::Instruction,
            None => found.continues_by,
        },
    }
}
