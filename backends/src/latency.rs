//! A bounded, lock-free histogram of recent latencies, good enough for "later than its own 95th percentile".

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Four buckets to the octave from 1 ms: bucket 0 is below it, the last one above 65 s.
const BUCKETS: usize = 66;
const PER_OCTAVE: f64 = 4.0;
/// After so many samples every count is halved, so that old ones fade.
const FADE_AT: u32 = 1024;
/// Fewer samples say nothing about a 95th percentile.
const ENOUGH: u32 = 20;

/// Counts by bucket. Concurrent samples may be lost while counts are halved; a statistic may lose a sample.
#[derive(Debug)]
pub struct Latency {
    counts: [AtomicU32; BUCKETS],
    total: AtomicU32,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS], total: AtomicU32::new(0) }
    }
}

impl Latency {
    pub fn record(&self, took: Duration) {
        self.counts[bucket(took)].fetch_add(1, Relaxed);
        if self.total.fetch_add(1, Relaxed) + 1 >= FADE_AT {
            let mut total = 0;
            for count in &self.counts {
                let half = count.load(Relaxed) / 2;
                count.store(half, Relaxed);
                total += half;
            }
            self.total.store(total, Relaxed);
        }
    }

    /// Upper edge of the bucket in which the `share` (0 to 1) of samples is reached, at most 19 % too high; `None` with
    /// fewer than 20 samples.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u32> = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        let total: u32 = counts.iter().sum();
        if total < ENOUGH {
            return None;
        }
        let wanted = f64::from(total) * share.clamp(0.0, 1.0);
        let mut seen = 0.0;
        let at = counts.iter().position(|count| {
            seen += f64::from(*count);
            seen >= wanted
        });
        Some(upper_edge(at.unwrap_or(BUCKETS - 1)))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is between 0 and the number of buckets")]
fn bucket(took: Duration) -> usize {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 1.0 { 0 } else { ((ms.log2() * PER_OCTAVE) as usize + 1).min(BUCKETS - 1) }
}

#[expect(clippy::cast_precision_loss, reason = "a bucket number is small")]
fn upper_edge(bucket: usize) -> Duration {
    Duration::from_secs_f64((bucket as f64 / PER_OCTAVE).exp2() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_a_bucket_too_high() {
        let latency = Latency::default();
        assert_eq!(latency.quantile(0.95), None);
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        let p95 = latency.quantile(0.95).unwrap().as_secs_f64() * 1000.0;
        assert!((95.0..95.0 * 1.19).contains(&p95), "{p95}");
        for _ in 0..20_000 {
            latency.record(Duration::from_millis(2));
        }
        let p95 = latency.quantile(0.95).unwrap();
        assert!(p95 < Duration::from_millis(3), "old samples fade: {p95:?}");
        latency.record(Duration::from_hours(9));
        assert!(latency.quantile(1.0).unwrap() > Duration::from_secs(60));
    }
}
