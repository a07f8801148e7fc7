//! The whole gateway over upstreams that fail in every way: each request ends well-formed, and is counted once.

use serde_json::{Value, json};
use spectra_config::Config;
use spectra_tests::harness::{Answered, PATIENCE, Spectra};
use spectra_tests::upstream::{ALL_FAULTS, Fault, GOOD, KEY, Protocol, Upstream};

/// `up` fails, `spare` does not; the route asks `ladder`. Only a stall meets a short deadline.
async fn spectra(up: &Upstream, spare: &Upstream, ladder: &str, fault: Fault) -> Spectra {
    let stalls = matches!(fault, Fault::StallBeforeHead | Fault::StallBeforeBody | Fault::StallInBody);
    let ms = if stalls { 80 } else { 600_000 };
    let text = format!(
        r#"
        [backends.up]
        deadlines = {{ first_chunk_ms = {ms}, idle_ms = {ms}, total_ms = {ms} }}
        openai = {{ base_url = "{}", model = "up", api_key = {{ env = "KEY" }} }}
        [backends.spare.openai]
        base_url = "{}"
        model = "spare"
        [routes.local]
        ladder = {ladder}
        [router]
        local = "local"
        strong = "local"
        "#,
        up.base_url(),
        spare.base_url()
    );
    let config = Config::parse(&text, "faults.toml", &|name| (name == "KEY").then(|| KEY.to_owned())).unwrap();
    Spectra::with(config).await.unwrap()
}

#[derive(Debug, PartialEq)]
enum End {
    /// The good answer, properly ended.
    Good,
    /// An error with a status.
    Refused,
    /// An error event after text, and no `[DONE]`.
    Broken,
}

fn end(answered: &Answered, stream: bool) -> End {
    let text = answered.text();
    assert!(answered.complete, "not a complete HTTP answer: {text}");
    assert!(!text.contains(KEY), "the key came back: {text}");
    if answered.status != 200 {
        answered.error().unwrap();
        return End::Refused;
    }
    if !stream {
        assert_eq!(answered.json().unwrap()["choices"][0]["message"]["content"], GOOD.concat());
        return End::Good;
    }
    let events = answered.events();
    let done = events.last().is_some_and(|last| last == "[DONE]");
    let parsed: Vec<Value> = events.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let failed = parsed.iter().any(|event| event["error"].is_object());
    assert!(done != failed, "[DONE] and an error exclude each other, and one of them is there: {text}");
    let finished = parsed.iter().any(|event| event["choices"][0]["finish_reason"].is_string());
    assert!(!done || finished, "[DONE] without a finish: {text}");
    if done { End::Good } else { End::Broken }
}

async fn run(fault: Fault, stream: bool, ladder: &str) -> End {
    let up = Upstream::failing(Protocol::Http1, fault).await.unwrap();
    let spare = Upstream::failing(Protocol::Http1, Fault::None).await.unwrap();
    let spectra = spectra(&up, &spare, ladder, fault).await;
    let body = json!({"model": "local", "messages": [{"role": "user", "content": "Say hello."}], "stream": stream}).to_string();
    let answered = spectra.post("/v1/chat/completions", &body).await.unwrap();
    let counted = async {
        while spectra.metric_sum("spectra_requests_total", "").await.unwrap() < 1.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{fault:?} stream={stream}: not counted"));
    assert_eq!(spectra.metric_sum("spectra_requests_total", "").await.unwrap(), 1.0, "{fault:?}: counted twice");
    end(&answered, stream)
}

#[tokio::test]
async fn b06_b10_b12_with_nobody_to_fall_back_on_the_end_is_well_formed() {
    for &fault in ALL_FAULTS {
        for stream in [true, false] {
            let end = run(fault, stream, r#"["up"]"#).await;
            let good = matches!(fault, Fault::None | Fault::SlowDrip | Fault::Odd | Fault::NoDone);
            assert_eq!(end == End::Good, good, "{fault:?} stream={stream}: {end:?}");
        }
    }
}

#[tokio::test]
async fn b12_with_another_rung_the_caller_does_not_notice() {
    for &fault in ALL_FAULTS {
        for stream in [true, false] {
            let end = run(fault, stream, r#"["up", "spare"]"#).await;
            // After the first content chunk a stream is committed: it is continued, or broken off and said so.
            let committed = stream
                && matches!(
                    fault,
                    Fault::ResetInBody
                        | Fault::StallInBody
                        | Fault::Truncated
                        | Fault::Cut
                        | Fault::MalformedChunk
                        | Fault::ErrorInStream
                        | Fault::DoneUnfinished
                );
            assert!(end == End::Good || (committed && end == End::Broken), "{fault:?} stream={stream}: {end:?}");
        }
    }
}
