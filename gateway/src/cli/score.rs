//! `spectra score`: scores of requests, a line in and a line out; no model is called.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

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

/// Scores every line.
///
/// # Errors
/// With file and line, for a line that is not a request.
pub fn run(args: &ScoreArgs) -> anyhow::Result<ExitCode> {
    let scorer = rows::scorer(args.weights.as_deref(), &args.learn)?;
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files };
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    for file in files {
        rows::each(file, |row: Row| {
            let score = scorer.score(&row.request()?);
            let mut line = serde_json::json!({"id": row.id, "score": score.need});
            if args.full {
                line["difficulty"] = score.difficulty.into();
                line["p_local"] = score.p_local.into();
                line["p_hosted"] = score.p_hosted.into();
                line["fingerprint"] = format!("{:016x}", score.fingerprint).into();
                line["reasons"] = score.reasons.iter().map(|reason| reason.text()).collect();
            }
            Ok(writeln!(output, "{line}")?)
        })?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}
