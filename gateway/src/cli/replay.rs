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
    let scorer = rows::scorer(args.weights.as_deref(), &args.learn)?;
    let policy = Policy::new(rule, 0.0);
    let mut totals = Totals::default();
    let stdin = [PathBuf::from("-")];
    for file in if args.records.is_empty() { &stdin[..] } else { &args.records } {
        rows::each(file, |record: Record| one(args, &scorer, &policy, &record, &mut totals))?;
    }
    if totals.count == 0.0 {
        bail!("no records");
    }
    write!(std::io::stdout().lock(), "{}", totals.text(&rule))?;
    Ok(ExitCode::SUCCESS)
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
