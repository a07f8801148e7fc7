//! Speaks to a worker: HTTP/1.1 over its Unix socket, one connection a request, so that dropping one is noticed at once.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::demand::Use;
use super::supervisor::Health;
use crate::forward::{Forward, Forwarded};
use crate::splice::{Edit, splice};
use crate::sse::Decoder;
use crate::{Ask, BackendError, Chunk, Reply};

/// Largest error body or whole answer, in bytes.
const MOST_BODY: usize = 64 << 20;
/// How far the answer was held to the asked form while it was written: `strict` or `lenient`.
const ENFORCED: HeaderName = HeaderName::from_static("x-spectra-enforced");
/// Asks the worker to end a whole answer that repeats itself without end.
pub const STOP_LOOPS: HeaderName = HeaderName::from_static("x-spectra-stop-loops");

/// Drives a connection; ends it when dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks the worker behind `socket`, as model `alias`. `there` is held until the answer has ended.
pub(super) async fn ask(socket: &Path, alias: &str, ask: Ask, there: Use) -> Result<Reply, BackendError> {
    let view = ask.request.view();
    let mut edits = vec![model(alias)];
    if view.stream && !view.include_usage {
        edits.push(Edit::Set("stream_options", r#"{"include_usage":true}"#.into()));
    }
    let body = ask.request.spliced(&edits);
    let mut request = post("/v1/chat/completions", body, &ask.request_id, ask.traceparent.as_deref())?;
    if ask.stops_loops && !view.stream {
        request.headers_mut().insert(STOP_LOOPS, HeaderValue::from_static("1"));
    }
    let (connection, response) = accepted(socket, request).await?;
    let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let headers = response.headers().get(&ENFORCED).map(|strength| (ENFORCED, strength.clone()));
    let body = response.into_body();
    let held = (connection, there);
    let chunks: crate::ChunkStream = if is_stream {
        Box::pin(events(held, body))
    } else {
        Box::pin(futures_util::stream::once(async move {
            let data = whole(body).await?;
            drop(held);
            Chunk::parse(data)
        }))
    };
    Ok(Reply { headers: headers.into_iter().collect(), chunks })
}

/// Passes a request of another endpoint on, its answer unread.
pub(super) async fn forward(socket: &Path, alias: &str, forward: Forward, there: Use) -> Result<Forwarded, BackendError> {
    let body = splice(&forward.body, &[model(alias)]).map_err(|error| not_sent(&error))?;
    let path = format!("/v1{}", forward.endpoint.path());
    let request = post(&path, body, &forward.request_id, forward.traceparent.as_deref())?;
    let (connection, response) = accepted(socket, request).await?;
    let status = response.status().as_u16();
    let headers = response.headers().get(CONTENT_TYPE).map(|kind| (CONTENT_TYPE, kind.clone())).into_iter().collect();
    let held = (connection, there);
    let body = BodyStream::new(response.into_body()).filter_map(move |frame| {
        let _held = &held;
        std::future::ready(frame.map_or_else(|error| Some(Err(broken(&error))), |frame| frame.into_data().ok().map(Ok)))
    });
    Ok(Forwarded { status, headers, body: Box::pin(body) })
}

fn model(alias: &str) -> Edit {
    Edit::Set("model", serde_json::Value::from(alias).to_string())
}

fn post(path: &str, body: Bytes, request_id: &str, traceparent: Option<&str>) -> Result<Request<Full<Bytes>>, BackendError> {
    let mut request =
        Request::post(path).header(HOST, "localhost").header(CONTENT_TYPE, "application/json").header("x-request-id", request_id);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    request.body(Full::new(body)).map_err(|error| not_sent(&error))
}

/// Requests are parsed at the door; one that cannot be written is a fault of ours.
fn not_sent(error: &dyn std::fmt::Display) -> BackendError {
    BackendError::Unavailable { why: format!("request could not be written: {error}") }
}

async fn accepted(socket: &Path, request: Request<Full<Bytes>>) -> Result<(Connection, Response<Incoming>), BackendError> {
    let (connection, response) = send(socket, request).await?;
    let status = response.status();
    if status == StatusCode::OK { Ok((connection, response)) } else { Err(refused(status, response).await) }
}

/// What the worker says of itself; an error while it loads.
pub(super) async fn health(socket: &Path) -> Result<Health, BackendError> {
    let request = Request::get("/health").header(HOST, "localhost").body(Full::default());
    let request = request.map_err(|error| BackendError::Broken { what: error.to_string() })?;
    let (_connection, response) = send(socket, request).await?;
    if response.status() != StatusCode::OK {
        return Err(BackendError::Unavailable { why: response.status().to_string() });
    }
    let data = whole(response.into_body()).await?;
    serde_json::from_slice(&data).map_err(|error| BackendError::Broken { what: format!("health: {error}") })
}

async fn send(socket: &Path, request: Request<Full<Bytes>>) -> Result<(Connection, Response<Incoming>), BackendError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| BackendError::Unavailable { why: format!("the local model's worker does not answer: {error}") })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = Connection(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the worker ended");
        }
    }));
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    Ok((connection, response))
}

fn broken(error: &hyper::Error) -> BackendError {
    BackendError::Broken { what: format!("the local model's worker: {error}") }
}

async fn whole(body: Incoming) -> Result<Bytes, BackendError> {
    let body = Limited::new(body, MOST_BODY).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| BackendError::Broken { what: format!("the local model's worker: {error}") })
}

async fn refused(status: StatusCode, response: Response<Incoming>) -> BackendError {
    let headers = response.headers().clone();
    let body = whole(response.into_body()).await.unwrap_or_default();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return if body.windows(17).any(|part| part == b"engine_overloaded") {
            BackendError::Overloaded { retry_after: Some(Duration::from_secs(1)) }
        } else {
            BackendError::Unavailable { why: "the local model is being loaded or has ended".into() }
        };
    }
    BackendError::Upstream { status: status.as_u16(), headers: Box::new(headers), body }
}

/// The chunks of a stream. Only `[DONE]` is a good end.
fn events(held: (Connection, Use), mut body: Incoming) -> impl Stream<Item = Result<Chunk, BackendError>> + Send {
    async_stream::stream! {
        let _held = held;
        let mut decoder = Decoder::new(MOST_BODY);
        loop {
            loop {
                let event = match decoder.next() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(error) => {
                        yield Err(BackendError::Broken { what: format!("the local model's worker: {error}") });
                        return;
                    }
                };
                if event.is_done() {
                    return;
                }
                let chunk = Chunk::parse(event.data);
                let failed = chunk.is_err();
                yield chunk;
                if failed {
                    return;
                }
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        decoder.push(data);
                    }
                }
                Some(Err(error)) => {
                    yield Err(broken(&error));
                    return;
                }
                None => {
                    yield Err(BackendError::Broken { what: "the local model's worker ended in the middle of an answer".into() });
                    return;
                }
            }
        }
    }
}
