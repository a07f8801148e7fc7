//! The corpora of answers, held against the bars that verification and repair must meet.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says what it saw and fails by panic")]

use std::path::{Path, PathBuf};

use spectra_router::verify::Settings;
use spectra_router::verify::corpus::{Corpus, Grade, Table};

/// Judges every row of a file. Prints what went wrong, so that a failure says which row.
fn judged(path: &Path) -> Table {
    let corpus = Corpus::new(Settings::default(), None);
    let mut table = Table::default();
    let text = std::fs::read_to_string(path).unwrap();
    for (number, line) in text.lines().enumerate() {
        let outcome = corpus.judge(line).unwrap_or_else(|why| panic!("{}, line {}: {why}", path.display(), number + 1));
        if outcome.scores.iter().any(|score| score.grade == Grade::Wrong) {
            println!("wrong: {}", outcome.line.chars().take(300).collect::<String>());
        }
        table.add(&outcome);
    }
    assert!(!table.is_empty(), "{} holds no row with a claim", path.display());
    println!("{}\n{table}", path.display());
    table
}

/// At least `correct` percent right and at most `wrong` percent wrong of the groups that start with `prefix`.
fn check(table: &Table, prefix: &str, correct: f64, wrong: f64) {
    let [right, declined, bad] = table.counts(prefix);
    let rows = right + declined + bad;
    assert!(rows > 0, "no row in {prefix}");
    let percent = |count: usize| f64::from(u32::try_from(count).unwrap()) * 100.0 / f64::from(u32::try_from(rows).unwrap());
    assert!(percent(right) >= correct, "{prefix}: {right} of {rows} right, wanted {correct} %");
    assert!(percent(bad) <= wrong, "{prefix}: {bad} of {rows} wrong, allowed {wrong} %");
}

fn malformed(table: &Table) {
    check(table, "malformed pass", 100.0, 0.0);
    check(table, "malformed repair safe", 98.0, 0.5);
    check(table, "malformed close", 98.0, 0.5);
    check(table, "malformed repair heuristic", 0.0, 0.5);
    check(table, "malformed continue", 100.0, 0.0);
    check(table, "malformed refuse", 100.0, 0.0);
}

fn semantic(table: &Table) {
    check(table, "semantic reask", 95.0, 5.0);
    check(table, "semantic usable", 98.0, 2.0);
    check(table, "semantic repair", 95.0, 0.0);
}

fn files(table: &Table) {
    check(table, "file placeholder", 95.0, 5.0);
    check(table, "file legitimate", 98.0, 2.0);
}

fn validity(table: &Table) {
    check(table, "json must_accept", 100.0, 0.0);
    check(table, "json must_reject", 100.0, 0.0);
    check(table, "json either", 100.0, 0.0);
}

fn schemas(table: &Table) {
    check(table, "schema", 100.0, 0.0);
}

type Bar = fn(&Table);

fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn malformed_rows() {
    malformed(&judged(&own("malformed.jsonl")));
}

#[test]
fn validity_rows() {
    validity(&judged(&own("json_validity.jsonl")));
}

#[test]
fn semantic_rows() {
    semantic(&judged(&own("semantic.jsonl")));
}

#[test]
fn file_rows() {
    files(&judged(&own("files.jsonl")));
}

/// The whole corpora, where they are at hand: `SPECTRA_DATA`, or `../shared/data` beside the repository.
#[test]
fn whole_corpora() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("SPECTRA_DATA").map_or(beside, PathBuf::from).join("reliability");
    let checks: [(&str, Bar); 5] = [
        ("malformed/malformed_json.dev.jsonl", malformed),
        ("malformed/json_validity.jsonl", validity),
        ("semantic/semantic_outputs.dev.jsonl", semantic),
        ("semantic/placeholder_files.dev.jsonl", files),
        ("schemas/schemas.dev.jsonl", schemas),
    ];
    for (file, check) in checks {
        let path = folder.join(file);
        if path.exists() {
            check(&judged(&path));
        } else {
            println!("skipped: {} is not there", path.display());
        }
    }
}
