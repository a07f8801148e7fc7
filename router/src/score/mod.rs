//! How hard a request looks, and how likely each route is to answer it usably. Read `Scorer::score` first.

mod calibration;
mod embed;
mod experts;
mod features;
mod fingerprint;
mod forecast;
mod grams;
mod lexicon;
mod memory;
mod merge;
pub mod metrics;
mod policy;
mod ridge;
mod scan;
mod stack;
mod templates;
pub mod train;
mod trees;
mod trend;
mod weights;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use spectra_backends::ChatRequest;

use calibration::{Calibration, sigmoid};
use experts::{Correction, Experts, Learned, Look};
use features::Facts;
pub use features::{DIM, FEATURES, Feature, INTERCEPT, Kind};
use fingerprint::Keys;
pub use forecast::{Estimate, Forecast, Taken};
use lexicon::Lexicon;
use memory::Sample;
pub use policy::{Choice, Policy, Route, Rule, Situation, Why};
use ridge::{Input, WIDTH};
use templates::Templates;
pub use templates::{Counts, Tally};
use trend::Amounts;
pub use weights::{BadWeights, Weights};

/// How many reasons a score carries at most.
const REASONS: usize = 4;

/// Scores requests and learns from what became of them. Shared by reference: all methods take `&self`.
#[derive(Debug)]
pub struct Scorer {
    lexicon: Lexicon,
    weights: Weights,
    settings: Settings,
    experts: Experts,
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
    /// How many of them, with decay, the local model answered usably, and of how many.
    pub seen_local: (f32, f32),
    trace: Option<Box<Trace>>,
}

/// What learning needs to know of a score.
#[derive(Clone, Debug)]
struct Trace {
    keys: Keys,
    form: u64,
    amounts: Amounts,
    x: Input,
    grams: Vec<u16>,
    /// Chances (local, hosted) of the weights alone; and what the experts made of them and of what was seen of the template.
    base: [f32; 2],
    moved: [Correction; 2],
    /// All together. A sum of estimates: it may leave 0 to 1.
    raw: [f32; 2],
}

/// One thing that moved a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// Stable name of the feature, of a bounded set.
    pub feature: &'static str,
    /// Signed contribution to the log-odds of "difficult".
    pub weight: f32,
    words: &'static str,
}

impl Reason {
    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} ({}{:.1})", self.words, if self.weight < 0.0 { "easier, " } else { "+" }, self.weight)
    }
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
    /// Version of the weights that it corrects; empty where it was saved before that was kept.
    #[serde(default)]
    pub weights: String,
    pub templates: Vec<(u64, Counts)>,
    experts: Vec<Learned>,
    calibration: [Calibration; 2],
}

/// Layout of `State`.
pub const STATE_VERSION: u32 = 4;

/// A state that a scorer cannot take up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadState {
    #[error(
        "the state does not say which weights it corrects: it was saved by an earlier build; run its gateway with this build once, then export it again"
    )]
    Unversioned,
    #[error("the state corrects the weights of version {state}, not those of version {own}: what it learned means nothing with others")]
    Weights { state: String, own: String },
    #[error("the state has the layout {state}, or numbers that cannot be; this build reads the layout {STATE_VERSION}")]
    Layout { state: u32 },
}

impl Scorer {
    #[must_use]
    pub fn new(weights: Weights, settings: Settings) -> Self {
        Self {
            lexicon: Lexicon::new(),
            weights,
            settings,
            experts: Experts::default(),
            templates: Templates::new(),
            calibration: RwLock::default(),
        }
    }

    /// Scores a request. Work is bounded by the bytes of its texts; the same request in the same state has the same score.
    pub fn score(&self, request: &ChatRequest) -> Score {
        let facts = Facts::of(request.view(), &self.lexicon);
        let values = facts.values();
        let mut x = [0.0; WIDTH];
        x[..DIM].copy_from_slice(&values);
        let grams = embed::rows(&facts.scan.words);
        x[DIM..].copy_from_slice(&self.weights.table.embed(&grams));
        let (known, plain) = (facts.form(true), facts.form(false));
        let plain_chances = cold(facts.cold(&values));
        let (form, base) = match self.weights.forms.iter().find(|form| form.key == known || form.key == plain) {
            Some(form) => {
                let heads = [form.local.at(&x), form.hosted.at(&x)].map(|chance| chance.clamp(0.02, 0.98));
                (form.key, [0, 1].map(|at| form.share * heads[at] + (1.0 - form.share) * plain_chances[at]))
            }
            None => (plain, plain_chances),
        };
        let (seen, counts) = self.templates.adjust(&facts.keys, base);
        let amounts = trend::amounts(&facts.scan);
        let moved = self.experts.correct(form, Look { amounts: &amounts, x: &x, grams: &grams }, seen);
        let raw = moved.map(Correction::chance);
        let calibration = *self.calibration.read();
        let (p_local, p_hosted) = (calibration[0].apply(raw[0]), calibration[1].apply(raw[1]));
        let log_odds = INTERCEPT + values.iter().zip(&FEATURES).map(|(value, feature)| value * feature.weight).sum::<f32>();
        Score {
            difficulty: sigmoid(log_odds),
            p_local,
            p_hosted,
            // What the hosted model is expected to gain, by the estimates that rank best: uncalibrated.
            need: raw[1] - raw[0],
            reasons: reasons(&values),
            fingerprint: facts.keys.template,
            seen: counts.local.seen + counts.hosted.seen,
            seen_local: (counts.local.usable, counts.local.seen),
            trace: Some(Box::new(Trace { keys: facts.keys, form, amounts, x, grams, base, moved, raw })),
        }
    }

    /// Makes every score a number that is none.
    #[cfg(test)]
    pub(crate) fn spoil(&self) {
        self.calibration.write()[0].learn(f32::NAN, true);
    }

    /// Takes the outcome of a scored request in, unless frozen. True if it is time to `settle`.
    pub fn learn(&self, score: &Score, outcome: Outcome) -> bool {
        let Some(trace) = score.trace.as_ref().filter(|_| !self.settings.freeze) else { return false };
        let route = usize::from(!outcome.local);
        self.calibration.write()[route].learn(trace.raw[route], outcome.usable);
        self.templates.learn(&trace.keys, trace.base, outcome.local, outcome.usable);
        let sample = Sample::new(outcome.usable, trace.base[route], trace.keys, &trace.amounts, &trace.x, &trace.grams);
        self.experts.learn(trace.form, route, sample, trace.moved[route])
    }

    /// `learn`, and `settle` where it is due: for batches, which have the time.
    pub fn teach(&self, score: &Score, outcome: Outcome) {
        if self.learn(score, outcome) {
            self.settle(false);
        }
    }

    /// Fits the heads to what was learned: those that are due, or all. It takes milliseconds: not for a thread that serves requests.
    pub fn settle(&self, all: bool) {
        self.experts.settle(all, &self.templates, &self.weights.table);
    }

    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    #[must_use]
    pub fn export(&self) -> State {
        State {
            version: STATE_VERSION,
            weights: self.weights.version(),
            templates: self.templates.export(),
            experts: self.experts.export(),
            calibration: *self.calibration.read(),
        }
    }

    /// `import` of a state that must have been learned with the weights of this scorer.
    ///
    /// # Errors
    /// A state of another layout or of other weights; nothing is changed then.
    pub fn adopt(&self, state: State) -> Result<(), BadState> {
        let (own, version) = (self.weights.version(), state.version);
        if version == STATE_VERSION && state.weights != own {
            return Err(if state.weights.is_empty() { BadState::Unversioned } else { BadState::Weights { state: state.weights, own } });
        }
        if self.import(state) { Ok(()) } else { Err(BadState::Layout { state: version }) }
    }

    /// Replaces what was learned. Returns false, and changes nothing, for a state of another layout.
    pub fn import(&self, state: State) -> bool {
        if state.version != STATE_VERSION || !state.calibration.iter().all(Calibration::sound) {
            return false;
        }
        self.templates.import(&state.templates);
        self.experts.import(state.experts);
        *self.calibration.write() = state.calibration;
        self.settle(true);
        true
    }
}

/// Chances (local, hosted) for prompts of an unknown form. The hosted one falls so slowly that `need` rises with `hardness`.
fn cold(hardness: f32) -> [f32; 2] {
    let hardness = hardness.clamp(-5.0, 5.0);
    [sigmoid(1.0 - 0.6 * hardness), sigmoid(2.8 - 0.12 * hardness)]
}

/// The strongest contributions, against a short plain question.
fn reasons(values: &[f32; DIM]) -> Vec<Reason> {
    let mut top: [(f32, usize); REASONS] = [(0.0, usize::MAX); REASONS];
    for (at, (value, feature)) in values.iter().zip(&FEATURES).enumerate() {
        let mut candidate = (value * feature.weight, at);
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

fn reason(feature: &Feature, share: f32) -> Reason {
    Reason { feature: feature.name, weight: share, words: feature.words }
}

#[cfg(test)]
mod tests;
