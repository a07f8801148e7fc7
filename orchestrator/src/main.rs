//! `spectra-orchestrator build "…" --out DIR`: a whole service, file by file, through any OpenAI-compatible endpoint.
//!
//! The life of a build: `name` reads the service's name, `plan` the files (asked for in `generate::plan`), then
//! `generate::Build` makes each file (`template` or `ask`), judges it (`check`), writes it (`write`), runs the whole
//! (`service`) and tells what came of it (`report`, shown by `progress`).

mod ask;
mod check;
mod compiler;
mod config_file;
mod generate;
mod name;
mod outline;
mod packages;
mod plan;
mod progress;
mod prompt;
mod report;
mod service;
mod template;
mod write;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::ask::Upstream;
use crate::compiler::Compiler;
use crate::config_file::{Config, ServiceCheck};
use crate::generate::{Budget, Build};
use crate::plan::{Plan, Priority};
use crate::progress::{Event, View};
use crate::template::Set;
use crate::write::{Folder, Overwrite, State};

/// Writes a whole service, file by file, through an OpenAI-compatible endpoint.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a service, or go on with one that is not finished.
    ///
    /// Exit codes: 0 finished and checked; 1 could not begin; 2 files failed or the service does not run; 3 finished,
    /// but templates stand in for the model.
    Build(Box<BuildArgs>),
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// What to build, in plain words; without it, --request-file, or the request of an unfinished build in --out.
    request: Option<String>,
    /// A file with the request.
    #[arg(long, conflicts_with = "request")]
    request_file: Option<PathBuf>,
    /// The service's folder [default: its name].
    #[arg(long)]
    out: Option<PathBuf>,
    /// The service's name, instead of the one the request says.
    #[arg(long)]
    name: Option<String>,
    /// The template set, instead of the one the request suggests: fastapi, calculator, express, axum, or your own.
    #[arg(long)]
    stack: Option<String>,
    /// Build this plan (JSON, as --plan-only prints it) instead of asking for one.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Take the template set's plan; ask the model for files only.
    #[arg(long, conflicts_with = "plan")]
    plan_by_template: bool,
    /// Ask no model at all: the template set's plan and files.
    #[arg(long)]
    no_model: bool,
    /// Print the plan and stop.
    #[arg(long)]
    plan_only: bool,
    /// Ask for a new plan even where an unfinished build has one.
    #[arg(long)]
    replan: bool,
    /// Say what would be written; write nothing.
    #[arg(long)]
    dry_run: bool,
    /// When a file that is there may be replaced [default: if-unchanged].
    #[arg(long)]
    overwrite: Option<Overwrite>,
    /// Start the built service and run its tests [default: auto].
    #[arg(long)]
    service_check: Option<ServiceCheck>,
    /// Prepared dependencies (a Python virtual environment) for the service check.
    #[arg(long)]
    environment: Option<PathBuf>,
    /// Any OpenAI-compatible server [default: http://127.0.0.1:8080/v1].
    #[arg(long, env = "OPENAI_BASE_URL")]
    base_url: Option<String>,
    /// The model's name; `auto` lets Spectra choose [default: auto].
    #[arg(long)]
    model: Option<String>,
    /// Answers asked for one file.
    #[arg(long)]
    attempts: Option<u32>,
    /// Questions of the whole build.
    #[arg(long)]
    calls: Option<u32>,
    /// Tokens of one answer.
    #[arg(long)]
    answer_tokens: Option<u32>,
    /// Questions at the same time.
    #[arg(long)]
    concurrency: Option<usize>,
    /// A folder of template sets, before the built-in ones; may be given again.
    #[arg(long)]
    templates: Vec<PathBuf>,
    /// Settings [default: spectra-orchestrator.toml, if it is there].
    #[arg(long)]
    config: Option<PathBuf>,
    /// One JSON event a line instead of words.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    // One crypto provider for the process, before the first client.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Command::Build(args) = Cli::parse().command;
    match build(*args).await {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            let _ = writeln!(std::io::stderr(), "error: {err:#}");
            ExitCode::from(1)
        }
    }
}

async fn build(args: BuildArgs) -> anyhow::Result<u8> {
    let config = settings(&args)?;
    let overwrite = config.write.overwrite;
    let given = given_plan(&args)?;
    let (request, name) = request_and_name(&args, given.as_ref(), overwrite)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&name));
    let mut folder = Folder::open(&out, overwrite)?;
    let there = folder.manifest.service_name.as_str();
    ensure!(
        there.is_empty() || there == name,
        "{} already holds the service {there:?}, not {name:?}: choose another --out, or --name {there}",
        out.display()
    );
    let stack = args.stack.as_deref().or(given.as_ref().map(|plan| plan.stack.as_str())).filter(|name| !name.is_empty());
    let set = match stack {
        Some(stack) => Set::load(stack, &config.templates.folders)?,
        None => Set::choose(&request, &config.templates.folders)?,
    };
    let view = View::new(args.json, args.plan_only);
    let upstream = upstream(&config)?;
    let budget = Budget::new(&config.limits);
    let (plan, from) = match given {
        Some(plan) => (plan, "file"),
        None => choose_plan(&args, &folder, &request, &name, &set, &upstream, &view, &budget).await?,
    };
    if args.plan_only {
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&plan)?)?;
        return Ok(0);
    }
    announce(&view, &plan, &set, from);
    if args.dry_run {
        dry_run(&view, &folder, &plan, &set)?;
        return Ok(0);
    }
    folder.begin(&plan, &request)?;
    let build = Build {
        request: &request,
        plan: &plan,
        set: &set,
        upstream: &upstream,
        config: &config,
        view: &view,
        budget: &budget,
        compiler: &Compiler::start(),
    };
    Ok(build.run(&mut folder, from).await?.exit_code())
}

/// Flags over the file over the defaults.
fn settings(args: &BuildArgs) -> anyhow::Result<Config> {
    let mut config = Config::load(args.config.as_deref())?;
    if args.base_url.is_some() {
        config.endpoint.base_url.clone_from(&args.base_url);
    }
    if let Some(model) = &args.model {
        config.endpoint.model.clone_from(model);
    }
    config.write.overwrite = args.overwrite.unwrap_or(config.write.overwrite);
    config.check.service = args.service_check.unwrap_or(config.check.service);
    if args.environment.is_some() {
        config.check.environment.clone_from(&args.environment);
    }
    let limits = &mut config.limits;
    limits.attempts_per_file = args.attempts.unwrap_or(limits.attempts_per_file);
    if args.no_model {
        limits.attempts_per_file = 0;
    }
    limits.calls = args.calls.unwrap_or(limits.calls);
    limits.answer_tokens = args.answer_tokens.unwrap_or(limits.answer_tokens);
    limits.concurrency = args.concurrency.unwrap_or(limits.concurrency).max(1);
    config.templates.folders.splice(0..0, args.templates.iter().cloned());
    Ok(config)
}

fn upstream(config: &Config) -> anyhow::Result<Upstream> {
    let endpoint = &config.endpoint;
    let base_url = endpoint.base_url.as_deref().unwrap_or("http://127.0.0.1:8080/v1");
    // A local gateway may want no key; one that does refuses with a clear message.
    let key = std::env::var(&endpoint.api_key_env).unwrap_or_else(|_| "none".to_owned());
    Upstream::new(base_url, &key, &endpoint.model, Duration::from_secs(endpoint.timeout_seconds))
}

fn given_plan(args: &BuildArgs) -> anyhow::Result<Option<Plan>> {
    let Some(path) = &args.plan else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(Plan::parse(&text).with_context(|| format!("in {}", path.display()))?))
}

fn request_and_name(args: &BuildArgs, given: Option<&Plan>, overwrite: Overwrite) -> anyhow::Result<(String, String)> {
    let earlier = args.out.as_deref().map(|out| Folder::open(out, overwrite)).transpose()?;
    let earlier = earlier.map(|folder| folder.manifest).filter(|manifest| !manifest.request.is_empty());
    let request = match (&args.request, &args.request_file, given, &earlier) {
        (Some(request), ..) => request.clone(),
        (None, Some(path), ..) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
        (None, None, Some(plan), _) => {
            format!("Build the service {} as planned.", plan.service_name)
        }
        (None, None, None, Some(manifest)) => manifest.request.clone(),
        (None, None, None, None) => bail!("say what to build: a request, --request-file or --plan"),
    };
    let resumed = earlier.filter(|manifest| manifest.request == request).map(|manifest| manifest.service_name);
    let name = match (&args.name, given, resumed) {
        (Some(raw), ..) => name::slug(raw).with_context(|| format!("--name {raw:?} has no letters to make a name of"))?,
        (None, Some(plan), _) => name::slug(&plan.service_name).context("the plan's service_name is not a name")?,
        (None, None, Some(name)) => name,
        (None, None, None) => name::extract(&request).slug().map_err(anyhow::Error::msg)?.to_owned(),
    };
    Ok((request, name))
}

/// The stored plan of an unfinished build, else the template set's or the model's; when the model cannot plan, the
/// template set's in its place, and the report says so.
#[expect(clippy::too_many_arguments, reason = "the parts of one build, each used once")]
async fn choose_plan(
    args: &BuildArgs,
    folder: &Folder,
    request: &str,
    name: &str,
    set: &Set,
    upstream: &Upstream,
    view: &View,
    budget: &Budget,
) -> anyhow::Result<(Plan, &'static str)> {
    if let Some(plan) = folder.stored_plan()?.filter(|_| !args.replan && folder.manifest.request == request) {
        return Ok((plan, "earlier run"));
    }
    if args.plan_by_template || args.no_model {
        return Ok((set.default_plan(name, request), "template"));
    }
    match generate::plan(request, name, set, upstream, view, budget).await? {
        Ok(plan) => Ok((plan, "model")),
        Err(why) => {
            let text = format!("the model cannot plan this ({why}); the template set's plan stands in");
            view.show(&Event::Note { text: &text });
            Ok((set.default_plan(name, request), report::PLAN_IN_PLACE))
        }
    }
}

fn announce(view: &View, plan: &Plan, set: &Set, from: &str) {
    let mut files: BTreeMap<Priority, usize> = BTreeMap::new();
    for file in &plan.files_to_create {
        *files.entry(file.priority).or_default() += 1;
    }
    view.show(&Event::Planned { service_name: &plan.service_name, stack: &set.name, from, files });
}

fn dry_run(view: &View, folder: &Folder, plan: &Plan, set: &Set) -> anyhow::Result<()> {
    let texts = check::Texts::new();
    for file in plan.waves()?.into_iter().flatten() {
        let by = match set.render(plan, file, &texts)? {
            Some(_) if file.priority != Priority::Critical => "from a template",
            Some(_) => "by the model, a template in reserve",
            None => "by the model",
        };
        let outcome = match folder.state(&file.path)? {
            State::Absent => "write",
            State::Replaceable => "replace",
            State::Finished => "done",
            State::Kept => "keep",
        };
        let detail = if matches!(outcome, "write" | "replace") { by } else { "" };
        view.show(&Event::Done { path: &file.path, outcome, attempts: 0, detail });
    }
    Ok(())
}
