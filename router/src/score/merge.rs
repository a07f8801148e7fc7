//! States of several replicas made one.

use std::collections::BTreeMap;

use super::State;
use super::templates::{CAPACITY, Counts};

impl State {
    /// What both have learned. Sums and counts are added; of the calibrations the evidence is added over one prior; of the last
    /// outcomes of each form the newest of both are kept in turn. `None` for states of different weights or layouts.
    #[must_use]
    pub fn merge(self, other: Self) -> Option<Self> {
        if self.version != other.version || self.weights != other.weights {
            return None;
        }
        let mut templates: BTreeMap<u64, Counts> = self.templates.into_iter().collect();
        for (key, counts) in other.templates {
            templates.entry(key).or_default().merge(counts);
        }
        let mut templates: Vec<_> = templates.into_iter().collect();
        if templates.len() > CAPACITY {
            templates.sort_by(|(_, one), (_, other)| other.total().total_cmp(&one.total()));
            templates.truncate(CAPACITY);
            templates.sort_unstable_by_key(|(key, _)| *key);
        }
        let mut experts: BTreeMap<u64, _> = self.experts.into_iter().map(|learned| (learned.form(), learned)).collect();
        for learned in other.experts {
            let merged = match experts.remove(&learned.form()) {
                Some(known) => known.merge(&learned),
                None => learned,
            };
            experts.insert(merged.form(), merged);
        }
        let calibration = [0, 1].map(|at| self.calibration[at].merge(other.calibration[at]));
        Some(Self { version: self.version, weights: self.weights, templates, experts: experts.into_values().collect(), calibration })
    }
}
