//! How many requests are learned from, and that heads are fitted one fit at a time. A lesson costs as much as scoring several, and a
//! steady sample of a heavy traffic teaches as much as all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Requests learned from in one second at most: all of a modest traffic, the first ones of each second of a heavy one.
const PER_SECOND: u64 = 200;

#[derive(Debug)]
pub(crate) struct Lessons {
    began: Instant,
    /// The second that is counted, and the lessons taken in it: `second * (PER_SECOND + 1) + count`.
    taken: AtomicU64,
    /// A fit is under way.
    fitting: Arc<AtomicBool>,
}

/// The right to make a fit: one at a time, since each holds a thread and megabytes. Whoever drops it gives it back, a fit that panics too.
#[derive(Debug)]
pub(crate) struct Fit(Arc<AtomicBool>);

impl Drop for Fit {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Default for Lessons {
    fn default() -> Self {
        Self { began: Instant::now(), taken: AtomicU64::new(0), fitting: Arc::default() }
    }
}

impl Lessons {
    /// True if one more may be taken now, which it then is.
    pub fn next(&self) -> bool {
        self.next_in(self.began.elapsed().as_secs())
    }

    fn next_in(&self, second: u64) -> bool {
        let start = second * (PER_SECOND + 1);
        let next = |taken: u64| Some(taken.max(start) + 1).filter(|taken| *taken <= start + PER_SECOND);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// `None` while another fit is under way.
    pub fn fit(&self) -> Option<Fit> {
        (!self.fitting.swap(true, Ordering::AcqRel)).then(|| Fit(self.fitting.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_lessons() {
        let lessons = Lessons::default();
        for second in [0, 1, 7] {
            let taken = (0..10 * PER_SECOND).filter(|_| lessons.next_in(second)).count();
            assert_eq!(taken as u64, PER_SECOND, "second {second}");
        }
    }

    #[test]
    fn a_fit_that_panics_lets_the_next_one_begin() {
        let lessons = Lessons::default();
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
