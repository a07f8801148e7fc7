//! The loop over scripted backends: what is asked in which order, and what the caller gets.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use spectra_backends::chunk::Finish;
use spectra_backends::{Ask, Backend, BackendError, ChatRequest, Chunk, Facts, Fleet, Member, Price, Reply};
use tower::service_fn;

use crate::{Asked, RouteError, Router, Trail, Verified};

const CONFIG: &str = r#"
[backends.weak.script]
answers = [{ text = "unused: the fleet is given" }]
[backends.solid.script]
answers = [{ text = "unused: the fleet is given" }]
[routes.local]
ladder = ["weak", "solid"]
[routes.strong]
ladder = ["solid"]
[aliases]
gpt = "auto"
"#;

/// One scripted answer.
#[derive(Clone, Copy)]
enum Say {
    Text(&'static str),
    /// Finished by its length.
    Short(&'static str),
    /// Broken off after the text.
    Cut(&'static str),
    Status(u16, &'static str),
    /// The text, every word with this log probability where the request asks for them.
    Sure(&'static str, f32),
}

type Asks = Arc<Mutex<Vec<String>>>;

/// What the program of an operator's check says: `Ok(None)` is usable, `Err` a check that could not be made.
type Word = Result<Option<&'static str>, &'static str>;

#[derive(Debug)]
struct Words(Mutex<Vec<Word>>);

impl crate::outside::Probe for Words {
    fn ask<'a>(&'a self, subject: &'a str) -> std::pin::Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        let subject: serde_json::Value = serde_json::from_str(subject).unwrap();
        assert!(subject["asked"] == "Say hello" && subject["text"].is_string(), "{subject}");
        let mut words = self.0.lock();
        let word = if words.len() > 1 { words.remove(0) } else { words[0] };
        Box::pin(async move { word.map(|why| why.map(str::to_owned)).map_err(str::to_owned) })
    }
}

/// A backend that gives its answers in turn, the last one for ever, and writes down what it was asked.
fn scripted(name: &'static str, script: &'static [Say], local: bool, asks: &Asks) -> (String, Member) {
    let (turn, asks) = (Arc::new(Mutex::new(0)), asks.clone());
    let backend = Backend::new(service_fn(move |ask: Ask| {
        let at = std::mem::replace(&mut *turn.lock(), usize::MAX).min(script.len() - 1);
        *turn.lock() = at + 1;
        asks.lock().push(format!("{name}:{}", ask.request.view().messages.len()));
        let told = ask.request.view().logprobs;
        async move { reply(script[at], ask.request.view().stream, told) }
    }));
    let facts = Facts { context_tokens: Some(100_000), local, price: Price { input: 1.0, output: 1.0 }, ..Facts::open() };
    (name.to_owned(), Member { backend, facts: Arc::new(facts) })
}

fn reply(say: Say, stream: bool, told: bool) -> Result<Reply, BackendError> {
    let mut logprobs = String::new();
    let (text, finish) = match say {
        Say::Sure(text, sure) => {
            if told {
                let token = format!(r#"{{"token":"x","logprob":{sure},"top_logprobs":[]}}"#);
                let all = vec![token; if stream { 1 } else { text.split(' ').count() }].join(",");
                logprobs = format!(r#","logprobs":{{"content":[{all}]}}"#);
            }
            (text, "stop")
        }
        Say::Status(status, body) => {
            return Err(BackendError::Upstream { status, headers: Box::default(), body: Bytes::from_static(body.as_bytes()) });
        }
        Say::Text(text) => (text, "stop"),
        Say::Short(text) => (text, "length"),
        Say::Cut(text) => (text, ""),
    };
    let usage = r#""usage":{"prompt_tokens":10,"completion_tokens":5}"#;
    let quoted = serde_json::Value::from(text).to_string();
    let mut events: Vec<Result<Chunk, BackendError>> = Vec::new();
    let mut event = |json: String| events.push(Chunk::parse(json.into()));
    if !stream {
        if finish.is_empty() {
            return Err(BackendError::Broken { what: "cut".into() });
        }
        event(format!(
            r#"{{"id":"w","object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":{quoted}}},"finish_reason":"{finish}"{logprobs}}}],{usage}}}"#
        ));
    } else {
        let chunk = |delta: String, finish: &str| {
            format!(
                r#"{{"id":"s","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}{logprobs}}}]}}"#
            )
        };
        event(r#"{"id":"s","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#.into());
        for piece in text.split_inclusive(' ') {
            event(chunk(serde_json::json!({ "content": piece }).to_string(), "null"));
        }
        if finish.is_empty() {
            events.push(Err(BackendError::Broken { what: "cut".into() }));
        } else {
            event(format!(
                r#"{{"id":"s","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{}},"finish_reason":"{finish}"}}]}}"#
            ));
            event(format!(r#"{{"id":"s","object":"chat.completion.chunk","choices":[],{usage}}}"#));
        }
    }
    Ok(Reply { headers: http::HeaderMap::new(), chunks: Box::pin(futures_util::stream::iter(events)) })
}

/// What a caller got.
struct Got {
    text: String,
    finish: Option<Finish>,
    broken: bool,
    ids: usize,
}

struct Case {
    weak: &'static [Say],
    solid: &'static [Say],
    body: &'static str,
}

async fn ask(case: &Case, stream: bool) -> (Result<Got, RouteError>, Vec<String>, crate::Account) {
    ask_under(CONFIG, case, stream).await
}

async fn ask_under(config: &str, case: &Case, stream: bool) -> (Result<Got, RouteError>, Vec<String>, crate::Account) {
    ask_checked(config, case, stream, &[]).await
}

/// As `ask_under`; the programs of operators' checks say what `probe` says, in turn.
async fn ask_checked(config: &str, case: &Case, stream: bool, probe: &[Word]) -> (Result<Got, RouteError>, Vec<String>, crate::Account) {
    let asks = Asks::default();
    let fleet = Fleet::new(HashMap::from([scripted("weak", case.weak, true, &asks), scripted("solid", case.solid, false, &asks)]));
    let config = spectra_config::Config::parse(config, "test", &|_| None).unwrap();
    let words = Arc::new(Words(Mutex::new(probe.to_vec())));
    let router = Arc::new(Router::probing(&config, fleet, &|_| words.clone()).unwrap());
    let body = format!(r#"{{"stream":{stream},"messages":[{{"role":"user","content":"Say hello"}}],{}}}"#, case.body);
    let request = ChatRequest::parse(body.into_bytes().into()).unwrap();
    let trail = Trail::default();
    let got = match router.answer(&trail, request, Asked::default()).await {
        Err(error) => Err(error),
        Ok(answer) => {
            let mut got = Got { text: String::new(), finish: None, broken: false, ids: 0 };
            let mut ids = std::collections::HashSet::new();
            for chunk in answer.chunks.collect::<Vec<_>>().await {
                let Ok(chunk) = chunk else {
                    got.broken = true;
                    break;
                };
                ids.insert(chunk.data[..10].to_vec());
                assert!(chunk.view.choices.iter().all(|choice| choice.logprobs.is_empty()), "nobody asked for them");
                for choice in chunk.view.choices {
                    got.text.push_str(choice.content.as_deref().unwrap_or_default());
                    got.finish = choice.finish.or(got.finish);
                }
            }
            got.ids = ids.len();
            Ok(got)
        }
    };
    let asked = asks.lock().clone();
    (got, asked, trail.account())
}

/// Asks unary and streamed; both must give `text` after the same questions.
async fn check(case: Case, text: &str, asked: &[&str], verified: Verified) {
    for stream in [false, true] {
        let (got, asks, account) = ask(&case, stream).await;
        let got = got.unwrap_or_else(|error| panic!("{error} after {asks:?}, stream {stream}"));
        assert_eq!(
            (got.text.as_str(), &asks[..]),
            (text, &asked.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
            "stream {stream}"
        );
        assert!(!got.broken && got.finish == Some(Finish::Stop) && got.ids == 1, "stream {stream}");
        assert_eq!(account.verified, verified, "stream {stream}");
        assert_eq!(account.attempts.len(), asked.len());
        assert!(account.attempts.iter().all(|attempt| attempt.verdict.is_some()));
    }
}

const LOCAL: &str = r#""model":"local""#;
const JSON: &str = r#""model":"local","response_format":{"type":"json_object"}"#;

#[test]
fn b29_a_scorer_that_fails_sends_the_request_to_the_strong_route_and_says_so() {
    let asks = Asks::default();
    let fleet =
        Fleet::new(HashMap::from([scripted("weak", &[Say::Text("x")], true, &asks), scripted("solid", &[Say::Text("x")], false, &asks)]));
    let config = spectra_config::Config::parse(CONFIG, "test", &|_| None).unwrap();
    let router = Arc::new(Router::new(&config, fleet).unwrap());
    let request = ChatRequest::parse(r#"{"model":"auto","messages":[{"role":"user","content":"Say hello"}]}"#.into()).unwrap();
    let chosen = || router.explain(&request, &Asked::default()).unwrap();
    assert_eq!(&*chosen().route, "local");
    router.scorer().spoil();
    let failed = chosen();
    assert_eq!((&*failed.route, failed.why, failed.difficulty), ("strong", "scorer_failed", None));
    assert!(crate::sound(|| panic!("a bug")).is_none());
    assert!(crate::sound(crate::score::Score::default).is_some());
}

#[tokio::test]
async fn a_good_answer_is_delivered_at_once() {
    check(Case { weak: &[Say::Text("Hello there")], solid: &[Say::Text("no")], body: LOCAL }, "Hello there", &["weak:1"], Verified::Ok)
        .await;
}

#[tokio::test]
async fn an_unusable_answer_is_asked_again_with_its_error_and_then_escalated() {
    let case = Case { weak: &[Say::Text("not json at all")], solid: &[Say::Text(r#"{"a": 1}"#)], body: JSON };
    check(case, r#"{"a": 1}"#, &["weak:1", "weak:3", "solid:1"], Verified::Ok).await;
}

#[tokio::test]
async fn a_fence_is_mended_without_asking_again() {
    let case = Case { weak: &[Say::Text("```json\n{\"a\": 1}\n```")], solid: &[Say::Text("no")], body: JSON };
    check(case, r#"{"a": 1}"#, &["weak:1"], Verified::Repaired).await;
}

#[tokio::test]
async fn a_truncated_answer_is_continued_and_judged_as_a_whole() {
    let case = Case { weak: &[Say::Short(r#"{"names": ["one", "#), Say::Text(r#""two"]}"#)], solid: &[Say::Text("no")], body: JSON };
    check(case, r#"{"names": ["one", "two"]}"#, &["weak:1", "weak:3"], Verified::Ok).await;
}

#[tokio::test]
async fn a_model_that_is_down_is_passed_over() {
    for status in [429, 500, 503, 401] {
        let case = Case { weak: Box::leak(Box::new([Say::Status(status, "busy")])), solid: &[Say::Text("Hello there")], body: LOCAL };
        check(case, "Hello there", &["weak:1", "solid:1"], Verified::Ok).await;
    }
}

#[tokio::test]
async fn a_hosted_route_whose_breaker_is_open_is_not_there() {
    let asks = Asks::default();
    let (weak, (name, solid)) =
        (scripted("weak", &[Say::Text("Hello")], true, &asks), scripted("solid", &[Say::Status(500, "down")], false, &asks));
    let rules = spectra_config::Breaker { window: 1, min_attempts: 1, open_ms: 3_600_000, open_max_ms: 3_600_000, ..Default::default() };
    let gate = spectra_backends::guard::Gate::new(8, 8, Default::default(), rules);
    let solid = Member { backend: gate.guard(solid.backend), ..solid };
    let fleet = Fleet::guarded(HashMap::from([weak, (name.clone(), solid)]), HashMap::from([(name, gate)]), HashMap::new());
    let config = spectra_config::Config::parse(&format!("{CONFIG}\n[router]\npolicy = {{ threshold = 0.0 }}"), "test", &|_| None).unwrap();
    let router = Arc::new(Router::new(&config, fleet).unwrap());
    let request = |model: &str, more: &str| {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"Say hello{more}"}}]}}"#);
        ChatRequest::parse(body.into_bytes().into()).unwrap()
    };
    let said = |more: &str| {
        let told = router.explain(&request("auto", more), &Asked::default()).unwrap();
        (told.route.to_string(), told.why)
    };
    assert_eq!(said("").0, "strong");
    assert!(router.answer(&Trail::default(), request("solid", ""), Asked::default()).await.is_err());
    assert!(!router.fleet().admits("solid"));
    assert_eq!(said(""), ("local".to_owned(), "only_route"));
}

#[tokio::test]
async fn a_request_that_is_too_long_for_one_model_goes_to_the_next_and_a_bad_one_to_none() {
    let long = Say::Status(400, r#"{"error":{"code":"context_length_exceeded"}}"#);
    check(
        Case { weak: Box::leak(Box::new([long])), solid: &[Say::Text("Hello")], body: LOCAL },
        "Hello",
        &["weak:1", "solid:1"],
        Verified::Ok,
    )
    .await;
    let case = Case { weak: &[Say::Status(400, r#"{"error":{"code":"invalid_value"}}"#)], solid: &[Say::Text("Hello")], body: LOCAL };
    let (got, asks, _) = ask(&case, false).await;
    assert!(matches!(got, Err(RouteError::Exhausted { attempts: 1, .. })), "{asks:?}");
}

#[tokio::test]
async fn a_committed_stream_that_is_cut_is_continued_by_the_next_rung() {
    let case = Case { weak: &[Say::Cut("Hello there my ")], solid: &[Say::Text("friend and neighbour")], body: LOCAL };
    let (got, asks, account) = ask(&case, true).await;
    let got = got.unwrap();
    assert_eq!(got.text, "Hello there my friend and neighbour");
    assert_eq!((got.ids, got.finish, got.broken), (1, Some(Finish::Stop), false));
    assert_eq!(asks, ["weak:1", "solid:3"]);
    assert_eq!((account.verified, account.rescues), (Verified::Repaired, 1));
}

#[tokio::test]
async fn a_committed_stream_that_nobody_can_continue_is_broken_off() {
    let case = Case { weak: &[Say::Cut("Hello there my ")], solid: &[Say::Status(500, "down")], body: LOCAL };
    let (got, _, account) = ask(&case, true).await;
    assert!(got.unwrap().broken);
    assert_eq!(account.verified, Verified::Failed);
}

#[tokio::test]
async fn a_broken_contract_is_an_error_and_never_passed_off() {
    let case = Case { weak: &[Say::Text("nope")], solid: &[Say::Text("nope either")], body: JSON };
    for stream in [false, true] {
        let (got, asks, _) = ask(&case, stream).await;
        assert!(matches!(got, Err(RouteError::Exhausted { attempts: 4, .. })), "{asks:?}");
        assert_eq!(asks, ["weak:1", "weak:3", "solid:1", "solid:3"]);
    }
}

#[tokio::test]
async fn names_lead_where_they_say() {
    for (model, first) in
        [("auto", "weak:1"), ("gpt", "weak:1"), ("local", "weak:1"), ("strong", "solid:1"), ("solid", "solid:1"), ("weak", "weak:1")]
    {
        let body = Box::leak(format!(r#""model":"{model}""#).into_boxed_str());
        let (got, asks, _) = ask(&Case { weak: &[Say::Text("Hello")], solid: &[Say::Text("Hello")], body }, false).await;
        assert!(got.is_ok() && asks == [first], "{model}: {asks:?}");
    }
    let (got, _, _) = ask(&Case { weak: &[Say::Text("x")], solid: &[Say::Text("x")], body: r#""model":"gpt-99""# }, false).await;
    assert!(matches!(got, Err(RouteError::UnknownModel { .. })));
}

#[tokio::test]
async fn a_local_answer_that_its_model_doubts_is_escalated_before_anything_is_sent() {
    let config = format!("{CONFIG}[router.cascade]\nband = [0.0, 1.0]\ntokens = 3\nmin_mean_logprob = -1.0\n");
    let auto = r#""model":"auto""#;
    for (sure, expected, asked) in [(-0.2, "I am quite sure", &["weak:1"][..]), (-2.5, "Certainly", &["weak:1", "solid:1"][..])] {
        let weak: &[Say] = Box::leak(Box::new([Say::Sure("I am quite sure", sure)]));
        for stream in [false, true] {
            let (got, asks, account) = ask_under(&config, &Case { weak, solid: &[Say::Text("Certainly")], body: auto }, stream).await;
            assert_eq!((got.unwrap().text.as_str(), &asks[..]), (expected, &asked.iter().map(ToString::to_string).collect::<Vec<_>>()[..]));
            let unsure = matches!(account.attempts[0].verdict, Some(crate::verify::Verdict::Flawed(crate::verify::Flaw::Unsure { .. })));
            assert_eq!(unsure, asked.len() > 1, "stream {stream}");
        }
    }
    // Outside the band nothing is asked for and nothing watched.
    let outside = config.replace("[0.0, 1.0]", "[0.0, 0.01]");
    let case = Case { weak: &[Say::Sure("I am quite sure", -2.5)], solid: &[Say::Text("Certainly")], body: auto };
    assert_eq!(ask_under(&outside, &case, true).await.0.unwrap().text, "I am quite sure");
}

/// An operator's check: what it says, what the caller gets after which questions, and what the account says of it.
async fn check_own(more: &str, probe: &[Word], weak: &'static [Say], expected: Result<&str, ()>, asked: &[&str], said: &[&str]) {
    for stream in [false, true] {
        let case = Case { weak, solid: &[Say::Text("from solid")], body: LOCAL };
        let (got, asks, account) = ask_checked(&format!("{CONFIG}{more}"), &case, stream, probe).await;
        assert_eq!(got.map(|got| got.text).map_err(drop), expected.map(str::to_owned), "stream {stream}, {asks:?}");
        assert_eq!(asks, asked, "stream {stream}");
        let made: Vec<&str> = account.checked.iter().map(|checked| checked.said.as_str()).collect();
        assert_eq!(made, said, "stream {stream}");
    }
}

#[tokio::test]
async fn an_operators_check_is_heard_and_its_failure_does_what_the_config_says() {
    const PASSING: &str = "[verify.own.rules]\ncommand = [\"x\"]\n";
    const REFUSING: &str = "[verify.own.rules]\ncommand = [\"x\"]\non_failure = \"refuse\"\n";
    let hello = &[Say::Text("Hello there")];
    check_own(PASSING, &[Ok(None)], hello, Ok("Hello there"), &["weak:1"], &["usable"]).await;
    check_own(PASSING, &[Ok(Some("rude")), Ok(None)], hello, Ok("Hello there"), &["weak:1", "weak:3"], &["unusable", "usable"]).await;
    let twice = [Ok(Some("rude")), Ok(Some("rude")), Ok(None)];
    check_own(PASSING, &twice, hello, Ok("from solid"), &["weak:1", "weak:3", "solid:1"], &["unusable", "unusable", "usable"]).await;
    check_own(PASSING, &[Err("crashed")], hello, Ok("Hello there"), &["weak:1"], &["failed"]).await;
    check_own(REFUSING, &[Err("crashed"), Ok(None)], hello, Ok("Hello there"), &["weak:1", "weak:3"], &["failed", "usable"]).await;
}

#[tokio::test]
async fn a_local_model_may_be_asked_about_its_own_answer() {
    const SELF: &str = "[verify.own.look]\nask = \"self\"\n";
    let says = |word: &'static str| -> &'static [Say] { Box::leak(Box::new([Say::Text("Hello there"), Say::Text(word)])) };
    check_own(SELF, &[], says("yes"), Ok("Hello there"), &["weak:1", "weak:1"], &["usable"]).await;
    check_own(SELF, &[], says("{\"usable\": \"yes\"}"), Ok("Hello there"), &["weak:1", "weak:1"], &["usable"]).await;
    check_own(SELF, &[], says("perhaps"), Ok("Hello there"), &["weak:1", "weak:1"], &["failed"]).await;
    // It says no; asked again it says "no" for an answer, and no once more; the hosted model is not asked about itself.
    let asked = ["weak:1", "weak:1", "weak:3", "weak:1", "solid:1"];
    check_own(SELF, &[], says("No."), Ok("from solid"), &asked, &["unusable", "unusable"]).await;
}

#[tokio::test]
async fn a_regex_and_a_schema_of_the_operators_are_checks_too() {
    const TEXT: &str = "[verify.own.keys]\nlacks = 'sk-[a-z]+'\n[verify.own.polite]\nmatches = '^Hello'\n";
    let scripts: [(&'static [Say], &[&str]); 3] = [
        (&[Say::Text("Hello there")], &["weak:1"]),
        (&[Say::Text("Hello sk-abc"), Say::Text("Hello there")], &["weak:1", "weak:3"]),
        (&[Say::Text("Go away"), Say::Text("Hello there")], &["weak:1", "weak:3"]),
    ];
    for (weak, asked) in scripts {
        check_own(TEXT, &[], weak, Ok("Hello there"), asked, &[]).await;
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_held_to_the_form_is_told_it_in_words_and_verified() {
    let unsupported = Say::Status(501, r#"{"error":{"code":"constraint_unsupported"}}"#);
    for (words, asked) in [(Say::Text(r#"{"a": 1}"#), &["weak:1", "weak:2"][..]), (Say::Text("no json"), &["weak:1", "weak:2", "solid:1"])]
    {
        let weak: &'static [Say] = Box::leak(Box::new([unsupported, words]));
        check(Case { weak, solid: &[Say::Text(r#"{"a": 1}"#)], body: JSON }, r#"{"a": 1}"#, asked, Verified::Ok).await;
    }
}
