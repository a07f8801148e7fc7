//! Traces: a span per request with a child per attempt, sent to an OTLP/HTTP collector as JSON, named by OpenTelemetry's
//! GenAI conventions; W3C trace context in and out.
//!
//! Spans are made from the finished record, so the path of a request pays for two ids only. The OpenTelemetry crates are not
//! used: two span shapes in the protocol's JSON form are less than their build.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spectra_backends::chunk::Usage;
use spectra_backends::trace;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::json;
use crate::record::{AttemptData, Outcome, RecordData};

/// Requests waiting to be sent; more are dropped and counted.
const QUEUE: usize = 4096;
const BATCH: usize = 512;
/// How long a finished request waits for others to be sent with.
const GATHER: Duration = Duration::from_millis(50);
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// OTLP's numbers for a span's kind and status.
const SERVER: &str = "2";
const CLIENT: &str = "3";
const ERROR: &str = "2";
/// What one request's spans usually take.
const SPANS_BYTES: usize = 3 << 10;

/// The place of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: u128,
    /// The request's own span.
    pub span: u64,
    /// The caller's span.
    pub parent: Option<u64>,
}

/// Sends spans; cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Traces {
    queue: Sender<Arc<RecordData>>,
    dropped: Arc<AtomicU64>,
}

impl TraceContext {
    /// Goes on with a caller's `traceparent` (version 00, checked before), or begins a trace.
    #[must_use]
    pub fn begin(traceparent: Option<&str>) -> Self {
        let given = traceparent.and_then(|text| {
            let (trace, parent) = (text.get(3..35)?, text.get(36..52)?);
            Some((u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(parent, 16).ok()?))
        });
        let trace = given.map_or_else(|| u128::from(id()) << 64 | u128::from(id()), |(trace, _)| trace);
        Self { trace, span: id(), parent: given.map(|(_, parent)| parent) }
    }

    /// 32 hex digits.
    #[must_use]
    pub fn trace_digits(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (high, low) = ((self.trace >> 64) as u64, self.trace as u64);
        digits[..16].copy_from_slice(&trace::digits(high));
        digits[16..].copy_from_slice(&trace::digits(low));
        digits
    }

    /// What upstreams are told: their spans become children of the request's.
    #[must_use]
    pub fn traceparent(&self) -> Arc<str> {
        ["00-", trace::text(&self.trace_digits()), "-", trace::text(&trace::digits(self.span)), "-01"].concat().into()
    }
}

impl Traces {
    /// Starts the sender to the config's collector, a thread of its own: no request waits while a batch is written. `None`
    /// where the config names no collector. What an `earlier` one dropped stays counted.
    #[must_use]
    pub fn start(config: &spectra_config::Tracing, earlier: Option<&Self>) -> Option<Self> {
        let collector = config.otlp.as_ref().map(|collector| collector.get().trim()).filter(|collector| !collector.is_empty())?;
        if !cfg!(feature = "otel") {
            tracing::warn!("tracing.otlp is set, but this spectra was built without the feature otel: no traces are sent");
            return None;
        }
        let dropped = earlier.map(|earlier| earlier.dropped.clone()).unwrap_or_default();
        let (queue, records) = channel(QUEUE);
        let url = format!("{}/v1/traces", collector.trim_end_matches('/'));
        let sending = Sending { url, records, dropped: dropped.clone() };
        // It ends with the last sender.
        let thread = std::thread::Builder::new().name("traces".into()).spawn(move || sending.run());
        thread.inspect_err(|error| tracing::error!(%error, "no traces are sent")).ok()?;
        Some(Self { queue, dropped })
    }

    /// Takes a finished request for sending, or drops and counts it where the collector is too slow.
    pub fn keep(&self, record: Arc<RecordData>) {
        if self.queue.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests whose spans did not reach the collector.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The sender's end of the queue.
struct Sending {
    url: String,
    records: Receiver<Arc<RecordData>>,
    dropped: Arc<AtomicU64>,
}

impl Sending {
    fn run(self) {
        // The binary has done this; an embedding test may not have. A second time changes nothing.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().timeout(SEND_WITHIN).build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match (client, runtime) {
            (Ok(client), Ok(runtime)) => runtime.block_on(self.send(client)),
            (client, runtime) => tracing::error!(client = ?client.err(), runtime = ?runtime.err(), "no traces are sent"),
        }
    }

    /// Requests are gathered before they are sent: a busy gateway would otherwise wake the sender for each.
    async fn send(mut self, client: reqwest::Client) {
        let mut batch = Vec::new();
        while self.records.recv_many(&mut batch, BATCH).await > 0 {
            if batch.len() < BATCH {
                tokio::time::sleep(GATHER).await;
                while batch.len() < BATCH
                    && let Ok(record) = self.records.try_recv()
                {
                    batch.push(record);
                }
            }
            let body = export(&batch);
            let sent = client.post(&self.url).header("content-type", "application/json").body(body).send().await;
            if let Err(error) = sent.and_then(reqwest::Response::error_for_status) {
                self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                tracing::debug!(error = %error.without_url(), "the trace collector took no spans");
            }
            batch.clear();
        }
    }
}

// === the protocol's JSON form ===

/// An `ExportTraceServiceRequest`, written straight: half of a span is keys that never change, which a serializer reads
/// through for quotes each time.
fn export(records: &[Arc<RecordData>]) -> String {
    let mut out = String::with_capacity(records.len() * SPANS_BYTES);
    out += r#"{"resourceSpans":[{"resource":{"attributes":["#;
    let mut service = Attributes { out: &mut out, first: true };
    service.word("service.name", "spectra");
    service.word("service.version", env!("CARGO_PKG_VERSION"));
    out += r#"]},"scopeSpans":[{"scope":{"name":"spectra-gateway"},"spans":["#;
    let mut rest = false;
    for (record, context) in records.iter().filter_map(|record| Some((record, record.trace.as_ref()?))) {
        out += if std::mem::replace(&mut rest, true) { "," } else { "" };
        spans(record, context, &mut out);
    }
    out += "]}]}]}";
    out
}

/// The request's span and one per attempt.
fn spans(record: &RecordData, context: &TraceContext, out: &mut String) {
    let operation = record.entrance.operation();
    let began = nanos(record.arrived);
    let of = (operation, &*record.asked_model);
    begin(out, context, (context.span, context.parent), of, SERVER, [began, began + long(record.timings.total)]);
    request_attributes(record, Attributes { out: &mut *out, first: true });
    let failed = matches!(record.outcome, Outcome::Failed | Outcome::Broken);
    end(out, failed.then_some(record.error_code));
    for (number, attempt) in record.attempts.iter().enumerate() {
        out.push(',');
        let start = began + long(attempt.started);
        // The one that the upstream was told.
        let own = trace::span_of_attempt(context.span, number);
        begin(out, context, (own, Some(context.span)), (operation, &attempt.model), CLIENT, [start, start + long(attempt.total)]);
        attempt_attributes(operation, attempt, Attributes { out: &mut *out, first: true });
        end(out, is_error(attempt).then_some(Some(attempt.verdict)));
    }
}

/// A span as far as its attributes.
fn begin(out: &mut String, context: &TraceContext, ids: (u64, Option<u64>), of: (&str, &str), kind: &str, times: [u64; 2]) {
    out.extend([r#"{"traceId":""#, trace::text(&context.trace_digits())]);
    out.extend([r#"","spanId":""#, trace::text(&trace::digits(ids.0))]);
    if let Some(parent) = ids.1 {
        out.extend([r#"","parentSpanId":""#, trace::text(&trace::digits(parent))]);
    }
    out.extend([r#"","name":""#, of.0, " "]);
    json::inner(out, of.1);
    let [start, end] = times;
    let _ = write!(out, r#"","kind":{kind},"startTimeUnixNano":"{start}","endTimeUnixNano":"{end}","attributes":["#);
}

/// What follows the attributes; of a span that failed its status, with what is known of it.
fn end(out: &mut String, failed: Option<Option<&str>>) {
    out.push(']');
    if let Some(why) = failed {
        out.extend([r#","status":{"code":"#, ERROR]);
        if let Some(why) = why {
            out.extend([r#","message":""#, why, "\""]);
        }
        out.push('}');
    }
    out.push('}');
}

fn request_attributes(record: &RecordData, mut put: Attributes<'_>) {
    put.word("gen_ai.operation.name", record.entrance.operation());
    put.word("gen_ai.provider.name", "spectra");
    put.text("gen_ai.request.model", &record.asked_model);
    put.int("http.response.status_code", record.status.into());
    put.text("spectra.request_id", &record.request_id);
    put.word("spectra.outcome", record.outcome.as_str());
    put.word("spectra.verified", record.verified.as_str());
    put.int("spectra.attempts", record.attempts.len() as u64);
    put.double("spectra.cost_usd", record.cost_usd);
    record.model.iter().for_each(|model| put.text("gen_ai.response.model", model));
    record.route.iter().for_each(|route| put.text("spectra.route", route));
    record.error_code.iter().for_each(|code| put.word("error.type", code));
    record.score.iter().for_each(|score| put.double("spectra.score", (f64::from(*score) * 1e4).round() / 1e4));
    put.usage(record.usage);
}

fn attempt_attributes(operation: &'static str, attempt: &AttemptData, mut put: Attributes<'_>) {
    put.word("gen_ai.operation.name", operation);
    put.word("gen_ai.provider.name", attempt.provider);
    put.text("gen_ai.request.model", &attempt.model);
    put.int("spectra.rung", attempt.rung.into());
    put.word("spectra.why", attempt.why);
    put.word("spectra.verdict", attempt.verdict);
    put.usage(attempt.usage);
    if is_error(attempt) {
        put.word("error.type", attempt.verdict);
    }
}

/// Writes attributes, each `{"key":…,"value":{…}}`.
struct Attributes<'a> {
    out: &'a mut String,
    first: bool,
}

impl Attributes<'_> {
    fn key(&mut self, key: &'static str) {
        let open = if std::mem::take(&mut self.first) { r#"{"key":""# } else { r#",{"key":""# };
        self.out.extend([open, key, r#"","value":{"#]);
    }

    /// A word of ours, in which nothing is to be escaped.
    fn word(&mut self, key: &'static str, value: &'static str) {
        self.key(key);
        self.out.extend([r#""stringValue":""#, value, r#""}}"#]);
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        *self.out += r#""stringValue":""#;
        json::inner(self.out, value);
        *self.out += r#""}}"#;
    }

    /// 64-bit integers travel as text.
    fn int(&mut self, key: &'static str, value: u64) {
        self.key(key);
        let _ = write!(self.out, r#""intValue":"{value}"}}}}"#);
    }

    fn double(&mut self, key: &'static str, value: f64) {
        self.key(key);
        *self.out += r#""doubleValue":"#;
        json::number(self.out, value);
        *self.out += "}}";
    }

    fn usage(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.int("gen_ai.usage.input_tokens", usage.prompt_tokens);
            self.int("gen_ai.usage.output_tokens", usage.completion_tokens);
        }
    }
}

fn is_error(attempt: &AttemptData) -> bool {
    crate::tally::VERDICT[crate::tally::verdict(attempt)] == "error"
}

fn nanos(time: SystemTime) -> u64 {
    long(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Nanoseconds; 64 bits of them last until 2554.
fn long(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Never 0. `RandomState` is seeded anew for each.
fn id() -> u64 {
    RandomState::new().hash_one(0).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::{attempt, record};

    #[test]
    fn an_escalation_is_a_request_with_two_children() {
        let mut one = record(vec![attempt("small", 0, "first", "timeout"), attempt("big", 1, "escalate", "pass")]);
        one.trace = Some(TraceContext::begin(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")));
        one.asked_model = "odd \"name\"".into();
        let export: serde_json::Value = serde_json::from_str(&export(&[Arc::new(one)])).unwrap();
        let spans = export["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 3);
        // Numbers of 64 bits are texts.
        assert!(spans[0]["startTimeUnixNano"].as_str().unwrap() < spans[0]["endTimeUnixNano"].as_str().unwrap());
        assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
        assert_eq!(spans[0]["name"], "chat odd \"name\"");
        for (span, model) in spans[1..].iter().zip(["small", "big"]) {
            assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
            assert_eq!(span["parentSpanId"], spans[0]["spanId"]);
            assert_eq!(span["name"], format!("chat {model}"));
        }
        assert_eq!(spans[1]["status"], json!({ "code": 2, "message": "timeout" }));
        for (span, attribute) in [
            (0, json!({ "key": "spectra.cost_usd", "value": { "doubleValue": 0.01 } })),
            (0, json!({ "key": "spectra.attempts", "value": { "intValue": "2" } })),
            (2, json!({ "key": "spectra.verdict", "value": { "stringValue": "pass" } })),
        ] {
            assert!(spans[span]["attributes"].as_array().unwrap().contains(&attribute), "{attribute} in {}", spans[span]);
        }
    }

    #[test]
    fn a_trace_begins_where_no_caller_has_one() {
        let (one, other) = (TraceContext::begin(None), TraceContext::begin(None));
        assert!(one.parent.is_none() && one.trace != other.trace);
        assert_eq!(&*one.traceparent(), format!("00-{:032x}-{:016x}-01", one.trace, one.span));
    }
}
