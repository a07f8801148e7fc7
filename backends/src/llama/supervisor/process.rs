//! One worker process: its birth, its words, its end.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

use super::super::Settings;
use super::Exit;

/// Lines of its log kept to explain an end.
const LAST_WORDS: usize = 4;
/// What a worker logs where our own log takes details: llama.cpp's too, and nothing of the HTTP libraries.
const DETAILED: &str = "info,spectra_backends=debug,spectra_gateway=debug";
/// Longest line of the worker's log that is passed on, in bytes.
const LONGEST_LINE: usize = 4096;

pub(super) struct Process {
    child: Child,
    /// Closed with us: the worker ends when it is, even where the kernel cannot tell it.
    _stdin: Option<ChildStdin>,
    log: Log,
}

impl Process {
    pub(super) fn start(program: &Path, socket: &Path, settings: &Settings, alias: Option<&str>) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("engine").arg("--socket").arg(socket).arg("--supervised").args(settings.arguments());
        if let Some(alias) = alias {
            command.arg("--alias").arg(alias);
        }
        // A backtrace of C++ frames would push the assertion that failed out of the last words.
        command.env("GGML_NO_BACKTRACE", "1");
        if tracing::enabled!(target: "spectra::worker", tracing::Level::DEBUG) {
            command.env("SPECTRA_LOG", DETAILED);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        die_with_us(&mut command);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let log = Log { lines: child.stderr.take().map(BufReader::new), last: VecDeque::new() };
        Ok(Self { child, _stdin: stdin, log })
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Passes its log on until it ends.
    pub(super) async fn ended(&mut self) -> Exit {
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = self.log.follow() => self.child.wait().await,
        };
        // What it said last is still in the pipe. A grandchild could hold the pipe open; we do not wait for one.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), self.log.follow()).await;
        match status {
            Ok(status) => explain(status, &self.log.last),
            Err(error) => Exit { reason: "exit", words: format!("its end could not be observed: {error}") },
        }
    }

    pub(super) async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "worker could not be killed");
        }
    }
}

/// Asks the kernel to kill the worker when the thread that starts it ends.
fn die_with_us(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let us = std::process::id();
        let hook = move || {
            // SAFETY: prctl and getppid are async-signal-safe, and PR_SET_PDEATHSIG takes one integer.
            let gone = unsafe {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                libc::getppid() != us.cast_signed()
            };
            // We may have died before the kernel was told.
            if gone { Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)) } else { Ok(()) }
        };
        // SAFETY: the hook runs between fork and exec; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(hook) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// The worker's standard error.
struct Log {
    lines: Option<BufReader<ChildStderr>>,
    last: VecDeque<String>,
}

impl Log {
    /// Returns when the pipe is closed.
    async fn follow(&mut self) {
        let Some(reader) = &mut self.lines else { return };
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    line.truncate(LONGEST_LINE);
                    let text = String::from_utf8_lossy(&line);
                    let text = text.trim_end();
                    if !text.is_empty()
                        && let Some(words) = pass_on(text)
                    {
                        if self.last.len() == LAST_WORDS {
                            self.last.pop_front();
                        }
                        self.last.push_back(words);
                    }
                }
            }
        }
        self.lines = None;
    }
}

/// Logs a line at its level. Returns the words of an error, which may explain an end.
fn pass_on(line: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Entry {
        level: String,
        fields: Fields,
    }
    #[derive(Deserialize)]
    struct Fields {
        #[serde(default)]
        message: String,
        #[serde(flatten)]
        more: serde_json::Map<String, serde_json::Value>,
    }
    let Ok(entry) = serde_json::from_str::<Entry>(line) else {
        // Not from our log: llama.cpp or the C++ runtime on their way out.
        tracing::error!(target: "spectra::worker", "{line}");
        return Some(line.to_owned());
    };
    let mut words = entry.fields.message;
    for (name, value) in entry.fields.more {
        words.push_str(&format!(" {name}={value}"));
    }
    match entry.level.as_str() {
        "ERROR" => tracing::error!(target: "spectra::worker", "{words}"),
        "WARN" => tracing::warn!(target: "spectra::worker", "{words}"),
        "INFO" => tracing::info!(target: "spectra::worker", "{words}"),
        _ => tracing::debug!(target: "spectra::worker", "{words}"),
    }
    (entry.level == "ERROR").then_some(words)
}

fn explain(status: ExitStatus, last: &VecDeque<String>) -> Exit {
    let reason = match (status.signal(), status.code()) {
        (Some(libc::SIGABRT), _) => "abort",
        (Some(libc::SIGKILL | libc::SIGTERM), _) => "killed",
        (Some(_), _) => "crash",
        (_, Some(65 | 66)) => "model",
        (_, Some(71)) => "memory",
        _ => "exit",
    };
    let said = last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
    let words = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    Exit { reason, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_what_is_no_line_of_ours_explain_an_end() {
        for (line, words) in [
            (r#"{"level":"ERROR","fields":{"message":"decode failed","why":"no room"}}"#, Some("decode failed why=\"no room\"")),
            (r#"{"level":"WARN","fields":{"message":"slow"}}"#, None),
            (r#"{"level":"INFO","fields":{}}"#, None),
            ("ggml.c:12: GGML_ASSERT(n > 0) failed", Some("ggml.c:12: GGML_ASSERT(n > 0) failed")),
            (
                "terminate called after throwing an instance of 'std::bad_alloc'",
                Some("terminate called after throwing an instance of 'std::bad_alloc'"),
            ),
        ] {
            assert_eq!(pass_on(line).as_deref(), words, "{line}");
        }
    }
}
