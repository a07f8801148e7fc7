//! Chances that mean what they say: Platt's calibration, learned online.

use serde::{Deserialize, Serialize};

/// Platt's calibration learned online: usable ~ sigmoid(slope * logit(p) + offset), by Newton steps with a Gaussian prior on
/// "already calibrated" (Platt 1999; the recursive form is a Laplace approximation).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Calibration {
    slope: f32,
    offset: f32,
    /// Precision of (slope, offset), upper triangle.
    precision: [f32; 3],
}

impl Default for Calibration {
    fn default() -> Self {
        Self { slope: 1.0, offset: 0.0, precision: [100.0, 0.0, 50.0] }
    }
}

impl Calibration {
    pub fn apply(&self, chance: f32) -> f32 {
        sigmoid(self.slope * logit(chance) + self.offset)
    }

    pub fn learn(&mut self, chance: f32, usable: bool) {
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

    /// The calibration that rests on the evidence of both: a product of two Gaussians that had one prior.
    pub fn merge(self, other: Self) -> Self {
        let prior = Self::default();
        let all = [(self, 1.0), (other, 1.0), (prior, -1.0)];
        let sum = |part: fn(&Self) -> f32| all.iter().map(|(one, sign)| sign * part(one)).sum::<f32>();
        let [a, b, c] = [sum(|one| one.precision[0]), sum(|one| one.precision[1]), sum(|one| one.precision[2])];
        let det = a * c - b * b;
        // Evidence that faded can leave less than the prior: then the better founded one alone.
        if !(a > 0.0 && det > 1e-3) {
            return if self.precision[2] >= other.precision[2] { self } else { other };
        }
        let x = sum(|one| one.precision[0] * one.slope + one.precision[1] * one.offset);
        let y = sum(|one| one.precision[1] * one.slope + one.precision[2] * one.offset);
        Self { slope: ((c * x - b * y) / det).clamp(0.2, 3.0), offset: ((a * y - b * x) / det).clamp(-4.0, 4.0), precision: [a, b, c] }
    }

    pub fn sound(&self) -> bool {
        self.slope.is_finite() && self.offset.is_finite() && self.precision.iter().all(|value| value.is_finite())
    }
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn logit(p: f32) -> f32 {
    let p = p.clamp(0.005, 0.995);
    (p / (1.0 - p)).ln()
}
