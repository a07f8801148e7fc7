//! The command line: what can be asked for, and what follows from it before the first question.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::ask::Upstream;
use crate::config_file::{Config, ServiceCheck};
use crate::name;
use crate::plan::Plan;
use crate::write::{Folder, Overwrite};

/// Writes a whole service, file by file, through an OpenAI-compatible endpoint.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a service, or go on with one that is not finished.
    ///
    /// Exit codes: 0 finished and checked; 1 could not begin; 2 unfinished: files are missing or do less than asked, or
    /// the service does not run; 3 finished, but templates stand in for files that are not critical.
    Build(Box<BuildArgs>),
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// What to build, in plain words; without it, --request-file, or the request of an unfinished build in --out.
    pub request: Option<String>,
    /// A file with the request.
    #[arg(long, conflicts_with = "request")]
    pub request_file: Option<PathBuf>,
    /// The service's folder [default: its name].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The service's name, instead of the one the request says.
    #[arg(long)]
    pub name: Option<String>,
    /// The template set, instead of the one the request suggests: fastapi, calculator, express, axum, or your own.
    #[arg(long)]
    pub stack: Option<String>,
    /// Build this plan (JSON, as --plan-only prints it) instead of asking for one.
    #[arg(long)]
    pub plan: Option<PathBuf>,
    /// Take the template set's plan; ask the model for files only.
    #[arg(long, conflicts_with = "plan")]
    pub plan_by_template: bool,
    /// Ask no model at all: the template set's plan and files.
    #[arg(long)]
    pub no_model: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub plan_only: bool,
    /// Ask for a new plan even where an unfinished build has one.
    #[arg(long)]
    pub replan: bool,
    /// Say what would be written; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// When a file that is there may be replaced [default: if-unchanged].
    #[arg(long)]
    pub overwrite: Option<Overwrite>,
    /// Start the built service and run its tests [default: auto].
    #[arg(long)]
    pub service_check: Option<ServiceCheck>,
    /// Prepared dependencies (a Python virtual environment) for the service check.
    #[arg(long)]
    pub environment: Option<PathBuf>,
    /// Any OpenAI-compatible server [default: http://127.0.0.1:8080/v1].
    #[arg(long, env = "OPENAI_BASE_URL")]
    pub base_url: Option<String>,
    /// The model's name; `auto` lets Spectra choose [default: auto].
    #[arg(long)]
    pub model: Option<String>,
    /// Answers asked for one file.
    #[arg(long)]
    pub attempts: Option<u32>,
    /// Questions of the whole build.
    #[arg(long)]
    pub calls: Option<u32>,
    /// Tokens of one answer.
    #[arg(long)]
    pub answer_tokens: Option<u32>,
    /// Questions at the same time.
    #[arg(long)]
    pub concurrency: Option<usize>,
    /// A folder of template sets, before the built-in ones; may be given again.
    #[arg(long)]
    pub templates: Vec<PathBuf>,
    /// Settings [default: spectra-orchestrator.toml, if it is there].
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// One JSON event a line instead of words.
    #[arg(long)]
    pub json: bool,
}

// === what follows from it ===

/// Flags over the file over the defaults.
pub fn settings(args: &BuildArgs) -> anyhow::Result<Config> {
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

pub fn upstream(config: &Config) -> anyhow::Result<Upstream> {
    let endpoint = &config.endpoint;
    // A local gateway may want no key; one that does refuses with a clear message.
    let key = std::env::var(&endpoint.api_key_env).unwrap_or_else(|_| "none".to_owned());
    Upstream::new(endpoint, &key)
}

pub fn given_plan(args: &BuildArgs) -> anyhow::Result<Option<Plan>> {
    let Some(path) = &args.plan else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(Plan::parse(&text).with_context(|| format!("in {}", path.display()))?))
}

pub fn request_and_name(args: &BuildArgs, given: Option<&Plan>, overwrite: Overwrite) -> anyhow::Result<(String, String)> {
    let earlier = args.out.as_deref().map(|out| Folder::open(out, overwrite)).transpose()?;
    let earlier = earlier.map(|folder| folder.manifest).filter(|manifest| !manifest.request.is_empty());
    let request = match (&args.request, &args.request_file, given, &earlier) {
        (Some(request), ..) => request.clone(),
        (None, Some(path), ..) => std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
        (None, None, Some(_), _) => "Build the service as planned.".to_owned(),
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
