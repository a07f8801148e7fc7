//! Dashboards, rules and alerts against the registry: every metric and label exists, panels do not overlap, nothing is unnamed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spectra_gateway::metrics::{Kind, Metrics};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Labels by series name: the registry's, and those of the recording rules.
struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    fn new() -> Self {
        let config = spectra_config::Config::parse(spectra_config::REFERENCE, "reference", &|_| None).unwrap();
        let mut known = BTreeMap::new();
        let scraped = ["instance", "job"].map(str::to_owned);
        for family in Metrics::new(&config).unwrap().families() {
            let labels: BTreeSet<String> = family.labels.iter().map(|label| (*label).to_owned()).chain(scraped.clone()).collect();
            if family.kind == Kind::Histogram {
                known.insert(format!("{}_sum", family.name), labels.clone());
                known.insert(format!("{}_count", family.name), labels.clone());
                known.insert(format!("{}_bucket", family.name), labels.into_iter().chain(["le".to_owned()]).collect());
            } else {
                known.insert(family.name.to_owned(), labels);
            }
        }
        known.insert("up".into(), scraped.into());
        for (name, _) in rules("record") {
            // `route_predicted:…`: the level of a rule's name lists its labels.
            let level = name.split_once(':').map(|(level, _)| level).unwrap_or_default();
            known.insert(
                name.clone(),
                ["route", "predicted"].iter().filter(|label| level.contains(*label)).map(|label| (*label).to_owned()).collect(),
            );
        }
        Self(known)
    }

    /// Every name in the query is a function, a metric with such labels, or a label that one of its metrics has.
    /// Whether it is PromQL at all is promtool's to say.
    fn check(&self, what: &str, query: &str) {
        let (outside, selectors) = take_selectors(query);
        let mut offered = BTreeSet::new();
        let mut names: Vec<&str> = words(&outside).into_iter().filter(|word| !WORDS.contains(word)).collect();
        names.sort_unstable();
        names.dedup();
        for name in names.iter().filter(|name| self.0.contains_key(**name)) {
            offered.extend(self.0[*name].iter().map(String::as_str));
        }
        for (name, matched) in &selectors {
            let labels = self.0.get(name).unwrap_or_else(|| panic!("{what}: no metric {name}"));
            for label in matched {
                assert!(labels.contains(label), "{what}: {name} has no label {label}");
            }
        }
        for name in names.into_iter().filter(|name| !self.0.contains_key(*name)) {
            assert!(offered.contains(name), "{what}: {name} is neither a metric nor a label of one here\n{query}");
        }
    }
}

/// Functions and keywords of PromQL that we use.
const WORDS: &[&str] = &[
    "sum",
    "max",
    "min",
    "by",
    "rate",
    "increase",
    "histogram_quantile",
    "scalar",
    "and",
    "or",
    "abs",
    "max_over_time",
    "min_over_time",
    "avg_over_time",
];

/// The query without its selectors' braces and ranges, and each selector's metric with the labels it matches on.
fn take_selectors(query: &str) -> (String, Vec<(String, Vec<String>)>) {
    let (mut outside, mut selectors, mut rest) = (String::new(), Vec::new(), query);
    while let Some(at) = rest.find(['{', '[']) {
        outside.push_str(&rest[..at]);
        let close = if rest[at..].starts_with('{') { '}' } else { ']' };
        let end = at + rest[at..].find(close).unwrap_or_else(|| panic!("{query}: no {close}"));
        if close == '}' {
            let name = words(&outside).last().map(|name| (*name).to_owned()).unwrap_or_default();
            let matchers = rest[at + 1..end].split("\",").filter_map(|matcher| words(matcher).first().map(|label| (*label).to_owned()));
            selectors.push((name, matchers.collect()));
        }
        outside.push(' ');
        rest = &rest[end + 1..];
    }
    outside.push_str(rest);
    (outside, selectors)
}

/// Names in PromQL's spelling; numbers are none.
fn words(text: &str) -> Vec<&str> {
    let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    parts.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')).collect()
}

#[test]
fn a_wrong_name_is_found() {
    let known = Known::new();
    known.check("good", "sum by (route) (rate(spectra_requests_total{outcome=\"usable\"}[5m])) > 0");
    for wrong in ["spectra_request_total", "sum by (model) (spectra_requests_total)", "spectra_requests_total{result=\"usable\"}"] {
        let found = std::panic::catch_unwind(|| known.check("wrong", wrong));
        assert!(found.is_err(), "{wrong} passed");
    }
}

/// Name and expression of each recording rule or alert.
fn rules(kind: &str) -> Vec<(String, String)> {
    let file = if kind == "record" { "rules.yml" } else { "alerts.yml" };
    let text = std::fs::read_to_string(root().join("grafana/prometheus").join(file)).unwrap();
    let mut found = Vec::new();
    let mut name = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(is) = line.strip_prefix(&format!("- {kind}: ")) {
            is.clone_into(&mut name);
        } else if let Some(expr) = line.strip_prefix("expr: ") {
            found.push((std::mem::take(&mut name), expr.to_owned()));
        }
    }
    assert!(found.len() > 5 && found.iter().all(|(name, _)| !name.is_empty()), "{file}: {found:?}");
    found
}

fn dashboards() -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> = std::fs::read_dir(root().join("grafana/dashboards"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().display().to_string(), serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()))
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found.len(), 5);
    found
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no list {pointer}"))
}

#[test]
fn every_rule_and_alert_asks_for_metrics_that_exist() {
    let known = Known::new();
    for (name, expr) in rules("record").into_iter().chain(rules("alert")) {
        known.check(&name, &expr);
    }
}

#[test]
fn every_panel_asks_for_metrics_that_exist_and_says_what_it_answers() {
    let known = Known::new();
    for (file, dashboard) in dashboards() {
        for panel in list(&dashboard, "/panels").iter().filter(|panel| panel["type"] != "row") {
            let what = format!("{file}: {}", panel["title"]);
            for pointer in ["/title", "/description", "/fieldConfig/defaults/unit"] {
                assert!(panel.pointer(pointer).and_then(Value::as_str).is_some_and(|text| !text.is_empty()), "{what} has no {pointer}");
            }
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{what}");
            let targets = list(panel, "/targets");
            assert!(!targets.is_empty(), "{what}");
            for target in targets {
                known.check(&what, target["expr"].as_str().unwrap());
            }
        }
    }
}

#[test]
fn panels_lie_beside_each_other_and_inside_the_page() {
    for (file, dashboard) in dashboards() {
        assert!((39..=41).contains(&dashboard["schemaVersion"].as_u64().unwrap()), "{file}");
        assert!(dashboard.get("__inputs").is_none(), "{file}: cannot be provisioned");
        let (mut taken, mut ids) = (BTreeMap::new(), BTreeSet::new());
        for panel in list(&dashboard, "/panels") {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: id {} twice", panel["id"]);
            let side = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(side("x") + side("w") <= 24, "{file}: {} sticks out", panel["title"]);
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    if let Some(other) = taken.insert((x, y), panel["title"].clone()) {
                        panic!("{file}: {} overlaps {other}", panel["title"]);
                    }
                }
            }
        }
    }
}

#[test]
fn every_variable_that_is_used_is_defined() {
    for (file, dashboard) in dashboards() {
        let mut defined: BTreeSet<&str> =
            list(&dashboard, "/templating/list").iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        defined.extend(["__rate_interval", "__range", "__all"]);
        let text = dashboard.to_string();
        for (at, _) in text.match_indices('$') {
            let rest = text[at + 1..].trim_start_matches('{');
            let name = &rest[..rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len())];
            assert!(defined.contains(name), "{file}: ${name} is not defined");
        }
        for variable in list(&dashboard, "/templating/list") {
            assert!(
                text.matches(&format!("${}", variable["name"].as_str().unwrap())).count() > 0 || variable["name"] == "datasource",
                "{file}: {} is not used",
                variable["name"]
            );
        }
    }
}

/// `Some` output if the program is there; otherwise says that it is not.
fn run(program: &str, arguments: &[&str]) -> Option<std::process::Output> {
    let fetched = root().join(".tools/bin").join(program);
    let program = if fetched.exists() { fetched } else { program.into() };
    match Command::new(&program).args(arguments).current_dir(root().join("grafana")).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {}: {error}; scripts/setup --tests gets it", program.display());
            None
        }
    }
}

fn passes(program: &str, arguments: &[&str]) {
    if let Some(output) = run(program, arguments) {
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}:\n{said}");
    }
}

#[test]
fn dashboards_are_what_their_source_writes() {
    passes("python3", &["build.py", "--check"]);
}

#[test]
fn promtool_accepts_config_rules_and_alerts_and_they_fire_when_they_should() {
    passes("promtool", &["check", "config", "prometheus/prometheus.yml"]);
    passes("promtool", &["check", "rules", "prometheus/rules.yml", "prometheus/alerts.yml"]);
    passes("promtool", &["test", "rules", "prometheus/tests.yml"]);
}

/// Prometheus 2.42's own grammar reads every panel's query: they go in as if they were rules.
#[test]
fn promtool_reads_every_panel() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "groups:\n- name: panels\n  rules:\n".to_owned();
    for (_, dashboard) in dashboards() {
        for panel in list(&dashboard, "/panels").iter().filter(|panel| panel["type"] != "row") {
            for target in list(panel, "/targets") {
                let query = target["expr"]
                    .as_str()
                    .unwrap()
                    .replace("$__rate_interval", "1m")
                    .replace("$__range", "1h")
                    .replace("$route", "a|b")
                    .replace("$model", "a|b");
                text += &format!("  - record: panel:{}\n    expr: {}\n", text.len(), serde_json::to_string(&query).unwrap());
            }
        }
    }
    let file = folder.path().join("panels.yml");
    std::fs::write(&file, text).unwrap();
    passes("promtool", &["check", "rules", &file.display().to_string()]);
}

/// `docs/metrics.md`, written anew with `UPDATE_EXPECT=1`.
#[test]
fn the_table_of_metrics_is_that_of_the_registry() {
    let config = spectra_config::Config::parse(spectra_config::REFERENCE, "reference", &|_| None).unwrap();
    let written = Metrics::new(&config).unwrap().documentation();
    let path = root().join("docs/metrics.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == written, "docs/metrics.md is out of date: UPDATE_EXPECT=1 cargo nextest run -p spectra-tests metrics");
}
