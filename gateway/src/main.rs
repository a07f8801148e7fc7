//! `spectra`: the command line.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use spectra_gateway::cli::check::{self, CheckArgs};
#[cfg(feature = "llama")]
use spectra_gateway::cli::engine::{self, EngineArgs};
use spectra_gateway::cli::eval::{self, EvalArgs};
use spectra_gateway::cli::explain::{self, ExplainArgs};
use spectra_gateway::cli::key::{self, KeyArgs};
use spectra_gateway::cli::ledger::{self, LedgerArgs};
use spectra_gateway::cli::model::{self, ModelArgs};
use spectra_gateway::cli::replay::{self, ReplayArgs};
use spectra_gateway::cli::router::{self, RouterArgs};
use spectra_gateway::cli::runtime;
use spectra_gateway::cli::score::{self, ScoreArgs};
use spectra_gateway::cli::serve::{self, ServeArgs};
use spectra_gateway::cli::top::{self, TopArgs};
use spectra_gateway::cli::train::{self, TrainArgs};
use spectra_gateway::cli::verify::{self, VerifyArgs};

/// A request makes some ninety small allocations; with glibc's they are a fifth of its cost (benches/README.md).
/// Without huge pages: they made nothing faster, and an idle gateway 12 MiB larger.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An OpenAI-compatible gateway that sends each request to the model that can answer it, and checks the answer
#[derive(Parser)]
#[command(name = "spectra", version)]
enum Cli {
    /// Serve the OpenAI API in front of the models of the config
    Serve(ServeArgs),
    /// Say whether a config is usable, and what to write where it is not
    Check(CheckArgs),
    /// Say what would be done with a chat request, and why; no model is called
    Explain(ExplainArgs),
    /// Serve one GGUF model with llama.cpp on the OpenAI wire
    #[cfg(feature = "llama")]
    Engine(EngineArgs),
    /// Make a key for a caller, and its hash for the config
    Key(KeyArgs),
    /// Get models onto this machine, list, remove and find them
    Model(ModelArgs),
    /// Score chat requests, a line in and a line out
    Score(ScoreArgs),
    /// How well the router orders labelled requests, with length and random beside it
    Eval(EvalArgs),
    /// Train the router's weights from labelled rows
    Train(TrainArgs),
    /// What another rule or other weights would have done with recorded requests
    Replay(ReplayArgs),
    /// Watch a running gateway in the terminal
    Top(TopArgs),
    /// Read what was kept of past requests
    Ledger(LedgerArgs),
    /// Carry what the router learned from one gateway to others
    Router(RouterArgs),
    /// Judge files of answers as the gateway would, without a model
    Verify(VerifyArgs),
}

fn main() -> ExitCode {
    drop(rustls::crypto::ring::default_provider().install_default());
    let ended = match Cli::parse() {
        Cli::Serve(args) => serve::run(&args),
        Cli::Check(args) => check::run(&args),
        Cli::Explain(args) => explain::run(&args),
        Cli::Key(args) => key::run(&args),
        #[cfg(feature = "llama")]
        Cli::Engine(args) => waiting(engine::run(args)),
        Cli::Model(args) => waiting(model::run(args)),
        Cli::Score(args) => score::run(&args),
        Cli::Eval(args) => eval::run(&args),
        Cli::Train(args) => train::run(&args),
        Cli::Replay(args) => replay::run(&args),
        Cli::Top(args) => waiting(top::run(args)),
        Cli::Ledger(args) => ledger::run(args),
        Cli::Router(args) => router::run(args),
        Cli::Verify(args) => verify::run(&args),
    };
    ended.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr(), "error: {error:#}"));
        ExitCode::FAILURE
    })
}

fn waiting(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    runtime(None)?.block_on(work)
}
