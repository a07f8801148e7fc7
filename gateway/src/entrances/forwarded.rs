//! What is passed on as it is: `/v1/embeddings`, and legacy completions that chat cannot express. The model is the one
//! named: a backend, or the first of a route's ladder that has the endpoint; nothing is judged and nothing escalates.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use serde_json::{Map, Value};
use spectra_backends::chunk::Usage;
use spectra_backends::sse::Decoder;
use spectra_backends::{BackendError, Chunk, Endpoint, Forward, Forwarded};
use spectra_router::verify::{Flaw, Verdict};
use spectra_router::{Attempt, RouteError, Why};
use tokio::time::Instant;

use super::{missing, object, wrong};
use crate::record::{Entrance, Outcome, Record};
use crate::{Body, Failure, Gateway, Refusal, chat, respond};

/// Most bytes of a whole answer: 2,048 inputs of 3,072 numbers, spelt out.
const MOST_BYTES: usize = 128 << 20;
/// Most bytes of one event of a stream.
const EVENT_BYTES: usize = 8 << 20;
const DEADLINE: Duration = Duration::from_secs(300);

/// One request being passed on.
struct Passing {
    backend: Arc<str>,
    began: Instant,
    local: bool,
}

pub(crate) async fn answer(gateway: Arc<Gateway>, parts: Parts, raw: Bytes, mut record: Record) -> Response<Body> {
    let entrance = record.data.entrance;
    match pass(&gateway, &parts, raw, &mut record).await {
        Ok((passing, Forwarded { status, headers, body })) if record.data.streamed => {
            let mut response = Response::new(Body::Whole(None));
            describe(&mut response, headers, &passing, &record);
            record.data.status = status;
            *response.body_mut() = streamed(gateway, passing, body, record);
            response
        }
        Ok((passing, Forwarded { headers, body, .. })) => match collected(&gateway, body).await {
            Ok(bytes) => {
                let usage = Chunk::parse(bytes.clone()).ok().and_then(|chunk| chunk.view.usage);
                passing.note(&gateway, &record, Some(Verdict::Pass), usage);
                let mut response = Response::new(Body::whole(bytes));
                describe(&mut response, headers, &passing, &record);
                record.first_byte();
                record.end(Outcome::Delivered, 200, None);
                response
            }
            Err(failure) => {
                passing.note(&gateway, &record, Some(broken()), None);
                chat::refused(entrance, &failure, record)
            }
        },
        Err(failure) => chat::refused(entrance, &failure, record),
    }
}

/// Everything up to the head of the upstream's answer.
async fn pass(gateway: &Gateway, parts: &Parts, raw: Bytes, record: &mut Record) -> Result<(Passing, Forwarded), Failure> {
    let fields = object(&raw)?;
    let endpoint = if record.data.entrance == Entrance::Embeddings { Endpoint::Embeddings } else { Endpoint::Completions };
    let model = checked(&fields, endpoint)?;
    record.data.asked_model = gateway.names.label(model);
    record.data.streamed = endpoint == Endpoint::Completions && fields.get("stream") == Some(&Value::Bool(true));
    if let Some(caller) = &record.caller {
        record.charge = Some(caller.charge(raw.len() as u64 / 4)?);
    }
    let mut asked = chat::asked(&parts.headers, record.data.request_id.clone())?;
    record.trace(&mut asked.traceparent);
    let backend = backend(gateway, asked.route.as_deref().unwrap_or(model), endpoint)?;
    record.data.model = Some(backend.as_str().into());
    let fleet = gateway.router.fleet();
    let local = fleet.facts(&backend).is_some_and(|facts| facts.local);
    let passing = Passing { backend: backend.as_str().into(), began: Instant::now(), local };
    passing.note(gateway, record, None, None);
    let forward = Forward {
        endpoint,
        body: raw,
        stream: record.data.streamed,
        deadline: passing.began + asked.deadline.map_or(DEADLINE, |asked| asked.min(DEADLINE)),
        request_id: asked.request_id,
        traceparent: asked.traceparent,
    };
    let answered = tokio::select! {
        answered = fleet.forward(&backend, forward) => answered,
        () = gateway.drain.over.cancelled() => return Err(Refusal::Draining.into()),
    };
    match answered {
        Ok(forwarded) => Ok((passing, forwarded)),
        Err(error) => {
            passing.note(gateway, record, Some(Verdict::Flawed(Flaw::Backend(error.clone()))), None);
            Err(Failure::upstream(error, None))
        }
    }
}

/// The model's name, where what the endpoint must have is there.
fn checked(fields: &Map<String, Value>, endpoint: Endpoint) -> Result<&str, Failure> {
    let given = |name: &'static str| fields.get(name).filter(|value| !value.is_null()).ok_or_else(|| missing(name));
    let model = given("model")?.as_str().ok_or_else(|| wrong("model", "a string"))?;
    let input = if endpoint == Endpoint::Embeddings { "input" } else { "prompt" };
    if !matches!(given(input)?, Value::String(_) | Value::Array(_)) {
        return Err(wrong(input, "a string or an array").into());
    }
    if fields.get("stream").is_some_and(|stream| !stream.is_null() && !stream.is_boolean()) {
        return Err(wrong("stream", "a boolean").into());
    }
    Ok(model)
}

/// The backend that a name stands for here.
fn backend(gateway: &Gateway, asked: &str, endpoint: Endpoint) -> Result<String, RouteError> {
    let config = &gateway.config;
    let named = config.aliases.get(asked).map_or(asked, |target| target.get_ref().as_str());
    let fleet = gateway.router.fleet();
    let candidates = match (config.routes.get(named), named) {
        (Some(route), _) => route.ladder_names(),
        (None, "auto") => config.routes.get(config.router.strong.get_ref()).map(spectra_config::Route::ladder_names).unwrap_or_default(),
        (None, _) if config.backends.contains_key(named) => vec![named.to_owned()],
        _ => return Err(RouteError::UnknownModel { model: named.chars().take(200).collect() }),
    };
    let why = match endpoint {
        Endpoint::Embeddings => "none of its models embeds",
        Endpoint::Completions => {
            "none of its models has /v1/completions, which this request needs (suffix, echo, best_of, logprobs, several prompts or tokens)"
        }
    };
    let none = || RouteError::NoRouteFits { route: named.to_owned(), why: why.into(), context_length: false };
    candidates.into_iter().find(|name| fleet.forwards(name)).ok_or_else(none)
}

fn describe(response: &mut Response<Body>, headers: HeaderMap, passing: &Passing, record: &Record) {
    *response.headers_mut() = headers;
    if let Ok(name) = HeaderValue::from_str(&passing.backend) {
        response.headers_mut().insert(respond::MODEL, name);
    }
    if let Some(caller) = &record.caller {
        caller.tell(response.headers_mut());
    }
}

async fn collected(gateway: &Gateway, mut body: spectra_backends::forward::ByteStream) -> Result<Bytes, Failure> {
    let mut all = BytesMut::new();
    let over = gateway.drain.over.cancelled();
    tokio::pin!(over);
    loop {
        let bytes = tokio::select! {
            bytes = body.next() => bytes,
            () = &mut over => return Err(Refusal::Draining.into()),
        };
        let Some(bytes) = bytes else { return Ok(all.freeze()) };
        let bytes = bytes.map_err(|error| Failure::upstream(error, None))?;
        if all.len() + bytes.len() > MOST_BYTES {
            return Err(Failure::upstream(BackendError::Broken { what: "an answer too large".into() }, None));
        }
        all.extend_from_slice(&bytes);
    }
}

/// The bytes as they come, read beside for their usage and their end.
fn streamed(gateway: Arc<Gateway>, passing: Passing, mut body: spectra_backends::forward::ByteStream, mut record: Record) -> Body {
    Body::Stream(Box::pin(async_stream::stream! {
        let mut events = Decoder::new(EVENT_BYTES);
        let (mut usage, mut done) = (None, false);
        let failure = loop {
            let bytes = tokio::select! {
                bytes = body.next() => bytes,
                () = gateway.drain.over.cancelled() => break Some(Refusal::Draining.into()),
            };
            match bytes {
                Some(Ok(bytes)) => {
                    events.push(bytes.clone());
                    while let Ok(Some(event)) = events.next() {
                        done |= event.is_done();
                        usage = Chunk::parse(event.data).ok().and_then(|chunk| chunk.view.usage).or(usage);
                    }
                    record.first_byte();
                    yield bytes;
                }
                Some(Err(error)) => break Some(Failure::upstream(error, None)),
                None if done => break None,
                None => break Some(Failure::upstream(BackendError::Broken { what: "the stream ended without [DONE]".into() }, None)),
            }
        };
        let Some(failure) = failure else {
            passing.note(&gateway, &record, Some(Verdict::Pass), usage);
            return record.end(Outcome::Delivered, 200, None);
        };
        passing.note(&gateway, &record, Some(broken()), usage);
        record.end(Outcome::Broken, 200, Some(failure.label));
        yield format!("\n\ndata: {}\n\n", failure.json()).into();
    }))
}

fn broken() -> Verdict {
    Verdict::Flawed(Flaw::Backend(BackendError::Broken { what: "the answer broke off".into() }))
}

impl Passing {
    /// Writes the one attempt down.
    fn note(&self, gateway: &Gateway, record: &Record, verdict: Option<Verdict>, usage: Option<Usage>) {
        let price = gateway.router.fleet().facts(&self.backend).map(|facts| facts.price).unwrap_or_default();
        record.trail.passed(Attempt {
            backend: self.backend.clone(),
            rung: 0,
            why: Why::First,
            verdict,
            usage,
            cost_usd: usage.map_or(0.0, |usage| price.cost_usd(usage.prompt_tokens, usage.completion_tokens)),
            local: self.local,
            first_chunk: None,
            began: self.began,
            total: self.began.elapsed(),
        });
    }
}
