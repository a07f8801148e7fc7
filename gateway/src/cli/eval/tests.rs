use std::path::{Path, PathBuf};
use std::process::Command;

use spectra_router::score::metrics::{Random, Scored, measure};
use spectra_router::score::train::Row;

use crate::cli::rows;

/// The reference scorer and its data, where they are at hand: `SPECTRA_DATA`, or `../shared/data` beside the repository.
fn reference() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("SPECTRA_DATA").map_or(beside, PathBuf::from).join("router");
    folder.join("score.py").is_file().then_some(folder)
}

#[test]
fn measures_agree_with_the_reference_scorer() {
    let numpy = Command::new("python3").args(["-c", "import numpy"]).output().is_ok_and(|done| done.status.success());
    let Some(folder) = reference().filter(|_| numpy) else {
        println!("skipped: no reference scorer, or no python3 with numpy");
        return;
    };
    let rows: Vec<Row> = rows::read(&[folder.join("dev")]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (scores, told) = (place.path().join("scores.jsonl"), place.path().join("told.json"));
    // Coarse scores, so that there are ties.
    let mut random = Random(5);
    let given: Vec<f64> = rows.iter().map(|row| (random.unit() * 40.0).floor() + f64::from(row.strong_score - row.weak_score)).collect();
    let lines: Vec<String> =
        rows.iter().zip(&given).map(|(row, score)| serde_json::json!({"id": row.id, "score": score}).to_string()).collect();
    std::fs::write(&scores, lines.join("\n")).unwrap();
    let mut command = Command::new("python3");
    command.arg(folder.join("score.py")).arg(&scores).args(["--split", "dev", "--boot", "0", "--json"]).arg(&told);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&told).unwrap()).unwrap();
    let sources: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.source.as_str()).collect();
    for source in sources.into_iter().chain(["pooled"]) {
        let of = rows.iter().zip(&given).filter(|(row, _)| source == "pooled" || row.source == source);
        let scored = |(row, score): (&Row, &f64)| Scored { score: *score, weak: row.weak_score.into(), strong: row.strong_score.into() };
        let at = measure(&of.map(scored).collect::<Vec<_>>());
        for (name, ours) in
            [("apgr", at.apgr), ("cpt50", at.cpt50), ("cpt80", at.cpt80), ("c95q", at.c95q), ("auc", at.auc), ("aucw", at.auc_weak)]
        {
            let theirs = told[source][name].as_f64().unwrap_or(f64::NAN);
            // Costs are told in percent; they are compared as shares, like the rest.
            let unit = if name.starts_with('c') { 100.0 } else { 1.0 };
            assert!((ours - theirs).abs() / unit < 1e-6 || ours.is_nan() && theirs.is_nan(), "{source} {name}: {ours} and {theirs}");
        }
    }
}
