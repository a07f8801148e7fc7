//! `spectra ledger export`: what was kept, as JSON lines.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::load;
use crate::ledger::export::export;

/// `spectra ledger …`
#[derive(Debug, clap::Args)]
pub struct LedgerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write requests with their attempts and feedback, one JSON object a line, oldest first
    Export {
        /// The ledger; without it the one of the config
        file: Option<PathBuf>,
        /// Config that names the ledger; without it the built-in default
        #[arg(long, short, value_name = "FILE", env = "SPECTRA_CONFIG")]
        config: Option<PathBuf>,
        /// Only the last so many hours
        #[arg(long, value_name = "HOURS")]
        hours: Option<u32>,
        /// With prompts and answers, where they were kept
        #[arg(long)]
        text: bool,
        /// Write here instead of standard output
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// # Errors
/// No ledger there, or a place that cannot be written to.
pub fn run(args: LedgerArgs) -> anyhow::Result<ExitCode> {
    let Command::Export { file, config, hours, text, out } = args.command;
    let file = place(file, config.as_deref())?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let since_ms = hours.map_or(0, |hours| i64::try_from(now_ms).unwrap_or(i64::MAX) - i64::from(hours) * 3_600_000);
    let to: Box<dyn Write> = match &out {
        Some(path) => Box::new(std::fs::File::create(path)?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut to = BufWriter::new(to);
    let written = export(&file, since_ms, text, &mut to)?;
    to.flush()?;
    if out.is_some() {
        writeln!(std::io::stderr(), "{written} requests")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The ledger that was named, or the config's.
pub(super) fn place(file: Option<PathBuf>, config: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(file) = file {
        return Ok(file);
    }
    let config = load(config)?;
    let named = config.accounting.ledger.as_ref().map(|path| path.get().trim().to_owned()).filter(|path| !path.is_empty());
    Ok(named.ok_or_else(|| anyhow::anyhow!("the config keeps no ledger (accounting.ledger)"))?.into())
}
