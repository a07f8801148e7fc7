//! Slot, queue and deadlines. Each case has one short deadline and the others out of reach, so that a slow machine
//! changes nothing.

use std::sync::atomic::AtomicUsize;

use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::Notify;

use super::*;
use crate::{ChatRequest, ChunkStream};
use tower::ServiceExt;

const FAR: u64 = 600_000;
const SHORT: u64 = 20;
const FAR_DEADLINES: config::Deadlines = config::Deadlines { connect_ms: FAR, first_chunk_ms: FAR, idle_ms: FAR, total_ms: FAR };
const NEVER_OPEN: config::Breaker =
    config::Breaker { failure_share: 2.0, window: 20, min_attempts: 5, open_ms: FAR, open_max_ms: FAR, unusable_weight: 0.5 };

fn ask(stream: bool, within_ms: u64) -> Ask {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream});
    let request = ChatRequest::parse(body.to_string().into()).unwrap();
    Ask {
        request,
        deadline: Instant::now() + Duration::from_millis(within_ms),
        request_id: "r".into(),
        traceparent: None,
        stops_loops: false,
    }
}

fn chunk(finish: Option<&str>) -> Chunk {
    Chunk::parse(json!({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}]}).to_string().into()).unwrap()
}

/// Where a backend stops saying anything, or what it says instead of an answer.
#[derive(Clone, Debug)]
enum Habit {
    Answers,
    StallsAtHead,
    /// After so many chunks; with 3, the last one finishes.
    StallsAfter(usize),
    /// Chunks without end or pause.
    Floods,
    Fails(BackendError),
}

fn backend(habit: Habit) -> Backend {
    Shared::new(tower::service_fn(move |_: Ask| {
        let habit = habit.clone();
        async move {
            match &habit {
                Habit::StallsAtHead => std::future::pending().await,
                Habit::Fails(error) => return Err(error.clone()),
                _ => {}
            }
            let chunks: ChunkStream = Box::pin(async_stream::stream! {
                for at in 0.. {
                    match habit {
                        Habit::StallsAfter(count) if at == count => std::future::pending().await,
                        Habit::Floods => tokio::task::yield_now().await,
                        _ if at == 3 => break,
                        _ => {}
                    }
                    yield Ok(chunk((at == 2).then_some("stop")));
                }
            });
            Ok(Reply { headers: http::HeaderMap::new(), chunks })
        }
    }))
}

/// How an attempt ended: chunks, then `ok`, the phase that timed out, or the error's kind.
async fn run(backend: &Backend, ask: Ask) -> (usize, String) {
    let mut seen = 0;
    let told = |error: &BackendError| match error {
        BackendError::Timeout { phase, .. } => phase.as_str().to_owned(),
        other => other.kind().to_owned(),
    };
    let end = match backend.clone().oneshot(ask).await {
        Err(error) => told(&error),
        Ok(mut reply) => loop {
            match reply.chunks.next().await {
                Some(Ok(_)) => seen += 1,
                Some(Err(error)) => break told(&error),
                None => break "ok".to_owned(),
            }
        },
    };
    (seen, end)
}

#[tokio::test]
async fn b13_each_phase_has_its_deadline() {
    let first = config::Deadlines { first_chunk_ms: SHORT, ..FAR_DEADLINES };
    let idle = config::Deadlines { idle_ms: SHORT, ..FAR_DEADLINES };
    let total = config::Deadlines { total_ms: SHORT, ..FAR_DEADLINES };
    for (stream, deadlines, within, habit, expected) in [
        (true, FAR_DEADLINES, FAR, Habit::Answers, (Some(3), "ok")),
        (true, first, FAR, Habit::StallsAtHead, (Some(0), "first_chunk")),
        (true, first, FAR, Habit::StallsAfter(0), (Some(0), "first_chunk")),
        (true, idle, FAR, Habit::StallsAfter(1), (Some(1), "idle")),
        (true, idle, FAR, Habit::StallsAfter(3), (Some(3), "idle")),
        (true, total, FAR, Habit::StallsAtHead, (Some(0), "total")),
        (true, total, FAR, Habit::StallsAfter(2), (Some(2), "total")),
        (true, total, FAR, Habit::Floods, (None, "total")),
        // The caller's deadline comes first.
        (true, FAR_DEADLINES, SHORT, Habit::StallsAtHead, (Some(0), "total")),
        (true, FAR_DEADLINES, SHORT, Habit::Floods, (None, "total")),
        // A whole answer has no first chunk before its end.
        (false, config::Deadlines { total_ms: SHORT * 3, ..first }, FAR, Habit::StallsAtHead, (Some(0), "total")),
        (false, total, FAR, Habit::StallsAfter(0), (Some(0), "total")),
    ] {
        let gate = Gate::new(1, 0, deadlines, NEVER_OPEN);
        let (chunks, end) = run(&gate.guard(backend(habit.clone())), ask(stream, within)).await;
        assert_eq!(end, expected.1, "{habit:?} {deadlines:?}");
        assert!(expected.0.is_none_or(|expected| expected == chunks), "{habit:?}: {chunks} chunks");
        assert_eq!(gate.load().in_flight, 0, "{habit:?}");
    }
}

#[tokio::test]
async fn b32_the_queue_is_bounded_and_who_leaves_it_gives_the_place_back() {
    let gate = Gate::new(1, 1, FAR_DEADLINES, NEVER_OPEN);
    let backend = gate.guard(backend(Habit::Answers));
    let held = backend.clone().oneshot(ask(true, FAR)).await.unwrap();
    let mut waiting = Box::pin(run(&backend, ask(true, FAR)));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!((gate.load().in_flight, gate.load().queued), (1, 1));
    assert_eq!(run(&backend, ask(true, FAR)).await, (0, "overloaded".into()));
    drop(waiting);
    assert_eq!(gate.load().queued, 0);
    let mut waiting = Box::pin(run(&backend, ask(true, FAR)));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop(held);
    assert_eq!(waiting.await, (3, "ok".into()));
    assert_eq!((gate.load().in_flight, gate.load().queued), (0, 0));
}

#[tokio::test]
async fn b32_who_would_wait_longer_than_his_deadline_is_refused_at_once() {
    let gate = Gate::new(1, 100, FAR_DEADLINES, NEVER_OPEN);
    gate.held_us.store(60_000_000, Relaxed);
    let backend = gate.guard(backend(Habit::Answers));
    let held = backend.clone().oneshot(ask(true, FAR)).await.unwrap();
    // A minute each: the first in the queue waits one, too long for one who has thirty seconds.
    let error = backend.clone().oneshot(ask(true, 30_000)).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)), "{error}");
    drop(held);
}

#[tokio::test]
async fn b15_dropping_the_stream_frees_slot_and_exchange_at_once() {
    struct Gone(Arc<Notify>, Arc<AtomicUsize>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.1.fetch_add(1, Relaxed);
            self.0.notify_one();
        }
    }
    let (gone, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (signal, counter) = (Arc::clone(&gone), Arc::clone(&count));
    let gate = Gate::new(1, 1, FAR_DEADLINES, config::Breaker { failure_share: 0.5, min_attempts: 1, ..NEVER_OPEN });
    let backend = gate.guard(Shared::new(tower::service_fn(move |_: Ask| {
        let exchange = Gone(Arc::clone(&signal), Arc::clone(&counter));
        async move {
            let chunks = async_stream::stream! {
                let _exchange = exchange;
                yield Ok(chunk(None));
                std::future::pending::<()>().await;
            };
            Ok(Reply { headers: http::HeaderMap::new(), chunks: Box::pin(chunks) })
        }
    })));
    for round in 1..=3 {
        let mut reply = backend.clone().oneshot(ask(true, FAR)).await.unwrap();
        assert!(reply.chunks.next().await.unwrap().is_ok());
        assert_eq!(gate.load().in_flight, 1);
        drop(reply);
        gone.notified().await;
        assert_eq!((count.load(Relaxed), gate.load().in_flight), (round, 0));
    }
    assert_eq!(gate.load().breaker, State::Closed, "a caller who leaves is no failure of the backend");
}

#[tokio::test]
async fn b17_failures_and_useless_answers_open_the_breaker() {
    let rules = config::Breaker { failure_share: 0.5, min_attempts: 2, ..NEVER_OPEN };
    let broken = BackendError::Broken { what: "x".into() };
    let refused = BackendError::Upstream { status: 400, headers: Box::default(), body: "{}".into() };
    for (habit, usable, opens) in [
        (Habit::Fails(broken), None, true),
        (Habit::Fails(refused), None, false),
        (Habit::Answers, Some(true), false),
        (Habit::Answers, Some(false), true),
    ] {
        let gate = Gate::new(4, 4, FAR_DEADLINES, rules);
        let backend = gate.guard(backend(habit.clone()));
        for _ in 0..2 {
            run(&backend, ask(true, FAR)).await;
            if let Some(usable) = usable {
                gate.report(usable);
            }
        }
        assert_eq!(gate.load().breaker == State::Open, opens, "{habit:?} {usable:?}");
        assert_eq!(run(&backend, ask(true, FAR)).await.1 == "cooling_down", opens, "{habit:?}");
    }
}

#[tokio::test]
async fn b14_retry_after_of_the_upstream_is_honoured_within_the_bound() {
    for (status, header, least, most) in
        [(429, "200", 100, 200), (429, "9999", 500, 600), (503, "200", 100, 200), (500, "200", 0, 0), (400, "200", 0, 0)]
    {
        let gate = Gate::new(4, 4, FAR_DEADLINES, NEVER_OPEN);
        let mut headers = Box::<http::HeaderMap>::default();
        headers.insert("retry-after", header.parse().unwrap());
        let backend = gate.guard(backend(Habit::Fails(BackendError::Upstream { status, headers, body: "{}".into() })));
        run(&backend, ask(false, FAR)).await;
        let wait = gate.load().retry_after.map_or(0, |wait| wait.as_secs());
        assert!((least..=most).contains(&wait), "{status} {header}: {wait} s");
    }
}
