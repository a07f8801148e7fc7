//! The scripted upstream, its author and its faults, and a run of the real binary against it.

pub mod author;
pub mod faults;
pub mod spectra;
pub mod upstream;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use author::Work;

/// What a run of the orchestrator left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    /// The last `summary` event; null when it did not get that far.
    pub summary: Value,
    pub output: String,
}

/// The real binary on a request, without a started service.
pub fn command(work: &Work, base_url: &str, out: &Path) -> Command {
    command_with(work, base_url, out, &["--service-check", "off"])
}

/// The real binary on a request.
pub fn command_with(work: &Work, base_url: &str, out: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spectra-orchestrator"));
    command.args(["build", &work.request, "--name", &work.name, "--json", "--out"]);
    command.arg(out).args(["--base-url", base_url]).args(flags).env("OPENAI_API_KEY", "scripted");
    command.current_dir(std::env::temp_dir());
    command
}

pub fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut events = said.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let summary = events.find(|event| event["event"] == "summary").unwrap_or(Value::Null);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), summary, output: said + &errors }
}

/// Files of a finished build that are told to be the model's and good, and are not what the author wrote.
pub fn silent_bad(work: &Work, summary: &Value, out: &Path) -> Vec<String> {
    let files = summary["files"].as_object().into_iter().flatten();
    let verified = files.filter(|(_, file)| file["is"] == "verified" && file["by"] == "model").map(|(path, _)| path);
    verified.filter(|path| std::fs::read_to_string(out.join(path)).ok().as_ref() != work.texts.get(*path)).cloned().collect()
}

/// What the request's expectations miss in the folder.
pub fn unmet(work: &Work, summary: &Value, out: &Path) -> Vec<String> {
    let files: Vec<String> = summary["files"].as_object().into_iter().flatten().map(|(path, _)| path.clone()).collect();
    let there: Vec<&String> = files.iter().filter(|path| out.join(path).is_file()).collect();
    let mut unmet = Vec::new();
    for pattern in work.expect["must_have"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !there.iter().any(|path| matches(pattern, path)) {
            unmet.push(pattern.to_owned());
        }
    }
    if (there.len() as u64) < work.expect["min_files"].as_u64().unwrap_or(1) {
        unmet.push(format!("only {} files", there.len()));
    }
    unmet
}

/// `*` stands for any characters, as in the data.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, rest)) => {
            let Some(left) = path.strip_prefix(start) else { return false };
            (0..=left.len()).filter(|at| left.is_char_boundary(*at)).any(|at| matches(rest, &left[at..]))
        }
    }
}
