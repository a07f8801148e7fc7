//! `spectra explain [FILE]`: what would be done with a chat request, and why. No model is called.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use spectra_backends::ChatRequest;
use spectra_router::{Asked, Explanation, Router};

use super::load;

/// `spectra explain …`
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The body of a chat completion request; without it, or as `-`, standard input
    file: Option<PathBuf>,
    /// Config file; without it the built-in default
    #[arg(long, short, value_name = "FILE", env = "SPECTRA_CONFIG")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// # Errors
/// A config or a request that cannot be used.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let body = match args.file.as_deref().filter(|file| file.as_os_str() != "-") {
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("cannot read standard input")?;
            body
        }
    };
    let config = load(args.config.as_deref())?;
    let request = ChatRequest::parse(body.into()).map_err(|error| anyhow::anyhow!("not a chat request: {error}"))?;
    let router = Router::new(&config, crate::fleet::described(&config, args.config.as_deref().and_then(std::path::Path::parent))?)?;
    let explanation = match router.explain(&request, &Asked::default()) {
        Ok(explanation) => explanation,
        Err(error) => bail!("{error}"),
    };
    let mut out = std::io::stdout();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &explanation)?;
        writeln!(out)?;
    } else {
        print(&explanation, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(explanation: &Explanation, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "route       {} ({})", explanation.route, explanation.why)?;
    if let Some(difficulty) = explanation.difficulty {
        writeln!(out, "difficulty  {difficulty:.3}")?;
    }
    if let (Some(local), Some(hosted)) = (explanation.p_local, explanation.p_hosted) {
        writeln!(out, "usable      local {:.0} %, hosted {:.0} % (expected)", local * 100.0, hosted * 100.0)?;
    }
    for reason in &explanation.reasons {
        writeln!(out, "  {:+.2}  {} ({})", reason.weight, reason.text, reason.feature)?;
    }
    for way in &explanation.otherwise {
        writeln!(out, "otherwise   {way}")?;
    }
    let rungs: Vec<String> = explanation.ladder.iter().map(|rung| rung.join(" or ")).collect();
    writeln!(out, "ladder      {}", rungs.join(" -> "))?;
    for (name, why) in &explanation.excluded {
        writeln!(out, "excluded    {name}: {why}")?;
    }
    writeln!(out, "hold        {}", serde_json::to_string(&explanation.hold).unwrap_or_default())?;
    writeln!(out, "bounds      {} attempts, {} ms", explanation.attempts, explanation.deadline_ms)
}
