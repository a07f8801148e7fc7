//! The loop against a weak model that spoils its answers in the ways models do: a *simulated*, seeded run.
//! What is asserted: nearly every answer is delivered usable, and none that is not is passed off as verified.

#![expect(clippy::unwrap_used, reason = "a test program: its helpers fail loudly")]

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use spectra_backends::{Ask, Backend, BackendError, ChatRequest, Chunk, Continuation, Facts, Fleet, Member, Price, Reply};
use spectra_router::{Asked, Router, Trail, Verified};
use tower::service_fn;

const RUNS: usize = 400;

const CONFIG: &str = r#"
[backends.weak.script]
answers = [{ text = "unused: the fleet is given" }]
[backends.solid.script]
answers = [{ text = "unused: the fleet is given" }]
[routes.local]
ladder = ["weak", "solid"]
[routes.strong]
ladder = ["solid"]
"#;

const SCHEMA: &str = r#"{"type":"object","properties":{"service_name":{"type":"string","pattern":"^[a-z][a-z0-9-]+$"},"files_to_create":{"type":"array","minItems":1,"items":{"type":"object","properties":{"path":{"type":"string"},"priority":{"type":"string","enum":["critical","normal","low"]},"content":{"type":"string","minLength":1}},"required":["path","priority","content"],"additionalProperties":false}}},"required":["service_name","files_to_create"],"additionalProperties":false}"#;

/// xorshift64*: a seeded draw is the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

fn good(which: u64) -> String {
    serde_json::json!({
        "service_name": format!("orders-{which}"),
        "files_to_create": [
            { "path": "app/main.py", "priority": "critical", "content": format!("from fastapi import FastAPI\n\napp = FastAPI(title=\"orders {which}\")\n\n\n@app.get(\"/health\")\ndef health() -> dict[str, str]:\n    return {{\"status\": \"ok\"}}\n") },
            { "path": "requirements.txt", "priority": "low", "content": "fastapi>=0.110\nuvicorn>=0.29\n" },
        ],
    })
    .to_string()
}

/// The answer spoiled in one of ten ways, and how it ends.
fn spoiled(random: &mut Random, text: &str) -> (String, &'static str) {
    let half = text.floor_char_boundary(text.len() / 2);
    match random.below(10) {
        0 => (format!("Sure! Here is the JSON:\n```json\n{text}\n```\nLet me know."), "stop"),
        1 => (text.replacen("\"priority\":\"low\",", "\"priority\":\"low\",,", 1), "stop"),
        2 => (text[..half].to_owned(), "length"),
        3 => (text[..half].to_owned(), "stop"),
        4 => (String::new(), "stop"),
        5 => (text.replace("\"service_name\"", "\"name\"").replace("orders", "Orders Service"), "stop"),
        6 => ("I would create a FastAPI service with a main file and a requirements file.".into(), "stop"),
        7 => (
            text.replace("from fastapi import FastAPI", "# TODO: implement")
                .split_inclusive("# TODO: implement")
                .next()
                .unwrap_or_default()
                .to_owned()
                + "\"}]}",
            "stop",
        ),
        8 => (text.trim_end_matches('}').to_owned(), "stop"),
        _ => (text.replace('"', "'"), "stop"),
    }
}

/// A model that spoils `percent` of its answers; asked to go on, it goes on.
fn model(seed: u64, percent: u64, local: bool) -> Member {
    let state = Arc::new(Mutex::new((Random(seed), 0_u64)));
    let backend = Backend::new(service_fn(move |ask: Ask| {
        let view = ask.request.view();
        let last = &view.messages[view.messages.len() - 1].text;
        let mut state = state.lock();
        let (text, finish) = if last.starts_with("Your answer was cut off") {
            let so_far = &view.messages[view.messages.len() - 2].text;
            let whole = good(state.1);
            (whole.strip_prefix(so_far.as_str()).map_or(whole.clone(), str::to_owned), "stop")
        } else {
            state.1 += 1;
            let text = good(state.1);
            if state.0.below(100) < percent { spoiled(&mut state.0, &text) } else { (text, "stop") }
        };
        std::future::ready(Ok(reply(&text, finish, view.stream)))
    }));
    let facts = Facts {
        context_tokens: None,
        tools: true,
        vision: true,
        logprobs: true,
        n_max: 1,
        json_schema: true,
        local,
        price: Price::default(),
        continues_by: Continuation::Instruction,
    };
    Member { backend, facts: Arc::new(facts) }
}

fn reply(text: &str, finish: &str, stream: bool) -> Reply {
    let body = |content: serde_json::Value| Chunk::parse(Bytes::from(content.to_string()));
    let mut chunks: Vec<Result<Chunk, BackendError>> = Vec::new();
    if stream {
        let delta = |delta: serde_json::Value, finish: Option<&str>| serde_json::json!({"id":"s","object":"chat.completion.chunk","choices":[{"index":0,"delta":delta,"finish_reason":finish}]});
        chunks.extend(text.split_inclusive(' ').map(|piece| body(delta(serde_json::json!({"content":piece}), None))));
        chunks.push(body(delta(serde_json::json!({}), Some(finish))));
    } else {
        let message = serde_json::json!({"role":"assistant","content":text});
        chunks.push(body(
            serde_json::json!({"id":"w","object":"chat.completion","choices":[{"index":0,"message":message,"finish_reason":finish}]}),
        ));
    }
    Reply { headers: http::HeaderMap::new(), chunks: Box::pin(futures_util::stream::iter(chunks)) }
}

/// What a caller counts as usable: it parses, fits, and its files are whole.
fn usable(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    let files = value["files_to_create"].as_array().map_or(0, Vec::len);
    value["service_name"].as_str().is_some_and(|name| name.starts_with("orders-")) && files == 2 && text.contains("def health")
}

/// Share usable in the end and mean attempts, through the loop and straight to the weak model.
async fn run(percent: u64, stream: bool) -> (f64, f64, f64) {
    let config = spectra_config::Config::parse(CONFIG, "test", &|_| None).unwrap();
    let fleet = Fleet::new(HashMap::from([("weak".to_owned(), model(7, percent, true)), ("solid".to_owned(), model(8, 2, false))]));
    let router = Arc::new(Router::new(&config, fleet.clone()).unwrap());
    let body = format!(
        r#"{{"model":"local","stream":{stream},"messages":[{{"role":"user","content":"Build a service"}}],"response_format":{{"type":"json_schema","json_schema":{{"name":"s","strict":true,"schema":{SCHEMA}}}}}}}"#
    );
    let request = ChatRequest::parse(body.into_bytes().into()).unwrap();
    let (mut delivered, mut attempts, mut straight) = (0, 0, 0);
    for _ in 0..RUNS {
        let trail = Trail::default();
        let mut text = String::new();
        if let Ok(answer) = router.answer(&trail, request.clone(), Asked::default()).await {
            for chunk in answer.chunks.collect::<Vec<_>>().await {
                text.extend(chunk.unwrap().view.choices.into_iter().filter_map(|choice| choice.content));
            }
        }
        let account = trail.account();
        let passed_off = matches!(account.verified, Verified::Ok | Verified::Repaired) && !usable(&text);
        assert!(!passed_off, "{percent} %, stream {stream}: verified, but not usable:\n{text}\n{account:?}");
        delivered += usize::from(usable(&text));
        attempts += account.attempts.len();
    }
    let plain = model(7, percent, true);
    for _ in 0..RUNS {
        let ask = Ask {
            request: request.clone(),
            deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(60),
            request_id: "x".into(),
            traceparent: None,
        };
        let chunks = tower::ServiceExt::oneshot(plain.backend.clone(), ask).await.unwrap().chunks.collect::<Vec<_>>().await;
        let text: String = chunks.into_iter().flatten().flat_map(|chunk| chunk.view.choices).filter_map(|choice| choice.content).collect();
        straight += usize::from(usable(&text));
    }
    #[expect(clippy::cast_precision_loss, reason = "a few hundred runs")]
    let share = |count: usize| count as f64 / RUNS as f64;
    (share(delivered), share(attempts), share(straight))
}

#[tokio::test]
async fn a_weak_models_answers_leave_usable_or_not_at_all() {
    println!(
        "*simulated*, seeded, {RUNS} requests each\n| spoiled | stream | usable straight | usable through the loop | attempts |\n|---|---|---|---|---|"
    );
    for percent in [30, 50, 70] {
        for stream in [false, true] {
            let (delivered, attempts, straight) = run(percent, stream).await;
            println!("| {percent} % | {stream} | {:.1} % | {:.2} % | {attempts:.2} |", straight * 100.0, delivered * 100.0);
            assert!(delivered >= 0.995, "{percent} %, stream {stream}: {delivered}");
            assert!(percent > 30 || attempts <= 1.3, "{percent} %, stream {stream}: {attempts}");
        }
    }
}
