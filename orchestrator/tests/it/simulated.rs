//! The simulated table of `README.md`: all 30 requests, scripted upstream, faults at 0, 10, 30 and 50 % of answers.
//! `UPDATE_TABLE=1` writes the table; without it the test fails when the table and the code disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::author::{Work, works};
use crate::support::spectra::Spectra;
use crate::support::upstream::{Script, Upstream};
use crate::support::{run, silent_bad, unmet};

/// The README's seed.
const SEED: u64 = 7;
const PERCENTS: [u64; 4] = [0, 10, 30, 50];
const HEADER: &str = "| way | faults | S | M | L | XL | calls | answers a file, mean (most) | silent bad files |\n\
    |---|---|---|---|---|---|---|---|---|\n";
const LEVELS: [&str; 4] = ["S", "M", "L", "XL"];

/// The gateway's default, and one that ranks questions by what it has learned.
const THRESHOLD: &str = "{ threshold = 0.5 }";
const BUDGET: &str = "{ budget = { hosted_share = 0.3 } }";

/// `SIMULATED_SEED=N` draws other faults: the bars must hold for them too, the tables are not compared.
fn seed() -> u64 {
    std::env::var("SIMULATED_SEED").map_or(SEED, |seed| seed.parse().unwrap())
}

/// One line of the table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Line {
    /// Usable services and all, by level.
    levels: BTreeMap<String, (u32, u32)>,
    /// Answers that upstreams gave.
    calls: u32,
    /// Answers the orchestrator got, by the gateway's route.
    routes: BTreeMap<String, u64>,
    /// Answers asked for each file that the model was to write.
    attempts: Vec<u64>,
    /// Files that passed for good and are not.
    silent_bad: u32,
}

impl Line {
    fn add(&mut self, work: &Work, usable: bool, silent_bad: usize, summary: &Value) {
        let files = summary["files"].as_object().into_iter().flatten();
        self.attempts.extend(files.filter_map(|(_, file)| file["attempts"].as_u64()).filter(|asked| *asked > 0));
        for (route, count) in summary["routes"].as_object().into_iter().flatten() {
            *self.routes.entry(route.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let (good, all) = self.levels.entry(work.level.clone()).or_default();
        *good += u32::from(usable);
        *all += 1;
        self.silent_bad += u32::try_from(silent_bad).unwrap();
    }

    fn share(&self, levels: &[&str]) -> f64 {
        let sum = |pick: fn(&(u32, u32)) -> u32| levels.iter().map(|level| pick(&self.levels[*level])).sum::<u32>();
        f64::from(sum(|cell| cell.0)) / f64::from(sum(|cell| cell.1))
    }

    fn routes_row(&self, policy: &str) -> String {
        let count = |route: &str| self.routes.get(route).copied().unwrap_or(0);
        let all = count("local") + count("strong");
        let share = |route: &str| format!("{} ({:.0} %)", count(route), 100.0 * count(route) as f64 / all as f64);
        format!("| `{policy}` | {all} | {} | {} |\n", share("local"), share("strong"))
    }

    fn row(&self, mode: &str, percent: u64) -> String {
        let cells: Vec<String> = LEVELS
            .iter()
            .map(|level| {
                let (good, all) = self.levels[*level];
                format!("{good}/{all}")
            })
            .collect();
        let (sum, count) = (self.attempts.iter().sum::<u64>(), self.attempts.len().max(1));
        let mean = sum as f64 / count as f64;
        let attempts = match self.attempts.iter().max() {
            Some(most) => format!("{mean:.2} ({most})"),
            None => "all in one".to_owned(),
        };
        format!("| {mode} | {percent} % | {} | {} | {attempts} | {} |\n", cells.join(" | "), self.calls, self.silent_bad)
    }
}

/// (b): the orchestrator straight to the upstream.
fn straight(percent: u64) -> Line {
    let upstream = Upstream::start(Script { seed: seed(), percent, per_file: false });
    let mut line = all_builds(&upstream.base_url);
    line.calls = upstream.calls();
    let told: BTreeSet<String> = upstream.feedback().iter().map(|said| said["request_id"].to_string()).collect();
    assert_eq!(told.len(), usize::try_from(line.calls).unwrap(), "every answer's outcome is told");
    line
}

/// (c): through Spectra, both upstreams spoilt alike. Calls are those that reached an upstream.
fn through_spectra(binary: &Path, percent: u64, policy: &str) -> Line {
    let weak = Upstream::start(Script { seed: seed(), percent, per_file: false });
    let strong = Upstream::start(Script { seed: seed() + 1, percent, per_file: false });
    let dir = tempfile::tempdir().unwrap();
    let spectra = Spectra::start(binary, dir.path(), &weak.base_url, &strong.base_url, policy);
    let mut line = all_builds(&spectra.base_url);
    line.calls = weak.calls() + strong.calls();
    println!(
        "through Spectra at {percent} %, policy {policy}: routes {:?}, {} weak and {} strong calls",
        line.routes,
        weak.calls(),
        strong.calls()
    );
    line
}

/// All 30 requests, three at a time.
fn all_builds(base_url: &str) -> Line {
    let line = Mutex::new(Line::default());
    let (works, next) = (works(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(work) = works.get(next.fetch_add(1, Ordering::Relaxed)) {
                    build(work, base_url, &line);
                }
            });
        }
    });
    line.into_inner().unwrap()
}

/// Usable: exit code 0, what was expected is there, and no file is silently bad.
fn build(work: &Work, base_url: &str, line: &Mutex<Line>) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("service");
    let ran = run(crate::support::command(work, base_url, &out));
    assert!(!ran.summary.is_null(), "{}: no summary: {}", work.name, ran.output);
    assert_eq!(ran.summary["service_name"], work.name.as_str());
    let bad = silent_bad(work, &ran.summary, &out);
    for path in &bad {
        let text = std::fs::read_to_string(out.join(path)).unwrap_or_default();
        println!("silently bad: {}/{path}:\n{text}\n{}", work.name, ran.output);
    }
    let unmet = unmet(work, &ran.summary, &out);
    let usable = ran.code == 0 && bad.is_empty() && unmet.is_empty();
    if !usable {
        println!("not usable: {}, unmet {unmet:?}: {}", work.name, ran.output);
    }
    line.lock().unwrap().add(work, usable, bad.len(), &ran.summary);
}

/// (a): the old way. One question, one JSON with everything, parsed and written as it comes.
fn one_shot(percent: u64, per_file: bool) -> Line {
    let upstream = Upstream::start(Script { seed: seed(), percent, per_file });
    let mut line = Line::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for work in works() {
        let body = serde_json::json!({
            "model": "auto",
            "messages": [{"role": "system", "content": work.single_shot}, {"role": "user", "content": work.request}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "service_files"}},
        });
        let answer = runtime.block_on(post(&upstream.base_url, &body));
        let text = answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or("");
        let (usable, bad) = old_way(&work, text);
        line.add(&work, usable, bad, &Value::Null);
    }
    line.calls = upstream.calls();
    line
}

/// Whether the pipeline of old would have a usable service, and how many bad files it would have written unseen.
fn old_way(work: &Work, text: &str) -> (bool, usize) {
    let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let files = parsed["files_to_create"].as_array().cloned().unwrap_or_default();
    let good = |file: &Value| file["path"].as_str().and_then(|path| work.texts.get(path)).map(String::as_str) == file["content"].as_str();
    let bad = files.iter().filter(|file| !good(file)).count();
    (parsed["service_name"] == work.name.as_str() && files.len() == work.texts.len() && bad == 0, bad)
}

async fn post(base_url: &str, body: &Value) -> Value {
    let answer = reqwest::Client::new()
        .post(format!("{base_url}/chat/completions"))
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[test]
fn the_table_of_the_readme() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut table = String::from(HEADER);
    for percent in PERCENTS {
        table += &one_shot(percent, false).row("(a) one JSON, fault per answer", percent);
    }
    for percent in PERCENTS {
        table += &one_shot(percent, true).row("(a) one JSON, fault per file in it", percent);
    }
    for percent in PERCENTS {
        let line = straight(percent);
        holds(&line, percent);
        table += &line.row("(b) orchestrator, straight", percent);
    }
    println!("{table}");
    matches_readme("simulated table", &table);
}

/// The bars: nothing silently bad, and up to 30 % of spoilt answers do not matter.
fn holds(line: &Line, percent: u64) {
    assert_eq!(line.silent_bad, 0, "at {percent} %: {line:?}");
    if percent <= 30 {
        assert!((line.share(&["S", "M"]) - 1.0).abs() < f64::EPSILON, "at {percent} %: {line:?}");
        assert!(line.share(&["L", "XL"]) >= 0.95, "at {percent} %: {line:?}");
    }
}

/// The calls of this table depend on the gateway's routing, so the table is not compared: the bars are.
#[test]
fn the_table_through_spectra() {
    let Some(binary) = Spectra::binary() else {
        println!("skipped: no `spectra` that can serve; build it, or name it in SPECTRA_BIN");
        return;
    };
    let mut table = String::from(HEADER);
    // One share in the ordinary run; all of them when the table is made.
    let percents = if updating() { PERCENTS.as_slice() } else { &[30] };
    for &percent in percents {
        let line = through_spectra(&binary, percent, THRESHOLD);
        holds(&line, percent);
        table += &line.row("(c) orchestrator, through Spectra", percent);
    }
    println!("{table}");
    if updating() {
        matches_readme("simulated table through Spectra", &table);
        let mut table = String::from("| policy | questions | to the local route | to the strong route |\n|---|---|---|---|\n");
        for policy in [THRESHOLD, BUDGET] {
            let line = through_spectra(&binary, 30, policy);
            holds(&line, 30);
            table += &line.routes_row(policy);
        }
        matches_readme("simulated routes", &table);
    }
}

fn updating() -> bool {
    std::env::var_os("UPDATE_TABLE").is_some()
}

fn matches_readme(mark: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let start = format!("<!-- {mark} -->\n");
    let from = readme.find(&start).unwrap() + start.len();
    let to = from + readme[from..].find("<!-- end -->").unwrap();
    if seed() != SEED {
        return;
    }
    if updating() {
        std::fs::write(&path, format!("{}{table}{}", &readme[..from], &readme[to..])).unwrap();
    } else {
        assert_eq!(&readme[from..to], table, "run again with UPDATE_TABLE=1");
    }
}
