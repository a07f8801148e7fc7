//! Lines of JSON from files, folders and standard input: what `score`, `eval`, `train` and `replay` read.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use spectra_router::score::{Outcome, Scorer, Settings, Weights, train::Row};

mod ledger;

/// Every line of the files, in order: labelled rows, or a ledger (its database or its export). A folder stands for its `*.jsonl` and `*.jsonl.gz` files by name; `-` for standard input.
///
/// # Errors
/// With file and line, for what cannot be read.
pub fn read<T: DeserializeOwned>(paths: &[PathBuf]) -> anyhow::Result<Vec<T>> {
    let mut rows = Vec::new();
    for path in files(paths)? {
        each(&path, |row| {
            rows.push(row);
            Ok(())
        })?;
    }
    Ok(rows)
}

/// Calls back for every line of one file.
///
/// # Errors
/// With file and line, for what cannot be read, and what the callback says.
pub fn each<T: DeserializeOwned>(path: &Path, mut call: impl FnMut(T) -> anyhow::Result<()>) -> anyhow::Result<()> {
    lines(path, |place, line| line.and_then(&mut call).with_context(|| place.to_owned()))
}

/// The same, with what is wrong with a line instead of an end at the first bad one; the callback is told the file and line.
///
/// # Errors
/// For a file that cannot be read, and what the callback says.
pub fn lines<T: DeserializeOwned>(path: &Path, mut call: impl FnMut(&str, anyhow::Result<T>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut unpacking = None;
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else if path.extension().is_some_and(|end| end == "gz") {
        let mut child =
            Command::new("gzip").arg("-dc").arg(path).stdout(Stdio::piped()).spawn().context("gzip is needed to read .gz files")?;
        let output = child.stdout.take().context("gzip gave no output")?;
        unpacking = Some(child);
        Box::new(output)
    } else if let Some(lines) = ledger::lines(path).with_context(|| path.display().to_string())? {
        Box::new(std::io::Cursor::new(lines))
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
    };
    for (at, line) in BufReader::new(input).split(b'\n').enumerate() {
        let place = format!("{}:{}", path.display(), at + 1);
        let line = line.with_context(|| place.clone())?;
        // Bytes that are no UTF-8 become the sign for that, and the line is still read.
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_prefix('\u{feff}').unwrap_or(&line).trim();
        if line.is_empty() {
            continue;
        }
        let read = || -> anyhow::Result<Option<T>> {
            let row = ledger::row(serde_json::from_str(line)?);
            Ok(row.map(serde_json::from_value).transpose()?)
        };
        if let Some(row) = read().transpose() {
            call(&place, row)?;
        }
    }
    if let Some(mut child) = unpacking
        && !child.wait().context("gzip")?.success()
    {
        bail!("{} is not a whole gzip file", path.display());
    }
    Ok(())
}

/// A scorer with the weights of a file, or those built in, adapted to labelled rows in their order.
///
/// # Errors
/// Where a file cannot be read.
pub fn scorer(weights: Option<&Path>, learn: &[PathBuf]) -> anyhow::Result<Scorer> {
    let weights = match weights {
        Some(path) if path == Path::new("v0") => Weights::v0(),
        Some(path) => Weights::read(&std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
            .with_context(|| path.display().to_string())?,
        None => Weights::builtin(),
    };
    let scorer = Scorer::new(weights, Settings::default());
    for path in files(learn)? {
        each(&path, |row: Row| teach(&scorer, &row))?;
    }
    scorer.settle(true);
    Ok(scorer)
}

/// Lets a scorer see the outcomes of a labelled row, as far as they are known. An answer is usable from a score of 0.5.
///
/// # Errors
/// Where the row is not a chat request.
pub fn teach(scorer: &Scorer, row: &Row) -> anyhow::Result<()> {
    let score = scorer.score(&row.request()?);
    for (local, quality) in [(true, row.weak_score), (false, row.strong_score)] {
        if !quality.is_nan() {
            scorer.teach(&score, Outcome { local, usable: quality >= 0.5, propensity: 1.0 });
        }
    }
    Ok(())
}

fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let mut inside: Vec<PathBuf> = std::fs::read_dir(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.to_string_lossy().ends_with(".jsonl") || path.to_string_lossy().ends_with(".jsonl.gz"))
            .collect();
        inside.sort();
        found.append(&mut inside);
    }
    Ok(found)
}
