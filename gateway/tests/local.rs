//! A local model behind the whole gateway: its worker dies under load and takes nobody's answer along, stays through a reload,
//! and embeds.

#![cfg(all(target_os = "linux", feature = "llama"))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: its helpers fail loudly")]

#[path = "../../backends/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use spectra_backends::llama::WorkerPhase;
use spectra_config::Config;
use spectra_gateway::{Gateway, Listeners, Live, Server};

const PATIENCE: Duration = Duration::from_secs(120);
/// A worker's end may keep its model out of service for so long.
const BACK: Duration = Duration::from_secs(10);

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
        worker = {{ program = {program:?}, heartbeat_ms = 3000, backoff_ms = 20, backoff_max_ms = 200 }}
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

/// Callers of the local model, each of whom must be answered, whoever answers.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    by_local: AtomicU32,
    by_hosted: AtomicU32,
    /// Answers that had begun and ended in an error, and requests to the local model alone that were refused.
    broken: AtomicU32,
    /// Pieces of streamed answers.
    pieces: AtomicU32,
}

/// How a caller asks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    Unary,
    Streams,
    /// For the local model and no other one.
    Insists,
}

impl Load {
    /// Six callers of all kinds until `stop`.
    fn start(client: &reqwest::Client, url: &str) -> (Arc<Self>, Vec<tokio::task::JoinHandle<()>>) {
        let load = Arc::new(Self::default());
        let callers = [Caller::Unary, Caller::Streams, Caller::Insists, Caller::Unary, Caller::Streams, Caller::Streams];
        let tasks = callers.map(|caller| tokio::spawn(load.clone().run(caller, client.clone(), url.to_owned())));
        (load, tasks.into())
    }

    async fn run(self: Arc<Self>, caller: Caller, client: reqwest::Client, url: String) {
        while !self.stop.load(Relaxed) {
            match tokio::time::timeout(PATIENCE, self.once(caller, &client, &url)).await {
                Ok(counter) => counter.fetch_add(1, Relaxed),
                Err(_) => panic!("a request hung: {caller:?}"),
            };
            // Who is refused at once comes again a moment later.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn once(&self, caller: Caller, client: &reqwest::Client, url: &str) -> &AtomicU32 {
        let model = if caller == Caller::Insists { "llama" } else { "local" };
        let mut answer = client.post(url).body(question(model, 1, caller == Caller::Streams)).send().await.unwrap();
        let status = answer.status().as_u16();
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.unwrap() {
            self.pieces.fetch_add(1, Relaxed);
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text).unwrap();
        match caller {
            Caller::Unary => assert_eq!(status, 200, "{text}"),
            Caller::Insists if status != 200 => {
                let error: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert!((500..504).contains(&status) && error["error"]["message"].is_string(), "{status} {text}");
                return &self.broken;
            }
            Caller::Insists => {}
            Caller::Streams => {
                let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
                let is_error = last.starts_with("data: {\"error\"");
                assert!(status == 200 && (last == "data: [DONE]" || is_error), "{status} {last}");
                if is_error {
                    return &self.broken;
                }
            }
        }
        if text.contains("from the hosted model") { &self.by_hosted } else { &self.by_local }
    }
}

/// Token 2 ends an answer: without it the random model goes on to its limit.
fn question(model: &str, choices: u32, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","n":{choices},"stream":{stream},"max_tokens":900,"logit_bias":{{"2":-100}},"messages":[{{"role":"user","content":"Tell me a story."}}]}}"#
    )
}

async fn ask(client: &reqwest::Client, url: &str, model: &str, choices: u32) -> (u16, String) {
    let answer = client.post(url).body(question(model, choices, false)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn json_client() -> reqwest::Client {
    let kind = [(reqwest::header::CONTENT_TYPE, "application/json".parse().unwrap())];
    reqwest::Client::builder().default_headers(kind.into_iter().collect()).build().unwrap()
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

/// Signals at moments of a dice's choosing; fifty with `SPECTRA_TEST_KILLS=50`, one of each kind by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b31_an_aborted_engine_worker_takes_nothing_down() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let gateway = Arc::new(Gateway::build(config(&support::tiny_model(folder.path())), None).unwrap());
    let listeners = Listeners::bind(&gateway).await.unwrap();
    let url = format!("http://{}/v1/chat/completions", listeners.main.local_addr().unwrap());
    let server = tokio::spawn(Server::new(Live::fixed(gateway.clone()), listeners).run(std::future::pending()));
    let client = json_client();
    let ready = || gateway.worker("llama").is_some_and(|state| state.phase == WorkerPhase::Ready);
    let kills: u32 = std::env::var("SPECTRA_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    until("the worker", ready).await;
    let (load, callers) = Load::start(&client, &url);
    let (mut dice, mut back) = (17_u32, Vec::new());
    for kill in 0..kills {
        let signal = [libc::SIGABRT, libc::SIGSTOP, libc::SIGKILL][kill as usize % 3];
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (pieces, answered) = (load.pieces.load(Relaxed) + dice % 997, load.by_local.load(Relaxed));
        until("a moment of the load", || load.pieces.load(Relaxed) >= pieces && load.by_local.load(Relaxed) > answered).await;
        let (restarts, hosted) = (gateway.worker("llama").unwrap().restarts, load.by_hosted.load(Relaxed));
        // SAFETY: sends a signal to this process's own child.
        unsafe { libc::kill(worker_pid(), signal) };
        let began = Instant::now();
        let strong = join_all((0..20).map(|_| ask(&client, &url, "strong", 1))).await;
        assert!(strong.iter().all(|(status, _)| *status == 200), "kill {kill}: {strong:?}");
        until("the worker's return", || ready() && gateway.worker("llama").is_some_and(|state| state.restarts > restarts)).await;
        let answered = load.by_local.load(Relaxed);
        until("a local answer", || load.by_local.load(Relaxed) > answered).await;
        back.push(began.elapsed());
        assert!(began.elapsed() <= BACK, "kill {kill} by signal {signal}: back after {:?}", began.elapsed());
        assert!(load.by_hosted.load(Relaxed) > hosted, "kill {kill}: nobody was answered by the next rung");
    }
    load.stop.store(true, Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    back.sort();
    let count = |counter: &AtomicU32| counter.load(Relaxed);
    println!(
        "{kills} kills; back in service after {:?} at the median, {:?} at most; {} answers by the local model, {} by the next one, {} clean errors",
        back[back.len() / 2],
        back[back.len() - 1],
        count(&load.by_local),
        count(&load.by_hosted),
        count(&load.broken)
    );
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
    let long = tokio::spawn(async move { ask(&json_client(), &url, "local", 8).await });
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

/// `/v1/embeddings` by backend, by route and by alias: to the model that embeds, and never to the one that chats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b32_texts_become_vectors_of_the_local_model() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let more = format!(
        r#"
        [backends.vectors]
        context_tokens = 256
        [backends.vectors.llama]
        model = {model:?}
        embeddings = true
        threads = 1
        worker = {{ program = {program:?} }}
        [routes.mixed]
        ladder = ["llama", "vectors"]
        [aliases]
        "text-embedding-3-small" = "vectors"
        "#,
        model = support::tiny_model(folder.path()),
        program = env!("CARGO_BIN_EXE_spectra"),
    );
    let text = text(&folder.path().join("tiny.gguf")) + &more;
    let config = Config::parse(&text, "test.toml", &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let gateway = Arc::new(Gateway::build(config, None).unwrap());
    let listeners = Listeners::bind(&gateway).await.unwrap();
    let url = format!("http://{}/v1", listeners.main.local_addr().unwrap());
    let server = tokio::spawn(Server::new(Live::fixed(gateway.clone()), listeners).run(std::future::pending()));
    for name in ["llama", "vectors"] {
        until(name, || gateway.worker(name).is_some_and(|state| state.phase == WorkerPhase::Ready)).await;
    }
    let client = json_client();
    let send = async |path: &str, body: &str| {
        let answer = client.post(format!("{url}{path}")).body(body.to_owned()).send().await.unwrap();
        let model = answer.headers().get("x-spectra-model").map(|name| name.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        (status, model, serde_json::from_str::<serde_json::Value>(&answer.text().await.unwrap()).unwrap())
    };
    for model in ["vectors", "mixed", "text-embedding-3-small"] {
        let (status, by, answer) = send("/embeddings", &format!(r#"{{"model":"{model}","input":["hello","hello","goodbye"]}}"#)).await;
        assert_eq!((status, by.as_deref(), answer["data"].as_array().map(Vec::len)), (200, Some("vectors"), Some(3)), "{model}: {answer}");
        let vector = |at: usize| -> Vec<f64> {
            answer["data"][at]["embedding"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let dot = |a: usize, b: usize| -> f64 { vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum() };
        assert!((dot(0, 0) - 1.0).abs() < 1e-5 && (dot(0, 1) - 1.0).abs() < 1e-5 && dot(0, 2) < 0.999, "{answer}");
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 3, "{answer}");
    }
    let (_, _, packed) = send("/embeddings", r#"{"model":"vectors","input":"hello","encoding_format":"base64"}"#).await;
    assert!(packed["data"][0]["embedding"].is_string(), "{packed}");
    // 64 numbers; a text longer than the context; models that cannot.
    for (path, body, expected) in [
        ("/embeddings", r#"{"model":"vectors","input":"a","dimensions":32}"#.to_owned(), 400),
        ("/embeddings", format!(r#"{{"model":"vectors","input":"{}"}}"#, "a".repeat(2000)), 400),
        ("/embeddings", r#"{"model":"llama","input":"a"}"#.to_owned(), 400),
        ("/embeddings", r#"{"model":"strong","input":"a"}"#.to_owned(), 400),
        ("/chat/completions", question("vectors", 1, false), 400),
    ] {
        let (status, _, answer) = send(path, &body).await;
        assert!(status == expected && answer["error"]["message"].is_string(), "{body}: {status} {answer}");
    }
    server.abort();
}
