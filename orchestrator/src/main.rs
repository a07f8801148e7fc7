//! `spectra-orchestrator build "…" --out DIR`: a whole service, file by file, through any OpenAI-compatible endpoint.
//!
//! The life of a build: `name` reads the service's name, `plan` the files (asked for in `generate::plan`), then
//! `generate::Build` makes each file (`template` or `ask`), judges it (`check`), writes it (`write`), runs the whole
//! (`service`) and tells what came of it (`report`, shown by `progress`).

mod ask;
mod check;
mod cli;
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

use anyhow::ensure;
use clap::Parser as _;

use crate::cli::{BuildArgs, Cli, Command};
use crate::compiler::Compiler;
use crate::generate::{Author, Budget, Build, Planning};
use crate::plan::{Plan, Priority};
use crate::progress::{Event, View};
use crate::template::Set;
use crate::write::{Folder, State};

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
    let config = cli::settings(&args)?;
    let overwrite = config.write.overwrite;
    let given = cli::given_plan(&args)?;
    let (request, name) = cli::request_and_name(&args, given.as_ref(), overwrite)?;
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
    let upstream = cli::upstream(&config)?;
    let budget = Budget::new(&config.limits);
    let (plan, from) = match given {
        Some(plan) => (plan, "file"),
        None => {
            let planning = Planning { request: &request, name: &name, set: &set, upstream: &upstream, view: &view, budget: &budget };
            choose_plan(&args, &folder, &planning).await?
        }
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
    folder.begin(&plan, &request, from == report::PLAN_IN_PLACE)?;
    let build = Build {
        request: &request,
        gaps: &set.gaps(&plan, &request),
        plan: &plan,
        set: &set,
        upstream: &upstream,
        config: &config,
        view: &view,
        budget: &budget,
        compiler: &Compiler::start(),
        author: Author::default(),
    };
    Ok(build.run(&mut folder, from).await?.exit_code())
}

/// The stored plan of an unfinished build, else the template set's or the model's; when the model cannot plan, the
/// template set's in its place, and the report says so.
async fn choose_plan(args: &BuildArgs, folder: &Folder, planning: &Planning<'_>) -> anyhow::Result<(Plan, &'static str)> {
    let Planning { request, name, set, view, .. } = *planning;
    // A plan that stood in for one is asked for again: the model may be another by now.
    let goes_on = !args.replan && folder.manifest.request == request && !folder.manifest.plan_in_place;
    if let Some(plan) = folder.stored_plan()?.filter(|_| goes_on) {
        return Ok((plan, "earlier run"));
    }
    let own = set.default_plan(name, request);
    // Where the set's templates do all that is asked, its plan is the best there is, and costs nothing.
    if args.plan_by_template || args.no_model || (!args.replan && set.gaps(&own, request).is_empty()) {
        return Ok((own, "template"));
    }
    match planning.ask().await? {
        Ok(plan) => Ok((plan, "model")),
        Err(why) => {
            let text = format!("the model cannot plan this ({why}); the template set's plan stands in");
            view.show(&Event::Note { text: &text });
            Ok((own, report::PLAN_IN_PLACE))
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
        view.show(&Event::Would { path: &file.path, outcome, detail });
    }
    Ok(())
}
