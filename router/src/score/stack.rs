//! How much of each head to believe: stacking by ridge regression on what the heads said before each outcome was known.

use serde::{Deserialize, Serialize};

/// Heads that a form has.
pub(super) const HEADS: usize = 3;
/// What a head is believed before it has proved anything, and how many squared units of its word that is worth.
const START: f64 = 0.2;
const PRIOR: f64 = 5.0;
/// Each outcome lets the older ones fade.
const KEEP: f64 = 0.999;

/// Running sums of products of the heads' words, and of each word with what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Stack {
    products: [[f64; HEADS]; HEADS],
    cross: [f64; HEADS],
}

impl Stack {
    /// `said`: each head's part of the correction; `happened`: what the correction should have been.
    pub fn learn(&mut self, said: [f32; HEADS], happened: f32) {
        for row in 0..HEADS {
            self.cross[row] = self.cross[row] * KEEP + f64::from(said[row]) * f64::from(happened);
            for column in 0..HEADS {
                self.products[row][column] = self.products[row][column] * KEEP + f64::from(said[row]) * f64::from(said[column]);
            }
        }
    }

    /// Weights of the heads, none negative: coordinate descent, which is exact enough after a few rounds.
    pub fn trust(&self) -> [f32; HEADS] {
        let mut trust = [START; HEADS];
        for _ in 0..20 {
            for head in 0..HEADS {
                let others: f64 = (0..HEADS).filter(|at| *at != head).map(|at| self.products[head][at] * trust[at]).sum();
                let best = (self.cross[head] - others + PRIOR * START) / (self.products[head][head] + PRIOR);
                trust[head] = best.clamp(0.0, 1.5);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "a weight needs no more than single precision")]
        trust.map(|trust| trust as f32)
    }

    pub fn merge(&self, other: &Self) -> Self {
        let mut sum = *self;
        sum.cross.iter_mut().zip(other.cross).for_each(|(own, other)| *own += other);
        sum.products.iter_mut().flatten().zip(other.products.as_flattened()).for_each(|(own, other)| *own += other);
        sum
    }

    pub fn sound(&self) -> bool {
        self.products.iter().flatten().chain(&self.cross).all(|value| value.is_finite())
            && (0..HEADS).all(|at| self.products[at][at] >= 0.0)
    }
}
