//! `spectra replay`: what another policy or other weights would have done with recorded requests.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use serde::Deserialize;
use spectra_router::score::train::Row;
use spectra_router::score::{Outcome, Policy, Route, Rule, Score, Scorer, Situation};

use super::rows;

/// `spectra replay RECORDS…`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A line: {\"request\" or \"prompt\", \"route\": \"local\"|\"strong\", \"usable\": bool, \"propensity\"?: 0..1, \"cost_usd\"?: number}."
)]
pub struct ReplayArgs {
    /// Files of records, in the order of time; without one, standard input
    records: Vec<PathBuf>,
    /// Candidate weights; without it those built in
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// First adapt to these labelled rows
    #[arg(long, value_name = "FILE")]
    learn: Vec<PathBuf>,
    /// Candidate rule: the cheapest route with at least this chance of a usable answer
    #[arg(long, value_name = "CHANCE")]
    usable: Option<f32>,
    /// Candidate rule: at most this share of requests to the strong model
    #[arg(long, value_name = "SHARE", conflicts_with = "usable")]
    hosted_share: Option<f32>,
    /// Candidate rule: requests of at least this difficulty to the strong model
    #[arg(long, value_name = "DIFFICULTY", conflicts_with_all = ["usable", "hosted_share"])]
    difficulty: Option<f32>,
    /// Cost of a local and of a strong answer where a record does not say, USD
    #[arg(long, default_value_t = 0.0)]
    local_usd: f32,
    #[arg(long, default_value_t = 0.01)]
    strong_usd: f32,
}

/// One request as it was served.
#[derive(Deserialize)]
struct Record {
    #[serde(flatten)]
    row: Row,
    route: Route,
    usable: bool,
    /// Chance with which the recorded route was taken.
    #[serde(default = "sure")]
    propensity: f32,
    cost_usd: Option<f32>,
}

fn sure() -> f32 {
    1.0
}

/// Sums over the records.
#[derive(Default)]
struct Totals {
    count: f64,
    strong_then: f64,
    usable_then: f64,
    cost_then: f64,
    strong_now: f64,
    changed: f64,
    /// Self-normalised inverse propensity: weight, weighted usable, and the sum of squared weights.
    weight: f64,
    weighted: f64,
    squares: f64,
    /// What the model itself expects of the candidate's choices.
    expected: f64,
    cost_now: f64,
}

/// Replays and prints what would change.
///
/// # Errors
/// With file and line, for a line that is not a record.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let rule = match (args.usable, args.hosted_share, args.difficulty) {
        (Some(target), ..) => Rule::Usable(target),
        (_, Some(share), _) => Rule::HostedShare(share),
        (.., Some(limit)) => Rule::Difficulty(limit),
        _ => bail!("which rule? Give --usable, --hosted-share or --difficulty"),
    };
    let totals = replayed(args, rule)?;
    if totals.count == 0.0 {
        bail!("no records");
    }
    write!(std::io::stdout().lock(), "{}", totals.text(&rule))?;
    Ok(ExitCode::SUCCESS)
}

fn replayed(args: &ReplayArgs, rule: Rule) -> anyhow::Result<Totals> {
    let scorer = rows::scorer(args.weights.as_deref(), &args.learn)?;
    let policy = Policy::new(rule, 0.0);
    let mut totals = Totals::default();
    let stdin = [PathBuf::from("-")];
    for file in if args.records.is_empty() { &stdin[..] } else { &args.records } {
        rows::each(file, |record: Record| one(args, &scorer, &policy, &record, &mut totals))?;
    }
    Ok(totals)
}

fn one(args: &ReplayArgs, scorer: &Scorer, policy: &Policy, record: &Record, totals: &mut Totals) -> anyhow::Result<()> {
    let score = scorer.score(&record.row.request()?);
    let choice = policy.choose(&score, &Situation { local_usd: args.local_usd, hosted_usd: args.strong_usd, ..Situation::default() });
    totals.take(record, &score, choice.route, [args.local_usd, args.strong_usd]);
    // The outcome is shown after the choice, as it was then.
    let outcome = Outcome { local: record.route == Route::Local, usable: record.usable, propensity: record.propensity };
    scorer.teach(&score, outcome);
    Ok(())
}

impl Totals {
    fn take(&mut self, record: &Record, score: &Score, now: Route, prices: [f32; 2]) {
        let price = |route: Route| f64::from(prices[usize::from(route == Route::Strong)]);
        let one = |on: bool| f64::from(u8::from(on));
        self.count += 1.0;
        self.strong_then += one(record.route == Route::Strong);
        self.usable_then += one(record.usable);
        self.cost_then += record.cost_usd.map_or(price(record.route), f64::from);
        self.strong_now += one(now == Route::Strong);
        self.changed += one(now != record.route);
        self.cost_now += if now == record.route { record.cost_usd.map_or(price(now), f64::from) } else { price(now) };
        self.expected += f64::from(if now == Route::Local { score.p_local } else { score.p_hosted });
        if now == record.route {
            let weight = 1.0 / f64::from(record.propensity.clamp(0.01, 1.0));
            self.weight += weight;
            self.weighted += weight * one(record.usable);
            self.squares += weight * weight;
        }
    }

    fn text(&self, rule: &Rule) -> String {
        let share = |part: f64| 100.0 * part / self.count;
        let usable = if self.weight > 0.0 { format!("{:.1} %", 100.0 * self.weighted / self.weight) } else { "unknown".to_owned() };
        let samples = if self.squares > 0.0 { self.weight * self.weight / self.squares } else { 0.0 };
        format!(
            "{} records, candidate {rule:?}\n            then      candidate\nstrong      {:>5.1} %   {:>5.1} %\ncost USD    {:>7.4}   {:>7.4}\nusable      {:>5.1} %   {usable} (off-policy, {samples:.0} effective records), {:.1} % expected by the model\n{:.1} % of the routes change\n{}",
            self.count,
            share(self.strong_then),
            share(self.strong_now),
            self.cost_then,
            self.cost_now,
            share(self.usable_then),
            share(self.expected),
            share(self.changed),
            if samples < 30.0 || self.changed > 0.0 && self.weight == self.count - self.changed {
                "The recorded routes were taken without exploration where they differ: the off-policy figure is biased. Explore a few percent first.\n"
            } else {
                ""
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kept::KeptText;
    use crate::ledger::Ledger;
    use crate::sample::{attempt, record};

    /// Requests through the ledger's writer, on routes that are not called `local` and `strong`: of every four, one is pinned,
    /// one is answered at home, one is escalated, and one goes to the strong route at once.
    fn ledger(path: &std::path::Path, count: usize) {
        let ledger = Ledger::at(path).unwrap();
        for at in 0..count {
            let (pass, fail) = (attempt("small", 0, "first", "pass"), attempt("small", 0, "first", "not_json"));
            let big = |rung, why| attempt("big", rung, why, "pass");
            let (side, attempts) = match at % 4 {
                0 => (None, vec![pass]),
                1 => (Some("local"), vec![pass]),
                2 => (Some("local"), vec![fail, big(1, "escalate")]),
                _ => (Some("strong"), vec![big(0, "first")]),
            };
            let mut one = record(attempts);
            one.request_id = format!("req-{at}").into();
            one.route = side.map(|side| if side == "local" { "cheap" } else { "dear" }.into());
            (one.side, one.score) = (side, side.map(|_| 0.3));
            one.kept = Some(Box::new(KeptText { prompt: format!("user: Describe the river {at}"), answer: String::new() }));
            ledger.keep(Arc::new(one));
        }
        ledger.flush();
    }

    #[test]
    fn a_ledgers_file_is_replayed_and_its_rows_are_labelled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        ledger(&path, 720);
        let args = ReplayArgs {
            records: vec![path.clone()],
            weights: None,
            learn: Vec::new(),
            usable: None,
            hosted_share: None,
            difficulty: None,
            local_usd: 0.0,
            strong_usd: 0.01,
        };
        for (limit, strong) in [(0.0, 540.0), (1.0, 0.0)] {
            let totals = replayed(&args, Rule::Difficulty(limit)).unwrap();
            assert_eq!((totals.count, totals.strong_then, totals.usable_then, totals.strong_now), (540.0, 180.0, 360.0, strong));
        }
        let rows: Vec<Row> = rows::read(&[path]).unwrap();
        let told = |row: &Row| (row.weak_score.is_nan(), row.strong_score.is_nan());
        assert_eq!(rows.iter().take(3).map(told).collect::<Vec<_>>(), [(false, true), (false, false), (true, false)]);
    }
}
