//! `POST /v1/chat/completions`: from a request to jobs, from events to chunks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SelectAll, Stream, StreamExt, poll_fn};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use spectra_backends::chat::View;
use spectra_backends::llama::{Ended, Event, Job, Refused, Sampling, TokenChoice};
use spectra_backends::{ChatRequest, chat::BadRequest};
use spectra_router::verify::loops_on;
use tokio::sync::mpsc;

use super::respond::{Body, Problem, json as json_response, sse};
use super::voice::{Voice, calls_tools};
use super::wire::{Head, Usage, logprobs};
use super::{Loaded, Prepared, random};

/// Events a job may be ahead of its reader.
const AHEAD: usize = 32;
/// Choices one request may ask for.
const MOST_CHOICES: u32 = 16;

/// Longest time for rendering a prompt and compiling its schema.
const PREPARE: Duration = Duration::from_secs(10);

/// How far an answer is held to the asked form while it is written; the supervisor's client passes it on.
const ENFORCED: HeaderName = HeaderName::from_static("x-spectra-enforced");

type Events = SelectAll<std::pin::Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>>;

struct Submitted {
    events: Events,
    count: usize,
    enforced: Option<&'static str>,
}

/// Answers one request. Dropping the response ends the generation. `stops_loops`: so does a whole answer that repeats itself on and on.
pub(super) async fn answer(loaded: Arc<Loaded>, body: Bytes, stops_loops: bool) -> Result<Response<Body>, Problem> {
    let request = ChatRequest::parse(body).map_err(|error| Problem::bad_request(&error))?;
    let view = request.view();
    check(view)?;
    let Submitted { events, count, enforced } = submit(&loaded, view).await?;
    let head = Head {
        id: format!("chatcmpl-{:016x}{:016x}", random(), random()),
        created: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs()),
        model: loaded.name.clone(),
        fingerprint: loaded.fingerprint.clone(),
        include_usage: view.include_usage,
    };
    let voices = Voice::all(&loaded, view, count);
    let mut response = if view.stream {
        let mut events = events;
        // The status is still open until the engine has begun: what fails before is an HTTP error.
        let first = events.next().await.ok_or_else(Problem::engine_gone)?;
        if let (_, Event::Failed { why }) = first {
            return Err(Problem::engine(&why));
        }
        let all = futures_util::stream::once(std::future::ready(first)).chain(events);
        sse(stream(loaded, head, all, voices))
    } else {
        whole(&loaded, &head, events, voices, stops_loops).await?
    };
    if let Some(enforced) = enforced {
        response.headers_mut().insert(ENFORCED, HeaderValue::from_static(enforced));
    }
    Ok(response)
}

fn check(view: &View) -> Result<(), Problem> {
    let invalid = |param: &str, message: String| Err(Problem::bad_request(&BadRequest::new("invalid_value", param.to_owned(), message)));
    if view.n > MOST_CHOICES {
        return invalid("n", format!("Invalid 'n': {} is more than the {MOST_CHOICES} choices this server gives.", view.n));
    }
    if let Some((at, kind)) = view.messages.iter().enumerate().find_map(|(at, message)| Some((at, message.media.first()?))) {
        return invalid(&format!("messages[{at}].content"), format!("This model reads text only; '{kind}' is not supported."));
    }
    Ok(())
}

/// Renders and tokenises the prompt, and hands one job per choice to the engine.
async fn submit(loaded: &Arc<Loaded>, view: &View) -> Result<Submitted, Problem> {
    let (there, asked) = (Arc::clone(loaded), view.clone());
    let preparing = tokio::task::spawn_blocking(move || there.prepare(&asked));
    let prepared = tokio::time::timeout(PREPARE, preparing).await.map_err(|_| Problem::slow_schema())?;
    let Prepared { tokens: prompt, constraints, enforced } =
        prepared.map_err(|error| Problem::engine(&format!("rendering the prompt failed: {error}")))??;
    let mut events = Events::new();
    let count = view.n.max(1);
    let seed = random();
    let mut constraints = constraints.into_iter();
    for choice in 0..count {
        let (sender, mut receiver) = mpsc::channel(AHEAD);
        let job = Job {
            prompt: prompt.clone(),
            max_tokens: view.max_tokens.or_else(|| default_length(loaded, prompt.len())),
            stop: view.stop.clone(),
            sampling: Sampling::of(view, &loaded.defaults, seed, choice),
            constraint: constraints.next(),
            tells_controls: calls_tools(view),
            events: sender,
        };
        loaded.engine.submit(job).map_err(|refused| refusal(&refused, "messages"))?;
        let index = choice as usize;
        events.push(Box::pin(poll_fn(move |cx| receiver.poll_recv(cx)).map(move |event| (index, event))));
    }
    Ok(Submitted { events, count: count as usize, enforced })
}

/// The operator's limit for answers that name none, as far as the context reaches: their prompt is no reason for a refusal.
fn default_length(loaded: &Loaded, prompt: usize) -> Option<u32> {
    let left = u64::from(loaded.engine.limits().context_tokens).saturating_sub(prompt as u64).max(1);
    loaded.defaults.max_tokens.map(|most| u32::try_from(left).unwrap_or(u32::MAX).min(most))
}

/// `param`: the field that a size complaint is about.
pub(super) fn refusal(refused: &Refused, param: &'static str) -> Problem {
    let message = refused.to_string();
    let about = |code| Problem { param: Some(param.into()), ..Problem::new(StatusCode::BAD_REQUEST, code, message.clone()) };
    match refused {
        Refused::TooLong { .. } => about("context_length_exceeded"),
        Refused::Empty => about("invalid_value"),
        Refused::QueueFull { .. } => Problem {
            retry_after: Some(Duration::from_secs(1)),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, "engine_overloaded", message)
        },
        Refused::NotServed(_) => Problem::new(StatusCode::NOT_IMPLEMENTED, "not_served", message),
        Refused::Failed(why) => Problem::engine(why),
        Refused::Gone => Problem::engine_gone(),
    }
}

/// The SSE data lines of a streamed answer; an error event and no `[DONE]` where the engine fails.
fn stream(
    loaded: Arc<Loaded>,
    head: Head,
    events: impl Stream<Item = (usize, Event)> + Send + 'static,
    mut voices: Vec<Voice>,
) -> impl Stream<Item = String> + Send {
    async_stream::stream! {
        let mut events = pin!(events);
        let mut usage = Usage::default();
        let mut ended = 0;
        while let Some((index, event)) = events.next().await {
            let Some(voice) = voices.get_mut(index) else { continue };
            match event {
                Event::Started { prompt_tokens, cached_tokens } => {
                    started(&mut usage, prompt_tokens, cached_tokens);
                    yield head.chunk(index, &json!({ "role": "assistant", "content": voice.first_content(), "refusal": null }), &Value::Null, None);
                }
                Event::Text { text, tokens } => {
                    let mut logprobs = logprobs(loaded.engine.model(), &tokens);
                    for delta in voice.say(&text) {
                        yield head.chunk(index, &delta, &std::mem::take(&mut logprobs), None);
                    }
                    if !logprobs.is_null() {
                        yield head.chunk(index, &json!({ "content": "" }), &logprobs, None);
                    }
                }
                Event::Ended { how, completion_tokens } => {
                    ended += 1;
                    usage.completion += u64::from(completion_tokens);
                    for delta in voice.end() {
                        yield head.chunk(index, &delta, &Value::Null, None);
                    }
                    yield head.chunk(index, &json!({}), &Value::Null, Some(voice.finish(how)));
                }
                Event::Failed { why } => {
                    yield Problem::engine(&why).body();
                    return;
                }
            }
        }
        if ended < voices.len() {
            yield Problem::engine_gone().body();
            return;
        }
        if head.include_usage {
            yield head.usage_chunk(usage);
        }
        yield "[DONE]".to_owned();
    }
}

fn started(usage: &mut Usage, prompt: u32, cached: u32) {
    // Choices share one prompt: it is counted once, as cached as its first reading was.
    let first = usage.prompt == 0;
    usage.prompt = u64::from(prompt);
    usage.cached = if first { u64::from(cached) } else { usage.cached.min(u64::from(cached)) };
}

/// Looks now and then whether a choice still says anything new.
#[derive(Default)]
struct Watch {
    said: String,
    next_look: usize,
    /// Pieces of text so far, one token each or a few: the engine counts only what ends by itself.
    pieces: u64,
}

impl Watch {
    const STEP: usize = 1024;

    fn sees_a_loop(&mut self, more: &str) -> bool {
        self.said.push_str(more);
        self.pieces += 1;
        let looks = self.said.len() >= self.next_look;
        if looks {
            self.next_look = self.said.len() + Self::STEP;
        }
        looks && loops_on(&self.said)
    }
}

/// Folds all events into one answer.
async fn whole(
    loaded: &Loaded,
    head: &Head,
    mut events: Events,
    mut voices: Vec<Voice>,
    stops_loops: bool,
) -> Result<Response<Body>, Problem> {
    let mut tokens: Vec<Vec<TokenChoice>> = voices.iter().map(|_| Vec::new()).collect();
    let mut watches: Vec<Watch> = voices.iter().map(|_| Watch::default()).collect();
    let mut finishes: Vec<Option<&'static str>> = vec![None; voices.len()];
    let mut usage = Usage::default();
    while let Some((index, event)) = events.next().await {
        let Some(voice) = voices.get_mut(index).filter(|_| finishes[index].is_none()) else { continue };
        match event {
            Event::Started { prompt_tokens, cached_tokens } => started(&mut usage, prompt_tokens, cached_tokens),
            Event::Text { text, tokens: mut more } => {
                voice.say(&text);
                tokens[index].append(&mut more);
                if stops_loops && watches[index].sees_a_loop(&text) {
                    usage.completion += watches[index].pieces;
                    voice.end();
                    finishes[index] = Some(voice.finish(Ended::Length));
                    if !finishes.contains(&None) {
                        break;
                    }
                }
            }
            Event::Ended { how, completion_tokens } => {
                usage.completion += u64::from(completion_tokens);
                voice.end();
                finishes[index] = Some(voice.finish(how));
            }
            Event::Failed { why } => return Err(Problem::engine(&why)),
        }
    }
    if finishes.contains(&None) {
        return Err(Problem::engine_gone());
    }
    let choice = |(index, voice): (usize, &Voice)| {
        json!({
            "index": index,
            "message": voice.message(),
            "logprobs": logprobs(loaded.engine.model(), &tokens[index]),
            "finish_reason": finishes[index],
        })
    };
    let choices: Vec<Value> = voices.iter().enumerate().map(choice).collect();
    Ok(json_response(StatusCode::OK, head.whole(&Value::Array(choices), usage)))
}
