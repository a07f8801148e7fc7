//! From chances to a choice: the rule an operator thinks in, and what the moment allows.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Score;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The cheapest route whose chance of a usable answer reaches this (0 to 1).
    Usable(f32),
    /// At most this share of requests goes to the hosted model (0 to 1): those that need it most.
    HostedShare(f32),
    /// Requests of at least this difficulty (0 to 1) go to the hosted model.
    Difficulty(f32),
}

#[expect(clippy::cast_possible_truncation, reason = "shares within 0 to 1")]
impl From<spectra_config::Policy> for Rule {
    fn from(policy: spectra_config::Policy) -> Self {
        match policy {
            spectra_config::Policy::Threshold(difficulty) => Self::Difficulty(difficulty as f32),
            spectra_config::Policy::Target { usable } => Self::Usable(usable as f32),
            spectra_config::Policy::Budget { hosted_share } => Self::HostedShare(hosted_share as f32),
        }
    }
}

/// The moment: what is there and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// A hosted model may take the request: configured, breaker closed, budget left.
    pub hosted: bool,
    /// The local model may take it: loaded, and able to by the hard rules.
    pub local: bool,
    /// Predicted wait for a local slot, milliseconds.
    pub local_wait_ms: f32,
    /// Predicted wait for the hosted model, milliseconds.
    pub hosted_wait_ms: f32,
    /// Time the local model is expected to take once started, milliseconds; 0 if unknown.
    pub local_time_ms: f32,
    /// Time until the caller gives up, milliseconds.
    pub deadline_ms: Option<f32>,
    /// A wait beyond which a local answer is not worth waiting for while a hosted one is free, milliseconds.
    pub patience_ms: f32,
    /// Expected cost of this request on either route, USD.
    pub local_usd: f32,
    pub hosted_usd: f32,
}

impl Default for Situation {
    fn default() -> Self {
        Self {
            hosted: true,
            local: true,
            local_wait_ms: 0.0,
            hosted_wait_ms: 0.0,
            local_time_ms: 0.0,
            deadline_ms: None,
            patience_ms: 10_000.0,
            local_usd: 0.0,
            hosted_usd: 0.01,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    Local,
    Strong,
}

/// Why a route was taken; a bounded set, fit for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The other route is not there.
    OnlyRoute,
    /// The score is on this side of the rule.
    Score,
    /// Neither route reaches the target; this one is likelier to.
    BestChance,
    /// The local queue is too long.
    Queue,
    /// The local model would miss the deadline.
    Deadline,
    /// Both would do and this one costs less.
    Price,
    /// Sent the other way to learn from it.
    Exploration,
}

impl Why {
    pub const ALL: [Self; 7] =
        [Self::OnlyRoute, Self::Score, Self::BestChance, Self::Queue, Self::Deadline, Self::Price, Self::Exploration];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnlyRoute => "only_route",
            Self::Score => "score",
            Self::BestChance => "best_chance",
            Self::Queue => "queue",
            Self::Deadline => "deadline",
            Self::Price => "price",
            Self::Exploration => "exploration",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub route: Route,
    /// Chance with which this route was taken, given the score: logged, so that another policy can be judged on the same records.
    pub propensity: f32,
    pub why: Why,
}

/// A rule with the little memory it needs.
#[derive(Debug)]
pub struct Policy {
    rule: Rule,
    explore: f32,
    quantile: Mutex<Quantile>,
    /// Counts requests; with the seed it draws the exploration, so that a replay draws the same.
    drawn: AtomicU64,
}

impl Policy {
    /// `explore`: share of requests sent the other way (0 to 0.1; more is cut to 0.1).
    #[must_use]
    pub fn new(rule: Rule, explore: f32) -> Self {
        let start = match rule {
            Rule::HostedShare(share) => Quantile::new(1.0 - unit(share)),
            Rule::Usable(_) | Rule::Difficulty(_) => Quantile::new(0.5),
        };
        Self { rule, explore: unit(explore).min(0.1), quantile: Mutex::new(start), drawn: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Which route takes the request. What the moment forbids comes before any score.
    pub fn choose(&self, score: &Score, now: &Situation) -> Choice {
        let sure = |route, why| Choice { route, propensity: 1.0, why };
        if !now.hosted {
            return sure(Route::Local, Why::OnlyRoute);
        }
        if !now.local {
            return sure(Route::Strong, Why::OnlyRoute);
        }
        let (route, why) = self.by_rule(score, now);
        // Only after the rule, so that a busy hour does not stop the running quantile.
        if let Some(deadline) = now.deadline_ms
            && now.local_wait_ms + now.local_time_ms > deadline
            && now.hosted_wait_ms < deadline
        {
            return sure(Route::Strong, Why::Deadline);
        }
        if now.local_wait_ms > now.patience_ms && now.hosted_wait_ms < now.local_wait_ms {
            return sure(Route::Strong, Why::Queue);
        }
        self.explored(route, why, score.fingerprint)
    }

    /// What of the score or of the rule would have to be different for the other route, in words.
    #[must_use]
    pub fn would_change(&self, score: &Score) -> String {
        match self.rule {
            Rule::Difficulty(limit) => {
                let (verb, side) = if score.difficulty >= limit { ("below", "local") } else { ("of at least", "strong") };
                format!("a difficulty {verb} {limit:.2} ({side}); it is {:.2}", score.difficulty)
            }
            Rule::HostedShare(share) => {
                let limit = self.quantile.lock().value;
                let (verb, side) = if score.need > limit { ("below", "local") } else { ("above", "strong") };
                format!("a need {verb} {limit:.3} ({side}), today's limit for a share of {share:.2}; it is {:.3}", score.need)
            }
            Rule::Usable(target) if score.p_local >= target => {
                format!("a target above {:.2}, the local model's chance; it is {target:.2}", score.p_local)
            }
            Rule::Usable(target) => format!("a target of at most {:.2}, the local model's chance; it is {target:.2}", score.p_local),
        }
    }

    fn by_rule(&self, score: &Score, now: &Situation) -> (Route, Why) {
        match self.rule {
            Rule::Difficulty(limit) => (side(score.difficulty >= limit), Why::Score),
            Rule::HostedShare(share) => {
                let limit = self.quantile.lock().pass(score.need);
                (side(share > 0.0 && score.need > limit), Why::Score)
            }
            Rule::Usable(target) => {
                let (local, hosted) = (score.p_local >= target, score.p_hosted >= target);
                match (local, hosted) {
                    (true, true) if now.hosted_usd < now.local_usd => (Route::Strong, Why::Price),
                    (true, true) => (Route::Local, if now.local_usd < now.hosted_usd { Why::Price } else { Why::Score }),
                    (true, false) => (Route::Local, Why::Score),
                    (false, true) => (Route::Strong, Why::Score),
                    (false, false) => (side(score.p_hosted > score.p_local), Why::BestChance),
                }
            }
        }
    }

    fn explored(&self, route: Route, why: Why, fingerprint: u64) -> Choice {
        if self.explore <= 0.0 {
            return Choice { route, propensity: 1.0, why };
        }
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        if draw(fingerprint ^ count.wrapping_mul(0x9E37_79B9_7F4A_7C15)) < self.explore {
            let other = if route == Route::Local { Route::Strong } else { Route::Local };
            return Choice { route: other, propensity: self.explore, why: Why::Exploration };
        }
        Choice { route, propensity: 1.0 - self.explore, why }
    }
}

/// A running quantile by stochastic approximation (Robbins and Monro): one number, no window.
/// The step shrinks to a floor, so that the limit follows a drift of the traffic.
#[derive(Clone, Copy, Debug)]
struct Quantile {
    at: f32,
    value: f32,
    seen: f32,
    spread: f32,
}

impl Quantile {
    fn new(at: f32) -> Self {
        Self { at, value: 0.0, seen: 0.0, spread: 0.1 }
    }

    /// Takes the next value in and gives the limit that stood before it.
    fn pass(&mut self, value: f32) -> f32 {
        if !value.is_finite() {
            return self.value;
        }
        if self.seen == 0.0 {
            self.value = value;
        }
        let before = self.value;
        self.seen += 1.0;
        self.spread += ((value - self.value).abs() - self.spread) / self.seen.min(200.0);
        let step = self.spread * (4.0 / self.seen.sqrt()).clamp(0.05, 1.0);
        self.value += step * (self.at - if value <= before { 1.0 } else { 0.0 });
        before
    }
}

fn side(strong: bool) -> Route {
    if strong { Route::Strong } else { Route::Local }
}

fn unit(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

/// A number in [0, 1) from a seed (SplitMix64).
pub(super) fn draw(seed: u64) -> f32 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit a float exactly")]
    let bits = (z >> 40) as f32;
    bits / 16_777_216.0
}
