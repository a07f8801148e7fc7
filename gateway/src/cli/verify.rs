//! `spectra verify`: judges files of answers, as the gateway would, without a model.

use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use spectra_router::verify::corpus::{Corpus, Table};
use spectra_router::verify::{Schema, Settings};

use super::model::progress::Progress;

const ROWS: &str = "\
A row is a JSON object on a line, told by its fields:
  text (or base64), finish_reason, optional schema   an answer: pass, repair, continue or refuse
  path, content                                      a file: pass or refuse
  schema, valid[], invalid[]                         instances of a schema: pass or refuse each
Rows that carry what is expected of them (action and expected, verdict, placeholder, kind) are scored on standard error.

  spectra verify --corpus answers.jsonl
  spectra verify --schema order.schema.json answer.txt

Exit codes
  0  every row was judged, whatever was said of it; a lone answer is usable as it is or after repair
  1  a lone answer is not usable, a line is no row, or a file cannot be read
  2  the command line is wrong";

/// Input that takes longer shows how far it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines that are no rows are told up to this many.
const COMPLAINTS: usize = 5;

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

/// Judges the files of `args`; see `ROWS` for how it ends.
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
        (Some(path), _) => rows(&corpus, path, &mut BufWriter::new(std::io::stdout().lock()), &mut std::io::stderr()),
        (None, Some(path)) => answer(&corpus, path, &mut std::io::stdout().lock()),
        (None, None) => bail!("nothing to verify: give --corpus FILE or the file of an answer"),
    }
}

fn schema(path: &Path) -> anyhow::Result<Arc<Schema>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}; --schema takes a file", path.display()))?;
    let compiled = Schema::compile(&text).map(Arc::new);
    compiled.map_err(|why| anyhow::anyhow!("{}: {why}; --schema takes a JSON Schema, drafts 4 to 2020-12", path.display()))
}

/// One answer, the whole of a file.
fn answer(corpus: &Corpus, path: &Path, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut bytes = Vec::new();
    open(path)?.0.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{} is not UTF-8: an answer is text", path.display()))?;
    let row = serde_json::json!({"id": path.display().to_string(), "text": text, "finish_reason": "stop"});
    let outcome = corpus.judge(&row.to_string()).map_err(|why| anyhow::anyhow!(why))?;
    writeln!(out, "{}", outcome.line)?;
    Ok(if outcome.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A file of rows: a line out for each line in, the score at the end.
fn rows(corpus: &Corpus, path: &Path, out: &mut dyn Write, told: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let mut table = Table::default();
    let (input, size) = open(path)?;
    let mut reader = BufReader::new(input);
    let mut pace = Pace::new(size);
    let mut spent = Duration::ZERO;
    let mut line = Vec::new();
    let (mut judged, mut bad) = (0_usize, 0_usize);
    for number in 1_usize.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).with_context(|| format!("cannot read {}", path.display()))? == 0 {
            break;
        }
        pace.read(line.len());
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
                judged += 1;
            }
            Err(why) => {
                bad += 1;
                if bad <= COMPLAINTS {
                    pace.say(told, &format!("{}, line {number}: {why}", path.display()))?;
                }
            }
        }
    }
    pace.stop();
    out.flush()?;
    if !table.is_empty() {
        write!(told, "{table}")?;
    }
    if judged > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a rate to print")]
        let per_kb = spent.as_secs_f64() * 1e6 / (table.bytes().max(1) as f64 / 1024.0);
        writeln!(told, "{} bytes in {:.1} ms: {per_kb:.1} µs per KB, reading of rows included", table.bytes(), spent.as_secs_f64() * 1e3)?;
    }
    let remedy = "a row is a JSON object on one line (`spectra verify --help`); leave out --corpus for a file that is one answer";
    match (judged, bad) {
        (0, 0) => bail!("no rows in {}: {remedy}", path.display()),
        (_, 0) => Ok(ExitCode::SUCCESS),
        _ => bail!("{bad} lines of {} are no rows, {judged} are: {remedy}", path.display()),
    }
}

/// How far the reading is, shown once it takes long.
struct Pace {
    began: Instant,
    size: Option<u64>,
    done: u64,
    shown: Option<Progress>,
}

impl Pace {
    fn new(size: Option<u64>) -> Self {
        Self { began: Instant::now(), size, done: 0, shown: None }
    }

    fn read(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.shown.is_none() && self.began.elapsed() > PATIENCE {
            let mut progress = Progress::new(std::io::stderr().is_terminal());
            progress.start(self.done, self.size);
            self.shown = Some(progress);
        }
        if let Some(progress) = &mut self.shown {
            progress.at(self.done);
        }
    }

    fn say(&mut self, told: &mut dyn Write, text: &str) -> std::io::Result<()> {
        match &mut self.shown {
            Some(progress) => progress.say(text),
            None => writeln!(told, "{text}")?,
        }
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(progress) = &mut self.shown {
            progress.stop();
        }
    }
}

/// What is read, and how many bytes that will be, if known.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin().lock()), None));
    }
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let about = file.metadata()?;
    if about.is_dir() {
        bail!("{} is a directory: give a file, or - for standard input", path.display());
    }
    Ok((Box::new(file), about.is_file().then_some(about.len())))
}
