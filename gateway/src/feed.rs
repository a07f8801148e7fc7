//! The last hour in memory, for the page and `spectra top`: counts by ten seconds and route, and the latest decisions.
//!
//! Bounded: 360 intervals, `DECISIONS` records. All requests are counted; of those that went well at the first try at most
//! `PLAIN_A_SECOND` are remembered, so that a busy gateway does not push out the others at once.

mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use spectra_router::Trail;

use crate::record::RecordData;
use crate::tally;

pub use view::{Levels, ModelLevel, Since};

/// Seconds of one interval.
const INTERVAL: u64 = 10;
/// Intervals kept: an hour.
const INTERVALS: usize = 360;
/// Decisions kept for opening, and for feedback that changes what is learned.
const DECISIONS: usize = 500;
/// Decisions a second, of which nothing but good is to be told, that are kept.
const PLAIN_A_SECOND: u32 = 100;
/// Times are counted in bins, four to a doubling, from a tenth of a millisecond to seven minutes.
const BINS: usize = 88;
const BINS_PER_DOUBLING: f64 = 4.0;
const FIRST_BIN_MS: f64 = 0.1;

/// Live memory of one gateway.
#[derive(Debug)]
pub struct Feed {
    started: SystemTime,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Number of the next decision; it only grows.
    next: u64,
    decisions: VecDeque<Decided>,
    /// The second of the last plain decision, and how many of them it had.
    plain: (u64, u32),
    intervals: VecDeque<Interval>,
}

#[derive(Debug)]
struct Decided {
    number: u64,
    record: Arc<RecordData>,
    trail: Trail,
    /// What the caller said of it, if it did.
    feedback: Option<bool>,
}

#[derive(Debug)]
struct Interval {
    /// Seconds since 1970, a multiple of `INTERVAL`.
    start: u64,
    routes: BTreeMap<Arc<str>, Tally>,
}

#[derive(Clone, Debug)]
struct Tally {
    ended: [u32; tally::ENDED.len()],
    first: [u32; tally::FIRST.len()],
    cost_usd: f64,
    compared_usd: f64,
    tokens: u64,
    feedback: [u32; 2],
    total: [u32; BINS],
    first_byte: [u32; BINS],
}

impl Default for Feed {
    fn default() -> Self {
        Self { started: SystemTime::now(), inner: Mutex::default() }
    }
}

impl Feed {
    /// Counts a finished request; true where it is to be remembered too.
    pub fn count(&self, record: &RecordData) -> bool {
        let (mut inner, now) = (self.inner.lock(), SystemTime::now());
        let routes = &mut inner.now(now).routes;
        let label = record.route.as_deref().unwrap_or("none");
        match routes.get_mut(label) {
            Some(tally) => tally.count(record),
            None => routes.entry(label.into()).or_default().count(record),
        }
        inner.wants(record, seconds(now))
    }

    /// Takes in a finished request that was counted.
    pub fn remember(&self, record: Arc<RecordData>, trail: Trail) {
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        if inner.decisions.len() == DECISIONS {
            inner.decisions.pop_front();
        }
        inner.decisions.push_back(Decided { number, record, trail, feedback: None });
    }

    /// Notes a caller's word on a request that is still remembered; gives its account for learning, and its route.
    /// `None` where it is not remembered.
    pub fn feedback(&self, request_id: &str, usable: bool) -> Option<(Trail, Option<Arc<str>>)> {
        let mut inner = self.inner.lock();
        let found = inner.decisions.iter_mut().rev().find(|decided| &*decided.record.request_id == request_id)?;
        found.feedback = Some(usable);
        let (trail, route) = (found.trail.clone(), found.record.route.clone());
        let label = route.clone().unwrap_or_else(|| "none".into());
        inner.now(SystemTime::now()).routes.entry(label).or_default().feedback[usize::from(usable)] += 1;
        Some((trail, route))
    }
}

impl Inner {
    /// All that went otherwise than it should, and some of the rest.
    fn wants(&mut self, record: &RecordData, second: u64) -> bool {
        let plain = tally::ended(record) == 0 && record.attempts.len() == 1;
        if self.plain.0 != second {
            self.plain = (second, 0);
        }
        self.plain.1 += u32::from(plain);
        !plain || self.plain.1 <= PLAIN_A_SECOND
    }

    /// The interval that `time` falls into; the latest one if the clock was set back.
    fn now(&mut self, time: SystemTime) -> &mut Interval {
        let start = seconds(time) / INTERVAL * INTERVAL;
        if self.intervals.back().is_none_or(|last| last.start < start) {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(Interval { start, routes: BTreeMap::new() });
        }
        let last = self.intervals.len() - 1;
        &mut self.intervals[last]
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ended: [0; 7],
            first: [0; 5],
            cost_usd: 0.0,
            compared_usd: 0.0,
            tokens: 0,
            feedback: [0; 2],
            total: [0; BINS],
            first_byte: [0; BINS],
        }
    }
}

impl Tally {
    fn count(&mut self, record: &RecordData) {
        self.ended[tally::ended(record)] += 1;
        if let Some(worth) = tally::first_try(record) {
            self.first[worth] += 1;
            self.cost_usd += record.cost_usd;
            self.compared_usd += record.compared_usd;
            self.total[bin(record.timings.total)] += 1;
        }
        if let Some(first_byte) = record.timings.first_byte {
            self.first_byte[bin(first_byte)] += 1;
        }
        self.tokens += record.usage.map_or(0, |usage| usage.completion_tokens);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "clamped to the bins first")]
fn bin(time: Duration) -> usize {
    let doublings = (time.as_secs_f64() * 1e3 / FIRST_BIN_MS).max(1.0).log2();
    (doublings * BINS_PER_DOUBLING).min((BINS - 1) as f64) as usize
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
