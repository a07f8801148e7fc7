//! How many requests are learned from. One costs as much as scoring several, and a steady sample of a heavy traffic teaches
//! as much as all of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Requests learned from in one second at most: all of a modest traffic, the first ones of each second of a heavy one.
const PER_SECOND: u64 = 200;

#[derive(Debug)]
pub(crate) struct Lessons {
    began: Instant,
    /// The second that is counted, and the lessons taken in it: `second * (PER_SECOND + 1) + count`.
    taken: AtomicU64,
}

impl Default for Lessons {
    fn default() -> Self {
        Self { began: Instant::now(), taken: AtomicU64::new(0) }
    }
}

impl Lessons {
    /// True if one more may be taken now, which it then is.
    pub fn next(&self) -> bool {
        self.next_in(self.began.elapsed().as_secs())
    }

    fn next_in(&self, second: u64) -> bool {
        let start = second * (PER_SECOND + 1);
        self.taken.fetch_update(Relaxed, Relaxed, |taken| Some(taken.max(start) + 1).filter(|taken| *taken <= start + PER_SECOND)).is_ok()
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
}
