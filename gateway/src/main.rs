//! `spectra`: the command line.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use spectra_gateway::cli::model::{self, ModelArgs};

#[derive(Parser)]
#[command(name = "spectra", version)]
enum Cli {
    /// Get models onto this machine, list, remove and find them
    Model(ModelArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    drop(rustls::crypto::ring::default_provider().install_default());
    let ended = match Cli::parse() {
        Cli::Model(args) => model::run(args).await,
    };
    ended.unwrap_or_else(|error| {
        drop(writeln!(std::io::stderr(), "error: {error:#}"));
        ExitCode::FAILURE
    })
}
