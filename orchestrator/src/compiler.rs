//! Python's own compiler as a judge: one interpreter for a whole build, one line in and one line out per file.
//! Tree-sitter is more lenient than it; without a Python on this machine, tree-sitter has to do.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

const PROGRAM: &str = "
import json, sys
for line in sys.stdin:
    try:
        compile(json.loads(line), 'file', 'exec', dont_inherit=True)
        fault = None
    except (SyntaxError, ValueError) as e:
        fault = f'line {getattr(e, \"lineno\", 0)}: {e.args[0]}'
    print(json.dumps(fault), flush=True)
";

/// A running interpreter, or none where there is no Python.
#[derive(Debug)]
pub struct Compiler(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Killed when dropped.
    _child: Child,
}

impl Compiler {
    /// Starts an interpreter that sees neither site packages nor this folder.
    pub fn start() -> Self {
        let started = Command::new("python3")
            .args(["-I", "-S", "-W", "ignore", "-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let running = started.ok().and_then(|mut child| {
            let (input, output) = (child.stdin.take()?, child.stdout.take()?);
            Some(Running { input, output: BufReader::new(output).lines(), _child: child })
        });
        Self(Mutex::new(running))
    }

    /// Why a text is not Python, if so. An interpreter that dies says nothing from then on.
    pub async fn fault(&self, text: &str) -> Option<String> {
        let mut running = self.0.lock().await;
        let said = running.as_mut()?.ask(text).await;
        if said.is_none() {
            *running = None;
        }
        serde_json::from_str(&said?).ok()?
    }
}

impl Running {
    async fn ask(&mut self, text: &str) -> Option<String> {
        let line = serde_json::to_string(text).ok()? + "\n";
        self.input.write_all(line.as_bytes()).await.ok()?;
        self.output.next_line().await.ok()?
    }
}
