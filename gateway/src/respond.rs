//! An answer on the wire: one JSON body or a stream of events, with the headers that say how it came about.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use spectra_backends::{BackendError, Chunk, ChunkStream};
use spectra_router::{Account, Answer, Head};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::record::{self, Entrance, Outcome, Record};
use crate::stack::what;
use crate::{Body, Failure, Refusal};

/// Chunks that are there already travel in one frame of up to so many bytes.
const FRAME_BYTES: usize = 16 << 10;
/// hyper asks a body that has nothing once more before it lets other tasks run.
const ASKED_IN_A_TURN: u8 = 2;
/// Frames that wait for an HTTP/2 client to take them.
const PUMPED_FRAMES: usize = 8;

/// How an answer is spelt to one kind of client.
pub(crate) trait Dialect: Send {
    /// The body of a unary answer.
    fn whole(&mut self, chunk: Chunk) -> Bytes;
    /// The events of one chunk.
    fn chunk(&mut self, chunk: &Chunk, manner: &Manner, out: &mut BytesMut);
    /// What follows the last chunk of a finished answer.
    fn end(&mut self, out: &mut BytesMut);
    /// An error after the stream has begun.
    fn broken(&mut self, failure: &Failure, out: &mut BytesMut);
    /// The door this dialect is spoken at.
    fn entrance(&self) -> Entrance;
}

/// What a client asked of the form of its answer.
pub(crate) struct Manner {
    pub streamed: bool,
    pub include_usage: bool,
    /// `x-spectra-debug: 1`.
    pub debug: bool,
    /// `x-spectra-verdict: event`: a stream's verdict comes as an event too, for clients that do not see comments.
    pub verdict_event: bool,
    /// Over HTTP/2 an unread stream is not seen at the socket; a task of its own watches it.
    pub pumped: bool,
    pub write_within: Duration,
    /// A shutdown's patience is over.
    pub over: CancellationToken,
}

// === whole responses ===

/// The router's answer, or why there is none, as a response.
pub(crate) async fn answered(
    answer: Result<Answer, Failure>,
    mut dialect: Box<dyn Dialect>,
    manner: Manner,
    mut record: Record,
) -> Response<Body> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return failed(&failure, dialect.entrance(), record),
    };
    let Answer { head, mut chunks } = answer;
    if manner.streamed {
        let mut response = Response::new(Body::Whole(None));
        *response.headers_mut() = describe(head, &record, manner.debug);
        record.data.status = StatusCode::OK.as_u16();
        *response.body_mut() = stream(chunks, dialect, manner, record);
        events(response.headers_mut());
        return response;
    }
    let bytes = match chunks.next().await {
        Some(Ok(chunk)) => {
            record.keep_answer(&chunk);
            dialect.whole(chunk)
        }
        Some(Err(error)) => return failed(&Failure::upstream(error, None), dialect.entrance(), record),
        None => return failed(&Failure::upstream(nothing(), None), dialect.entrance(), record),
    };
    let mut response = Response::new(Body::whole(bytes));
    *response.headers_mut() = describe(head, &record, manner.debug);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    record.first_byte();
    record.end(Outcome::Delivered, 200, None);
    response
}

/// Ends a request that has no answer.
pub(crate) fn failed(failure: &Failure, entrance: Entrance, mut record: Record) -> Response<Body> {
    record.end(failure.outcome(), failure.status.as_u16(), Some(failure.label));
    let mut response = failure_as(entrance, failure);
    let headers = response.headers_mut();
    record.trail.read(|account| {
        if let Some(route) = &account.route {
            decided(headers, account, route, account.attempts.len(), account.cost_usd());
        }
    });
    if let Some(caller) = &record.caller {
        caller.tell(headers);
    }
    response
}

fn nothing() -> BackendError {
    BackendError::Broken { what: "an answer without a chunk".into() }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) fn json(value: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Body::whole(serde_json::to_vec(value).unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

pub(crate) fn text(text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An error in OpenAI's form.
pub(crate) fn failure(failure: &Failure) -> Response<Body> {
    let mut response = Response::new(Body::whole(failure.json()));
    *response.status_mut() = failure.status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    failure.headers(response.headers_mut());
    response
}

/// An error in the form of the door it is told at.
pub(crate) fn failure_as(entrance: Entrance, told: &Failure) -> Response<Body> {
    let mut response = failure(told);
    if entrance == Entrance::Messages {
        *response.body_mut() = Body::whole(crate::entrances::messages::failure(told));
    }
    response
}

// === headers ===

const ROUTE: HeaderName = HeaderName::from_static("x-spectra-route");
pub(crate) const MODEL: HeaderName = HeaderName::from_static("x-spectra-model");
const SCORE: HeaderName = HeaderName::from_static("x-spectra-score");
const REASON: HeaderName = HeaderName::from_static("x-spectra-reason");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-spectra-attempts");
const VERIFIED: HeaderName = HeaderName::from_static("x-spectra-verified");
const COST_USD: HeaderName = HeaderName::from_static("x-spectra-cost-usd");
const TRAIL: HeaderName = HeaderName::from_static("x-spectra-trail");
const TIMING: HeaderName = HeaderName::from_static("x-spectra-timing");

/// How the answer came about: the short set, and with `debug` the rest.
fn describe(head: Head, record: &Record, debug: bool) -> HeaderMap {
    let mut headers = head.headers;
    headers.reserve(16);
    put(&mut headers, MODEL, &head.model);
    headers.insert(VERIFIED, HeaderValue::from_static(head.verified.as_str()));
    record.trail.read(|account| {
        decided(&mut headers, account, &head.route, head.attempts, head.cost_usd);
        if debug {
            let attempts: Vec<String> = account.attempts.iter().map(record::AttemptData::from).map(|attempt| attempt.summary()).collect();
            put(&mut headers, TRAIL, &attempts.join(", "));
            let timing = format!("plan_us={} verify_us={}", account.plan_time.as_micros(), account.verify_time.as_micros());
            put(&mut headers, TIMING, &timing);
        }
    });
    if let Some(caller) = &record.caller {
        caller.tell(&mut headers);
    }
    headers
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What was decided, and what came of it so far: of answers and errors.
fn decided(headers: &mut HeaderMap, account: &Account, route: &str, attempts: usize, cost_usd: f64) {
    put(headers, ROUTE, route);
    if let Some(score) = &account.score {
        put(headers, SCORE, &format!("{:.3}", score.difficulty));
    }
    headers.insert(REASON, HeaderValue::from_static(record::reason(account)));
    put(headers, COST_USD, &usd(cost_usd));
    let few = ["0", "1", "2", "3", "4"].get(attempts).copied().map(HeaderValue::from_static);
    headers.insert(ATTEMPTS, few.unwrap_or_else(|| HeaderValue::from(attempts)));
}

fn usd(amount: f64) -> String {
    if amount == 0.0 { "0".into() } else { format!("{amount:.8}") }
}

fn events(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx in front of us would collect the events otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
}

// === streams ===

/// A committed answer on its way out; as long as it lives, its place, its upstream and its record do.
struct Flow {
    chunks: ChunkStream,
    dialect: Box<dyn Dialect>,
    manner: Manner,
    record: Record,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    finished: bool,
    closed: bool,
    /// What is to be written next.
    out: BytesMut,
    /// Times it was asked since the last chunk, in vain.
    asked: u8,
}

fn stream(chunks: ChunkStream, dialect: Box<dyn Dialect>, manner: Manner, record: Record) -> Body {
    let over = Box::pin(manner.over.clone().cancelled_owned());
    let (pumped, within) = (manner.pumped, manner.write_within);
    let flow = Flow { chunks, dialect, manner, record, over, finished: false, closed: false, out: BytesMut::new(), asked: 0 };
    Body::Stream(if pumped { pump(flow, within) } else { Box::pin(flow) })
}

impl Flow {
    /// Ends the stream with an error event and without `[DONE]`.
    fn break_off(&mut self, failure: &Failure, out: &mut BytesMut) {
        self.dialect.broken(failure, out);
        self.record.end(Outcome::Broken, 200, Some(failure.label));
        self.close();
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if !self.finished {
            return self.break_off(
                &Failure::upstream(BackendError::Broken { what: "the stream ended without a finish_reason".into() }, None),
                out,
            );
        }
        let (verified, attempts, cost) =
            self.record.trail.read(|account| (account.verified.as_str(), account.attempts.len(), account.cost_usd()));
        let cost = usd(cost);
        out.extend_from_slice(format!(": spectra verified={verified} cost_usd={cost}\n\n").as_bytes());
        if self.manner.verdict_event {
            let told =
                format!("event: spectra.verdict\ndata: {{\"verified\":\"{verified}\",\"attempts\":{attempts},\"cost_usd\":{cost}}}\n\n");
            out.extend_from_slice(told.as_bytes());
        }
        self.dialect.end(out);
        self.record.end(Outcome::Delivered, 200, None);
        self.close();
    }

    /// Lets go of the upstream at once, not when hyper drops the body.
    fn close(&mut self) {
        self.closed = true;
        self.chunks = Box::pin(futures_util::stream::empty());
    }

    fn take(&mut self, chunk: &Chunk, out: &mut BytesMut) {
        self.finished |= chunk.view.choices.iter().any(|choice| choice.finish.is_some());
        self.record.keep_answer(chunk);
        self.dialect.chunk(chunk, &self.manner, out);
    }

    /// Collects what is there. The task that reads the upstream's socket hands over one chunk at a time, so it gets a
    /// turn after each: what has arrived already then goes out in one write. The first chunk does not wait for that.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.closed {
            return Poll::Ready(None);
        }
        let mut out = std::mem::take(&mut self.out);
        while !self.closed && out.len() < FRAME_BYTES {
            match self.chunks.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.asked = 0;
                    self.take(&chunk, &mut out);
                }
                Poll::Ready(Some(Err(error))) => self.break_off(&Failure::upstream(error, None), &mut out),
                Poll::Ready(None) => self.finish(&mut out),
                Poll::Pending if !out.is_empty() => {
                    if self.record.data.timings.first_byte.is_none() || self.asked == ASKED_IN_A_TURN {
                        break;
                    }
                    self.asked += 1;
                    self.out = out;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => match self.over.poll_unpin(cx) {
                    Poll::Ready(()) => self.break_off(&Refusal::Draining.into(), &mut out),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
        self.record.first_byte();
        Poll::Ready(Some(out.freeze()))
    }
}

impl Stream for Flow {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = self.get_mut();
        // A bug in the middle of a stream is told like any other break.
        match std::panic::catch_unwind(AssertUnwindSafe(|| this.poll_frame(cx))) {
            Ok(polled) => polled,
            Err(panic) => {
                tracing::error!(request_id = &*this.record.data.request_id, panic = what(&*panic), "a stream panicked");
                let mut out = BytesMut::new();
                this.break_off(&Refusal::Panicked.into(), &mut out);
                Poll::Ready(Some(out.freeze()))
            }
        }
    }
}

/// Reads the flow in a task of its own and gives up when the client takes no frame for so long.
/// The task ends with the flow, with the client, or with its patience.
fn pump(mut flow: Flow, within: Duration) -> Pin<Box<dyn Stream<Item = Bytes> + Send>> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(PUMPED_FRAMES);
    tokio::spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = flow.next() => frame,
                () = sender.closed() => return,
            };
            let Some(frame) = frame else { return };
            if !matches!(tokio::time::timeout(within, sender.send(frame)).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    Box::pin(futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

/// As `answered`, but a client that would wait long gets its headers early and then `: ping` comments.
/// An error then comes as an event, since the status is spent.
pub(crate) async fn kept_alive(
    mut asking: Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>,
    every: Duration,
    mut dialect: Box<dyn Dialect>,
    manner: Manner,
    mut record: Record,
) -> Response<Body> {
    if let Ok(answer) = tokio::time::timeout(every, &mut asking).await {
        return answered(answer, dialect, manner, record).await;
    }
    record.data.status = StatusCode::OK.as_u16();
    let late = async_stream::stream! {
        let answer = loop {
            yield Bytes::from_static(b": ping\n\n");
            if let Ok(answer) = tokio::time::timeout(every, &mut asking).await {
                break answer;
            }
        };
        match answer {
            Ok(Answer { chunks, .. }) => {
                if let Body::Stream(mut frames) = stream(chunks, dialect, manner, record) {
                    while let Some(frame) = frames.next().await {
                        yield frame;
                    }
                }
            }
            Err(failure) => {
                let mut out = BytesMut::new();
                dialect.broken(&failure, &mut out);
                record.end(failure.outcome(), 200, Some(failure.label));
                yield out.freeze();
            }
        }
    };
    let mut response = Response::new(Body::Stream(Box::pin(late)));
    events(response.headers_mut());
    response
}
