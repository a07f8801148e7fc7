//! A ridge regression on which words and pairs of words a prompt holds, solved by conjugate gradients.

use super::embed::ROWS;
use super::memory::Lesson;

/// Penalty on a word's weight, in outcomes.
const LAMBDA: f32 = 1000.0;
/// Steps of the solver: by then it moves in the third digit only.
const STEPS: usize = 12;

/// One weight for every row that words hash to; empty before the first fit.
#[derive(Clone, Debug, Default)]
pub(super) struct Grams {
    mean: f32,
    weights: Vec<f32>,
}

impl Grams {
    pub fn fit(lessons: &[Lesson], mean: f32) -> Self {
        let mut weights = vec![0.0_f32; ROWS];
        let mut left = spread(lessons, |at| lessons[at].1 - mean);
        let mut step = left.clone();
        let mut size = dot(&left, &left);
        for _ in 0..STEPS {
            if size < 1e-12 {
                break;
            }
            let seen: Vec<f32> = lessons.iter().map(|(sample, _)| sum(&step, &sample.grams)).collect();
            let mut image = spread(lessons, |at| seen[at]);
            for (image, step) in image.iter_mut().zip(&step) {
                *image += LAMBDA * step;
            }
            let by = size / dot(&step, &image).max(1e-20);
            for ((weight, left), (step, image)) in weights.iter_mut().zip(&mut left).zip(step.iter().zip(&image)) {
                *weight += by * step;
                *left -= by * image;
            }
            let now = dot(&left, &left);
            for (step, left) in step.iter_mut().zip(&left) {
                *step = left + now / size * *step;
            }
            size = now;
        }
        let count = lessons.iter().map(|_| 1.0_f32).sum::<f32>().max(1.0);
        Self { mean: lessons.iter().map(|(sample, _)| sum(&weights, &sample.grams)).sum::<f32>() / count, weights }
    }

    /// How far the prompt's words move the chance, against the average prompt.
    pub fn at(&self, grams: &[u16]) -> f32 {
        if self.weights.is_empty() { 0.0 } else { sum(&self.weights, grams) - self.mean }
    }
}

fn sum(weights: &[f32], grams: &[u16]) -> f32 {
    grams.iter().filter_map(|gram| weights.get(usize::from(*gram))).sum()
}

/// Adds a number of every sample to the rows of its words.
fn spread(lessons: &[Lesson], value: impl Fn(usize) -> f32) -> Vec<f32> {
    let mut rows = vec![0.0_f32; ROWS];
    for (at, (sample, _)) in lessons.iter().enumerate() {
        let value = value(at);
        for gram in &sample.grams {
            if let Some(row) = rows.get_mut(usize::from(*gram)) {
                *row += value;
            }
        }
    }
    rows
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
