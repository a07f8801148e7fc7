//! How to talk to one model. Read `Backend` and `Fleet` first; `chat` and `chunk` are the wire's two halves.

mod abreast;
mod alarm;
pub mod breaker;
mod build;
pub mod chat;
pub mod chunk;
mod error;
mod fleet;
pub mod forward;
pub mod guard;
pub mod http1;
mod latency;
pub mod llama;
pub mod openai;
pub mod script;
mod shared;
mod splice;
pub mod sse;
pub mod trace;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use http::HeaderMap;
use tokio::time::Instant;

pub use abreast::abreast;
pub use alarm::Alarm;
pub use build::{BuildError, Local, fleet, renewed};
pub use chat::ChatRequest;
pub use chunk::Chunk;
pub use error::{BackendError, Complaint, Phase};
pub use fleet::{Fleet, Part};
pub use forward::{Endpoint, Forward, Forwarded};
pub use guard::Load;
pub use shared::Shared;
pub use splice::{Edit, splice};

/// One model behind one seam; a closure over `Ask` is a backend (`Backend::of`), and so is a tower service (`Backend::new`).
pub type Backend = Shared<Ask, Reply>;

/// A stream of chunks. It ends after the chunk that finishes the answer; an end without a finish is an `Err`.
/// Dropping it frees the slot, stops local generation and closes the upstream exchange.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<Chunk, BackendError>> + Send>>;

/// One question to one model.
#[derive(Clone, Debug)]
pub struct Ask {
    pub request: ChatRequest,
    /// Nothing of this attempt outlives it.
    pub deadline: Instant,
    /// Sent upstream as `x-request-id`, so that both logs name the same request.
    pub request_id: Arc<str>,
    /// W3C `traceparent` of the attempt's span, if tracing is on.
    pub traceparent: Option<Arc<str>>,
    /// A whole answer that repeats itself without end may be cut short: nobody would take it. A stream is watched by its reader.
    pub stops_loops: bool,
}

/// The start of an answer. A unary answer is a stream of one whole chunk.
pub struct Reply {
    /// Upstream headers that may travel on to the client; already filtered.
    pub headers: HeaderMap,
    pub chunks: ChunkStream,
}

/// What a backend can do: the facts that exclude it from a request before any score.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Prompt plus answer, in tokens of this model; `None` if unknown.
    pub context_tokens: Option<u32>,
    pub tools: bool,
    pub vision: bool,
    pub logprobs: bool,
    /// Largest `n` it serves.
    pub n_max: u32,
    /// `response_format` of type `json_schema` is honoured. Where not, the schema is told in words; the answer is verified either way.
    pub json_schema: bool,
    /// True for a model on this machine: it costs no money per token and its data stays here.
    pub local: bool,
    /// USD per million prompt tokens and per million answer tokens.
    pub price: Price,
    /// How a cut answer is best continued here.
    pub continues_by: Continuation,
}

impl Facts {
    /// Able to do everything, nothing else known: what is assumed until somebody says more.
    #[must_use]
    pub const fn open() -> Self {
        Self {
            context_tokens: None,
            tools: true,
            vision: true,
            logprobs: true,
            n_max: 128,
            json_schema: true,
            local: false,
            price: Price { input: 0.0, output: 0.0 },
            continues_by: Continuation::Instruction,
        }
    }
}

/// USD per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    pub input: f64,
    pub output: f64,
}

impl Price {
    /// Cost of one exchange in USD.
    #[must_use]
    pub fn cost_usd(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        // Token counts stay far below 2^52, so the conversion is exact.
        #[expect(clippy::cast_precision_loss, reason = "token counts stay far below 2^52")]
        let (prompt, completion) = (prompt_tokens as f64, completion_tokens as f64);
        (prompt * self.input + completion * self.output) / 1e6
    }
}

/// How a backend goes on from text that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// A last message of role assistant is taken as the beginning of the answer.
    Prefill,
    /// The same, where the request says so in vLLM's words (`continue_final_message`).
    Flagged,
    /// An instruction in a last user message asks to go on.
    Instruction,
}

/// A backend and what is known of it.
#[derive(Clone)]
pub struct Member {
    pub backend: Backend,
    pub facts: Arc<Facts>,
}

// === impl Debug ===

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("headers", &self.headers).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("facts", &self.facts).finish_non_exhaustive()
    }
}
