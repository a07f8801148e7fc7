//! Killed with -9 at random points and run again: the same tree, no finished file asked twice, no half file under a
//! name. And the overwrite policies, seen from outside.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::author::{Work, works};
use crate::support::faults::draw;
use crate::support::upstream::{Script, Upstream};
use crate::support::{command, run};

const KILLS: u64 = 50;

fn large() -> Work {
    works().into_iter().find(|work| work.level == "L").unwrap()
}

fn calm() -> Upstream {
    Upstream::start(Script { seed: 1, percent: 0, per_file: false })
}

/// Every file under a folder but our notes, with its text.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != ".spectra" {
                open.push(path);
            } else if path.is_file() {
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn killed_at_random_points_it_goes_on() {
    let work = large();
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let started = Instant::now();
    let ran = run(command(&work, &calm().base_url, &whole));
    let takes = u64::try_from(started.elapsed().as_micros()).unwrap();
    assert_eq!(ran.code, 0, "{}", ran.output);
    let whole = tree(&whole);

    for round in 0..KILLS {
        let upstream = calm();
        let out = dir.path().join(format!("killed-{round}"));
        let mut child = command(&work, &upstream.base_url, &out).stdout(Stdio::null()).spawn().unwrap();
        // A random point of the run; some rounds end before their kill, which is a point, too.
        std::thread::sleep(Duration::from_micros(draw(&format!("kill {round}")) % takes));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = tree(&out);
        for (path, text) in &left {
            let facts = whole.get(path).is_some_and(|_| !work.texts.contains_key(path));
            assert!(facts || whole.get(path) == Some(text) || is_low(&work, path), "half a file: {path}: {text:?}");
        }
        let before = upstream.asked();
        let ran = run(command(&work, &upstream.base_url, &out));
        assert_eq!(ran.code, 0, "{}", ran.output);
        assert_eq!(tree(&out), whole, "round {round}");
        let after = upstream.asked();
        for path in left.keys() {
            let key = format!("{}/{path}", work.id);
            assert_eq!(before.get(&key), after.get(&key), "round {round}: {path} was finished and asked again");
        }
    }
}

/// Facts about files that were not there yet.
fn is_low(work: &Work, path: &str) -> bool {
    let files = work.plan["files_to_create"].as_array().unwrap();
    files.iter().any(|file| file["path"] == path && file["priority"] == "low")
}

#[test]
fn a_second_run_changes_nothing() {
    let (work, upstream) = (large(), calm());
    let dir = tempfile::tempdir().unwrap();
    run(command(&work, &upstream.base_url, dir.path()));
    let (before, calls) = (tree(dir.path()), upstream.calls());
    let manifest = std::fs::read(dir.path().join(".spectra/manifest.json")).unwrap();
    let ran = run(command(&work, &upstream.base_url, dir.path()));
    assert_eq!((ran.code, upstream.calls()), (0, calls), "{}", ran.output);
    assert_eq!(tree(dir.path()), before);
    assert_eq!(std::fs::read(dir.path().join(".spectra/manifest.json")).unwrap(), manifest);
}

#[test]
fn an_edited_file_stays_and_a_placeholder_goes() {
    let (work, upstream) = (large(), calm());
    let dir = tempfile::tempdir().unwrap();
    run(command(&work, &upstream.base_url, dir.path()));
    let edited = dir.path().join("app/store.py");
    let mine = std::fs::read_to_string(&edited).unwrap() + "\nMINE = 1\n";
    std::fs::write(&edited, &mine).unwrap();
    let hollow = dir.path().join("app/main.py");
    std::fs::write(&hollow, "# TODO: implement\n").unwrap();
    let ran = run(command(&work, &upstream.base_url, dir.path()));
    assert_eq!(ran.code, 0, "{}", ran.output);
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), mine);
    assert_eq!(std::fs::read_to_string(&hollow).unwrap(), work.texts["app/main.py"]);
    assert_eq!(ran.summary["files"]["app/store.py"]["is"], "kept");

    let mut never = command(&work, &upstream.base_url, dir.path());
    std::fs::write(&hollow, "# TODO: implement\n").unwrap();
    let ran = run({
        never.args(["--overwrite", "never"]);
        never
    });
    assert_eq!(ran.code, 2, "a placeholder that must stay is told: {}", ran.output);
    assert_eq!(std::fs::read_to_string(&hollow).unwrap(), "# TODO: implement\n");

    let mut always = command(&work, &upstream.base_url, dir.path());
    let ran = run({
        always.args(["--overwrite", "always"]);
        always
    });
    assert_eq!(ran.code, 0, "{}", ran.output);
    assert_eq!(std::fs::read_to_string(&edited).unwrap(), work.texts["app/store.py"]);
    assert_eq!(std::fs::read_to_string(dir.path().join(".spectra/backup/app/store.py.0")).unwrap(), mine);
}

#[test]
fn dry_run_and_plan_only_write_nothing() {
    let (work, upstream) = (large(), calm());
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("service");
    let with = |flags: &[&str]| {
        let mut command = command(&work, &upstream.base_url, &out);
        command.args(flags);
        run(command)
    };
    assert_eq!(with(&["--dry-run"]).code, 0);
    let printed = command(&work, &upstream.base_url, &out).arg("--plan-only").output().unwrap();
    assert!(printed.status.success() && !out.exists());
    let plan = dir.path().join("plan.json");
    std::fs::write(&plan, &printed.stdout).unwrap();
    let calls = upstream.asked()[&format!("{}/service_plan", work.id)];
    assert_eq!(with(&["--plan", plan.to_str().unwrap()]).code, 0);
    assert_eq!(upstream.asked()[&format!("{}/service_plan", work.id)], calls, "a given plan is not asked for");
}

#[test]
fn a_spent_budget_is_told_and_gone_on_from() {
    let (work, upstream) = (large(), calm());
    let dir = tempfile::tempdir().unwrap();
    let mut short = command(&work, &upstream.base_url, dir.path());
    short.args(["--calls", "4"]);
    let ran = run(short);
    assert_eq!(ran.code, 2);
    let failed = ran.summary["files"].as_object().unwrap().values().filter(|outcome| outcome["is"] == "failed");
    assert!(failed.count() > 0, "{}", ran.output);
    let ran = run(command(&work, &upstream.base_url, dir.path()));
    assert_eq!(ran.code, 0, "{}", ran.output);
}
