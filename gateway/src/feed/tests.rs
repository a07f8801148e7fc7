//! Cases: what the page is told.

use serde_json::Value;

use super::*;
use crate::kept::KeptText;
use crate::sample::{attempt, record};

fn told(feed: &Feed, since: Since) -> Value {
    feed.live(since, &Levels::default())
}

fn push(feed: &Feed, record: Arc<RecordData>) {
    if feed.count(&record) {
        feed.remember(record, Trail::default());
    }
}

fn escalated(request_id: &str) -> Arc<RecordData> {
    let mut one = record(vec![attempt("small", 0, "first", "not_json"), attempt("big", 1, "escalate", "pass")]);
    one.request_id = request_id.into();
    one.kept = Some(Box::new(KeptText { prompt: "secret".into(), answer: "secret".into() }));
    Arc::new(one)
}

#[test]
fn a_decision_can_be_opened_and_is_counted() {
    let feed = Feed::default();
    push(&feed, escalated("req-1"));
    let told = told(&feed, Since::default());
    let decision = &told["decisions"][0];
    assert_eq!(decision["ended"], "usable");
    assert_eq!(decision["attempts"][0]["verdict"], "not_json");
    assert_eq!(decision["attempts"][1]["kind"], "pass");
    assert_eq!(decision["reasons"][0][0], "words");
    assert_eq!(decision["ms"]["total"], 120.0);
    let counts = &told["intervals"][0]["routes"]["local"];
    assert_eq!(counts["ended"], serde_json::json!([1, 0, 0, 0, 0, 0, 0]));
    assert_eq!(counts["first"], serde_json::json!([0, 1, 0, 0, 0]));
    assert_eq!(counts["total"][0][1], 1);
}

#[test]
fn text_is_told_only_where_the_operator_keeps_it() {
    let feed = Feed::default();
    push(&feed, escalated("req-1"));
    assert!(!told(&feed, Since::default()).to_string().contains("secret"));
    let allowed = Levels { keeps_text: true, ..Levels::default() };
    assert_eq!(feed.live(Since::default(), &allowed)["decisions"][0]["prompt"], "secret");
}

#[test]
fn only_what_is_new_is_told_and_memory_is_bounded() {
    let feed = Feed::default();
    for number in 0..DECISIONS + 10 {
        push(&feed, escalated(&format!("req-{number}")));
    }
    let all = told(&feed, Since::default());
    assert_eq!(all["decisions"].as_array().unwrap().len(), DECISIONS);
    assert_eq!(all["next"], DECISIONS + 10);
    let new = told(&feed, Since::parse(Some("decision=508&interval=99999999999")));
    assert_eq!(new["decisions"].as_array().unwrap().len(), 2);
    assert_eq!(new["intervals"].as_array().unwrap().len(), 0);
}

#[test]
fn of_many_that_went_well_some_are_remembered_and_all_are_counted() {
    let mut inner = Inner::default();
    let (good, bad) = (record(vec![attempt("big", 0, "first", "pass")]), escalated("req-1"));
    let wanted = |inner: &mut Inner, second| (0..3 * PLAIN_A_SECOND).filter(|_| inner.wants(&good, second)).count();
    assert_eq!(wanted(&mut inner, 7), PLAIN_A_SECOND as usize);
    assert!(inner.wants(&bad, 7));
    assert_eq!(wanted(&mut inner, 8), PLAIN_A_SECOND as usize);
    let feed = Feed::default();
    (0..3 * PLAIN_A_SECOND).for_each(|_| push(&feed, Arc::new(good.clone())));
    let told = told(&feed, Since::default());
    let counted = |interval: &Value| interval["routes"]["local"]["ended"][0].as_u64().unwrap();
    assert_eq!(told["intervals"].as_array().unwrap().iter().map(counted).sum::<u64>(), u64::from(3 * PLAIN_A_SECOND));
}

#[test]
fn feedback_finds_its_request() {
    let feed = Feed::default();
    push(&feed, escalated("req-1"));
    let (_, route) = feed.feedback("req-1", false).unwrap();
    assert_eq!(route.as_deref(), Some("local"));
    assert!(feed.feedback("req-2", true).is_none());
    let told = told(&feed, Since::default());
    assert_eq!(told["decisions"][0]["feedback"], false);
    assert_eq!(told["intervals"][0]["routes"]["local"]["feedback"], serde_json::json!([1, 0]));
}

#[test]
fn bins_cover_all_times() {
    for (ms, expected) in [(0.0, 0), (0.1, 0), (0.2, 4), (1.6, 16), (1e9, BINS - 1)] {
        assert_eq!(bin(Duration::from_secs_f64(ms / 1e3)), expected, "{ms}");
    }
}
