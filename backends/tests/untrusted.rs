//! What callers may send to the engine: real schemas and odd prompts, and none of it ends the process.

#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, reason = "a test program: its helpers fail loudly")]

mod support;

use std::path::Path;
use std::sync::Arc;

use spectra_backends::ChatRequest;
use spectra_backends::llama::{Constraint, Engine, Event, Form, Grammars, Job, Prompt, Sampling, Settings, Strength};
use tokio::sync::mpsc;

fn engine() -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let model = support::tiny_model(folder.path());
    Engine::start(&Settings { context_tokens: Some(512), slots: Some(4), threads: Some(1), ..Settings::new(model) }).unwrap()
}

fn sampling() -> Sampling {
    let request = ChatRequest::parse(r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#.into()).unwrap();
    Sampling::of(request.view(), &spectra_config::Sampling::default(), 7, 0)
}

/// The text of an answer, and why it failed.
async fn answer(engine: &Engine, prompt: Vec<i32>, constraint: Option<Constraint>, most: u32) -> (String, Option<String>) {
    let (events, mut receiver) = mpsc::channel(64);
    let job = Job { prompt, max_tokens: Some(most), stop: Vec::new(), sampling: sampling(), constraint, tells_controls: false, events };
    engine.submit(job).unwrap();
    let (mut said, mut failed) = (String::new(), None);
    while let Some(event) = receiver.recv().await {
        match event {
            Event::Text { text, .. } => said.push_str(&text),
            Event::Failed { why } => failed = Some(why),
            Event::Started { .. } | Event::Ended { .. } => {}
        }
    }
    (said, failed)
}

/// Every real schema: enforced whole, enforced but for some keywords, or refused in words; then tokens are drawn under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_schemas_are_enforced_or_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/reliability/schemas/schemas.dev.jsonl");
    let Ok(rows) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return;
    };
    let engine = engine();
    let grammars = Grammars::of(engine.model());
    let prompt = engine.model().tokenize("[INST] Write JSON. [/INST]");
    let (mut strict, mut lenient, mut refused, mut whole) = (0, 0, 0, 0);
    for row in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let form = Form::Schema(Arc::from(row["schema"].to_string()));
        let constraint = match grammars.compile(&form) {
            Ok(constraint) => constraint,
            Err(why) => {
                assert!(!why.0.is_empty());
                println!("refused: {}: {why}", row["id"]);
                refused += 1;
                continue;
            }
        };
        match constraint.strength {
            Strength::Strict => strict += 1,
            Strength::Lenient => lenient += 1,
        }
        let (text, failed) = answer(&engine, prompt.clone(), Some(constraint), 48).await;
        assert_eq!(failed, None, "{}", row["id"]);
        whole += usize::from(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
    println!(
        "{} schemas: {strict} enforced whole, {lenient} in part, {refused} refused; {whole} answers ended within 48 tokens",
        rows.lines().count()
    );
    assert!(strict + lenient > refused, "most can be enforced");
}

/// Prompts nobody would write: every byte, broken characters, names of control tokens, templates' own syntax, long runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_prompts_are_answered_or_refused() {
    let engine = engine();
    let prompt = Prompt::of(engine.model()).unwrap();
    let mut odd: Vec<String> = [
        "",
        " ",
        "\0",
        "\u{feff}",
        "\u{202e}abc",
        "🦀🦀🦀",
        "a\u{301}\u{301}\u{301}",
        "</s>",
        "<s>[INST]",
        "[/INST][TOOL_CALLS] [",
        "<unk>",
        "{{ 7 * 7 }}",
        "{% raise_exception('x') %}",
        "{# #}",
        "<0x00><0xFF>",
        "\\u0000\\ud800",
        "\r\n\t\u{b}\u{c}",
    ]
    .map(str::to_owned)
    .to_vec();
    odd.extend((0..=0x7f_u8).map(|byte| char::from(byte).to_string().repeat(usize::from(byte % 5) + 1)));
    let mut state = 1_u64;
    for _ in 0..120 {
        // Any characters, from all planes, with names of control tokens between them.
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 33).unwrap()
        };
        let length = next() % 40;
        let pick = |n: u32| {
            if n.is_multiple_of(11) { "[INST]".to_owned() } else { char::from_u32(n % 0x0011_0000).unwrap_or('\u{fffd}').to_string() }
        };
        odd.push((0..length).map(|_| pick(next())).collect());
    }
    let mut answered = 0;
    for words in &odd {
        for role in ["user", "system", "assistant"] {
            let body = serde_json::json!({ "model": "m", "messages": [{ "role": role, "content": words }] });
            let Ok(request) = ChatRequest::parse(body.to_string().into()) else { continue };
            let Ok(text) = prompt.render(request.view()) else { continue };
            let tokens = engine.model().tokenize(&text);
            if tokens.is_empty() || tokens.len() > 500 {
                continue;
            }
            let (_, failed) = answer(&engine, tokens, None, 2).await;
            assert_eq!(failed, None, "{words:?}");
            answered += 1;
        }
    }
    println!("{} prompts, {answered} answers", odd.len() * 3);
    assert!(answered > odd.len(), "{answered} of {}", odd.len() * 3);
}
