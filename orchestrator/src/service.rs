//! Does the whole service run? A copy of it, in a throw-away folder and environment: prepared, started, asked for its
//! health and its own description, its tests run. Generated code sees none of our secrets.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::check::Texts;
use crate::plan::{Plan, is_test, split_endpoint};
use crate::template::{Facts, Service};

const PREPARE: Duration = Duration::from_secs(600);
const START: Duration = Duration::from_secs(60);
const TESTS: Duration = Duration::from_secs(180);
/// Of a command's output, what is kept for people and for the model.
const TAIL: usize = 1500;

/// What the running service showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Why the service could not be tried here at all: no interpreter, no packages.
    pub not_tried: Option<String>,
    /// There is nothing to serve: a program, not a web service.
    pub not_a_service: bool,
    pub start: Option<Result<(), String>>,
    pub openapi: Option<Result<(), String>>,
    /// Told apart: failing tests do not unmake a service that runs.
    pub tests: Option<Result<String, String>>,
}

impl Shown {
    /// Why the service is not what was planned, if so. Failing tests are a fault: they are files of ours, too.
    pub fn fault(&self) -> Option<&str> {
        let start = self.start.as_ref().and_then(|shown| shown.as_ref().err());
        let openapi = self.openapi.as_ref().and_then(|shown| shown.as_ref().err());
        let tests = self.tests.as_ref().and_then(|shown| shown.as_ref().err());
        start.or(openapi).or(tests).map(String::as_str)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.not_tried {
            return write!(f, "not started: {why}");
        }
        let word = |shown: &Option<Result<(), String>>, good: &str, bad: &str| match shown {
            Some(Ok(())) => good.to_owned(),
            Some(Err(why)) => format!("{bad}: {}", why.lines().last().unwrap_or("")),
            None => String::new(),
        };
        let start = match self.not_a_service {
            true => "nothing to serve".to_owned(),
            false => word(&self.start, "starts, /health answers 200", "DOES NOT START"),
        };
        let openapi = word(&self.openapi, "describes every planned endpoint", "NOT AS PLANNED");
        let tests = match &self.tests {
            Some(Ok(count)) => format!("tests: {count}"),
            Some(Err(why)) => format!("tests FAIL: {}", why.lines().last().unwrap_or("")),
            None => "no tests".to_owned(),
        };
        let parts: Vec<String> = [start, openapi, tests].into_iter().filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join("; "))
    }
}

/// Runs the service of a plan from its texts. Nothing is left behind.
pub async fn show(plan: &Plan, texts: &Texts, how: &Service, environment: Option<&Path>) -> Shown {
    match Trial::prepare(plan, texts, how, environment).await {
        Ok(trial) => trial.show(plan, texts, how).await,
        Err(err) => Shown { not_tried: Some(format!("{err:#}")), ..Shown::default() },
    }
}

struct Trial {
    /// Holds the copy and the throw-away environment until the end.
    folder: tempfile::TempDir,
    environment: PathBuf,
    entry: Option<String>,
    name: String,
    port: u16,
}

impl Trial {
    async fn prepare(plan: &Plan, texts: &Texts, how: &Service, environment: Option<&Path>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let code = folder.path().join("service");
        for (path, text) in texts {
            let full = code.join(path);
            std::fs::create_dir_all(full.parent().unwrap_or(&code))?;
            std::fs::write(full, text)?;
        }
        let own = folder.path().join("environment");
        let trial = Self {
            environment: environment.map_or(own, Path::to_owned),
            entry: Facts::of(plan, texts).entry,
            name: plan.service_name.clone(),
            port: free_port()?,
            folder,
        };
        if environment.is_none() {
            for step in how.environment.iter().chain(&how.prepare) {
                let output = trial.run(step, PREPARE, Who::Installer).await?;
                anyhow::ensure!(output.status.success(), "{} failed: {}", step.join(" "), tail(&output));
            }
        }
        Ok(trial)
    }

    async fn show(&self, plan: &Plan, texts: &Texts, how: &Service) -> Shown {
        let mut shown = Shown { not_a_service: self.entry.is_none(), ..Shown::default() };
        if self.entry.is_some() && !how.start.is_empty() {
            match self.serve(plan, how).await {
                Ok(openapi) => {
                    shown.start = Some(Ok(()));
                    shown.openapi = openapi;
                }
                Err(why) => shown.start = Some(Err(format!("{why:#}"))),
            }
        }
        if !how.tests.is_empty() && texts.keys().any(|path| is_test(path)) {
            shown.tests = Some(self.tests(&how.tests).await);
        }
        shown
    }

    /// Starts, waits for health, reads the description, stops.
    async fn serve(&self, plan: &Plan, how: &Service) -> anyhow::Result<Option<Result<(), String>>> {
        let mut child = self.command(&how.start, Who::Generated)?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let base = format!("http://127.0.0.1:{}", self.port);
        let until = Instant::now() + START;
        loop {
            if let Ok(answer) = http.get(format!("{base}/health")).send().await {
                anyhow::ensure!(answer.status() == 200, "GET /health answers {}", answer.status());
                break;
            }
            if child.try_wait()?.is_some() {
                anyhow::bail!("it ends at start: {}", end_of(child).await);
            }
            anyhow::ensure!(Instant::now() < until, "no answer on its port within {START:?}");
            sleep(Duration::from_millis(50)).await;
        }
        let mut description = None;
        if !how.openapi.is_empty() {
            let answer = http.get(format!("{base}{}", how.openapi)).send().await?;
            let body: Result<Value, _> = serde_json::from_slice(&answer.bytes().await?);
            description = Some(body.map_err(|err| format!("{} is not JSON: {err}", how.openapi)));
        }
        child.kill().await.ok();
        Ok(description.map(|body| body.and_then(|body| describes(plan, &body))))
    }

    async fn tests(&self, command: &[String]) -> Result<String, String> {
        let output = self.run(command, TESTS, Who::Generated).await.map_err(|err| format!("{err:#}"))?;
        let said = tail(&output);
        // pytest's `8 passed in 1.2s`, node's `# pass 2`, cargo's `test result: ok. 2 passed`.
        let count = said.lines().rev().find(|line| line.contains("passed") || line.contains("# pass"));
        let count = count.or(said.lines().last()).unwrap_or("").trim().to_owned();
        if output.status.success() { Ok(count) } else { Err(said) }
    }

    async fn run(&self, command: &[String], limit: Duration, who: Who) -> anyhow::Result<Output> {
        let child = self.command(command, who)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("cannot run {}", command.join(" ")))?;
        let output = timeout(limit, child.wait_with_output()).await;
        Ok(output.with_context(|| format!("{} takes more than {limit:?}", command.join(" ")))??)
    }

    /// In the copy, with a clean environment. Installers get what they need to reach their registries; generated
    /// code gets a home of its own, and neither gets our keys.
    fn command(&self, words: &[String], who: Who) -> anyhow::Result<Command> {
        let fill = |word: &String| {
            word.replace("{env}", &self.environment.to_string_lossy())
                .replace("{port}", &self.port.to_string())
                .replace("{entry}", self.entry.as_deref().unwrap_or(""))
                .replace("{name}", &self.name)
        };
        let mut words = words.iter().map(fill);
        let program = words.next().context("an empty command in the template set")?;
        let code = self.folder.path().join("service");
        // A relative program is one that was built in the copy.
        let program = if program.contains('/') { code.join(program) } else { program.into() };
        let mut command = Command::new(program);
        command.args(words).current_dir(code).kill_on_drop(true).stdin(Stdio::null()).env_clear();
        command.env("PORT", self.port.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(std::env::vars_os().filter(|(name, _)| who.sees(&name.to_string_lossy().to_lowercase())));
        if who == Who::Generated {
            command.env("HOME", self.folder.path());
        }
        // Cargo and rustup look for their own folders in the home we have just taken away.
        for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if let (None, Some(home)) = (std::env::var_os(variable), std::env::home_dir()) {
                command.env(variable, home.join(folder));
            }
        }
        Ok(command)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Installer,
    Generated,
}

impl Who {
    /// Whether a variable of ours, in lower case, is passed on.
    fn sees(self, variable: &str) -> bool {
        let all = matches!(variable, "path" | "lang" | "tmpdir" | "cargo_home" | "rustup_home");
        let starts = ["pip_", "npm_config_", "ssl_cert_", "node_extra_ca", "cargo_http_", "cargo_net_"];
        let installer = variable == "home" || variable.ends_with("_proxy") || starts.iter().any(|start| variable.starts_with(start));
        all || (self == Who::Installer && installer)
    }
}

/// The OpenAPI document has every planned endpoint; parameter names are the writer's choice.
fn describes(plan: &Plan, openapi: &Value) -> Result<(), String> {
    let shape = |path: &str| {
        let parts = path.trim_end_matches('/').split('/');
        parts.map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
    };
    let version = openapi.get("openapi").and_then(Value::as_str);
    let (Some(_), Some(paths)) = (version, openapi.get("paths").and_then(Value::as_object)) else {
        return Err("it is no OpenAPI document".to_owned());
    };
    let has: BTreeSet<(String, String)> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flat_map(|item| item.keys());
            methods.map(move |method| (method.to_uppercase(), shape(path)))
        })
        .collect();
    let planned = plan.endpoints.iter().filter_map(|endpoint| split_endpoint(endpoint));
    let missing: Vec<String> = planned
        .filter(|(method, path)| !has.contains(&((*method).to_owned(), shape(path))))
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("it does not serve {}", missing.join(", "))) }
}

/// A port nobody listens on at this moment.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn tail(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    last(&String::from_utf8_lossy(&text))
}

async fn end_of(child: Child) -> String {
    let output = child.wait_with_output().await;
    output.map_or_else(|err| err.to_string(), |output| last(&String::from_utf8_lossy(&output.stderr)))
}

fn last(text: &str) -> String {
    let text = text.trim();
    let from = text.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn planned_endpoints_are_looked_for() {
        let check = |endpoints: &[&str], fault: &str| {
            let files = json!([{"path": "a.py", "priority": "low", "purpose": "x"}]);
            let plan = json!({"service_name": "a-b", "endpoints": endpoints, "files_to_create": files});
            let plan = Plan::parse(&plan.to_string()).unwrap();
            let document = json!({"openapi": "3.1.0", "paths": {"/tasks/{task_id}": {"get": {}}, "/health": {"get": {}}}});
            let got = describes(&plan, &document);
            assert_eq!(got.err().unwrap_or_default(), fault);
        };
        check(&["GET /tasks/{id}", "GET /health/"], "");
        check(&["POST /tasks/{id}"], "it does not serve POST /tasks/{id}");
        check(&["GET /tasks"], "it does not serve GET /tasks");
    }
}
