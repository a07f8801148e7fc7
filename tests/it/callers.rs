//! Who calls, how much they may, what they may break: keys, rates, budgets, repeated requests, slow clients, secrets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use spectra_backends::script::{Answer, from_fn};
use spectra_tests::harness::{Answered, PATIENCE, Spectra, exchange, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"model":"small","messages":[{"role":"user","content":"Say hello."}]}"#;
// SHA-256 of "alice-key" and "bob-key".
const KEYS: &str = r#"
    [keys.alice]
    hash = "sha256:72ee9d4355ccb9d3a4c9dbf37382e38e75c1b1a225b5bd1f729ee91bbda30c20"
    requests_per_minute = 2
    tokens_per_minute = 1000
    [keys.bob]
    hash = "sha256:9b94dc1a51a38769f135edf04033ad7f2f487b6c25929be7a861cfc1ab10cf98"
    usd_per_day = 0.000001
"#;

fn config(more: &str) -> String {
    format!(
        r#"
        [backends.small]
        price = {{ input = 1000.0, output = 1000.0 }}
        script = {{ answers = [{{ text = "Hello from small." }}] }}
        [routes.local]
        ladder = ["small"]
        [routes.strong]
        ladder = ["small"]
        {more}
        "#
    )
}

async fn with_keys() -> Spectra {
    Spectra::start(&config(KEYS)).await.unwrap()
}

fn code(answered: &Answered) -> (u16, String) {
    let (status, _, _, code) = answered.error().unwrap();
    (status, code.unwrap_or_default())
}

#[tokio::test]
async fn a_key_is_asked_for_where_there_are_keys() {
    let spectra = with_keys().await;
    assert_eq!(code(&spectra.post(CHAT, HELLO).await.unwrap()), (401, "invalid_api_key".into()));
    assert_eq!(code(&spectra.post_with(CHAT, "authorization: Bearer wrong\r\n", HELLO).await.unwrap()), (401, "invalid_api_key".into()));
    assert_eq!(code(&spectra.get("/v1/models").await.unwrap()), (401, "invalid_api_key".into()));
    for header in ["authorization: Bearer alice-key\r\n", "x-api-key: alice-key\r\n"] {
        assert_eq!(spectra.post_with(CHAT, header, HELLO).await.unwrap().status, 200, "{header}");
    }
}

#[tokio::test]
async fn a_rate_is_kept_told_and_says_when_to_come_back() {
    let spectra = with_keys().await;
    let alice = "authorization: Bearer alice-key\r\n";
    let first = spectra.post_with(CHAT, alice, HELLO).await.unwrap();
    for (name, value) in
        [("x-ratelimit-limit-requests", "2"), ("x-ratelimit-remaining-requests", "1"), ("x-ratelimit-limit-tokens", "1000")]
    {
        assert_eq!(first.header(name), Some(value), "{name}");
    }
    assert!(first.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
    assert_eq!(spectra.post_with(CHAT, alice, HELLO).await.unwrap().status, 200);
    let third = spectra.post_with(CHAT, alice, HELLO).await.unwrap();
    assert_eq!(code(&third), (429, "rate_limit_exceeded".into()));
    assert!((1..=30).contains(&third.header("retry-after").unwrap().parse::<u64>().unwrap()));
    assert_eq!(third.header("x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(spectra.post_with(CHAT, "authorization: Bearer bob-key\r\n", HELLO).await.unwrap().status, 200, "bob has a rate of his own");
}

#[tokio::test]
async fn a_spent_budget_is_final_for_today() {
    let spectra = with_keys().await;
    let bob = "authorization: Bearer bob-key\r\n";
    assert_eq!(spectra.post_with(CHAT, bob, HELLO).await.unwrap().status, 200);
    let refused = spectra.post_with(CHAT, bob, HELLO).await.unwrap();
    assert_eq!(code(&refused), (429, "insufficient_quota".into()));
    assert_eq!(refused.header("x-should-retry"), Some("false"));
}

/// A model that counts its questions and answers when it is let.
async fn counting(text: &'static str, status: Option<u16>) -> (Spectra, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let backend = from_fn("small", move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Answer { status, ..Answer::text(text) }
    });
    (Spectra::on(&config(""), [("small", backend)]).await.unwrap(), asked)
}

#[tokio::test]
async fn b16_a_repeated_request_is_asked_once() {
    let (spectra, asked) = counting("Hello.", None).await;
    let key = "idempotency-key: one\r\n";
    for body in [HELLO.to_owned(), HELLO.replace("\"small\"", "\"small\",\"stream\":true")] {
        asked.store(0, Ordering::SeqCst);
        let key = if body == HELLO { key } else { "idempotency-key: two\r\n" };
        let (one, other) = tokio::join!(spectra.post_with(CHAT, key, &body), spectra.post_with(CHAT, key, &body));
        let (one, other, later) = (one.unwrap(), other.unwrap(), spectra.post_with(CHAT, key, &body).await.unwrap());
        assert_eq!((one.status, &one.body, one.complete), (200, &other.body, true));
        assert_eq!((&later.body, later.header("idempotent-replayed")), (&one.body, Some("true")));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }
    let another = spectra.post_with(CHAT, key, &HELLO.replace("hello", "goodbye")).await.unwrap();
    assert_eq!(code(&another), (422, "idempotency_key_reused".into()));
    assert_eq!(spectra.metric_sum("spectra_requests_total", "").await.unwrap(), 7.0, "every one of them is counted");
}

#[tokio::test]
async fn what_failed_may_be_asked_again() {
    let (spectra, asked) = counting("busy", Some(400)).await;
    for round in 1..=2 {
        assert_eq!(spectra.post_with(CHAT, "idempotency-key: x\r\n", HELLO).await.unwrap().status, 400);
        assert_eq!(asked.load(Ordering::SeqCst), round);
    }
}

#[tokio::test]
async fn a_client_that_sends_slowly_or_nothing_is_let_go() {
    let spectra = Spectra::start(&config("[limits]\nclient_read_ms = 50")).await.unwrap();
    for (sent, answer) in [
        ("", ""),
        ("POST /v1/chat/comp", ""),
        ("POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nx-slow: ", ""),
        ("POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{\"mod", "HTTP/1.1 408"),
    ] {
        let mut stream = TcpStream::connect(spectra.main).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("let go");
        let got = String::from_utf8_lossy(&got);
        assert!((read.is_err() || read.is_ok()) && got.starts_with(answer), "{sent:?}: {got}");
    }
    assert_eq!(spectra.post(CHAT, HELLO).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let long = from_fn("small", |_, _| Answer { chunk_chars: 4096, ..Answer::text("word ".repeat(4 << 20)) });
    let spectra = Spectra::on(&config("[limits]\nclient_write_ms = 50\n[verify]\nenabled = false"), [("small", long)]).await.unwrap();
    let mut stream = TcpStream::connect(spectra.main).await.unwrap();
    stream.write_all(&post(CHAT, "", &HELLO.replace("\"small\"", "\"small\",\"stream\":true"))).await.unwrap();
    let counted = async {
        while spectra.metric_sum("spectra_requests_total", "outcome=\"cancelled\"").await.unwrap() < 1.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("its place is freed");
    drop(stream);
}

/// Behaviour 9, the client's side: what a client sends beside its question goes nowhere else.
#[tokio::test]
async fn b09_no_header_of_the_client_reaches_a_model_or_a_metric() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sink = seen.clone();
    let backend = from_fn("small", move |ask, _| {
        sink.lock().unwrap().push_str(&format!("{ask:?}"));
        Answer::text("Hello.")
    });
    let spectra = Spectra::on(&config(""), [("small", backend)]).await.unwrap();
    let headers: String = [
        "authorization: Bearer",
        "x-api-key:",
        "cookie:",
        "x-spectra-session:",
        "x-custom:",
        "proxy-authorization:",
        "openai-organization:",
    ]
    .map(|name| format!("{name} canary-{}\r\n", name.len()))
    .concat();
    let answered = exchange(spectra.main, &post(CHAT, &headers, HELLO)).await.unwrap();
    assert_eq!(answered.status, 200);
    let told: String = answered.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let metrics = spectra.admin("/metrics").await.unwrap().text();
    let asked = seen.lock().unwrap().clone();
    assert!(asked.contains("Say hello."));
    for (place, text) in [("the model", asked), ("the answer", told + &answered.text()), ("the metrics", metrics)] {
        assert!(!text.contains("canary"), "{place}: {text}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_too() {
    let spectra = Spectra::start(&config("")).await.unwrap();
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    for stream in [false, true] {
        let body = HELLO.replace("\"small\"", &format!("\"small\",\"stream\":{stream}"));
        let answered = client
            .post(format!("{}/chat/completions", spectra.base_url()))
            .header("content-type", "application/json")
            .body(body)
            .timeout(Duration::from_secs(20));
        let answered = answered.send().await.unwrap();
        assert_eq!((answered.status().as_u16(), answered.version()), (200, http::Version::HTTP_2));
        let text = answered.text().await.unwrap();
        assert!(text.contains("Hello") || text.contains("Hell"), "{text}");
    }
}
