//! The supervised worker, as the gateway uses it: the real binary, the real model, signals sent to it.
//! Without a model (`SPECTRA_TEST_MODEL`, or one in `models/`) the tests say so and pass.

#![cfg(all(unix, feature = "llama"))]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use spectra_backends::llama::{Settings, Supervision, Supervisor, WorkerPhase};
use spectra_backends::{Ask, BackendError, ChatRequest, Chunk};
use tower::ServiceExt;

/// Generous: other tests run beside this one.
const PATIENCE: Duration = Duration::from_secs(120);

fn model() -> Option<PathBuf> {
    let named = std::env::var_os("SPECTRA_TEST_MODEL").map(PathBuf::from);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let in_folder =
        || std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "gguf"));
    let found = named.filter(|path| path.exists()).or_else(in_folder);
    if found.is_none() {
        println!("skipped: no model; set SPECTRA_TEST_MODEL or run `spectra model pull`");
    }
    found
}

fn supervision() -> Supervision {
    Supervision {
        program: Some(env!("CARGO_BIN_EXE_spectra").into()),
        heartbeat: Duration::from_secs(3),
        backoff: Duration::from_millis(20),
        alias: Some("local".into()),
        ..Supervision::default()
    }
}

fn settings(model: PathBuf) -> Settings {
    Settings { context_tokens: Some(1024), slots: Some(4), ..Settings::new(model) }
}

fn ask(body: &str) -> Ask {
    Ask {
        request: ChatRequest::parse(body.to_owned().into()).unwrap(),
        deadline: tokio::time::Instant::now() + PATIENCE,
        request_id: Arc::from("test"),
        traceparent: None,
    }
}

/// All chunks of an answer, or how it failed.
async fn collect(supervisor: &Supervisor, body: &str) -> Result<Vec<Chunk>, BackendError> {
    let reply = supervisor.backend().oneshot(ask(body)).await?;
    let chunks: Vec<_> = tokio::time::timeout(PATIENCE, reply.chunks.collect()).await.expect("an answer never hangs");
    chunks.into_iter().collect()
}

const HELLO: &str = r#"{"model":"x","messages":[{"role":"user","content":"Say hello."}],"max_tokens":8,"temperature":0}"#;
const STORY: &str = r#"{"model":"x","messages":[{"role":"user","content":"Tell me a very long story."}],"max_tokens":900,"logit_bias":{"2":-100,"0":-100},"stream":true}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_comes_back_after_every_death() {
    let Some(model) = model() else { return };
    let supervisor = Supervisor::start(settings(model), supervision()).unwrap();
    let early = supervisor.backend().oneshot(ask(HELLO)).await;
    assert!(matches!(early, Err(BackendError::Unavailable { .. })), "{early:?}");
    assert!(supervisor.ready(PATIENCE).await);
    let first = collect(&supervisor, HELLO).await.unwrap();
    let usage = first[0].view.usage.unwrap();
    assert_eq!((first.len(), usage.completion_tokens), (1, 8));

    for (signal, reason) in [(libc::SIGABRT, "abort"), (libc::SIGSTOP, "hung"), (libc::SIGKILL, "killed")] {
        let restarts = supervisor.state().restarts;
        let reply = supervisor.backend().oneshot(ask(STORY)).await.unwrap();
        let mut chunks = reply.chunks;
        assert!(chunks.next().await.unwrap().is_ok());
        let pid = supervisor.state().pid.unwrap();
        // SAFETY: sends a signal to a process we started and have not reaped.
        unsafe { libc::kill(pid.cast_signed(), signal) };
        let rest: Vec<_> = tokio::time::timeout(PATIENCE, chunks.collect()).await.expect("a request in flight ends");
        assert!(matches!(rest.last(), Some(Err(BackendError::Broken { .. }))), "{:?}", rest.last());
        let mut state = supervisor.watch();
        let back = state.wait_for(|state| state.restarts > restarts && state.phase == WorkerPhase::Ready);
        let exit = tokio::time::timeout(PATIENCE, back).await.unwrap().unwrap().last_exit.clone().unwrap();
        assert_eq!(exit.reason, reason, "{}", exit.words);
        assert_eq!(collect(&supervisor, HELLO).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_down_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF then nothing").unwrap();
    for (path, words) in [(folder.path().join("none.gguf"), "cannot be read"), (file, "cannot load")] {
        let supervisor = Supervisor::start(settings(path), supervision()).unwrap();
        let mut state = supervisor.watch();
        let down = state.wait_for(|state| state.phase == WorkerPhase::Down);
        let exit = tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap().last_exit.clone().unwrap();
        assert_eq!(exit.reason, "model");
        assert!(exit.words.contains(words), "{}", exit.words);
        assert!(matches!(supervisor.backend().oneshot(ask(HELLO)).await, Err(BackendError::Unavailable { .. })));
    }
}
