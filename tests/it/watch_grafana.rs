//! Dashboards, rules and alerts as files: panels do not overlap, nothing is unnamed, Grafana's types and promtool accept them.
//! That every metric and label in them exists is `grafana/check`'s to say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spectra_gateway::metrics::Metrics;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
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

/// The query as Grafana sends it, with this value for each variable.
fn interpolated(query: &str, value: &str) -> String {
    query.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$route", value).replace("$model", value)
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no list {pointer}"))
}

#[test]
fn every_panel_says_what_it_answers() {
    for (file, dashboard) in dashboards() {
        for panel in list(&dashboard, "/panels").iter().filter(|panel| panel["type"] != "row") {
            let what = format!("{file}: {}", panel["title"]);
            for pointer in ["/title", "/description", "/fieldConfig/defaults/unit"] {
                assert!(panel.pointer(pointer).and_then(Value::as_str).is_some_and(|text| !text.is_empty()), "{what} has no {pointer}");
            }
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{what}");
            let targets = list(panel, "/targets");
            assert!(!targets.is_empty(), "{what}");
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

/// Grafana's own types: the frame of a dashboard, and the options of each kind of panel.
#[test]
fn typescript_accepts_the_dashboards_by_grafanas_schema() {
    let clients = root().join("tests/clients/node");
    if !clients.join("node_modules/@grafana/schema").is_dir() {
        println!("skipped: no @grafana/schema; scripts/setup --tests gets it");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let script = clients.join("dashboards.mjs");
    passes("node", &[&script.display().to_string(), "dashboards", &scratch.path().display().to_string()]);
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
                let query = interpolated(target["expr"].as_str().unwrap(), "a|b");
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
