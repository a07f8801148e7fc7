//! What was learned on this gateway's own traffic: a trend over all of it, and heads of three kinds for every form of prompt that is
//! seen often.

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
use super::trend::{Amounts, Trend};

/// Most forms that are learned; there are ten kinds of prompt and the forms of the weights file. Each takes up to 2 MB.
const FORMS: usize = 24;
/// Penalty on a weight (per standard deviation of its reading), in outcomes.
const LAMBDA: f64 = 2000.0;

/// Outcomes that "a form's chances are right on average" is worth.
const PULL: f64 = 30.0;
/// Fewest outcomes before words and trees are fitted.
const FEW: usize = 24;

/// What corrects the chances of the shipped weights and of the templates.
#[derive(Debug, Default)]
pub(super) struct Experts {
    /// By route.
    trends: RwLock<[Option<Trend>; 2]>,
    /// By form and route.
    forms: RwLock<HashMap<u64, [Expert; 2]>>,
}

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
    pub amounts: &'a Amounts,
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

/// A chance, and how it came about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Correction {
    /// Without the heads: by the trend, and right on average of the form.
    before: f32,
    /// What each head would add.
    parts: [f32; HEADS],
    chance: f32,
}

impl Correction {
    /// With the heads' word, each believed as far as it has proved right.
    pub fn chance(self) -> f32 {
        self.chance
    }
}

impl Experts {
    /// The chances (local, hosted) of a request of this form, corrected; `seen` are those with what was seen of its template.
    pub fn correct(&self, form: u64, look: Look, seen: [f32; 2]) -> [Correction; 2] {
        let trends = *self.trends.read();
        let told = [0, 1].map(|at| trends[at].map_or(seen[at], |trend| trend.at(seen[at], look.amounts)));
        let plain = told.map(|chance| Correction { before: chance, parts: [0.0; HEADS], chance });
        let forms = self.forms.read();
        let Some(pair) = forms.get(&form) else { return plain };
        let heads = [0, 1].map(|at| (pair[at].heads.clone(), pair[at].trust));
        drop(forms);
        let mut bins = [0_u8; super::DIM];
        for (bin_of, value) in bins.iter_mut().zip(look.x) {
            *bin_of = bin(*value);
        }
        [0, 1].map(|at| {
            let (heads, trust) = &heads[at];
            let Some(line) = &heads.line else { return plain[at] };
            let before = told[at] + line.intercept;
            let parts = [line.at(look.x) - line.intercept, heads.grams.at(look.grams), heads.trees.at(&bins)];
            Correction { before, parts, chance: before + parts.iter().zip(trust).map(|(part, trust)| part * trust).sum::<f32>() }
        })
    }

    /// Takes in an outcome, and what was said before it was known. True if it is time to `settle`.
    pub fn learn(&self, form: u64, route: usize, sample: Sample, given: Correction) -> bool {
        let mut forms = self.forms.write();
        if forms.len() >= FORMS && !forms.contains_key(&form) {
            return false;
        }
        let expert = &mut forms.entry(form).or_default()[route];
        expert.stack.learn(given.parts, happened(&sample) - given.before);
        expert.trust = expert.stack.trust();
        expert.memory.add(sample);
        expert.fresh += 1;
        expert.due()
    }

    pub fn export(&self) -> Vec<Learned> {
        let mut all: Vec<Learned> = self
            .forms
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
        *self.forms.write() = forms;
        *self.trends.write() = [None; 2];
    }

    /// Fits the trend and the heads that are due, or all that saw something new. The fits are made outside the locks.
    pub fn settle(&self, all: bool, templates: &Templates, table: &Table) {
        let wanted: Vec<(u64, usize)> = {
            let forms = self.forms.read();
            let each = forms.iter().flat_map(|(form, pair)| [0, 1].map(|route| (*form, route, &pair[route])));
            each.filter(|(.., expert)| expert.fresh > 0 && (all || expert.due())).map(|(form, route, _)| (form, route)).collect()
        };
        let expected = |route: usize, sample: &Sample| templates.without(&sample.keys, sample.chance, route == 0, sample.usable);
        let mut trends = *self.trends.read();
        for route in [0, 1].into_iter().filter(|route| wanted.iter().any(|(_, of)| of == route)) {
            let samples: Vec<Sample> = {
                let forms = self.forms.read();
                let mut pairs: Vec<_> = forms.iter().collect();
                pairs.sort_unstable_by_key(|(form, _)| **form);
                pairs.into_iter().flat_map(|(_, pair)| pair[route].memory.iter().map(Sample::bare)).collect()
            };
            let lessons: Vec<_> =
                samples.into_iter().map(|sample| (expected(route, &sample), sample)).map(|(chance, sample)| (sample, chance)).collect();
            trends[route] = Trend::fit(&lessons);
        }
        *self.trends.write() = trends;
        for (form, route) in wanted {
            let Some(memory) = self.forms.write().get_mut(&form).map(|pair| {
                pair[route].fresh = 0;
                pair[route].memory.clone()
            }) else {
                continue;
            };
            let told = |sample: &Sample| {
                let chance = expected(route, sample);
                trends[route].map_or(chance, |trend| trend.at(chance, &sample.amounts()))
            };
            let lessons: Vec<Lesson> = memory.iter().map(|sample| (sample, happened(sample) - told(sample))).collect();
            let heads = Arc::new(Heads::fit(&lessons, table));
            if let Some(pair) = self.forms.write().get_mut(&form) {
                pair[route].heads = heads;
            }
        }
    }
}

fn happened(sample: &Sample) -> f32 {
    if sample.usable { 1.0 } else { 0.0 }
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
