//! Traces: a span per request with a child per attempt, sent to an OTLP/HTTP collector as JSON, named by OpenTelemetry's
//! GenAI conventions; W3C trace context in and out.
//!
//! Spans are made from the finished record, so the path of a request pays for two ids only. The OpenTelemetry crates are not
//! used: two span shapes in the protocol's JSON form are less than their build.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use spectra_backends::trace;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::record::{AttemptData, Outcome, RecordData};

/// Requests waiting to be sent; more are dropped.
const QUEUE: usize = 1024;
const BATCH: usize = 128;
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// OTLP's numbers for a span's kind and status.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;

/// The place of a request in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits: the request's own span.
    pub span: String,
    /// The caller's span.
    pub parent: Option<String>,
}

/// Sends spans; cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Traces(Sender<Arc<RecordData>>);

impl TraceContext {
    /// Goes on with a caller's `traceparent` (version 00, checked before), or begins a trace.
    #[must_use]
    pub fn begin(traceparent: Option<&str>) -> Self {
        let mut parts = traceparent.unwrap_or_default().split('-').skip(1);
        let (trace, parent) = (parts.next().map(str::to_owned), parts.next().map(str::to_owned));
        Self { trace: trace.unwrap_or_else(|| format!("{}{}", id(), id())), span: id(), parent }
    }

    /// What upstreams are told: their spans become children of the request's.
    #[must_use]
    pub fn traceparent(&self) -> Arc<str> {
        format!("00-{}-{}-01", self.trace, self.span).into()
    }
}

impl Traces {
    /// Starts the sender to the config's collector; `None` where it names none.
    #[must_use]
    pub fn start(config: &spectra_config::Tracing) -> Option<Self> {
        let collector = config.otlp.as_ref().map(|collector| collector.get().trim()).filter(|collector| !collector.is_empty())?;
        if !cfg!(feature = "otel") {
            tracing::warn!("tracing.otlp is set, but this spectra was built without the feature otel: no traces are sent");
            return None;
        }
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        // The binary has done this; an embedding test may not have. A second time changes nothing.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().timeout(SEND_WITHIN).build().ok()?;
        let (sender, receiver) = channel(QUEUE);
        // It ends with the last sender.
        runtime.spawn(send(client, format!("{}/v1/traces", collector.trim_end_matches('/')), receiver));
        Some(Self(sender))
    }

    /// Takes a finished request for sending, or drops it where the collector is too slow.
    pub fn keep(&self, record: Arc<RecordData>) {
        let _ = self.0.try_send(record);
    }
}

async fn send(client: reqwest::Client, url: String, mut records: Receiver<Arc<RecordData>>) {
    let mut batch = Vec::new();
    while records.recv_many(&mut batch, BATCH).await > 0 {
        let body = export(&batch).to_string();
        batch.clear();
        let sent = client.post(&url).header("content-type", "application/json").body(body).send().await;
        if let Err(error) = sent.and_then(reqwest::Response::error_for_status) {
            tracing::debug!(error = %error.without_url(), "the trace collector took no spans");
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn export(records: &[Arc<RecordData>]) -> Value {
    let spans: Vec<Value> = records.iter().flat_map(|record| spans(record)).collect();
    let resource = attributes(&[("service.name", json!("spectra")), ("service.version", json!(env!("CARGO_PKG_VERSION")))]);
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "spectra-gateway" }, "spans": spans }],
    }]})
}

/// The request's span and one per attempt.
fn spans(record: &RecordData) -> Vec<Value> {
    let Some(context) = &record.trace else { return Vec::new() };
    let operation = record.entrance.operation();
    let began = record.arrived;
    let mut request = json!({
        "traceId": context.trace,
        "spanId": context.span,
        "name": format!("{operation} {}", record.asked_model),
        "kind": SERVER,
        "startTimeUnixNano": nanos(began),
        "endTimeUnixNano": nanos(began + record.timings.total),
        "attributes": request_attributes(record),
    });
    if let Some(parent) = &context.parent {
        request["parentSpanId"] = parent.as_str().into();
    }
    if matches!(record.outcome, Outcome::Failed | Outcome::Broken) {
        request["status"] = json!({ "code": ERROR, "message": record.error_code });
    }
    let mut all = vec![request];
    for (number, attempt) in record.attempts.iter().enumerate() {
        let start = began + attempt.started;
        let mut span = json!({
            "traceId": context.trace,
            // The one that the upstream was told.
            "spanId": trace::span_of_attempt(&context.span, number),
            "parentSpanId": context.span,
            "name": format!("{operation} {}", attempt.model),
            "kind": CLIENT,
            "startTimeUnixNano": nanos(start),
            "endTimeUnixNano": nanos(start + attempt.total),
            "attributes": attempt_attributes(operation, attempt),
        });
        if crate::tally::VERDICT[crate::tally::verdict(attempt)] == "error" {
            span["status"] = json!({ "code": ERROR, "message": attempt.verdict });
        }
        all.push(span);
    }
    all
}

fn request_attributes(record: &RecordData) -> Value {
    let mut found = vec![
        ("gen_ai.operation.name", json!(record.entrance.operation())),
        ("gen_ai.provider.name", json!("spectra")),
        ("gen_ai.request.model", json!(&*record.asked_model)),
        ("http.response.status_code", json!(record.status)),
        ("spectra.request_id", json!(&*record.request_id)),
        ("spectra.outcome", json!(record.outcome.as_str())),
        ("spectra.verified", json!(record.verified.as_str())),
        ("spectra.attempts", json!(record.attempts.len())),
        ("spectra.cost_usd", json!(record.cost_usd)),
    ];
    let texts =
        [("gen_ai.response.model", record.model.as_deref()), ("spectra.route", record.route.as_deref()), ("error.type", record.error_code)];
    found.extend(texts.into_iter().filter_map(|(name, text)| Some((name, json!(text?)))));
    if let Some(score) = record.score {
        found.push(("spectra.score", json!(score)));
    }
    if let Some(usage) = record.usage {
        found.push(("gen_ai.usage.input_tokens", json!(usage.prompt_tokens)));
        found.push(("gen_ai.usage.output_tokens", json!(usage.completion_tokens)));
    }
    attributes(&found)
}

fn attempt_attributes(operation: &str, attempt: &AttemptData) -> Value {
    let mut found = vec![
        ("gen_ai.operation.name", json!(operation)),
        ("gen_ai.provider.name", json!(attempt.provider)),
        ("gen_ai.request.model", json!(&*attempt.model)),
        ("spectra.rung", json!(attempt.rung)),
        ("spectra.why", json!(attempt.why)),
        ("spectra.verdict", json!(attempt.verdict)),
    ];
    if let Some(usage) = attempt.usage {
        found.push(("gen_ai.usage.input_tokens", json!(usage.prompt_tokens)));
        found.push(("gen_ai.usage.output_tokens", json!(usage.completion_tokens)));
    }
    if crate::tally::VERDICT[crate::tally::verdict(attempt)] == "error" {
        found.push(("error.type", json!(attempt.verdict)));
    }
    attributes(&found)
}

/// OTLP's spelling of attributes: 64-bit integers travel as text.
fn attributes(found: &[(&str, Value)]) -> Value {
    let spelt = |value: &Value| match value {
        Value::Number(number) if number.is_f64() => json!({ "doubleValue": number }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        other => json!({ "stringValue": other }),
    };
    found.iter().map(|(name, value)| json!({ "key": name, "value": spelt(value) })).collect()
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// 16 random hex digits, never all zero. `RandomState` is seeded anew for each.
fn id() -> String {
    format!("{:016x}", RandomState::new().hash_one(0).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{attempt, record};

    #[test]
    fn an_escalation_is_a_request_with_two_children() {
        let mut one = record(vec![attempt("small", 0, "first", "timeout"), attempt("big", 1, "escalate", "pass")]);
        one.trace = Some(TraceContext::begin(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")));
        let spans = spans(&one);
        assert_eq!(spans.len(), 3);
        assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
        for (span, model) in spans[1..].iter().zip(["small", "big"]) {
            assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
            assert_eq!(span["parentSpanId"], spans[0]["spanId"]);
            assert_eq!(span["name"], format!("chat {model}"));
        }
        assert_eq!(spans[1]["status"]["code"], ERROR);
        assert!(
            spans[2]["attributes"].as_array().unwrap().contains(&json!({ "key": "spectra.verdict", "value": { "stringValue": "pass" } }))
        );
    }

    #[test]
    fn a_trace_begins_where_no_caller_has_one() {
        let (one, other) = (TraceContext::begin(None), TraceContext::begin(None));
        assert!(one.parent.is_none() && one.trace.len() == 32 && one.trace != other.trace);
        assert_eq!(&*one.traceparent(), format!("00-{}-{}-01", one.trace, one.span));
    }
}
