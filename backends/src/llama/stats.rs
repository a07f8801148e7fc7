//! Counters and gauges of one engine, read by its HTTP face and by the supervisor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Snapshot;

/// Written by the decode thread (and the queue), read by anyone; each value is exact, together they are not one moment's.
#[derive(Debug)]
pub struct Stats {
    born: Instant,
    pub(crate) slots: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) kv_tokens: AtomicU64,
    pub(crate) kv_cached_tokens: AtomicU64,
    pub(crate) kv_capacity: AtomicU64,
    pub(crate) parked_tokens: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) generated_tokens: AtomicU64,
    pub(crate) tokens_per_kilosecond: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) prefill_micros: AtomicU64,
    pub(crate) decode_micros: AtomicU64,
    /// Milliseconds since `born` at which the running step began; 0: no step is running.
    step_began_ms: AtomicU64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            born: Instant::now(),
            slots: zero(),
            busy: zero(),
            waiting: zero(),
            kv_tokens: zero(),
            kv_cached_tokens: zero(),
            kv_capacity: zero(),
            parked_tokens: zero(),
            requests: zero(),
            cancelled: zero(),
            failed: zero(),
            prompt_tokens: zero(),
            cached_tokens: zero(),
            generated_tokens: zero(),
            tokens_per_kilosecond: zero(),
            steps: zero(),
            prefill_micros: zero(),
            decode_micros: zero(),
            step_began_ms: zero(),
        }
    }

    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let began = get(&self.step_began_ms);
        Snapshot {
            slots: get(&self.slots),
            slots_busy: get(&self.busy),
            waiting: get(&self.waiting),
            kv_tokens: get(&self.kv_tokens),
            kv_cached_tokens: get(&self.kv_cached_tokens),
            kv_capacity: get(&self.kv_capacity),
            parked_tokens: get(&self.parked_tokens),
            requests_total: get(&self.requests),
            cancelled_total: get(&self.cancelled),
            failed_total: get(&self.failed),
            prompt_tokens_total: get(&self.prompt_tokens),
            cached_tokens_total: get(&self.cached_tokens),
            generated_tokens_total: get(&self.generated_tokens),
            tokens_per_kilosecond: get(&self.tokens_per_kilosecond),
            steps_total: get(&self.steps),
            prefill_micros_total: get(&self.prefill_micros),
            decode_micros_total: get(&self.decode_micros),
            step_age_ms: if began == 0 { 0 } else { self.now_ms().saturating_sub(began) },
        }
    }

    pub(crate) fn step_begins(&self) {
        self.step_began_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(crate) fn step_ends(&self) {
        self.step_began_ms.store(0, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Never 0, which stands for "no step".
    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

pub(crate) fn set(gauge: &AtomicU64, n: usize) {
    gauge.store(n as u64, Ordering::Relaxed);
}
