//! What the outcomes of all forms together teach: how steeply the chances should run, and how the amounts of a text move them. Few
//! readings and one line for all forms, so that some hundred outcomes are enough: heads of many readings, one set a form, need more.

use super::features::{log, ratio};
use super::lexicon::WORKS;
use super::memory::Sample;
use super::ridge::{narrow, solve};
use super::scan::Scan;

/// Counts that tell how much work a text asks for: how many, and not which share of it as the other readings have.
pub(super) const AMOUNTS: usize = WORKS + 11;
pub(super) type Amounts = [f32; AMOUNTS];

/// What the trend is a line of: the chance without it, and the amounts.
const WIDE: usize = AMOUNTS + 1;
/// Fewest outcomes that say anything.
const FEW: usize = 8;
/// Outcomes that "the chances are right on average" is worth.
const PULL: f64 = 8.0;
/// How steeply chances run that nothing is known of, and how many squared units of chance that is worth. It is below one: a length
/// that decides all or nothing was right for half of the measured sources.
const STEEP: f64 = 0.5;
const SURE: f64 = 0.5;
/// Penalty on an amount's weight (per standard deviation), in outcomes: as of the heads, and so large that each amount votes almost by itself.
const LAMBDA: f64 = 2000.0;
/// With few outcomes a variance is drawn towards this, as by so many outcomes.
const FLOOR: (f64, f64) = (0.01, 50.0);
/// What lies beyond so many standard deviations is cut.
const FAR: f64 = 4.0;

/// All between 0 and about 3, as the readings are.
pub(super) fn amounts(scan: &Scan) -> Amounts {
    let mut amounts = [0.0; AMOUNTS];
    amounts[..11].copy_from_slice(&[
        log(scan.chars) / 2.5,
        log(scan.word_count as usize) / 2.0,
        log(scan.sentences as usize) / 1.5,
        log(scan.numbers as usize) / 1.5,
        log(scan.long_numbers as usize),
        ratio(scan.word_chars, scan.word_count) / 2.0,
        ratio(scan.distinct, scan.word_count.min(384)) * 2.0,
        log(scan.commas as usize) / 1.5,
        log(scan.proper as usize),
        log(scan.fractions as usize),
        log(scan.decimals as usize),
    ]);
    for (amount, count) in amounts[11..].iter_mut().zip(scan.works) {
        *amount = log(usize::from(count));
    }
    amounts
}

/// A fitted trend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trend {
    level: f64,
    scales: Scales,
    weights: [f64; WIDE],
}

/// Mean and spread of what goes into the line. The chance keeps its own scale.
#[derive(Clone, Copy, Debug)]
struct Scales {
    centre: [f64; WIDE],
    spread: [f64; WIDE],
}

impl Trend {
    /// Fits it to outcomes and what was expected of each without it; `None` while there are too few.
    pub fn fit(lessons: &[(Sample, f32)]) -> Option<Self> {
        if lessons.len() < FEW {
            return None;
        }
        let count: f64 = lessons.iter().map(|_| 1.0).sum();
        let usable = lessons.iter().filter(|(sample, _)| sample.usable).map(|_| 1.0).sum::<f64>() / count;
        let rows: Vec<[f64; WIDE]> = lessons.iter().map(|(sample, chance)| wide(*chance, &sample.amounts())).collect();
        let scales = Scales::of(&rows, count);
        let mut matrix = vec![0.0; WIDE * (WIDE + 1) / 2];
        let mut right = [0.0; WIDE];
        for (row, (sample, _)) in rows.iter().zip(lessons) {
            let x = scales.apply(row);
            let left = f64::from(u8::from(sample.usable)) - usable - STEEP * x[0];
            let mut at = 0;
            for (row, value) in x.iter().enumerate() {
                right[row] += value * left;
                for (sum, other) in matrix[at..=at + row].iter_mut().zip(&x) {
                    *sum += value * other;
                }
                at += row + 1;
            }
        }
        for row in 0..WIDE {
            matrix[row * (row + 3) / 2] += if row == 0 { SURE } else { LAMBDA };
        }
        solve(&mut matrix, &mut right)?;
        right[0] += STEEP;
        let level = scales.centre[0] + (usable - scales.centre[0]) * count / (count + PULL);
        Some(Self { level, scales, weights: right })
    }

    /// The chance as it should have been, from what was expected without the trend.
    pub fn at(&self, chance: f32, amounts: &Amounts) -> f32 {
        let x = self.scales.apply(&wide(chance, amounts));
        narrow(self.level + x.iter().zip(&self.weights).map(|(value, weight)| value * weight).sum::<f64>())
    }
}

impl Scales {
    fn of(rows: &[[f64; WIDE]], count: f64) -> Self {
        let mean = |of: &dyn Fn(&[f64; WIDE]) -> f64| rows.iter().map(of).sum::<f64>() / count;
        let centre: [f64; WIDE] = std::array::from_fn(|at| mean(&|row| row[at]));
        let spread = std::array::from_fn(|at| {
            let variance = mean(&|row| (row[at] - centre[at]).powi(2));
            if at == 0 { 1.0 } else { ((variance * count + FLOOR.0 * FLOOR.1) / (count + FLOOR.1)).sqrt() }
        });
        Self { centre, spread }
    }

    fn apply(&self, row: &[f64; WIDE]) -> [f64; WIDE] {
        std::array::from_fn(|at| ((row[at] - self.centre[at]) / self.spread[at]).clamp(-FAR, FAR))
    }
}

fn wide(chance: f32, amounts: &Amounts) -> [f64; WIDE] {
    let mut row = [f64::from(chance); WIDE];
    for (slot, amount) in row[1..].iter_mut().zip(amounts) {
        *slot = f64::from(*amount);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::Keys;
    use super::super::metrics::Random;
    use super::*;

    /// Outcomes that follow the chance by half its steepness and fall with the last amount.
    fn lessons(count: u32) -> Vec<(Sample, f32)> {
        let mut random = Random(11);
        (0..count)
            .map(|_| {
                let (chance, much) = (narrow(random.unit()), narrow(random.unit()));
                let mut amounts = [0.5; AMOUNTS];
                amounts[AMOUNTS - 1] = much;
                let usable = random.unit() < f64::from(0.5 + 0.5 * (chance - 0.5) - 0.5 * (much - 0.5));
                (Sample::new(usable, chance, Keys::default(), &amounts, &[], &[]), chance)
            })
            .collect()
    }

    #[test]
    fn a_trend_finds_how_steep_chances_run_and_which_amount_counts() {
        let trend = Trend::fit(&lessons(4000)).unwrap();
        let at = |chance: f32, much: f32, little: f32| {
            let mut amounts = [little; AMOUNTS];
            amounts[AMOUNTS - 1] = much;
            trend.at(chance, &amounts)
        };
        for (chance, much, expected) in [(0.5, 0.5, 0.5), (0.9, 0.5, 0.7), (0.1, 0.5, 0.3), (0.5, 0.9, 0.34), (0.5, 0.1, 0.66)] {
            assert!((at(chance, much, 0.5) - expected).abs() < 0.05, "{chance} {much}: {}", at(chance, much, 0.5));
        }
        assert!((at(0.5, 0.5, 0.6) - at(0.5, 0.5, 0.5)).abs() < 0.02, "amounts that never varied say nothing");
        assert!(Trend::fit(&lessons(7)).is_none());
    }
}
