//! When a backend is left alone for a while: a state machine over explicit time, without clock, lock or task.

use std::collections::VecDeque;
use std::time::Duration;

use spectra_config as config;
use tokio::time::Instant;

/// One backend's breaker. Closed: all pass. Open: none. Half open: one probe at a time.
#[derive(Debug)]
pub struct Breaker {
    rules: config::Breaker,
    /// Weight of failure of the last attempts, 0 (good) to 1 (transport failure), oldest first.
    window: VecDeque<f64>,
    phase: Inner,
    /// How long the next opening lasts.
    open_for: Duration,
    /// The upstream's own `Retry-After`; independent of the window.
    cool_until: Option<Instant>,
    /// A probe's exchange was good; what the router says of its answer is still to come.
    on_probation: bool,
    /// Times it went from closed or half open to open.
    opened: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Inner {
    Closed,
    Open { until: Instant },
    Probing,
}

/// What an attempt is allowed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Normal,
    /// The one attempt that decides whether the breaker closes.
    Probe,
}

/// How an attempt ended, as far as the backend's health is concerned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Good,
    /// Timeout, reset, 5xx, 429, a rejected key: something asking again now would meet too.
    Bad,
    /// Cancelled by us or refused for the caller's fault: says nothing.
    Neutral,
}

/// State by name, for metrics and readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    HalfOpen,
    Open,
}

impl State {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

impl Breaker {
    #[must_use]
    pub fn new(rules: config::Breaker) -> Self {
        Self {
            rules,
            window: VecDeque::new(),
            phase: Inner::Closed,
            open_for: Duration::from_millis(rules.open_ms),
            cool_until: None,
            on_probation: false,
            opened: 0,
        }
    }

    /// May an attempt start at `now`?
    ///
    /// # Errors
    /// How long to stay away, at least a millisecond.
    pub fn admit(&mut self, now: Instant) -> Result<Admission, Duration> {
        if let Some(wait) = self.cooling(now) {
            return Err(wait);
        }
        match self.phase {
            Inner::Closed => Ok(Admission::Normal),
            Inner::Open { until } if until > now => Err(at_least_a_millisecond(until - now)),
            Inner::Open { .. } => {
                self.phase = Inner::Probing;
                Ok(Admission::Probe)
            }
            // The probe under way decides; it ends within the attempt's own deadline.
            Inner::Probing => Err(Duration::from_millis(self.rules.open_ms.clamp(1, 1000))),
        }
    }

    /// The end of an attempt that `admit` let through.
    pub fn record(&mut self, admission: Admission, outcome: Outcome, now: Instant) {
        match (admission, outcome) {
            // The next attempt probes: this one taught nothing.
            (Admission::Probe, Outcome::Neutral) => self.phase = Inner::Open { until: now },
            (Admission::Probe, Outcome::Good) => {
                self.window.clear();
                self.phase = Inner::Closed;
                self.on_probation = true;
                self.push(0.0);
            }
            (Admission::Probe, Outcome::Bad) => self.open(now),
            (Admission::Normal, Outcome::Neutral) => {}
            // Attempts that began before it opened do not shorten or lengthen the opening.
            (Admission::Normal, _) if self.phase != Inner::Closed => {}
            (Admission::Normal, outcome) => {
                self.push(if outcome == Outcome::Bad { 1.0 } else { 0.0 });
                self.open_if_due(now);
            }
        }
    }

    /// The router's verdict on an attempt whose transport was good. An unusable answer turns one good attempt of
    /// the window into a failure of weight `unusable_weight`, and a probe's into a failed probe; a usable one ends the
    /// growth of the open time.
    pub fn report(&mut self, usable: bool, now: Instant) {
        let on_probation = std::mem::take(&mut self.on_probation);
        if usable {
            if self.phase == Inner::Closed {
                self.open_for = Duration::from_millis(self.rules.open_ms);
            }
            return;
        }
        if self.phase != Inner::Closed {
            return;
        }
        let weight = self.rules.unusable_weight.clamp(0.0, 1.0);
        if on_probation && weight > 0.0 {
            return self.open(now);
        }
        match self.window.iter_mut().rev().find(|failure| **failure == 0.0) {
            Some(good) => *good = weight,
            None => self.push(weight),
        }
        self.open_if_due(now);
    }

    /// Honours an upstream's `Retry-After`, at most `open_max_ms`.
    pub fn cool_down(&mut self, wait: Duration, now: Instant) {
        let until = now + wait.min(Duration::from_millis(self.rules.open_max_ms));
        self.cool_until = Some(self.cool_until.map_or(until, |old| old.max(until)));
    }

    /// What it would do with an attempt at `now`; changes nothing.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        if self.cool_until.is_some_and(|until| until > now) {
            return State::Open;
        }
        match self.phase {
            Inner::Closed => State::Closed,
            Inner::Open { until } if until > now => State::Open,
            Inner::Open { .. } | Inner::Probing => State::HalfOpen,
        }
    }

    /// How long attempts will be refused; `None` if one may start now.
    #[must_use]
    pub fn retry_after(&self, now: Instant) -> Option<Duration> {
        let open = match self.phase {
            Inner::Open { until } if until > now => Some(until - now),
            Inner::Probing => Some(Duration::from_millis(self.rules.open_ms.clamp(1, 1000))),
            _ => None,
        };
        let cooling = self.cool_until.filter(|until| *until > now).map(|until| until - now);
        open.max(cooling).map(at_least_a_millisecond)
    }

    /// Times it opened since it was made.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    fn cooling(&mut self, now: Instant) -> Option<Duration> {
        let until = self.cool_until?;
        if until > now {
            return Some(at_least_a_millisecond(until - now));
        }
        self.cool_until = None;
        None
    }

    fn push(&mut self, failure: f64) {
        let window = self.rules.window.max(1) as usize;
        while self.window.len() >= window {
            self.window.pop_front();
        }
        self.window.push_back(failure);
    }

    fn open_if_due(&mut self, now: Instant) {
        let attempts = self.window.len();
        if attempts < self.rules.min_attempts.max(1) as usize {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a window is a small number of attempts")]
        let share = self.window.iter().sum::<f64>() / attempts as f64;
        if share >= self.rules.failure_share {
            self.open(now);
        }
    }

    fn open(&mut self, now: Instant) {
        self.phase = Inner::Open { until: now + self.open_for };
        self.open_for = (self.open_for * 2).min(Duration::from_millis(self.rules.open_max_ms.max(self.rules.open_ms)));
        self.window.clear();
        self.opened += 1;
    }
}

fn at_least_a_millisecond(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: config::Breaker =
        config::Breaker { failure_share: 0.5, window: 4, min_attempts: 2, open_ms: 100, open_max_ms: 350, unusable_weight: 0.5 };

    /// Plays a history: `g` good, `b` bad, `n` neutral, `u` good but unusable, `k` good and usable, `.` ten milliseconds pass,
    /// `_` a hundred. Gives what each attempt met: `|` admitted, `?` probe, `x` refused.
    fn play(rules: config::Breaker, history: &str) -> String {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(rules);
        let mut seen = String::new();
        for step in history.chars() {
            let outcome = match step {
                '.' | '_' => {
                    now += Duration::from_millis(if step == '.' { 10 } else { 100 });
                    continue;
                }
                'b' => Outcome::Bad,
                'n' => Outcome::Neutral,
                _ => Outcome::Good,
            };
            let Ok(admission) = breaker.admit(now) else {
                seen.push('x');
                continue;
            };
            seen.push(if admission == Admission::Probe { '?' } else { '|' });
            breaker.record(admission, outcome, now);
            match step {
                'u' => breaker.report(false, now),
                'k' => breaker.report(true, now),
                _ => {}
            }
        }
        seen
    }

    #[test]
    fn histories() {
        for (history, seen) in [
            ("gggg", "||||"),
            ("bbb", "||x"),
            ("gbb", "||x"),
            ("ggggbb", "||||||"),
            ("ggggbbg", "||||||x"),
            ("bb.........b.b", "||x?"),
            ("bb_gg", "||?|"),
            ("bb_bg_g__g", "||?xx?"),
            ("nnnnnnb", "|||||||"),
            ("bb_nng", "||???"),
            ("uu", "||"),
            ("uug", "||x"),
            ("ugugug", "||||||"),
            ("kkkk", "||||"),
        ] {
            let got = play(RULES, history);
            assert!(got.starts_with(seen), "{history}: {got}, not {seen}");
        }
    }

    #[test]
    fn b17_garbage_opens_it_and_one_usable_probe_closes_it() {
        let rules = config::Breaker { min_attempts: 5, window: 20, ..RULES };
        assert_eq!(play(rules, "uuuuuuu"), "|||||xx");
        assert_eq!(play(rules, "uuuuu_kkk"), "|||||?||");
        assert_eq!(play(rules, "uuuuu_ug__kk"), "|||||?x?|", "a probe's useless answer is a failed probe");
    }

    #[test]
    fn open_time_doubles_to_its_bound_and_falls_back_after_a_usable_answer() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(RULES);
        let mut waits = Vec::new();
        for _ in 0..2 {
            let admission = breaker.admit(now).unwrap();
            breaker.record(admission, Outcome::Bad, now);
        }
        for _ in 0..4 {
            let wait = breaker.admit(now).unwrap_err();
            waits.push(wait.as_millis());
            now += wait;
            assert_eq!(breaker.state(now), State::HalfOpen);
            let probe = breaker.admit(now).unwrap();
            assert!(breaker.admit(now).is_err(), "one probe at a time");
            breaker.record(probe, Outcome::Bad, now);
        }
        assert_eq!(waits, [100, 200, 350, 350]);
        now += breaker.retry_after(now).unwrap();
        let probe = breaker.admit(now).unwrap();
        breaker.record(probe, Outcome::Good, now);
        breaker.report(true, now);
        for _ in 0..2 {
            breaker.record(Admission::Normal, Outcome::Bad, now);
        }
        assert_eq!(breaker.retry_after(now), Some(Duration::from_millis(100)));
        assert_eq!(breaker.opened(), 6);
    }

    #[test]
    fn b14_retry_after_is_a_cool_down_within_the_bound() {
        let now = Instant::now();
        let mut breaker = Breaker::new(RULES);
        breaker.cool_down(Duration::from_millis(200), now);
        breaker.cool_down(Duration::from_millis(50), now);
        assert_eq!(breaker.admit(now), Err(Duration::from_millis(200)));
        assert_eq!(breaker.admit(now + Duration::from_millis(200)), Ok(Admission::Normal));
        breaker.cool_down(Duration::from_hours(1), now);
        assert_eq!(breaker.retry_after(now), Some(Duration::from_millis(350)));
    }

    /// Every history of up to eight steps: it always admits again within `open_max_ms`, and never two probes at once.
    #[test]
    fn every_history_recovers() {
        let steps = ["g", "b", "u", "n", "_"];
        for length in 0..=6_u32 {
            for number in 0..5_usize.pow(length) {
                let history: String = (0..length).map(|at| steps[number / 5_usize.pow(at) % 5]).collect();
                let seen = play(RULES, &format!("{history}____g"));
                assert!(!seen.ends_with('x'), "{history}: {seen}");
            }
        }
    }
}
