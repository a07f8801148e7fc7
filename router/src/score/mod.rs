//! How hard a request looks, and how likely each route is to answer it usably. Read `Scorer::score` first.

mod features;
mod fingerprint;
mod lexicon;
mod policy;
mod scan;
mod templates;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use spectra_backends::ChatRequest;

use features::Facts;
pub use features::{DIM, FEATURES, Feature, INTERCEPT, Kind};
use fingerprint::Keys;
use lexicon::Lexicon;
pub use policy::{Choice, Policy, Route, Rule, Situation, Why};
pub use templates::Counts;
use templates::Templates;

/// How many reasons a score carries at most.
const REASONS: usize = 4;

/// Scores requests and learns from what became of them. Shared by reference: all methods take `&self`.
#[derive(Debug)]
pub struct Scorer {
    lexicon: Lexicon,
    weights: Weights,
    settings: Settings,
    templates: Templates,
    calibration: RwLock<[Calibration; 2]>,
}

/// What a request looks like to the router.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// For people: 0 (anyone can) to 1 (hard).
    pub difficulty: f32,
    /// Calibrated chance that the local model's answer is usable, 0 to 1.
    pub p_local: f32,
    /// The same for the hosted model.
    pub p_hosted: f32,
    /// Higher: the strong model is needed more. Only its order has a meaning.
    pub need: f32,
    /// What moved the difficulty, the strongest first.
    pub reasons: Vec<Reason>,
    /// Hash of the request's template: equal for requests that differ in their variables only.
    pub fingerprint: u64,
    /// How many outcomes of this template the estimate rests on, with decay.
    pub seen: f32,
    keys: Keys,
    /// Chances before calibration, local and hosted: what the calibration learns from.
    raw: [f32; 2],
}

/// One thing that moved a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// Stable name of the feature, of a bounded set.
    pub feature: &'static str,
    /// Signed contribution to the log-odds of "difficult".
    pub weight: f32,
    /// In words.
    pub text: String,
}

/// What became of a request, as the verifier saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// True: the local model answered; false: the hosted one.
    pub local: bool,
    pub usable: bool,
    /// Chance with which that route was taken (`Choice::propensity`), 0 to 1.
    pub propensity: f32,
}

/// What an operator may set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Share of requests sent the other way to learn from them (0 to 0.1).
    pub explore: f32,
    /// Nothing is learned; the state stays as imported.
    pub freeze: bool,
}

/// Everything learned since the start; survives a restart and travels between replicas.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of the layout; another version is not imported.
    pub version: u32,
    pub templates: Vec<(u64, Counts)>,
    calibration: [Calibration; 2],
}

/// Layout of `State`.
pub const STATE_VERSION: u32 = 1;

/// The trained part of the score.
#[derive(Clone, Debug)]
pub struct Weights {
    features: [f32; DIM],
    intercept: f32,
}

impl Weights {
    /// The weights that ship with this build.
    #[must_use]
    pub fn builtin() -> Self {
        Self::v0()
    }

    /// Version 0: the table in `features.rs`, set by hand.
    #[must_use]
    pub fn v0() -> Self {
        Self { features: std::array::from_fn(|at| FEATURES[at].weight), intercept: INTERCEPT }
    }
}

impl Scorer {
    #[must_use]
    pub fn new(weights: Weights, settings: Settings) -> Self {
        Self { lexicon: Lexicon::new(), weights, settings, templates: Templates::new(), calibration: RwLock::default() }
    }

    /// Scores a request. Work is bounded by the bytes of its texts; the same request in the same state has the same score.
    pub fn score(&self, request: &ChatRequest) -> Score {
        let facts = Facts::of(request.view(), &self.lexicon);
        let values = facts.values();
        let log_odds =
            self.weights.intercept + values.iter().zip(&self.weights.features).map(|(value, weight)| value * weight).sum::<f32>();
        let difficulty = sigmoid(log_odds);
        let (prior_local, prior_hosted) = (0.97 - 0.75 * difficulty, 0.99 - 0.22 * difficulty);
        let (raw_local, raw_hosted, seen) = self.templates.adjust(&facts.keys, prior_local, prior_hosted);
        let calibration = *self.calibration.read();
        let (p_local, p_hosted) = (calibration[0].apply(raw_local), calibration[1].apply(raw_hosted));
        Score {
            difficulty,
            p_local,
            p_hosted,
            need: p_hosted * (1.0 - p_local),
            reasons: self.reasons(&values),
            fingerprint: facts.keys.template,
            seen,
            keys: facts.keys,
            raw: [raw_local, raw_hosted],
        }
    }

    /// Takes the outcome of a scored request in, unless frozen.
    pub fn learn(&self, score: &Score, outcome: Outcome) {
        if self.settings.freeze {
            return;
        }
        let head = usize::from(!outcome.local);
        self.calibration.write()[head].learn(score.raw[head], outcome.usable);
        self.templates.learn(&score.keys, outcome.local, outcome.usable);
    }

    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    #[must_use]
    pub fn export(&self) -> State {
        State { version: STATE_VERSION, templates: self.templates.export(), calibration: *self.calibration.read() }
    }

    /// Replaces what was learned. Returns false, and changes nothing, for a state of another layout.
    pub fn import(&self, state: State) -> bool {
        if state.version != STATE_VERSION || !state.calibration.iter().all(Calibration::sound) {
            return false;
        }
        self.templates.import(&state.templates);
        *self.calibration.write() = state.calibration;
        true
    }

    /// The strongest contributions, against a short plain question.
    fn reasons(&self, values: &[f32; DIM]) -> Vec<Reason> {
        let mut top: [(f32, usize); REASONS] = [(0.0, usize::MAX); REASONS];
        for (at, (value, weight)) in values.iter().zip(&self.weights.features).enumerate() {
            let share = value * weight;
            let mut candidate = (share, at);
            for slot in &mut top {
                if candidate.0.abs() > slot.0.abs() {
                    std::mem::swap(slot, &mut candidate);
                }
            }
        }
        top.iter()
            .filter(|(share, _)| share.abs() >= 0.05)
            .filter_map(|(share, at)| FEATURES.get(*at).map(|feature| reason(feature, *share)))
            .collect()
    }
}

fn reason(feature: &Feature, share: f32) -> Reason {
    Reason {
        feature: feature.name,
        weight: share,
        text: format!("{} ({}{:.1})", feature.words, if share < 0.0 { "easier, " } else { "+" }, share),
    }
}

/// Platt's calibration learned online: usable ~ sigmoid(slope * logit(p) + offset), by Newton steps with a Gaussian prior on
/// "already calibrated" (Platt 1999; the recursive form is a Laplace approximation).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Calibration {
    slope: f32,
    offset: f32,
    /// Precision of (slope, offset), upper triangle.
    precision: [f32; 3],
}

impl Default for Calibration {
    fn default() -> Self {
        Self { slope: 1.0, offset: 0.0, precision: [20.0, 0.0, 4.0] }
    }
}

impl Calibration {
    fn apply(&self, chance: f32) -> f32 {
        sigmoid(self.slope * logit(chance) + self.offset)
    }

    fn learn(&mut self, chance: f32, usable: bool) {
        let x = logit(chance);
        let p = self.apply(chance);
        let error = if usable { 1.0 } else { 0.0 } - p;
        let w = (p * (1.0 - p)).max(0.01);
        self.precision[0] += w * x * x;
        self.precision[1] += w * x;
        self.precision[2] += w;
        let [a, b, c] = self.precision;
        let det = (a * c - b * b).max(1e-6);
        self.slope = (self.slope + error * (c * x - b) / det).clamp(0.2, 3.0);
        self.offset = (self.offset + error * (a - b * x) / det).clamp(-4.0, 4.0);
        // Old outcomes fade: about the last 2,000 count.
        if c > 400.0 {
            for value in &mut self.precision {
                *value *= 0.9995;
            }
        }
    }

    fn sound(&self) -> bool {
        self.slope.is_finite() && self.offset.is_finite() && self.precision.iter().all(|value| value.is_finite())
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn logit(p: f32) -> f32 {
    let p = p.clamp(0.005, 0.995);
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests;
