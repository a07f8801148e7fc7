//! What the `spectra` command can do; one file a subcommand.

pub mod check;
#[cfg(feature = "llama")]
pub mod engine;
pub mod eval;
pub mod explain;
pub mod key;
pub mod ledger;
pub mod model;
pub mod replay;
pub mod router;
mod rows;
pub mod score;
pub mod serve;
pub mod top;
pub mod train;
pub mod verify;

use std::num::NonZero;
use std::path::Path;

use spectra_config::Config;
use tokio::runtime::{Builder, Runtime};

/// A runtime of so many threads; `None`: one for each core this process may use.
///
/// # Errors
/// If the system gives no threads or no event queue.
pub fn runtime(threads: Option<usize>) -> std::io::Result<Runtime> {
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    // On one core a second thread only adds hand-overs.
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(threads).enable_all().build()
}

/// The config that was named, or the built-in one. The error is ready for a terminal.
fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let config = file.map_or_else(Config::reference, Config::load);
    let config = config.map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_start_matches("error: ")))?;
    crate::logs::filter(&config.tracing)?;
    Ok(config)
}
