//! Records for the tests of this crate.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spectra_backends::chunk::Usage;
use spectra_config::Config;
use spectra_router::Verified;

use crate::record::{AttemptData, Decision, Entrance, Outcome, RecordData, Timings};

pub(crate) fn config() -> Config {
    let text = r#"
        [accounting]
        local_usd_per_hour = 3600.0
        [backends.small.script]
        answers = [{ text = "hello" }]
        [backends.big.script]
        answers = [{ text = "hello" }]
        [routes.local]
        ladder = ["small", "big"]
        [routes.strong]
        ladder = ["big"]
    "#;
    Config::parse(text, "sample.toml", &|_| None).unwrap()
}

pub(crate) fn attempt(model: &str, rung: u32, why: &'static str, verdict: &'static str) -> AttemptData {
    AttemptData {
        model: model.into(),
        provider: "script",
        rung,
        verdict,
        flaw: ["truncated", "not_json", "off_schema"].contains(&verdict).then_some(verdict),
        why,
        repairs: Vec::new(),
        usage: Some(Usage { prompt_tokens: 100, completion_tokens: 20, ..Usage::default() }),
        cost_usd: if model == "big" { 0.01 } else { 0.0 },
        started: Duration::from_millis(1 + 95 * u64::from(rung)),
        first_chunk: Some(Duration::from_millis(30)),
        total: Duration::from_millis(90),
    }
}

/// A request that ended well on the route `local`, with these attempts.
pub(crate) fn record(attempts: Vec<AttemptData>) -> RecordData {
    let cost_usd = attempts.iter().map(|attempt| attempt.cost_usd).sum();
    RecordData {
        request_id: "req-1".into(),
        arrived: SystemTime::now().max(UNIX_EPOCH),
        key: None,
        entrance: Entrance::Chat,
        asked_model: "auto".into(),
        streamed: false,
        outcome: Outcome::Delivered,
        status: 200,
        error_code: None,
        route: Some("local".into()),
        side: Some("local"),
        model: attempts.last().map(|attempt| Arc::clone(&attempt.model)),
        score: Some(0.3),
        reason: "score",
        decision: Decision {
            predicted: Some(0.72),
            chances: Some([0.72, 0.95]),
            need: Some(0.23),
            propensity: Some(1.0),
            reasons: vec![("words", 0.2), ("code", -0.1)],
        },
        verified: Verified::Ok,
        usage: attempts.last().and_then(|attempt| attempt.usage),
        attempts,
        checks: Vec::new(),
        cost_usd,
        compared_usd: 0.01,
        timings: Timings {
            parse: Duration::from_micros(20),
            plan: Duration::from_micros(40),
            verify: Duration::from_micros(60),
            first_byte: Some(Duration::from_millis(100)),
            total: Duration::from_millis(120),
        },
        trace: None,
        kept: None,
    }
}
