//! How much a caller may: a rate per minute, a budget per day.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const DAY_SECONDS: u64 = 86_400;

/// A rate per minute by the generic cell rate algorithm: a bucket of one minute's allowance that refills steadily, kept
/// as one point in time (when it will be full again).
#[derive(Debug)]
pub(crate) struct Rate {
    per_minute: u64,
    full_at: Mutex<Instant>,
}

/// The bucket after a look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub limit: u64,
    pub remaining: u64,
    /// Until the bucket is full.
    pub reset: Duration,
}

impl Rate {
    pub fn new(per_minute: u64) -> Self {
        Self { per_minute: per_minute.max(1), full_at: Mutex::new(Instant::now()) }
    }

    pub fn per_minute(&self) -> u64 {
        self.per_minute
    }

    /// Takes `cost` out, or says how long to wait for it. More than a whole minute's allowance takes the whole bucket.
    pub fn take(&self, cost: u64, now: Instant) -> Result<Level, Duration> {
        let mut full_at = self.full_at.lock();
        let next = (*full_at).max(now) + self.time_of(cost.min(self.per_minute));
        let filled = next.saturating_duration_since(now);
        if filled > MINUTE {
            return Err(filled - MINUTE);
        }
        *full_at = next;
        Ok(self.level(filled))
    }

    /// What turned out otherwise than it was estimated: more is taken although it may overdraw, less is given back.
    pub fn settle(&self, taken: u64, used: u64, now: Instant) {
        let mut full_at = self.full_at.lock();
        let base = (*full_at).max(now);
        *full_at = if used >= taken {
            // A single answer cannot shut its caller out for more than a minute.
            (base + self.time_of(used - taken)).min(now + 2 * MINUTE)
        } else {
            base.checked_sub(self.time_of(taken.min(self.per_minute).saturating_sub(used))).unwrap_or(now)
        };
    }

    pub fn look(&self, now: Instant) -> Level {
        self.level(self.full_at.lock().saturating_duration_since(now))
    }

    fn level(&self, filled: Duration) -> Level {
        let left = MINUTE.saturating_sub(filled);
        let remaining = left.as_nanos() * u128::from(self.per_minute) / MINUTE.as_nanos();
        Level { limit: self.per_minute, remaining: u64::try_from(remaining).unwrap_or(u64::MAX), reset: filled }
    }

    fn time_of(&self, cost: u64) -> Duration {
        let nanos = MINUTE.as_nanos() * u128::from(cost) / u128::from(self.per_minute);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// USD per day (UTC). What was spent is known when an answer has ended, so the last request of a day may overdraw it.
#[derive(Debug)]
pub(crate) struct Budget {
    usd_per_day: f64,
    /// Day since 1970, and what was spent in it.
    spent: Arc<Mutex<(u64, f64)>>,
}

impl Budget {
    /// A budget of which so much is spent on the day of `now`.
    pub fn new(usd_per_day: f64, spent: f64, now: SystemTime) -> Self {
        Self { usd_per_day, spent: Arc::new(Mutex::new((seconds(now) / DAY_SECONDS, spent))) }
    }

    /// The same spending under another budget.
    pub fn of(&self, usd_per_day: f64) -> Self {
        Self { usd_per_day, spent: self.spent.clone() }
    }

    /// Time until tomorrow where today's budget is used up.
    pub fn check(&self, now: SystemTime) -> Result<(), Duration> {
        let seconds = seconds(now);
        let (day, spent) = *self.spent.lock();
        if day == seconds / DAY_SECONDS && spent >= self.usd_per_day {
            return Err(Duration::from_secs(DAY_SECONDS - seconds % DAY_SECONDS));
        }
        Ok(())
    }

    pub fn spend(&self, usd: f64, now: SystemTime) {
        let today = seconds(now) / DAY_SECONDS;
        let mut spent = self.spent.lock();
        if spent.0 != today {
            *spent = (today, 0.0);
        }
        spent.1 += usd;
    }
}

/// The begin of the day (UTC).
pub(crate) fn midnight(now: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds(now) / DAY_SECONDS * DAY_SECONDS)
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A duration as OpenAI writes it in its headers: `17ms`, `1.5s`, `6m0s`.
pub(crate) fn spelt(wait: Duration) -> String {
    let milliseconds = wait.as_millis();
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        1000..60_000 => {
            let (whole, rest) = (milliseconds / 1000, milliseconds % 1000);
            let text = format!("{whole}.{rest:03}");
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => format!("{}m{}s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_allowance_may_be_taken_at_once_and_comes_back_steadily() {
        let rate = Rate::new(60);
        let start = Instant::now();
        for left in (0..60).rev() {
            assert_eq!(rate.take(1, start).unwrap().remaining, left);
        }
        assert_eq!(rate.take(1, start), Err(Duration::from_secs(1)));
        assert_eq!(rate.take(2, start + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        let level = rate.take(2, start + Duration::from_secs(2)).unwrap();
        assert_eq!((level.limit, level.remaining, level.reset), (60, 0, MINUTE));
        assert_eq!(rate.look(start + Duration::from_secs(3600)).remaining, 60, "never more than a minute's allowance");
    }

    #[test]
    fn an_estimate_is_settled_both_ways() {
        let (rate, more_than_all) = (Rate::new(1000), Rate::new(10));
        let now = Instant::now();
        rate.take(600, now).unwrap();
        rate.settle(600, 100, now);
        assert_eq!(rate.look(now).remaining, 900);
        rate.settle(0, 5000, now);
        assert_eq!(rate.look(now).remaining, 0);
        assert!(rate.take(1, now).unwrap_err() <= MINUTE + MINUTE, "overdrawn by a minute at most");
        assert!(more_than_all.take(50, now).is_ok(), "a large request is not locked out for ever");
        more_than_all.settle(50, 0, now);
        assert_eq!(more_than_all.look(now).remaining, 10);
    }

    #[test]
    fn a_budget_lasts_a_day() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY_SECONDS + DAY_SECONDS / 2);
        let budget = Budget::new(1.0, 0.0, noon);
        budget.spend(0.6, noon);
        assert_eq!(budget.check(noon), Ok(()));
        budget.spend(0.6, noon);
        assert_eq!(budget.check(noon), Err(Duration::from_secs(DAY_SECONDS / 2)));
        let tomorrow = noon + Duration::from_secs(DAY_SECONDS / 2);
        assert_eq!(budget.check(tomorrow), Ok(()));
        budget.spend(0.5, tomorrow);
        assert_eq!(budget.check(tomorrow), Ok(()));
    }

    #[test]
    fn durations_are_spelt_as_openai_does() {
        for (milliseconds, text) in
            [(0, "0ms"), (17, "17ms"), (1000, "1s"), (1500, "1.5s"), (8640, "8.64s"), (360_000, "6m0s"), (61_900, "1m1s")]
        {
            assert_eq!(spelt(Duration::from_millis(milliseconds)), text);
        }
    }
}
