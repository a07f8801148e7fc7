//! The engine in this process: what batching, reuse and guards promise, shown on a small random model.

#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test program: its helpers fail loudly")]

mod support;

use std::sync::OnceLock;

use futures_util::StreamExt;
use spectra_backends::ChatRequest;
use spectra_backends::llama::{Ended, Engine, Event, Form, Grammars, Job, Prompt, Refused, Sampling, Settings, TokenChoice};
use tokio::sync::mpsc;

/// What an allocator may keep of the second half of many requests.
const GROWS: usize = 4 << 20;

/// One engine for all tests of a process, one test at a time: they count its slots.
async fn engine() -> (&'static Engine, tokio::sync::MutexGuard<'static, ()>) {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let start = || {
        let folder = tempfile::tempdir().unwrap();
        let model = support::tiny_model(folder.path());
        let settings = Settings { context_tokens: Some(1024), slots: Some(4), queue: 8, threads: Some(1), ..Settings::new(model) };
        Engine::start(&settings).unwrap()
    };
    let turn = TURN.lock().await;
    (ENGINE.get_or_init(start), turn)
}

/// A job for the user's words, greedy, and the other end of its channel.
fn job(engine: &Engine, words: &str, max_tokens: u32) -> (Job, mpsc::Receiver<Event>) {
    let body = serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": words }], "temperature": 0 });
    let request = ChatRequest::parse(body.to_string().into()).unwrap();
    let text = Prompt::of(engine.model()).unwrap().render(request.view()).unwrap();
    let (events, receiver) = mpsc::channel(16);
    let job = Job {
        prompt: engine.model().tokenize(&text),
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        sampling: Sampling::of(request.view(), &spectra_config::Sampling::default(), 1, 0),
        constraint: None,
        tells_controls: false,
        events,
    };
    (job, receiver)
}

#[derive(Debug, Default, PartialEq)]
struct Answer {
    text: String,
    cached: u32,
    how: Option<Ended>,
    completion_tokens: u32,
    tokens: Vec<TokenChoice>,
}

async fn read(mut events: mpsc::Receiver<Event>) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = events.recv().await {
        match event {
            Event::Started { cached_tokens, .. } => answer.cached = cached_tokens,
            Event::Text { text, mut tokens } => {
                answer.text.push_str(&text);
                answer.tokens.append(&mut tokens);
            }
            Event::Ended { how, completion_tokens } => {
                answer.how = Some(how);
                answer.completion_tokens = completion_tokens;
            }
            Event::Failed { why } => panic!("{why}"),
        }
    }
    answer
}

async fn ask(engine: &Engine, words: &str, max_tokens: u32) -> Answer {
    let (job, events) = job(engine, words, max_tokens);
    engine.submit(job).unwrap();
    read(events).await
}

/// All slots free again, nothing waiting; bounded by the test runner's own limit.
async fn settled(engine: &Engine) {
    loop {
        let stats = engine.stats();
        if stats.slots_busy == 0 && stats.waiting == 0 && stats.kv_tokens == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_answer_ends_where_it_was_told_to() {
    let (engine, _turn) = engine().await;
    let whole = ask(engine, "Count from one to ten in words.", 24).await;
    assert_eq!((whole.how, whole.completion_tokens), (Some(Ended::Length), 24));

    let (mut stopped, events) = job(engine, "Count from one to ten in words.", 24);
    let at = whole.text.char_indices().nth(12).unwrap().0;
    let end = whole.text.char_indices().nth(15).unwrap().0;
    stopped.stop = vec![whole.text[at..end].to_owned()];
    let first = whole.text.find(&stopped.stop[0]).unwrap();
    engine.submit(stopped).unwrap();
    let cut = read(events).await;
    assert_eq!((cut.text.as_str(), cut.how), (&whole.text[..first], Some(Ended::Stop)));

    let (mut probable, events) = job(engine, "Count from one to ten in words.", 8);
    probable.sampling.logprobs = Some(2);
    engine.submit(probable).unwrap();
    assert_eq!(read(events).await.tokens.len(), 8, "each token is told once with its log probability");
}

#[tokio::test]
async fn what_was_read_once_is_not_read_again() {
    let (engine, _turn) = engine().await;
    let long = format!("{} What was the first word?", "The quick brown fox jumps over the lazy dog. ".repeat(12));
    let (first, _receiver) = job(engine, &long, 1);
    let length = u32::try_from(first.prompt.len()).unwrap();
    ask(engine, &long, 4).await;
    let again = ask(engine, &long, 4).await;
    assert_eq!(again.cached, length - 1, "all but the token that logits are wanted for");
    let other = ask(engine, &long.replace("first word", "last word"), 4).await;
    assert!(other.cached > length - 16, "{} of {length}", other.cached);
}

/// More is kept than the cache has room for without slowing everybody down: the rest waits in plain memory.
#[tokio::test]
async fn what_was_parked_comes_back() {
    let (engine, _turn) = engine().await;
    let words = |at: usize| format!("{at} {}", "The quick brown fox jumps over the lazy dog. ".repeat(12));
    let mut first = Vec::new();
    for at in 0..4 {
        first.push(ask_with_logprobs(engine, &words(at), 8).await);
    }
    let stats = engine.stats();
    assert!(stats.parked_tokens > 1000 && stats.kv_cached_tokens < 1200, "{stats:?}");
    for at in [2, 0, 3, 1, 0] {
        let (mut job, events) = job(engine, &words(at), 8);
        job.sampling.logprobs = Some(3);
        let length = u32::try_from(job.prompt.len()).unwrap();
        engine.submit(job).unwrap();
        let again = read(events).await;
        assert_eq!(again.cached, length - 1, "{at}");
        same_but_for_ties(&first[at], &again.tokens).unwrap_or_else(|why| panic!("{at}: {why}"));
    }
    assert!(engine.stats().parked_tokens <= stats.kv_capacity);
}

/// Two greedy answers to the same prompt. llama.cpp rounds differently for batches of different shapes, so they may part
/// where two tokens are about as good as each other (0.26 nats apart was seen with 4-bit weights), and only there.
fn same_but_for_ties(one: &[TokenChoice], other: &[TokenChoice]) -> Result<(), String> {
    let Some((one, other)) = one.iter().zip(other).find(|(one, other)| one.token != other.token) else { return Ok(()) };
    let gap = |choice: &TokenChoice, token: i32| {
        let rival = choice.top.iter().find(|(known, _)| *known == token)?;
        Some((choice.logprob? - rival.1).abs())
    };
    match (gap(one, other.token), gap(other, one.token)) {
        (Some(a), Some(b)) if a.max(b) < 0.75 => Ok(()),
        _ => Err(format!("{one:?} or {other:?}")),
    }
}

async fn ask_with_logprobs(engine: &Engine, words: &str, max_tokens: u32) -> Vec<TokenChoice> {
    let (mut job, events) = job(engine, words, max_tokens);
    job.sampling.logprobs = Some(3);
    engine.submit(job).unwrap();
    read(events).await.tokens
}

#[tokio::test]
async fn together_and_alone_say_the_same() {
    let (engine, _turn) = engine().await;
    let questions = ["Name a colour.", "What is 2 + 2?", "Say hello in French.", "Who wrote Hamlet?", "Is water wet?", "Name a planet."];
    let mut alone = Vec::new();
    for question in questions {
        alone.push(ask_with_logprobs(engine, question, 12).await);
    }
    let together = futures_util::future::join_all(questions.map(|question| ask_with_logprobs(engine, question, 12))).await;
    for (question, (alone, together)) in questions.iter().zip(alone.iter().zip(&together)) {
        same_but_for_ties(alone, together).unwrap_or_else(|why| panic!("{question}: {why}"));
    }
}

#[tokio::test]
async fn who_leaves_frees_the_slot() {
    let (engine, _turn) = engine().await;
    let cancelled = engine.stats().cancelled_total;
    let mut readers = Vec::new();
    for at in 0..12 {
        let (mut job, events) = job(engine, &format!("Tell me story number {at}."), 900);
        job.sampling.logit_bias = vec![(2, -100.0)];
        engine.submit(job).unwrap();
        readers.push(events);
    }
    for reader in readers.iter_mut().take(4) {
        assert!(matches!(reader.recv().await, Some(Event::Started { .. })));
    }
    drop(readers);
    settled(engine).await;
    assert!(engine.stats().cancelled_total >= cancelled + 12, "{:?}", engine.stats());
}

#[tokio::test]
async fn a_slow_reader_pauses_only_its_own_answer() {
    let (engine, _turn) = engine().await;
    let (slow, events) = job(engine, "Count to one hundred.", 64);
    engine.submit(slow).unwrap();
    // Sixteen events fit its channel; this answer needs them not to be in the way.
    let quick = ask(engine, "Name a fruit.", 32).await;
    assert!(quick.how.is_some());
    assert!(read(events).await.how.is_some(), "and goes on when it is read");
}

#[tokio::test]
async fn constrained_answers_parse() {
    let (engine, _turn) = engine().await;
    let grammars = Grammars::of(engine.model());
    let schema = r#"{"type":"object","properties":{"city":{"type":"string","maxLength":12},"population":{"type":"number"}},"required":["city","population"],"additionalProperties":false}"#;
    for seed in 0..4 {
        let (mut job, events) = job(engine, "Describe a city as JSON.", 120);
        job.constraint = Some(grammars.compile(&Form::Schema(schema.into())).unwrap());
        job.sampling.temperature = 1.5;
        job.sampling.seed = seed;
        engine.submit(job).unwrap();
        let answer = read(events).await;
        let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("{error}: {}", answer.text));
        assert!(value["city"].is_string() && value["population"].is_number(), "{value}");
    }
}

#[tokio::test]
async fn what_would_end_the_process_is_refused() {
    let (engine, _turn) = engine().await;
    let (mut long, _events) = job(engine, "x", 1);
    long.prompt = vec![5; 1024];
    assert!(matches!(engine.submit(long), Err(Refused::TooLong { context: 1024, prompt: 1024, .. })));
    let (long, _events) = job(engine, "x", 1024);
    assert!(matches!(engine.submit(long), Err(Refused::TooLong { answer: Some(1024), .. })));
    let (mut empty, _events) = job(engine, "x", 1);
    empty.prompt.clear();
    assert_eq!(engine.submit(empty), Err(Refused::Empty));
    for token in [-1, i32::MAX, i32::try_from(engine.model().vocabulary()).unwrap()] {
        let (mut odd, mut events) = job(engine, "x", 1);
        odd.prompt = vec![1, token];
        engine.submit(odd).unwrap();
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        assert!(matches!(&last, Some(Event::Failed { why }) if why.contains("not in the vocabulary")), "{last:?}");
        assert_eq!(engine.model().piece(token), b"");
    }
    assert!(ask(engine, "Still there?", 2).await.how.is_some());
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let (engine, _turn) = engine().await;
    let mut held = Vec::new();
    let refused = loop {
        let (job, events) = job(engine, "Wait.", 900);
        match engine.submit(job) {
            Ok(()) => held.push(events),
            Err(refused) => break refused,
        }
        assert!(held.len() < 64);
    };
    assert!(matches!(refused, Refused::QueueFull { .. }), "{refused}");
    drop(held);
    settled(engine).await;
}

/// A number below `most`, the same for the same place every time.
fn dice(at: usize, most: usize) -> usize {
    (at.wrapping_mul(2_654_435_761) >> 7) % most
}

/// Resident bytes of this process; where nobody says, nothing grows.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Eight slots and twice as many callers, prompts and answers of many lengths, a third of the callers leaving at some moment:
/// answers that are read to the end are those that the same prompts get alone, and nothing is left behind.
/// A thousand requests with `SPECTRA_TEST_REQUESTS=1000`, of a real model with `SPECTRA_TEST_MODEL`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_requests_leave_nothing_behind() {
    let requests: usize = std::env::var("SPECTRA_TEST_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(240);
    let folder = tempfile::tempdir().unwrap();
    let model = std::env::var_os("SPECTRA_TEST_MODEL").map_or_else(|| support::tiny_model(folder.path()), Into::into);
    let settings = Settings { context_tokens: Some(1024), slots: Some(8), queue: 16, threads: Some(1), ..Settings::new(model) };
    let engine = &Engine::start(&settings).unwrap();
    let words = |kind: usize| format!("{} {kind}", "again and ".repeat(dice(kind, 30)));
    let length = |kind: usize| u32::try_from(1 + dice(kind + 7, 32)).unwrap();
    let mut alone = Vec::new();
    for kind in 0..40 {
        alone.push(ask_with_logprobs(engine, &words(kind), length(kind)).await);
    }
    let one = |at: usize| async move {
        let kind = dice(at, 40);
        let (mut job, mut events) = job(engine, &words(kind), length(kind));
        job.sampling.logprobs = Some(3);
        engine.submit(job).unwrap();
        if dice(at, 3) == 0 {
            for _ in 0..dice(at + 1, 12) {
                events.recv().await;
            }
            return None;
        }
        Some((kind, read(events).await))
    };
    let (mut read_through, mut left, mut warm) = (0, 0, 0);
    let mut answers = futures_util::stream::iter((0..requests).map(one)).buffer_unordered(16);
    while let Some(answer) = answers.next().await {
        match answer {
            None => left += 1,
            Some((kind, answer)) => {
                read_through += 1;
                same_but_for_ties(&alone[kind], &answer.tokens).unwrap_or_else(|why| panic!("{}: {why}", words(kind)));
            }
        }
        if read_through + left == requests / 2 {
            warm = resident();
        }
    }
    settled(engine).await;
    let grown = resident().saturating_sub(warm);
    println!("{read_through} read, {left} left, {} KiB resident and {} KiB more than half way", resident() >> 10, grown >> 10);
    assert!(read_through > requests / 2 && left > requests / 5, "{read_through} read, {left} left");
    let stats = engine.stats();
    assert_eq!((stats.slots_busy, stats.waiting, stats.kv_tokens, stats.failed_total), (0, 0, 0, 0));
    assert_eq!(stats.requests_total, u64::try_from(requests).unwrap() + 40);
    assert!(stats.kv_cached_tokens <= stats.kv_capacity);
    assert!(grown <= GROWS, "{grown} bytes more after the second half");
}

/// Tokens that a schema forces are decoded together and are the same ones that come one by one.
#[tokio::test]
async fn what_a_schema_forces_costs_no_step() {
    let (engine, _turn) = engine().await;
    let grammars = Grammars::of(engine.model());
    let schema = r#"{"type":"object","properties":{"the name of the city":{"enum":["hell","world"]},"yes or no":{"type":"boolean"}},"required":["the name of the city","yes or no"],"additionalProperties":false}"#;
    let mut answers = Vec::new();
    for logprobs in [Some(0), None] {
        let (mut job, events) = job(engine, "Describe a city as JSON.", 200);
        job.constraint = Some(grammars.compile(&Form::Schema(schema.into())).unwrap());
        job.sampling.logprobs = logprobs;
        let steps = engine.stats().steps_total;
        engine.submit(job).unwrap();
        let answer = read(events).await;
        settled(engine).await;
        answers.push((answer.text, answer.completion_tokens, engine.stats().steps_total - steps));
    }
    let [(slow, one_by_one, _), (quick, together, steps)] = &answers[..] else { unreachable!() };
    assert_eq!(slow, quick);
    let value: serde_json::Value = serde_json::from_str(quick).unwrap();
    assert!(value["yes or no"].is_boolean(), "{value}");
    // Two values are a choice; all the rest is one run before, one between and one behind them.
    assert!(one_by_one == together && *steps < u64::from(together / 3), "{answers:?}");
}
