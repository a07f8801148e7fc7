//! An answer that is being read and judged, and may still be thrown away.

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use futures_util::StreamExt;
use spectra_backends::chunk::Usage;
use spectra_backends::{Alarm, BackendError, Chunk, ChunkStream, Phase, Reply};
use tokio::time::Instant;

use crate::cascade::{Cascade, Look};
use crate::plan::{Held, Plan};
use crate::verify::{Checks, Doubt, Flaw, Judged, Verdict, Verifier};

/// What was read of one reply, and how far.
#[derive(Debug)]
pub(crate) struct Draft {
    pub chunks: Vec<Chunk>,
    pub usage: Option<Usage>,
    pub first_chunk: Option<Duration>,
    /// Time spent in the verifier.
    pub verify_time: Duration,
    checks: Arc<Checks>,
    verifier: Verifier,
    bytes: usize,
    doubtful: bool,
    /// How the first tokens are looked at.
    pub watched: Option<Watched>,
    /// The first tokens are not judged yet, and that they are.
    unsure: bool,
    looked: bool,
}

/// A first answer that is looked at as it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub cascade: Cascade,
    /// The log probabilities were asked for by us and are none of the caller's.
    pub strips: bool,
}

/// Where reading stopped.
pub(crate) enum Reading {
    /// The answer is over and judged.
    Judged(Judged),
    /// Enough is held: commit, and let the rest flow.
    Flowing(ChunkStream),
    /// Nothing that follows can help.
    Hopeless(Flaw),
    Broken(BackendError),
}

impl Draft {
    pub fn new(checks: Arc<Checks>) -> Self {
        Self {
            chunks: Vec::new(),
            usage: None,
            first_chunk: None,
            verify_time: Duration::ZERO,
            verifier: Verifier::new(checks.clone()),
            checks,
            bytes: 0,
            doubtful: false,
            watched: None,
            unsure: false,
            looked: false,
        }
    }

    /// Reads until the answer is over, hopeless, or enough of it is held.
    pub async fn read(&mut self, reply: Reply, plan: &Plan, hold: Held, began: Instant, alarm: &mut Alarm) -> Reading {
        let mut chunks = reply.chunks;
        let mut spoken = 0;
        loop {
            let chunk = match alarm.before(chunks.next()).await {
                None => return Reading::Broken(BackendError::Timeout { phase: Phase::Total, after: began.elapsed() }),
                Some(None) => return Reading::Judged(self.judge()),
                Some(Some(Err(error))) => return Reading::Broken(error),
                Some(Some(Ok(chunk))) => chunk,
            };
            self.first_chunk.get_or_insert_with(|| began.elapsed());
            let says = chunk.view.choices.iter().any(|choice| {
                choice.content.as_deref().is_some_and(|text| !text.is_empty()) || !choice.tool_calls.is_empty() || choice.refusal.is_some()
            });
            let ends = chunk.view.choices.iter().any(|choice| choice.finish.is_some());
            if let Some(flaw) = self.take(chunk) {
                return Reading::Hopeless(flaw);
            }
            spoken += u32::from(says);
            if let Some(flaw) = self.watch(ends) {
                return Reading::Hopeless(flaw);
            }
            let over_cap = self.bytes > plan.hold_bytes;
            match hold {
                // An answer that is as good as over is judged whole: that costs nothing.
                Held::First(_) if ends => {}
                Held::First(count) if (spoken >= count && !self.doubtful && !self.unsure) || over_cap => {
                    return Reading::Flowing(if self.strips() {
                        Box::pin(chunks.map(|chunk| chunk.and_then(|chunk| bare(&chunk))))
                    } else {
                        chunks
                    });
                }
                Held::Whole if over_cap => {
                    return Reading::Broken(BackendError::Broken { what: format!("answer is over {} bytes", plan.hold_bytes) });
                }
                _ => {}
            }
        }
    }

    /// Looks at the first tokens' log probabilities once there are enough of them, or will be no more.
    fn watch(&mut self, ended: bool) -> Option<Flaw> {
        let cascade = self.watched.filter(|_| !self.looked)?.cascade;
        let sureness = self.verifier.sureness();
        let look = cascade.look(sureness, ended);
        self.unsure = look == Look::Wait;
        self.looked = look != Look::Wait && sureness.is_some();
        match (look, sureness) {
            (Look::Escalate, Some((_, mean_logprob, mean_margin))) => Some(Flaw::Unsure { mean_logprob, mean_margin }),
            _ => None,
        }
    }

    fn strips(&self) -> bool {
        self.watched.is_some_and(|watched| watched.strips)
    }

    fn take(&mut self, chunk: Chunk) -> Option<Flaw> {
        let clock = Clock::now();
        let doubt = self.verifier.push(&chunk);
        self.verify_time += clock.elapsed();
        self.bytes += chunk.data.len();
        self.usage = chunk.view.usage.or(self.usage);
        self.chunks.push(if self.strips() { bare(&chunk).unwrap_or(chunk) } else { chunk });
        match doubt {
            Doubt::None => self.doubtful = false,
            Doubt::Mendable => self.doubtful = true,
            Doubt::Hopeless(flaw) => return Some(flaw),
        }
        None
    }

    /// Ends the reading, by the answer's own end or a fault's.
    pub fn judge(&mut self) -> Judged {
        let clock = Clock::now();
        let spent = Verifier::new(self.checks.clone());
        let judged = std::mem::replace(&mut self.verifier, spent).finish();
        self.verify_time += clock.elapsed();
        judged
    }

    pub fn into_verifier(self) -> Verifier {
        self.verifier
    }
}

/// The chunk without log probabilities.
fn bare(chunk: &Chunk) -> Result<Chunk, BackendError> {
    let broken = |error: serde_json::Error| BackendError::Broken { what: format!("malformed chunk: {error}") };
    let mut value: serde_json::Value = serde_json::from_slice(&chunk.data).map_err(broken)?;
    for choice in value.get_mut("choices").and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
        if let Some(logprobs) = choice.get_mut("logprobs") {
            *logprobs = serde_json::Value::Null;
        }
    }
    Chunk::parse(value.to_string().into())
}

/// Judges an answer that was put together, not read.
pub(crate) fn rejudged(checks: &Arc<Checks>, chunks: &[Chunk]) -> Judged {
    let mut verifier = Verifier::new(checks.clone());
    for chunk in chunks {
        if let Doubt::Hopeless(flaw) = verifier.push(chunk) {
            return Judged { verdict: Verdict::Flawed(flaw), ..verifier.finish() };
        }
    }
    verifier.finish()
}
