//! The worker's own `/metrics`, for a GPU box that is scraped directly. The gateway's metrics are elsewhere.

use spectra_backends::llama::Snapshot;

/// Prometheus text, version 0.0.4.
pub(super) fn text(now: &Snapshot) -> String {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one process's life")]
    let seconds = |micros: u64| micros as f64 / 1e6;
    let rows: [(&str, &str, &str, f64); 14] = [
        ("slots", "gauge", "Sequences that can be decoded at once.", whole(now.slots)),
        ("slots_busy", "gauge", "Sequences being decoded.", whole(now.slots_busy)),
        ("queue", "gauge", "Requests accepted and not started.", whole(now.waiting)),
        ("kv_tokens", "gauge", "Tokens that running requests hold in the key-value cache.", whole(now.kv_tokens)),
        ("kv_cached_tokens", "gauge", "Tokens kept in the key-value cache for reuse.", whole(now.kv_cached_tokens)),
        ("kv_capacity_tokens", "gauge", "Tokens the key-value cache holds at most.", whole(now.kv_capacity)),
        ("requests_total", "counter", "Requests taken in.", whole(now.requests_total)),
        ("cancelled_total", "counter", "Requests whose caller left.", whole(now.cancelled_total)),
        ("failed_total", "counter", "Requests that ended in an error of the engine.", whole(now.failed_total)),
        ("prompt_tokens_total", "counter", "Prompt tokens, cached ones included.", whole(now.prompt_tokens_total)),
        ("cached_tokens_total", "counter", "Prompt tokens that came from the cache.", whole(now.cached_tokens_total)),
        ("generated_tokens_total", "counter", "Tokens sampled.", whole(now.generated_tokens_total)),
        ("prefill_seconds_total", "counter", "Time in steps with prompt tokens in them.", seconds(now.prefill_micros_total)),
        ("decode_seconds_total", "counter", "Time in steps of answer tokens only.", seconds(now.decode_micros_total)),
    ];
    rows.iter()
        .map(|(name, kind, help, value)| {
            format!("# HELP spectra_engine_{name} {help}\n# TYPE spectra_engine_{name} {kind}\nspectra_engine_{name} {value}\n")
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
fn whole(value: u64) -> f64 {
    value as f64
}
