//! Cases: what one finished request adds to the exposition.

use spectra_router::Verified;

use super::*;
use crate::record::{Outcome, RecordData};
use crate::sample::{attempt, config, record};

/// Observes the records and compares lines of the exposition.
fn check(records: &[RecordData], expected: &[(&str, f64)]) {
    let metrics = Metrics::new(&config()).unwrap();
    for record in records {
        metrics.observe(record);
    }
    let text = metrics.text().unwrap();
    for (series, value) in expected {
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let found: f64 = line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap();
        assert!((found - value).abs() < 1e-9, "{series} is {found}, expected {value}");
    }
}

#[test]
fn everything_is_there_at_zero_before_the_first_request() {
    check(
        &[],
        &[
            ("spectra_requests_total{outcome=\"usable\",route=\"local\"}", 0.0),
            ("spectra_requests_total{outcome=\"rejected\",route=\"none\"}", 0.0),
            ("spectra_attempts_total{model=\"big\",route=\"local\",rung=\"1\",verdict=\"mended\"}", 0.0),
            ("spectra_flaws_total{flaw=\"not_json\",model=\"small\"}", 0.0),
            ("spectra_breaker_state{model=\"big\"}", 0.0),
            ("spectra_saved_usd_total{route=\"strong\"}", 0.0),
            ("spectra_errors_total{code=\"no_usable_answer\",status=\"502\"}", 0.0),
            ("spectra_errors_total{code=\"insufficient_quota\",status=\"429\"}", 0.0),
            ("spectra_repairs_total{result=\"mended\",stage=\"coerced_key\"}", 0.0),
            ("spectra_backend_errors_total{error=\"cooling_down\",model=\"big\"}", 0.0),
            ("spectra_asks_total{model=\"big\",why=\"more_tokens\"}", 0.0),
            ("spectra_router_decisions_total{reason=\"only_route\",route=\"local\"}", 0.0),
            ("gen_ai_server_request_duration_seconds_count{gen_ai_operation_name=\"chat\",route=\"local\"}", 0.0),
        ],
    );
}

#[test]
fn a_usable_local_answer_saves_what_the_hosted_one_costs() {
    check(
        &[record(vec![attempt("small", 0, "first", "pass")])],
        &[
            ("spectra_requests_total{outcome=\"usable\",route=\"local\"}", 1.0),
            ("spectra_first_tries_total{result=\"usable\",route=\"local\"}", 1.0),
            ("spectra_attempts_total{model=\"small\",route=\"local\",rung=\"0\",verdict=\"pass\"}", 1.0),
            ("spectra_saved_usd_total{route=\"local\"}", 0.01),
            ("spectra_extra_usd_total{route=\"local\"}", 0.0),
            ("spectra_router_predictions_total{observed=\"usable\",predicted=\"0.8\",route=\"local\"}", 1.0),
            ("spectra_router_difficulty_count{route=\"local\"}", 1.0),
            ("spectra_overhead_seconds_sum{phase=\"plan\"}", 0.000_04),
        ],
    );
}

#[test]
fn an_escalation_counts_flaw_move_and_both_attempts() {
    check(
        &[record(vec![attempt("small", 0, "first", "not_json"), attempt("big", 1, "escalate", "pass")])],
        &[
            ("spectra_requests_total{outcome=\"usable\",route=\"local\"}", 1.0),
            ("spectra_first_tries_total{result=\"unusable\",route=\"local\"}", 1.0),
            ("spectra_attempts_total{model=\"small\",route=\"local\",rung=\"0\",verdict=\"flawed\"}", 1.0),
            ("spectra_attempts_total{model=\"big\",route=\"local\",rung=\"1\",verdict=\"pass\"}", 1.0),
            ("spectra_flaws_total{flaw=\"not_json\",model=\"small\"}", 1.0),
            ("spectra_escalations_total{from=\"small\",reason=\"not_json\",to=\"big\"}", 1.0),
            ("spectra_cost_usd_total{model=\"big\",route=\"local\"}", 0.01),
            ("spectra_router_predictions_total{observed=\"unusable\",predicted=\"0.8\",route=\"local\"}", 1.0),
        ],
    );
}

#[test]
fn a_backend_error_is_an_error_and_not_a_missing_count() {
    let mut failed = attempt("small", 0, "first", "timeout");
    failed.usage = None;
    let mut silent = attempt("big", 1, "escalate", "pass");
    silent.usage = None;
    check(
        &[record(vec![failed, silent])],
        &[
            ("spectra_backend_errors_total{error=\"timeout\",model=\"small\"}", 1.0),
            ("spectra_usage_missing_total{model=\"small\"}", 0.0),
            ("spectra_usage_missing_total{model=\"big\"}", 1.0),
            ("spectra_first_tries_total{result=\"error\",route=\"local\"}", 1.0),
        ],
    );
}

#[test]
fn names_outside_the_config_share_one_label() {
    let mut stray = record(vec![attempt("made-up", 7, "first", "pass")]);
    stray.route = Some("made-up".into());
    check(
        &[stray],
        &[
            ("spectra_requests_total{outcome=\"usable\",route=\"none\"}", 1.0),
            ("spectra_attempts_total{model=\"other\",route=\"none\",rung=\"7\",verdict=\"pass\"}", 1.0),
        ],
    );
}

/// Every outcome, verification and verdict: the sums agree.
#[test]
fn each_request_has_one_outcome_and_each_attempt_one_verdict() {
    let metrics = Metrics::new(&config()).unwrap();
    let (mut requests, mut attempts) = (0, 0);
    for outcome in Outcome::ALL {
        for verified in [Verified::Ok, Verified::Repaired, Verified::Failed, Verified::Skipped] {
            for verdict in ["pass", "mended", "not_json", "timeout", "cancelled"] {
                let mut one = record(vec![attempt("small", 0, "first", verdict), attempt("big", 1, "escalate", verdict)]);
                (one.outcome, one.verified) = (outcome, verified);
                metrics.observe(&one);
                requests += 1;
                attempts += 2;
            }
        }
    }
    let text = metrics.text().unwrap();
    let sum = |name: &str| -> u64 {
        text.lines().filter(|line| line.starts_with(name)).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum("spectra_requests_total{"), requests);
    assert_eq!(sum("spectra_first_tries_total{"), requests);
    assert_eq!(sum("spectra_attempts_total{"), attempts);
    assert_eq!(sum("spectra_asks_total{"), attempts);
}

#[test]
fn levels_and_reloads() {
    let metrics = Metrics::new(&config()).unwrap();
    metrics.config_applied("aaaa");
    metrics.config_rejected();
    metrics.config_applied("bbbb");
    metrics.set_breaker("big", BreakerState::Open);
    let exits = std::collections::BTreeMap::from([("hung", 1)]);
    let gpus = std::collections::BTreeMap::from([("Vulkan0".to_owned(), [3 << 30, 4 << 30])]);
    let sample = EngineSample { up: true, slots: 4, slots_busy: 2, restarts: 1, kv_used: 0.5, exits, gpus, ..EngineSample::default() };
    metrics.set_engine("small", &sample);
    metrics.set_engine("small", &sample);
    let text = metrics.text().unwrap();
    for line in [
        "spectra_config_info{hash=\"aaaa\"} 0",
        "spectra_config_info{hash=\"bbbb\"} 1",
        "spectra_config_reloads_total{result=\"applied\"} 1",
        "spectra_config_reloads_total{result=\"rejected\"} 1",
        "spectra_config_last_reload_successful 1",
        "spectra_breaker_state{model=\"big\"} 2",
        "spectra_engine_restarts_total{model=\"small\"} 1",
        "spectra_engine_kv_used_ratio{model=\"small\"} 0.5",
        "spectra_engine_exits_total{model=\"small\",reason=\"hung\"} 1",
        "spectra_engine_gpu_memory_free_bytes{gpu=\"Vulkan0\",model=\"small\"} 3221225472",
        "spectra_engine_gpu_memory_bytes{gpu=\"Vulkan0\",model=\"small\"} 4294967296",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

#[test]
fn every_family_is_exposed_and_documented() {
    let metrics = Metrics::new(&config()).unwrap();
    metrics.config_applied("aaaa");
    metrics.set_engine(
        "small",
        &EngineSample { exits: [("idle", 1)].into(), gpus: [("gpu".into(), [1, 2])].into(), ..EngineSample::default() },
    );
    let mut seen = record(vec![attempt("small", 0, "first", "pass")]);
    seen.checks = vec![("house".into(), "usable")];
    metrics.observe(&seen);
    let text = metrics.text().unwrap();
    for family in metrics.families() {
        assert!(text.contains(&format!("# TYPE {} ", family.name)), "{} is declared but not exposed", family.name);
        assert!(family.help.ends_with('.'), "{}: {}", family.name, family.help);
    }
}
