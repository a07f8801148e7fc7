//! The binary as a process: read its config again at a signal, log in JSON, be killed and started again.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: its helpers stand outside test functions")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// `spectra serve`, killed with the test.
struct Process {
    child: Child,
    main: String,
    admin: String,
    config: PathBuf,
    log: PathBuf,
    client: reqwest::Client,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(folder: &Path, more: &str) -> String {
    format!(
        "[accounting]\nkeep_text = true\nledger = \"{}\"\n[backends.small]\nprice = {{ input = 1e6, output = 1e6 }}\n[backends.small.script]\n\
         answers = [{{ text = \"hello\" }}]\n[routes.local]\nladder = [\"small\"]\n[routes.strong]\nladder = [\"small\"]\n{more}\n",
        folder.join("ledger.sqlite").display()
    )
}

impl Process {
    fn start(folder: &Path, more: &str) -> Self {
        let (file, log) = (folder.join("gateway.toml"), folder.join("log"));
        std::fs::write(&file, config(folder, more)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_spectra"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !said.contains("spectra listens on ") {
            assert!(out.read_line(&mut said).unwrap() > 0, "it ended: {said}{}", std::fs::read_to_string(&log).unwrap());
        }
        // Read on, so that the process never waits for us.
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        let address = |before: &str| {
            let from = said.find(before).unwrap() + before.len();
            format!("http://{}", said[from..].split([' ', '/', '\n']).next().unwrap())
        };
        let (main, admin) = (address("spectra listens on http://"), address("admin:  http://"));
        drop(rustls::crypto::ring::default_provider().install_default());
        Self { child, main, admin, config: file, log, client: reqwest::Client::new() }
    }

    async fn ask(&self, id: &str, key: &str) -> u16 {
        let body = json!({ "model": "auto", "messages": [{ "role": "user", "content": "Say hello." }] }).to_string();
        let request = self.client.post(format!("{}/v1/chat/completions", self.main)).header("content-type", "application/json");
        request.header("x-request-id", id).bearer_auth(key).body(body).send().await.unwrap().status().as_u16()
    }

    async fn metric(&self, series: &str) -> f64 {
        let text = self.client.get(format!("{}/metrics", self.admin)).send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Log lines so far.
    fn logged(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Requests whose one log line is there.
    fn logged_requests(&self) -> Vec<String> {
        let requests = self.logged().into_iter().filter(|line| line["message"] == "request");
        requests.map(|line| line["request_id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Waits until `look` finds something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn b38_sighup_reads_the_config_again_and_the_log_level_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let level = |level: &str| format!("[tracing]\njson = true\nlevel = \"{level}\"");
    let spectra = Process::start(folder.path(), &level("info"));
    let reload = async |more: &str, result: &str| {
        let series = format!("spectra_config_reloads_total{{result=\"{result}\"}}");
        let before = spectra.metric(&series).await;
        std::fs::write(&spectra.config, config(folder.path(), more)).unwrap();
        spectra.signal("-HUP");
        until("the reload", async || (spectra.metric(&series).await > before).then_some(())).await;
    };
    assert_eq!(spectra.ask("told", "").await, 200);
    reload(&level("warn"), "applied").await;
    assert_eq!(spectra.ask("not-told", "").await, 200);
    reload("[tracing]\nlevel = 5", "rejected").await;
    assert_eq!(spectra.ask("not-told-either", "").await, 200);
    reload(&level("info,spectra_router=debug"), "applied").await;
    assert_eq!(spectra.ask("told-again", "").await, 200);
    until("the last line", async || spectra.logged_requests().contains(&"told-again".to_owned()).then_some(())).await;
    assert_eq!(spectra.logged_requests(), ["told", "told-again"]);
    let rejected = spectra.logged().into_iter().find(|line| line["level"] == "ERROR").unwrap();
    assert!(rejected["message"].as_str().unwrap().contains("gateway.toml:13:9"), "{rejected}");
}

/// Request ids in the ledger, oldest first.
fn written(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    spectra_gateway::ledger::export::export(&folder.join("ledger.sqlite"), 0, false, &mut out).unwrap();
    let row = |line: &str| serde_json::from_str::<Value>(line).unwrap()["request_id"].as_str().unwrap().to_owned();
    String::from_utf8(out).unwrap().lines().map(row).collect()
}

#[tokio::test]
async fn a_killed_gateway_loses_at_most_its_last_batch_and_goes_on_with_budgets_spent() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sk-canary-alice").unwrap();
    let budget = |usd: &str| {
        let secret = folder.path().join("key");
        format!("[keys.alice]\nsecret = {{ file = \"{}\" }}\nusd_per_day = {usd}", secret.display())
    };
    for round in 0..3 {
        let mut spectra = Process::start(folder.path(), &budget("1e9"));
        let safe = written(folder.path());
        let mut all = safe.clone();
        for number in 0..40 {
            let id = format!("r{round}-{number}");
            assert_eq!(spectra.ask(&id, "sk-canary-alice").await, 200);
            all.push(id);
        }
        let committed = until("the first commit", async || Some(written(folder.path())).filter(|rows| rows.len() > safe.len())).await;
        // What comes now is mostly not committed yet.
        for number in 40..60 {
            let id = format!("r{round}-{number}");
            assert_eq!(spectra.ask(&id, "sk-canary-alice").await, 200);
            all.push(id);
        }
        spectra.child.kill().unwrap();
        spectra.child.wait().unwrap();
        let left = written(folder.path());
        assert!(left.starts_with(&committed), "round {round}: a committed row is gone");
        assert!(all.starts_with(&left), "round {round}: rows are missing in the middle: {left:?}");
    }
    let connection = rusqlite::Connection::open(folder.path().join("ledger.sqlite")).unwrap();
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    // The last one to close it moves what stands in the write-ahead log into the file.
    drop(connection);
    // Text is kept, keys are not: neither there, nor in the log.
    let holds = |name: &str, what: &str| {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        bytes.windows(what.len()).any(|bytes| bytes == what.as_bytes())
    };
    assert!(holds("ledger.sqlite", "user: Say hello.") && holds("log", "r0-0"));
    assert!(!holds("ledger.sqlite", "sk-canary") && !holds("log", "sk-canary"), "a key was written down");

    // Each request cost some USD by the script's price: a budget below that is used up from the start.
    let spectra = Process::start(folder.path(), &budget("1.0"));
    assert_eq!(spectra.ask("over", "sk-canary-alice").await, 429);
}

#[tokio::test]
async fn top_and_export_show_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let spectra = Process::start(folder.path(), "");
    for number in 0..3 {
        assert_eq!(spectra.ask(&format!("asked-{number}"), "").await, 200);
    }
    until("the rows", async || (written(folder.path()).len() == 3).then_some(())).await;
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_spectra")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let top = run(&["top", "--once", &spectra.admin]);
    let route = top.lines().find(|line| line.starts_with("local ")).unwrap();
    assert_eq!(route.split_whitespace().collect::<Vec<_>>()[..4], ["local", "3", "100.0%", "100.0%"], "{top}");
    assert_eq!(top.matches("local: small pass").count(), 3, "{top}");
    let ledger = folder.path().join("ledger.sqlite");
    let ledger = ledger.to_str().unwrap();
    let rows = |arguments: &[&str]| run(&[&["ledger", "export", ledger], arguments].concat());
    assert_eq!(rows(&["--hours", "1"]).lines().count(), 3);
    assert!(!rows(&[]).contains("Say hello.") && rows(&["--text"]).contains("\"prompt\":\"user: Say hello.\""));
}
