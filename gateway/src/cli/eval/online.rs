//! From nothing, one request after another, learning only from the route that was taken.

use std::path::Path;

use spectra_router::score::metrics::{Random, Scored, measure};
use spectra_router::score::train::Row;
use spectra_router::score::{Outcome, Policy, Route, Rule, Situation};

use super::{float, lengths, mean_spread, scored};
use crate::cli::rows;

/// Half of the requests may go to the strong model; a tenth goes the other way to learn.
const SHARE: f32 = 0.5;
const EXPLORE: f32 = 0.1;

/// Prequential: every request is scored before its outcome is shown.
pub(super) fn run(weights: Option<&Path>, rows: &[Row], draws: u64, seed: u64) -> anyhow::Result<String> {
    let (mut whole, mut last, mut length) = (Vec::new(), Vec::new(), Vec::new());
    for draw in 0..draws {
        let mut order: Vec<Row> = rows.to_vec();
        Random(seed ^ (draw << 32) ^ 0x0411_E11E).shuffle(&mut order);
        let scores = stream(weights, &order)?;
        let judged = scored(&order, &scores);
        // The score drifts while it learns, so ranks within windows are compared, not scores from different days.
        whole.push(measure(&ranked(&judged)).apgr);
        last.push(measure(&judged[judged.len() * 2 / 3..]).apgr);
        length.push(measure(&scored(&order, &lengths(&order))).apgr);
    }
    let ((whole, spread), (last, _), (length, _)) =
        (mean_spread(whole.into_iter()), mean_spread(last.into_iter()), mean_spread(length.into_iter()));
    Ok(format!(
        "online from zero, only the taken route's outcome is seen, {} rows, mean of {draws} orders\nrouter   prequential APGR {whole:.3} (sd {spread:.3}), last third {last:.3}\nlength   APGR {length:.3}\n",
        rows.len()
    ))
}

fn stream(weights: Option<&Path>, rows: &[Row]) -> anyhow::Result<Vec<f64>> {
    let scorer = rows::scorer(weights, &[])?;
    let policy = Policy::new(Rule::HostedShare(SHARE), EXPLORE);
    rows.iter()
        .map(|row| {
            let score = scorer.score(&row.request()?);
            let choice = policy.choose(&score, &Situation::default());
            let local = choice.route == Route::Local;
            let quality = if local { row.weak_score } else { row.strong_score };
            scorer.teach(&score, Outcome { local, usable: quality >= 0.5, propensity: choice.propensity });
            Ok(f64::from(score.need))
        })
        .collect()
}

/// Each score's rank among the hundred before it.
fn ranked(rows: &[Scored]) -> Vec<Scored> {
    (0..rows.len())
        .map(|at| {
            let window = &rows[at.saturating_sub(100)..at];
            let below = window.iter().filter(|other| other.score < rows[at].score).count();
            let same = window.iter().filter(|other| other.score == rows[at].score).count();
            Scored { score: (float(below) + float(same) / 2.0) / float(window.len().max(1)), ..rows[at] }
        })
        .collect()
}
