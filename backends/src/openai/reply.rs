//! From a response to chunks: the answer's bytes stay as they came; what is not an answer becomes an error.

use std::collections::BTreeMap;
use std::time::Duration;

use async_stream::try_stream;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};

use super::transport::{Body, causes};
use crate::chunk::Shape;
use crate::forward::Forwarded;
use crate::sse::{Decoder, Event};
use crate::{BackendError, Chunk, ChunkStream};

/// A whole answer, or one event of a stream, may be so large.
const ANSWER_BYTES: usize = 64 << 20;
const EVENT_BYTES: usize = 8 << 20;
/// So much of an error's body is kept.
const ERROR_BYTES: usize = 64 << 10;
/// How long an error's body may take, and the end of a body after `[DONE]`: then the connection is given up.
const ERROR_BODY: Duration = Duration::from_secs(5);
const AFTER_DONE: Duration = Duration::from_millis(20);
/// How long the usage chunk and `[DONE]` are waited for when everything has been said.
const AFTER_FINISH: Duration = Duration::from_secs(1);

/// Passes a 2xx response; anything else is an error with its status, filtered headers and body.
pub async fn success(response: Response<Body>, secrets: &[String]) -> Result<Response<Body>, BackendError> {
    let status = response.status();
    if status.is_success() {
        return match response.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                Err(BackendError::Broken { what: format!("content-encoding {encoding:?} was not asked for") })
            }
            _ => Ok(response),
        };
    }
    if !(status.is_client_error() || status.is_server_error()) {
        return Err(BackendError::Broken { what: format!("upstream answered {status}, neither an answer nor an error") });
    }
    let headers = Box::new(headers_for_client(response.headers()));
    // The status says enough; a body that is late, broken or too large is left away.
    let collected = tokio::time::timeout(ERROR_BODY, Limited::new(response.into_body(), ERROR_BYTES).collect()).await;
    let body = collected.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Err(BackendError::Upstream { status: status.as_u16(), headers, body: without(&body, secrets) })
}

/// Rate limits and timing of the upstream; nothing that names an account, sets a cookie or concerns the connection.
pub fn headers_for_client(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        if matches!(text, "retry-after" | "retry-after-ms" | "x-should-retry" | "openai-processing-ms" | "openai-version")
            || text.starts_with("x-ratelimit-")
        {
            kept.append(name.clone(), value.clone());
        } else if text == "x-request-id" {
            kept.append(HeaderName::from_static("x-upstream-request-id"), value.clone());
        }
    }
    kept
}

pub fn is_json(response: &Response<Body>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("application/json")
}

/// One chunk with the body, byte for byte.
pub fn whole(response: Response<Body>, secrets: &[String]) -> Result<ChunkStream, BackendError> {
    let secrets = secrets.to_vec();
    Ok(Box::pin(try_stream! {
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await.map_err(|error| broken(&*error))?.to_bytes();
        yield whole_chunk(body, &secrets)?;
    }))
}

fn whole_chunk(body: Bytes, secrets: &[String]) -> Result<Chunk, BackendError> {
    let mut chunk = Chunk::parse(body).map_err(|error| scrubbed(error, secrets))?;
    if chunk.view.choices.is_empty() {
        return Err(BackendError::Broken { what: "answer without choices".into() });
    }
    if let Some(choice) = chunk.view.choices.iter().find(|choice| choice.finish.is_none()) {
        return Err(BackendError::Broken { what: format!("answer whose choice {} has no finish_reason", choice.index) });
    }
    // Whatever `object` says, nothing follows.
    chunk.view.shape = Shape::Whole;
    Ok(chunk)
}

/// The events of a stream. It ends well only after every choice has finished.
pub fn stream(response: Response<Body>, choices: u32, secrets: &[String]) -> Result<ChunkStream, BackendError> {
    let mut body = response.into_body();
    let secrets = secrets.to_vec();
    Ok(Box::pin(try_stream! {
        let mut decoder = Decoder::new(EVENT_BYTES);
        let mut progress = Progress::new(choices);
        'read: while let Some(bytes) = progress.read(&mut body).await? {
            decoder.push(bytes);
            while let Some(event) = decoder.next().map_err(|error| broken(&error))? {
                if event.is_done() {
                    progress.done = true;
                    break 'read;
                }
                yield progress.chunk(event).map_err(|error| scrubbed(error, &secrets))?;
            }
        }
        if progress.done {
            // The end of the body gives the connection back to the pool; a server that does not end it costs only that.
            if !body.is_end_stream() {
                let rest = async { while let Some(Ok(_)) = body.frame().await {} };
                let _ = tokio::time::timeout(AFTER_DONE, rest).await;
            }
        } else if let Some(event) = decoder.finish() {
            if event.is_done() {
                progress.done = true;
            } else {
                yield progress.chunk(event).map_err(|error| scrubbed(error, &secrets))?;
            }
        }
        drop(body);
        progress.ended()?;
    }))
}

/// Which choices were seen and which have finished.
struct Progress {
    wanted: usize,
    finished: BTreeMap<u32, bool>,
    done: bool,
}

impl Progress {
    fn new(choices: u32) -> Self {
        Self { wanted: choices as usize, finished: BTreeMap::new(), done: false }
    }

    /// The next bytes of the body. Once every choice has finished only the usage and `[DONE]` are missing: a server
    /// that is slow with them, or breaks, has answered all the same.
    async fn read(&self, body: &mut Body) -> Result<Option<Bytes>, BackendError> {
        loop {
            let frame = if self.complete() {
                match tokio::time::timeout(AFTER_FINISH, body.frame()).await {
                    Ok(Some(Ok(frame))) => frame,
                    _ => return Ok(None),
                }
            } else {
                match body.frame().await {
                    Some(frame) => frame.map_err(|error| broken(&*error))?,
                    None => return Ok(None),
                }
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Every choice that was asked for, or seen, has finished.
    fn complete(&self) -> bool {
        self.finished.len() >= self.wanted && self.finished.values().all(|finished| *finished)
    }

    fn chunk(&mut self, event: Event) -> Result<Chunk, BackendError> {
        let Event { data, extra, error } = event;
        let mut chunk = match Chunk::parse(data.clone()) {
            // An event that calls itself an error may leave the envelope out.
            Err(BackendError::Broken { .. }) if error => return Err(bare_error(&data)),
            parsed => parsed?,
        };
        chunk.extra = extra;
        for choice in &chunk.view.choices {
            *self.finished.entry(choice.index).or_default() |= choice.finish.is_some();
        }
        Ok(chunk)
    }

    /// With `[DONE]` every choice that was seen has finished; without it every choice that was asked for.
    fn ended(&self) -> Result<(), BackendError> {
        let finished = self.finished.values().filter(|finished| **finished).count();
        let wanted = if self.done { self.finished.len().max(1) } else { self.finished.len().max(self.wanted) };
        if finished >= wanted {
            return Ok(());
        }
        let how = if self.done { "said [DONE]" } else { "ended" };
        Err(BackendError::Broken { what: format!("stream {how} after {finished} of {wanted} choices had finished") })
    }
}

fn bare_error(data: &Bytes) -> BackendError {
    let mut body = BytesMut::from(&br#"{"error":"#[..]);
    body.extend_from_slice(data);
    body.extend_from_slice(b"}");
    match Chunk::parse(body.freeze()) {
        Err(error @ BackendError::Upstream { .. }) => error,
        _ => BackendError::Upstream { status: 502, headers: Box::default(), body: Bytes::new() },
    }
}

/// The answer's bytes for the second call form.
pub fn forwarded(response: Response<Body>) -> Forwarded {
    let status = response.status().as_u16();
    let mut headers = headers_for_client(response.headers());
    if let Some(kind) = response.headers().get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    let mut body = response.into_body();
    let bytes = try_stream! {
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(|error| broken(&*error))?.into_data() {
                yield bytes;
            }
        }
    };
    Forwarded { status, headers, body: Box::pin(bytes) }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> BackendError {
    BackendError::Broken { what: causes(error).text }
}

fn scrubbed(error: BackendError, secrets: &[String]) -> BackendError {
    match error {
        BackendError::Upstream { status, headers, body } => BackendError::Upstream { status, headers, body: without(&body, secrets) },
        other => other,
    }
}

/// Error bodies travel to clients and logs; a server that repeats our key does not make it travel with them.
fn without(body: &Bytes, secrets: &[String]) -> Bytes {
    if !secrets.iter().any(|secret| memchr::memmem::find(body, secret.as_bytes()).is_some()) {
        return body.clone();
    }
    let text = secrets.iter().fold(String::from_utf8_lossy(body).into_owned(), |text, secret| text.replace(secret.as_str(), "[redacted]"));
    text.into()
}
