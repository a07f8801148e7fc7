//! What was learned on this gateway's own traffic: one pair of heads for every form of prompt that is seen often.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::calibration::sigmoid;
use super::ridge::{Input, Line, Sums};

/// Most forms that a state file may bring in; there are ten kinds of prompt and the forms of the weights file. Each takes 80 KB.
const FORMS: usize = 64;
/// Penalty on a weight (per standard deviation of its reading), in outcomes.
const LAMBDA: f64 = 2000.0;
/// Outcomes that "the model is right on average" is worth.
const PULL: f64 = 8.0;
/// How soon heads are trusted: by how much their squared error, summed over outcomes, is below that of the form's mean.
const TRUST: f32 = 2.0;
/// Each outcome lets the older ones of its form fade: about the last 20,000 count.
const KEEP: f32 = 0.99995;

/// Heads that correct the chances of the shipped weights, by form and route.
#[derive(Debug, Default)]
pub(super) struct Experts(RwLock<HashMap<u64, [Expert; 2]>>);

#[derive(Debug)]
struct Expert {
    sums: Sums,
    line: Option<Arc<Line>>,
    /// Squared error that the corrections have saved so far, each judged before its outcome was learned; old outcomes fade.
    saved: f32,
    /// Outcomes since the last fit: a fit costs about a millisecond, so it is made again only when it can have changed.
    fresh: f64,
}

/// One form's sums as they are exported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Learned {
    form: u64,
    sums: [Sums; 2],
    saved: [f32; 2],
}

/// What to add to a chance: on the whole form, and for this request among its form; and how much of the latter to believe (0 to 1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Correction {
    pub mean: f32,
    pub slope: f32,
    pub trust: f32,
}

impl Correction {
    pub fn trusted(self) -> f32 {
        self.mean + self.trust * self.slope
    }
}

impl Experts {
    /// Corrections for the chances (local, hosted) of a request of this form. Heads that have not yet proved better than the
    /// chances they correct are believed a little only, so that learning never costs much.
    pub fn correct(&self, form: u64, x: &Input) -> [Correction; 2] {
        let forms = self.0.read();
        let heads = forms.get(&form).map(|pair| [0, 1].map(|at| (pair[at].line.clone(), pair[at].saved)));
        drop(forms);
        heads.map_or([Correction::default(); 2], |heads| {
            heads.map(|(line, saved)| {
                line.map_or(Correction::default(), |line| Correction {
                    mean: line.intercept,
                    slope: line.at(x) - line.intercept,
                    trust: sigmoid(TRUST * saved - 3.0),
                })
            })
        })
    }

    /// Takes in how far the outcome was from the chance that was given before any correction, and the correction that it was given.
    pub fn learn(&self, form: u64, route: usize, x: &Input, surprise: f32, given: Correction) {
        let mut forms = self.0.write();
        let pair = forms.entry(form).or_insert_with(|| [Expert::new(Sums::new(), 0.0), Expert::new(Sums::new(), 0.0)]);
        let expert = &mut pair[route];
        let plain = surprise - given.mean;
        let left = plain - given.slope;
        expert.saved = (expert.saved * 0.999 + plain * plain - left * left).clamp(-5.0, 50.0);
        expert.sums.add(x, surprise, KEEP);
        expert.fresh += 1.0;
        if expert.fresh >= (expert.sums.count * 0.04).clamp(8.0, 400.0) {
            expert.fit();
        }
    }

    pub fn export(&self) -> Vec<Learned> {
        let mut all: Vec<Learned> = self
            .0
            .read()
            .iter()
            .map(|(form, pair)| Learned {
                form: *form,
                sums: [pair[0].sums.clone(), pair[1].sums.clone()],
                saved: [pair[0].saved, pair[1].saved],
            })
            .collect();
        all.sort_unstable_by_key(|learned| learned.form);
        all
    }

    pub fn import(&self, all: Vec<Learned>) {
        let mut forms = HashMap::new();
        for learned in all.into_iter().filter(Learned::sound).take(FORMS) {
            let [local, hosted] = learned.sums;
            forms.insert(learned.form, [Expert::new(local, learned.saved[0]), Expert::new(hosted, learned.saved[1])]);
        }
        *self.0.write() = forms;
    }

    /// Fits every head to all it has seen: after a batch, and before a report.
    pub fn settle(&self) {
        for expert in self.0.write().values_mut().flatten() {
            expert.fit();
        }
    }
}

impl Learned {
    fn sound(&self) -> bool {
        self.sums.iter().all(Sums::sound) && self.saved.iter().all(|saved| saved.is_finite())
    }
}

impl Expert {
    fn new(sums: Sums, saved: f32) -> Self {
        let mut expert = Self { sums, line: None, saved, fresh: 0.0 };
        expert.fit();
        expert
    }

    fn fit(&mut self) {
        self.line = self.sums.fit(LAMBDA, PULL).map(Arc::new);
        self.fresh = 0.0;
    }
}
