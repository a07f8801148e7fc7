//! The engine's handle: takes jobs, gives events. One thread behind it owns llama.cpp's context.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use tokio::sync::{mpsc, oneshot, watch};

use super::constraint::Constraint;
use super::context::{Context, MOST_SEQUENCES, Shape};
use super::embedder::{Embedder, Passage};
use super::file::LoadError;
use super::memory::Plan;
use super::model::{Model, Token};
use super::sampler::{Sampling, TokenChoice};
use super::scheduler::Scheduler;
use super::stats::{Stats, add};
use super::{Settings, Snapshot};

/// Idle sequences kept for reuse beside the running ones.
const IDLE_SEQUENCES: u32 = 16;
/// Texts embedded in one step.
const EMBEDDED_AT_ONCE: u32 = 64;

/// A loaded model that answers jobs until it is dropped.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    stats: Arc<Stats>,
    inbox: Inbox,
    limits: Limits,
    alive: watch::Receiver<()>,
}

/// What the thread behind the handle does.
#[derive(Debug)]
enum Inbox {
    Chat(SyncSender<Job>),
    Embed(SyncSender<Passage>),
}

/// The bounds in force, after automatic values were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Prompt plus answer of one job, in tokens.
    pub context_tokens: u32,
    /// Jobs decoded at once.
    pub slots: u32,
    /// Jobs that may wait beside them.
    pub queue: u32,
    pub threads: u32,
}

/// One answer to be generated.
#[derive(Debug)]
pub struct Job {
    pub prompt: Vec<Token>,
    /// Unset: as far as the context reaches.
    pub max_tokens: Option<u32>,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    pub sampling: Sampling,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// Put the names of control tokens into the text, as far as they do not end the answer: tool calls begin with them.
    pub tells_controls: bool,
    /// Bounded. While it is full the job pauses; dropping its receiver ends the job.
    pub events: mpsc::Sender<Event>,
}

/// What becomes of a job. `Started` first, `Ended` or `Failed` last, exactly one of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The job has a slot.
    Started {
        prompt_tokens: u32,
        /// Part of the prompt that was still in the cache.
        cached_tokens: u32,
    },
    /// Whole characters; with the tokens they came from if log probabilities were asked for.
    Text { text: String, tokens: Vec<TokenChoice> },
    Ended {
        how: Ended,
        /// Tokens sampled, the one that ended the answer included.
        completion_tokens: u32,
    },
    /// The engine could not go on.
    Failed { why: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
}

/// Why a job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "This model's maximum context length is {context} tokens. However, your request has {prompt} tokens in the messages\
         {}. Please reduce the length of the messages or completion.",
        answer.map_or_else(String::new, |answer| format!(" and asks for {answer} in the completion"))
    )]
    TooLong { context: u32, prompt: u64, answer: Option<u32> },
    #[error("the prompt has no tokens")]
    Empty,
    #[error("{waiting} requests are waiting already")]
    QueueFull { waiting: u32 },
    #[error("the engine failed: {0}")]
    Failed(String),
    #[error("this engine {0}")]
    NotServed(&'static str),
    #[error("the engine has ended")]
    Gone,
}

impl Engine {
    /// Loads the model and makes its context; blocks for as long as that takes.
    ///
    /// # Errors
    /// For an unusable file, or a context that does not fit into memory.
    pub fn start(settings: &Settings) -> Result<Self, LoadError> {
        let model = Arc::new(Model::load(settings)?);
        let (limits, shape) = shape(settings, &model);
        let stats = Arc::new(Stats::new());
        let depth = (limits.queue + limits.slots) as usize + 1;
        let (jobs, to_answer) = sync_channel(depth);
        let (texts, to_embed) = sync_channel(depth);
        let inbox = if settings.embeddings { Inbox::Embed(texts) } else { Inbox::Chat(jobs) };
        let (up, went_up) = std::sync::mpsc::channel();
        let (breath, alive) = watch::channel(());
        let kv_type = settings.kv_type;
        let (model_there, stats_there, settings) = (Arc::clone(&model), Arc::clone(&stats), settings.clone());
        let decode = move || {
            let _breath = breath;
            let context = match Context::new(&model_there, &settings, shape) {
                Ok(context) => context,
                Err(error) => return drop(up.send(Err(error))),
            };
            // The receiver waits for exactly this message.
            let _ = up.send(Ok(()));
            if settings.embeddings {
                Embedder::new(context, &stats_there).run(&to_embed);
            } else {
                Scheduler::new(&model_there, context, limits, &stats_there).run(&to_answer);
            }
        };
        std::thread::Builder::new()
            .name("decode".into())
            .spawn(decode)
            .map_err(|error| LoadError::Engine(format!("no thread for decoding: {error}")))?;
        went_up.recv().map_err(|_| LoadError::Engine("the decode thread ended while it started".into()))??;
        tracing::info!(
            model = model.name(),
            context_tokens = limits.context_tokens,
            slots = limits.slots,
            threads = limits.threads,
            batch_tokens = shape.batch,
            gpu_layers = model.plan().gpu_layers,
            layers = model.header().layers + 1,
            weights_mib = model.bytes() >> 20,
            cache_mib = model.header().kv_bytes_per_token(kv_type).saturating_mul(u64::from(shape.cells)) >> 20,
            "engine ready"
        );
        Ok(Self { model, stats, inbox, limits, alive })
    }

    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// Hands a job over. Events follow on its channel.
    ///
    /// # Errors
    /// For a job that can never fit, or does not fit now.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        let Inbox::Chat(jobs) = &self.inbox else { return Err(Refused::NotServed("serves embeddings, not answers")) };
        let context = self.limits.context_tokens;
        if job.prompt.is_empty() {
            return Err(Refused::Empty);
        }
        let wanted = job.prompt.len() as u64 + u64::from(job.max_tokens.unwrap_or(1));
        if wanted > u64::from(context) {
            return Err(Refused::TooLong { context, prompt: job.prompt.len() as u64, answer: job.max_tokens });
        }
        self.enter(jobs, job)
    }

    /// One vector for each text, of length 1. Dropping the future gives up.
    ///
    /// # Errors
    /// For texts that can never fit, or do not fit now, and if the engine fails.
    pub async fn embed(&self, texts: Vec<Vec<Token>>) -> Result<Vec<Vec<f32>>, Refused> {
        let Inbox::Embed(inbox) = &self.inbox else { return Err(Refused::NotServed("answers chats; it was not started for embeddings")) };
        let context = self.limits.context_tokens;
        if let Some(text) = texts.iter().find(|text| text.is_empty() || text.len() > context as usize) {
            let long = Refused::TooLong { context, prompt: text.len() as u64, answer: None };
            return Err(if text.is_empty() { Refused::Empty } else { long });
        }
        let (answer, vectors) = oneshot::channel();
        self.enter(inbox, Passage { texts, answer })?;
        vectors.await.map_err(|_| Refused::Gone)?.map_err(Refused::Failed)
    }

    fn enter<T>(&self, inbox: &SyncSender<T>, work: T) -> Result<(), Refused> {
        let most = self.limits.queue + self.limits.slots;
        let waiting = self.stats.waiting.fetch_add(1, Ordering::Relaxed);
        let taken = if waiting >= u64::from(most) {
            Err(Refused::QueueFull { waiting: most })
        } else {
            inbox.try_send(work).map_err(|error| match error {
                TrySendError::Full(_) => Refused::QueueFull { waiting: most },
                TrySendError::Disconnected(_) => Refused::Gone,
            })
        };
        match taken {
            Ok(()) => add(&self.stats.requests, 1),
            Err(_) => drop(self.stats.waiting.fetch_sub(1, Ordering::Relaxed)),
        }
        taken
    }

    /// Returns when the decode thread has ended, which it does by itself only after a failure.
    pub async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

/// The sizes of the context, from what the model was given.
fn shape(settings: &Settings, model: &Model) -> (Limits, Shape) {
    let Plan { context_tokens, slots, .. } = model.plan();
    if let Some(asked) = settings.context_tokens
        && asked > context_tokens
    {
        tracing::warn!(asked, using = context_tokens, "context_tokens is more than the model was trained for");
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let threads = settings.threads.unwrap_or(cores.saturating_sub(1)).clamp(1, 512);
    let idle = if model.cuts_anywhere() { IDLE_SEQUENCES } else { 0 };
    let limits = Limits { context_tokens, slots, queue: settings.queue, threads };
    let threads = i32::try_from(threads).unwrap_or(1);
    if settings.embeddings {
        // A text must be read in one step: its vector is made of all its tokens.
        return (
            limits,
            Shape { cells: context_tokens, sequences: EMBEDDED_AT_ONCE, batch: context_tokens, step: context_tokens, threads },
        );
    }
    let batch = settings.batch_tokens.clamp(32, 8192).max(slots);
    (limits, Shape { cells: context_tokens * slots, sequences: (slots + idle).min(MOST_SEQUENCES), batch, step: batch.min(512), threads })
}
