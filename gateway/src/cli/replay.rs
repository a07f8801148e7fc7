//! `spectra replay`: what another policy or other weights would have done with recorded requests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Deserialize;
use spectra_router::score::train::Row;
use spectra_router::score::{Forecast, Outcome, Policy, Route, Rule, Score, Scorer, Situation, State, Taken};

use super::rows;

/// `spectra replay RECORDS…`
#[derive(Debug, Default, clap::Args)]
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
    /// Candidate state (`spectra router export`): what the scores start from
    #[arg(long, value_name = "FILE", conflicts_with = "learn")]
    state: Option<PathBuf>,
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
    forecast: Forecast,
    cost_then: f64,
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
    if totals.forecast.count == 0.0 {
        bail!("no records");
    }
    write!(std::io::stdout().lock(), "{}", totals.text(&rule))?;
    Ok(ExitCode::SUCCESS)
}

/// What a rule would do with the requests of a ledger that kept their text, scored by this scorer, which goes on learning.
pub(super) fn foreseen(ledger: &Path, scorer: &Scorer, rule: Rule) -> anyhow::Result<Forecast> {
    let args = ReplayArgs { records: vec![ledger.to_owned()], ..ReplayArgs::default() };
    Ok(over(&args, scorer, rule)?.forecast)
}

fn replayed(args: &ReplayArgs, rule: Rule) -> anyhow::Result<Totals> {
    let scorer = rows::scorer(args.weights.as_deref(), &args.learn)?;
    if let Some(path) = &args.state {
        take_up(&scorer, path).with_context(|| path.display().to_string())?;
    }
    over(args, &scorer, rule)
}

fn over(args: &ReplayArgs, scorer: &Scorer, rule: Rule) -> anyhow::Result<Totals> {
    let policy = Policy::new(rule, 0.0);
    let mut totals = Totals::default();
    let stdin = [PathBuf::from("-")];
    for file in if args.records.is_empty() { &stdin[..] } else { &args.records } {
        rows::each(file, |record: Record| one(args, scorer, &policy, &record, &mut totals))?;
    }
    Ok(totals)
}

fn take_up(scorer: &Scorer, path: &Path) -> anyhow::Result<()> {
    let state: State = serde_json::from_str(&std::fs::read_to_string(path)?).context("not a state that was exported")?;
    Ok(scorer.adopt(state)?)
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
        let paid = record.cost_usd.map_or(price(record.route), f64::from);
        self.cost_then += paid;
        self.cost_now += if now == record.route { paid } else { price(now) };
        let taken = Taken { route: record.route, usable: record.usable, propensity: record.propensity };
        self.forecast.take([score.p_local, score.p_hosted], taken, now);
    }

    fn text(&self, rule: &Rule) -> String {
        let forecast = &self.forecast;
        let percent = |share: f64| 100.0 * share;
        let (usable, (then, now)) = (forecast.usable(), forecast.strong());
        let blind = forecast.effective() < 30.0 || forecast.blind() > 0.5;
        format!(
            "{} records, candidate {rule:?}\n            then      candidate\nstrong      {:>5.1} %   {:>5.1} %\ncost USD    {:>7.4}   {:>7.4}\nusable      {:>5.1} %   {:>5.1} % [{:.1}, {:.1}] (off-policy, {:.0} effective records), {:.1} % expected by the model\n{:.1} % of the routes change\n{}",
            forecast.count,
            percent(then),
            percent(now),
            self.cost_then,
            self.cost_now,
            percent(forecast.usable_then()),
            percent(usable.at),
            percent(usable.low),
            percent(usable.high),
            forecast.effective(),
            percent(forecast.expected()),
            percent(forecast.changed()),
            if blind {
                "Little or nothing was explored where the route changes: there the figure is the model's word, and its interval too narrow. Explore a few percent first.\n"
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
        let args = ReplayArgs { records: vec![path.clone()], strong_usd: 0.01, ..ReplayArgs::default() };
        for (limit, strong) in [(0.0, 540.0), (1.0, 0.0)] {
            let totals = replayed(&args, Rule::Difficulty(limit)).unwrap();
            let forecast = totals.forecast;
            assert_eq!(
                (forecast.count, forecast.usable_then(), forecast.strong()),
                (540.0, 360.0 / 540.0, (180.0 / 540.0, strong / 540.0))
            );
            assert!(totals.text(&Rule::Difficulty(limit)).contains("Explore a few percent"), "nothing was explored");
        }
        let rows: Vec<Row> = rows::read(&[path]).unwrap();
        let told = |row: &Row| (row.weak_score.is_nan(), row.strong_score.is_nan());
        assert_eq!(rows.iter().take(3).map(told).collect::<Vec<_>>(), [(false, true), (false, false), (true, false)]);
    }
}
