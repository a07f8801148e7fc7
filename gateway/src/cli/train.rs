//! `spectra train`: from labelled rows to a weights file.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use spectra_router::score::train::{Left, Options, Row, train};

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
    let (weights, left) = train(&rows, &options);
    if weights.forms().next().is_none() {
        bail!("nothing was learned from {} rows{}", rows.len(), told(left));
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

/// Why rows taught nothing, and what to do about it.
fn told(left: Left) -> String {
    let reasons = [
        (left.barred, "may not be used: mark your own \"reuse\": \"own\", or give --any-licence"),
        (left.few, "are of forms with fewer than 150 rows, or without a fixed last line: gather more, or leave them to learning online"),
        (
            left.alike,
            "are of forms whose outcomes are all alike: there is nothing to tell apart, and the template's own counts say it already",
        ),
        (left.no_gain, "are of forms whose outcomes length and cues foretell as well: heads would add noise"),
    ];
    let told = reasons.iter().filter(|(rows, _)| *rows > 0);
    told.map(|(rows, why)| format!("\n  {rows} {why}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::kept::KeptText;
    use crate::ledger::Ledger;
    use crate::sample::{attempt, record};

    /// Requests through the ledger's writer, two of three on the local route; `usable` says what became of one.
    fn ledger(path: &Path, count: usize, usable: impl Fn(usize) -> bool) {
        let ledger = Ledger::at(path).unwrap();
        for at in 0..count {
            let (model, side) = if at % 3 == 0 { ("big", "strong") } else { ("small", "local") };
            let mut one = record(vec![attempt(model, 0, "first", if usable(at) { "pass" } else { "not_json" })]);
            one.request_id = format!("req-{at}").into();
            one.side = Some(side);
            let deed =
                if at % 2 == 0 { "Describe the river, the harbour beside it and the old boats of town" } else { "Name the river of town" };
            // Every one names another town: of rows that ask the same, all or none are held out.
            let town: String =
                [at / 26, at % 26].iter().filter_map(|letter| char::from_digit(10 + u32::try_from(*letter).unwrap(), 36)).collect();
            let prompt = format!("user: {deed} {town}\nAnswer with one word.");
            one.kept = Some(Box::new(KeptText { prompt, answer: String::new() }));
            ledger.keep(Arc::new(one));
        }
        ledger.flush();
    }

    fn trained(path: &Path, out: &Path) -> anyhow::Result<ExitCode> {
        run(&TrainArgs {
            rows: vec![path.to_owned()],
            out: out.to_owned(),
            seed: 1,
            without_family: Vec::new(),
            keep_text: false,
            any_licence: false,
        })
    }

    #[test]
    fn a_ledgers_file_trains_weights_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, out) = (|name: &str| folder.path().join(name), folder.path().join("router.bin"));
        // Too few for an embedding, which takes a debug build minutes. The short deed is too much for the local model, which length
        // would not say; a ledger knows one route's outcome of each request only.
        ledger(&path("told"), 240, |at| at % 2 == 0 || at % 3 == 0);
        trained(&path("told"), &out).unwrap();
        let weights = spectra_router::score::Weights::read(&std::fs::read(&out).unwrap()).unwrap();
        assert!(weights.forms().any(|(name, rows, share)| name == "ledger" && rows == 240 && share > 0.0), "{}", weights.provenance);
        for (name, count, usable, said) in
            [("alike", 240, true, "240 are of forms whose outcomes are all alike"), ("few", 20, false, "20 are of forms with fewer")]
        {
            ledger(&path(name), count, |at| usable || at % 2 == 0);
            let why = trained(&path(name), &out).unwrap_err().to_string();
            assert!(why.contains(said), "{why}");
        }
    }
}
