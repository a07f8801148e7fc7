//! What the scorer learns from requests that have ended: how many of them, and one fit of the heads at a time. A lesson costs as
//! much as scoring several, and a steady sample of a heavy traffic teaches as much as all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::score::{Outcome, Score, Scorer};
use crate::trail::{Account, Ended, Why};
use crate::verify::{Flaw, Verdict};

/// Requests learned from in one second at most: all of a modest traffic, the first ones of each second of a heavy one.
const PER_SECOND: u64 = 200;

/// Takes in what became of requests. It holds no backend, and may outlive its router.
#[derive(Debug)]
pub struct Lessons {
    scorer: Arc<Scorer>,
    learns: bool,
    pace: Pace,
    /// A fit is under way.
    fitting: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Pace {
    began: Instant,
    /// The second that is counted, and the lessons taken in it: `second * (PER_SECOND + 1) + count`.
    taken: AtomicU64,
}

/// The right to make a fit: one at a time, since each holds a thread and megabytes. Whoever drops it gives it back, a fit that panics too.
#[derive(Debug)]
struct Fit(Arc<AtomicBool>);

impl Drop for Fit {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Lessons {
    pub(crate) fn new(scorer: Arc<Scorer>, learns: bool) -> Self {
        Self { scorer, learns, pace: Pace::default(), fitting: Arc::default() }
    }

    /// Teaches the scorer what became of a request's attempts. Call once, when the request has ended.
    pub fn learn(&self, account: &Account, ended: Ended) {
        if !self.learns || ended == Ended::Cancelled {
            return;
        }
        let Some(score) = &account.score else { return };
        if !self.pace.next() {
            return;
        }
        for attempt in &account.attempts {
            // Only what the first look at the plain request shows is an outcome of it; a fault of the exchange says nothing.
            let usable = match &attempt.verdict {
                Some(Verdict::Pass | Verdict::Mended(_)) => true,
                Some(Verdict::Flawed(Flaw::Backend(_))) | None => continue,
                Some(Verdict::Flawed(_)) => false,
            };
            if matches!(attempt.why, Why::First | Why::Escalate) {
                let propensity = if attempt.rung == 0 { account.propensity } else { 1.0 };
                self.take_in(score, Outcome { local: attempt.local, usable, propensity });
            }
        }
    }

    /// A caller's later word on an answer (`/v1/feedback`), for the attempt that was delivered.
    pub fn feedback(&self, account: &Account, usable: bool) {
        let delivered = account.delivered.and_then(|index| account.attempts.get(index));
        if let (true, Some(score), Some(attempt)) = (self.learns, &account.score, delivered) {
            self.take_in(score, Outcome { local: attempt.local, usable, propensity: account.propensity });
        }
    }

    /// Learns at once; the fit that is due now and then takes milliseconds, so it is made where it blocks nobody.
    fn take_in(&self, score: &Score, outcome: Outcome) {
        if !self.scorer.learn(score, outcome) {
            return;
        }
        let Some(turn) = self.fit() else { return };
        let scorer = self.scorer.clone();
        let fit = move || {
            let _turn = turn;
            scorer.settle(false);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(fit)),
            Err(_) => fit(),
        }
    }

    /// `None` while another fit is under way.
    fn fit(&self) -> Option<Fit> {
        (!self.fitting.swap(true, Ordering::AcqRel)).then(|| Fit(self.fitting.clone()))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { began: Instant::now(), taken: AtomicU64::new(0) }
    }
}

impl Pace {
    /// True if one more may be taken now, which it then is.
    fn next(&self) -> bool {
        self.next_in(self.began.elapsed().as_secs())
    }

    fn next_in(&self, second: u64) -> bool {
        let start = second * (PER_SECOND + 1);
        let next = |taken: u64| Some(taken.max(start) + 1).filter(|taken| *taken <= start + PER_SECOND);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::{Settings, Weights};

    #[test]
    fn each_second_has_its_lessons() {
        let pace = Pace::default();
        for second in [0, 1, 7] {
            let taken = (0..10 * PER_SECOND).filter(|_| pace.next_in(second)).count();
            assert_eq!(taken as u64, PER_SECOND, "second {second}");
        }
    }

    #[test]
    fn a_fit_that_panics_lets_the_next_one_begin() {
        let lessons = Lessons::new(Arc::new(Scorer::new(Weights::builtin(), Settings::default())), true);
        let fit = lessons.fit().unwrap();
        assert!(lessons.fit().is_none(), "one at a time");
        let ended = std::thread::spawn(move || {
            let _fit = fit;
            panic!("a fit fails");
        });
        assert!(ended.join().is_err());
        assert!(lessons.fit().is_some());
    }
}
