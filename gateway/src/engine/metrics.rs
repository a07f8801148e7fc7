//! The worker's own `/metrics`, for a GPU box that is scraped directly. The gateway's metrics are elsewhere.

use spectra_backends::llama::{Gpu, Snapshot, gpus};

use super::Loaded;
use crate::metrics::resident_bytes;

/// Prometheus text, version 0.0.4.
pub(super) fn text(loaded: &Loaded) -> String {
    let mut out = of_stats(&loaded.engine.stats());
    let layers = loaded.engine.model().plan().gpu_layers;
    family(
        &mut out,
        "gpu_layers",
        "gauge",
        "Layers of the model, its output included, that are on a GPU.",
        &[(String::new(), f64::from(layers))],
    );
    let memory = resident_bytes().map(whole).map(|bytes| (String::new(), bytes));
    family(&mut out, "memory_bytes", "gauge", "Resident memory of this process.", memory.as_slice());
    let gpus = gpus();
    let each = |bytes: fn(&Gpu) -> u64| gpus.iter().map(|gpu| (label(&gpu.name), whole(bytes(gpu)))).collect::<Vec<_>>();
    family(&mut out, "gpu_memory_free_bytes", "gauge", "Free memory of a GPU.", &each(|gpu| gpu.free_bytes));
    family(&mut out, "gpu_memory_bytes", "gauge", "Memory of a GPU.", &each(|gpu| gpu.total_bytes));
    out
}

fn of_stats(now: &Snapshot) -> String {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one process's life")]
    let seconds = |micros: u64| micros as f64 / 1e6;
    let rows: [(&str, &str, &str, f64); 16] = [
        ("slots", "gauge", "Sequences that can be decoded at once.", whole(now.slots)),
        ("slots_busy", "gauge", "Sequences being decoded.", whole(now.slots_busy)),
        ("queue", "gauge", "Requests accepted and not started.", whole(now.waiting)),
        ("kv_tokens", "gauge", "Tokens that running requests hold in the key-value cache.", whole(now.kv_tokens)),
        ("kv_cached_tokens", "gauge", "Tokens kept in the key-value cache for reuse.", whole(now.kv_cached_tokens)),
        ("parked_tokens", "gauge", "Tokens kept in plain memory for reuse.", whole(now.parked_tokens)),
        ("kv_capacity_tokens", "gauge", "Tokens the key-value cache holds at most.", whole(now.kv_capacity)),
        ("requests_total", "counter", "Requests taken in.", whole(now.requests_total)),
        ("cancelled_total", "counter", "Requests whose caller left.", whole(now.cancelled_total)),
        ("failed_total", "counter", "Requests that ended in an error of the engine.", whole(now.failed_total)),
        ("prompt_tokens_total", "counter", "Prompt tokens, cached ones included.", whole(now.prompt_tokens_total)),
        ("cached_tokens_total", "counter", "Prompt tokens that came from the cache.", whole(now.cached_tokens_total)),
        ("generated_tokens_total", "counter", "Tokens sampled.", whole(now.generated_tokens_total)),
        ("tokens_per_second", "gauge", "Tokens sampled per second, over the last second of work.", whole(now.tokens_per_kilosecond) / 1e3),
        ("prefill_seconds_total", "counter", "Time in steps with prompt tokens in them.", seconds(now.prefill_micros_total)),
        ("decode_seconds_total", "counter", "Time in steps of answer tokens only.", seconds(now.decode_micros_total)),
    ];
    let mut out = String::new();
    for (name, kind, help, value) in rows {
        family(&mut out, name, kind, help, &[(String::new(), value)]);
    }
    out
}

/// One metric, with a line for each set of labels; nothing where there is none.
fn family(out: &mut String, name: &str, kind: &str, help: &str, values: &[(String, f64)]) {
    if values.is_empty() {
        return;
    }
    out.push_str(&format!("# HELP spectra_engine_{name} {help}\n# TYPE spectra_engine_{name} {kind}\n"));
    for (labels, value) in values {
        out.push_str(&format!("spectra_engine_{name}{labels} {value}\n"));
    }
}

fn label(gpu: &str) -> String {
    format!("{{gpu=\"{}\"}}", gpu.replace(['"', '\\', '\n'], "_"))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
fn whole(value: u64) -> f64 {
    value as f64
}
