//! `spectra top`: the page's figures and decisions in a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

/// Decisions shown.
const ROWS: usize = 15;
/// Home, and clear what is below: less flicker than clearing all.
const REDRAW: &str = "\x1b[H\x1b[J";

/// `spectra top …`
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// The admin listener of a running gateway
    #[arg(default_value = "http://127.0.0.1:9090", env = "SPECTRA_ADMIN_URL")]
    url: String,
    /// Its admin token
    #[arg(long, env = "SPECTRA_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Minutes that the figures cover, 1 to 60
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=60))]
    minutes: u32,
    /// Show once and end
    #[arg(long)]
    once: bool,
}

/// Shows until interrupted, once a second.
///
/// # Errors
/// Where no gateway answers at the address, or it wants another token.
pub async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let mut out = std::io::stdout();
    let redraws = out.is_terminal() && !args.once;
    loop {
        let told = ask(&client, &args).await?;
        let page = draw(&told, u64::from(args.minutes) * 60);
        write!(out, "{}{page}", if redraws { REDRAW } else { "" })?;
        out.flush()?;
        if args.once {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn ask(client: &reqwest::Client, args: &TopArgs) -> anyhow::Result<Value> {
    let mut request = client.get(format!("{}/dashboard/live", args.url.trim_end_matches('/')));
    if let Some(token) = &args.token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.with_context(|| format!("no gateway answers at {}", args.url))?;
    match response.status().as_u16() {
        200 => Ok(serde_json::from_slice(&response.bytes().await?)?),
        401 => anyhow::bail!("{} wants its admin token: --token or SPECTRA_ADMIN_TOKEN", args.url),
        status => anyhow::bail!("{} answered {status}; is it the admin listener?", args.url),
    }
}

/// Sums of one route.
#[derive(Default)]
struct Sum {
    ended: Vec<u64>,
    first: Vec<u64>,
    cost: f64,
    compared: f64,
}

fn draw(told: &Value, seconds: u64) -> String {
    let mut page = String::new();
    let up = told["now"].as_u64().unwrap_or_default().saturating_sub(told["started"].as_u64().unwrap_or_default());
    // Writing to a String cannot fail.
    let _ = writeln!(page, "spectra {}  up {up} s  in flight {}  last {} min\n", text(&told["version"]), told["in_flight"], seconds / 60);
    let _ =
        writeln!(page, "{:<16}{:>9}{:>9}{:>11}{:>9}{:>11}{:>11}", "route", "requests", "usable", "first try", "broken", "cost", "saved");
    for (route, sum) in sums(told, seconds) {
        let ended = |name: &str| index(&told["ended"], name).and_then(|at| sum.ended.get(at)).copied().unwrap_or_default();
        let first = |name: &str| index(&told["first"], name).and_then(|at| sum.first.get(at)).copied().unwrap_or_default();
        let judged = ended("usable") + ended("unusable") + ended("failed") + ended("broken");
        let tried = first("usable") + first("unusable") + first("error");
        let _ = writeln!(
            page,
            "{route:<16}{:>9}{:>9}{:>11}{:>9}{:>11.4}{:>11.4}",
            sum.ended.iter().sum::<u64>(),
            percent(ended("usable"), judged),
            percent(first("usable"), tried),
            ended("broken"),
            sum.cost,
            sum.compared - sum.cost
        );
    }
    let _ = writeln!(page, "\n{:<16}{:<10}{:>12}{:>9}{:>10}", "model", "breaker", "slots", "waiting", "restarts");
    for model in list(&told["models"]) {
        let engine = &model["engine"];
        let slots = if engine.is_null() { "hosted".to_owned() } else { format!("{}/{}", engine["busy"], engine["slots"]) };
        let number = |name: &str| engine[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let (name, breaker) = (text(&model["name"]), text(&model["breaker"]));
        let _ = writeln!(page, "{name:<16}{breaker:<10}{slots:>12}{:>9}{:>10}", number("queue"), number("restarts"));
    }
    let _ = writeln!(page, "\n{:<11}{:>6}{:>7}{:>10}  route: attempts", "result", "score", "tries", "took");
    for decision in list(&told["decisions"]).iter().rev().take(ROWS) {
        let attempts = list(&decision["attempts"]);
        let told: Vec<String> =
            attempts.iter().map(|attempt| format!("{} {}", text(&attempt["model"]), text(&attempt["verdict"]))).collect();
        let score = decision["score"].as_f64().map_or_else(|| "-".to_owned(), |score| format!("{score:.2}"));
        let took = format!("{:.0} ms", decision["ms"]["total"].as_f64().unwrap_or_default());
        let route = decision["route"].as_str().unwrap_or("-");
        let _ = writeln!(page, "{:<11}{score:>6}{:>7}{took:>10}  {route}: {}", text(&decision["ended"]), attempts.len(), told.join(", "));
    }
    page
}

fn sums(told: &Value, seconds: u64) -> BTreeMap<String, Sum> {
    let from = told["now"].as_u64().unwrap_or_default().saturating_sub(seconds);
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for interval in list(&told["intervals"]).iter().filter(|interval| interval["t"].as_u64().is_some_and(|start| start >= from)) {
        for (route, counts) in interval["routes"].as_object().into_iter().flatten() {
            let sum = sums.entry(route.clone()).or_default();
            add(&mut sum.ended, &counts["ended"]);
            add(&mut sum.first, &counts["first"]);
            sum.cost += counts["cost"].as_f64().unwrap_or_default();
            sum.compared += counts["compared"].as_f64().unwrap_or_default();
        }
    }
    sums
}

fn add(sum: &mut Vec<u64>, counts: &Value) {
    let counts = list(counts);
    sum.resize(sum.len().max(counts.len()), 0);
    for (sum, count) in sum.iter_mut().zip(counts) {
        *sum += count.as_u64().unwrap_or_default();
    }
}

fn percent(part: u64, whole: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "counts of an hour")]
    let share = part as f64 / whole.max(1) as f64;
    if whole == 0 { "-".into() } else { format!("{:.1}%", share * 100.0) }
}

fn index(names: &Value, name: &str) -> Option<usize> {
    list(names).iter().position(|found| found == name)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
