//! Every backend of the config, with its local models found and their workers started.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use spectra_backends::llama::{KvType, Settings, Supervision, Supervisor};
use spectra_backends::{Ask, Backend, BackendError, BuildError, Continuation, Facts, Fleet, Local, Price};
use spectra_config::{self as config, Config};
use tower::service_fn;

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
        let started = Supervisor::start(settings(path, backend, llama), supervision(name, &llama.worker));
        let worker = started.map_err(|error| BuildError::Backend { name: name.to_owned(), what: format!("its worker cannot be started: {error}") })?;
        let made = local(worker.backend(), backend, llama);
        workers.0.insert(name.to_owned(), Arc::new(worker));
        Ok(made)
    })?;
    if missing.len() == config.backends.len() {
        anyhow::bail!("there is no model to ask:\n  {}\nor set OPENAI_API_KEY (and OPENAI_BASE_URL) for a hosted one", missing.join("\n  "));
    }
    Ok((fleet, workers, missing))
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
        tools: false,
        vision: false,
        logprobs: true,
        n_max: 1,
        json_schema: true,
        local: true,
        price: Price::default(),
        continues_by: Continuation::Prefill,
    };
    Local { backend: model, forwarder: None, facts, slots: Some(llama.slots.unwrap_or(MOST_SLOTS)) }
}

fn settings(path: std::path::PathBuf, backend: &config::Backend, llama: &config::Llama) -> Settings {
    Settings {
        context_tokens: backend.context_tokens,
        slots: llama.slots,
        queue: backend.queue,
        threads: llama.threads,
        gpu_layers: llama.gpu_layers,
        kv_type: match llama.kv_type {
            config::KvType::F16 => KvType::F16,
            config::KvType::Q8_0 => KvType::Q8_0,
        },
        flash_attention: llama.flash_attention,
        batch_tokens: llama.batch_tokens,
        embeddings: llama.embeddings,
        ..Settings::new(path)
    }
}

fn supervision(name: &str, worker: &config::Workers) -> Supervision {
    Supervision {
        program: worker.program.as_ref().map(Into::into),
        heartbeat: Duration::from_millis(worker.heartbeat_ms),
        load: Duration::from_millis(worker.load_ms),
        backoff: Duration::from_millis(worker.backoff_ms),
        backoff_max: Duration::from_millis(worker.backoff_max_ms),
        alias: Some(name.to_owned()),
    }
}
