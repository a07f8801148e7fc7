//! A real Spectra gateway between the orchestrator and two scripted upstreams. The binary is the one `SPECTRA_BIN`
//! names; without it, `spectra` beside the orchestrator's own binary.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running gateway; stopped when dropped.
#[derive(Debug)]
pub struct Spectra {
    child: Child,
    pub base_url: String,
}

impl Spectra {
    /// The binary, if there is one that can serve.
    pub fn binary() -> Option<PathBuf> {
        let beside = || Some(Path::new(env!("CARGO_BIN_EXE_spectra-orchestrator")).with_file_name("spectra"));
        let path = std::env::var_os("SPECTRA_BIN").map(PathBuf::from).or_else(beside)?;
        let help = Command::new(&path).args(["serve", "--help"]).output();
        help.is_ok_and(|help| help.status.success()).then_some(path)
    }

    /// Starts it over a weak and a strong upstream; ready when its last start-up line is read.
    pub fn start(binary: &Path, dir: &Path, weak: &str, strong: &str, policy: &str) -> Self {
        let config = dir.join("spectra.toml");
        std::fs::write(&config, settings(weak, strong, policy)).unwrap();
        let mut child = Command::new(binary)
            .args(["serve", "--config"])
            .arg(&config)
            .env("SCRIPTED_KEY", "scripted")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let base_url = lines.find_map(|line| line.strip_prefix("spectra listens on ").map(str::to_owned)).unwrap();
        Self { child, base_url }
    }
}

impl Drop for Spectra {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Two backends, `auto` between them; no ledger, so that runs do not learn from each other.
fn settings(weak: &str, strong: &str, policy: &str) -> String {
    let backend = |name: &str, url: &str, price: &str| {
        format!(
            "[backends.{name}]\nprice = {price}\n[backends.{name}.openai]\nbase_url = \"{url}\"\n\
             api_key = {{ env = \"SCRIPTED_KEY\" }}\nmodel = \"{name}\"\n"
        )
    };
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[accounting]\nledger = \"\"\n{}{}\
         [routes.local]\nladder = [\"weak\", \"strong\"]\n[routes.strong]\nladder = [\"strong\", \"weak\"]\n\
         [router]\nlocal = \"local\"\nstrong = \"strong\"\npolicy = {policy}\n",
        backend("weak", weak, "{ input = 0.1, output = 0.3 }"),
        backend("strong", strong, "{ input = 2.0, output = 8.0 }"),
    )
}
