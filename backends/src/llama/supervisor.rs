//! Keeps a worker process alive: starts it, waits until it is ready, watches its heartbeat, starts it again.
//!
//! One OS thread with a small runtime of its own does this. The kernel kills the worker when that thread ends
//! (`PR_SET_PDEATHSIG` is bound to the thread that forked), so the worker never outlives the gateway, however that ends.

mod process;
mod socket;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::service_fn;

use self::process::Process;
use self::socket::Folder;
use super::Settings;
use super::client;
use crate::{Ask, Backend, BackendError};

/// How a worker is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// The `spectra` binary; `None`: the running one.
    pub program: Option<PathBuf>,
    /// A worker that has not answered, or not finished a step, for so long is killed.
    pub heartbeat: Duration,
    /// Longest wait for the model to load.
    pub load: Duration,
    /// Pause before a restart; doubles up to `backoff_max`, and starts over once a worker has been ready for a minute.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// Name answers carry; `None`: the model's own.
    pub alias: Option<String>,
}

impl Default for Supervision {
    fn default() -> Self {
        Self {
            program: None,
            heartbeat: Duration::from_secs(4),
            load: Duration::from_secs(300),
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            alias: None,
        }
    }
}

impl Supervision {
    /// From the operator's words; `alias` is the backend's name.
    #[must_use]
    pub fn of(workers: &spectra_config::Workers, alias: &str) -> Self {
        Self {
            program: workers.program.as_ref().map(PathBuf::from),
            heartbeat: Duration::from_millis(workers.heartbeat_ms),
            load: Duration::from_millis(workers.load_ms),
            backoff: Duration::from_millis(workers.backoff_ms),
            backoff_max: Duration::from_millis(workers.backoff_max_ms),
            alias: Some(alias.to_owned()),
        }
    }
}

/// A worker's state at one moment.
#[derive(Clone, Debug)]
pub struct State {
    pub phase: WorkerPhase,
    /// Times a worker was started after the first.
    pub restarts: u64,
    /// Why the last worker ended, in words and as a stable label.
    pub last_exit: Option<Exit>,
    /// Process id of the worker that is there.
    pub pid: Option<u32>,
    /// As of the last heartbeat.
    pub health: Option<Health>,
    socket: Option<Arc<PathBuf>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerPhase {
    /// Started, and reading the model.
    Loading,
    Ready,
    /// Ended; will be started again after a pause.
    Down,
}

impl WorkerPhase {
    /// Stable name for readiness and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Down => "down",
        }
    }
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// `abort`, `killed`, `crash`, `hung`, `model`, `memory`, `not_started`, `not_ready`, `exit`.
    pub reason: &'static str,
    pub words: String,
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Health {
    pub model: String,
    pub context_tokens: u32,
    pub slots: u32,
    /// False for a model without a chat template.
    pub chat: bool,
    pub stats: super::Snapshot,
}

/// Owns the worker; dropping it ends the worker.
#[derive(Debug)]
pub struct Supervisor {
    state: watch::Receiver<State>,
    alias: Option<String>,
    /// Dropping it tells the thread to end.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Supervisor {
    /// Starts the supervising thread and returns at once; the model loads meanwhile.
    ///
    /// # Errors
    /// If no thread, folder for the socket or path of the running program can be had.
    pub fn start(settings: Settings, supervision: Supervision) -> std::io::Result<Self> {
        let program = match &supervision.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?,
        };
        let folder = Folder::create()?;
        let first = State { phase: WorkerPhase::Loading, restarts: 0, last_exit: None, pid: None, health: None, socket: None };
        let (report, state) = watch::channel(first);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let alias = supervision.alias.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("worker-supervisor".into()).spawn(move || {
            let keep = Keeper { program, settings, supervision, folder, report };
            runtime.block_on(async {
                tokio::select! {
                    () = keep.run() => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { state, alias, _stop: stop })
    }

    /// The state now; cheap.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// To be told of every change, for instance to wait for `Ready`.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the worker is ready; false if it is not within `limit`.
    pub async fn ready(&self, limit: Duration) -> bool {
        let mut state = self.watch();
        let wait = state.wait_for(|state| state.phase == WorkerPhase::Ready);
        tokio::time::timeout(limit, wait).await.is_ok_and(|waited| waited.is_ok())
    }

    /// The model behind the seam. While no worker is ready its calls are `Unavailable` at once.
    #[must_use]
    pub fn backend(&self) -> Backend {
        let state = self.state.clone();
        let alias: Arc<str> = self.alias.as_deref().unwrap_or("local").into();
        Backend::new(service_fn(move |ask: Ask| {
            let (state, alias) = (state.clone(), Arc::clone(&alias));
            async move {
                let socket = socket(&state)?;
                let answered = client::ask(&socket, &alias, ask).await;
                answered.map_err(|error| explain(error, &state))
            }
        }))
    }
}

fn socket(state: &watch::Receiver<State>) -> Result<Arc<PathBuf>, BackendError> {
    let state = state.borrow();
    match (&state.phase, &state.socket) {
        (WorkerPhase::Ready, Some(socket)) => Ok(Arc::clone(socket)),
        (WorkerPhase::Loading, _) => Err(BackendError::Unavailable { why: "the local model is being loaded".into() }),
        _ => {
            let why = state.last_exit.as_ref().map_or("it has not started yet", |exit| exit.words.as_str());
            Err(BackendError::Unavailable { why: format!("the local model's worker is down: {why}") })
        }
    }
}

/// A worker that died while it was asked says so by a broken connection; the state may know better.
fn explain(error: BackendError, state: &watch::Receiver<State>) -> BackendError {
    match (&error, socket(state)) {
        (BackendError::Broken { .. }, Err(down)) => down,
        _ => error,
    }
}

/// The supervising thread's own things.
struct Keeper {
    program: PathBuf,
    settings: Settings,
    supervision: Supervision,
    folder: Folder,
    report: watch::Sender<State>,
}

/// How long a worker must have been ready for its end not to count as a crash loop.
const STEADY: Duration = Duration::from_secs(60);

impl Keeper {
    async fn run(self) {
        let mut pause = self.supervision.backoff;
        for generation in 0_u64.. {
            self.report.send_modify(|state| {
                state.phase = WorkerPhase::Loading;
                state.restarts = generation;
            });
            let (exit, steady) = self.live(generation).await;
            if steady >= STEADY {
                pause = self.supervision.backoff;
            }
            tracing::error!(reason = exit.reason, restart_in_ms = pause.as_millis(), "local model worker ended: {}", exit.words);
            self.report.send_modify(|state| {
                state.phase = WorkerPhase::Down;
                state.last_exit = Some(exit);
                state.pid = None;
                state.health = None;
                state.socket = None;
            });
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.supervision.backoff_max);
        }
    }

    /// One worker's life. Returns how it ended and for how long it had been ready.
    async fn live(&self, generation: u64) -> (Exit, Duration) {
        let socket = self.folder.socket(generation);
        let mut process = match Process::start(&self.program, &socket, &self.settings, self.supervision.alias.as_deref()) {
            Ok(process) => process,
            Err(error) => {
                let words = format!("{} cannot be started: {error}", self.program.display());
                return (Exit { reason: "not_started", words }, Duration::ZERO);
            }
        };
        self.report.send_modify(|state| state.pid = process.id());
        let mut ready_since = None;
        let hung = tokio::select! {
            exit = process.ended() => {
                return (exit, ready_since.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
            }
            hung = self.watch_over(&socket, &mut ready_since) => hung,
        };
        process.kill().await;
        (hung, ready_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Returns only when the worker has to be killed.
    async fn watch_over(&self, socket: &std::path::Path, ready_since: &mut Option<Instant>) -> Exit {
        let shared = Arc::new(socket.to_owned());
        let heartbeat = self.supervision.heartbeat.max(Duration::from_millis(100));
        let mut heard = Instant::now();
        loop {
            let answer = tokio::time::timeout(heartbeat / 2, client::health(socket)).await;
            if let Ok(Ok(health)) = answer {
                heard = Instant::now();
                if ready_since.is_none() {
                    *ready_since = Some(heard);
                    tracing::info!(model = %health.model, context_tokens = health.context_tokens, slots = health.slots, "local model ready");
                }
                if Duration::from_millis(health.stats.step_age_ms) > heartbeat.max(LONGEST_STEP) {
                    return Exit { reason: "hung", words: format!("a decode step ran for {} ms", health.stats.step_age_ms) };
                }
                self.report.send_modify(|state| {
                    state.phase = WorkerPhase::Ready;
                    state.health = Some(health);
                    state.socket = Some(Arc::clone(&shared));
                });
            }
            let silence = heard.elapsed();
            match ready_since {
                Some(_) if silence >= heartbeat => {
                    return Exit { reason: "hung", words: format!("no heartbeat for {} ms", silence.as_millis()) };
                }
                None if silence >= self.supervision.load => {
                    return Exit { reason: "not_ready", words: format!("not ready after {} s", silence.as_secs()) };
                }
                _ => {}
            }
            // While it loads we look often, so that the first request waits for nothing but the model.
            let pause = if ready_since.is_some() { heartbeat / 4 } else { Duration::from_millis(50) };
            tokio::time::sleep(pause).await;
        }
    }
}

/// A large model on a slow machine may take this long for one step and be well.
const LONGEST_STEP: Duration = Duration::from_secs(60);
