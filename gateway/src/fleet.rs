//! Every backend of the config, with its local models found and their workers started.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use spectra_backends::forward::{Forward, Forwarder};
use spectra_backends::llama::{Header, Plan, Settings, State, Supervision, Supervisor};
use spectra_backends::{Ask, Backend, BackendError, BuildError, Continuation, Facts, Fleet, Local, Part, Price};
use spectra_config::{self as config, Config};

use crate::cli::model::locate;

/// What a worker takes whose file cannot be read from here.
const UNKNOWN: Plan = Plan { context_tokens: 4096, slots: 4, gpu_layers: 0 };

/// The workers of the local models, by backend. A worker ends with the last who holds it: this, or a backend in use.
#[derive(Clone, Debug, Default)]
pub struct Workers(pub HashMap<String, Arc<Worker>>);

/// One worker process, and what it was started for.
#[derive(Debug)]
pub struct Worker {
    supervisor: Supervisor,
    settings: Settings,
    supervision: Supervision,
}

impl Worker {
    fn start(settings: Settings, supervision: Supervision) -> std::io::Result<Self> {
        let supervisor = Supervisor::start(settings.clone(), supervision.clone())?;
        Ok(Self { supervisor, settings, supervision })
    }

    pub fn state(&self) -> State {
        self.supervisor.state()
    }

    /// The worker as a backend, which holds the worker: an answer that still flows when a reload has let go of it flows to
    /// its end.
    fn backend(self: &Arc<Self>) -> Backend {
        let (worker, inner) = (Arc::clone(self), self.supervisor.backend());
        Backend::of(move |ask: Ask| {
            let _held = &worker;
            inner.ask(ask)
        })
    }

    /// The same for embeddings.
    fn forwarder(self: &Arc<Self>) -> Forwarder {
        let (worker, inner) = (Arc::clone(self), self.supervisor.forwarder());
        Forwarder::of(move |forward: Forward| {
            let _held = &worker;
            inner.ask(forward)
        })
    }
}

/// What ran under an earlier config.
#[derive(Clone, Copy)]
pub struct Earlier<'a> {
    pub config: &'a Config,
    pub fleet: &'a Fleet,
    pub workers: &'a Workers,
}

impl Earlier<'_> {
    /// Whether a backend's section is as it was. Not so where its model was missing, since it may be there now.
    fn same(&self, name: &str, backend: &config::Backend) -> bool {
        self.config.backends.get(name) == Some(backend) && (backend.llama.is_none() || self.workers.0.contains_key(name))
    }

    fn keep(&self, name: &str, backend: &config::Backend) -> Option<Part> {
        self.same(name, backend).then(|| self.fleet.part(name))?
    }

    fn kept_workers(&self, config: &Config) -> Workers {
        let same = config.backends.iter().filter(|(name, backend)| self.same(name, backend));
        Workers(same.filter_map(|(name, _)| Some((name.clone(), self.workers.0.get(name)?.clone()))).collect())
    }

    /// The worker of a backend whose section changed in other things than its worker.
    fn worker(&self, name: &str, settings: &Settings, supervision: &Supervision) -> Option<Arc<Worker>> {
        self.workers.0.get(name).filter(|worker| worker.settings == *settings && worker.supervision == *supervision).cloned()
    }
}

/// Starts what has to be started and returns at once; models load meanwhile. `beside`: the config's folder, for paths.
/// What ran `earlier` goes on where the config is the same. Also what is missing, in words for the start-up lines.
///
/// # Errors
/// If a backend cannot be built, or no model at all is there to be asked.
pub fn start(config: &Config, beside: Option<&Path>, earlier: Option<Earlier<'_>>) -> anyhow::Result<(Fleet, Workers, Vec<String>)> {
    let mut workers = earlier.map(|earlier| earlier.kept_workers(config)).unwrap_or_default();
    let mut missing = Vec::new();
    let kept = |name: &str, backend: &config::Backend| earlier?.keep(name, backend);
    let fleet = spectra_backends::renewed(config, kept, |name, backend, llama| {
        let Some(path) = locate(&llama.model, beside) else {
            let why = format!("model {} is not on this machine: get it with `spectra model pull {}`", llama.model, llama.model);
            missing.push(format!("backend {name}: {why}"));
            return Ok(local(unavailable(why), UNKNOWN));
        };
        let (settings, supervision) = (Settings::of(path, backend, llama), Supervision::of(&llama.worker, name));
        let plan = planned(&settings);
        let worker =
            match earlier.and_then(|earlier| earlier.worker(name, &settings, &supervision)) {
                Some(worker) => worker,
                None => Arc::new(Worker::start(settings, supervision).map_err(|error| BuildError::Backend {
                    name: name.to_owned(),
                    what: format!("its worker cannot be started: {error}"),
                })?),
            };
        let forwarder = llama.embeddings.then(|| worker.forwarder());
        let made = Local { forwarder, ..local(worker.backend(), plan) };
        workers.0.insert(name.to_owned(), worker);
        Ok(made)
    })?;
    if missing.len() == config.backends.len() {
        anyhow::bail!(
            "there is no model to ask:\n  {}\nor set OPENAI_API_KEY (and OPENAI_BASE_URL) for a hosted one",
            missing.join("\n  ")
        );
    }
    Ok((fleet, workers, missing))
}

/// The slots and the context that the worker will choose: from the same file, by the same rules.
fn planned(settings: &Settings) -> Plan {
    let plan = Header::read(&settings.model).and_then(|header| Plan::of(settings, &header, &[]));
    // What is wrong here is wrong in the worker too, unless a GPU helps it; it says so in the log.
    plan.unwrap_or_else(|_| Plan {
        context_tokens: settings.context_tokens.unwrap_or(UNKNOWN.context_tokens),
        slots: settings.slots.unwrap_or(UNKNOWN.slots),
        ..UNKNOWN
    })
}

/// The same backends, with no worker started: to plan with.
///
/// # Errors
/// If a backend cannot be built.
pub fn described(config: &Config, beside: Option<&Path>) -> Result<Fleet, BuildError> {
    spectra_backends::fleet(config, |_, backend, llama| {
        let plan = locate(&llama.model, beside).map_or(UNKNOWN, |path| planned(&Settings::of(path, backend, llama)));
        Ok(local(unavailable("not started".into()), plan))
    })
}

fn unavailable(why: String) -> Backend {
    Backend::of(move |_: Ask| std::future::ready(Err(BackendError::Unavailable { why: why.clone() })))
}

fn local(model: Backend, plan: Plan) -> Local {
    let facts = Facts {
        context_tokens: Some(plan.context_tokens),
        tools: true,
        vision: false,
        logprobs: true,
        n_max: 8,
        json_schema: true,
        local: true,
        price: Price::default(),
        continues_by: Continuation::Prefill,
    };
    Local { backend: model, forwarder: None, facts, slots: Some(plan.slots) }
}
