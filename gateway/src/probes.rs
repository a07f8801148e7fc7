//! How an operator's own check reaches its program or its endpoint. What it reads is bounded, and dropping the future ends it.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;

use futures_util::StreamExt;
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use spectra_config::Own;
use spectra_router::outside::Probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Bytes of a program's or an endpoint's answer that are read; more is no answer.
const MOST_BYTES: usize = 16 << 10;

/// The probe of a check with a `command` or a `url`.
pub(crate) fn of(own: &Own) -> Arc<dyn Probe> {
    match (&own.command, &own.url) {
        (Some(command), _) => Arc::new(Program(command.clone())),
        (None, url) => {
            // The binary has done this; an embedding test may not have. A second time changes nothing.
            drop(rustls::crypto::ring::default_provider().install_default());
            let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
            Arc::new(Endpoint {
                client: client.map_err(|error| error.to_string()),
                url: url.as_ref().map_or("", |url| url.get()).to_owned(),
            })
        }
    }
}

/// Exit code 0: usable; 1: not, and standard output says why; any other end: the check failed.
#[derive(Debug)]
struct Program(Vec<String>);

#[derive(Debug)]
struct Endpoint {
    client: Result<reqwest::Client, String>,
    url: String,
}

/// What an endpoint answers.
#[derive(Deserialize)]
struct Word {
    usable: bool,
    #[serde(default)]
    why: String,
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>>;

impl Probe for Program {
    fn ask<'a>(&'a self, subject: &'a str) -> Asking<'a> {
        Box::pin(async move {
            let (program, arguments) = self.0.split_first().ok_or("no program")?;
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| format!("cannot start {program}: {error}"))?;
            let family = Family(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
            let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Err("no pipes".into()) };
            let tell = async {
                // A program that knows enough may stop reading.
                let _ = stdin.write_all(subject.as_bytes()).await;
                drop(stdin);
            };
            let mut said = Vec::new();
            let mut limited = stdout.take(MOST_BYTES as u64 + 1);
            let ((), read) = tokio::join!(tell, limited.read_to_end(&mut said));
            read.map_err(|error| error.to_string())?;
            if said.len() > MOST_BYTES {
                return Err(format!("{program} prints more than {MOST_BYTES} bytes"));
            }
            let ended = child.wait().await.map_err(|error| error.to_string())?;
            family.forget();
            match ended.code() {
                Some(0) => Ok(None),
                Some(1) => Ok(Some(reason(&String::from_utf8_lossy(&said)))),
                _ => Err(format!("{program} ended with {ended}")),
            }
        })
    }
}

/// A program's process group, so that what a late program has started ends with it.
struct Family(Option<Pid>);

impl Family {
    /// The program has ended by itself; its number may soon be another's.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Probe for Endpoint {
    fn ask<'a>(&'a self, subject: &'a str) -> Asking<'a> {
        Box::pin(async move {
            let told = |error: reqwest::Error| error.without_url().to_string();
            let request = self.client.as_ref().map_err(Clone::clone)?.post(&self.url).header("content-type", "application/json");
            let response = request.body(subject.to_owned()).send().await.map_err(told)?.error_for_status().map_err(told)?;
            let mut said = Vec::new();
            let mut pieces = response.bytes_stream();
            while let Some(piece) = pieces.next().await {
                said.extend_from_slice(&piece.map_err(told)?);
                if said.len() > MOST_BYTES {
                    return Err(format!("the answer is over {MOST_BYTES} bytes"));
                }
            }
            let word: Word = serde_json::from_slice(&said).map_err(|error| format!("the answer is not {{\"usable\": …}}: {error}"))?;
            Ok((!word.usable).then(|| reason(&word.why)))
        })
    }
}

fn reason(said: &str) -> String {
    if said.trim().is_empty() { "it gave no reason".into() } else { said.trim().to_owned() }
}
