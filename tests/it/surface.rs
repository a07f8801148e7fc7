//! What a client may ask, and who is asked for it: hard rules, names, sessions, labels; servers that differ from OpenAI's.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde_json::{Value, json};
use spectra_tests::harness::{Answered, PATIENCE, Spectra, hosted, post, until};
use spectra_tests::upstream::{Fault, GOOD, Protocol, Received, Step, Upstream, event, whole_body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";

fn ask(model: &str, more: Value) -> String {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Say hello."}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body.to_string()
}

async fn good() -> Upstream {
    Upstream::failing(Protocol::Http1, Fault::None).await.unwrap()
}

// === 26 and 22: who can take it at all ===

/// What a request asks for, and the limit of the first rung that keeps it away: the next one is asked, with every field.
#[tokio::test]
async fn b22_b26_hard_rules_come_before_any_score_and_nothing_is_dropped_to_make_it_fit() {
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let image = json!([{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}]}]);
    let strict = json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": {"type": "object"}}});
    let long = json!([{"role": "user", "content": "word ".repeat(3000)}]);
    for (limit, more, why) in [
        ("context_tokens = 100", json!({"max_tokens": 101}), "context_length"),
        ("context_tokens = 1000", json!({"messages": long}), "context_length"),
        ("tools = false", json!({"tools": tool, "parallel_tool_calls": true, "tool_choice": "auto"}), "tools"),
        ("vision = false", json!({"messages": image}), "vision"),
        ("logprobs = false", json!({"logprobs": true, "top_logprobs": 2}), "logprobs"),
        ("n_max = 1", json!({"n": 2}), "n"),
        // With verification on, it would be told the schema in words.
        ("json_schema = false", json!({"response_format": strict}), "json_schema"),
    ] {
        let (one, two) = (good().await, good().await);
        let spectra =
            Spectra::start(&hosted(&[("one", one.base_url(), limit), ("two", two.base_url(), "vision = true")], "", "")).await.unwrap();
        let body = ask("auto", more.clone());
        let answered = spectra.post_with(CHAT, "x-spectra-verify: off\r\n", &body).await.unwrap();
        assert_eq!((answered.status, answered.header("x-spectra-model")), (200, Some("two")), "{why}: {}", answered.text());
        assert_eq!(one.seen().requests, 0, "{why}");
        // The one that can take it is sent all of it.
        let sent = two.last().json();
        for (key, value) in more.as_object().unwrap() {
            assert_eq!(&sent[key], value, "{why}: {key}");
        }
        // Where nobody can, the caller is told which rule it was.
        let refused = spectra.post_with(CHAT, "x-spectra-verify: off\r\n", &ask("one", more)).await.unwrap();
        let (status, _, _, code) = refused.error().unwrap();
        let expected = if why == "context_length" { "context_length_exceeded" } else { "unsupported_by_route" };
        assert_eq!((status, code.as_deref()), (400, Some(expected)), "{why}");
        assert!(refused.text().contains(why), "{why}: {}", refused.text());
    }
}

/// Too long for a model is found out at the latest by that model: its word escalates, and is not the caller's error.
#[tokio::test]
async fn b26_a_prompt_that_a_model_finds_too_long_goes_to_the_next() {
    let error = json!({"error": {"message": "This model's maximum context length is 4096 tokens.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}});
    let text = error.to_string();
    let small = Upstream::start(Protocol::Http1, move |_, _| {
        vec![Step::Head(400, vec![("content-type", "application/json".into())]), Step::Body(text.clone().into()), Step::End]
    })
    .await
    .unwrap();
    let large = good().await;
    let spectra = Spectra::start(&hosted(&[("small", small.base_url(), ""), ("large", large.base_url(), "")], "", "")).await.unwrap();
    let answered = spectra.post(CHAT, &ask("local", json!({}))).await.unwrap();
    assert_eq!((answered.status, answered.header("x-spectra-model")), (200, Some("large")));
    let told = spectra.post(CHAT, &ask("small", json!({}))).await.unwrap();
    assert_eq!(
        told.error().unwrap(),
        (400, "invalid_request_error".into(), Some("messages".into()), Some("context_length_exceeded".into()))
    );
}

// === 28 and 30: names and sessions ===

const TWO_ROUTES: &str = "[routes.strong]\nladder = [\"large\"]\n[aliases]\n\"gpt-4o\" = \"auto\"\n\"mini\" = \"local\"\n";

/// An easy conversation whose first answer was empty, and so was escalated, stays escalated: with a session's name from the
/// next request on, without one by how it began.
#[tokio::test]
async fn b28_an_escalated_conversation_stays_escalated_and_flaps_neither_way() {
    let empty = |_: &Received, turn: usize| {
        let text = if turn == 0 { "" } else { "Hello from small, again." };
        let message = json!({"role": "assistant", "content": text});
        whole_body(
            "application/json",
            &json!({"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
                .to_string(),
        )
    };
    let turn = json!([{"role": "user", "content": "Say hello."}]);
    let next = json!([{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Say it again."}]);
    let other = json!([{"role": "user", "content": "Say goodbye."}, {"role": "assistant", "content": "Bye."}, {"role": "user", "content": "Say it again."}]);
    for (session, sticky) in [("", &next), ("x-spectra-session: s1\r\n", &other)] {
        let (small, large) = (Upstream::start(Protocol::Http1, empty).await.unwrap(), good().await);
        let config = hosted(&[("small", small.base_url(), ""), ("large", large.base_url(), "")], "attempts_per_rung = 1", TWO_ROUTES);
        let spectra = Spectra::start(&config.replace("strong = \"local\"", "strong = \"strong\"")).await.unwrap();
        let asked = async |messages: &Value, session: &str| {
            let answered = spectra.post_with(CHAT, session, &ask("auto", json!({"messages": messages}))).await.unwrap();
            let header = |name: &str| answered.header(name).unwrap_or_default().to_owned();
            (header("x-spectra-route"), header("x-spectra-model"), header("x-spectra-reason"))
        };
        let (route, model, _) = asked(&turn, session).await;
        assert_eq!((route.as_str(), model.as_str()), ("local", "large"), "the first answer was escalated");
        for _ in 0..3 {
            let (route, model, reason) = asked(sticky, session).await;
            assert_eq!((route.as_str(), model.as_str(), reason.as_str()), ("strong", "large", "affinity"));
        }
        // Another conversation is not drawn along.
        let stranger = if session.is_empty() { &other } else { &next };
        assert_eq!(asked(stranger, "x-spectra-session: s2\r\n").await.1, "small");
    }
}

/// Thinking that only its own provider can read is not sent to another.
#[tokio::test]
async fn b28_encrypted_reasoning_goes_to_nobody() {
    let up = good().await;
    let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "")], "", "")).await.unwrap();
    let responses = json!({"model": "up", "include": ["reasoning.encrypted_content"], "store": false, "input": [
        {"role": "user", "content": "x"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed-letter"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "y", "annotations": []}]},
        {"role": "user", "content": "z"}]});
    let messages = json!({"model": "up", "max_tokens": 9, "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "sealed-letter", "signature": "sealed-letter"}, {"type": "redacted_thinking", "data": "sealed-letter"}, {"type": "text", "text": "y"}]},
        {"role": "user", "content": "z"}]});
    for (path, body) in [("/v1/responses", responses), ("/v1/messages", messages)] {
        let answered = spectra.post(path, &body.to_string()).await.unwrap();
        assert_eq!(answered.status, 200, "{path}: {}", answered.text());
        let sent = String::from_utf8(up.last().body.to_vec()).unwrap();
        assert!(!sent.contains("sealed") && sent.contains('y') && sent.contains('z'), "{path}: {sent}");
    }
}

#[tokio::test]
async fn b30_every_name_is_an_alias_a_route_a_model_or_unknown_and_a_header_may_overrule_it() {
    let (small, large) = (good().await, good().await);
    let config = hosted(&[("small", small.base_url(), ""), ("large", large.base_url(), "")], "", TWO_ROUTES);
    let spectra = Spectra::start(&config.replace("strong = \"local\"", "strong = \"strong\"")).await.unwrap();
    for (model, header, answers) in [
        ("auto", "", "small"),
        ("gpt-4o", "", "small"),
        ("mini", "", "small"),
        ("local", "", "small"),
        ("strong", "", "large"),
        ("large", "", "large"),
        ("auto", "x-spectra-route: strong\r\n", "large"),
        ("large", "x-spectra-route: local\r\n", "small"),
        ("nobody", "x-spectra-route: large\r\n", "large"),
    ] {
        let answered = spectra.post_with(CHAT, header, &ask(model, json!({}))).await.unwrap();
        assert_eq!((answered.status, answered.header("x-spectra-model")), (200, Some(answers)), "{model} {header}");
    }
    for (model, header) in [("nobody", ""), ("auto", "x-spectra-route: nobody\r\n"), ("LOCAL", ""), ("local ", "")] {
        let told = spectra.post_with(CHAT, header, &ask(model, json!({}))).await.unwrap().error().unwrap();
        assert_eq!((told.0, told.2.as_deref(), told.3.as_deref()), (404, Some("model"), Some("model_not_found")), "{model} {header}");
    }
}

// === 35 and 36: what is counted ===

#[tokio::test]
async fn b35_labels_are_names_of_the_config_or_other_and_nothing_a_client_says() {
    let up = good().await;
    let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "")], "", "")).await.unwrap();
    let known = spectra.admin("/metrics").await.unwrap().text().lines().count();
    spectra.post(CHAT, &ask("up", json!({}))).await.unwrap();
    spectra.post(CHAT, &ask("stranger-0", json!({}))).await.unwrap();
    let after_two = spectra.admin("/metrics").await.unwrap().text().lines().count();
    for number in 1..60 {
        let headers =
            format!("x-spectra-session: stranger-{number}\r\nx-request-id: stranger-{number}\r\nuser-agent: stranger-{number}\r\n");
        spectra
            .post_with(CHAT, &headers, &ask(&format!("stranger-{number}"), json!({"user": format!("stranger-{number}@example.org")})))
            .await
            .unwrap();
        spectra
            .post_with(CHAT, &headers, &ask("up", json!({"user": format!("stranger-{number}"), "metadata": {"stranger": "stranger"}})))
            .await
            .unwrap();
        spectra.get(&format!("/v1/models/stranger-{number}")).await.unwrap();
    }
    let text = spectra.admin("/metrics").await.unwrap().text();
    assert!(!text.contains("stranger"), "{text}");
    assert_eq!(text.lines().count(), after_two, "sixty clients are not sixty series (before any: {known})");
}

/// With a token the numbers are for those who have it; health and the empty page are for everybody.
#[tokio::test]
async fn b35_numbers_have_a_listener_and_may_have_a_token_of_their_own() {
    let up = good().await;
    let text = hosted(&[("up", up.base_url(), "")], "", "[admin]\ntoken = { env = \"TOKEN\" }");
    let config = spectra_config::Config::parse(&text, "token.toml", &|_| Some("open-sesame".into())).unwrap();
    let spectra = Spectra::with(config).await.unwrap();
    for (path, open) in [("/healthz", true), ("/readyz", true), ("/metrics", false), ("/dashboard", true), ("/dashboard/live", false)] {
        assert_eq!(spectra.admin(path).await.unwrap().status == 200, open, "{path}");
        let with = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\nauthorization: Bearer open-sesame\r\n\r\n");
        assert_eq!(spectra_tests::harness::exchange(spectra.admin, with.as_bytes()).await.unwrap().status, 200, "{path}");
    }
}

#[tokio::test]
async fn b36_tokens_that_nobody_counted_are_missing_and_not_none() {
    let up = Upstream::failing(Protocol::Http1, Fault::Odd).await.unwrap();
    let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "price = { input = 1.0, output = 1.0 }")], "", "")).await.unwrap();
    for (count, stream) in [(1.0, true), (2.0, false)] {
        let answered = spectra.post(CHAT, &ask("up", json!({"stream": stream}))).await.unwrap();
        assert_eq!(answered.status, 200, "{}", answered.text());
        until("it is counted", async || Ok(spectra.metric("spectra_usage_missing_total{model=\"up\"}").await? == count)).await.unwrap();
        assert!(!answered.text().contains("\"prompt_tokens\""), "no usage is made up: {}", answered.text());
    }
    assert_eq!(spectra.metric_sum("gen_ai_client_token_usage_count", "model=\"up\"").await.unwrap(), 0.0, "no zeros are observed");
    assert_eq!(spectra.metric_sum("spectra_cost_usd_total", "").await.unwrap(), 0.0);
}

// === 39 and 40: sockets ===

/// Every TCP socket of this process, as `(own port, peer's port, TCP_NODELAY)`.
fn sockets() -> Vec<(u16, u16, bool)> {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut found = Vec::new();
    for number in numbers.collect::<Vec<i32>>() {
        // SAFETY: the number was just read from the process's own table; the borrow lasts for one duplication, and where it
        // was closed meanwhile that fails.
        let Ok(own) = (unsafe { BorrowedFd::borrow_raw(number) }).try_clone_to_owned() else { continue };
        let socket = std::net::TcpStream::from(own);
        if let (Ok(here), Ok(there), Ok(nodelay)) = (socket.local_addr(), socket.peer_addr(), socket.nodelay()) {
            found.push((here.port(), there.port(), nodelay));
        }
    }
    found
}

#[tokio::test]
async fn b39_small_writes_are_not_held_back_on_either_side() {
    if !std::path::Path::new("/proc/self/fd").exists() {
        println!("skipped: no /proc here to find the process's sockets in");
        return;
    }
    for (protocol, more) in [(Protocol::Http1, ""), (Protocol::Http2, "http2_prior_knowledge = true\n")] {
        let up = Upstream::failing(protocol, Fault::StallInBody).await.unwrap();
        let config = hosted(&[("up", up.base_url(), "")], "", "").replace("model = \"up\"\n", &format!("model = \"up\"\n{more}"));
        let spectra = Spectra::start(&config).await.unwrap();
        let mut client = TcpStream::connect(spectra.main).await.unwrap();
        client.write_all(&post(CHAT, "", &ask("up", json!({"stream": true})))).await.unwrap();
        let mut some = [0; 64];
        assert!(client.read(&mut some).await.unwrap() > 0);
        let sockets = sockets();
        let own = client.local_addr().unwrap().port();
        let of = |here: Option<u16>, there: Option<u16>| {
            let found = sockets.iter().filter(|(a, b, _)| here.is_none_or(|here| here == *a) && there.is_none_or(|there| there == *b));
            found.map(|(.., nodelay)| *nodelay).collect::<Vec<_>>()
        };
        assert_eq!(of(Some(spectra.main.port()), Some(own)), [true], "towards the client");
        assert_eq!(of(None, Some(up.address.port())), [true], "towards the upstream, {protocol:?}");
    }
}

/// An answer that is not begun when the patience of a shutdown is over is an error with a status.
#[tokio::test]
async fn b40_a_shutdown_tells_those_who_still_wait() {
    let up = Upstream::failing(Protocol::Http1, Fault::StallBeforeHead).await.unwrap();
    let mut spectra = Spectra::start(&hosted(&[("up", up.base_url(), "")], "", "[server]\ndrain_ms = 100")).await.unwrap();
    let mut clients = Vec::new();
    for stream in [true, false] {
        let mut client = TcpStream::connect(spectra.main).await.unwrap();
        client.write_all(&post(CHAT, "", &ask("up", json!({"stream": stream})))).await.unwrap();
        clients.push(client);
    }
    up.until(|seen| seen.requests == 2).await.unwrap();
    spectra.begin_stop();
    for mut client in clients {
        let mut all = Vec::new();
        tokio::time::timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("told").unwrap();
        let text = String::from_utf8_lossy(&all);
        assert!(
            text.starts_with("HTTP/1.1 503") && text.contains("\"code\":\"shutting_down\"") && text.contains("retry-after: 1"),
            "{text}"
        );
    }
    up.until(|seen| seen.left == 2).await.unwrap();
    assert!(TcpStream::connect(spectra.main).await.is_err() || !spectra.stop().await.unwrap(), "no new connections are taken");
}

// === servers that differ ===

/// Azure's URL and key header, its first chunk without a choice, and what it adds.
#[tokio::test]
async fn azure_is_asked_and_read_in_its_own_way_at_every_door() {
    let sent = std::fs::read_to_string(format!("{}/../backends/corpus/sse/azure.txt", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let azure = Upstream::start(Protocol::Http1, move |_, _| {
        vec![
            Step::Head(200, vec![("content-type", "text/event-stream".into()), ("apim-request-id", "a".into())]),
            Step::Body(sent.clone().into()),
            Step::End,
        ]
    })
    .await
    .unwrap();
    let text = format!(
        r#"
        [backends.azure.openai]
        base_url = "http://{}/openai/deployments/d"
        model = "gpt-4o"
        api_key = {{ env = "KEY" }}
        key_header = "api-key"
        query = {{ "api-version" = "2024-10-21" }}
        [routes.local]
        ladder = ["azure"]
        [router]
        strong = "local"
        "#,
        azure.address
    );
    let config = spectra_config::Config::parse(&text, "azure.toml", &|_| Some("azure-key-1".into())).unwrap();
    let spectra = Spectra::with(config).await.unwrap();
    for (path, body) in [
        (CHAT, ask("local", json!({"stream": true}))),
        ("/v1/responses", json!({"model": "local", "input": "Say hello.", "stream": true}).to_string()),
        (
            "/v1/messages",
            json!({"model": "local", "max_tokens": 99, "messages": [{"role": "user", "content": "Say hello."}], "stream": true})
                .to_string(),
        ),
    ] {
        let answered = spectra.post_with(path, "x-spectra-verify: off\r\n", &body).await.unwrap();
        assert_eq!(answered.status, 200, "{path}: {}", answered.text());
        let request = azure.last();
        assert_eq!(request.target, "/openai/deployments/d/chat/completions?api-version=2024-10-21");
        assert_eq!((request.headers["api-key"].to_str().unwrap(), request.headers.get("authorization")), ("azure-key-1", None));
        // The id is the answer's, not that of the empty first chunk.
        let begins = |event: &Value| match path {
            "/v1/responses" => event["response"]["id"].as_str().map(str::to_owned),
            "/v1/messages" => event["message"]["id"].as_str().map(str::to_owned),
            _ => None,
        };
        let first = answered.events().iter().filter_map(|event| begins(&serde_json::from_str(event).ok()?)).next();
        assert!(first.is_none_or(|id| id.len() > "resp_".len()), "{path}: {}", answered.text());
    }
}

/// Errors as servers spell them become OpenAI's: a status, four keys, a code that is text.
#[tokio::test]
async fn b10_errors_of_other_servers_are_told_in_openais_form() {
    for (status, body, code, told_type) in [
        (400, r#"{"object":"error","message":"bad","type":"BadRequestError","param":null,"code":400}"#, None, "invalid_request_error"),
        (422, r#"{"error":{"code":422,"message":"bad","type":"invalid_request_error"}}"#, Some("422"), "invalid_request_error"),
        (400, r#"{"error":"model requires more system memory"}"#, None, "invalid_request_error"),
        (500, r#"{"error":{"message":"bad","type":"None","param":"None","code":"500"}}"#, Some("500"), "server_error"),
        (400, r#"{"detail":[{"loc":["body","n"],"msg":"bad"}]}"#, Some("upstream_refused"), "invalid_request_error"),
        (529, "overloaded", Some("upstream_error"), "server_error"),
    ] {
        let up = Upstream::start(Protocol::Http1, move |_, _| {
            vec![Step::Head(status, vec![("content-type", "application/json".into())]), Step::Body(body.into()), Step::End]
        })
        .await
        .unwrap();
        let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "")], "attempts_per_rung = 1", "")).await.unwrap();
        let told = spectra.post(CHAT, &ask("up", json!({}))).await.unwrap().error().unwrap();
        assert_eq!((told.0, told.1.as_str(), told.3.as_deref()), (status, told_type, code), "{body}");
    }
}

/// A tier, a finish reason, a role and a content type that nobody documented are passed on, not refused.
#[tokio::test]
async fn values_that_nobody_documented_pass() {
    let odd = json!({"id": 7, "object": "chat.completion.thing", "created": "now", "model": null, "service_tier": {"new": [1]}, "system_fingerprint": 3,
        "choices": [{"index": 0, "finish_reason": "eos", "stop_reason": 2, "logprobs": null, "message": {"role": "robot", "content": "Hello to you.", "annotations": {}, "audio": null, "reasoning": {"a": 1}}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9, "queue_time": 0.5}, "x_groq": {"id": "r"}})
    .to_string();
    let same = odd.clone();
    let up = Upstream::start(Protocol::Http1, move |_, _| whole_body("application/json", &odd)).await.unwrap();
    let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "")], "", "")).await.unwrap();
    for tier in [json!("priority"), json!("hyperdrive"), json!(7), Value::Null] {
        let answered = spectra.post(CHAT, &ask("up", json!({"service_tier": tier}))).await.unwrap();
        assert_eq!((answered.status, answered.text()), (200, same.clone()));
        assert_eq!(up.last().json()["service_tier"], tier);
    }
}

/// Parts that are not text pass to a model that sees, word for word.
#[tokio::test]
async fn multimodal_parts_pass_word_for_word() {
    let up = good().await;
    let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "vision = true")], "", "")).await.unwrap();
    let body = r#"{"model":"up","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"detail":"low","url":"https://example.org/a.png"}},{"type":"input_audio","input_audio":{"format":"wav","data":"AA=="}},{"type":"file","file":{"file_id":"f-1"}},{"type":"text","text":"What is it?"}]}],"modalities":["text"],"max_completion_tokens":50}"#;
    assert_eq!(spectra.post(CHAT, body).await.unwrap().status, 200);
    assert_eq!(up.last().body, body);
}

// === pass-through ===

/// What chat cannot say of a legacy completion is passed on to a server that can: as it is, both ways, streamed or whole.
#[tokio::test]
async fn legacy_completions_that_chat_cannot_express_pass_as_they_are() {
    let answer = r#"{ "object":"text_completion", "choices":[{"text":"x","index":0,"logprobs":{"tokens":["x"]},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}, "n":1.0}"#;
    let up = Upstream::start(Protocol::Http1, move |request, _| match (request.target.as_str(), request.wants_stream()) {
        ("/v1/completions", true) => {
            let piece = json!({"object": "text_completion", "choices": [{"text": "x", "index": 0, "finish_reason": "stop"}]});
            vec![
                Step::Head(200, vec![("content-type", "text/event-stream".into())]),
                event(&piece),
                Step::Body("data: [DONE]\n\n".into()),
                Step::End,
            ]
        }
        ("/v1/completions", false) => whole_body("application/json", answer),
        _ => Fault::None.steps(request.wants_stream()),
    })
    .await
    .unwrap();
    let spectra =
        Spectra::start(&hosted(&[("up", up.base_url(), "price = { input = 1000000.0, output = 1000000.0 }")], "", "")).await.unwrap();
    let mut sent = 0.0;
    for more in [r#""suffix":"}""#, r#""echo":true"#, r#""best_of":3"#, r#""logprobs":2"#] {
        let body = format!(r#"{{ "prompt":"fn main() {{", "model":"up",{more}, "x":1.50}}"#);
        let answered = spectra.post("/v1/completions", &body).await.unwrap();
        assert_eq!((answered.status, answered.text().as_str()), (200, answer), "{more}");
        assert_eq!(answered.header("x-spectra-model"), Some("up"));
        assert_eq!((up.last().target.as_str(), up.last().body), ("/v1/completions", body.into()));
        sent += 1.0;
    }
    for prompt in [json!(["a", "b"]), json!([1, 2, 3]), json!([[1, 2], [3]])] {
        let answered = spectra.post("/v1/completions", &json!({"model": "local", "prompt": prompt}).to_string()).await.unwrap();
        assert_eq!((answered.status, answered.text().as_str()), (200, answer), "{prompt}");
        sent += 1.0;
    }
    let streamed = spectra.post("/v1/completions", r#"{"model":"up","prompt":"x","echo":true,"stream":true}"#).await.unwrap();
    assert_eq!((streamed.complete, streamed.events().last().map(String::as_str)), (true, Some("[DONE]")));
    sent += 1.0;
    until("each is counted once", async || Ok(spectra.metric_sum("spectra_requests_total", "").await? >= sent)).await.unwrap();
    assert_eq!(spectra.metric_sum("spectra_requests_total", "").await.unwrap(), sent);
    // A plain prompt goes the way of every chat: routed and verified.
    let plain = spectra.post("/v1/completions", r#"{"model":"up","prompt":"Say hello."}"#).await.unwrap();
    assert_eq!(plain.json().unwrap()["choices"][0]["text"], GOOD.concat());
    assert_eq!(up.last().target, "/v1/chat/completions");
    // Nobody here can: told so, with the field's name.
    let scripted =
        Spectra::start("[backends.s.script]\nanswers = [{ text = \"x\" }]\n[routes.local]\nladder = [\"s\"]\n[router]\nstrong = \"local\"")
            .await
            .unwrap();
    let refused = scripted.post("/v1/completions", r#"{"model":"s","prompt":"x","echo":true}"#).await.unwrap();
    assert_eq!(refused.error().unwrap().3.as_deref(), Some("unsupported_by_route"));
}

#[tokio::test]
async fn embeddings_pass_as_they_are_and_errors_are_told() {
    let answer =
        r#"{ "object":"list", "data":[{"embedding":[0.10,-2e-3],"index":0}] , "model":"x","usage":{"prompt_tokens":3,"total_tokens":3}}"#;
    let up = Upstream::start(Protocol::Http1, move |request, _| match request.json()["input"].as_str() {
        Some("fail") => Fault::ServerError.steps(false),
        Some("stall") => vec![Step::Stall],
        _ => whole_body("application/json", answer),
    })
    .await
    .unwrap();
    let spectra = Spectra::start(&hosted(&[("up", up.base_url(), "deadlines = { total_ms = 200 }")], "", "")).await.unwrap();
    for model in ["up", "local", "auto"] {
        let body = format!(r#"{{"input" : ["a", "b"],"model":"{model}","dimensions":2, "encoding_format":"float"}}"#);
        let answered = spectra.post("/v1/embeddings", &body).await.unwrap();
        assert_eq!((answered.status, answered.text().as_str(), answered.header("x-spectra-model")), (200, answer, Some("up")));
        assert_eq!(up.last().body, body.replace(&format!("\"{model}\""), "\"up\""));
    }
    let failed = spectra.post("/v1/embeddings", r#"{"input":"fail","model":"up"}"#).await.unwrap();
    assert_eq!(failed.error().unwrap().0, 500);
    let late = spectra.post("/v1/embeddings", r#"{"input":"stall","model":"up"}"#).await.unwrap();
    assert_eq!(late.error().unwrap().3.as_deref(), Some("upstream_timeout"));
    assert_eq!(spectra.metric_sum("spectra_requests_total", "").await.unwrap(), 5.0);
}

fn finished(answered: &Answered) -> bool {
    answered.complete && answered.events().last().is_some_and(|last| last == "[DONE]")
}

/// Hedging: the next rung is asked when the first is later than its own 95th percentile; the loser is let go.
#[tokio::test]
async fn a_slow_first_rung_is_overtaken_and_let_go() {
    let first = Upstream::start(
        Protocol::Http1,
        |request, turn| if turn < 24 { Fault::None.steps(request.wants_stream()) } else { vec![Step::Stall] },
    )
    .await
    .unwrap();
    let second = good().await;
    let config = hosted(&[("first", first.base_url(), ""), ("second", second.base_url(), "")], "hedge = true", "");
    let spectra = Spectra::start(&config).await.unwrap();
    let body = ask("local", json!({"stream": true}));
    for _ in 0..24 {
        assert!(finished(&spectra.post(CHAT, &body).await.unwrap()));
    }
    let answered = tokio::time::timeout(Duration::from_secs(10), spectra.post(CHAT, &body)).await.unwrap().unwrap();
    assert_eq!((finished(&answered), answered.header("x-spectra-model")), (true, Some("second")));
    first.until(|seen| seen.left >= 1).await.unwrap();
    assert!(spectra.metric_sum("spectra_asks_total", "why=\"hedge\"").await.unwrap() >= 1.0);
}
