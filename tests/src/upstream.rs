//! An OpenAI-compatible server that fails as told, over real sockets, HTTP/1.1 or HTTP/2, and says when it was left.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Nothing here takes so long: who waits longer has found a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server does next with one request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Status and headers. HTTP/1.1: chunked, unless a `content-length` is among them.
    Head(u16, Vec<(&'static str, String)>),
    Body(Bytes),
    /// The proper end of the body.
    End,
    /// The connection (HTTP/1.1) or the stream (HTTP/2) ends without a proper end of the body.
    Cut,
    /// The same as a reset.
    Reset,
    /// Nothing more until the other side leaves.
    Stall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// With prior knowledge.
    Http2,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    #[must_use]
    pub fn wants_stream(&self) -> bool {
        self.json()["stream"] == true
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub connections: usize,
    pub requests: usize,
    /// Requests that the other side left before they were answered.
    pub left: usize,
}

/// The running server; dropping it closes everything.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

type Script = dyn Fn(&Received, usize) -> Vec<Step> + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: watch::Sender<Seen>,
    received: Mutex<Vec<Received>>,
}

impl Upstream {
    /// Starts on a free port of loopback. `script` says what to do with each request, given how many came before it.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(protocol: Protocol, script: impl Fn(&Received, usize) -> Vec<Step> + Send + Sync + 'static) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { script: Box::new(script), seen: watch::channel(Seen::default()).0, received: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, protocol, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// A server with one fault for every request.
    ///
    /// # Errors
    /// As `start`.
    pub async fn failing(protocol: Protocol, fault: Fault) -> anyhow::Result<Self> {
        Self::start(protocol, move |request, _| fault.steps(request.wants_stream())).await
    }

    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests so far, in the order of their arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest request.
    ///
    /// # Panics
    /// If none has come.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that asks too early shall fail here")]
    pub fn last(&self) -> Received {
        self.received().pop().expect("a request has come")
    }

    #[must_use]
    pub fn seen(&self) -> Seen {
        *self.shared.seen.borrow()
    }

    /// Waits until what has happened satisfies `enough`.
    ///
    /// # Errors
    /// If it does not come to that.
    pub async fn until(&self, enough: impl Fn(&Seen) -> bool) -> anyhow::Result<Seen> {
        let mut seen = self.shared.seen.subscribe();
        let found = tokio::time::timeout(PATIENCE, seen.wait_for(enough)).await;
        Ok(*found.with_context(|| format!("only {:?} happened", self.seen()))??)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("seen", &*self.seen.borrow()).finish_non_exhaustive()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, protocol: Protocol, shared: Arc<Shared>) {
    // Ends with this task, and every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        shared.seen.send_modify(|seen| seen.connections += 1);
        let shared = Arc::clone(&shared);
        match protocol {
            Protocol::Http1 => drop(connections.spawn(async move { drop(http1(stream, &shared).await) })),
            Protocol::Http2 => drop(connections.spawn(http2(stream, shared))),
        }
        while connections.try_join_next().is_some() {}
    }
}

impl Shared {
    fn steps(&self, request: Received) -> Vec<Step> {
        let before = {
            let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
            received.push(request.clone());
            received.len() - 1
        };
        self.seen.send_modify(|seen| seen.requests += 1);
        (self.script)(&request, before)
    }
}

// === HTTP/1.1, byte by byte ===

async fn http1(mut stream: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await? {
        let mut chunked = true;
        for step in shared.steps(request) {
            let sent = match step {
                Step::Head(status, headers) => {
                    chunked = !headers.iter().any(|(name, _)| *name == "content-length");
                    let mut head = format!("HTTP/1.1 {status} Told\r\n");
                    for (name, value) in &headers {
                        head += &format!("{name}: {value}\r\n");
                    }
                    head += if chunked { "transfer-encoding: chunked\r\n\r\n" } else { "\r\n" };
                    stream.write_all(head.as_bytes()).await
                }
                Step::Body(bytes) if chunked => {
                    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
                    framed.extend_from_slice(&bytes);
                    framed.extend_from_slice(b"\r\n");
                    stream.write_all(&framed).await
                }
                Step::Body(bytes) => stream.write_all(&bytes).await,
                Step::End if chunked => stream.write_all(b"0\r\n\r\n").await,
                Step::End => Ok(()),
                Step::Cut => return Ok(()),
                Step::Reset => {
                    stream.set_zero_linger()?;
                    return Ok(());
                }
                Step::Stall => {
                    let mut byte = [0];
                    while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {}
                    shared.seen.send_modify(|seen| seen.left += 1);
                    return Ok(());
                }
            };
            if sent.is_err() {
                shared.seen.send_modify(|seen| seen.left += 1);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next request of a connection; none when it was closed between two.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<Option<Received>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec())?;
    let mut lines = head.split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).context("no target")?.to_owned();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value.trim())?);
    }
    let length: usize = headers.get("content-length").map_or(Ok(0), |length| length.to_str().unwrap_or_default().parse())?;
    while buffer.len() < end + 4 + length {
        anyhow::ensure!(stream.read_buf(buffer).await? > 0, "body cut");
    }
    let body = Bytes::copy_from_slice(&buffer[end + 4..end + 4 + length]);
    buffer.drain(..end + 4 + length);
    Ok(Some(Received { target, headers, body }))
}

// === HTTP/2 ===

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn http2(stream: TcpStream, shared: Arc<Shared>) {
    let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&shared)));
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let target = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let mut leaving = Leaving(Some(Arc::clone(&shared)));
    let mut steps = shared.steps(Received { target, headers: parts.headers, body }).into_iter();
    let mut response = Response::new(());
    match steps.next() {
        Some(Step::Head(status, headers)) => {
            *response.status_mut() = http::StatusCode::from_u16(status).map_err(std::io::Error::other)?;
            for (name, value) in headers {
                if let Ok(value) = HeaderValue::try_from(value) {
                    response.headers_mut().insert(name, value);
                }
            }
        }
        Some(Step::Stall) => std::future::pending().await,
        _ => {
            leaving.0.take();
            return Err(std::io::Error::other("reset as told"));
        }
    }
    let frames = stream::unfold((steps, leaving), |(mut steps, mut leaving)| async move {
        let frame = match steps.next() {
            Some(Step::Body(bytes)) => Ok(Frame::data(bytes)),
            Some(Step::Stall) => std::future::pending().await,
            Some(Step::Cut | Step::Reset) => {
                leaving.0.take();
                Err(std::io::Error::other("cut as told"))
            }
            Some(Step::End | Step::Head(..)) | None => {
                leaving.0.take();
                return None;
            }
        };
        Some((frame, (steps, leaving)))
    });
    Ok(response.map(|()| StreamBody::new(frames).boxed_unsync()))
}

/// Counts a request as left unless it was answered to the end.
struct Leaving(Option<Arc<Shared>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.seen.send_modify(|seen| seen.left += 1);
        }
    }
}

// === what servers do wrong ===

/// The ways of failing, each for streams and for whole answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: a good answer.
    None,
    RateLimited,
    /// With `Retry-After: 7`.
    RateLimitedWithRetryAfter,
    ServerError,
    /// A 401 that repeats the key it was sent.
    KeyRejected,
    ResetBeforeHead,
    ResetInBody,
    StallBeforeHead,
    StallBeforeBody,
    StallInBody,
    /// The body ends properly, the answer does not.
    Truncated,
    /// The connection ends inside the body.
    Cut,
    MalformedChunk,
    ErrorFirst,
    /// With a numeric code, as vLLM and llama-server write it.
    ErrorInStream,
    /// 200 and HTML.
    Garbage,
    /// 200, JSON, not an answer.
    OtherJson,
    /// A good answer, byte by byte.
    SlowDrip,
    /// A good answer whose `[DONE]` never comes and whose body never ends.
    NoDone,
    /// `[DONE]` without a finish.
    DoneUnfinished,
    /// A good answer with unknown fields, an undocumented service tier and no usage.
    Odd,
    Redirect,
    Empty,
}

pub const ALL_FAULTS: &[Fault] = &[
    Fault::None,
    Fault::RateLimited,
    Fault::RateLimitedWithRetryAfter,
    Fault::ServerError,
    Fault::KeyRejected,
    Fault::ResetBeforeHead,
    Fault::ResetInBody,
    Fault::StallBeforeHead,
    Fault::StallBeforeBody,
    Fault::StallInBody,
    Fault::Truncated,
    Fault::Cut,
    Fault::MalformedChunk,
    Fault::ErrorFirst,
    Fault::ErrorInStream,
    Fault::Garbage,
    Fault::OtherJson,
    Fault::SlowDrip,
    Fault::NoDone,
    Fault::DoneUnfinished,
    Fault::Odd,
    Fault::Redirect,
    Fault::Empty,
];

/// What the good answer says: in two content chunks.
pub const GOOD: [&str; 2] = ["Good answer ", "from upst\u{159}eam."];
/// The key that tests configure; `KeyRejected` repeats it.
pub const KEY: &str = "sk-test-canary-4711";

impl Fault {
    /// What the server does.
    #[must_use]
    pub fn steps(self, stream: bool) -> Vec<Step> {
        let error = |status: u16, kind: &str, more: &[(&'static str, &str)]| {
            refusal(status, &json!({"message": format!("told to fail: {kind}"), "type": kind, "param": null, "code": null}), more)
        };
        match self {
            Self::RateLimited => error(429, "rate_limit_error", &[]),
            Self::RateLimitedWithRetryAfter => error(429, "rate_limit_error", &[("retry-after", "7")]),
            Self::ServerError => error(500, "server_error", &[]),
            Self::KeyRejected => refusal(
                401,
                &json!({"message": format!("Incorrect API key provided: {KEY}."), "code": "invalid_api_key"}),
                &[("set-cookie", "s=1")],
            ),
            Self::ResetBeforeHead => vec![Step::Reset],
            Self::StallBeforeHead => vec![Step::Stall],
            Self::Garbage => whole_body("text/html", "<html>It works!</html>"),
            Self::OtherJson => whole_body("application/json", r#"{"status":"ok"}"#),
            Self::Redirect => {
                vec![Step::Head(302, vec![("location", "http://127.0.0.1:1/".into()), ("content-length", "0".into())]), Step::End]
            }
            Self::Empty if stream => vec![event_stream(), Step::End],
            Self::Empty => whole_body("application/json", ""),
            _ if stream => self.in_stream(),
            _ => self.in_whole(),
        }
    }

    fn in_stream(self) -> Vec<Step> {
        let role = event(&chunk(&json!({"role": "assistant", "content": ""}), None));
        let first = event(&chunk(&json!({"content": GOOD[0]}), None));
        let second = event(&chunk(&json!({"content": GOOD[1]}), None));
        let finish = event(&chunk(&json!({}), Some("stop")));
        let usage =
            event(&json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage()}));
        let done = Step::Body(Bytes::from_static(b"data: [DONE]\n\n"));
        let error = event(&json!({"error": {"message": "told to fail", "type": "server_error", "param": null, "code": 503}}));
        let start = vec![event_stream(), role, first.clone()];
        let with = |mut steps: Vec<Step>, more: Vec<Step>| {
            steps.extend(more);
            steps
        };
        match self {
            Self::ResetInBody => with(start, vec![Step::Reset]),
            Self::StallBeforeBody => vec![event_stream(), Step::Stall],
            Self::StallInBody => with(start, vec![Step::Stall]),
            Self::Truncated => with(start, vec![Step::End]),
            Self::Cut => with(start, vec![Step::Cut]),
            Self::MalformedChunk => with(start, vec![Step::Body(Bytes::from_static(b"data: {\"choices\":[{\"ind\n\n")), done, Step::End]),
            Self::ErrorFirst => vec![event_stream(), error, Step::End],
            Self::ErrorInStream => with(start, vec![error, Step::End]),
            Self::DoneUnfinished => with(start, vec![done, Step::End]),
            Self::NoDone => with(start, vec![second, finish, usage, Step::Stall]),
            Self::Odd => {
                let odd = |delta: Value, finish: Option<&str>| {
                    let mut odd = chunk(&delta, finish);
                    odd["service_tier"] = json!("hyperdrive");
                    odd["choices"][0]["delta"]["x_thought"] = json!([1.50]);
                    event(&odd)
                };
                let text = vec![odd(json!({"role": "assistant", "content": GOOD[0]}), None), odd(json!({"content": GOOD[1]}), None)];
                with(vec![event_stream()], with(text, vec![odd(json!({}), Some("eos")), done, Step::End]))
            }
            Self::SlowDrip => with(start, vec![second, finish, usage, done, Step::End]).into_iter().flat_map(drip).collect(),
            _ => with(start, vec![second, finish, usage, done, Step::End]),
        }
    }

    fn in_whole(self) -> Vec<Step> {
        let mut answer = json!({
            "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": GOOD.concat(), "refusal": null}, "logprobs": null, "finish_reason": "stop"}],
            "usage": usage(),
        });
        let text = answer.to_string();
        let (half, _) = text.split_at(40);
        let head = Step::Head(200, vec![("content-type", "application/json".into()), ("content-length", text.len().to_string())]);
        let half = Step::Body(Bytes::copy_from_slice(half.as_bytes()));
        match self {
            Self::ResetInBody => vec![head, half, Step::Reset],
            Self::StallBeforeBody => vec![head, Step::Stall],
            Self::StallInBody => vec![head, half, Step::Stall],
            Self::Cut => vec![head, half, Step::Cut],
            Self::Truncated | Self::MalformedChunk => whole_body("application/json", &text[..40]),
            Self::ErrorFirst | Self::ErrorInStream => {
                whole_body("application/json", r#"{"error":{"message":"told to fail","type":"server_error","param":null,"code":503}}"#)
            }
            Self::DoneUnfinished => {
                answer["choices"][0]["finish_reason"] = Value::Null;
                whole_body("application/json", &answer.to_string())
            }
            Self::Odd => {
                answer["service_tier"] = json!("hyperdrive");
                answer["choices"][0]["finish_reason"] = json!("eos");
                answer.as_object_mut().map(|answer| answer.remove("usage"));
                whole_body("application/json", &answer.to_string())
            }
            Self::SlowDrip => whole_body("application/json", &text).into_iter().flat_map(drip).collect(),
            _ => whole_body("application/json", &text),
        }
    }
}

fn drip(step: Step) -> Vec<Step> {
    match step {
        Step::Body(bytes) => (0..bytes.len()).map(|at| Step::Body(bytes.slice(at..=at))).collect(),
        other => vec![other],
    }
}

fn event_stream() -> Step {
    Step::Head(200, vec![("content-type", "text/event-stream".into()), ("x-request-id", "up-1".into()), ("set-cookie", "s=1".into())])
}

/// One `data:` event.
#[must_use]
pub fn event(data: &Value) -> Step {
    Step::Body(format!("data: {data}\n\n").into())
}

/// One chunk with one choice.
#[must_use]
pub fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}], "usage": null,
    })
}

fn usage() -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11})
}

/// A 200 with this body.
#[must_use]
pub fn whole_body(content_type: &str, text: &str) -> Vec<Step> {
    let headers = vec![("content-type", content_type.to_owned()), ("content-length", text.len().to_string())];
    vec![Step::Head(200, headers), Step::Body(Bytes::copy_from_slice(text.as_bytes())), Step::End]
}

fn refusal(status: u16, error: &Value, more: &[(&'static str, &str)]) -> Vec<Step> {
    let text = json!({ "error": error }).to_string();
    let mut headers = vec![("content-type", "application/json".to_owned()), ("content-length", text.len().to_string())];
    headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    vec![Step::Head(status, headers), Step::Body(text.into()), Step::End]
}
