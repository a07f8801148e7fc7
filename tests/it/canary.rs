//! Secrets planted in every header and every body position, looked for wherever they have no business to be.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use spectra_config::Config;
use spectra_tests::harness::{Answered, Spectra, until};
use spectra_tests::upstream::{Protocol, Received, Step, Upstream, chunk, event, whole_body};
use tracing_subscriber::fmt::MakeWriter;

/// Whatever must not travel contains this.
const CANARY: &str = "canary";
const DOORS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];

/// Keeps what is logged, at every level of every crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Headers of an upstream: those with a canary stay at the gateway.
fn upstream_headers(kind: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("content-type", kind.to_owned()),
        ("x-request-id", "up-1".to_owned()),
        ("openai-processing-ms", "7".to_owned()),
        ("x-ratelimit-remaining-requests", "9".to_owned()),
    ];
    for name in
        ["set-cookie", "openai-organization", "openai-project", "server", "x-internal-host", "cf-ray", "via", "authorization", "x-api-key"]
    {
        headers.push((name, format!("{CANARY}-{name}")));
    }
    headers
}

/// The first model's server refuses, and quotes the key it was sent; the next one answers, and adds a secret to its text.
fn refuses(request: &Received, _: usize) -> Vec<Step> {
    let key = request.headers["authorization"].to_str().unwrap();
    let text = json!({"error": {"message": format!("Incorrect API key provided: {key}"), "code": "invalid_api_key"}}).to_string();
    vec![Step::Head(401, upstream_headers("application/json")), Step::Body(text.into()), Step::End]
}

const SAID: &str = "The answer said answer-canary to its client.";

fn answers(request: &Received, _: usize) -> Vec<Step> {
    if request.wants_stream() {
        let said = event(&chunk(&json!({"role": "assistant", "content": SAID}), Some("stop")));
        return vec![Step::Head(200, upstream_headers("text/event-stream")), said, Step::Body("data: [DONE]\n\n".into()), Step::End];
    }
    let message = json!({"role": "assistant", "content": SAID, "refusal": null});
    let whole = json!({"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 6}});
    let mut steps = whole_body("application/json", &whole.to_string());
    if let Step::Head(_, headers) = &mut steps[0] {
        headers.extend(upstream_headers("application/json").into_iter().skip(1));
    }
    steps
}

/// Every header a client may send, each with a secret of its own.
fn planted_headers(door: &str) -> String {
    let names = [
        "cookie",
        "x-custom-secret",
        "x-spectra-session",
        "proxy-authorization",
        "openai-organization",
        "openai-project",
        "user-agent",
        "referer",
        "origin",
        "x-forwarded-for",
        "forwarded",
        "x-client-request-id",
        "anthropic-version",
        "anthropic-beta",
        "baggage",
        "tracestate",
        "x-stainless-lang",
        "idempotency-key",
        "from",
        "via",
        "te",
        "x-real-ip",
        "authorization-extra",
    ];
    let mut headers: String = names.iter().map(|name| format!("{name}: {CANARY}-{name}-{}\r\n", door.len())).collect();
    headers += "authorization: Bearer canary-client-key\r\nx-api-key: canary-client-key\r\n";
    headers
}

/// A body of each door with a secret at every place that takes text.
fn planted_body(door: &str, stream: bool) -> Value {
    let text = |place: &str| format!("{CANARY}-{place}");
    let schema = json!({"type": "object", "description": text("schema"), "properties": {text("property"): {"type": "string", "enum": [text("enum")]}}});
    match door {
        "/v1/completions" => {
            json!({"model": "local", "prompt": text("prompt"), "stop": [text("stop")], "user": text("user"), "stream": stream})
        }
        "/v1/responses" => {
            json!({"model": "local", "instructions": text("instructions"), "input": [{"role": "user", "content": [{"type": "input_text", "text": text("input")}]}],
            "metadata": {text("meta"): text("meta")}, "user": text("user"), "tools": [{"type": "function", "name": "f", "description": text("tool"), "parameters": schema}], "stream": stream})
        }
        "/v1/messages" => {
            json!({"model": "local", "max_tokens": 99, "system": text("system"), "messages": [{"role": "user", "content": [{"type": "text", "text": text("block")}]}],
            "metadata": {"user_id": text("user")}, "stop_sequences": [text("stop")], "tools": [{"name": "f", "description": text("tool"), "input_schema": schema}], "stream": stream})
        }
        _ => {
            json!({"model": "local", "stream": stream, "user": text("user"), "safety_identifier": text("safety"), "prompt_cache_key": text("cache"), "metadata": {text("meta"): text("meta")},
            "stop": [text("stop")], "x_unknown": {text("key"): [text("value")]},
            "messages": [{"role": "system", "content": text("system"), "name": text("name").replace('-', "_")},
                {"role": "assistant", "content": text("before"), "tool_calls": [{"id": text("call"), "type": "function", "function": {"name": "f", "arguments": json!({"a": text("argument")}).to_string()}}]},
                {"role": "tool", "tool_call_id": text("call"), "content": text("result")},
                {"role": "user", "content": [{"type": "text", "text": text("part")}]}],
            "tools": [{"type": "function", "function": {"name": "f", "description": text("tool"), "parameters": schema}}]})
        }
    }
}

/// SHA-256 of "canary-client-key".
const CLIENT_KEY: &str = "sha256:37376927411390814e10e40e3f7508d0c85f1c0614436f25afb6eada1bf13a92";

fn config(up: &Upstream, spare: &Upstream, collector: &Upstream, ledger: &Path) -> Config {
    let text = format!(
        r#"
        [backends.up]
        breaker = {{ failure_share = 2.0 }}
        [backends.up.openai]
        base_url = "{}"
        model = "m"
        api_key = {{ env = "UP" }}
        [backends.spare.openai]
        base_url = "{}"
        model = "m"
        api_key = {{ env = "SPARE" }}
        headers = {{ "x-own" = "canary-own-header-of-spare" }}
        [routes.local]
        ladder = ["up", "spare"]
        [router]
        strong = "local"
        [keys.alice]
        hash = "{CLIENT_KEY}"
        [accounting]
        ledger = "{}"
        [tracing]
        otlp = "http://{}"
        "#,
        up.base_url(),
        spare.base_url(),
        ledger.display(),
        collector.address
    );
    Config::parse(&text, "canary.toml", &|name| Some(format!("{CANARY}-key-of-{name}"))).unwrap()
}

fn all_of(answered: &Answered) -> String {
    let headers: String = answered.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    headers + &answered.text()
}

fn no_canary(place: &str, text: &str) {
    if let Some(at) = text.find(CANARY) {
        let from = text.floor_char_boundary(at.saturating_sub(200));
        panic!("{place}: …{}", &text[from..text.floor_char_boundary(at + 80)]);
    }
}

/// What an upstream was sent, without what it is meant to have: its own key and header, and the question.
fn beside_the_question(requests: &[Received], own: &[&str]) -> String {
    let headers =
        requests.iter().flat_map(|request| request.headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())));
    own.iter().fold(headers.collect(), |text: String, own| text.replace(own, ""))
}

/// Good and bad requests at every door, full of secrets; how many. What comes back is looked through at once.
async fn asked_at_every_door(spectra: &Spectra) -> f64 {
    let mut requests = 0.0;
    for door in DOORS {
        for stream in [true, false] {
            let headers = planted_headers(door).replace("idempotency-key: canary", &format!("idempotency-key: canary-{stream}"));
            let answered = spectra.post_with(door, &headers, &planted_body(door, stream).to_string()).await.unwrap();
            assert_eq!(answered.status, 200, "{door}: {}", answered.text());
            assert!(answered.text().contains("answer-canary"), "{door}: {}", answered.text());
            // Beside what the model said, and what /v1/responses repeats of its own request.
            let echoed = if door == "/v1/responses" { String::new() } else { answered.text().replace("answer-canary", "") };
            let head: String = answered.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            no_canary(door, &(head + &echoed));
            assert_eq!(answered.header("x-upstream-request-id"), Some("up-1"));
            requests += 1.0;
        }
        // Refusals: their bodies are not logged either.
        let key = "authorization: Bearer canary-client-key\r\n";
        for wrong in [
            "{\"canary\": ",
            r#"{"model":"canary-model","messages":[{"role":"user","content":"x"}],"input":"x","prompt":"x","max_tokens":1}"#,
            r#"{"model":["canary"]}"#,
        ] {
            assert!(spectra.post_with(door, key, wrong).await.unwrap().status >= 400);
            requests += 1.0;
        }
        no_canary(
            "an unknown key's refusal",
            &all_of(&spectra.post_with(door, "authorization: Bearer canary-unknown\r\n", "{}").await.unwrap()),
        );
        requests += 1.0;
    }
    let only_up = json!({"model": "up", "messages": [{"role": "user", "content": "x"}]}).to_string();
    let told = spectra.post_with(DOORS[0], "authorization: Bearer canary-client-key\r\n", &only_up).await.unwrap();
    assert_eq!(told.error().unwrap().0, 502);
    no_canary("the error of an upstream that quotes its key", &all_of(&told));
    requests += 1.0;
    requests
}

#[tokio::test]
async fn b09_planted_secrets_are_in_no_log_metric_ledger_trace_page_or_other_upstream_and_come_back_to_no_client() {
    let log = Log::default();
    let everything = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    // Of the whole process: much is logged by threads behind.
    tracing::subscriber::set_global_default(everything).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.sqlite");
    let up = Upstream::start(Protocol::Http1, refuses).await.unwrap();
    let spare = Upstream::start(Protocol::Http1, answers).await.unwrap();
    let collector = Upstream::start(Protocol::Http1, |_, _| whole_body("application/json", "{}")).await.unwrap();
    let spectra = Spectra::with(config(&up, &spare, &collector, &ledger)).await.unwrap();
    let requests = asked_at_every_door(&spectra).await;
    until("all are counted", async || Ok(spectra.metric_sum("spectra_requests_total", "").await? >= requests)).await.unwrap();

    for page in ["/metrics", "/dashboard/live", "/readyz"] {
        no_canary(page, &spectra.admin(page).await.unwrap().text());
    }
    until("spans are sent", async || {
        let spans: usize = collector
            .received()
            .iter()
            .map(|sent| sent.json()["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().map_or(0, Vec::len))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "some dozens of spans")]
        Ok(spans as f64 >= requests / 2.0)
    })
    .await
    .unwrap();
    for sent in collector.received() {
        no_canary("a trace", &format!("{:?} {}", sent.headers, String::from_utf8_lossy(&sent.body)));
    }
    // Each upstream has its own key and no other's, and none of the client's headers.
    let (to_up, to_spare) = (up.received(), spare.received());
    assert!(to_up.iter().all(|request| request.headers["authorization"] == "Bearer canary-key-of-UP"));
    assert!(to_spare.iter().all(|request| request.headers["authorization"] == "Bearer canary-key-of-SPARE"));
    no_canary("what the first upstream was sent", &beside_the_question(&to_up, &["canary-key-of-UP"]));
    no_canary("what the next upstream was sent", &beside_the_question(&to_spare, &["canary-key-of-SPARE", "canary-own-header-of-spare"]));
    assert!(to_spare.iter().all(|request| String::from_utf8_lossy(&request.body).contains(CANARY)), "the question itself is there");
    let _ = spectra.stop().await.unwrap();

    for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
        let bytes = std::fs::read(file.path()).unwrap();
        no_canary(&format!("{}", file.path().display()), &String::from_utf8_lossy(&bytes));
    }
    let text = log.text();
    assert!(text.contains("request_id="), "the log was captured: {text}");
    no_canary("the log", &text);
}
