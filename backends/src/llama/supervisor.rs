//! Keeps a worker process alive: starts it, waits until it is ready, watches its heartbeat, starts it again.
//!
//! One OS thread with a small runtime of its own does this. The kernel kills the worker when that thread ends
//! (`PR_SET_PDEATHSIG` is bound to the thread that forked), so the worker never outlives the gateway, however that ends.

mod process;
mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use self::process::Process;
use self::socket::Folder;
use super::demand::{Demand, Use};
use super::{Settings, client};
use crate::forward::{Forward, Forwarder};
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
    /// Load the model with the first request that wants it, not at the start.
    pub on_demand: bool,
    /// Unload it after so long without a request; the next one loads it again.
    pub idle_unload: Option<Duration>,
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
            on_demand: false,
            idle_unload: None,
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
            on_demand: workers.load == spectra_config::Loading::Demand,
            idle_unload: (workers.idle_unload_ms > 0).then(|| Duration::from_millis(workers.idle_unload_ms)),
            alias: Some(alias.to_owned()),
        }
    }
}

/// A worker's state at one moment.
#[derive(Clone, Debug)]
pub struct State {
    pub phase: WorkerPhase,
    /// Times a worker was started again after it ended without being told to.
    pub restarts: u64,
    /// How often workers ended, by `Exit::reason`.
    pub exits: BTreeMap<&'static str, u64>,
    /// Why the last worker ended, in words and as a stable label.
    pub last_exit: Option<Exit>,
    /// Process id of the worker that is there.
    pub pid: Option<u32>,
    /// As of the last heartbeat.
    pub health: Option<Health>,
    /// Prompt and answer tokens of the workers that have ended.
    pub past_tokens: [u64; 2],
    socket: Option<Arc<PathBuf>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerPhase {
    /// Started, and reading the model.
    Loading,
    Ready,
    /// Ended; will be started again after a pause.
    Down,
    /// Not loaded since nobody wants it; the next request loads it.
    Unloaded,
}

impl WorkerPhase {
    /// Stable name for readiness and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Down => "down",
            Self::Unloaded => "unloaded",
        }
    }
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// `abort`, `killed`, `crash`, `hung`, `model`, `memory`, `not_started`, `not_ready`, `exit`, and `idle`: it was unloaded.
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
    /// False for a model without a chat template, and for one that serves embeddings.
    pub chat: bool,
    pub embeddings: bool,
    pub stats: super::Snapshot,
    /// Resident bytes of the worker.
    pub memory_bytes: u64,
    /// Of the model's layers and its output.
    pub gpu_layers: u32,
    pub gpus: Vec<super::Gpu>,
}

/// What a call to the worker needs.
#[derive(Clone, Debug)]
struct Calls {
    state: watch::Receiver<State>,
    demand: Arc<Demand>,
    /// A model that is loaded when it is wanted is waited for.
    waits: bool,
    alias: Arc<str>,
}

/// Owns the worker; dropping it ends the worker.
#[derive(Debug)]
pub struct Supervisor {
    calls: Calls,
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
        let phase = if supervision.on_demand { WorkerPhase::Unloaded } else { WorkerPhase::Loading };
        let first = State {
            phase,
            restarts: 0,
            exits: BTreeMap::new(),
            last_exit: None,
            pid: None,
            health: None,
            past_tokens: [0; 2],
            socket: None,
        };
        let (report, state) = watch::channel(first);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let demand = Demand::new();
        let calls = Calls {
            state,
            demand: Arc::clone(&demand),
            waits: supervision.on_demand || supervision.idle_unload.is_some(),
            alias: supervision.alias.as_deref().unwrap_or("local").into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("worker-supervisor".into()).spawn(move || {
            let keep = Keeper { program, settings, supervision, folder, report, demand };
            runtime.block_on(async {
                tokio::select! {
                    () = keep.run() => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { calls, _stop: stop })
    }

    /// The state now; cheap.
    #[must_use]
    pub fn state(&self) -> State {
        self.calls.state.borrow().clone()
    }

    /// To be told of every change, for instance to wait for `Ready`.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.calls.state.clone()
    }

    /// Waits until the worker is ready; false if it is not within `limit`.
    pub async fn ready(&self, limit: Duration) -> bool {
        let mut state = self.watch();
        let wait = state.wait_for(|state| state.phase == WorkerPhase::Ready);
        tokio::time::timeout(limit, wait).await.is_ok_and(|waited| waited.is_ok())
    }

    /// The model behind the seam. While no worker is ready its calls are `Unavailable` at once, but for one that is loaded
    /// when it is wanted: then they wait, within their deadlines.
    #[must_use]
    pub fn backend(&self) -> Backend {
        let calls = self.calls.clone();
        Backend::of(move |ask: Ask| {
            let calls = calls.clone();
            async move {
                let (there, socket) = calls.enter().await?;
                let answered = client::ask(&socket, &calls.alias, ask, there).await;
                answered.map_err(|error| calls.explain(error))
            }
        })
    }

    /// The same for embeddings.
    #[must_use]
    pub fn forwarder(&self) -> Forwarder {
        let calls = self.calls.clone();
        Forwarder::of(move |forward: Forward| {
            let calls = calls.clone();
            async move {
                let (there, socket) = calls.enter().await?;
                let answered = client::forward(&socket, &calls.alias, forward, there).await;
                answered.map_err(|error| calls.explain(error))
            }
        })
    }
}

impl Calls {
    async fn enter(&self) -> Result<(Use, Arc<PathBuf>), BackendError> {
        // First: from here on the keeper sees that somebody is there and does not unload.
        let there = self.demand.enter();
        if self.waits {
            let mut state = self.state.clone();
            // Its sender lives as long as the supervisor; without it there is no socket either.
            let _ = state.wait_for(|state| matches!(state.phase, WorkerPhase::Ready | WorkerPhase::Down)).await;
        }
        Ok((there, socket(&self.state)?))
    }

    /// A worker that died while it was asked says so by a broken connection; the state may know better.
    fn explain(&self, error: BackendError) -> BackendError {
        match (&error, socket(&self.state)) {
            (BackendError::Broken { .. }, Err(down)) => down,
            _ => error,
        }
    }
}

fn socket(state: &watch::Receiver<State>) -> Result<Arc<PathBuf>, BackendError> {
    let state = state.borrow();
    match (&state.phase, &state.socket) {
        (WorkerPhase::Ready, Some(socket)) => Ok(Arc::clone(socket)),
        (WorkerPhase::Loading | WorkerPhase::Unloaded, _) => {
            Err(BackendError::Unavailable { why: "the local model is being loaded".into() })
        }
        _ => {
            let why = state.last_exit.as_ref().map_or("it has not started yet", |exit| exit.words.as_str());
            Err(BackendError::Unavailable { why: format!("the local model's worker is down: {why}") })
        }
    }
}

/// The supervising thread's own things.
struct Keeper {
    program: PathBuf,
    settings: Settings,
    supervision: Supervision,
    folder: Folder,
    report: watch::Sender<State>,
    demand: Arc<Demand>,
}

/// `Exit::reason` of a worker that was unloaded.
const IDLE: &str = "idle";
/// How long a worker must have been ready for its end not to count as a crash loop.
const STEADY: Duration = Duration::from_secs(60);

impl Keeper {
    async fn run(self) {
        let mut pause = self.supervision.backoff;
        let mut asleep = self.supervision.on_demand;
        for generation in 0_u64.. {
            if asleep {
                self.demand.wanted().await;
            }
            self.report.send_modify(|state| state.phase = WorkerPhase::Loading);
            let (exit, steady) = self.live(generation).await;
            asleep = exit.reason == IDLE;
            if asleep {
                tracing::info!("{}", exit.words);
                self.ended(exit, WorkerPhase::Unloaded);
                continue;
            }
            if steady >= STEADY {
                pause = self.supervision.backoff;
            }
            tracing::error!(reason = exit.reason, restart_in_ms = pause.as_millis(), "local model worker ended: {}", exit.words);
            self.ended(exit, WorkerPhase::Down);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.supervision.backoff_max);
            self.report.send_modify(|state| state.restarts += 1);
        }
    }

    fn ended(&self, exit: Exit, phase: WorkerPhase) {
        self.report.send_modify(|state| {
            *state.exits.entry(exit.reason).or_default() += 1;
            state.phase = phase;
            state.last_exit = Some(exit);
            state.pid = None;
            let stats = state.health.take().unwrap_or_default().stats;
            state.past_tokens[0] += stats.prompt_tokens_total;
            state.past_tokens[1] += stats.generated_tokens_total;
            state.socket = None;
        });
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
                    self.demand.touch();
                    tracing::info!(model = %health.model, context_tokens = health.context_tokens, slots = health.slots, "local model ready");
                }
                if Duration::from_millis(health.stats.step_age_ms) > heartbeat.max(LONGEST_STEP) {
                    return Exit { reason: "hung", words: format!("a decode step ran for {} ms", health.stats.step_age_ms) };
                }
                if let Some(exit) = self.unload() {
                    return exit;
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
            tokio::time::sleep(self.supervision.idle_unload.map_or(pause, |idle| pause.min(idle))).await;
        }
    }

    /// Whether nobody has wanted the model for long. Who comes later finds it unloaded, and waits until it is loaded again:
    /// the phase changes under the lock that callers read it with, after they have entered.
    fn unload(&self) -> Option<Exit> {
        let idle = self.supervision.idle_unload?;
        let unloaded = self.report.send_if_modified(|state| {
            let unloads = self.demand.idle() >= idle;
            if unloads {
                state.phase = WorkerPhase::Unloaded;
                state.socket = None;
            }
            unloads
        });
        unloaded.then(|| Exit { reason: IDLE, words: format!("local model unloaded after {} ms without a request", idle.as_millis()) })
    }
}

/// A large model on a slow machine may take this long for one step and be well.
const LONGEST_STEP: Duration = Duration::from_secs(60);
