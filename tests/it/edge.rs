//! The main listener as a client sees it: answers in both modes, every refusal, limits, leaving, shutting down.

use std::time::Duration;

use serde_json::{Value, json};
use spectra_backends::script::{Answer, from_fn};
use spectra_tests::harness::{Answered, PATIENCE, Spectra, exchange, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"model":"auto","messages":[{"role":"user","content":"Say hello."}]}"#;

/// Two scripted models; `small` for easy requests, `big` for hard ones.
fn config(small: &str, big: &str, more: &str) -> String {
    format!(
        r#"
        [backends.small.script]
        answers = [{small}]
        [backends.big]
        price = {{ input = 2.0, output = 8.0 }}
        script = {{ answers = [{big}] }}
        [routes.local]
        ladder = ["small", "big"]
        [routes.strong]
        ladder = ["big"]
        [aliases]
        "gpt-4o" = "auto"
        {more}
        "#
    )
}

async fn spectra() -> Spectra {
    let text = config(r#"{ text = "Hello from small." }"#, r#"{ text = "Hello from big." }"#, "");
    Spectra::start(&text).await.unwrap()
}

fn content(answered: &Answered) -> String {
    answered.json().unwrap()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

fn streamed(answered: &Answered) -> String {
    let piece = |event: String| Some(serde_json::from_str::<Value>(&event).ok()?["choices"][0]["delta"]["content"].as_str()?.to_owned());
    answered.events().into_iter().filter_map(piece).collect()
}

#[tokio::test]
async fn an_easy_request_goes_to_the_small_model_and_the_headers_say_why() {
    let spectra = spectra().await;
    let easy = spectra.post(CHAT, HELLO).await.unwrap();
    assert_eq!((easy.status, content(&easy).as_str()), (200, "Hello from small."));
    for (name, value) in [
        ("x-spectra-route", "local"),
        ("x-spectra-model", "small"),
        ("x-spectra-attempts", "1"),
        ("x-spectra-verified", "ok"),
        ("x-spectra-cost-usd", "0"),
    ] {
        assert_eq!(easy.header(name), Some(value), "{name}");
    }
    let score: f32 = easy.header("x-spectra-score").unwrap().parse().unwrap();
    assert!(score < 0.5 && !easy.header("x-spectra-reason").unwrap().is_empty());
    let hard = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Prove that there are infinitely many primes, then derive the asymptotic density."}]}"#;
    let hard = spectra.post(CHAT, hard).await.unwrap();
    assert_eq!((hard.status, content(&hard).as_str()), (200, "Hello from big."));
    assert_eq!(hard.header("x-spectra-route"), Some("strong"));
    assert!(hard.header("x-spectra-cost-usd").unwrap().parse::<f64>().unwrap() > 0.0);
    for route in ["local", "strong"] {
        assert_eq!(spectra.metric_sum("spectra_requests_total", &format!("route=\"{route}\"")).await.unwrap(), 1.0, "{route}");
    }
}

#[tokio::test]
async fn an_unusable_answer_escalates() {
    let text = config(r#"{ text = "" }"#, r#"{ text = "Hello from big." }"#, "");
    let spectra = Spectra::start(&text).await.unwrap();
    for stream in [false, true] {
        let body = HELLO.replace("auto\"", &format!("local\",\"stream\":{stream}"));
        let answered = spectra.post_with(CHAT, "x-spectra-debug: 1\r\n", &body).await.unwrap();
        let said = if stream { streamed(&answered) } else { content(&answered) };
        assert_eq!((answered.status, said.as_str()), (200, "Hello from big."));
        assert_eq!(answered.header("x-spectra-model"), Some("big"));
        let trail = answered.header("x-spectra-trail").unwrap();
        assert!(
            trail.starts_with("small:first:empty") && trail.contains(if stream { "big:escalate:flowing" } else { "big:escalate:pass" }),
            "{trail}"
        );
    }
}

#[tokio::test]
async fn b04_b05_a_stream_is_legal_and_usage_is_sent_only_if_asked_for() {
    let spectra = spectra().await;
    for (options, usages) in
        [("", 0), (r#","stream_options":{"include_usage":true}"#, 1), (r#","stream_options":{"include_usage":false}"#, 0)]
    {
        let body = HELLO.replace("\"auto\"", &format!("\"auto\",\"stream\":true{options}"));
        let answered = spectra.post(CHAT, &body).await.unwrap();
        assert_eq!((answered.status, answered.complete), (200, true));
        assert!(answered.header("content-type").unwrap().starts_with("text/event-stream"));
        let mut events = answered.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        for key in ["id", "model", "created"] {
            assert!(events.iter().all(|event| event[key] == events[0][key] && !event[key].is_null()), "{key}");
        }
        let with_usage: Vec<_> = events.iter().filter(|event| event["usage"].is_object()).collect();
        assert_eq!(with_usage.len(), usages, "{options}");
        assert!(with_usage.iter().all(|event| event["choices"] == json!([])));
        assert_eq!(streamed(&answered), "Hello from small.");
        assert!(answered.text().contains(": spectra verified=ok"), "the verdict comes in a comment");
    }
}

#[tokio::test]
async fn b06_a_stream_that_cannot_be_saved_ends_in_an_error_without_done() {
    let cut = r#"{ text = "Once upon a time there was", cut_after = 12 }"#;
    let spectra = Spectra::start(&config(cut, cut, "")).await.unwrap();
    let body = HELLO.replace("\"auto\"", "\"big\",\"stream\":true");
    let answered = spectra.post_with(CHAT, "x-spectra-verify: off\r\n", &body).await.unwrap();
    assert_eq!((answered.status, answered.complete), (200, true));
    let events = answered.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_broken", "{events:?}");
    assert!(!events.iter().any(|event| event == "[DONE]"));
    assert_eq!(spectra.metric_sum("spectra_requests_total", "outcome=\"broken\"").await.unwrap(), 1.0);
}

/// Every way to ask wrongly, and what is told: status, type, param, code.
#[tokio::test]
async fn b10_bad_input_gets_an_error_in_openais_form() {
    let spectra = spectra().await;
    let message = r#""messages":[{"role":"user","content":"x"}]"#;
    let chat = |body: String| post(CHAT, "", &body);
    let with = |more: &str| chat(format!(r#"{{"model":"auto",{message},{more}}}"#));
    let plain = |head: &str| format!("{head}\r\nhost: t\r\nconnection: close\r\n\r\n").into_bytes();
    let invalid = "invalid_request_error";
    let mut utf8 = post(CHAT, "", r#"{"model":"auto","messages":[{"role":"user","content":"~~"}]}"#);
    let at = utf8.iter().position(|byte| *byte == b'~').unwrap();
    utf8[at] = 0xFF;
    /// What is wrong, the body, and the status, `param` and `code` of the answer.
    type Case = (&'static str, Vec<u8>, u16, Option<&'static str>, &'static str);
    let cases: Vec<Case> = vec![
        ("bad JSON", chat("{".into()), 400, None, "invalid_json"),
        ("no JSON", chat(String::new()), 400, None, "invalid_json"),
        ("not an object", chat("[1]".into()), 400, None, "invalid_json"),
        ("more after the object", chat("{} {}".into()), 400, None, "invalid_json"),
        ("invalid UTF-8", utf8, 400, None, "invalid_utf8"),
        ("no messages", chat(r#"{"model":"auto"}"#.into()), 400, Some("messages"), "missing_required_parameter"),
        ("messages empty", chat(r#"{"model":"auto","messages":[]}"#.into()), 400, Some("messages"), "empty_array"),
        ("no model", chat(format!("{{{message}}}")), 400, Some("model"), "missing_required_parameter"),
        ("unknown model", chat(format!(r#"{{"model":"gpt-9",{message}}}"#)), 404, Some("model"), "model_not_found"),
        ("unknown role", chat(r#"{"model":"auto","messages":[{"role":"king","content":"x"}]}"#.into()), 400, Some("messages[0].role"), "invalid_value"),
        ("temperature a string", with(r#""temperature":"hot""#), 400, Some("temperature"), "invalid_type"),
        ("stream a number", with(r#""stream":1"#), 400, Some("stream"), "invalid_type"),
        ("n a string", with(r#""n":"two""#), 400, Some("n"), "invalid_type"),
        ("a field twice", chat(format!(r#"{{"model":"auto","model":"auto",{message}}}"#)), 400, Some("model"), "duplicate_parameter"),
        ("wrong method", plain("GET /v1/chat/completions HTTP/1.1"), 405, None, "method_not_allowed"),
        ("wrong path", plain("GET /v1/nothing HTTP/1.1"), 404, None, "unknown_url"),
        ("unknown model asked about", plain("GET /v1/models/gpt-9 HTTP/1.1"), 404, Some("model"), "model_not_found"),
        ("wrong media type", b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}".to_vec(), 415, None, "unsupported_media_type"),
        ("odd header", post(CHAT, "x-spectra-deadline-ms: soon\r\n", HELLO), 400, Some("x-spectra-deadline-ms"), "invalid_header"),
    ];
    for (name, bytes, status, param, code) in cases {
        let answered = exchange(spectra.main, &bytes).await.unwrap();
        let expected = (status, invalid.to_owned(), param.map(str::to_owned), Some(code.to_owned()));
        assert_eq!(answered.error().unwrap(), expected, "{name}: {}", answered.text());
        assert_eq!(answered.header("content-type"), Some("application/json"), "{name}");
        assert!(answered.header("x-request-id").is_some(), "{name}");
    }
    assert_eq!(spectra.metric_sum("spectra_attempts_total", "").await.unwrap(), 0.0, "no model was asked");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let spectra = Spectra::start(&config(r#"{ text = "x" }"#, r#"{ text = "x" }"#, "[limits]\nbody_bytes = 2048")).await.unwrap();
    let large = HELLO.replace("Say hello.", &"long ".repeat(1000));
    let answered = spectra.post(CHAT, &large).await.unwrap();
    assert_eq!(answered.error().unwrap().0, 413);
    let mut chunked = format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for part in large.as_bytes().chunks(512) {
        chunked.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        chunked.extend_from_slice(part);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answered = exchange(spectra.main, &chunked).await.unwrap();
    assert_eq!(answered.error().unwrap(), (413, "invalid_request_error".into(), None, Some("request_too_large".into())));
    // A body that never ends is cut off by its size, not by patience.
    let mut stream = TcpStream::connect(spectra.main).await.unwrap();
    stream.write_all(format!("POST {CHAT} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let endless = async {
        let mut answer = Vec::new();
        loop {
            if stream.write_all(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes()).await.is_err() {
                break;
            }
            if let Ok(Ok(read)) = tokio::time::timeout(Duration::from_millis(1), stream.read_buf(&mut answer)).await
                && (read == 0 || answer.starts_with(b"HTTP/1.1 413"))
            {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, endless).await.unwrap();
}

#[tokio::test]
async fn b30_models_are_listed_and_found_by_name() {
    let spectra = spectra().await;
    let list = spectra.get("/v1/models").await.unwrap().json().unwrap();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    for id in ["auto", "local", "strong", "small", "big", "gpt-4o"] {
        assert!(ids.contains(&id), "{ids:?}");
        let one = spectra.get(&format!("/v1/models/{id}")).await.unwrap().json().unwrap();
        assert_eq!((one["id"].as_str(), one["object"].as_str()), (Some(id), Some("model")));
        let body = HELLO.replace("auto", id);
        assert_eq!(spectra.post(CHAT, &body).await.unwrap().status, 200, "{id}");
    }
}

#[tokio::test]
async fn health_readiness_and_metrics_have_a_listener_of_their_own() {
    let spectra = spectra().await;
    assert_eq!(spectra.admin("/healthz").await.unwrap().text(), "ok\n");
    let ready = spectra.admin("/readyz").await.unwrap();
    assert_eq!((ready.status, ready.json().unwrap()), (200, json!({"status": "ready", "local": "absent", "hosted": "ready"})));
    let metrics = spectra.admin("/metrics").await.unwrap();
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(spectra.get(path).await.unwrap().status, 404, "{path} is not for clients");
    }
    assert_eq!(spectra.admin("/v1/models").await.unwrap().status, 404);
}

/// A model that says a little and then waits until it is let go.
async fn stalling(more: &str) -> Spectra {
    let text = config(r#"{ text = "x" }"#, r#"{ text = "x" }"#, more);
    let stall = |name: &'static str| {
        (name, from_fn(name, |_, _| Answer { stall_after: Some(8), ..Answer::text("Once upon a time there was a king") }))
    };
    Spectra::on(&text, [stall("small"), stall("big")]).await.unwrap()
}

/// Opens a stream and reads until its first content is here.
async fn begun(spectra: &Spectra) -> TcpStream {
    let mut stream = TcpStream::connect(spectra.main).await.unwrap();
    stream.write_all(&post(CHAT, "", &HELLO.replace("\"auto\"", "\"big\",\"stream\":true"))).await.unwrap();
    read_until(&mut stream, "Once").await;
    stream
}

async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        loop {
            let read = stream.read_buf(&mut seen).await.unwrap();
            let text = String::from_utf8_lossy(&seen);
            if text.contains(wanted) || read == 0 {
                return text.into_owned();
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

#[tokio::test]
async fn over_the_limit_of_requests_in_flight_the_next_is_told_when_to_come_back() {
    let spectra = stalling("[limits]\nin_flight = 1").await;
    let held = begun(&spectra).await;
    let refused = spectra.post(CHAT, HELLO).await.unwrap();
    assert_eq!(refused.error().unwrap(), (429, "rate_limit_error".into(), None, Some("overloaded".into())));
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(held);
    // The client that left frees its place.
    let freed = async {
        while spectra.metric("spectra_in_flight_requests").await.unwrap() > 0.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
    drop(begun(&spectra).await);
}

#[tokio::test]
async fn b15_a_client_that_leaves_is_counted_as_cancelled() {
    let spectra = stalling("").await;
    drop(begun(&spectra).await);
    let counted = async {
        while spectra.metric_sum("spectra_requests_total", "outcome=\"cancelled\"").await.unwrap() < 1.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
}

#[tokio::test]
async fn b40_a_shutdown_lets_streams_finish_and_then_breaks_them_off_with_an_error() {
    let mut spectra = stalling("[server]\ndrain_ms = 300").await;
    let mut stream = begun(&spectra).await;
    spectra.begin_stop();
    let draining = async {
        loop {
            let ready = spectra.admin("/readyz").await.unwrap();
            if ready.status == 503 {
                return ready.json().unwrap()["status"].clone();
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, draining).await.unwrap(), "draining");
    let rest = read_until(&mut stream, "\n\n0\r\n").await;
    assert!(rest.contains(r#""code":"shutting_down""#) && !rest.contains("[DONE]"), "{rest}");
    assert!(!spectra.stop().await.unwrap(), "something had to be broken off");
}

#[tokio::test]
async fn a_gateway_without_work_stops_at_once_and_well() {
    let spectra = spectra().await;
    spectra.post(CHAT, HELLO).await.unwrap();
    assert!(spectra.stop().await.unwrap());
}

#[tokio::test]
async fn a_held_stream_is_kept_alive_by_pings_if_the_operator_wants_it() {
    let text = config(r#"{ text = "x" }"#, r#"{ text = "x" }"#, "[server]\nping_ms = 5");
    let late = from_fn("big", |_, _| Answer { stall_after: Some(0), ..Answer::text("never") });
    let spectra = Spectra::on(&text, [("big", late.clone()), ("small", late)]).await.unwrap();
    let mut stream = TcpStream::connect(spectra.main).await.unwrap();
    stream.write_all(&post(CHAT, "x-spectra-deadline-ms: 60\r\n", &HELLO.replace("\"auto\"", "\"big\",\"stream\":true"))).await.unwrap();
    let all = read_until(&mut stream, "\n\n0\r\n").await;
    assert!(all.starts_with("HTTP/1.1 200") && all.matches(": ping").count() > 1, "{all}");
    assert!(all.contains("deadline_exceeded") && !all.contains("[DONE]"), "{all}");
}

#[tokio::test]
async fn every_request_ends_in_exactly_one_outcome() {
    let text = config(r#"{ text = "Hello." }"#, r#"{ status = 500, text = "boom" }, { text = "Hello." }"#, "");
    let spectra = Spectra::start(&text).await.unwrap();
    let mut sent = 0.0;
    for body in [
        HELLO,
        "{",
        &HELLO.replace("auto", "strong"),
        &HELLO.replace("auto", "nope"),
        &HELLO.replace("\"auto\"", "\"local\",\"stream\":true"),
    ] {
        spectra.post(CHAT, body).await.unwrap();
        sent += 1.0;
    }
    assert_eq!(spectra.metric_sum("spectra_requests_total", "").await.unwrap(), sent);
}
