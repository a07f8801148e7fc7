//! Gradient boosting with oblivious trees: every level of a tree asks one question of all prompts. Small, fast and hard to overfit.

use super::features::DIM;
use super::memory::{BINS, Lesson};

const TREES: usize = 80;
const DEPTH: usize = 3;
const LEAVES: usize = 1 << DEPTH;
/// Share of its answer that a tree may give.
const RATE: f32 = 0.06;
/// Outcomes that "no difference" is worth in a leaf.
const PULL: f32 = 10.0;
/// Fewest outcomes on either side of a question.
const LEAST: f32 = 20.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Trees(Vec<Tree>);

#[derive(Clone, Debug)]
struct Tree {
    /// Reading and step: "is the reading above that step?"
    asks: [(u8, u8); DEPTH],
    leaves: [f32; LEAVES],
}

impl Tree {
    fn leaf(&self, bins: &[u8]) -> usize {
        self.asks
            .iter()
            .fold(0, |leaf, (reading, step)| leaf * 2 + usize::from(bins.get(usize::from(*reading)).is_some_and(|bin| bin > step)))
    }
}

impl Trees {
    pub fn fit(lessons: &[Lesson], mean: f32) -> Self {
        let varying: Vec<usize> =
            (0..DIM).filter(|at| lessons.iter().any(|(sample, _)| sample.bins[*at] != lessons[0].0.bins[*at])).collect();
        let mut left: Vec<f32> = lessons.iter().map(|(_, surprise)| surprise - mean).collect();
        let mut trees = Vec::with_capacity(TREES);
        for _ in 0..TREES {
            let Some(tree) = grow(lessons, &left, &varying) else { break };
            for (left, (sample, _)) in left.iter_mut().zip(lessons) {
                *left -= tree.leaves[tree.leaf(&sample.bins)];
            }
            trees.push(tree);
        }
        Self(trees)
    }

    pub fn at(&self, bins: &[u8]) -> f32 {
        self.0.iter().map(|tree| tree.leaves[tree.leaf(bins)]).sum()
    }
}

/// The tree that explains most of what is left; `None` where no question splits the outcomes.
fn grow(lessons: &[Lesson], left: &[f32], varying: &[usize]) -> Option<Tree> {
    let mut leaf_of = vec![0_usize; lessons.len()];
    let mut asks = [(0, 0); DEPTH];
    for (level, ask) in asks.iter_mut().enumerate() {
        let best = varying.iter().filter_map(|reading| best_step(lessons, left, &leaf_of, 1 << level, *reading));
        let (_, reading, step) = best.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
        *ask = (u8::try_from(reading).ok()?, step);
        for (leaf, (sample, _)) in leaf_of.iter_mut().zip(lessons) {
            *leaf = *leaf * 2 + usize::from(sample.bins[reading] > step);
        }
    }
    let mut sums = [(0.0_f32, 0.0_f32); LEAVES];
    for (leaf, left) in leaf_of.iter().zip(left) {
        sums[*leaf].0 += left;
        sums[*leaf].1 += 1.0;
    }
    Some(Tree { asks, leaves: sums.map(|(sum, count)| RATE * sum / (count + PULL)) })
}

/// What the best step of one reading explains over all leaves, the reading, and the step.
fn best_step(lessons: &[Lesson], left: &[f32], leaf_of: &[usize], leaves: usize, reading: usize) -> Option<(f32, usize, u8)> {
    let mut cells = [(0.0_f32, 0.0_f32); BINS * LEAVES / 2];
    let (mut low, mut high) = (BINS, 0);
    for (((sample, _), left), leaf) in lessons.iter().zip(left).zip(leaf_of) {
        let bin = usize::from(sample.bins[reading]);
        let cell = &mut cells[bin * leaves + leaf];
        cell.0 += left;
        cell.1 += 1.0;
        (low, high) = (low.min(bin), high.max(bin));
    }
    let mut totals = [(0.0_f32, 0.0_f32); LEAVES / 2];
    for row in cells[low * leaves..(high + 1) * leaves].chunks_exact(leaves) {
        for (total, cell) in totals.iter_mut().zip(row) {
            *total = (total.0 + cell.0, total.1 + cell.1);
        }
    }
    let explained = |(sum, count): (f32, f32)| sum * sum / (count + PULL);
    let mut below = [(0.0_f32, 0.0_f32); LEAVES / 2];
    let mut best: Option<(f32, usize, u8)> = None;
    for (bin, row) in (low..high).zip(cells[low * leaves..].chunks_exact(leaves)) {
        let (mut gain, mut count_below, mut count_above) = (0.0, 0.0, 0.0);
        for (leaf, cell) in row.iter().enumerate() {
            below[leaf] = (below[leaf].0 + cell.0, below[leaf].1 + cell.1);
            let above = (totals[leaf].0 - below[leaf].0, totals[leaf].1 - below[leaf].1);
            gain += explained(below[leaf]) + explained(above);
            count_below += below[leaf].1;
            count_above += above.1;
        }
        if count_below >= LEAST && count_above >= LEAST && best.is_none_or(|best| gain > best.0) {
            best = Some((gain, reading, u8::try_from(bin).unwrap_or(u8::MAX)));
        }
    }
    best
}
