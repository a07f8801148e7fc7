//! What is shown against what happened: metrics, the page in a real browser, traces, ledger, feedback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use spectra_backends::Ask;
use spectra_backends::script::{Answer, from_fn};
use spectra_tests::harness::{PATIENCE, Spectra};
use tokio::time::Instant;

pub const CHAT: &str = "/v1/chat/completions";
pub const HELLO: &str = r#"{"model":"auto","messages":[{"role":"user","content":"Say hello."}]}"#;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Scripted faults, then good answers for ever: on the route `local` each fault is escalated to `big`.
pub const FAULTS: &str = r#"
    [backends.small]
    breaker = { failure_share = 2.0 }
    [backends.small.script]
    answers = [
        { text = "Hello." },
        { text = "" },
        { text = "" },
        { status = 503, text = "busy" },
        { text = "Hello there.", cut_after = 3 },
        { text = "Hello, and", finish = "length" },
        { text = "Hello." },
    ]
    [backends.big]
    price = { input = 2.0, output = 8.0 }
    [backends.big.script]
    answers = [{ text = "Hello from big." }]
    [backends.fenced.script]
    answers = [{ text = "```json\n{\"a\": 1}\n```" }]
    [routes.local]
    ladder = ["small", "big"]
    attempts_per_rung = 1
    [routes.strong]
    ladder = ["big"]
    [routes.fenced]
    ladder = ["fenced"]
"#;

async fn spectra(ledger: &Path) -> Spectra {
    Spectra::start(&format!("[accounting]\nledger = \"{}\"\n{FAULTS}", ledger.display())).await.unwrap()
}

/// The harness's own account of what clients saw.
#[derive(Default)]
pub struct Seen {
    pub answered: u32,
    pub local: u32,
    pub local_first: u32,
    pub escalated: u32,
    pub ids: Vec<String>,
}

/// Every fourth request asks for the strong route; those after the faults are streamed.
pub async fn traffic(spectra: &Spectra, requests: u32) -> Seen {
    let mut seen = Seen::default();
    for number in 0..requests {
        let body = if number % 4 == 3 { HELLO.replace("auto", "strong") } else { HELLO.to_owned() };
        let body = if number < 12 { body } else { body.replace("{\"model\"", "{\"stream\":true,\"model\"") };
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
    let learned = || serde_json::to_value(spectra.live.current().learned()).unwrap();
    let before = learned();
    let receipt = spectra.post("/v1/feedback", &report.to_string()).await.unwrap();
    assert_eq!((receipt.status, receipt.json().unwrap()["learned"].clone()), (200, json!(true)));
    assert_ne!(learned(), before, "the scorer takes a caller's word in");
    let stray = spectra.post("/v1/feedback", r#"{"request_id":"nobody","usable":true}"#).await.unwrap();
    assert_eq!((stray.status, stray.error().unwrap().3.as_deref()), (404, Some("request_not_found")));
    let odd = spectra.post("/v1/feedback", r#"{"usable":"yes"}"#).await.unwrap();
    assert_eq!(odd.status, 400);
    assert_eq!(spectra.metric_sum("spectra_feedback_total", "usable=\"false\"").await.unwrap(), 1.0);

    let rows = exported(&path, 17).await;
    assert_eq!(rows.iter().filter(|row| row["outcome"] == "delivered").count(), seen.answered as usize);
    let marked: Vec<_> = rows.iter().filter(|row| row["feedback"]["usable"] == false).map(|row| row["request_id"].clone()).collect();
    assert_eq!(marked, [json!(seen.ids[0])]);
    // What a rule decided, and on which side of it the route lies; a route that was asked for by name was not scored.
    for row in rows.iter().filter(|row| !row["route"].is_null()) {
        assert_eq!(row["side"], row["route"], "the sample's routes are called by their sides");
        assert_eq!(row["need"].is_number() && row["p_local"].is_number(), row["asked_model"] == "auto", "{row}");
    }
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
    let heard = Arc::new(Mutex::new(Vec::new()));
    let backend = |name: &'static str, said: &'static str| {
        let heard = heard.clone();
        let told = move |ask: &Ask, _| {
            heard.lock().push(ask.traceparent.clone().unwrap_or_default().to_string());
            Answer::text(said)
        };
        (name, from_fn(name, told))
    };
    let spectra = Spectra::on(&text, [backend("small", ""), backend("big", "Hello.")]).await.unwrap();
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
    let told: Vec<String> =
        spans[1..].iter().map(|span| format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", span["spanId"].as_str().unwrap())).collect();
    assert_eq!(*heard.lock(), told, "each upstream is told its own attempt's span");
    let number = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    for span in &spans[1..] {
        assert!(number(span, "startTimeUnixNano") >= number(&spans[0], "startTimeUnixNano"));
        assert!(number(span, "endTimeUnixNano") <= number(&spans[0], "endTimeUnixNano"));
    }
    for (span, key, value) in [
        (0, "gen_ai.operation.name", "chat"),
        (0, "gen_ai.request.model", "auto"),
        (0, "gen_ai.response.model", "big"),
        (0, "spectra.route", "local"),
        (0, "spectra.request_id", answered.header("x-request-id").unwrap()),
        (1, "gen_ai.request.model", "small"),
        (1, "gen_ai.provider.name", "script"),
        (1, "spectra.verdict", "empty"),
        (2, "spectra.why", "escalate"),
        (2, "spectra.verdict", "pass"),
    ] {
        let wanted = json!({ "key": key, "value": { "stringValue": value } });
        assert!(spans[span]["attributes"].as_array().unwrap().contains(&wanted), "{wanted} in {}", spans[span]);
    }
}

/// A program by its name, from `.tools/bin` or the path; says so where it is not there.
pub fn program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(root().join(".tools/bin")).chain(std::env::split_paths(&paths));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no {name} here; scripts/setup --tests gets it");
    }
    found
}

/// Runs the page's script; what it expects as JSON. `None`: no browser here.
async fn browse(spectra: &Spectra, expected: Value) -> Option<()> {
    let (node, chromium) = (program("node")?, program("chromium")?);
    let clients = root().join("tests/clients/node");
    if !clients.join("node_modules/playwright-core").is_dir() {
        println!("skipped: no playwright-core; scripts/setup --tests gets it");
        return None;
    }
    let mut browse = Command::new(node);
    browse.current_dir(&clients).args([
        "page.mjs",
        &format!("http://{}", spectra.admin),
        &format!("{}/chat/completions", spectra.base_url()),
    ]);
    browse.arg(chromium).arg(root().join("artifacts/page")).arg(expected.to_string());
    let output = tokio::task::spawn_blocking(move || browse.output().unwrap()).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("page: ok"), "{said}");
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_in_a_browser_shows_what_clients_saw() {
    let spectra = Spectra::start(&format!("[accounting]\nkeep_text = true\n{FAULTS}")).await.unwrap();
    if browse(&spectra, json!({ "requests": 0 })).await.is_none() {
        return;
    }
    let seen = traffic(&spectra, 24).await;
    let json = json!({ "model": "fenced", "response_format": { "type": "json_object" }, "messages": [{ "role": "user", "content": "Give me JSON." }] });
    let repaired = spectra.post(CHAT, &json.to_string()).await.unwrap();
    assert_eq!(repaired.header("x-spectra-verified"), Some("repaired"), "{}", repaired.text());
    let percent = |part: u32| {
        let share = f64::from(part) / f64::from(seen.local) * 100.0;
        if share > 99.95 { "100%".to_owned() } else { format!("{share:.1}%") }
    };
    let expected = json!({
        "route": "local", "final": percent(seen.local), "first": percent(seen.local_first), "route_requests": seen.local,
        "requests": 25, "strong": 24 - seen.local, "escalated": seen.escalated, "text": true,
    });
    browse(&spectra, expected.clone()).await;
    // Another config: what was kept is not shown any more.
    assert_eq!(spectra.reload(FAULTS).await.unwrap().status, 200);
    let live = spectra.admin("/dashboard/live").await.unwrap();
    assert!(live.text().contains("\"keeps_text\":false") && !live.text().contains("Give me JSON"));
}
