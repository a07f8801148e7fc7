//! `spectra verify`: judges files of answers, as the gateway would, without a model.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use spectra_router::verify::corpus::{Corpus, Table};
use spectra_router::verify::{Schema, Settings};

const ROWS: &str = "\
A row is a JSON object on a line, told by its fields:
  text (or base64), finish_reason, optional schema   an answer: pass, repair, continue or refuse
  path, content                                      a file: pass or refuse
  schema, valid[], invalid[]                         instances of a schema: pass or refuse each
Rows that carry what is expected of them (action and expected, verdict, placeholder, kind) are scored on standard error.

  spectra verify --corpus answers.jsonl
  spectra verify --schema order.schema.json answer.txt";

/// `spectra verify …`
#[derive(Debug, clap::Args)]
#[command(after_help = ROWS)]
pub struct VerifyArgs {
    /// A file of rows, `-` for standard input; one JSON line a row goes to standard output
    #[arg(long, value_name = "FILE", required_unless_present = "answer")]
    corpus: Option<PathBuf>,
    /// The JSON Schema of answers that bring none
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Also bend values to the schema (a number in quotes, the case of an enum, a misspelt key)
    #[arg(long)]
    coerce: bool,
    /// Only these checks, by the names of `x-spectra-verify`
    #[arg(long, value_name = "LIST")]
    checks: Option<String>,
    /// A file that is one answer, `-` for standard input
    #[arg(conflicts_with = "corpus")]
    answer: Option<PathBuf>,
}

/// Judges the files of `args`. Ends with 1 if a lone answer is not usable or a line is no row.
///
/// # Errors
/// A file that cannot be read, a schema that is none.
pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut settings = Settings { coerce: args.coerce, ..Settings::default() };
    if let Some(list) = &args.checks {
        settings = settings.with_header(Some(list)).map_err(|error| anyhow::anyhow!(error.message))?;
    }
    let schema = args.schema.as_deref().map(schema).transpose()?;
    let corpus = Corpus::new(settings, schema);
    match (&args.corpus, &args.answer) {
        (Some(path), _) => rows(&corpus, path, &mut BufWriter::new(std::io::stdout().lock()), &mut std::io::stderr().lock()),
        (None, Some(path)) => answer(&corpus, path, &mut std::io::stdout().lock()),
        (None, None) => bail!("nothing to verify: give --corpus FILE or the file of an answer"),
    }
}

fn schema(path: &Path) -> anyhow::Result<Arc<Schema>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Schema::compile(&text).map(Arc::new).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

/// One answer, the whole of a file.
fn answer(corpus: &Corpus, path: &Path, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    let row = serde_json::json!({"id": path.display().to_string(), "text": text, "finish_reason": "stop"});
    let outcome = corpus.judge(&row.to_string()).map_err(|why| anyhow::anyhow!(why))?;
    writeln!(out, "{}", outcome.line)?;
    Ok(if outcome.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A file of rows: a line out for each line in, the score at the end.
fn rows(corpus: &Corpus, path: &Path, out: &mut dyn Write, told: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut table = Table::default();
    let mut spent = Duration::ZERO;
    let mut reader = BufReader::new(open(path)?);
    let mut line = Vec::new();
    let mut ended = ExitCode::SUCCESS;
    for number in 1_usize.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            continue;
        }
        let start = Instant::now();
        let outcome = corpus.judge(text.trim());
        spent += start.elapsed();
        match outcome {
            Ok(outcome) => {
                writeln!(out, "{}", outcome.line)?;
                table.add(&outcome);
            }
            Err(why) => {
                writeln!(told, "{}, line {number}: {why}", path.display())?;
                ended = ExitCode::FAILURE;
            }
        }
    }
    out.flush()?;
    if !table.is_empty() {
        write!(told, "{table}")?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate to print")]
    let per_kb = spent.as_secs_f64() * 1e6 / (table.bytes().max(1) as f64 / 1024.0);
    writeln!(told, "{} bytes in {:.1} ms: {per_kb:.1} µs per KB, reading of rows included", table.bytes(), spent.as_secs_f64() * 1e3)?;
    Ok(ended)
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    Ok(Box::new(std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?))
}
