//! `spectra eval`: how well the router orders labelled requests, with length and random beside it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Deserialize;
use spectra_router::score::Scorer;
use spectra_router::score::metrics::{
    Measures, Random, Report, Scored, calibration_error, calibration_floor, calibration_rms, measure, report, table,
};
use spectra_router::score::train::Row;

use super::rows;

mod online;
mod simulation;
mod structured;

/// `spectra eval ROWS…`
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Files or folders of labelled rows (`*.jsonl`, `*.jsonl.gz`)
    #[arg(required_unless_present_any = ["simulate", "online"])]
    rows: Vec<PathBuf>,
    /// Judge these scores ({"id", "score"} a line) instead of the router's
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
    /// First adapt to these labelled rows, in their order
    #[arg(long, value_name = "FILE")]
    learn: Vec<PathBuf>,
    /// Weights to use instead of those built in; `v0` for the hand-set ones
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Only rows of these sources
    #[arg(long)]
    source: Vec<String>,
    /// Leave out rows that published routers may have been trained on
    #[arg(long)]
    decontaminated: bool,
    /// Bootstrap samples for the intervals; 0 for none
    #[arg(long, default_value_t = 1000)]
    boot: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draw this many rows as labels, adapt to them, judge on the rows of other groups; mean over `--draws`
    #[arg(long, value_name = "LABELS", conflicts_with_all = ["scores", "learn"])]
    adapt: Option<usize>,
    #[arg(long, default_value_t = 8)]
    draws: u64,
    /// From nothing, in random order, learning only from the route that was taken; mean over `--draws`. Without rows: on simulated
    /// structured requests
    #[arg(long, conflicts_with_all = ["scores", "learn", "adapt"])]
    online: bool,
    /// Seeded, simulated traffic: cost against usable rate; writes FILE.svg and prints the table
    #[arg(long, value_name = "FILE")]
    simulate: Option<PathBuf>,
}

/// A line of `--scores`.
#[derive(Deserialize)]
struct Given {
    id: String,
    score: f64,
}

/// Prints the tables.
///
/// # Errors
/// Where files cannot be read, or a row has no score.
pub fn run(args: &EvalArgs) -> anyhow::Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    if let Some(path) = &args.simulate {
        write!(output, "{}", simulation::run(path, args.seed, args.weights.as_deref())?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.rows.is_empty() {
        let (rows, known) = structured::rows(args.seed);
        let text = online::run(args.weights.as_deref(), &rows, args.draws, args.seed)?;
        write!(output, "simulated structured requests, knowing every task's rate: APGR {known:.3}\n{text}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows: Vec<Row> = rows::read(&args.rows)?;
    rows.retain(|row| !(args.decontaminated && row.routellm_contaminated) && (args.source.is_empty() || args.source.contains(&row.source)));
    rows.retain(|row| row.weak_score.is_finite() && row.strong_score.is_finite());
    if rows.is_empty() {
        bail!("no rows to judge: outcomes of both models are needed");
    }
    if let Some(labels) = args.adapt {
        write!(output, "{}", adapted(args, &rows, labels)?)?;
    } else if args.online {
        write!(output, "{}", online::run(args.weights.as_deref(), &rows, args.draws, args.seed)?)?;
    } else {
        write!(output, "{}", fixed(args, &rows)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every source, their mean, and all rows as one mix: by the router, by length, at random.
fn fixed(args: &EvalArgs, rows: &[Row]) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut chances = Vec::new();
    let scores: Vec<f64> = if let Some(path) = &args.scores {
        let given: HashMap<String, f64> =
            rows::read::<Given>(std::slice::from_ref(path))?.into_iter().map(|given| (given.id, given.score)).collect();
        rows.iter().map(|row| given.get(&row.id).copied().with_context(|| format!("no score for {}", row.id))).collect::<Result<_, _>>()?
    } else {
        let scorer = rows::scorer(args.weights.as_deref(), &args.learn)?;
        score_all(&scorer, rows, &mut chances)?
    };
    text += &section("router", rows, &scores, args);
    text += &section("length of the prompt", rows, &lengths(rows), args);
    let mut random = Random(args.seed ^ 0xABCD);
    text += &section("random", rows, &rows.iter().map(|_| random.unit()).collect::<Vec<_>>(), args);
    if !chances.is_empty() {
        text += &calibration(&[calibrated(&chances, args.seed)], chances.len());
    }
    Ok(text)
}

/// Error of the chances, what a perfect forecast would show, and the error without that noise.
fn calibrated(chances: &[(f64, f64)], seed: u64) -> [f64; 3] {
    [calibration_error(chances), calibration_floor(chances, seed), calibration_rms(chances)]
}

fn calibration(draws: &[[f64; 3]], rows: usize) -> String {
    let [error, floor, rms] = [0, 1, 2].map(|at| mean_spread(draws.iter().map(|draw| draw[at])).0);
    format!(
        "calibration error of p_local: {error:.3} over {rows} rows (a perfect forecast would show {floor:.3}; root mean square without that noise {rms:.3})\n"
    )
}

fn score_all(scorer: &Scorer, rows: &[Row], chances: &mut Vec<(f64, f64)>) -> anyhow::Result<Vec<f64>> {
    rows.iter()
        .map(|row| {
            let score = scorer.score(&row.request()?);
            chances.push((f64::from(score.p_local), if row.weak_score >= 0.5 { 1.0 } else { 0.0 }));
            Ok(f64::from(score.need))
        })
        .collect()
}

fn section(title: &str, rows: &[Row], scores: &[f64], args: &EvalArgs) -> String {
    let mut by_source: BTreeMap<&str, Vec<Scored>> = BTreeMap::new();
    let mut all = Vec::new();
    for (row, score) in rows.iter().zip(scores) {
        let scored = Scored { score: *score, weak: f64::from(row.weak_score), strong: f64::from(row.strong_score) };
        by_source.entry(&row.source).or_default().push(scored);
        all.push(scored);
    }
    let mut reports: Vec<Report> = by_source.iter().map(|(name, rows)| report(name, rows, args.boot, args.seed)).collect();
    if reports.len() > 1 {
        reports.push(mean(&reports));
        reports.push(report("pooled", &all, args.boot, args.seed));
    }
    format!("{title}\n{}\n", table(&reports))
}

/// The unweighted mean over sources.
fn mean(reports: &[Report]) -> Report {
    let over = |value: fn(&Measures) -> f64| {
        let known: Vec<f64> = reports.iter().map(|report| value(&report.at)).filter(|value| value.is_finite()).collect();
        known.iter().sum::<f64>() / float(known.len())
    };
    let at = Measures {
        apgr: over(|at| at.apgr),
        cpt50: over(|at| at.cpt50),
        cpt80: over(|at| at.cpt80),
        c95q: over(|at| at.c95q),
        auc: over(|at| at.auc),
        auc_weak: over(|at| at.auc_weak),
    };
    Report { name: "macro".to_owned(), rows: reports.iter().map(|report| report.rows).sum(), at, ..Report::default() }
}

/// Adapted to a few labels of the same kind, over several draws of the labels.
fn adapted(args: &EvalArgs, rows: &[Row], labels: usize) -> anyhow::Result<String> {
    let (mut router, mut length, mut errors, mut judged_rows) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for draw in 0..args.draws {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        Random(args.seed ^ (draw << 32) ^ 0x5EED).shuffle(&mut order);
        let (shown, rest) = order.split_at(labels.min(order.len()));
        let groups: HashSet<&str> = shown.iter().map(|at| rows[*at].group.as_str()).filter(|group| !group.is_empty()).collect();
        let scorer = rows::scorer(args.weights.as_deref(), &[])?;
        for at in shown {
            rows::teach(&scorer, &rows[*at])?;
        }
        scorer.settle(true);
        let judged: Vec<Row> = rest.iter().map(|at| rows[*at].clone()).filter(|row| !groups.contains(row.group.as_str())).collect();
        let mut chances = Vec::new();
        let scores = score_all(&scorer, &judged, &mut chances)?;
        router.push(measure(&scored(&judged, &scores)));
        length.push(measure(&scored(&judged, &lengths(&judged))));
        errors.push(calibrated(&chances, args.seed));
        judged_rows = judged.len();
    }
    let line = |name: &str, all: &[Measures]| {
        let (apgr, spread) = mean_spread(all.iter().map(|at| at.apgr));
        let (cpt50, _) = mean_spread(all.iter().map(|at| at.cpt50));
        let (cpt80, _) = mean_spread(all.iter().map(|at| at.cpt80));
        format!("{name:<8} APGR {apgr:.3} (sd {spread:.3})  CPT50 {cpt50:.1}  CPT80 {cpt80:.1}\n")
    };
    Ok(format!(
        "{} labels, mean of {} draws, {} rows\n{}{}{}",
        labels,
        args.draws,
        rows.len(),
        line("router", &router),
        line("length", &length),
        calibration(&errors, judged_rows)
    ))
}

fn scored(rows: &[Row], scores: &[f64]) -> Vec<Scored> {
    rows.iter()
        .zip(scores)
        .map(|(row, score)| Scored { score: *score, weak: f64::from(row.weak_score), strong: f64::from(row.strong_score) })
        .collect()
}

/// The baseline: characters of the prompt.
fn lengths(rows: &[Row]) -> Vec<f64> {
    rows.iter().map(|row| float(row.prompt.chars().count())).collect()
}

fn mean_spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let mean = values.iter().sum::<f64>() / float(values.len());
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / float(values.len())).sqrt())
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows and characters, far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
