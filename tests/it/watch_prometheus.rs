//! A real Prometheus scrapes a real gateway under scripted load with faults: what it says against the harness's own count,
//! and every panel of every dashboard for All and for each value of its variables.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use spectra_tests::harness::{PATIENCE, Spectra};
use tokio::time::Instant;

use crate::watch::{CHAT, FAULTS, Seen, program, root, traffic};

#[path = "../../backends/tests/support/mod.rs"]
mod support;

/// Ended with the test.
struct Prometheus {
    child: Child,
    address: String,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Label values and numbers of an answer.
type Answer = Vec<(Value, f64)>;

impl Prometheus {
    fn start(program: &Path, admin: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = root().join("grafana/prometheus");
        let text = std::fs::read_to_string(rules.join("prometheus.yml")).unwrap();
        let text = text.replace("127.0.0.1:9090", admin).replace("15s", "1s");
        let text = text.replace("rules.yml", &rules.join("rules.yml").display().to_string());
        let text = text.replace("alerts.yml", &rules.join("alerts.yml").display().to_string());
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, text).unwrap();
        // Prometheus cannot be told to take any port: one that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(rustls::crypto::ring::default_provider().install_default());
        Self { child, address, client: reqwest::Client::new(), _folder: folder }
    }

    /// `None` while it does not answer yet.
    async fn ask(&self, query: &str) -> Option<Answer> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}/api/v1/query", self.address), [("query", query)]).unwrap();
        let told: Value = serde_json::from_slice(&self.client.get(url).send().await.ok()?.bytes().await.ok()?).ok()?;
        assert_eq!(told["status"], "success", "{query}: {told}");
        let number = |value: &Value| value.as_str().unwrap().parse::<f64>().unwrap();
        let results = told["data"]["result"].as_array().unwrap();
        if told["data"]["resultType"] == "scalar" {
            return Some(vec![(Value::Null, number(&results[1]))]);
        }
        Some(results.iter().map(|one| (one["metric"].clone(), number(&one["value"][1]))).collect())
    }

    async fn until(&self, query: &str, wanted: f64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.ask(query).await;
            if found.as_ref().and_then(|found| found.first()).is_some_and(|(_, number)| (number - wanted).abs() < 1e-9) {
                return;
            }
            assert!(Instant::now() < until, "{query} is {found:?}, not {wanted}, after {PATIENCE:?}");
            tokio::task::yield_now().await;
        }
    }

    /// What Grafana's `label_values(series, label)` offers.
    async fn values(&self, label: &str, series: &str) -> Vec<String> {
        let found = self.ask(&format!("group by ({label}) ({series})")).await.unwrap();
        found.iter().map(|(labels, _)| labels[label].as_str().unwrap().to_owned()).collect()
    }
}

/// With a local worker of random weights too, where the binary is there to run it.
async fn spectra(folder: &Path) -> (Spectra, bool) {
    let binary: PathBuf = std::env::current_exe().unwrap().with_file_name("").join("../spectra");
    let worker = binary.exists();
    let mut text = FAULTS.to_owned();
    if worker {
        let model = support::tiny_model(folder);
        text += &format!(
            "[backends.own.llama]\nmodel = {model:?}\nslots = 2\nthreads = 1\nworker = {{ program = {binary:?} }}\n\
             [routes.own]\nladder = [\"own\"]\nverify = {{ enabled = false }}\n"
        );
    } else {
        println!("skipped in part: no binary to run a local model (cargo build --workspace)");
    }
    (Spectra::start(&text).await.unwrap(), worker)
}

/// Load with faults: what clients do, and what they see.
async fn load(spectra: &Spectra, own: bool) -> Seen {
    let seen = traffic(spectra, 20).await;
    assert_eq!(seen.escalated, 5, "each fault must cost a second attempt");
    assert_eq!(spectra.post(CHAT, "{").await.unwrap().status, 400);
    let said = json!({ "request_id": seen.ids[0], "usable": true }).to_string();
    assert_eq!(spectra.post("/v1/feedback", &said).await.unwrap().status, 200);
    let json =
        json!({ "model": "fenced", "response_format": { "type": "json_object" }, "messages": [{ "role": "user", "content": "JSON." }] });
    assert_eq!(spectra.post(CHAT, &json.to_string()).await.unwrap().header("x-spectra-verified"), Some("repaired"));
    if own {
        let body = json!({ "model": "own", "max_tokens": 4, "messages": [{ "role": "user", "content": "Say hello." }] });
        for _ in 0..3 {
            assert_eq!(spectra.post(CHAT, &body.to_string()).await.unwrap().status, 200);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_sees_what_clients_saw_and_what_a_local_worker_does() {
    let Some(program) = program("prometheus") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (spectra, own) = spectra(folder.path()).await;
    let prometheus = Prometheus::start(&program, &spectra.admin.to_string());
    // Beside the scripted traffic: a repaired answer, and three of the local worker.
    let more = if own { 4.0 } else { 1.0 };
    if own {
        prometheus.until("spectra_engine_up{model=\"own\"}", 1.0).await;
    }
    // The zeros are scraped before the traffic, or the first rise would not be seen.
    prometheus.until("sum(spectra_requests_total)", 0.0).await;
    let seen = load(&spectra, own).await;
    prometheus.until("sum(spectra_requests_total)", 21.0 + more).await;
    // Two scrapes with the end of the traffic, so that every window below holds all of it.
    prometheus.until("changes(spectra_requests_total{route=\"none\",outcome=\"rejected\"}[30s])", 1.0).await;
    // Of the five second attempts one continues a truncated answer, where it stands; the others go to `big`.
    let (local, strong, second) = (f64::from(seen.local), f64::from(20 - seen.local), f64::from(seen.escalated));
    for (query, wanted) in [
        ("sum(spectra_requests_total{outcome=\"usable\"})", f64::from(seen.answered) + 1.0),
        ("sum(spectra_repairs_total{stage=\"fence\",result=\"mended\"})", 1.0),
        ("sum(spectra_verified_total{route=\"fenced\",verified=\"repaired\"})", 1.0),
        ("sum(spectra_requests_total{route=\"local\"})", local),
        ("sum(spectra_requests_total{route=\"strong\"})", strong),
        ("sum(spectra_requests_total{outcome=\"rejected\"})", 1.0),
        ("sum(spectra_errors_total{status=\"400\",code=\"invalid_json\"})", 1.0),
        ("sum(spectra_first_tries_total{route=\"local\",result=\"usable\"})", f64::from(seen.local_first)),
        ("sum(spectra_first_tries_total{route=\"local\",result=\"error\"})", 2.0),
        ("sum(spectra_escalations_total{from=\"small\",to=\"big\"})", second - 1.0),
        ("sum(spectra_escalations_total{reason=\"empty\"})", 2.0),
        ("sum(spectra_asks_total{model=\"small\",why=\"continue\"})", 1.0),
        ("sum(spectra_flaws_total{flaw=\"truncated\"})", 1.0),
        ("sum(spectra_attempts_total)", 20.0 + second + more),
        ("sum(spectra_attempts_total{model=\"big\",verdict=\"pass\"})", strong + second - 1.0),
        ("sum(spectra_attempts_total{model=\"small\",verdict=\"error\"})", 2.0),
        ("sum(spectra_backend_errors_total{model=\"small\",error=\"upstream_5xx\"})", 1.0),
        ("sum(spectra_backend_errors_total{model=\"small\",error=\"broken\"})", 1.0),
        ("sum(spectra_flaws_total{flaw=\"empty\"})", 2.0),
        ("sum(spectra_feedback_total{usable=\"true\"})", 1.0),
        ("sum(gen_ai_server_request_duration_seconds_count)", 20.0 + more),
        ("sum(gen_ai_client_operation_duration_seconds_count)", 20.0 + second + more),
        ("sum(gen_ai_client_token_usage_count{gen_ai_request_model=\"big\",gen_ai_token_type=\"output\"})", strong + second - 1.0),
        ("sum(spectra_router_difficulty_count{route=\"local\"})", local),
        ("sum(spectra_overhead_seconds_count{phase=\"plan\"})", 20.0 + more),
        ("sum(spectra_requests_total{outcome=\"unjudged\"})", more - 1.0),
        ("spectra_in_flight_requests", 0.0),
    ] {
        let found = prometheus.ask(query).await.unwrap();
        // A sum of nothing is absent, not 0.
        let number = found.first().map_or(0.0, |(_, number)| *number);
        assert!((number - wanted).abs() < 1e-9, "{query}: {found:?}, expected {wanted}");
    }
    panels(&prometheus, &seen, own).await;
}

/// What panels show for one route, in closed form: shares are exact, whatever the window extrapolates.
fn shown(title: &str, seen: &Seen) -> Option<(&'static str, f64)> {
    let first = f64::from(seen.local_first) / f64::from(seen.local);
    Some(match title {
        "Usable in the end" => ("local", 1.0),
        "Usable at the first try" => ("local", first),
        "Attempts per request" => ("local", 1.0 + f64::from(seen.escalated) / f64::from(seen.local)),
        _ => return None,
    })
}

/// Every panel's query, for All and for each value of each variable it uses.
async fn panels(prometheus: &Prometheus, seen: &Seen, own: bool) {
    let variables = [
        ("$route", "route", prometheus.values("route", "spectra_requests_total").await),
        ("$model", "model", prometheus.values("model", "spectra_asks_total").await),
    ];
    assert!(variables[0].2.len() >= 3 && variables[1].2.len() >= 3, "{variables:?}");
    let (mut asked, mut empty, mut checked) = (0, Vec::new(), 0);
    for entry in std::fs::read_dir(root().join("grafana/dashboards")).unwrap() {
        let dashboard: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "30s").replace("$__range", "1m");
                let all = prometheus.ask(&query.replace("$route", ".*").replace("$model", ".*")).await.unwrap();
                asked += 1;
                // A GPU's memory is told by a machine that has one.
                if all.is_empty() && !query.contains("spectra_engine_gpu_") {
                    empty.push(title.to_owned());
                }
                if let Some((route, wanted)) = shown(title, seen) {
                    let found = all.iter().find(|(labels, _)| labels["route"] == route);
                    assert!(found.is_some_and(|(_, number)| (number - wanted).abs() < 1e-6), "{title}: {found:?}, expected {wanted}");
                    checked += 1;
                }
                for (variable, label, values) in variables.iter().filter(|(variable, _, _)| query.contains(*variable)) {
                    for value in values {
                        let found = prometheus.ask(&query.replace(variable, value).replace("$route", ".*").replace("$model", ".*")).await;
                        asked += 1;
                        narrowed(title, (label, value), &all, &found.unwrap());
                    }
                }
            }
        }
    }
    println!("{asked} queries of panels");
    assert!(checked == 3 && asked > 150, "{checked} of {asked}");
    let engine = ["Worker", "Slots in use", "Waiting", "Restarts", "Slots and queue", "KV cache in use", "Tokens per second", "Memory"];
    let missing = |title: &String| !own && (engine.contains(&title.as_str()) || title.starts_with("Time to first chunk of local"));
    empty.retain(|title| !missing(title));
    assert!(empty.is_empty(), "panels without data: {empty:?}");
}

/// With one value chosen, a panel shows what it showed of that value before, and nothing else.
fn narrowed(title: &str, (label, value): (&str, &str), all: &Answer, one: &Answer) {
    let is = |labels: &Value| [label, &format!("gen_ai_request_{label}")].iter().any(|label| labels[*label] == value);
    let has = |labels: &Value| [label, &format!("gen_ai_request_{label}")].iter().any(|label| !labels[*label].is_null());
    for (labels, _) in one.iter().filter(|(labels, _)| has(labels)) {
        assert!(is(labels), "{title} with {label}={value} shows {labels}");
    }
    for (labels, _) in all.iter().filter(|(labels, _)| is(labels)) {
        assert!(one.iter().any(|(other, _)| other == labels), "{title} with {label}={value} does not show {labels}");
    }
}
