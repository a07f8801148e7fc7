//! Behaviour 34: one outcome per request, one verdict per attempt, whatever happens at once; every count agrees with the
//! harness's own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use futures_util::future::join_all;
use serde_json::{Value, json};
use spectra_backends::Backend;
use spectra_backends::script::{Answer, from_fn};
use spectra_tests::harness::{PATIENCE, Spectra, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::watch::CHAT;

const ROUTES: &str = r#"
    backends.small.script.answers = [{ text = "" }]
    backends.big.script.answers = [{ text = "" }]
    backends.stalls.script.answers = [{ text = "" }]
    routes.local.ladder = ["small", "big"]
    routes.strong.ladder = ["big"]
    routes.stalls.ladder = ["stalls"]
"#;

/// Good, empty, busy, cut and truncated answers in turn; every fourth of `big` fails too. Counts what is asked.
fn backends(asked: &Arc<AtomicU32>) -> [(&'static str, Backend); 3] {
    let counted = |name: &'static str, answer: fn(usize) -> Answer| {
        let asked = asked.clone();
        let answer = move |_: &_, turn| {
            asked.fetch_add(1, Relaxed);
            answer(turn)
        };
        (name, from_fn(name, answer))
    };
    let small = |turn| match turn % 5 {
        1 => Answer::text(""),
        2 => Answer::error(503, "busy"),
        3 => Answer { cut_after: Some(4), ..Answer::text("Hello there.") },
        4 => Answer { finish: "length".into(), ..Answer::text("Hello, and") },
        _ => Answer::text("Hello."),
    };
    let big = |turn| if turn % 4 == 3 { Answer::error(500, "boom") } else { Answer::text("Hello from big.") };
    let stalls = |_| Answer { stall_after: Some(8), ..Answer::text("Hello for ever.") };
    [counted("small", small), counted("big", big), counted("stalls", stalls)]
}

fn body(model: &str, stream: bool) -> String {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "Say hello." }] }).to_string()
}

/// Reads until the answer has begun, and leaves.
async fn leave(spectra: &Spectra) {
    let mut stream = TcpStream::connect(spectra.main).await.unwrap();
    stream.write_all(&post(CHAT, "", &body("stalls", true))).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("Hell") {
        assert!(tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b34_every_request_ends_once_and_every_attempt_has_one_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let asked = Arc::new(AtomicU32::new(0));
    let text = format!("accounting.ledger = \"{}\"\n{ROUTES}", path.display());
    let spectra = Spectra::on(&text, backends(&asked)).await.unwrap();
    let ask = async |body: String| spectra.post(CHAT, &body).await.unwrap();
    let bodies = (0..60).map(|number| body(["local", "auto", "strong"][number % 3], number % 2 == 0));
    let odd = (0..11).map(|number| if number % 2 == 0 { "{".to_owned() } else { body("nobody", false) });
    let (answered, ()) = tokio::join!(join_all(bodies.chain(odd).map(ask)), async {
        join_all((0..5).map(|_| leave(&spectra))).await;
    });

    let sum = async |family: &str, with: &str| spectra.metric_sum(family, with).await.unwrap();
    let until = Instant::now() + PATIENCE;
    while sum("spectra_requests_total", "").await < 76.0 || sum("spectra_in_flight_requests", "").await > 0.0 {
        assert!(Instant::now() < until, "{} requests ended", sum("spectra_requests_total", "").await);
    }
    let outcome = async |outcome: &str| sum("spectra_requests_total", &format!("outcome=\"{outcome}\"")).await;
    let whole = |answered: &spectra_tests::harness::Answered| {
        let text = answered.text();
        let streamed = answered.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        answered.status == 200 && if streamed { text.contains("[DONE]") } else { text.contains("\"choices\"") }
    };
    let count = |what: &dyn Fn(&spectra_tests::harness::Answered) -> bool| answered.iter().filter(|one| what(one)).count() as f64;
    let delivered = outcome("usable").await + outcome("unusable").await + outcome("unjudged").await;
    assert_eq!(delivered, count(&whole));
    assert_eq!(outcome("rejected").await, count(&|one| matches!(one.status, 400 | 404)));
    assert_eq!(outcome("failed").await, count(&|one| one.status >= 429));
    assert_eq!(outcome("broken").await, count(&|one| one.status == 200 && !whole(one)));
    assert_eq!((outcome("rejected").await, outcome("cancelled").await), (11.0, 5.0));
    assert_eq!(sum("spectra_requests_total", "").await, 76.0);
    assert_eq!(sum("spectra_first_tries_total", "").await, 65.0, "one for each request that a model was asked for");
    assert_eq!(sum("gen_ai_server_request_duration_seconds_count", "").await, 65.0);

    let attempts = f64::from(asked.load(Relaxed));
    assert!(attempts > 80.0, "{attempts}");
    for family in ["spectra_attempts_total", "spectra_asks_total", "gen_ai_client_operation_duration_seconds_count"] {
        assert_eq!(sum(family, "").await, attempts, "{family}");
    }
    let (errors, flaws) = (sum("spectra_backend_errors_total", "").await, sum("spectra_flaws_total", "").await);
    assert_eq!(sum("spectra_attempts_total", "verdict=\"error\"").await, errors);
    assert_eq!(sum("spectra_attempts_total", "verdict=\"flawed\"").await, flaws);

    drop(spectra);
    let rows = rows(&path).await;
    let ids: HashSet<&str> = rows.iter().map(|row| row["request_id"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), ids.len()), (76, 76));
    assert_eq!(rows.iter().map(|row| row["attempts"].as_array().unwrap().len()).sum::<usize>() as f64, attempts);
}

/// The ledger, once its writer has committed all.
async fn rows(path: &std::path::Path) -> Vec<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut out = Vec::new();
        spectra_gateway::ledger::export::export(path, 0, false, &mut out).unwrap();
        let rows: Vec<Value> = String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if rows.len() >= 76 || Instant::now() > until {
            return rows;
        }
        tokio::task::yield_now().await;
    }
}
