//! The hosted backend against an upstream that fails in every way, over real sockets, HTTP/1.1 and 2.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use spectra_backends::{Ask, BackendError, ChatRequest, Endpoint, Fleet, Forward, Reply};
use spectra_config::Config;
use spectra_tests::upstream::{ALL_FAULTS, Fault, GOOD, KEY, Protocol, Step, Upstream, chunk, event, whole_body};
use tokio::time::Instant;

/// Out of reach on the slowest machine.
const FAR: &str = "connect_ms = 600000, first_chunk_ms = 600000, idle_ms = 600000, total_ms = 600000";

/// A fleet of one hosted backend `up`; of its deadlines only the one in `deadline` is short.
fn fleet(upstream: &Upstream, protocol: Protocol, deadline: &str, more: &str) -> Fleet {
    fleet_at(&upstream.base_url(), protocol, deadline, more)
}

fn fleet_at(base_url: &str, protocol: Protocol, deadline: &str, more: &str) -> Fleet {
    let name = deadline.split(' ').next().unwrap_or_default();
    let far: Vec<&str> = FAR.split(", ").filter(|far| name.is_empty() || !far.starts_with(name)).chain(Some(deadline)).collect();
    let far = far.into_iter().filter(|one| !one.is_empty()).collect::<Vec<_>>().join(", ");
    let text = format!(
        r#"
        [backends.up]
        deadlines = {{ {far} }}
        breaker = {{ failure_share = 2.0 }}
        [backends.up.openai]
        base_url = "{base_url}"
        model = "their-name"
        api_key = {{ env = "KEY" }}
        http2_prior_knowledge = {}
        {more}
        [routes.local]
        ladder = ["up"]
        [router]
        local = "local"
        strong = "local"
        "#,
        protocol == Protocol::Http2
    );
    let config = Config::parse(&text, "wire.toml", &|name| (name == "KEY").then(|| KEY.to_owned())).unwrap();
    spectra_backends::fleet(&config, |_, _, _| unreachable!("no local model")).unwrap()
}

fn ask_with(body: &str) -> Ask {
    Ask {
        request: ChatRequest::parse(body.to_owned().into()).unwrap(),
        deadline: Instant::now() + Duration::from_secs(600),
        request_id: "req-1".into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        stops_loops: false,
    }
}

fn ask(stream: bool) -> Ask {
    ask_with(&json!({"model": "auto", "messages": [{"role": "user", "content": "Say it."}], "stream": stream}).to_string())
}

/// What an attempt gave: its text and how it ended.
async fn outcome(fleet: &Fleet, ask: Ask) -> (String, Result<(), BackendError>) {
    let mut text = String::new();
    let Reply { mut chunks, .. } = match fleet.call("up", ask).await {
        Ok(reply) => reply,
        Err(error) => return (text, Err(error)),
    };
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => text.extend(chunk.view.choices.into_iter().filter_map(|choice| choice.content)),
            Err(error) => return (text, Err(error)),
        }
    }
    (text, Ok(()))
}

/// How each fault must end: the text that came before, and `ok`, the timeout's phase, or the error's kind.
fn expected(fault: Fault, stream: bool) -> (String, &'static str) {
    let first = || GOOD[0].to_owned();
    match (fault, stream) {
        (Fault::None | Fault::SlowDrip | Fault::Odd, _) | (Fault::NoDone, true) => (GOOD.concat(), "ok"),
        // As a whole answer it is a good one: there is no [DONE] to miss.
        (Fault::NoDone, false) => (GOOD.concat(), "ok"),
        (Fault::RateLimited | Fault::RateLimitedWithRetryAfter, _) => (String::new(), "rate_limited"),
        (Fault::ServerError | Fault::ErrorFirst, _) | (Fault::ErrorInStream, false) => (String::new(), "upstream_5xx"),
        (Fault::KeyRejected, _) => (String::new(), "upstream_4xx"),
        (Fault::ErrorInStream, true) => (first(), "upstream_5xx"),
        (Fault::StallBeforeHead | Fault::StallBeforeBody, true) => (String::new(), "first_chunk"),
        (Fault::StallInBody, true) => (first(), "idle"),
        (Fault::StallBeforeHead | Fault::StallBeforeBody | Fault::StallInBody, false) => (String::new(), "total"),
        (Fault::ResetInBody | Fault::Cut | Fault::Truncated | Fault::MalformedChunk | Fault::DoneUnfinished, true) => (first(), "broken"),
        (Fault::ResetInBody | Fault::Cut | Fault::Truncated | Fault::MalformedChunk | Fault::DoneUnfinished, false)
        | (Fault::ResetBeforeHead | Fault::Garbage | Fault::OtherJson | Fault::Redirect | Fault::Empty, _) => (String::new(), "broken"),
    }
}

fn told(end: &Result<(), BackendError>) -> &'static str {
    match end {
        Ok(()) => "ok",
        Err(BackendError::Timeout { phase, .. }) => phase.as_str(),
        Err(error) => error.kind(),
    }
}

/// The one deadline that the fault is to run into.
fn deadline(fault: Fault, stream: bool) -> &'static str {
    match (fault, stream) {
        (Fault::StallBeforeHead | Fault::StallBeforeBody, true) => "first_chunk_ms = 1000",
        (Fault::StallInBody, true) => "idle_ms = 1000",
        (Fault::StallBeforeHead | Fault::StallBeforeBody | Fault::StallInBody, false) => "total_ms = 1000",
        _ => "",
    }
}

#[tokio::test]
async fn b12_every_fault_ends_as_what_it_is() {
    let check = async |protocol: Protocol, fault: Fault, stream: bool| {
        let upstream = Upstream::failing(protocol, fault).await.unwrap();
        let fleet = fleet(&upstream, protocol, deadline(fault, stream), "");
        let (text, end) = outcome(&fleet, ask(stream)).await;
        let (expected_text, expected_end) = expected(fault, stream);
        let case = format!("{fault:?} {protocol:?} stream={stream}");
        assert_eq!(told(&end), expected_end, "{case}: {end:?}");
        // A reset may overtake bytes that were sent before it; in HTTP/2 a cut is one.
        let overtaken = matches!(fault, Fault::ResetInBody | Fault::Cut) && text.is_empty();
        assert!(text == expected_text || overtaken, "{case}: {text:?}");
        assert_eq!(upstream.seen().requests, 1, "{case}: a request is sent once, whatever happens");
        assert_eq!(fleet.load("up").unwrap().in_flight, 0, "{case}");
    };
    let mut checks = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for &fault in ALL_FAULTS {
            checks.extend([true, false].map(|stream| check(protocol, fault, stream)));
        }
    }
    // Side by side, since each stall takes its whole deadline.
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn b15_leaving_closes_the_exchange_wherever_it_is() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (fault, stream) in [
            (Fault::StallBeforeHead, true),
            (Fault::StallBeforeBody, true),
            (Fault::StallInBody, true),
            (Fault::StallBeforeHead, false),
            (Fault::StallInBody, false),
        ] {
            let upstream = Upstream::failing(protocol, fault).await.unwrap();
            let fleet = fleet(&upstream, protocol, "", "");
            let mut exchange = Box::pin(outcome(&fleet, ask(stream)));
            tokio::select! {
                (_, end) = &mut exchange => panic!("{fault:?} ended: {end:?}"),
                seen = upstream.until(|seen| seen.requests == 1) => drop(seen.unwrap()),
            }
            assert_eq!(upstream.seen().left, 0);
            drop(exchange);
            assert_eq!(fleet.load("up").unwrap().in_flight, 0, "{fault:?}");
            upstream.until(|seen| seen.left == 1).await.unwrap_or_else(|error| panic!("{fault:?} {protocol:?} {stream}: {error}"));
        }
    }
}

#[tokio::test]
async fn b09_only_the_configured_key_and_our_own_headers_go_upstream() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let upstream = Upstream::failing(protocol, Fault::None).await.unwrap();
        let fleet = fleet(
            &upstream,
            protocol,
            "",
            "query = { \"api-version\" = \"2024-10-21\" }\nheaders = { \"OpenAI-Organization\" = \"org-7\" }",
        );
        outcome(&fleet, ask(true)).await.1.unwrap();
        let received = upstream.received().remove(0);
        assert_eq!(received.target, "/v1/chat/completions?api-version=2024-10-21");
        let mut names: Vec<&str> = received.headers.keys().map(http::HeaderName::as_str).filter(|name| *name != "host").collect();
        names.sort_unstable();
        let own = [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "openai-organization",
            "traceparent",
            "user-agent",
            "x-request-id",
        ];
        assert_eq!(names, own, "{protocol:?}");
        assert_eq!(received.headers["authorization"], format!("Bearer {KEY}"));
        assert_eq!(received.headers["x-request-id"], "req-1");
        assert_eq!(received.json()["model"], "their-name");
        assert_eq!(received.json()["stream_options"], json!({"include_usage": true}));
    }
}

#[tokio::test]
async fn b09_account_headers_and_repeated_keys_stay_here() {
    let upstream = Upstream::failing(Protocol::Http1, Fault::KeyRejected).await.unwrap();
    let (_, end) = outcome(&fleet(&upstream, Protocol::Http1, "", ""), ask(false)).await;
    let Err(BackendError::Upstream { status: 401, headers, body }) = end else { panic!("{end:?}") };
    assert!(headers.is_empty(), "{headers:?}");
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(!body.contains(KEY) && body.contains("[redacted]"), "{body}");

    let upstream = Upstream::failing(Protocol::Http1, Fault::None).await.unwrap();
    let reply = fleet(&upstream, Protocol::Http1, "", "").call("up", ask(true)).await.unwrap();
    let names: Vec<&str> = reply.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-upstream-request-id"]);
}

#[tokio::test]
async fn b02_what_comes_is_what_was_sent() {
    // Numbers, order, nulls and unknown fields as no serialiser would write them.
    let odd = r#"{"z":1.50,"object":"chat.completion","choices":[{"finish_reason":"stop","index":0,"message":{"refusal":null,"content":"\u00e9","role":"assistant","x":[1e2,-0]}}],"usage":null}"#;
    let whole = Upstream::start(Protocol::Http1, move |_, _| whole_body("application/json; charset=utf-8", odd)).await.unwrap();
    let mut reply = fleet(&whole, Protocol::Http1, "", "").call("up", ask(false)).await.unwrap();
    assert_eq!(reply.chunks.next().await.unwrap().unwrap().data, odd);
    assert!(reply.chunks.next().await.is_none());

    let corpora = ["openai", "openai_tools", "azure", "vllm", "llama_server", "ollama", "openrouter"];
    for name in corpora {
        let path = format!("{}/../backends/corpus/sse/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let sent = std::fs::read_to_string(path).unwrap();
        let data: Vec<String> =
            sent.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]").map(str::to_owned).collect();
        let extra = sent.contains("id: 3\nevent: message\n");
        // Torn where it hurts: in every seventh byte.
        let torn = move |_: &_, _| {
            let mut steps = vec![Step::Head(200, vec![("content-type", "text/event-stream".into())])];
            steps.extend(sent.as_bytes().chunks(7).map(|part| Step::Body(part.to_vec().into())));
            steps.push(Step::End);
            steps
        };
        let upstream = Upstream::start(Protocol::Http1, torn).await.unwrap();
        let reply = fleet(&upstream, Protocol::Http1, "", "").call("up", ask(true)).await.unwrap();
        let chunks: Vec<_> = reply.chunks.map(|chunk| chunk.unwrap_or_else(|error| panic!("{name}: {error}"))).collect().await;
        let came: Vec<String> = chunks.iter().map(|chunk| String::from_utf8(chunk.data.to_vec()).unwrap()).collect();
        assert_eq!(came, data, "{name}");
        assert_eq!(chunks.iter().any(|chunk| chunk.extra == "id: 3\nevent: message\n"), extra, "{name}");
    }
}

#[tokio::test]
async fn streams_and_answers_give_their_connection_back() {
    let upstream = Upstream::failing(Protocol::Http1, Fault::None).await.unwrap();
    let fleet = fleet(&upstream, Protocol::Http1, "", "");
    for stream in [true, false, true, true, false] {
        outcome(&fleet, ask(stream)).await.1.unwrap();
        // The connection returns to the pool a moment after its body has ended.
        tokio::task::yield_now().await;
    }
    let seen = upstream.seen();
    assert_eq!(seen.requests, 5);
    assert!(seen.connections <= 2, "{seen:?}");
}

#[tokio::test]
async fn b08_a_stream_of_several_choices_ends_when_all_have_finished() {
    let two = |finishes: &'static [u64], done: bool| {
        move |_: &_, _: usize| {
            let mut steps = vec![Step::Head(200, vec![("content-type", "text/event-stream".into())])];
            let choice = |index: u64, delta: &Value, finish| {
                let mut chunk = chunk(delta, finish);
                chunk["choices"][0]["index"] = json!(index);
                event(&chunk)
            };
            steps.extend([0, 1].map(|index| choice(index, &json!({"role": "assistant", "content": "x"}), None)));
            steps.extend(finishes.iter().map(|index| choice(*index, &json!({}), Some("stop"))));
            steps.extend(done.then(|| Step::Body("data: [DONE]\n\n".into())));
            steps.push(Step::End);
            steps
        }
    };
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "x"}], "stream": true, "n": 2}).to_string();
    for (finishes, done, end) in
        [(&[0, 1][..], true, "ok"), (&[1, 0], false, "ok"), (&[0], true, "broken"), (&[0], false, "broken"), (&[], true, "broken")]
    {
        let upstream = Upstream::start(Protocol::Http1, two(finishes, done)).await.unwrap();
        let (_, ended) = outcome(&fleet(&upstream, Protocol::Http1, "", ""), ask_with(&body)).await;
        assert_eq!(told(&ended), end, "{finishes:?} {done}: {ended:?}");
    }
}

#[tokio::test]
async fn nobody_there_and_nobody_answering() {
    let closed = {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        format!("http://{}/v1", listener.local_addr().unwrap())
    };
    let (_, end) = outcome(&fleet_at(&closed, Protocol::Http1, "", ""), ask(true)).await;
    assert_eq!(told(&end), "unavailable", "{end:?}");

    // TLS that is never answered: the connect deadline covers it.
    let mute = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://{}/v1", mute.local_addr().unwrap());
    let (_, end) = outcome(&fleet_at(&url, Protocol::Http1, "connect_ms = 1000", ""), ask(true)).await;
    assert_eq!(told(&end), "connect", "{end:?}");
}

#[tokio::test]
async fn other_endpoints_pass_with_their_bytes() {
    let answer = r#"{ "object":"list", "data":[{"embedding":[0.10,-2e-3],"index":0}] , "model":"x"}"#;
    let upstream = Upstream::start(Protocol::Http1, move |request, _| match request.target.as_str() {
        "/v1/embeddings" => whole_body("application/json", answer),
        _ => Fault::None.steps(request.wants_stream()),
    })
    .await
    .unwrap();
    let fleet = fleet(&upstream, Protocol::Http1, "", "");
    let forward = |endpoint, body: &'static str| Forward {
        endpoint,
        body: body.into(),
        stream: body.contains("\"stream\":true"),
        deadline: Instant::now() + Duration::from_secs(600),
        request_id: "req-2".into(),
        traceparent: None,
    };
    let read = async |forward: Forward| {
        let reply = fleet.forward("up", forward).await.unwrap();
        let parts: Vec<_> = reply.body.map(|part| part.unwrap()).collect().await;
        (reply.status, reply.headers["content-type"].to_str().unwrap().to_owned(), parts.concat())
    };
    let (status, kind, body) = read(forward(Endpoint::Embeddings, r#"{"input" : [1.0,"a"],"model":"m"}"#)).await;
    assert_eq!((status, kind.as_str(), body), (200, "application/json", answer.as_bytes().to_vec()));
    assert_eq!(upstream.received()[0].body, r#"{"input" : [1.0,"a"],"model":"their-name"}"#);

    let (_, kind, body) = read(forward(Endpoint::Completions, r#"{"model":"m","prompt":"x","stream":true}"#)).await;
    assert_eq!(upstream.received()[1].target, "/v1/completions");
    assert!(kind == "text/event-stream" && body.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(fleet.load("up").unwrap().in_flight, 0);
}

#[tokio::test]
async fn pick_takes_turns_by_weight_and_leaves_the_open_and_the_busy_alone() {
    let text = r#"
        [backends.a]
        breaker = { min_attempts = 1, open_ms = 600000 }
        script = { answers = [{ text = "a" }] }
        [backends.b]
        script = { answers = [{ text = "b" }] }
        [routes.local]
        ladder = [{ any = { a = 3, b = 1 } }]
        [router]
        local = "local"
        strong = "local"
        "#;
    let config = Config::parse(text, "pick.toml", &|_| None).unwrap();
    let fleet = spectra_backends::fleet(&config, |_, _, _| unreachable!("no local model")).unwrap();
    let rung: Vec<(Arc<str>, u32)> = vec![("a".into(), 3), ("b".into(), 1)];
    let picked = |count: usize| (0..count).filter(|_| &*fleet.pick(&rung) == "a").count();
    assert_eq!(picked(400), 300);
    // Busy: with three in flight at a (weight 3) both are equally loaded; with four, b is the one.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(fleet.call("a", ask(true)).await.unwrap());
    }
    assert_eq!(picked(10), 0);
    held.clear();
    outcome_of(&fleet, "a").await;
    fleet.report("a", false);
    assert!(!fleet.admits("a") && fleet.admits("b"));
    assert_eq!(picked(10), 0, "its breaker is open");
}

async fn outcome_of(fleet: &Fleet, name: &str) {
    let reply = fleet.call(name, ask(true)).await.unwrap();
    reply.chunks.for_each(|_| std::future::ready(())).await;
}
