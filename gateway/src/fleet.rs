//! Every backend of the config, with its local models found and their workers started.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use spectra_backends::llama::{Settings, Supervision, Supervisor};
use spectra_backends::{Ask, Backend, BackendError, BuildError, Continuation, Edit, Facts, Fleet, Local, Price};
use spectra_config::{self as config, Config};
use tower::{ServiceExt, service_fn};

use crate::cli::model::locate;

/// Requests that a local model decodes at once, where the config leaves it to the worker: its own upper bound.
const MOST_SLOTS: u32 = 4;
/// What a worker takes, where the config does not say, unless its model was trained on less.
const CONTEXT_TOKENS: u32 = 4096;

/// The workers of the local models, by backend; dropping them ends the processes.
#[derive(Debug, Default)]
pub struct Workers(pub HashMap<String, Arc<Supervisor>>);

/// Starts what has to be started and returns at once; models load meanwhile. `beside`: the config's folder, for paths.
/// Also what is missing, in words for the start-up lines.
///
/// # Errors
/// If a backend cannot be built, or no model at all is there to be asked.
pub fn start(config: &Config, beside: Option<&Path>) -> anyhow::Result<(Fleet, Workers, Vec<String>)> {
    let mut workers = Workers::default();
    let mut missing = Vec::new();
    let fleet = spectra_backends::fleet(config, |name, backend, llama| {
        let Some(path) = locate(&llama.model, beside) else {
            let why = format!("model {} is not on this machine: get it with `spectra model pull {}`", llama.model, llama.model);
            missing.push(format!("backend {name}: {why}"));
            return Ok(local(unavailable(why), backend, llama));
        };
        let started = Supervisor::start(Settings::of(path, backend, llama), Supervision::of(&llama.worker, name));
        let worker = started
            .map_err(|error| BuildError::Backend { name: name.to_owned(), what: format!("its worker cannot be started: {error}") })?;
        let made = local(filled(worker.backend(), llama.defaults), backend, llama);
        workers.0.insert(name.to_owned(), Arc::new(worker));
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

/// The backend with the operator's values for what a caller leaves open.
fn filled(inner: Backend, defaults: config::Sampling) -> Backend {
    if defaults == config::Sampling::default() {
        return inner;
    }
    Backend::new(service_fn(move |mut ask: Ask| {
        let inner = inner.clone();
        let view = ask.request.view();
        let temperature =
            defaults.temperature.filter(|_| view.temperature.is_none()).map(|value| Edit::Set("temperature", value.to_string()));
        let max_tokens = defaults.max_tokens.filter(|_| view.max_tokens.is_none()).map(|value| Edit::Set("max_tokens", value.to_string()));
        let edits: Vec<Edit> = temperature.into_iter().chain(max_tokens).collect();
        if let Ok(request) = ask.request.edited(&edits) {
            ask.request = request;
        }
        inner.oneshot(ask)
    }))
}

/// The same backends, with no worker started: to plan with.
///
/// # Errors
/// If a backend cannot be built.
pub fn described(config: &Config) -> Result<Fleet, BuildError> {
    spectra_backends::fleet(config, |_, backend, llama| Ok(local(unavailable("not started".into()), backend, llama)))
}

fn unavailable(why: String) -> Backend {
    Backend::new(service_fn(move |_: Ask| std::future::ready(Err(BackendError::Unavailable { why: why.clone() }))))
}

fn local(model: Backend, backend: &config::Backend, llama: &config::Llama) -> Local {
    let facts = Facts {
        context_tokens: Some(backend.context_tokens.unwrap_or(CONTEXT_TOKENS)),
        tools: true,
        vision: false,
        logprobs: true,
        n_max: 8,
        json_schema: true,
        local: true,
        price: Price::default(),
        continues_by: Continuation::Prefill,
    };
    Local { backend: model, forwarder: None, facts, slots: Some(llama.slots.unwrap_or(MOST_SLOTS)) }
}
