//! What was learned on this gateway's own traffic: heads of three kinds for every form of prompt that is seen often.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::embed::Table;
use super::grams::Grams;
use super::memory::{Lesson, Memory, Sample, bin, unbin};
use super::ridge::{Input, Line, Sums, WIDTH};
use super::stack::{HEADS, Stack};
use super::templates::Templates;
use super::trees::Trees;

/// Most forms that are learned; there are ten kinds of prompt and the forms of the weights file. Each takes up to 2 MB.
const FORMS: usize = 24;
/// Penalty on a weight (per standard deviation of its reading), in outcomes.
const LAMBDA: f64 = 2000.0;

/// Outcomes that "the model is right on average" is worth.
const PULL: f64 = 8.0;
/// Squared units of expectations that "they run as steeply as they should" is worth.
const STEEP: f32 = 0.5;
/// Fewest outcomes before words and trees are fitted.
const FEW: usize = 24;

/// Heads that correct the chances of the shipped weights, by form and route.
#[derive(Debug, Default)]
pub(super) struct Experts(RwLock<HashMap<u64, [Expert; 2]>>);

#[derive(Debug)]
struct Expert {
    memory: Memory,
    stack: Stack,
    /// What `stack` says of the heads: asked for every request, changed by outcomes only.
    trust: [f32; HEADS],
    heads: Arc<Heads>,
    /// Outcomes since the last fit: fitting costs milliseconds, so it is done again only when it can have changed much.
    fresh: usize,
}

/// A ridge over the readings, one over the words, and trees over the readings: each sees what the others cannot.
#[derive(Debug, Default)]
struct Heads {
    line: Option<Line>,
    grams: Grams,
    trees: Trees,
}

/// What a prompt looks like to the heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub x: &'a Input,
    pub grams: &'a [u16],
}

/// One form as it is exported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Learned {
    form: u64,
    memory: [Memory; 2],
    stack: [Stack; 2],
}

impl Learned {
    pub fn form(&self) -> u64 {
        self.form
    }

    pub fn merge(self, other: &Self) -> Self {
        Self {
            form: self.form,
            memory: [0, 1].map(|at| self.memory[at].merge(&other.memory[at])),
            stack: [0, 1].map(|at| self.stack[at].merge(&other.stack[at])),
        }
    }
}

/// What to add to a chance: on the whole form, and for this request among its form as each head has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Correction {
    mean: f32,
    parts: [f32; HEADS],
    trusted: f32,
}

impl Correction {
    /// The heads' word, each believed as far as it has proved right.
    pub fn trusted(self) -> f32 {
        self.trusted
    }
}

impl Experts {
    /// Corrections for the chances (local, hosted) of a request of this form.
    pub fn correct(&self, form: u64, look: Look) -> [Correction; 2] {
        let forms = self.0.read();
        let Some(pair) = forms.get(&form) else { return [Correction::default(); 2] };
        let heads = [0, 1].map(|at| (pair[at].heads.clone(), pair[at].trust));
        drop(forms);
        let mut bins = [0_u8; super::DIM];
        for (bin_of, value) in bins.iter_mut().zip(look.x) {
            *bin_of = bin(*value);
        }
        heads.map(|(heads, trust)| {
            let Some(line) = &heads.line else { return Correction::default() };
            let parts = [line.at(look.x) - line.intercept, heads.grams.at(look.grams), heads.trees.at(&bins)];
            let told: f32 = parts.iter().zip(trust).map(|(part, trust)| part * trust).sum();
            Correction { mean: line.intercept, parts, trusted: line.intercept + told }
        })
    }

    /// Takes in an outcome, how far it was from what was expected without the heads, and what they said. True if it is time to
    /// `settle`.
    pub fn learn(&self, form: u64, route: usize, sample: Sample, surprise: f32, given: Correction) -> bool {
        let mut forms = self.0.write();
        if forms.len() >= FORMS && !forms.contains_key(&form) {
            return false;
        }
        let expert = &mut forms.entry(form).or_default()[route];
        expert.stack.learn(given.parts, surprise - given.mean);
        expert.trust = expert.stack.trust();
        expert.memory.add(sample);
        expert.fresh += 1;
        expert.due()
    }

    pub fn export(&self) -> Vec<Learned> {
        let mut all: Vec<Learned> = self
            .0
            .read()
            .iter()
            .map(|(form, pair)| Learned {
                form: *form,
                memory: [pair[0].memory.clone(), pair[1].memory.clone()],
                stack: [pair[0].stack, pair[1].stack],
            })
            .collect();
        all.sort_unstable_by_key(|learned| learned.form);
        all
    }

    /// Nothing is fitted: `settle` does.
    pub fn import(&self, all: Vec<Learned>) {
        let mut forms: HashMap<u64, [Expert; 2]> = HashMap::new();
        for Learned { form, memory, stack } in all.into_iter().filter(|learned| learned.stack.iter().all(Stack::sound)).take(FORMS) {
            let [local, hosted] = memory;
            forms.insert(form, [Expert::new(local, stack[0]), Expert::new(hosted, stack[1])]);
        }
        *self.0.write() = forms;
    }

    /// Fits the heads that are due, or all that saw something new. The fit is made outside the lock.
    pub fn settle(&self, all: bool, templates: &Templates, table: &Table) {
        let wanted: Vec<(u64, usize)> = {
            let forms = self.0.read();
            let each = forms.iter().flat_map(|(form, pair)| [0, 1].map(|route| (*form, route, &pair[route])));
            each.filter(|(.., expert)| expert.fresh > 0 && (all || expert.due())).map(|(form, route, _)| (form, route)).collect()
        };
        for (form, route) in wanted {
            let Some(memory) = self.0.write().get_mut(&form).map(|pair| {
                pair[route].fresh = 0;
                pair[route].memory.clone()
            }) else {
                continue;
            };
            let expected = |sample: &Sample| templates.without(&sample.keys, sample.chance, route == 0, sample.usable);
            let lessons = lessons(memory.iter().map(|sample| (sample, expected(sample))).collect());
            let heads = Arc::new(Heads::fit(&lessons, table));
            if let Some(pair) = self.0.write().get_mut(&form) {
                pair[route].heads = heads;
            }
        }
    }
}

/// What the heads are to explain of every outcome. How steeply the expectations themselves should run is taken out first (the
/// calibration sees to it later): heads that had to flatten them would undo the order that length gives.
fn lessons(expected: Vec<(&Sample, f32)>) -> Vec<Lesson<'_>> {
    let happened = |sample: &Sample| if sample.usable { 1.0 } else { 0.0 };
    let count = expected.iter().map(|_| 1.0_f32).sum::<f32>().max(1.0);
    let mean = expected.iter().map(|(_, chance)| chance).sum::<f32>() / count;
    let usable = expected.iter().map(|(sample, _)| happened(sample)).sum::<f32>() / count;
    let (mut cross, mut square) = (STEEP, STEEP);
    for (sample, chance) in &expected {
        cross += (chance - mean) * (happened(sample) - usable);
        square += (chance - mean) * (chance - mean);
    }
    let slope = (cross / square).clamp(0.0, 1.5);
    expected.into_iter().map(|(sample, chance)| (sample, happened(sample) - mean - slope * (chance - mean))).collect()
}

impl Default for Expert {
    fn default() -> Self {
        Self::new(Memory::default(), Stack::default())
    }
}

impl Expert {
    fn new(memory: Memory, stack: Stack) -> Self {
        Self { fresh: memory.len(), memory, trust: stack.trust(), stack, heads: Arc::default() }
    }

    /// A fit is worth its time again after a fifth more outcomes.
    fn due(&self) -> bool {
        self.fresh >= (self.memory.len() / 5).clamp(8, 400)
    }
}

impl Heads {
    fn fit(lessons: &[Lesson], table: &Table) -> Self {
        let mut sums = Sums::new();
        for (sample, surprise) in lessons {
            let mut x = [0.0; WIDTH];
            for (value, bin) in x.iter_mut().zip(&sample.bins) {
                *value = unbin(*bin);
            }
            x[super::DIM..].copy_from_slice(&table.embed(&sample.grams));
            sums.add(&x, *surprise);
        }
        let Some(line) = sums.fit(LAMBDA, PULL) else { return Self::default() };
        if lessons.len() < FEW {
            return Self { line: Some(line), ..Self::default() };
        }
        Self { grams: Grams::fit(lessons, line.intercept), trees: Trees::fit(lessons, line.intercept), line: Some(line) }
    }
}
