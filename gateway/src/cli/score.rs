//! `spectra score`: scores of requests, a line in and a line out; no model is called.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use serde::Deserialize;
use serde_json::Value;
use spectra_router::score::Scorer;
use spectra_router::score::train::Row;

use super::rows;

/// `spectra score < requests.jsonl`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A line in: {\"id\", \"request\": {chat completion body}} or {\"id\", \"prompt\", \"system\"?}.\nA line out: {\"id\", \"score\"}; higher means that the strong model is needed more."
)]
pub struct ScoreArgs {
    /// Files of requests; without one, standard input
    files: Vec<PathBuf>,
    /// First adapt to these labelled rows, in their order: {"prompt" or "request", "weak_score", "strong_score"}
    #[arg(long, value_name = "FILE")]
    learn: Vec<PathBuf>,
    /// Weights to use instead of those built in; `v0` for the hand-set ones
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Also print difficulty, chances, reasons and the template's fingerprint
    #[arg(long)]
    full: bool,
}

/// A line: other fields of labelled rows may stand there, whatever they hold.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: Value,
    prompt: Option<String>,
    system: Option<String>,
    request: Option<Value>,
}

/// Scores every line. One that is no request has no score: that is said on standard error, and at the end by the exit code.
///
/// # Errors
/// For a file that cannot be read, or output that cannot be written.
pub fn run(args: &ScoreArgs) -> anyhow::Result<ExitCode> {
    let scorer = rows::scorer(args.weights.as_deref(), &args.learn)?;
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files };
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut scored, mut bad) = (0_u64, 0_u64);
    for file in files {
        rows::lines(file, |place, line: anyhow::Result<Line>| {
            match line.and_then(|line| answer(&scorer, line, args.full)) {
                Ok(line) => {
                    scored += 1;
                    writeln!(output, "{line}")?;
                }
                Err(why) => {
                    bad += 1;
                    writeln!(std::io::stderr(), "error: {place}: {why:#}")?;
                }
            }
            Ok(())
        })?;
    }
    output.flush()?;
    if bad > 0 {
        writeln!(std::io::stderr(), "{bad} of {} lines have no score", scored + bad)?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(scorer: &Scorer, line: Line, full: bool) -> anyhow::Result<Value> {
    if line.prompt.is_none() && line.request.is_none() {
        bail!("neither \"request\" nor \"prompt\"");
    }
    let row = Row { prompt: line.prompt.unwrap_or_default(), system: line.system, request: line.request, ..Row::default() };
    let score = scorer.score(&row.request()?);
    let mut answer = serde_json::json!({"id": line.id, "score": score.need});
    if full {
        answer["difficulty"] = score.difficulty.into();
        answer["p_local"] = score.p_local.into();
        answer["p_hosted"] = score.p_hosted.into();
        answer["fingerprint"] = format!("{:016x}", score.fingerprint).into();
        answer["reasons"] = score.reasons.iter().map(|reason| reason.text()).collect();
    }
    Ok(answer)
}
