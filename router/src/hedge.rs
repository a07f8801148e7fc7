//! Opening an attempt: to its first chunk, and where the route hedges, beside a second one once the first is late.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use spectra_backends::{Ask, BackendError, ChatRequest, Fleet, Phase, Reply};
use tokio::time::{Instant, sleep, timeout_at};

use crate::Asked;

/// One backend to be asked, and until when.
pub(crate) struct Opening {
    pub fleet: Fleet,
    pub backend: Arc<str>,
    pub asked: Asked,
    pub began: Instant,
    pub deadline: Instant,
}

impl Opening {
    /// Asks, within the request's deadline.
    pub async fn ask(&self, request: ChatRequest) -> Result<Reply, BackendError> {
        let ask = Ask { request, deadline: self.deadline, request_id: self.asked.request_id.clone(), traceparent: self.asked.traceparent.clone() };
        timeout_at(self.deadline, self.fleet.call(&self.backend, ask)).await.map_err(|_| self.late())?
    }

    /// Asks and waits for the first chunk, which is then the stream's first again.
    async fn first_chunk(&self, request: ChatRequest) -> Result<Reply, BackendError> {
        let Reply { headers, mut chunks } = self.ask(request).await?;
        let first = match timeout_at(self.deadline, chunks.next()).await {
            Err(_) => return Err(self.late()),
            Ok(None) => return Err(BackendError::Broken { what: "an answer without a chunk".into() }),
            Ok(Some(first)) => first?,
        };
        let chunks = futures_util::stream::once(std::future::ready(Ok(first))).chain(chunks);
        Ok(Reply { headers, chunks: Box::pin(chunks) })
    }

    fn late(&self) -> BackendError {
        BackendError::Timeout { phase: Phase::Total, after: self.began.elapsed() }
    }
}

/// Which of two openings answered first.
pub(crate) enum Won {
    /// In time, or after all; its error where the second, if it was asked, failed too.
    First(Result<Reply, BackendError>),
    /// The first was let go.
    Second(Reply),
}

/// Opens the first; when it is later than `late`, `second` is begun beside it. The loser is dropped, which cancels it.
/// A first that fails before it is late is not hedged: what follows is the ladder's business.
pub(crate) async fn race(first: &Opening, request: &ChatRequest, late: Duration, second: impl FnOnce() -> Opening) -> Won {
    let one = Box::pin(first.first_chunk(request.clone()));
    let one = match select(one, Box::pin(sleep(late))).await {
        Either::Left((reply, _)) => return Won::First(reply),
        Either::Right(((), one)) => one,
    };
    let second = second();
    let two = Box::pin(second.first_chunk(request.clone()));
    match select(one, two).await {
        Either::Left((Ok(reply), _)) => Won::First(Ok(reply)),
        Either::Left((Err(error), two)) => two.await.map_or(Won::First(Err(error)), Won::Second),
        Either::Right((Ok(reply), _)) => Won::Second(reply),
        Either::Right((Err(_), one)) => Won::First(one.await),
    }
}
