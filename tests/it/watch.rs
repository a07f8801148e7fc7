//! What is shown against what happened: metrics, a real Prometheus, the page in a real browser, ledger, feedback.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use spectra_tests::harness::{PATIENCE, Spectra};
use tokio::time::Instant;

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"model":"auto","messages":[{"role":"user","content":"Say hello."}]}"#;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Easy requests: a good answer, an empty one that escalates, a busy backend that escalates, then good ones for ever.
async fn spectra(ledger: &Path) -> Spectra {
    let text = format!(
        r#"
        [accounting]
        ledger = "{}"
        [backends.small.script]
        answers = [{{ text = "Hello." }}, {{ text = "" }}, {{ text = "" }}, {{ status = 503, text = "busy" }}, {{ text = "Hello." }}]
        [backends.big]
        price = {{ input = 2.0, output = 8.0 }}
        [backends.big.script]
        answers = [{{ text = "Hello from big." }}]
        [routes.local]
        ladder = ["small", "big"]
        attempts_per_rung = 1
        [routes.strong]
        ladder = ["big"]
        "#,
        ledger.display()
    );
    Spectra::start(&text).await.unwrap()
}

/// The harness's own account of what clients saw.
#[derive(Default)]
struct Seen {
    answered: u32,
    local: u32,
    local_first: u32,
    escalated: u32,
    ids: Vec<String>,
}

async fn traffic(spectra: &Spectra, requests: u32) -> Seen {
    let mut seen = Seen::default();
    for number in 0..requests {
        let body = if number % 4 == 3 { HELLO.replace("auto", "strong") } else { HELLO.to_owned() };
        let answered = spectra.post(CHAT, &body).await.unwrap();
        let header = |name: &str| answered.header(name).unwrap_or_default().to_owned();
        seen.answered += u32::from(answered.status == 200);
        seen.ids.push(header("x-request-id"));
        if header("x-spectra-route") == "local" && answered.status == 200 {
            seen.local += 1;
            let several = header("x-spectra-attempts") != "1";
            seen.escalated += u32::from(several);
            seen.local_first += u32::from(!several);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn page_metrics_ledger_and_feedback_agree_with_what_clients_saw() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let spectra = spectra(&path).await;
    let seen = traffic(&spectra, 16).await;
    assert!(seen.escalated >= 2 && seen.local > seen.escalated, "the script must escalate some");
    let refused = spectra.post(CHAT, "{").await.unwrap();
    assert_eq!(refused.status, 400);

    let usable = spectra.metric_sum("spectra_requests_total", "outcome=\"usable\"").await.unwrap();
    assert_eq!(usable, f64::from(seen.answered));
    assert_eq!(spectra.metric_sum("spectra_requests_total", "outcome=\"rejected\"").await.unwrap(), 1.0);
    assert_eq!(spectra.metric_sum("spectra_requests_total", "").await.unwrap(), 17.0);
    let first = "result=\"usable\",route=\"local\"";
    assert_eq!(spectra.metric_sum("spectra_first_tries_total", first).await.unwrap(), f64::from(seen.local_first));

    let live = spectra.admin("/dashboard/live").await.unwrap().json().unwrap();
    assert_eq!(live["decisions"].as_array().unwrap().len(), 17);
    assert!(live["models"].as_array().unwrap().iter().any(|model| model["name"] == "big"));

    let report = json!({ "request_id": seen.ids[0], "usable": false, "reason": "tests failed" });
    let receipt = spectra.post("/v1/feedback", &report.to_string()).await.unwrap();
    assert_eq!((receipt.status, receipt.json().unwrap()["learned"].clone()), (200, json!(true)));
    let stray = spectra.post("/v1/feedback", r#"{"request_id":"nobody","usable":true}"#).await.unwrap();
    assert_eq!((stray.status, stray.error().unwrap().3.as_deref()), (404, Some("request_not_found")));
    let odd = spectra.post("/v1/feedback", r#"{"usable":"yes"}"#).await.unwrap();
    assert_eq!(odd.status, 400);
    assert_eq!(spectra.metric_sum("spectra_feedback_total", "usable=\"false\"").await.unwrap(), 1.0);

    let rows = exported(&path, 17).await;
    assert_eq!(rows.iter().filter(|row| row["outcome"] == "delivered").count(), seen.answered as usize);
    let marked: Vec<_> = rows.iter().filter(|row| row["feedback"]["usable"] == false).map(|row| row["request_id"].clone()).collect();
    assert_eq!(marked, [json!(seen.ids[0])]);
}

/// Reads the ledger while the gateway runs, until its writer has committed so many rows and the feedback.
async fn exported(path: &Path, rows: usize) -> Vec<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut out = Vec::new();
        spectra_gateway::ledger::export::export(path, 0, false, &mut out).unwrap();
        let found: Vec<Value> = String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if found.len() >= rows && found.iter().any(|row| !row["feedback"].is_null()) {
            return found;
        }
        assert!(Instant::now() < until, "{} rows after {PATIENCE:?}", found.len());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_page_is_whole_and_loads_from_here_only() {
    let folder = tempfile::tempdir().unwrap();
    let spectra = spectra(&folder.path().join("ledger.sqlite")).await;
    let page = spectra.admin("/dashboard").await.unwrap();
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self';"));
    let text = page.text();
    for (at, _) in text.match_indices("/dashboard/") {
        let file = &text[at..at + text[at..].find('"').unwrap()];
        assert_eq!(spectra.admin(file).await.unwrap().status, 200, "{file}");
    }
    assert!(!text.contains("//"), "an address outside");
}

/// A collector that takes one export and gives its body.
async fn collector() -> (String, tokio::task::JoinHandle<Value>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let taken = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            socket.read_buf(&mut bytes).await.unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("POST /v1/traces "), "{head}");
            if let Ok(export) = serde_json::from_str(body) {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                return export;
            }
        }
    });
    (address, taken)
}

#[tokio::test]
async fn an_escalated_request_is_one_trace_at_the_collector() {
    let (address, taken) = collector().await;
    let text = format!(
        r#"
        tracing.otlp = "{address}"
        backends.small.script.answers = [{{ text = "" }}]
        backends.big.script.answers = [{{ text = "Hello." }}]
        routes.local = {{ ladder = ["small", "big"], attempts_per_rung = 1 }}
        routes.strong.ladder = ["big"]
        "#
    );
    let spectra = Spectra::start(&text).await.unwrap();
    let caller = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let answered = spectra.post_with(CHAT, caller, HELLO).await.unwrap();
    assert_eq!(answered.header("x-spectra-attempts"), Some("2"));
    let export = tokio::time::timeout(PATIENCE, taken).await.unwrap().unwrap();
    let spans = export["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat auto", "chat small", "chat big"]);
    assert!(spans.iter().all(|span| span["traceId"] == "0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
    assert!(spans[1..].iter().all(|span| span["parentSpanId"] == spans[0]["spanId"]));
    let verdict = json!({ "key": "spectra.verdict", "value": { "stringValue": "empty" } });
    assert!(spans[1]["attributes"].as_array().unwrap().contains(&verdict), "{}", spans[1]);
}

/// A program by its name, from `.tools/bin` or the path; says so where it is not there.
fn program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root().join(".tools/bin")).chain(std::env::split_paths(&paths));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no {name} here; scripts/setup --tests gets it");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_in_a_browser_shows_what_clients_saw() {
    let (Some(node), Some(chromium)) = (program("node"), program("chromium")) else { return };
    let clients = root().join("tests/clients/node");
    if !clients.join("node_modules/playwright-core").is_dir() {
        println!("skipped: no playwright-core; scripts/setup --tests gets it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let spectra = spectra(&folder.path().join("ledger.sqlite")).await;
    let seen = traffic(&spectra, 24).await;
    let percent = |part: u32| {
        let share = f64::from(part) / f64::from(seen.local) * 100.0;
        if share > 99.95 { "100%".to_owned() } else { format!("{share:.1}%") }
    };
    let expected = json!({
        "route": "local", "final": percent(seen.local), "first": percent(seen.local_first), "route_requests": seen.local,
        "requests": 24, "escalated": seen.escalated,
    });
    let mut browse = Command::new(node);
    browse.current_dir(&clients).args(["page.mjs", &format!("http://{}", spectra.admin)]).arg(chromium);
    browse.arg(root().join("artifacts/page")).arg(expected.to_string());
    let output = tokio::task::spawn_blocking(move || browse.output().unwrap()).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("page: ok"), "{said}");
}

/// Ended with the test.
struct Prometheus {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
        Self { child, address, _folder: folder }
    }

    /// Label values and numbers; `None` while it does not answer yet.
    async fn ask(&self, client: &reqwest::Client, query: &str) -> Option<Vec<(Value, f64)>> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}/api/v1/query", self.address), [("query", query)]).unwrap();
        let told: Value = serde_json::from_slice(&client.get(url).send().await.ok()?.bytes().await.ok()?).ok()?;
        assert_eq!(told["status"], "success", "{query}: {told}");
        let number = |value: &Value| value.as_str().unwrap().parse::<f64>().unwrap();
        let results = told["data"]["result"].as_array().unwrap();
        if told["data"]["resultType"] == "scalar" {
            return Some(vec![(Value::Null, number(&results[1]))]);
        }
        Some(results.iter().map(|one| (one["metric"].clone(), number(&one["value"][1]))).collect())
    }

    async fn until(&self, client: &reqwest::Client, query: &str, wanted: f64) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.ask(client, query).await;
            if found.as_ref().and_then(|found| found.first()).is_some_and(|(_, number)| (number - wanted).abs() < 1e-9) {
                return;
            }
            assert!(Instant::now() < until, "{query} is {found:?}, not {wanted}, after {PATIENCE:?}");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_sees_what_clients_saw() {
    let Some(program) = program("prometheus") else { return };
    let folder = tempfile::tempdir().unwrap();
    let spectra = spectra(&folder.path().join("ledger.sqlite")).await;
    let prometheus = Prometheus::start(&program, &spectra.admin.to_string());
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::new();
    // The zeros are scraped before the traffic, or the first rise would not be seen.
    prometheus.until(&client, "sum(spectra_requests_total)", 0.0).await;
    let seen = traffic(&spectra, 20).await;
    prometheus.until(&client, "sum(spectra_requests_total)", 20.0).await;
    let local = f64::from(seen.local);
    for (query, wanted) in [
        ("sum(spectra_requests_total{outcome=\"usable\"})", f64::from(seen.answered)),
        ("sum(spectra_requests_total{route=\"local\"})", local),
        ("sum(spectra_requests_total{route=\"strong\"})", 20.0 - local),
        ("sum(spectra_first_tries_total{route=\"local\",result=\"usable\"})", f64::from(seen.local_first)),
        ("sum(spectra_escalations_total{from=\"small\",to=\"big\"})", f64::from(seen.escalated)),
        ("sum(spectra_attempts_total)", f64::from(20 + seen.escalated)),
        ("sum(spectra_attempts_total{model=\"big\",verdict=\"pass\"})", 20.0 - local + f64::from(seen.escalated)),
        ("sum(spectra_flaws_total{flaw=\"empty\"})", 2.0),
        ("sum(gen_ai_server_request_duration_seconds_count)", 20.0),
        ("sum(gen_ai_client_operation_duration_seconds_count)", f64::from(20 + seen.escalated)),
        ("sum(spectra_router_difficulty_count{route=\"local\"})", local),
        ("sum(spectra_overhead_seconds_count{phase=\"plan\"})", 20.0),
        ("spectra_in_flight_requests", 0.0),
    ] {
        let found = prometheus.ask(&client, query).await.unwrap();
        assert!((found.first().map_or(f64::NAN, |(_, number)| *number) - wanted).abs() < 1e-9, "{query}: {found:?}, expected {wanted}");
    }
    panels(&prometheus, &client, &seen).await;
}

/// Every panel's query is answered for All and for each value; the big numbers are right.
async fn panels(prometheus: &Prometheus, client: &reqwest::Client, seen: &Seen) {
    let mut empty = Vec::new();
    for entry in std::fs::read_dir(root().join("grafana/dashboards")).unwrap() {
        let dashboard: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            for target in panel["targets"].as_array().unwrap() {
                for (route, model) in [(".*", ".*"), ("local", "small"), ("strong", "big")] {
                    let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "30s").replace("$__range", "1m");
                    let query = query.replace("$route", route).replace("$model", model);
                    let found = prometheus.ask(client, &query).await.unwrap();
                    if found.is_empty() && route == ".*" {
                        empty.push(panel["title"].as_str().unwrap().to_owned());
                    }
                    if panel["title"] == "Usable at the first try" {
                        let local = found.iter().find(|(labels, _)| labels["route"] == "local");
                        let wanted = f64::from(seen.local_first) / f64::from(seen.local);
                        assert!(local.is_none_or(|(_, share)| (share - wanted).abs() < 1e-6), "{local:?}, expected {wanted}");
                    }
                }
            }
        }
    }
    // No local engine here, no feedback, and nothing went wrong at the door.
    let engine = [
        "Worker",
        "Slots in use",
        "Waiting",
        "Restarts",
        "Slots and queue",
        "KV cache in use",
        "Tokens per second",
        "Time to first chunk of local models",
    ];
    empty.retain(|title| !engine.contains(&title.as_str()));
    assert!(empty.is_empty(), "panels without data: {empty:?}");
}
