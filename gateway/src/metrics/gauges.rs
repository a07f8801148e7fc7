//! Levels rather than counts: set by whoever knows them, mostly just before a scrape.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Metrics;

/// A backend's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// One request is let through to see.
    Probing,
    Open,
}

/// What a local worker says of itself. Counters count since its supervisor started, across restarts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineSample {
    pub up: bool,
    pub slots: u64,
    pub slots_busy: u64,
    pub queue: u64,
    /// 0 to 1.
    pub kv_used: f64,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    pub restarts: u64,
    /// How often workers ended, by reason.
    pub exits: BTreeMap<&'static str, u64>,
    /// Resident bytes of the worker.
    pub memory: u64,
    /// By GPU: free bytes, and all of them.
    pub gpus: BTreeMap<String, [u64; 2]>,
}

/// What the ledger says of itself. Counters count since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerSample {
    pub rows: u64,
    pub dropped: u64,
    pub errors: u64,
    pub queue: u64,
    pub bytes: u64,
}

impl BreakerState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Probing => "probing",
            Self::Open => "open",
        }
    }
}

impl Metrics {
    /// Requests being answered now.
    pub fn set_in_flight(&self, requests: usize) {
        self.all.families.requests.in_flight.with_label_values::<&str>(&[]).set(level(requests as u64));
    }

    pub fn set_breaker(&self, model: &str, state: BreakerState) {
        self.all.families.state.breaker.with_label_values(&[model]).set(match state {
            BreakerState::Closed => 0,
            BreakerState::Probing => 1,
            BreakerState::Open => 2,
        });
    }

    pub fn set_engine(&self, model: &str, sample: &EngineSample) {
        let engine = &self.all.families.engine;
        let model = &[model];
        engine.up.with_label_values(model).set(i64::from(sample.up));
        engine.slots.with_label_values(model).set(level(sample.slots));
        engine.slots_busy.with_label_values(model).set(level(sample.slots_busy));
        engine.queue.with_label_values(model).set(level(sample.queue));
        engine.kv_used.with_label_values(model).set(sample.kv_used);
        engine.memory.with_label_values(model).set(level(sample.memory));
        for (gpu, [free, all]) in &sample.gpus {
            engine.gpu_free.with_label_values(&[model[0], gpu]).set(level(*free));
            engine.gpu_memory.with_label_values(&[model[0], gpu]).set(level(*all));
        }
        let last = self.all.engines.lock().insert(model[0].to_owned(), sample.clone()).unwrap_or_default();
        // A reload that replaces the worker begins at nothing again.
        let risen = |now: u64, last: u64| now.checked_sub(last).unwrap_or(now);
        engine.prompt_tokens.with_label_values(model).inc_by(risen(sample.prompt_tokens, last.prompt_tokens));
        engine.generated_tokens.with_label_values(model).inc_by(risen(sample.generated_tokens, last.generated_tokens));
        engine.restarts.with_label_values(model).inc_by(risen(sample.restarts, last.restarts));
        for (reason, count) in &sample.exits {
            let before = last.exits.get(reason).copied().unwrap_or(0);
            engine.exits.with_label_values(&[model[0], reason]).inc_by(risen(*count, before));
        }
    }

    /// Takes the levels of a backend away that is no more: the last ones would stand for ever.
    pub(super) fn forget(&self, model: &str) {
        let (engine, model) = (&self.all.families.engine, &[model]);
        for level in [&self.all.families.state.breaker, &engine.up, &engine.slots, &engine.slots_busy, &engine.queue, &engine.memory] {
            // An error: it never had one.
            let _ = level.remove_label_values(model);
        }
        let _ = engine.kv_used.remove_label_values(model);
        let last = self.all.engines.lock().get(model[0]).map(|last| last.gpus.clone()).unwrap_or_default();
        for gpu in last.keys() {
            for level in [&engine.gpu_free, &engine.gpu_memory] {
                let _ = level.remove_label_values(&[model[0], gpu]);
            }
        }
    }

    pub fn set_ledger(&self, sample: LedgerSample) {
        let state = &self.all.families.state;
        rise(&state.ledger_rows.with_label_values::<&str>(&[]), sample.rows);
        rise(&state.ledger_dropped.with_label_values::<&str>(&[]), sample.dropped);
        rise(&state.ledger_errors.with_label_values::<&str>(&[]), sample.errors);
        state.ledger_queue.with_label_values::<&str>(&[]).set(level(sample.queue));
        state.ledger_bytes.with_label_values::<&str>(&[]).set(level(sample.bytes));
    }

    /// Requests whose spans were dropped since start.
    pub fn set_traces_dropped(&self, total: u64) {
        rise(&self.all.families.state.traces_dropped.with_label_values::<&str>(&[]), total);
    }

    /// `hash`: the first hex digits of the config text's SHA-256. To be called at start and after each reload.
    pub fn config_applied(&self, hash: &str) {
        let state = &self.all.families.state;
        let mut last = self.all.config_hash.lock();
        if !last.is_empty() && *last != hash {
            state.config.with_label_values(&[last.as_str()]).set(0);
        }
        if !last.is_empty() {
            state.reloads.with_label_values(&["applied"]).inc();
        }
        state.config.with_label_values(&[hash]).set(1);
        hash.clone_into(&mut last);
        state.reload_good.with_label_values::<&str>(&[]).set(1);
        state.reload_at.with_label_values::<&str>(&[]).set(since_1970(SystemTime::now()));
    }

    /// A reload was refused; the last good config goes on.
    pub fn config_rejected(&self) {
        self.all.families.state.reloads.with_label_values(&["rejected"]).inc();
        self.all.families.state.reload_good.with_label_values::<&str>(&[]).set(0);
    }

    /// What only the clock and the kernel know.
    pub(super) fn refresh_process(&self) {
        let state = &self.all.families.state;
        state.process_start.with_label_values::<&str>(&[]).set(since_1970(self.all.started));
        if let Some(bytes) = resident_bytes() {
            state.process_memory.with_label_values::<&str>(&[]).set(level(bytes));
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            state.process_files.with_label_values::<&str>(&[]).set(level(open.count() as u64));
        }
        self.count_machine();
    }

    /// Counts what the machine has cost since it was last counted.
    pub(super) fn count_machine(&self) {
        let mut machine = self.all.machine.lock();
        let hours = std::mem::replace(&mut machine.counted, Instant::now()).elapsed().as_secs_f64() / 3600.0;
        self.all.families.money.machine.with_label_values::<&str>(&[]).inc_by(hours * machine.usd_per_hour);
    }
}

fn level(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Brings a counter up to a total that somebody else keeps.
fn rise(counter: &prometheus::IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Linux's own account of the process, in kibibytes times 1024; `None` elsewhere.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
