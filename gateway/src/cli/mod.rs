//! What the `spectra` command can do; one file a subcommand.

pub mod check;
#[cfg(feature = "llama")]
pub mod engine;
pub mod eval;
pub mod explain;
pub mod ledger;
pub mod model;
pub mod replay;
mod rows;
pub mod score;
pub mod serve;
pub mod top;
pub mod train;
pub mod verify;

use std::path::Path;

use spectra_config::Config;

/// The config that was named, or the built-in one. The error is ready for a terminal.
fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let config = file.map_or_else(Config::reference, Config::load);
    config.map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_start_matches("error: ")))
}
