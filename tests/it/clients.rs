//! Programs on the official SDKs, in their own languages; made ready by `scripts/setup --tests`, skipped without.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use spectra_backends::Backend;
use spectra_backends::script::{Answer, from_fn};
use spectra_tests::harness::Spectra;

const SCRIPTED: &str = r#"
    [backends.small.script]
    answers = [{ text = "Hello from small." }]
    [backends.json.script]
    answers = [{ text = "" }]
    [backends.tool.script]
    answers = [{ text = "" }]
    [routes.local]
    ladder = ["small"]
    [routes.strong]
    ladder = ["small"]
"#;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Runs a client program against the gateway; its standard output, one `ok` a check. `None`: the client is not installed.
async fn run(program: &str, spectra: &Spectra, real: bool) -> Option<String> {
    let clients = root().join("tests/clients");
    let (command, file) = if program.ends_with(".py") {
        (root().join(".tools/venv/bin/python"), clients.join("python").join(program))
    } else {
        let own = root().join(".tools/bin/node");
        (if own.exists() { own } else { "node".into() }, clients.join("node").join(program))
    };
    let ready = if program.ends_with(".py") { command.exists() } else { clients.join("node/node_modules/ai").exists() };
    if !ready {
        println!("skipped: {program}: run scripts/setup --tests first");
        return None;
    }
    let child = tokio::process::Command::new(&command)
        .arg(&file)
        .env("SPECTRA_BASE_URL", spectra.base_url())
        .env("SPECTRA_REAL", if real { "1" } else { "0" })
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(240), child).await.expect("the client ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout).into_owned(), String::from_utf8_lossy(&ended.stderr).into_owned());
    assert!(ended.status.success(), "{program}: {}\n{out}\n{err}", ended.status);
    Some(out)
}

/// Says what a real model would have to be coaxed into: a tool call.
fn scripted_tool() -> Backend {
    from_fn("tool", |ask, _| {
        let call = |index: Option<u32>, arguments: &str| {
            let mut call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}});
            if let Some(index) = index {
                call["index"] = index.into();
            }
            call
        };
        let arguments = r#"{"city":"Lima"}"#;
        let choice = |delta: Value, finish: Value| {
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tool", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).to_string()
        };
        let usage = json!({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12});
        let chunks = if ask.request.view().stream {
            vec![
                choice(json!({"role": "assistant", "content": null, "tool_calls": [call(Some(0), "")]}), Value::Null),
                choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": &arguments[..7]}}]}), Value::Null),
                choice(json!({"tool_calls": [{"index": 0, "function": {"arguments": &arguments[7..]}}]}), Value::Null),
                choice(json!({}), json!("tool_calls")),
            ]
        } else {
            let message = json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [call(None, arguments)]});
            vec![json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tool", "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"}], "usage": usage}).to_string()]
        };
        Answer { chunks: Some(chunks), ..Answer::text("") }
    })
}

async fn check(program: &str, expected: usize) {
    let script = |name: &'static str, text: &'static str| (name, from_fn(name, move |_, _| Answer::text(text)));
    let backends =
        [script("small", "Hello from small."), script("json", r#"{"city": "Lima", "people": 10000000}"#), ("tool", scripted_tool())];
    let spectra = Spectra::on(SCRIPTED, backends).await.unwrap();
    if let Some(out) = run(program, &spectra, false).await {
        assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), expected, "{out}");
    }
}

#[tokio::test]
async fn sdk_openai_python_speaks_to_scripted_models() {
    check("openai_sdk.py", 8).await;
}

#[tokio::test]
async fn sdk_anthropic_python_speaks_to_scripted_models() {
    check("anthropic_sdk.py", 4).await;
}

#[tokio::test]
async fn sdk_anthropic_node_speaks_to_scripted_models() {
    check("anthropic_sdk.mjs", 3).await;
}

#[tokio::test]
async fn sdk_vercel_ai_speaks_to_scripted_models() {
    check("vercel_ai.mjs", 3).await;
}

#[tokio::test]
async fn sdk_openai_node_speaks_to_scripted_models() {
    check("openai_sdk.mjs", 5).await;
}

/// The starter model, where it is: `SPECTRA_TEST_MODEL`, or one in `models/`.
fn model() -> Option<PathBuf> {
    let named = std::env::var_os("SPECTRA_TEST_MODEL").map(PathBuf::from);
    let in_folder = || {
        std::fs::read_dir(root().join("models"))
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "gguf"))
    };
    named.filter(|path| path.exists()).or_else(in_folder)
}

#[tokio::test]
async fn sdk_clients_get_real_answers_from_the_real_local_model() {
    let binary = std::env::current_exe().unwrap().with_file_name("").join("../spectra");
    let (Some(model), true) = (model(), binary.exists()) else {
        println!("skipped: no model (SPECTRA_TEST_MODEL, or `spectra model pull starter`) or no binary (cargo build --workspace)");
        return;
    };
    let config = format!(
        r#"
        [backends.llama.llama]
        model = "{}"
        slots = 2
        # Greedy, so that every run is the same one.
        defaults = {{ temperature = 0.0, max_tokens = 64 }}
        [backends.llama.llama.worker]
        program = "{}"
        [routes.local]
        ladder = ["llama"]
        [routes.strong]
        ladder = ["llama"]
        "#,
        model.display(),
        binary.display()
    );
    let spectra = Spectra::start(&config).await.unwrap();
    let loaded = async {
        while spectra.admin("/readyz").await.unwrap().json().unwrap()["local"] != "ready" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), loaded).await.expect("the model loads");
    for (program, expected) in [("openai_sdk.py", 8), ("openai_sdk.mjs", 5)] {
        if let Some(out) = run(program, &spectra, true).await {
            assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), expected, "{out}");
        }
    }
}
