//! Every metric and label in every dashboard, rule and alert is in the registry, as `docs/metrics.md` lists it (a test of the
//! gateway keeps that table true); every legend and annotation names labels that its result has.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spectra_grafana_check::{Known, Labels};

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Labels by series name: the registry's, and those of the recording rules.
fn known() -> Known {
    let mut known = Known::default();
    let scraped = ["instance", "job"].map(str::to_owned);
    let table = std::fs::read_to_string(grafana().join("../docs/metrics.md")).unwrap();
    // | `name` | kind | `label`, `label` | meaning |
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        let labels = cells[3].split(", ").map(|label| label.trim_matches('`').to_owned()).filter(|label| !label.is_empty());
        let labels: Labels = labels.chain(scraped.clone()).collect();
        if cells[2] == "histogram" {
            known.0.insert(format!("{name}_sum"), labels.clone());
            known.0.insert(format!("{name}_count"), labels.clone());
            known.0.insert(format!("{name}_bucket"), labels.into_iter().chain(["le".to_owned()]).collect());
        } else {
            known.0.insert(name.to_owned(), labels);
        }
    }
    assert!(known.0.len() > 50, "docs/metrics.md is not the table it was");
    known.0.insert("up".into(), scraped.into());
    for rule in rules("record") {
        let labels = check(&known, &rule.name, &rule.expr);
        // `route_predicted:…`: the level of a rule's name lists its labels.
        let level = rule.name.split_once(':').map_or("", |(level, _)| level);
        let told: Labels = ["route", "predicted"].iter().filter(|label| level.contains(*label)).map(|label| (*label).to_owned()).collect();
        assert_eq!(labels, told, "{}", rule.name);
        known.0.insert(rule.name, labels);
    }
    known
}

/// The labels of the query's result.
fn check(known: &Known, what: &str, query: &str) -> Labels {
    known.labels(query).unwrap_or_else(|error| panic!("{what}: {error}\n{query}"))
}

/// Every `{{ label }}` of a legend or of an annotation, where `before` comes before the name.
fn templated<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let inside = text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(inside, _)| inside.trim());
    inside.filter_map(move |inside| inside.strip_prefix(before))
}

/// A recording rule or an alert.
struct Rule {
    name: String,
    expr: String,
    /// The lines that follow, up to the next one.
    rest: String,
}

fn rules(kind: &str) -> Vec<Rule> {
    let file = if kind == "record" { "rules.yml" } else { "alerts.yml" };
    let text = std::fs::read_to_string(grafana().join("prometheus").join(file)).unwrap();
    let mut found: Vec<Rule> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(&format!("- {kind}: ")) {
            found.push(Rule { name: name.into(), expr: String::new(), rest: String::new() });
        } else if let Some(rule) = found.last_mut() {
            match line.strip_prefix("expr: ") {
                Some(expr) => rule.expr = expr.into(),
                None => rule.rest += line,
            }
        }
    }
    assert!(found.len() > 5 && found.iter().all(|rule| !rule.expr.is_empty()), "{file}");
    found
}

#[test]
fn every_rule_and_alert_asks_for_metrics_that_exist_and_says_what_to_do() {
    let known = known();
    for alert in rules("alert") {
        let labels = check(&known, &alert.name, &alert.expr);
        assert!(
            alert.rest.contains("runbook: ") && alert.rest.contains("summary: ") && alert.rest.contains("severity: "),
            "{}",
            alert.name
        );
        for label in templated(&alert.rest, "$labels.") {
            assert!(labels.contains(label), "{}: no label {label} there, only {labels:?}", alert.name);
        }
    }
}

#[test]
fn every_panel_asks_for_metrics_that_exist_and_names_labels_of_its_result() {
    let known = known();
    let mut panels = 0;
    for entry in std::fs::read_dir(grafana().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let what = format!("{}: {}", path.display(), panel["title"]);
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m").replace("$__range", "1h");
                let labels = check(&known, &what, &query.replace("$route", "a|b").replace("$model", "a|b"));
                for label in templated(target["legendFormat"].as_str().unwrap(), "") {
                    assert!(labels.contains(label), "{what}: its legend names {label}, there is only {labels:?}");
                }
            }
            panels += 1;
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            // label_values(series, label)
            let Some(inside) = variable["query"]["query"].as_str().and_then(|query| query.strip_prefix("label_values(")) else { continue };
            let (series, label) = inside.trim_end_matches(')').split_once(", ").unwrap();
            assert!(known.labels(series).unwrap().contains(label), "{}: {inside}", path.display());
        }
    }
    assert!(panels > 40, "{panels} panels");
}
