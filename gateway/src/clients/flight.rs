//! `Idempotency-Key`: one question asked once, however often its client sends it. Those who come while the answer is
//! being made read along; those who come later, within ten minutes, get it again. What failed is not kept: it may be
//! asked again.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::record::{Outcome, Record};
use crate::{Body, Refusal};

const KEPT: Duration = Duration::from_secs(600);
/// Answers kept at once; the oldest that have ended leave first.
const MOST: usize = 1024;
/// Most bytes of one answer that are held for others.
const MOST_BYTES: usize = 16 << 20;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The answers that may be shared, by caller and key.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Key, Kept>>);

type Key = (Option<Arc<str>>, String);

#[derive(Debug)]
struct Kept {
    /// Of path and body: a key belongs to one question.
    question: [u8; 32],
    flight: Arc<Flight>,
    born: Instant,
}

/// One answer that several may read while it is being made.
#[derive(Debug)]
pub(crate) struct Flight {
    state: Mutex<State>,
    /// Counts changes of `state`.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<(StatusCode, HeaderMap)>,
    frames: Vec<Bytes>,
    bytes: usize,
    done: bool,
    readers: usize,
    maker: Option<AbortHandle>,
}

/// What a request with a key has to do.
pub(crate) enum Joined {
    /// Make the answer, for itself and others.
    First(Arc<Flight>),
    /// Read what another makes or has made.
    Other(Arc<Flight>),
}

impl Flights {
    pub fn join(&self, caller: Option<Arc<str>>, key: &str, path: &str, body: &[u8]) -> Result<Joined, Refusal> {
        let question: [u8; 32] = Sha256::new().chain_update(path).chain_update([0]).chain_update(body).finalize().into();
        let now = Instant::now();
        let mut flights = self.0.lock();
        let key = (caller, key.to_owned());
        if let Some(kept) = flights.get(&key).filter(|kept| now - kept.born < KEPT) {
            return if kept.question == question { Ok(Joined::Other(kept.flight.clone())) } else { Err(Refusal::KeyReused) };
        }
        if flights.len() >= MOST {
            flights.retain(|_, kept| now - kept.born < KEPT);
        }
        if flights.len() >= MOST {
            let ended = flights.iter().filter(|(_, kept)| kept.flight.state.lock().done).min_by_key(|(_, kept)| kept.born);
            if let Some(oldest) = ended.map(|(key, _)| key.clone()) {
                flights.remove(&oldest);
            }
        }
        let flight = Arc::new(Flight { state: Mutex::default(), changed: watch::Sender::new(0) });
        flights.insert(key, Kept { question, flight: flight.clone(), born: now });
        Ok(Joined::First(flight))
    }

    fn forget(&self, flight: &Arc<Flight>) {
        self.0.lock().retain(|_, kept| !Arc::ptr_eq(&kept.flight, flight));
    }
}

impl Flight {
    /// Makes the answer in a task of its own, which ends early when nobody reads any more; the first reader's response.
    pub async fn make(
        self: Arc<Self>,
        flights: Arc<Flights>,
        delivered: Arc<AtomicBool>,
        answer: impl Future<Output = Response<Body>> + Send + 'static,
    ) -> Response<Body> {
        let reader = Reader::new(self.clone());
        let flight = self.clone();
        let kept = Unkept { flights, flight: self.clone(), delivered };
        let maker = tokio::spawn(async move {
            // However the task ends, what was not delivered whole is not kept.
            let _kept = kept;
            let (head, mut body) = answer.await.into_parts();
            flight.change(|state| state.head = Some((head.status, head.headers)));
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(bytes) = frame.into_data() else { continue };
                let room = flight.change(|state| {
                    state.bytes += bytes.len();
                    state.frames.push(bytes);
                    state.bytes <= MOST_BYTES
                });
                if !room {
                    break;
                }
            }
        });
        self.state.lock().maker = Some(maker.abort_handle());
        reader.response(None).await
    }

    /// What another request makes or made, as this one's response.
    pub async fn read(self: Arc<Self>, record: Record) -> Response<Body> {
        Reader::new(self).response(Some(record)).await
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock());
        self.changed.send_modify(|count| *count += 1);
        changed
    }
}

/// Ends the flight, and forgets it unless its answer was delivered whole.
struct Unkept {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    delivered: Arc<AtomicBool>,
}

impl Drop for Unkept {
    fn drop(&mut self) {
        if !self.delivered.load(Ordering::Relaxed) || self.flight.state.lock().bytes > MOST_BYTES {
            self.flights.forget(&self.flight);
        }
        self.flight.change(|state| state.done = true);
    }
}

/// One who reads; the last one to leave stops the making.
struct Reader {
    flight: Arc<Flight>,
    changed: watch::Receiver<u64>,
    at: usize,
}

impl Reader {
    fn new(flight: Arc<Flight>) -> Self {
        flight.state.lock().readers += 1;
        let changed = flight.changed.subscribe();
        Self { flight, changed, at: 0 }
    }

    /// `record`: of a request that only reads along.
    async fn response(mut self, mut record: Option<Record>) -> Response<Body> {
        let head = loop {
            let (head, done) = {
                let state = self.flight.state.lock();
                (state.head.clone(), state.done)
            };
            match head {
                Some(head) => break Some(head),
                None if done => break None,
                None => drop(self.changed.changed().await),
            }
        };
        // Its maker was lost before it had anything to say: a bug, told as one.
        let Some((status, headers)) = head else { return crate::respond::failure(&Refusal::Panicked.into()) };
        let mut response = Response::new(Body::Whole(None));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if let Some(record) = &mut record {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            record.data.status = status.as_u16();
        }
        *response.body_mut() = Body::Stream(self.frames(record));
        response
    }

    fn frames(mut self, mut record: Option<Record>) -> Pin<Box<dyn Stream<Item = Bytes> + Send>> {
        Box::pin(async_stream::stream! {
            loop {
                let (frame, done) = {
                    let state = self.flight.state.lock();
                    (state.frames.get(self.at).cloned(), state.done)
                };
                match frame {
                    Some(frame) => {
                        self.at += 1;
                        yield frame;
                    }
                    None if done => break,
                    None => drop(self.changed.changed().await),
                }
            }
            if let Some(record) = &mut record {
                let status = record.data.status;
                record.end(if status < 400 { Outcome::Delivered } else { Outcome::Failed }, status, None);
            }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        state.readers -= 1;
        if state.readers == 0
            && !state.done
            && let Some(maker) = &state.maker
        {
            maker.abort();
        }
    }
}
