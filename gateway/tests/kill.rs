//! Invariant 10 through the whole gateway: a worker that aborts under load takes nobody's answer along.

#![cfg(all(target_os = "linux", feature = "llama"))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: its helpers fail loudly")]

#[path = "../../backends/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use spectra_backends::llama::WorkerPhase;
use spectra_config::Config;
use spectra_gateway::{Gateway, Listeners, Live, Server};

const PATIENCE: Duration = Duration::from_secs(120);

fn config(model: &std::path::Path) -> Config {
    Config::parse(&text(model), "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

fn text(model: &std::path::Path) -> String {
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        [admin]
        listen = "127.0.0.1:0"
        [accounting]
        ledger = ""
        [verify]
        enabled = false
        [backends.llama]
        context_tokens = 1024
        [backends.llama.llama]
        model = {model:?}
        slots = 4
        threads = 1
        worker = {{ program = {program:?}, backoff_ms = 20 }}
        [backends.hosted.script]
        answers = [{{ text = "from the hosted model" }}]
        [routes.local]
        ladder = ["llama", "hosted"]
        [routes.strong]
        ladder = ["hosted"]
        "#,
        program = env!("CARGO_BIN_EXE_spectra"),
    )
}

/// The worker: this process's only child.
fn worker_pid() -> i32 {
    let of_task = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let children: String = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(of_task).collect();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

/// Callers of the local model who all must be answered, whoever answers.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    by_local: AtomicU32,
    by_hosted: AtomicU32,
}

impl Load {
    async fn run(self: Arc<Self>, client: reqwest::Client, url: String) {
        while !self.stop.load(Relaxed) {
            let (status, text) = ask(&client, &url, "local", 1).await;
            assert_eq!(status, 200, "{text}");
            let answered = if text.contains("from the hosted model") { &self.by_hosted } else { &self.by_local };
            answered.fetch_add(1, Relaxed);
        }
    }
}

async fn ask(client: &reqwest::Client, url: &str, model: &str, choices: u32) -> (u16, String) {
    // Token 2 ends an answer: without it the random model goes on to its limit.
    let body = format!(
        r#"{{"model":"{model}","n":{choices},"max_tokens":900,"logit_bias":{{"2":-100}},"messages":[{{"role":"user","content":"Tell me a story."}}]}}"#
    );
    let answer = client.post(url).header("content-type", "application/json").body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until `done`, looking again whenever other tasks have run.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b31_an_aborted_engine_worker_takes_nothing_down() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let gateway = Arc::new(Gateway::build(config(&support::tiny_model(folder.path())), None).unwrap());
    let listeners = Listeners::bind(&gateway).await.unwrap();
    let url = format!("http://{}/v1/chat/completions", listeners.main.local_addr().unwrap());
    let server = tokio::spawn(Server::new(Live::fixed(gateway.clone()), listeners).run(std::future::pending()));
    let client = reqwest::Client::new();
    let ready = || gateway.worker("llama").is_some_and(|state| state.phase == WorkerPhase::Ready);

    for round in 0..3 {
        until("the worker", ready).await;
        let restarts = gateway.worker("llama").unwrap().restarts;
        let load = Arc::new(Load::default());
        let local: Vec<_> = (0..4).map(|_| tokio::spawn(load.clone().run(client.clone(), url.clone()))).collect();
        until("local answers", || load.by_local.load(Relaxed) >= 4).await;
        // SAFETY: sends a signal to this process's own child.
        unsafe { libc::kill(worker_pid(), libc::SIGABRT) };
        let hosted = join_all((0..20).map(|_| ask(&client, &url, "strong", 1))).await;
        assert!(hosted.iter().all(|(status, _)| *status == 200), "round {round}: {hosted:?}");
        until("the worker's return", || gateway.worker("llama").is_some_and(|state| state.restarts > restarts)).await;
        load.stop.store(true, Relaxed);
        for task in local {
            task.await.unwrap();
        }
        assert!(load.by_hosted.load(Relaxed) >= 1, "round {round}: nobody was answered by the next rung");
    }
    until("the worker", ready).await;
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b38_a_reload_leaves_an_engine_worker_alone_whose_section_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let first = text(&support::tiny_model(folder.path()));
    let file = Arc::new(std::sync::Mutex::new(first.clone()));
    let read = {
        let file = file.clone();
        move || Ok(Config::parse(&file.lock().unwrap(), "test.toml", &|_| None)?)
    };
    drop(rustls::crypto::ring::default_provider().install_default());
    let live = Arc::new(Live::new(Arc::new(Gateway::build(read().unwrap(), None).unwrap()), Box::new(read)));
    let listeners = Listeners::bind(&live.current()).await.unwrap();
    let url = format!("http://{}/v1/chat/completions", listeners.main.local_addr().unwrap());
    let server = tokio::spawn(Server::new(live.clone(), listeners).run(std::future::pending()));
    let state = || live.current().worker("llama");
    let ready = || state().is_some_and(|state| state.phase == WorkerPhase::Ready);
    let reload = |text: String| {
        *file.lock().unwrap() = text;
        tokio::task::block_in_place(|| live.reload()).map(drop)
    };
    let runs = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();

    until("the worker", ready).await;
    let worker = state().unwrap().pid.unwrap();
    for same in [
        first.clone() + "\n[aliases]\n\"gpt-4o\" = \"auto\"\n",
        // The section differs, but in nothing that the worker was started with.
        first.replace("context_tokens = 1024", "context_tokens = 1024\nprice = { input = 1.0, output = 1.0 }\nvision = true"),
    ] {
        reload(same).unwrap();
        assert_eq!((ready(), state().unwrap().pid), (true, Some(worker)));
    }
    assert!(reload("[backends".to_owned()).is_err());
    assert_eq!((ready(), state().unwrap().pid), (true, Some(worker)), "a rejected config stops nothing");

    // Eight choices on four slots: long enough to be seen by a heartbeat, also on a fast machine.
    let long = tokio::spawn(async move { ask(&reqwest::Client::new(), &url, "local", 8).await });
    until("a busy slot", || state().is_some_and(|state| state.health.is_some_and(|health| health.stats.slots_busy > 0))).await;
    reload(first.replace("slots = 4", "slots = 2")).unwrap();
    until("another worker", ready).await;
    let other = state().unwrap().pid.unwrap();
    assert_ne!(other, worker);
    let (status, answer) = long.await.unwrap();
    assert!(status == 200 && !answer.contains("from the hosted model"), "an answer in flight was taken from its worker: {answer}");
    until("the first worker's end", || !runs(worker)).await;

    let at = |section: &str| first.find(section).unwrap();
    let without = first[..at("[backends.llama]")].to_owned() + &first[at("[backends.hosted")..].replace("\"llama\", ", "");
    reload(without).unwrap();
    assert!(state().is_none());
    until("the second worker's end", || !runs(other)).await;
    server.abort();
}
