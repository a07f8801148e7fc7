//! One request, one record: facts gathered as plain data, written down once, at the last byte or when the client leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::books::Books;
use crate::clients::{Caller, Charge};
use crate::kept::KeptText;
use crate::telemetry::TraceContext;
use spectra_backends::chunk::Usage;
use spectra_backends::{Chunk, chat};
use spectra_router::verify::{Flaw, Verdict};
use spectra_router::{Account, Attempt, Trail, Verified};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

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
    /// What that route is to the router's policy: `local`, `strong`, or neither.
    pub side: Option<&'static str>,
    /// Name of the backend whose answer was delivered.
    pub model: Option<Arc<str>>,
    /// Difficulty, 0 to 1; `None` where no score was needed (a named route or backend).
    pub score: Option<f32>,
    /// Why this route: the stable name of the strongest reason.
    pub reason: &'static str,
    pub decision: Decision,
    pub verified: Verified,
    /// In the order they were begun.
    pub attempts: Vec<AttemptData>,
    /// The operator's own checks that were made: name, and `usable`, `unusable` or `failed`.
    pub checks: Vec<(Arc<str>, &'static str)>,
    /// Of the answer that was delivered: what the client is told. `None` where the model did not say.
    pub usage: Option<Usage>,
    /// USD of all attempts together.
    pub cost_usd: f64,
    /// USD the same answer would have cost with `accounting.compare_with`.
    pub compared_usd: f64,
    pub timings: Timings,
    /// Where traces are sent.
    pub trace: Option<TraceContext>,
    /// Prompt and answer, only with `accounting.keep_text`.
    pub kept: Option<Box<KeptText>>,
}

/// The record of a request that is still running. `end` writes it; dropping it without one says that the client left.
#[derive(Debug)]
pub struct Record {
    pub data: RecordData,
    pub trail: Trail,
    /// The request's place among those in flight.
    pub place: Option<OwnedSemaphorePermit>,
    /// Whose limits the response tells.
    pub(crate) caller: Option<Arc<Caller>>,
    /// Taken out of the caller's limits in advance.
    pub(crate) charge: Option<Charge>,
    /// Set when the answer was delivered whole, for those who wait beside its client.
    pub(crate) delivered: Option<Arc<AtomicBool>>,
    began: Instant,
    books: Arc<Books>,
    ended: bool,
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

/// What the router knew when it chose: for the feed, the ledger and the calibration.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// Calibrated chance, 0 to 1, that the first rung of the chosen route gives a usable answer at the first try.
    pub predicted: Option<f32>,
    /// The same for either route, local and strong; and how much the strong one is needed, on the scale policies rank by.
    pub chances: Option<[f32; 2]>,
    pub need: Option<f32>,
    /// Chance with which the route was taken, given the score: below 1 where requests are sent the other way to learn.
    pub propensity: Option<f32>,
    /// What moved the score, the strongest first: the feature's name and what it added to the difficulty.
    pub reasons: Vec<(&'static str, f32)>,
}

/// One question to one backend.
#[derive(Clone, Debug)]
pub struct AttemptData {
    pub model: Arc<str>,
    /// OpenTelemetry's `gen_ai.provider.name`; only known where traces are sent.
    pub provider: &'static str,
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
    /// From the request's arrival to asking.
    pub started: Duration,
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

// === impl Record ===

impl Record {
    #[must_use]
    pub fn new(books: Arc<Books>, request_id: Arc<str>, entrance: Entrance) -> Self {
        let data = RecordData {
            request_id,
            arrived: SystemTime::now(),
            key: None,
            entrance,
            asked_model: Arc::default(),
            streamed: false,
            outcome: Outcome::Cancelled,
            status: CLIENT_LEFT,
            error_code: None,
            route: None,
            side: None,
            model: None,
            score: None,
            reason: "",
            decision: Decision::default(),
            verified: Verified::Skipped,
            attempts: Vec::new(),
            checks: Vec::new(),
            usage: None,
            cost_usd: 0.0,
            compared_usd: 0.0,
            timings: Timings::default(),
            trace: None,
            kept: None,
        };
        Self {
            data,
            trail: Trail::default(),
            place: None,
            caller: None,
            charge: None,
            delivered: None,
            began: Instant::now(),
            books,
            ended: false,
        }
    }

    /// The first byte of the answer goes to the client's connection.
    pub fn first_byte(&mut self) {
        self.data.timings.first_byte.get_or_insert_with(|| self.began.elapsed());
    }

    /// Goes on with the caller's trace, or begins one, where traces are sent; upstreams are then told the request's span.
    pub fn trace(&mut self, traceparent: &mut Option<Arc<str>>) {
        if self.books.views.traces.is_some() {
            let context = TraceContext::begin(traceparent.as_deref());
            *traceparent = Some(context.traceparent());
            self.data.trace = Some(context);
        }
    }

    /// Keeps the request's text, where the operator allows it.
    pub fn keep_prompt(&mut self, request: &chat::View) {
        if self.books.keep_text {
            self.data.kept = Some(Box::new(KeptText::of(request)));
        }
    }

    /// Keeps what goes to the client, where the prompt is kept.
    pub fn keep_answer(&mut self, chunk: &Chunk) {
        if let Some(kept) = &mut self.data.kept {
            kept.add(&chunk.view);
        }
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Writes the record down; later calls change nothing.
    pub fn end(&mut self, outcome: Outcome, status: u16, error_code: Option<&'static str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(delivered) = &self.delivered {
            delivered.store(outcome == Outcome::Delivered, Ordering::Relaxed);
        }
        (self.data.outcome, self.data.status, self.data.error_code) = (outcome, status, error_code);
        self.data.timings.total = self.began.elapsed();
        if let Some(charge) = self.charge.take() {
            // Nothing delivered, nothing used; a delivered answer that nobody counted stays at its estimate.
            let told = |account: &Account| {
                let nothing = account.attempts.is_empty().then_some(0);
                (account.usage.map(|usage| usage.prompt_tokens + usage.completion_tokens).or(nothing), account.cost_usd())
            };
            let (tokens, usd) = self.trail.read(told);
            charge.settle(tokens, usd);
        }
        self.books.take(self.data.written(), &self.trail, self.began);
    }
}

/// The target of a request's one log line.
pub const REQUEST_LINE: &str = "spectra_gateway::record";
/// The field that makes the time of the line: when the request ended, in microseconds since 1970.
pub(crate) const ENDED_US: &str = "ended_us";
/// The verdict of an attempt that nobody waited for.
const UNJUDGED: &str = "cancelled";
/// What nginx logs for a client that closed the connection first.
const CLIENT_LEFT: u16 = 499;

impl Drop for Record {
    fn drop(&mut self) {
        let (status, began) = (self.data.status, self.data.timings.first_byte.is_some());
        self.end(Outcome::Cancelled, if began { status } else { CLIENT_LEFT }, None);
    }
}

impl RecordData {
    /// Takes over what the router wrote down of a request that began then.
    pub(crate) fn take(&mut self, account: &Account, began: Instant) {
        self.route.clone_from(&account.route);
        self.score = account.score.as_ref().map(|score| score.difficulty);
        self.reason = reason(account);
        self.decision = decision(account);
        self.verified = account.verified;
        let attempt = |attempt: &Attempt| AttemptData { started: attempt.began.saturating_duration_since(began), ..attempt.into() };
        self.attempts = account.attempts.iter().map(attempt).collect();
        self.checks = account.checked.iter().map(|checked| (checked.name.clone(), checked.said.as_str())).collect();
        self.model = account.delivered.and_then(|index| Some(account.attempts.get(index)?.backend.clone())).or(self.model.take());
        self.usage = account.usage;
        // An empty sum of floats is -0.0, which reads oddly.
        self.cost_usd = account.cost_usd() + 0.0;
        self.timings.plan = account.plan_time;
        self.timings.verify = account.verify_time;
    }

    /// What the record holds when it ends; what the response may still ask for stays.
    fn written(&mut self) -> Self {
        let (trace, kept) = (self.trace.take(), self.kept.take());
        Self { trace, kept, ..self.clone() }
    }

    /// The one log line of a request: names and numbers, no text of the caller's. It is written somewhat later than the
    /// request ended; `request_line` takes the time of the line from it.
    pub(crate) fn log(&self) {
        tracing::info!(
            target: REQUEST_LINE,
            ended_us = since_1970(self.arrived + self.timings.total),
            request_id = &*self.request_id,
            key = self.key.as_deref(),
            entrance = self.entrance.as_str(),
            asked = &*self.asked_model,
            route = self.route.as_deref(),
            model = self.model.as_deref(),
            score = self.score.map(|score| (f64::from(score) * 1e3).round() / 1e3),
            reason = self.reason,
            attempts = self.attempts.len(),
            verified = self.verified.as_str(),
            outcome = self.outcome.as_str(),
            status = self.status,
            code = self.error_code,
            ms = (self.timings.total.as_secs_f64() * 1e6).round() / 1e3,
            usd = self.cost_usd,
            "request"
        );
    }
}

/// Microseconds.
fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The strongest reason's name: a feature for a request whose score decided, otherwise why the route was taken.
#[must_use]
pub fn reason(account: &Account) -> &'static str {
    if account.why == spectra_router::AFFINITY {
        return account.why;
    }
    account.score.as_ref().and_then(|score| score.reasons.first()).map_or(account.why, |reason| reason.feature)
}

fn decision(account: &Account) -> Decision {
    let Some(score) = &account.score else { return Decision::default() };
    let first_is_local = account.attempts.first().is_some_and(|attempt| attempt.local);
    Decision {
        chances: Some([score.p_local, score.p_hosted]),
        need: Some(score.need),
        propensity: Some(account.propensity),
        predicted: Some(if first_is_local { score.p_local } else { score.p_hosted }),
        reasons: score.reasons.iter().map(|reason| (reason.feature, reason.weight)).collect(),
    }
}

impl AttemptData {
    /// One attempt in a few words, for the debug header: sent while the last one may still flow.
    #[must_use]
    pub fn summary(&self) -> String {
        let verdict = if self.verdict == UNJUDGED { "flowing" } else { self.verdict };
        format!("{}:{}:{}:{}ms", self.model, self.why, verdict, self.total.as_millis())
    }
}

impl From<&Attempt> for AttemptData {
    fn from(attempt: &Attempt) -> Self {
        let (verdict, flaw, repairs) = match &attempt.verdict {
            None => (UNJUDGED, None, Vec::new()),
            Some(Verdict::Pass) => ("pass", None, Vec::new()),
            Some(Verdict::Mended(stages)) => ("mended", None, stages.iter().map(|stage| stage.as_str()).collect()),
            Some(Verdict::Flawed(Flaw::Backend(error))) => (error.kind(), None, Vec::new()),
            Some(Verdict::Flawed(flaw)) => (flaw.kind(), Some(flaw.kind()), Vec::new()),
        };
        Self {
            model: attempt.backend.clone(),
            provider: "",
            rung: u32::try_from(attempt.rung).unwrap_or(u32::MAX),
            verdict,
            flaw,
            why: attempt.why.as_str(),
            repairs,
            usage: attempt.usage,
            cost_usd: attempt.cost_usd,
            started: Duration::ZERO,
            first_chunk: attempt.first_chunk,
            total: attempt.total,
        }
    }
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
