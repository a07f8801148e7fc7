//! One request, one record: facts gathered as plain data, written down once, at the last byte or when the client leaves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use spectra_backends::chunk::Usage;

/// The account of one client request. Metrics, the log line and the ledger row are three views of it.
///
/// Every text is a name out of the config or of an enum, so that it may be a metric label; `request_id` and `kept` are
/// the exceptions.
#[derive(Clone, Debug)]
pub struct RecordData {
    pub request_id: Arc<str>,
    /// Wall-clock time of the request's last header byte.
    pub arrived: SystemTime,
    /// Name of the caller's key in the config; `None` where no keys are configured, or the key was not known.
    pub key: Option<Arc<str>>,
    pub entrance: Entrance,
    /// The model as asked for: `auto`, a route, a backend or an alias of the config; `other` for any other text.
    pub asked_model: Arc<str>,
    pub streamed: bool,
    pub outcome: Outcome,
    /// HTTP status sent to the client; 499 where it left before one was sent.
    pub status: u16,
    /// The `code` of the error sent, in the body or as an event of a stream.
    pub error_code: Option<&'static str>,
    pub route: Option<Arc<str>>,
    /// Name of the backend whose answer was delivered.
    pub model: Option<Arc<str>>,
    /// Difficulty, 0 to 1; `None` where no score was needed (a named route or backend).
    pub score: Option<f32>,
    /// Why this route: the stable name of the strongest reason.
    pub reason: Arc<str>,
    pub decision: Decision,
    pub verified: Verified,
    /// In the order they were begun.
    pub attempts: Vec<AttemptData>,
    /// Of the answer that was delivered: what the client is told. `None` where the model did not say.
    pub usage: Option<Usage>,
    /// USD of all attempts together.
    pub cost_usd: f64,
    /// USD the same answer would have cost with `accounting.compare_with`.
    pub compared_usd: f64,
    pub timings: Timings,
    /// Prompt and answer, only with `accounting.keep_text`.
    pub kept: Option<Box<KeptText>>,
}

/// The door the request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entrance {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
}

/// How a request ended for its client: exactly one of these per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The whole answer was handed to the client's connection.
    Delivered,
    /// Refused before any model was asked: bad request, no key, over a limit, unknown model.
    Rejected,
    /// No model gave an answer; the client got an error.
    Failed,
    /// An answer had begun to flow and was broken off with an error event.
    Broken,
    /// The client left before the end.
    Cancelled,
}

/// What verification says of the delivered answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verified {
    Ok,
    Repaired,
    /// Delivered although flawed, since nothing better could be had.
    Failed,
    /// Not looked at: switched off, or nothing was delivered.
    #[default]
    Skipped,
}

/// What the router knew when it chose: for the feed, the ledger and the calibration.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Calibrated chance, 0 to 1, that the first rung of the chosen route gives a usable answer at the first try.
    pub predicted: Option<f32>,
    /// What moved the score, the strongest first: the feature's name and what it added to the difficulty.
    pub reasons: Vec<(Arc<str>, f32)>,
}

/// One question to one backend.
#[derive(Clone, Debug)]
pub struct AttemptData {
    pub model: Arc<str>,
    /// Place in the route's ladder, from 0.
    pub rung: u32,
    /// `pass`, `mended`, a flaw's name, a backend error's kind, or `cancelled`.
    pub verdict: &'static str,
    /// Name of the flaw where the verdict is one.
    pub flaw: Option<&'static str>,
    /// Why this attempt followed the one before: `first`, `reask`, `continue`, `escalate`, `hedge`, …
    pub why: &'static str,
    /// Repair stages that changed the answer, by name.
    pub repairs: Vec<&'static str>,
    pub usage: Option<Usage>,
    pub cost_usd: f64,
    /// From asking to the first chunk.
    pub first_chunk: Option<Duration>,
    pub total: Duration,
}

/// Where the time of a request went; each from the request's arrival, unless it says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Reading the body's JSON; excludes waiting for the client to send it.
    pub parse: Duration,
    /// Constraints, score and plan together.
    pub plan: Duration,
    /// Judging and mending, summed over the attempts.
    pub verify: Duration,
    /// Until the first content byte of the answer was handed to the client's connection.
    pub first_byte: Option<Duration>,
    pub total: Duration,
}

/// Text an operator chose to keep.
#[derive(Clone, Debug, Default)]
pub struct KeptText {
    pub prompt: String,
    pub answer: String,
}

impl Entrance {
    /// OpenTelemetry's `gen_ai.operation.name`.
    #[must_use]
    pub fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Messages => "messages",
        }
    }
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Delivered, Self::Rejected, Self::Failed, Self::Broken, Self::Cancelled];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Verified {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Repaired => "repaired",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}
