//! What stands before every backend and lives as long as its stream: slot, queue, deadlines, breaker, gauges.
//! Dropping the stream frees all of it at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;
use spectra_config as config;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::breaker::{Admission, Breaker, Outcome, State};
use crate::forward::{Forward, Forwarded, Forwarder};
use crate::latency::Latency;
use crate::{Alarm, Ask, Backend, BackendError, Chunk, Phase, Reply, Shared};

/// The bounds of one backend and what they count. One per backend, shared by all its callers.
#[derive(Debug)]
pub struct Gate {
    slots: Arc<Semaphore>,
    concurrency: u32,
    queue: u32,
    deadlines: config::Deadlines,
    breaker: Mutex<Breaker>,
    in_flight: AtomicU32,
    queued: AtomicU32,
    /// Times `Fleet::pick` chose it; breaks ties so that idle backends take turns by weight.
    pub(crate) picked: AtomicU64,
    first_chunk: Latency,
    /// Mean time a slot was held, in microseconds, recent ones weighing more.
    held_us: AtomicU64,
}

/// What one backend is doing, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub in_flight: u32,
    pub queued: u32,
    /// Requests it may have in flight.
    pub concurrency: u32,
    /// Requests that may wait.
    pub queue: u32,
    pub breaker: State,
    /// Times its breaker opened.
    pub breaker_opened: u64,
    /// Until attempts are let through again; `None`: they are now.
    pub retry_after: Option<Duration>,
    /// 95th percentile of the time to the first chunk of recent streams; `None` with fewer than 20.
    pub first_chunk_p95: Option<Duration>,
    /// How long a request that comes now will probably wait for a place, from how long places were held of late.
    pub expected_wait: Duration,
}

impl Gate {
    #[must_use]
    pub fn new(concurrency: u32, queue: u32, deadlines: config::Deadlines, breaker: config::Breaker) -> Arc<Self> {
        let concurrency = concurrency.max(1);
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(concurrency as usize)),
            concurrency,
            queue,
            deadlines,
            breaker: Mutex::new(Breaker::new(breaker)),
            in_flight: AtomicU32::new(0),
            queued: AtomicU32::new(0),
            picked: AtomicU64::new(0),
            first_chunk: Latency::default(),
            held_us: AtomicU64::new(0),
        })
    }

    /// The same backend behind this gate.
    #[must_use]
    pub fn guard(self: &Arc<Self>, inner: Backend) -> Backend {
        let gate = Arc::clone(self);
        Shared::of(move |ask| Arc::clone(&gate).call(inner.clone(), ask))
    }

    /// The same for the second call form.
    #[must_use]
    pub fn guard_forwarder(self: &Arc<Self>, inner: Forwarder) -> Forwarder {
        let gate = Arc::clone(self);
        Shared::of(move |forward| Arc::clone(&gate).forward(inner.clone(), forward))
    }

    /// The router's verdict on an answer of this backend; feeds the breaker.
    pub fn report(&self, usable: bool) {
        self.breaker.lock().report(usable, Instant::now());
    }

    /// True where an attempt would be let through now.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.breaker.lock().state(Instant::now()) != State::Open
    }

    /// How long a request that comes now will probably wait for a place, from how long places were held of late.
    #[must_use]
    pub fn expected_wait(&self) -> Duration {
        let (in_flight, queued) = (self.in_flight.load(Relaxed), self.queued.load(Relaxed));
        let turns = if in_flight < self.concurrency { 0 } else { u64::from(queued) + 1 };
        Duration::from_micros(turns * self.held_us.load(Relaxed) / u64::from(self.concurrency))
    }

    /// How long a request held its place of late: what one takes, as far as is known.
    #[must_use]
    pub fn held(&self) -> Duration {
        Duration::from_micros(self.held_us.load(Relaxed))
    }

    #[must_use]
    pub fn first_chunk_p95(&self) -> Option<Duration> {
        self.first_chunk.quantile(0.95)
    }

    /// All of it, for those who look now and then: the hot path asks for the one thing it needs.
    #[must_use]
    pub fn load(&self) -> Load {
        let now = Instant::now();
        let (in_flight, queued) = (self.in_flight.load(Relaxed), self.queued.load(Relaxed));
        let breaker = self.breaker.lock();
        Load {
            in_flight,
            queued,
            concurrency: self.concurrency,
            queue: self.queue,
            breaker: breaker.state(now),
            breaker_opened: breaker.opened(),
            retry_after: breaker.retry_after(now),
            first_chunk_p95: self.first_chunk_p95(),
            expected_wait: self.expected_wait(),
        }
    }

    async fn call(self: Arc<Self>, inner: Backend, ask: Ask) -> Result<Reply, BackendError> {
        let stream = ask.request.view().stream;
        let (attempt, bounds) = self.start(ask.deadline, stream).await?;
        let mut timer = Alarm::at(bounds.first_chunk);
        let (attempt, reply) = attempt.until(bounds, &mut timer, inner.ask(ask)).await?;
        let chunks =
            Watched::new(reply.chunks, attempt, bounds, timer, |chunk: &Chunk| chunk.view.choices.iter().any(|c| c.finish.is_some()));
        Ok(Reply { headers: reply.headers, chunks: Box::pin(chunks) })
    }

    async fn forward(self: Arc<Self>, inner: Forwarder, forward: Forward) -> Result<Forwarded, BackendError> {
        let (attempt, bounds) = self.start(forward.deadline, forward.stream).await?;
        let mut timer = Alarm::at(bounds.first_chunk);
        let (attempt, reply) = attempt.until(bounds, &mut timer, inner.ask(forward)).await?;
        // Bytes that are not read say nothing of an end: only the stream's own end is a good one.
        let body = Watched::new(reply.body, attempt, bounds, timer, |_| false);
        Ok(Forwarded { body: Box::pin(body), ..reply })
    }

    async fn start(self: &Arc<Self>, deadline: Instant, stream: bool) -> Result<(Attempt, Bounds), BackendError> {
        let asked = Instant::now();
        let attempt = self.enter(asked, deadline).await?;
        let sent = attempt.sent;
        let own_total = sent + Duration::from_millis(self.deadlines.total_ms);
        let total = own_total.min(deadline);
        let first_chunk = if stream { sent + Duration::from_millis(self.deadlines.first_chunk_ms) } else { total };
        let bounds = Bounds {
            asked,
            total,
            total_is_callers: deadline < own_total,
            first_chunk: first_chunk.min(total),
            idle: Duration::from_millis(self.deadlines.idle_ms),
            stream,
        };
        Ok((attempt, bounds))
    }

    /// Waits for a slot, within the queue's bounds, and for the breaker's word.
    async fn enter(self: &Arc<Self>, asked: Instant, deadline: Instant) -> Result<Attempt, BackendError> {
        if let Some(retry_after) = self.breaker.lock().retry_after(asked) {
            return Err(BackendError::CoolingDown { retry_after });
        }
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => self.wait_for_slot(asked, deadline).await?,
        };
        let sent = Instant::now();
        let admission = self.breaker.lock().admit(sent).map_err(|retry_after| BackendError::CoolingDown { retry_after })?;
        self.in_flight.fetch_add(1, Relaxed);
        Ok(Attempt { gate: Arc::clone(self), _slot: slot, sent, admission, outcome: Outcome::Neutral })
    }

    async fn wait_for_slot(&self, asked: Instant, deadline: Instant) -> Result<OwnedSemaphorePermit, BackendError> {
        let before_us = u64::from(self.queued.load(Relaxed)) + 1;
        let expected = Duration::from_micros(before_us * self.held_us.load(Relaxed) / u64::from(self.concurrency));
        let patience = asked + Duration::from_millis(self.deadlines.first_chunk_ms);
        let overloaded = || BackendError::Overloaded { retry_after: Some(expected.max(Duration::from_millis(100))) };
        let place = Place::take(&self.queued);
        if place.number > self.queue || asked + expected > patience.min(deadline) {
            return Err(overloaded());
        }
        match timeout_at(patience.min(deadline), Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            // The semaphore is never closed.
            Ok(Err(_)) => Err(overloaded()),
            Err(_) if deadline <= patience => Err(BackendError::Timeout { phase: Phase::Total, after: asked.elapsed() }),
            Err(_) => Err(overloaded()),
        }
    }
}

/// A place in the queue; given back on drop.
struct Place<'a> {
    queued: &'a AtomicU32,
    number: u32,
}

impl<'a> Place<'a> {
    fn take(queued: &'a AtomicU32) -> Self {
        Self { queued, number: queued.fetch_add(1, Relaxed) + 1 }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queued.fetch_sub(1, Relaxed);
    }
}

/// The deadlines of one attempt.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    asked: Instant,
    total: Instant,
    /// The caller's deadline comes before the backend's own: missing it is not the backend's fault.
    total_is_callers: bool,
    first_chunk: Instant,
    idle: Duration,
    stream: bool,
}

impl Bounds {
    fn timeout(&self, phase: Phase) -> BackendError {
        BackendError::Timeout { phase, after: self.asked.elapsed() }
    }
}

/// One attempt under way: a slot held, and the outcome the breaker will hear of on drop.
#[derive(Debug)]
struct Attempt {
    gate: Arc<Gate>,
    _slot: OwnedSemaphorePermit,
    sent: Instant,
    admission: Admission,
    outcome: Outcome,
}

impl Attempt {
    /// Waits for the head of the reply.
    async fn until<T>(
        mut self,
        bounds: Bounds,
        timer: &mut Alarm,
        reply: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<(Self, T), BackendError> {
        let result = timer
            .before(reply)
            .await
            .unwrap_or_else(|| Err(bounds.timeout(if bounds.first_chunk < bounds.total { Phase::FirstChunk } else { Phase::Total })));
        match result {
            Ok(reply) => Ok((self, reply)),
            Err(error) => {
                self.failed(&error, bounds);
                Err(error)
            }
        }
    }

    fn failed(&mut self, error: &BackendError, bounds: Bounds) {
        self.outcome = match error {
            BackendError::Timeout { phase: Phase::Total, .. } if bounds.total_is_callers => Outcome::Neutral,
            BackendError::Overloaded { .. } | BackendError::CoolingDown { .. } => Outcome::Neutral,
            // It refuses this request (501: a constraint it cannot keep), so it is alive: enough for a probe.
            _ if error.is_callers_fault() || matches!(error, BackendError::Upstream { status: 501, .. }) => {
                if self.admission == Admission::Probe { Outcome::Good } else { Outcome::Neutral }
            }
            BackendError::Upstream { status: 429 | 503, .. } if error.retry_after().is_some() => {
                let wait = error.retry_after().unwrap_or_default();
                self.gate.breaker.lock().cool_down(wait, Instant::now());
                Outcome::Neutral
            }
            _ => Outcome::Bad,
        };
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = Instant::now();
        self.gate.in_flight.fetch_sub(1, Relaxed);
        self.gate.breaker.lock().record(self.admission, self.outcome, now);
        if self.outcome == Outcome::Good {
            let took = u64::try_from((now - self.sent).as_micros()).unwrap_or(u64::MAX);
            let old = self.gate.held_us.load(Relaxed);
            let new = if old == 0 { took } else { old - old / 8 + took / 8 };
            self.gate.held_us.store(new, Relaxed);
        }
    }
}

type Inner<T> = Pin<Box<dyn Stream<Item = Result<T, BackendError>> + Send>>;

/// A stream under deadlines that holds its attempt.
struct Watched<T> {
    /// `None` once it ended: the exchange and the slot go at the end, not when the holder lets go.
    live: Option<(Inner<T>, Attempt)>,
    bounds: Bounds,
    finishes: fn(&T) -> bool,
    timer: Alarm,
    /// When the last item came; `None` before the first.
    last: Option<Instant>,
}

impl<T> Watched<T> {
    fn new(inner: Inner<T>, attempt: Attempt, bounds: Bounds, timer: Alarm, finishes: fn(&T) -> bool) -> Self {
        Self { live: Some((inner, attempt)), bounds, finishes, timer, last: None }
    }

    /// The next deadline and its name.
    fn due(&self) -> (Instant, Phase) {
        let (at, phase) = match self.last {
            None => (self.bounds.first_chunk, Phase::FirstChunk),
            Some(last) => (last + self.bounds.idle, Phase::Idle),
        };
        if at < self.bounds.total { (at, phase) } else { (self.bounds.total, Phase::Total) }
    }

    fn item(&mut self, item: &T) {
        let now = Instant::now();
        let finishes = (self.finishes)(item);
        let first = self.last.is_none();
        self.last = Some(now);
        if let Some((_, attempt)) = &mut self.live {
            if first && self.bounds.stream {
                attempt.gate.first_chunk.record(now - attempt.sent);
            }
            if finishes {
                attempt.outcome = Outcome::Good;
            }
        }
    }

    fn end(&mut self, error: Option<&BackendError>) {
        if let Some((inner, mut attempt)) = self.live.take() {
            match error {
                Some(error) => attempt.failed(error, self.bounds),
                None => attempt.outcome = Outcome::Good,
            }
            drop(inner);
        }
    }

    /// The deadline that has passed, if one has. The timer is only moved when it fires: chunks cost no timer work.
    fn overdue(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        loop {
            let (at, phase) = self.due();
            let timer = &mut self.timer.0;
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= at => return Poll::Ready(phase),
                Poll::Ready(()) => timer.as_mut().reset(at),
            }
        }
    }
}

impl<T> Stream for Watched<T> {
    type Item = Result<T, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some((inner, _)) = &mut this.live else { return Poll::Ready(None) };
        let polled = inner.as_mut().poll_next(cx);
        let error = match polled {
            Poll::Ready(Some(Ok(item))) => {
                this.item(&item);
                if this.last.is_none_or(|last| last < this.bounds.total) {
                    return Poll::Ready(Some(Ok(item)));
                }
                this.bounds.timeout(Phase::Total)
            }
            Poll::Ready(None) => {
                this.end(None);
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => error,
            Poll::Pending => match this.overdue(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(phase) => this.bounds.timeout(phase),
            },
        };
        this.end(Some(&error));
        Poll::Ready(Some(Err(error)))
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
