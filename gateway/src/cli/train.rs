//! `spectra train`: from labelled rows to a weights file.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use spectra_router::score::train::{Options, Row, train};

use super::rows;

/// `spectra train ROWS… --out FILE`
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Files or folders of labelled rows (`*.jsonl`, `*.jsonl.gz`)
    #[arg(required = true)]
    rows: Vec<PathBuf>,
    /// Where the weights go
    #[arg(long, value_name = "FILE", default_value = "router.bin")]
    out: PathBuf,
    /// The same seed and rows give the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out a whole family of rows, for an honest number on it (repeat for several)
    #[arg(long, value_name = "FAMILY")]
    without_family: Vec<String>,
    /// Let the embedding read the prompts of left-out families; their outcomes stay unused
    #[arg(long)]
    keep_text: bool,
    /// Also use rows that are not marked `"reuse": "permissive"`; such weights must not be given away
    #[arg(long)]
    any_licence: bool,
}

/// Trains and writes.
///
/// # Errors
/// Where rows cannot be read, none may be used, or the file cannot be written.
pub fn run(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    let rows: Vec<Row> = rows::read(&args.rows)?;
    let options =
        Options { seed: args.seed, without: args.without_family.clone(), keep_text: args.keep_text, any_licence: args.any_licence };
    let weights = train(&rows, &options);
    if weights.forms().next().is_none() {
        bail!("no form of prompt has enough rows to be learned; {} rows read", rows.len());
    }
    std::fs::write(&args.out, weights.write()).with_context(|| format!("cannot write {}", args.out.display()))?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{} written, version {}", args.out.display(), weights.version())?;
    writeln!(output, "{}", weights.provenance)?;
    for (name, count, share) in weights.forms() {
        writeln!(output, "  {name}: {count} rows, heads give {:.0} % of the chances", share * 100.0)?;
    }
    Ok(ExitCode::SUCCESS)
}
