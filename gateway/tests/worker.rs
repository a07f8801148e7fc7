//! The supervised worker, as the gateway uses it: the real binary, signals sent to it, damaged files given to it.

#![cfg(all(unix, feature = "llama"))]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program: its helpers fail loudly")]

#[path = "../../backends/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures_util::StreamExt;
use futures_util::future::join_all;
use spectra_backends::chunk::Finish;
use spectra_backends::llama::{KvType, Settings, Supervision, Supervisor, WorkerPhase};
use spectra_backends::{Ask, BackendError, ChatRequest, Chunk, Endpoint, Forward};
use tokio::io::AsyncBufReadExt;
use tower::ServiceExt;

/// Generous: other tests run beside this one.
const PATIENCE: Duration = Duration::from_secs(120);

fn supervision() -> Supervision {
    Supervision {
        program: Some(env!("CARGO_BIN_EXE_spectra").into()),
        heartbeat: Duration::from_secs(3),
        backoff: Duration::from_millis(20),
        // Deaths here are ours, not a crash loop.
        backoff_max: Duration::from_millis(200),
        alias: Some("local".into()),
        ..Supervision::default()
    }
}

fn settings(model: PathBuf) -> Settings {
    Settings { context_tokens: Some(1024), slots: Some(4), threads: Some(1), ..Settings::new(model) }
}

/// A ready worker with the small random model.
async fn tiny() -> (Supervisor, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::start(settings(support::tiny_model(folder.path())), supervision()).unwrap();
    assert!(supervisor.ready(PATIENCE).await, "{:?}", supervisor.state());
    (supervisor, folder)
}

fn ask(body: &str) -> Ask {
    Ask {
        request: ChatRequest::parse(body.to_owned().into()).unwrap(),
        deadline: tokio::time::Instant::now() + PATIENCE,
        request_id: Arc::from("test"),
        traceparent: None,
        stops_loops: false,
    }
}

/// How far an answer of this form is held to it while it is written.
async fn enforced(supervisor: &Supervisor, format: &str) -> Option<String> {
    let body = format!(r#"{{"model":"x","messages":[{{"role":"user","content":"hi"}}],"max_tokens":4,"response_format":{format}}}"#);
    let reply = supervisor.backend().oneshot(ask(&body)).await.unwrap();
    reply.headers.get("x-spectra-enforced").map(|strength| strength.to_str().unwrap().to_owned())
}

/// All chunks of an answer, or how it failed.
async fn collect(supervisor: &Supervisor, body: &str) -> Result<Vec<Chunk>, BackendError> {
    let reply = supervisor.backend().oneshot(ask(body)).await?;
    let chunks: Vec<_> = tokio::time::timeout(PATIENCE, reply.chunks.collect()).await.expect("an answer never hangs");
    chunks.into_iter().collect()
}

const HELLO: &str =
    r#"{"model":"x","messages":[{"role":"user","content":"Say hello."}],"max_tokens":8,"temperature":0,"logit_bias":{"2":-100}}"#;
const STORY: &str =
    r#"{"model":"x","messages":[{"role":"user","content":"Tell me a story."}],"max_tokens":900,"logit_bias":{"2":-100},"stream":true}"#;

fn kill(supervisor: &Supervisor, signal: i32) {
    let pid = supervisor.state().pid.unwrap();
    // SAFETY: sends a signal to a process that the supervisor started and has not reaped.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_model_answers_unary_and_streamed() {
    let named = std::env::var_os("SPECTRA_TEST_MODEL").map(PathBuf::from);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let is_model = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "gguf");
    let in_folder = || std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find(is_model);
    let Some(model) = named.filter(|path| path.exists()).or_else(in_folder) else {
        println!("skipped: no model; set SPECTRA_TEST_MODEL or run `spectra model pull`");
        return;
    };
    let supervisor = Supervisor::start(settings(model.clone()), supervision()).unwrap();
    let early = supervisor.backend().oneshot(ask(HELLO)).await;
    assert!(matches!(early, Err(BackendError::Unavailable { .. })), "{early:?}");
    assert!(supervisor.ready(PATIENCE).await);
    let sum = r#"{"model":"x","messages":[{"role":"user","content":"What is 2+2?"}],"max_tokens":24,"temperature":0"#;
    let whole = collect(&supervisor, &format!("{sum}}}")).await.unwrap();
    let text = whole[0].view.choices[0].content.clone().unwrap();
    assert!(text.contains('4'), "{text}");
    let streamed = collect(&supervisor, &format!("{sum},\"stream\":true}}")).await.unwrap();
    let pieces: String = streamed.iter().flat_map(|chunk| &chunk.view.choices).filter_map(|choice| choice.content.as_deref()).collect();
    assert_eq!(pieces, text);
    assert_eq!(
        streamed.last().unwrap().view.usage,
        whole[0].view.usage.map(|usage| spectra_backends::chunk::Usage { cached_tokens: usage.prompt_tokens - 1, ..usage })
    );
    drop(supervisor);
    let halved = Settings { kv_type: KvType::Q8_0, flash_attention: Some(true), ..settings(model) };
    let supervisor = Supervisor::start(halved, supervision()).unwrap();
    assert!(supervisor.ready(PATIENCE).await);
    let whole = collect(&supervisor, &format!("{sum}}}")).await.unwrap();
    assert!(whole[0].view.choices[0].content.as_deref().is_some_and(|text| text.contains('4')), "{:?}", whole[0].view);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_back_after_every_death_under_load() {
    let (supervisor, _folder) = tiny().await;
    // Fifty in full; a few by default, since each takes about a second on a busy machine.
    let times: u64 = std::env::var("SPECTRA_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    for round in 0..times {
        let (signal, reason) =
            [(libc::SIGABRT, "abort"), (libc::SIGKILL, "killed"), (libc::SIGSTOP, "hung")][usize::try_from(round % 3).unwrap()];
        let restarts = supervisor.state().restarts;
        // Four are being answered, two wait for a slot.
        let load = (0..4).map(|_| async { supervisor.backend().oneshot(ask(STORY)).await });
        let mut streams: Vec<_> = join_all(load).await.into_iter().map(|reply| reply.unwrap().chunks).collect();
        let queued = [0, 1].map(|_| tokio::spawn(supervisor.backend().oneshot(ask(STORY))));
        assert!(streams[0].next().await.unwrap().is_ok());
        kill(&supervisor, signal);
        for waiting in queued {
            let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("a request in the queue ends").unwrap();
            assert!(matches!(ended, Err(BackendError::Broken { .. } | BackendError::Unavailable { .. })), "{ended:?}");
        }
        for stream in streams {
            let chunks: Vec<_> = tokio::time::timeout(PATIENCE, stream.collect()).await.expect("a request in flight ends");
            let finished = chunks.iter().flatten().flat_map(|chunk| &chunk.view.choices).any(|choice| choice.finish.is_some());
            assert!(finished || matches!(chunks.last(), Some(Err(BackendError::Broken { .. }))), "{:?}", chunks.last());
        }
        let mut state = supervisor.watch();
        let back = state.wait_for(|state| state.restarts > restarts && state.phase == WorkerPhase::Ready);
        let exit = tokio::time::timeout(PATIENCE, back).await.unwrap().unwrap().last_exit.clone().unwrap();
        assert_eq!(exit.reason, reason, "{}", exit.words);
        assert_eq!(collect(&supervisor, HELLO).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_stops_the_decode() {
    let (supervisor, _folder) = tiny().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(supervisor.backend().oneshot(ask(STORY)).await.unwrap().chunks);
    }
    drop(streams);
    let mut state = supervisor.watch();
    let free = state.wait_for(|state| {
        state
            .health
            .as_ref()
            .is_some_and(|health| health.stats.requests_total == 4 && health.stats.slots_busy == 0 && health.stats.waiting == 0)
    });
    let health = tokio::time::timeout(PATIENCE, free).await.unwrap().unwrap().health.clone().unwrap();
    assert!(health.stats.generated_tokens_total < 4 * 900, "{health:?}");
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_down_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF then nothing").unwrap();
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, b"<html>").unwrap();
    for (path, words) in [(folder.path().join("none.gguf"), "cannot be read"), (file, "not a GGUF"), (text, "not a GGUF")] {
        let supervisor = Supervisor::start(settings(path), supervision()).unwrap();
        let mut state = supervisor.watch();
        let down = state.wait_for(|state| state.phase == WorkerPhase::Down);
        let exit = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().last_exit.clone().unwrap();
        assert_eq!(exit.reason, "model");
        assert!(exit.words.contains(words), "{}", exit.words);
        assert!(matches!(supervisor.backend().oneshot(ask(HELLO)).await, Err(BackendError::Unavailable { .. })));
    }
}

/// A damaged file ends in words and an exit code, loads and answers, or at worst takes only its worker down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_models_are_contained() {
    let whole = support::tiny_bytes();
    let folder = tempfile::tempdir().unwrap();
    let mut counts = [0; 3];
    for round in 0..24_usize {
        let mut bytes = whole.clone();
        if round % 3 == 0 {
            bytes.truncate(whole.len() * (round + 1) / 25);
        } else {
            // The header and the vocabulary are the first part of the file; that is where damage is read as sizes.
            let at = (round * 7919 * 31) % if round % 3 == 1 { 12_000 } else { bytes.len() };
            bytes[at] ^= 1 << (round % 8);
        }
        let path = folder.path().join(format!("{round}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let supervision = Supervision { backoff: PATIENCE, ..supervision() };
        let supervisor = Supervisor::start(settings(path), supervision).unwrap();
        let mut state = supervisor.watch();
        let settled = state.wait_for(|state| state.phase != WorkerPhase::Loading);
        let state = tokio::time::timeout(PATIENCE, settled).await.unwrap().unwrap().clone();
        let outcome = match &state.last_exit {
            None => match collect(&supervisor, HELLO).await {
                Ok(_) | Err(BackendError::Upstream { .. } | BackendError::Broken { .. } | BackendError::Unavailable { .. }) => 0,
                Err(error) => panic!("{round}: {error}"),
            },
            Some(exit) if matches!(exit.reason, "model" | "memory" | "exit") => 1,
            Some(_) => 2,
        };
        counts[outcome] += 1;
    }
    println!("served {}, refused {}, crashed in the worker {}", counts[0], counts[1], counts[2]);
    assert!(counts[1] >= 8, "every truncated file is refused: {counts:?}");
}

/// A whole answer that says the same on and on ends where a stream of it would be given up, if the one who asks wants it so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_without_end_is_cut_short() {
    // It is left with one word, long enough for two thousand of them to be a loop.
    let controls = ["<unk>", "<s>", "</s>"].map(|control| (control.to_owned(), 0.0, 3));
    let bytes = (0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
    let words: Vec<support::Word> =
        controls.into_iter().chain(bytes).chain([("on and on and so ".replace(' ', "\u{2581}"), 1.0, 1)]).collect();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("one-word.gguf");
    std::fs::write(&model, support::model_bytes(&words, "{{ messages[0]['content'] }}", false)).unwrap();
    let settings = Settings { context_tokens: Some(support::CONTEXT), slots: Some(1), ..settings(model) };
    let supervisor = Supervisor::start(settings, supervision()).unwrap();
    assert!(supervisor.ready(PATIENCE).await, "{:?}", supervisor.state());
    let word = words.len() - 1;
    let body = format!(
        r#"{{"model":"x","messages":[{{"role":"user","content":"hi"}}],"max_tokens":1900,"temperature":0,"logit_bias":{{"{word}":100}}}}"#
    );
    let mut asked = ask(&body);
    asked.stops_loops = true;
    let reply = supervisor.backend().oneshot(asked).await.unwrap();
    let chunks: Vec<_> = tokio::time::timeout(PATIENCE, reply.chunks.collect()).await.unwrap();
    let view = &chunks[0].as_ref().unwrap().view;
    let said = view.choices[0].content.as_deref().unwrap().len();
    assert!((8192..12_000).contains(&said), "{said} bytes of 32,300");
    assert_eq!(view.choices[0].finish, Some(Finish::Length));
    assert!(view.usage.unwrap().completion_tokens < 1000);
}

/// What the wire promises, one request a line: body, then what a view of the answer must show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_become_what_they_ask_for() {
    let (supervisor, _folder) = tiny().await;
    let with =
        |more: &str| format!(r#"{{"model":"x","messages":[{{"role":"user","content":"hi"}}],"max_tokens":60,"temperature":0{more}}}"#);
    let whole = |chunks: Vec<Chunk>| chunks.into_iter().next().unwrap().view;

    let view = whole(collect(&supervisor, &with(r#","n":3,"seed":5,"logit_bias":{"2":-100}"#)).await.unwrap());
    assert_eq!(view.choices.len(), 3);
    assert_eq!(view.usage.unwrap().completion_tokens, 180, "summed over the choices");

    let view = whole(collect(&supervisor, &with(r#","logprobs":true,"top_logprobs":2,"logit_bias":{"2":-100}"#)).await.unwrap());
    assert_eq!(view.choices[0].logprobs.len(), 60);

    let schema = r#"{"type":"object","properties":{"ok":{"type":"boolean"},"n":{"type":"integer","minimum":0,"maximum":9}},"required":["ok","n"],"additionalProperties":false}"#;
    let view = whole(
        collect(
            &supervisor,
            &with(&format!(r#","response_format":{{"type":"json_schema","json_schema":{{"name":"s","schema":{schema}}}}}"#)),
        )
        .await
        .unwrap(),
    );
    let value: serde_json::Value = serde_json::from_str(view.choices[0].content.as_deref().unwrap()).unwrap();
    assert!(value["ok"].is_boolean() && value["n"].is_u64(), "{value}");

    let format = |schema: &str| format!(r#"{{"type":"json_schema","json_schema":{{"name":"s","schema":{schema}}}}}"#);
    assert_eq!(enforced(&supervisor, &format(schema)).await.as_deref(), Some("strict"));
    let in_part = r#"{"type":"array","items":{"type":"integer"},"uniqueItems":true}"#;
    assert_eq!(enforced(&supervisor, &format(in_part)).await.as_deref(), Some("lenient"));
    assert_eq!(enforced(&supervisor, r#"{"type":"text"}"#).await, None);

    let tools = format!(
        r#","tools":[{{"type":"function","function":{{"name":"set","parameters":{schema}}}}}],"tool_choice":"required","parallel_tool_calls":false"#
    );
    let chunks = collect(&supervisor, &with(&format!("{tools},\"stream\":true"))).await.unwrap();
    let deltas: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.view.choices).flat_map(|choice| &choice.tool_calls).collect();
    assert_eq!(deltas[0].name.as_deref(), Some("set"));
    assert!(deltas[0].id.is_some() && deltas[1..].iter().all(|delta| delta.id.is_none()));
    let arguments: String = deltas.iter().filter_map(|delta| delta.arguments.as_deref()).collect();
    assert!(serde_json::from_str::<serde_json::Value>(&arguments).unwrap()["ok"].is_boolean(), "{arguments}");
    let finish = chunks.iter().flat_map(|chunk| &chunk.view.choices).find_map(|choice| choice.finish.clone());
    assert_eq!(finish, Some(Finish::ToolCalls));

    for (more, status, code) in [
        (r#","max_completion_tokens":60,"n":17"#, 400, "invalid_value"),
        (
            r#","response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{"$ref":"https://example.com/x"}}}"#,
            501,
            "constraint_unsupported",
        ),
        (
            r#","tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"g"}}"#,
            400,
            "invalid_value",
        ),
    ] {
        match collect(&supervisor, &with(more)).await {
            Err(BackendError::Upstream { status: got, body, .. }) => {
                let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!((got, error["error"]["code"].as_str()), (status, Some(code)), "{more}: {error}");
                assert_eq!(error["error"].as_object().unwrap().len(), 4);
            }
            other => panic!("{more}: {other:?}"),
        }
    }
    let long = format!(r#"{{"model":"x","messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(1200));
    match collect(&supervisor, &long).await {
        Err(BackendError::Upstream { status: 400, body, .. }) => {
            assert!(String::from_utf8_lossy(&body).contains("context_length_exceeded"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_there_while_somebody_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let lazy = Supervision { on_demand: true, idle_unload: Some(Duration::from_millis(200)), ..supervision() };
    let supervisor = Supervisor::start(settings(support::tiny_model(folder.path())), lazy).unwrap();
    for round in 1..=2 {
        let state = supervisor.state();
        assert_eq!((state.phase, state.pid), (WorkerPhase::Unloaded, None), "{round}");
        // Who comes while it loads waits for it, and whoever is still being answered keeps it.
        let (one, other) = tokio::join!(collect(&supervisor, HELLO), collect(&supervisor, STORY));
        assert_eq!(one.unwrap().len(), 1);
        assert!(other.unwrap().len() > 100);
        let mut state = supervisor.watch();
        let unloaded = state.wait_for(|state| state.exits.get("idle") == Some(&round));
        let state = tokio::time::timeout(PATIENCE, unloaded).await.unwrap().unwrap().clone();
        assert_eq!((state.phase, state.restarts, state.past_tokens[1]), (WorkerPhase::Unloaded, 0, round * 908), "{state:?}");
    }
}

/// The log of this process, as it would be written.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(move || writer.clone()).init();
        log
    }

    /// Waits for a line of a worker with this level and beginning, and returns the rest of it.
    async fn line(&self, level: &str, begin: &str) -> String {
        let marked = format!("{level} spectra::worker: {begin}");
        let found = async {
            loop {
                let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
                if let Some(rest) = text.lines().find_map(|line| Some(line.split_once(&marked)?.1.to_owned())) {
                    return rest;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let text = || String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {marked} in\n{}", text()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_says_is_logged_at_its_level() {
    let log = Log::start();
    let (_supervisor, folder) = tiny().await;
    let ready = log.line("INFO", "engine ready").await;
    assert!(ready.contains("context_tokens=1024") && ready.contains("slots=4") && ready.contains("threads=1"), "{ready}");
    log.line("DEBUG", "llama.cpp: llama_model_loader: loaded meta data").await;
    log.line("WARN", "llama.cpp: ").await;

    // Its header is well; that its weights are not all there is for llama.cpp to find.
    let cut = folder.path().join("cut.gguf");
    let whole = support::tiny_bytes();
    std::fs::write(&cut, &whole[..whole.len() - 1000]).unwrap();
    let supervisor = Supervisor::start(settings(cut), supervision()).unwrap();
    let mut state = supervisor.watch();
    let down = state.wait_for(|state| state.phase == WorkerPhase::Down);
    let exit = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().last_exit.clone().unwrap();
    assert_eq!(exit.reason, "model");
    let why = log.line("ERROR", "llama.cpp: ").await;
    assert!(exit.words.contains(&why) && why.contains("file bounds"), "{why}; {}", exit.words);
}

/// `spectra engine` started by hand, as on a GPU box: how it is, how full, how fast.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_alone_tells_its_health_its_load_and_its_rate() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let mut engine = tokio::process::Command::new(env!("CARGO_BIN_EXE_spectra"))
        .args(["engine", "--listen", "127.0.0.1:0", "--threads", "1", "--slots", "2", "--context-tokens", "1024", "--model"])
        .arg(support::tiny_model(folder.path()))
        .env_remove("SPECTRA_LOG")
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = tokio::io::BufReader::new(engine.stderr.take().unwrap()).lines();
    let url = loop {
        let line = log.next_line().await.unwrap().expect("it says where it listens");
        if let Some((_, address)) = line.split_once("engine listening address=") {
            break format!("http://{address}");
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    let client = reqwest::Client::new();
    let get = async |path: &str| {
        let answer = client.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("spectra_engine_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    };
    let watched = async {
        while get("/health").await.0 != 200 {}
        let mut most = [0.0_f64; 4];
        let load = (0..3).map(|_| {
            let ask = client.post(format!("{url}/v1/chat/completions")).body(STORY);
            tokio::spawn(async move { while ask.try_clone().unwrap().send().await.unwrap().bytes().await.is_ok() {} })
        });
        let load: Vec<_> = load.collect();
        while most.contains(&0.0) {
            let text = get("/metrics").await.1;
            for (most, name) in most.iter_mut().zip(["slots_busy", "queue", "kv_tokens", "tokens_per_second"]) {
                *most = most.max(value(&text, name));
            }
        }
        load.iter().for_each(tokio::task::JoinHandle::abort);
        loop {
            let text = get("/metrics").await.1;
            if ["slots_busy", "queue", "kv_tokens", "tokens_per_second"].iter().all(|name| value(&text, name) == 0.0) {
                return text;
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, watched).await.expect("it works, tells it, and comes to rest");
    assert_eq!((value(&text, "slots"), value(&text, "gpu_layers"), value(&text, "failed_total")), (2.0, 0.0, 0.0));
    assert!(value(&text, "kv_capacity_tokens") >= 2048.0 && value(&text, "memory_bytes") > 1e6);
    assert!(value(&text, "generated_tokens_total") > 100.0 && value(&text, "decode_seconds_total") > 0.0);
}

async fn embed(supervisor: &Supervisor, body: &str) -> Result<serde_json::Value, BackendError> {
    let forward = Forward {
        endpoint: Endpoint::Embeddings,
        body: body.to_owned().into(),
        stream: false,
        deadline: tokio::time::Instant::now() + PATIENCE,
        request_id: Arc::from("test"),
        traceparent: None,
    };
    let mut body = supervisor.forwarder().oneshot(forward).await?.body;
    let mut all = Vec::new();
    while let Some(bytes) = body.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(serde_json::from_slice(&all).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_become_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { embeddings: true, context_tokens: Some(256), threads: Some(1), ..Settings::new(support::tiny_model(folder.path())) };
    let supervisor = Supervisor::start(settings, supervision()).unwrap();
    assert!(supervisor.ready(PATIENCE).await, "{:?}", supervisor.state());
    let vector =
        |value: &serde_json::Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect() };
    let dot = |one: &[f64], other: &[f64]| -> f64 { one.iter().zip(other).map(|(a, b)| a * b).sum() };

    let one = embed(&supervisor, r#"{"model":"x","input":"hello world"}"#).await.unwrap();
    let alone = vector(&one["data"][0]["embedding"]);
    assert_eq!((alone.len(), one["model"].as_str(), one["object"].as_str()), (64, Some("local"), Some("list")));
    assert!((dot(&alone, &alone) - 1.0).abs() < 1e-5);
    assert!(one["usage"]["prompt_tokens"].as_u64().unwrap() > 5 && one["usage"]["total_tokens"] == one["usage"]["prompt_tokens"]);

    // Beside others, and over more than one step, a text has the vector it has alone.
    let many: Vec<String> =
        (0..90).map(|at| if at % 9 == 0 { "hello world".into() } else { format!("text number {at}, {}", "x".repeat(at)) }).collect();
    let body = serde_json::json!({ "model": "x", "input": many, "encoding_format": "base64" }).to_string();
    let together = embed(&supervisor, &body).await.unwrap();
    let data = together["data"].as_array().unwrap();
    assert_eq!(data.len(), 90);
    for (at, item) in data.iter().enumerate() {
        let bytes = base64::prelude::BASE64_STANDARD.decode(item["embedding"].as_str().unwrap()).unwrap();
        let floats: Vec<f64> = bytes.chunks(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap()))).collect();
        assert_eq!((item["index"].as_u64(), floats.len()), (Some(at as u64), 64));
        assert_eq!(at % 9 == 0, dot(&alone, &floats) > 0.999, "{at}: {}", dot(&alone, &floats));
    }
    let tokens = embed(&supervisor, r#"{"model":"x","input":[[1,20,21],[1,20,22]],"dimensions":64}"#).await.unwrap();
    assert_eq!((tokens["data"].as_array().unwrap().len(), tokens["usage"]["prompt_tokens"].as_u64()), (2, Some(6)));

    for (body, words) in [
        (r#"{"model":"x","input":"a","dimensions":32}"#.to_owned(), "64 numbers"),
        (r#"{"model":"x","input":""}"#.to_owned(), ""),
        (r#"{"model":"x","input":[]}"#.to_owned(), "empty"),
        (r#"{"model":"x","input":[1,-5]}"#.to_owned(), "token -5"),
        (r#"{"model":"x","input":{"a":1}}"#.to_owned(), "not an embeddings request"),
        (format!(r#"{{"model":"x","input":"{}"}}"#, "a".repeat(2000)), "context length"),
    ] {
        match embed(&supervisor, &body).await {
            Err(BackendError::Upstream { status: 400, body, .. }) => assert!(String::from_utf8_lossy(&body).contains(words), "{body:?}"),
            // A text without letters is one token where the model puts one around every text.
            Ok(_) if words.is_empty() => {}
            other => panic!("{body}: {other:?}"),
        }
    }
    let chat = collect(&supervisor, HELLO).await;
    assert!(matches!(chat, Err(BackendError::Upstream { status: 501, .. })), "{chat:?}");
    let (chats, _folder) = tiny().await;
    let refused = embed(&chats, r#"{"model":"x","input":"a"}"#).await;
    assert!(matches!(refused, Err(BackendError::Upstream { status: 501, .. })), "{refused:?}");
}
