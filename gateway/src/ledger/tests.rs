//! Cases: what is written is read back, old and surplus rows leave, pressure drops rows and not requests.

use std::time::{Duration, SystemTime};

use super::*;
use crate::kept::KeptText;
use crate::sample::{attempt, record};

const KEEP: Keep = Keep { days: 30, bytes: 512 << 20 };

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    (folder, path)
}

fn named(request_id: &str) -> RecordData {
    let mut one = record(vec![attempt("small", 0, "first", "not_json"), attempt("big", 1, "escalate", "pass")]);
    one.request_id = request_id.into();
    one
}

fn exported(path: &Path) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    export::export(path, 0, true, &mut out).unwrap();
    String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_request_comes_back_with_attempts_reasons_and_feedback() {
    let (_folder, path) = file();
    let ledger = Ledger::start(&path, KEEP).unwrap();
    let mut one = named("req-7");
    one.kept = Some(Box::new(KeptText { prompt: "hi".into(), answer: "ho".into() }));
    ledger.keep(Arc::new(one));
    ledger.feedback(Feedback { request_id: "req-7".into(), usable: false, reason: Some("tests failed".into()) });
    ledger.flush();
    let rows = exported(&path);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["attempts"][0]["flaw"], "not_json");
    assert_eq!(rows[0]["attempts"][1]["model"], "big");
    assert_eq!(rows[0]["feedback"]["reason"], "tests failed");
    assert_eq!(rows[0]["answer"], "ho");
    assert!((rows[0]["reasons"]["words"].as_f64().unwrap() - 0.2).abs() < 1e-6);
    assert_eq!(ledger.route_of("req-7").unwrap(), Some(Some("local".into())));
    assert_eq!(ledger.route_of("req-8").unwrap(), None);
    assert_eq!((ledger.sample().rows, ledger.sample().dropped, ledger.sample().queue), (1, 0, 0));
}

#[test]
fn what_was_learned_survives_a_restart() {
    let (_folder, path) = file();
    let ledger = Ledger::start(&path, KEEP).unwrap();
    let asked = AtomicU64::new(0);
    ledger.keep_state("router", Box::new(move || Some(format!("asked {}", asked.fetch_add(1, Ordering::Relaxed)))));
    ledger.flush();
    assert_eq!(ledger.load_state("router").unwrap().as_deref(), Some("asked 0"));
    drop(ledger);
    let again = Ledger::start(&path, KEEP).unwrap();
    assert_eq!(again.load_state("router").unwrap().as_deref(), Some("asked 1"));
    assert_eq!(again.load_state("other").unwrap(), None);
}

#[test]
fn rows_past_their_days_leave() {
    let (_folder, path) = file();
    let ledger = Ledger::start(&path, KEEP).unwrap();
    let mut old = named("old");
    old.arrived = SystemTime::now() - Duration::from_secs(31 * 86_400);
    ledger.keep(Arc::new(old));
    ledger.keep(Arc::new(named("new")));
    drop(ledger);
    // Retention runs with the first batch of each start.
    let again = Ledger::start(&path, KEEP).unwrap();
    again.flush();
    let ids: Vec<_> = exported(&path).iter().map(|row| row["request_id"].clone()).collect();
    assert_eq!(ids, ["new"]);
}

#[test]
fn a_file_over_its_size_loses_the_oldest_rows() {
    let (_folder, path) = file();
    let ledger = Ledger::start(&path, KEEP).unwrap();
    for number in 0..2_000 {
        let mut one = named(&format!("req-{number}"));
        one.kept = Some(Box::new(KeptText { prompt: "x".repeat(1_000), answer: String::new() }));
        ledger.keep(Arc::new(one));
    }
    drop(ledger);
    let tight = Keep { bytes: 1 << 20, ..KEEP };
    let again = Ledger::start(&path, tight).unwrap();
    again.flush();
    let rows = exported(&path);
    assert!(!rows.is_empty() && rows.len() < 1_000, "{}", rows.len());
    assert_eq!(rows.last().unwrap()["request_id"], "req-1999");
    assert!(again.sample().bytes <= 1 << 20);
}

#[test]
fn a_full_queue_drops_rows_and_says_so() {
    let (_folder, path) = file();
    let ledger = Ledger::start(&path, KEEP).unwrap();
    let blocker = Connection::open(&path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let one = Arc::new(named("req"));
    let sent = (QUEUE_ROWS + 2 * BATCH_ROWS) as u64;
    for _ in 0..sent {
        ledger.keep(one.clone());
    }
    assert!(ledger.sample().dropped > 0);
    blocker.execute_batch("COMMIT").unwrap();
    drop(blocker);
    ledger.flush();
    let sample = ledger.sample();
    assert_eq!(sample.rows + sample.dropped, sent);
}

#[test]
fn an_older_file_becomes_a_newer_one_with_its_rows() {
    let (_folder, path) = file();
    let old = Connection::open(&path).unwrap();
    old.execute_batch(schema::STEPS[0]).unwrap();
    let row = "INSERT INTO requests VALUES (1, 'old', 1, NULL, 'chat', 'auto', 0, 'delivered', 200, NULL, 'local', 'small', NULL, NULL, \
               '', '{}', 'ok', 1, 2, 0.5, 0.5, 1, 1, 1, 1, 1, NULL, NULL); INSERT INTO attempts VALUES (1, 0, 'small', 0, 'first', 'pass', \
               NULL, '', 1, 2, 0.5, 1, 1)";
    old.execute_batch(row).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    drop(old);
    let ledger = Ledger::start(&path, Keep { days: u32::MAX, ..KEEP }).unwrap();
    ledger.keep(Arc::new(named("new")));
    ledger.flush();
    let rows = exported(&path);
    let told: Vec<_> = rows.iter().map(|row| (&row["request_id"], &row["attempts"][0]["started_us"], &row["trace"])).collect();
    let null = serde_json::Value::Null;
    assert_eq!(told, [(&"old".into(), &0.into(), &null), (&"new".into(), &1000.into(), &null)]);
}

#[test]
fn what_was_spent_by_each_key_can_be_asked() {
    let (_folder, path) = file();
    let ledger = Ledger::start(&path, KEEP).unwrap();
    for (key, age_s) in [(Some("alice"), 0), (Some("alice"), 10), (Some("alice"), 7200), (Some("bob"), 0), (None, 0)] {
        let mut one = named("req");
        one.key = key.map(Arc::from);
        one.arrived -= Duration::from_secs(age_s);
        one.cost_usd = 0.25;
        ledger.keep(Arc::new(one));
    }
    ledger.flush();
    let spent = ledger.spent(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    assert_eq!(spent, HashMap::from([("alice".into(), 0.5), ("bob".into(), 0.25)]));
}

#[test]
fn strangers_and_newer_files_are_left_alone() {
    let (_folder, path) = file();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
    assert!(Ledger::start(&path, KEEP).unwrap_err().to_string().contains("something else"));
    let (_folder, path) = file();
    drop(Ledger::start(&path, KEEP).unwrap());
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    assert!(Ledger::start(&path, KEEP).unwrap_err().to_string().contains("newer"));
}
