//! Speaks to a worker: HTTP/1.1 over its Unix socket, one connection a request, so that dropping one is noticed at once.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::supervisor::Health;
use crate::splice::Edit;
use crate::{Ask, BackendError, Chunk, Reply};

/// Largest error body or whole answer, in bytes.
const MOST_BODY: usize = 64 << 20;

/// Drives a connection; ends it when dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks the worker behind `socket`, as model `alias`.
pub(super) async fn ask(socket: &Path, alias: &str, ask: Ask) -> Result<Reply, BackendError> {
    let view = ask.request.view();
    let mut edits = vec![Edit::Set("model", serde_json::Value::from(alias).to_string())];
    if view.stream && !view.include_usage {
        edits.push(Edit::Set("stream_options", r#"{"include_usage":true}"#.into()));
    }
    let body = ask.request.spliced(&edits);
    let mut request = Request::post("/v1/chat/completions")
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .header("x-request-id", &*ask.request_id);
    if let Some(traceparent) = &ask.traceparent {
        request = request.header("traceparent", &**traceparent);
    }
    let request = request.body(Full::new(body)).map_err(|error| BackendError::Broken { what: error.to_string() })?;
    let (connection, response) = send(socket, request).await?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(refused(status, response).await);
    }
    let is_stream = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let body = response.into_body();
    let chunks: crate::ChunkStream = if is_stream {
        Box::pin(events(connection, body))
    } else {
        Box::pin(futures_util::stream::once(async move {
            let data = whole(body).await?;
            drop(connection);
            Chunk::parse(data)
        }))
    };
    Ok(Reply { headers: HeaderMap::new(), chunks })
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

/// The worker writes one `data:` line and an empty line for each event; nothing else has to be read here.
fn events(connection: Connection, mut body: Incoming) -> impl futures_util::Stream<Item = Result<Chunk, BackendError>> + Send {
    async_stream::stream! {
        let _connection = connection;
        let mut buffer = BytesMut::new();
        loop {
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event = buffer.split_to(end + 2).freeze();
                let data = event.slice(b"data: ".len().min(end)..end);
                if &*data == b"[DONE]" {
                    return;
                }
                let chunk = Chunk::parse(data);
                let failed = chunk.is_err();
                yield chunk;
                if failed {
                    return;
                }
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        buffer.extend_from_slice(data);
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
