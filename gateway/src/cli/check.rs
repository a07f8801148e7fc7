//! `spectra check [FILE]`: is this config usable?

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use spectra_config::Config;

use super::load;

/// `spectra check …`
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Config file; without it the built-in default
    file: Option<PathBuf>,
    /// Print the JSON Schema of the config instead, for editors
    #[arg(long)]
    schema: bool,
}

/// # Errors
/// What is wrong: file, line, caret and remedy.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if args.schema {
        serde_json::to_writer_pretty(&mut out, &Config::json_schema())?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = load(args.file.as_deref())?;
    for notice in &config.notices {
        writeln!(out, "note: {notice}")?;
    }
    let name = args.file.as_ref().map_or_else(|| "the built-in config".to_owned(), |file| file.display().to_string());
    writeln!(out, "{name} is usable: {} backends, {} routes", config.backends.len(), config.routes.len())?;
    Ok(ExitCode::SUCCESS)
}
