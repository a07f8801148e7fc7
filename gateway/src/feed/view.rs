//! What the page is told, as JSON: only what is new since it last asked.

use serde_json::{Map, Value, json};

use super::{BINS_PER_DOUBLING, DECISIONS, Decided, FIRST_BIN_MS, Feed, INTERVAL, Interval, Tally, seconds};
use crate::metrics::{BreakerState, EngineSample, LedgerSample};
use crate::record::{AttemptData, RecordData};
use crate::tally;
use std::time::{Duration, SystemTime};

/// What the asker has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Number of the first decision it has not.
    pub decision: u64,
    /// Start of the first interval it wants, in seconds since 1970; the running one changes until it is over.
    pub interval: u64,
}

/// What only the moment of asking knows.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    pub in_flight: usize,
    pub models: Vec<ModelLevel>,
    pub ledger: Option<LedgerSample>,
    pub notices: Vec<String>,
    /// `accounting.keep_text`: text that was kept is shown.
    pub keeps_text: bool,
    /// `accounting.local_usd_per_hour`.
    pub usd_per_hour: f64,
    pub config_hash: String,
}

#[derive(Clone, Debug)]
pub struct ModelLevel {
    pub name: String,
    pub local: bool,
    pub breaker: BreakerState,
    /// Only of a local worker.
    pub engine: Option<EngineSample>,
}

impl Since {
    /// Reads `decision=5&interval=1790000000`; what is missing or no number is 0.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Self {
        let number = |name: &str| {
            let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
        };
        Self { decision: number("decision"), interval: number("interval") }
    }
}

impl Feed {
    /// Everything new since `since`, with the present levels.
    #[must_use]
    pub fn live(&self, since: Since, levels: &Levels) -> Value {
        let inner = self.inner.lock();
        let decisions: Vec<Value> = inner
            .decisions
            .iter()
            .filter(|decided| decided.number >= since.decision)
            .map(|decided| decision(decided, levels.keeps_text))
            .collect();
        let intervals: Vec<Value> = inner.intervals.iter().filter(|one| one.start >= since.interval).map(interval).collect();
        json!({
            "now": seconds(SystemTime::now()),
            "started": seconds(self.started),
            "version": env!("CARGO_PKG_VERSION"),
            "interval_s": INTERVAL,
            "bins": { "first_ms": FIRST_BIN_MS, "per_doubling": BINS_PER_DOUBLING },
            "ended": tally::ENDED,
            "first": tally::FIRST,
            "config_hash": levels.config_hash,
            "usd_per_hour": levels.usd_per_hour,
            "keeps_text": levels.keeps_text,
            "remembers": DECISIONS,
            "next": inner.next,
            "intervals": intervals,
            "decisions": decisions,
            "in_flight": levels.in_flight,
            "models": levels.models.iter().map(model).collect::<Vec<_>>(),
            "ledger": levels.ledger.map(|ledger| json!({ "rows": ledger.rows, "dropped": ledger.dropped, "errors": ledger.errors, "bytes": ledger.bytes })),
            "notices": levels.notices,
        })
    }
}

fn decision(decided: &Decided, with_text: bool) -> Value {
    let record = &*decided.record;
    let mut told = json!({
        "number": decided.number,
        "feedback": decided.feedback,
        "at": record.arrived.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "id": &*record.request_id,
        "entrance": record.entrance.as_str(),
        "asked": &*record.asked_model,
        "streamed": record.streamed,
        "route": record.route.as_deref(),
        "model": record.model.as_deref(),
        "ended": tally::ENDED[tally::ended(record)],
        "status": record.status,
        "code": record.error_code,
        "verified": record.verified.as_str(),
        "score": record.score,
        "predicted": record.decision.predicted,
        "reason": record.reason,
        "reasons": record.decision.reasons.iter().map(|(name, weight)| json!([&**name, weight])).collect::<Vec<_>>(),
        "attempts": record.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "usage": record.usage.map(|usage| [usage.prompt_tokens, usage.completion_tokens]),
        "cost_usd": record.cost_usd,
        "compared_usd": record.compared_usd,
        "ms": times(record),
    });
    if let (true, Some(kept), Value::Object(told)) = (with_text, &record.kept, &mut told) {
        told.insert("prompt".into(), kept.prompt.as_str().into());
        told.insert("answer".into(), kept.answer.as_str().into());
    }
    told
}

fn times(record: &RecordData) -> Value {
    let timings = &record.timings;
    json!({
        "parse": ms(timings.parse),
        "plan": ms(timings.plan),
        "verify": ms(timings.verify),
        "first_byte": timings.first_byte.map(ms),
        "total": ms(timings.total),
    })
}

fn attempt(attempt: &AttemptData) -> Value {
    json!({
        "model": &*attempt.model,
        "rung": attempt.rung,
        "why": attempt.why,
        "verdict": attempt.verdict,
        "kind": tally::VERDICT[tally::verdict(attempt)],
        "repairs": attempt.repairs,
        "usage": attempt.usage.map(|usage| [usage.prompt_tokens, usage.completion_tokens]),
        "cost_usd": attempt.cost_usd,
        "started_ms": ms(attempt.started),
        "first_chunk_ms": attempt.first_chunk.map(ms),
        "ms": ms(attempt.total),
    })
}

fn interval(interval: &Interval) -> Value {
    let routes: Map<String, Value> = interval.routes.iter().map(|(route, tally)| (route.to_string(), counts(tally))).collect();
    json!({ "t": interval.start, "routes": routes })
}

fn counts(tally: &Tally) -> Value {
    json!({
        "ended": tally.ended,
        "first": tally.first,
        "cost": tally.cost_usd,
        "compared": tally.compared_usd,
        "tokens": tally.tokens,
        "feedback": tally.feedback,
        "total": sparse(&tally.total),
        "first_byte": sparse(&tally.first_byte),
    })
}

/// Pairs of bin and count, without the empty ones.
fn sparse(bins: &[u32]) -> Vec<[u32; 2]> {
    (0..).zip(bins).filter(|(_, count)| **count > 0).map(|(bin, count)| [bin, *count]).collect()
}

fn model(model: &ModelLevel) -> Value {
    json!({
        "name": model.name,
        "local": model.local,
        "breaker": model.breaker.as_str(),
        "engine": model.engine.as_ref().map(|engine| json!({
            "up": engine.up,
            "slots": engine.slots,
            "busy": engine.slots_busy,
            "queue": engine.queue,
            "kv_used": engine.kv_used,
            "generated": engine.generated_tokens,
            "restarts": engine.restarts,
        })),
    })
}

/// Milliseconds with microseconds behind the point.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
