//! Log lines: where they go, in which form, and how much of them.

use std::io::IsTerminal;

use anyhow::Context;
use spectra_config::Tracing;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::lines::Lines;
use crate::request_line::RequestLines;

/// Changes how much is logged while the process runs.
#[derive(Debug, Default)]
pub struct Level(Option<reload::Handle<EnvFilter, Registry>>);

/// # Errors
/// Where `tracing.level` is neither a level nor a filter.
pub fn filter(tracing: &Tracing) -> anyhow::Result<EnvFilter> {
    let help = || {
        format!("tracing.level is {:?}; write error, warn, info, debug, trace or a filter such as info,spectra_router=debug", tracing.level)
    };
    // A filter's lone word is a level here: as a target, which it may be too, `inof` would silence everything.
    let odd = tracing.level.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err());
    anyhow::ensure!(odd.is_none(), help());
    EnvFilter::try_new(&tracing.level).with_context(help)
}

/// Begins to log to standard error; standard output has the start-up lines only.
///
/// # Errors
/// As `filter`.
pub(crate) fn start(tracing: &Tracing, lines: &Lines) -> anyhow::Result<Level> {
    let (filter, handle) = reload::Layer::new(filter(tracing)?);
    let written = fmt::layer().with_writer(lines.clone());
    let lines = if tracing.json {
        let format = fmt::format().json().flatten_event(true);
        written.event_format(RequestLines::new(format, true)).fmt_fields(fmt::format::JsonFields::new()).boxed()
    } else {
        written.event_format(RequestLines::new(fmt::format(), false)).with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    // A subscriber that is there already (a test's) stays, and so does its level.
    let set = tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok();
    Ok(Level(set.then_some(handle)))
}

impl Level {
    /// Takes over the level of a config, whose filter was tried before.
    pub fn set(&self, tracing: &Tracing) {
        if let (Some(handle), Ok(filter)) = (&self.0, filter(tracing))
            && let Err(error) = handle.reload(filter)
        {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}
