//! Every backend of the config, with its local models found and their workers started.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use spectra_backends::llama::{Settings, State, Supervision, Supervisor};
use spectra_backends::{Ask, Backend, BackendError, BuildError, Continuation, Edit, Facts, Fleet, Local, Part, Price};
use spectra_config::{self as config, Config};
use tower::{ServiceExt, service_fn};

use crate::cli::model::locate;

/// Requests that a local model decodes at once, where the config leaves it to the worker: its own upper bound.
const MOST_SLOTS: u32 = 4;
/// What a worker takes, where the config does not say, unless its model was trained on less.
const CONTEXT_TOKENS: u32 = 4096;

/// The workers of the local models, by backend. A worker ends with the last who holds it: this, or a backend in use.
#[derive(Clone, Debug, Default)]
pub struct Workers(pub HashMap<String, Arc<Worker>>);

/// One worker process, and what it was started for.
#[derive(Debug)]
pub struct Worker {
    supervisor: Supervisor,
    backend: Backend,
    settings: Settings,
    supervision: Supervision,
}

impl Worker {
    fn start(settings: Settings, supervision: Supervision) -> std::io::Result<Self> {
        let supervisor = Supervisor::start(settings.clone(), supervision.clone())?;
        Ok(Self { backend: supervisor.backend(), supervisor, settings, supervision })
    }

    pub fn state(&self) -> State {
        self.supervisor.state()
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
            return Ok(local(unavailable(why), backend, llama));
        };
        let (settings, supervision) = (Settings::of(path, backend, llama), Supervision::of(&llama.worker, name));
        let worker =
            match earlier.and_then(|earlier| earlier.worker(name, &settings, &supervision)) {
                Some(worker) => worker,
                None => Arc::new(Worker::start(settings, supervision).map_err(|error| BuildError::Backend {
                    name: name.to_owned(),
                    what: format!("its worker cannot be started: {error}"),
                })?),
            };
        workers.0.insert(name.to_owned(), worker.clone());
        Ok(local(filled(worker, llama.defaults), backend, llama))
    })?;
    if missing.len() == config.backends.len() {
        anyhow::bail!(
            "there is no model to ask:\n  {}\nor set OPENAI_API_KEY (and OPENAI_BASE_URL) for a hosted one",
            missing.join("\n  ")
        );
    }
    Ok((fleet, workers, missing))
}

/// The worker as a backend, with the operator's values for what a caller leaves open. The backend holds the worker, so that
/// an answer that still flows when a reload has let go of it flows to its end.
fn filled(worker: Arc<Worker>, defaults: config::Sampling) -> Backend {
    Backend::new(service_fn(move |mut ask: Ask| {
        let inner = worker.backend.clone();
        let view = ask.request.view();
        let temperature =
            defaults.temperature.filter(|_| view.temperature.is_none()).map(|value| Edit::Set("temperature", value.to_string()));
        let max_tokens = defaults.max_tokens.filter(|_| view.max_tokens.is_none()).map(|value| Edit::Set("max_tokens", value.to_string()));
        let edits: Vec<Edit> = temperature.into_iter().chain(max_tokens).collect();
        if !edits.is_empty()
            && let Ok(request) = ask.request.edited(&edits)
        {
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
