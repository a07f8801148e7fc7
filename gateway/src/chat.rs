//! One request to a model, from its bytes to its answer: read, admit, ask, respond. Every exit passes the record.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, Version, header};
use hyper::body::Incoming;
use spectra_backends::ChatRequest;
use spectra_backends::chat::{BadRequest, View};
use spectra_router::{Answer, Asked};
use tokio::time::Instant;

use crate::clients::flight::Joined;
use crate::entrances::forwarded;
use crate::record::{Entrance, Record};
use crate::respond::{self, Dialect, Manner};
use crate::{Body, Failure, Gateway, Refusal, entrances};

/// A client whose body comes slower than this after its first `client_read_ms` is dropped.
const LEAST_BYTES_PER_SECOND: u64 = 1024;

/// A request that may be asked.
struct Admitted {
    request: ChatRequest,
    asked: Asked,
    dialect: Box<dyn Dialect>,
    manner: Manner,
}

pub(crate) async fn answer(gateway: Arc<Gateway>, entrance: Entrance, request: Request<Incoming>, id: Arc<str>) -> Response<Body> {
    let mut record = Record::new(gateway.books.clone(), id, entrance);
    let (parts, body) = request.into_parts();
    let raw = match take(&gateway, &parts, body, &mut record).await {
        Ok(raw) => raw,
        Err(failure) => return refused(entrance, &failure, record),
    };
    let Some(key) = parts.headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).filter(|key| !key.is_empty()) else {
        return first(gateway, parts, raw, record).await;
    };
    let flights = gateway.clients.flights.clone();
    match flights.join(record.data.key.clone(), key, parts.uri.path(), &raw) {
        Err(refusal) => refused(entrance, &refusal.into(), record),
        Ok(Joined::Other(flight)) => {
            // Whoever reads along takes no place: another request holds one for the same work.
            record.place = None;
            flight.read(record).await
        }
        Ok(Joined::First(flight)) => {
            let delivered = Arc::new(AtomicBool::new(false));
            record.delivered = Some(delivered.clone());
            flight.make(flights, delivered, async move { first(gateway, parts, raw, record).await }).await
        }
    }
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request that nobody has asked before.
async fn first(gateway: Arc<Gateway>, parts: Parts, raw: Bytes, mut record: Record) -> Response<Body> {
    let entrance = record.data.entrance;
    if entrances::passes(entrance, &raw) {
        return forwarded::answer(gateway, parts, raw, record).await;
    }
    let admitted = match admit(&gateway, &parts, raw, &mut record) {
        Ok(admitted) => admitted,
        Err(failure) => return refused(entrance, &failure, record),
    };
    let Admitted { request, asked, dialect, manner } = admitted;
    let asking = ask(gateway.clone(), record.trail.clone(), request, asked);
    match gateway.config.server.ping_ms.filter(|_| manner.streamed) {
        Some(every_ms) => respond::kept_alive(Box::pin(asking), Duration::from_millis(every_ms), dialect, manner, record).await,
        None => respond::answered(asking.await, dialect, manner, record).await,
    }
}

pub(crate) fn refused(entrance: Entrance, failure: &Failure, record: Record) -> Response<Body> {
    respond::failed(failure, entrance, record)
}

/// Tokens a request may use, before anybody has counted: four bytes of text are about one, and it may fill its limit.
fn estimated_tokens(view: &View) -> u64 {
    let bytes: usize = view.messages.iter().map(|message| message.text.len()).sum();
    bytes as u64 / 4 + u64::from(view.max_tokens.unwrap_or(0)) * u64::from(view.n.max(1))
}

/// Everything between the body and the first model.
fn admit(gateway: &Gateway, parts: &Parts, raw: Bytes, record: &mut Record) -> Result<Admitted, Failure> {
    let began = Instant::now();
    let (request, dialect) = entrances::understand(record.data.entrance, raw)?;
    record.data.timings.parse = began.elapsed();
    let view = request.view();
    record.data.asked_model = gateway.names.label(&view.model);
    record.data.streamed = view.stream;
    record.keep_prompt(view);
    if let Some(caller) = &record.caller {
        record.charge = Some(caller.charge(estimated_tokens(view))?);
    }
    let manner = Manner {
        streamed: view.stream,
        include_usage: view.include_usage,
        debug: parts.headers.get("x-spectra-debug").is_some_and(|value| value == "1"),
        verdict_event: parts.headers.get("x-spectra-verdict").is_some_and(|value| value == "event"),
        pumped: parts.version == Version::HTTP_2,
        write_within: Duration::from_millis(gateway.config.limits.client_write_ms),
        over: gateway.drain.over.clone(),
    };
    let mut asked = asked(&parts.headers, record.data.request_id.clone())?;
    record.trace(&mut asked.traceparent);
    Ok(Admitted { request, asked, dialect, manner })
}

/// The body of a request that may be looked at: its caller is known, its size and time are bounded, it has a place.
pub(crate) async fn take(gateway: &Gateway, parts: &Parts, body: Incoming, record: &mut Record) -> Result<Bytes, Failure> {
    if gateway.drain.begun.is_cancelled() {
        return Err(Refusal::Draining.into());
    }
    record.caller = gateway.clients.identify(&parts.headers)?.cloned();
    record.data.key = record.caller.as_ref().map(|caller| caller.name.clone());
    media_type(&parts.headers)?;
    let raw = read(gateway, &parts.headers, body).await?;
    // Only now: a client that sends slowly holds a connection, not a place.
    record.place = Some(gateway.places.take().ok_or(Refusal::Busy)?);
    Ok(raw)
}

/// Asks the router; a shutdown whose patience is over ends it.
async fn ask(gateway: Arc<Gateway>, trail: spectra_router::Trail, request: ChatRequest, asked: Asked) -> Result<Answer, Failure> {
    tokio::select! {
        biased;
        answer = gateway.router.answer(&trail, request, asked) => answer.map_err(Failure::from),
        () = gateway.drain.over.cancelled() => Err(Refusal::Draining.into()),
    }
}

/// JSON, or nothing said.
fn media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(found) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let found = found.to_str().unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json") {
        return Ok(());
    }
    Err(Refusal::WrongMediaType { found: found.chars().take(100).collect() })
}

/// Reads the body, bounded in size and time.
pub(crate) async fn read(gateway: &Gateway, headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, Refusal> {
    use http_body_util::BodyExt;
    let limit = gateway.config.limits.body_bytes;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Refusal::BodyTooLarge { limit });
    }
    let patience = Duration::from_millis(gateway.config.limits.client_read_ms);
    let began = Instant::now();
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    let mut length = 0_usize;
    loop {
        let slowest = began + patience + Duration::from_secs(length as u64 / LEAST_BYTES_PER_SECOND);
        let until = slowest.min(Instant::now() + patience);
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return Err(Refusal::SlowBody),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Refusal::CutBody),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > limit {
            return Err(Refusal::BodyTooLarge { limit });
        }
        // Most bodies come in one piece, which is then not copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.unwrap_or(0).max(first.len() + data.len()));
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.into() })
}

/// What the `x-spectra-*` headers ask for. They stay here: a backend gets none of the client's headers.
pub(crate) fn asked(headers: &HeaderMap, request_id: Arc<str>) -> Result<Asked, BadRequest> {
    let text = |name: &'static str| {
        headers.get(name).map(|value| value.to_str().map(str::to_owned)).transpose().map_err(|_| odd(name, "visible ASCII text"))
    };
    let deadline = text("x-spectra-deadline-ms")?.map(|ms| ms.trim().parse::<u64>()).transpose();
    let deadline = deadline.map_err(|_| odd("x-spectra-deadline-ms", "a whole number of milliseconds"))?;
    if deadline == Some(0) {
        return Err(odd("x-spectra-deadline-ms", "1 or more milliseconds"));
    }
    Ok(Asked {
        route: text("x-spectra-route")?,
        verify: text("x-spectra-verify")?,
        session: text("x-spectra-session")?,
        deadline: deadline.map(Duration::from_millis),
        request_id,
        traceparent: headers.get("traceparent").and_then(|value| value.to_str().ok()).filter(|value| is_traceparent(value)).map(Arc::from),
    })
}

fn odd(name: &'static str, expected: &str) -> BadRequest {
    BadRequest::new("invalid_header", name.to_owned(), format!("Invalid header '{name}': expected {expected}."))
}

/// W3C trace context, version 00: `00-<32 hex>-<16 hex>-<2 hex>`.
fn is_traceparent(value: &str) -> bool {
    let lengths = [2, 32, 16, 2];
    let parts: Vec<&str> = value.split('-').collect();
    parts.len() == lengths.len()
        && parts.iter().zip(lengths).all(|(part, length)| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
