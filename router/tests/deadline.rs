//! Behaviour 13 on a clock that nothing else moves: score, attempts, pauses, continuations and rescues together end within
//! the deadline and 50 ms, whatever the models do and wherever in the ladder.

#![expect(clippy::unwrap_used, reason = "a test program: its helpers fail loudly")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use spectra_backends::{Ask, Backend, BackendError, ChatRequest, Chunk, ChunkStream, Continuation, Facts, Fleet, Member, Price, Reply};
use spectra_config::Config;
use spectra_router::{Asked, Router, Trail};
use tokio::time::{Instant, sleep};
use tower::service_fn;

const DEADLINE: Duration = Duration::from_millis(700);
const GRACE: Duration = Duration::from_millis(50);

/// What a model does with its time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Answers,
    /// Nothing, for ever.
    Hangs,
    /// Begins, says some words, and then nothing.
    Stalls,
    /// A word every 90 ms, for ever.
    Drips,
    /// Says something, and breaks off after 90 ms.
    Cuts,
    /// Is cut by its token limit, 90 ms later.
    RunsOut,
    /// Fails at once, or says when to come back: within the deadline, and after it.
    Fails,
    FailsAndNames(u64),
    /// Answers late, and uselessly.
    Rambles,
}

const ALL: [Does; 10] = [
    Does::Answers,
    Does::Hangs,
    Does::Stalls,
    Does::Drips,
    Does::Cuts,
    Does::RunsOut,
    Does::Fails,
    Does::FailsAndNames(200),
    Does::FailsAndNames(60_000),
    Does::Rambles,
];

fn chunk(text: &str, finish: Option<&str>) -> Result<Chunk, BackendError> {
    let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": finish});
    Chunk::parse(json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}).to_string().into())
}

fn whole(text: &str, finish: &str) -> Result<Chunk, BackendError> {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish});
    Chunk::parse(json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}).to_string().into())
}

fn refusal(wait_ms: Option<u64>) -> BackendError {
    let mut headers = HeaderMap::new();
    if let Some(wait) = wait_ms {
        headers.insert("retry-after-ms", HeaderValue::from(wait));
    }
    BackendError::Upstream { status: 429, headers: Box::new(headers), body: "{}".into() }
}

fn model(does: Does) -> Backend {
    Backend::new(service_fn(move |ask: Ask| async move {
        let streamed = ask.request.view().stream;
        match does {
            Does::Hangs => std::future::pending().await,
            Does::Fails => return Err(refusal(None)),
            Does::FailsAndNames(wait) => return Err(refusal(Some(wait))),
            _ => {}
        }
        let chunks: ChunkStream = Box::pin(stream! {
            match (does, streamed) {
                (Does::Answers, true) => {
                    yield chunk("A story of a king who had ", None);
                    yield chunk("nothing left to count.", Some("stop"));
                }
                (Does::Answers, false) => yield whole("A story of a king who had nothing left to count.", "stop"),
                (Does::Rambles, true) => {
                    sleep(Duration::from_millis(300)).await;
                    yield chunk("", Some("stop"));
                }
                (Does::Rambles, false) => {
                    sleep(Duration::from_millis(300)).await;
                    yield whole("", "stop");
                }
                (Does::Drips, _) => loop {
                    sleep(Duration::from_millis(90)).await;
                    if streamed {
                        yield chunk("word ", None);
                    }
                },
                (Does::RunsOut, true) => {
                    yield chunk("A story of a king who had counted all his ", None);
                    sleep(Duration::from_millis(90)).await;
                    yield chunk("sheep, and then ", Some("length"));
                }
                (Does::RunsOut, false) => {
                    sleep(Duration::from_millis(90)).await;
                    yield whole("A story of a king who had counted all his sheep, and then ", "length");
                }
                (Does::Cuts, _) => {
                    if streamed {
                        yield chunk("A story of a king who had counted all his ", None);
                    }
                    sleep(Duration::from_millis(90)).await;
                    yield Err(BackendError::Broken { what: "cut".into() });
                }
                (Does::Stalls, _) => {
                    if streamed {
                        yield chunk("A story of a king who had counted all his ", None);
                    }
                    std::future::pending::<()>().await;
                }
                (Does::Hangs | Does::Fails | Does::FailsAndNames(_), _) => {}
            }
        });
        Ok(Reply { headers: HeaderMap::new(), chunks })
    }))
}

/// The ladders: two models, and none or one more behind them.
fn ladders() -> Vec<Vec<Does>> {
    let pairs = ALL.into_iter().flat_map(|first| ALL.map(|second| (first, second)));
    let thirds = [None, Some(Does::Answers), Some(Does::Drips)];
    pairs.flat_map(|(first, second)| thirds.map(|third| [Some(first), Some(second), third].into_iter().flatten().collect())).collect()
}

/// A model for each of `ALL`, a route for each of the ladders.
fn router(deadline_ms: u128) -> Arc<Router> {
    let name = |does: &Does| format!("m{}", ALL.iter().position(|other| other == does).unwrap());
    let mut text: String =
        ALL.iter().map(|does| format!("[backends.{}.script]\nanswers = [{{ text = \"unused\" }}]\n", name(does))).collect();
    for (number, ladder) in ladders().iter().enumerate() {
        let names: Vec<String> = ladder.iter().map(name).collect();
        text += &format!("[routes.r{number}]\nladder = {names:?}\nhedge = true\ndeadline_ms = {deadline_ms}\n");
    }
    text += "[router]\nlocal = \"r0\"\nstrong = \"r0\"\n";
    let config = Config::parse(&text, "deadline.toml", &|_| None).unwrap();
    let facts = Arc::new(Facts {
        context_tokens: None,
        tools: true,
        vision: true,
        logprobs: true,
        n_max: 8,
        json_schema: true,
        local: false,
        price: Price::default(),
        continues_by: Continuation::Instruction,
    });
    let members: HashMap<String, Member> =
        ALL.iter().map(|does| (name(does), Member { backend: model(*does), facts: facts.clone() })).collect();
    Arc::new(Router::new(&config, Fleet::new(members)).unwrap())
}

/// Asks, reads to the end, and says how long it took by the clock of the test.
async fn took(router: &Arc<Router>, route: usize, stream: bool, asked: Option<Duration>) -> Duration {
    let body =
        json!({"model": format!("r{route}"), "messages": [{"role": "user", "content": "Tell me a story."}], "stream": stream}).to_string();
    let request = ChatRequest::parse(body.into()).unwrap();
    let began = Instant::now();
    let asked = Asked { deadline: asked, request_id: "r".into(), ..Asked::default() };
    if let Ok(mut answer) = router.answer(&Trail::default(), request, asked).await {
        while answer.chunks.next().await.is_some() {}
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn b13_score_attempts_pauses_and_rescues_share_one_deadline() {
    let mut late = 0;
    for (deadline_ms, asked) in [(DEADLINE.as_millis(), None), (600_000, Some(DEADLINE))] {
        let router = router(deadline_ms);
        for (route, ladder) in ladders().iter().enumerate() {
            for stream in [true, false] {
                let took = took(&router, route, stream, asked).await;
                assert!(took <= DEADLINE + GRACE, "{ladder:?} stream={stream} asked={asked:?}: {took:?}");
                late += u32::from(took >= DEADLINE);
            }
        }
    }
    assert!(late > 100, "many of them ran into it: {late}");
}
