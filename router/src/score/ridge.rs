//! Ridge regression by sufficient statistics: it learns from one outcome at a time and gives the same answer as a batch.

use super::embed::EMBED;
use super::features::DIM;

/// Numbers that describe a request: its readings and its embedding.
pub const WIDTH: usize = DIM + EMBED;
pub(super) type Input = [f32; WIDTH];

/// The embedding's columns count less than the readings: there are many of them and each says little.
const EMBED_WEIGHT: f64 = 0.7;
/// A reading that hardly varies is not blown up beyond this many standard deviations.
const FAR: f32 = 4.0;
const PACKED: usize = WIDTH * (WIDTH + 1) / 2;

/// Sums over outcomes: everything that a fit needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sums {
    count: f64,
    target: f64,
    inputs: Vec<f32>,
    cross: Vec<f32>,
    /// Lower triangle of the matrix of products, row by row.
    products: Vec<f32>,
}

/// A fitted line: `mean + weights . (x - centre) * scale`, the scale folded into the weights.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub intercept: f32,
    pub centre: Vec<f32>,
    /// Standard deviations, with a floor; what lies beyond `FAR` of them is cut.
    pub spread: Vec<f32>,
    /// Per standard deviation.
    pub weights: Vec<f32>,
}

impl Sums {
    pub fn new() -> Self {
        Self { count: 0.0, target: 0.0, inputs: vec![0.0; WIDTH], cross: vec![0.0; WIDTH], products: vec![0.0; PACKED] }
    }

    /// Takes one outcome in.
    pub fn add(&mut self, x: &Input, y: f32) {
        self.count += 1.0;
        self.target += f64::from(y);
        let mut at = 0;
        for (row, value) in x.iter().enumerate() {
            self.inputs[row] += value;
            self.cross[row] += value * y;
            for (sum, other) in self.products[at..=at + row].iter_mut().zip(x) {
                *sum += value * other;
            }
            at += row + 1;
        }
    }

    /// The line with the penalty `lambda` on weights per standard deviation; the mean is shrunk towards 0 by `pull` outcomes.
    /// `None` while there are too few outcomes to say anything.
    pub fn fit(&self, lambda: f64, pull: f64) -> Option<Line> {
        if self.count < 8.0 {
            return None;
        }
        let n = self.count;
        let mean: Vec<f64> = self.inputs.iter().map(|sum| f64::from(*sum) / n).collect();
        let target = self.target / n;
        let diagonal = |at: usize| f64::from(self.products[at * (at + 1) / 2 + at]);
        // With few outcomes a spread is uncertain: it is drawn towards a small common one.
        let spread: Vec<f64> = (0..WIDTH)
            .map(|at| {
                let variance = (diagonal(at) / n - mean[at] * mean[at]).max(0.0);
                ((variance * n + 50.0 * FLOOR[usize::from(at >= DIM)]) / (n + 50.0)).sqrt()
            })
            .collect();
        let weight = |at: usize| if at < DIM { 1.0 } else { EMBED_WEIGHT };
        let mut matrix = vec![0.0_f64; PACKED];
        let mut right = vec![0.0_f64; WIDTH];
        let mut at = 0;
        for row in 0..WIDTH {
            let by_row = weight(row) / spread[row];
            right[row] = (f64::from(self.cross[row]) - n * mean[row] * target) * by_row;
            for column in 0..=row {
                let centred = f64::from(self.products[at]) - n * mean[row] * mean[column];
                matrix[at] = centred * by_row * weight(column) / spread[column];
                at += 1;
            }
            matrix[at - 1] += lambda;
        }
        solve(&mut matrix, &mut right)?;
        Some(Line {
            intercept: narrow(target * n / (n + pull)),
            centre: mean.iter().map(|value| narrow(*value)).collect(),
            spread: spread.iter().map(|value| narrow(*value)).collect(),
            weights: right.iter().enumerate().map(|(at, value)| narrow(value * weight(at))).collect(),
        })
    }
}

/// Least variance of a reading and of an embedding's column.
const FLOOR: [f64; 2] = [0.005, 0.02];

impl Line {
    pub fn at(&self, x: &Input) -> f32 {
        let moved = x.iter().zip(&self.centre).zip(&self.spread).zip(&self.weights);
        self.intercept + moved.map(|(((value, centre), spread), weight)| ((value - centre) / spread).clamp(-FAR, FAR) * weight).sum::<f32>()
    }

    pub fn sound(&self) -> bool {
        let all = |list: &[f32]| list.len() == WIDTH && list.iter().all(|value| value.is_finite());
        self.intercept.is_finite()
            && all(&self.centre)
            && all(&self.weights)
            && all(&self.spread)
            && self.spread.iter().all(|value| *value > 0.0)
    }
}

/// Solves a symmetric positive definite system in place (Cholesky); `None` if it is not one.
pub(super) fn solve(matrix: &mut [f64], right: &mut [f64]) -> Option<()> {
    let size = right.len();
    let start = |row: usize| row * (row + 1) / 2;
    for row in 0..size {
        let (done, rest) = matrix.split_at_mut(start(row));
        for column in 0..=row {
            let other = if column == row { None } else { Some(&done[start(column)..=start(column) + column]) };
            let mut sum = rest[column];
            for at in 0..column {
                sum -= rest[at] * other.map_or(rest[at], |other| other[at]);
            }
            rest[column] = match other {
                Some(other) => sum / other[column],
                None if sum > 0.0 => sum.sqrt(),
                None => return None,
            };
        }
    }
    for row in 0..size {
        let line = &matrix[start(row)..=start(row) + row];
        let sum: f64 = line[..row].iter().zip(right.iter()).map(|(a, b)| a * b).sum();
        right[row] = (right[row] - sum) / line[row];
    }
    for row in (0..size).rev() {
        right[row] /= matrix[start(row) + row];
        let value = right[row];
        for (at, slot) in right.iter_mut().enumerate().take(row) {
            *slot -= matrix[start(row) + at] * value;
        }
    }
    Some(())
}

#[expect(clippy::cast_possible_truncation, reason = "weights need no more than single precision")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}
