//! `spectra`: the command line.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
#[cfg(feature = "llama")]
use spectra_gateway::cli::engine::{self, EngineArgs};
use spectra_gateway::cli::model::{self, ModelArgs};
use spectra_gateway::cli::verify::{self, VerifyArgs};

#[derive(Parser)]
#[command(name = "spectra", version)]
enum Cli {
    /// Serve one GGUF model with llama.cpp on the OpenAI wire
    #[cfg(feature = "llama")]
    Engine(EngineArgs),
    /// Get models onto this machine, list, remove and find them
    Model(ModelArgs),
    /// Judge files of answers as the gateway would, without a model
    Verify(VerifyArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    drop(rustls::crypto::ring::default_provider().install_default());
    let ended = match Cli::parse() {
        #[cfg(feature = "llama")]
        Cli::Engine(args) => engine::run(args).await,
        Cli::Model(args) => model::run(args).await,
        Cli::Verify(args) => verify::run(&args),
    };
    ended.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr(), "error: {error:#}"));
        ExitCode::FAILURE
    })
}
