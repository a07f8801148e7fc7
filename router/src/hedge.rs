//! Opening an attempt: to its first chunk, and where the route hedges, beside a second one once the first is late.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use spectra_backends::{Alarm, Ask, BackendError, ChatRequest, Fleet, Phase, Reply};
use tokio::time::{Instant, sleep};

use crate::Asked;

/// One backend to be asked, and until when.
pub(crate) struct Opening {
    pub fleet: Fleet,
    pub backend: Arc<str>,
    pub asked: Arc<Asked>,
    pub began: Instant,
    pub deadline: Instant,
    pub stops_loops: bool,
}

impl Opening {
    /// Asks, within the request's deadline.
    pub async fn ask_within(&self, alarm: &mut Alarm, request: ChatRequest) -> Result<Reply, BackendError> {
        alarm.before(self.call(request)).await.ok_or_else(|| self.late())?
    }

    fn call(&self, request: ChatRequest) -> impl Future<Output = Result<Reply, BackendError>> {
        let ask = Ask {
            request,
            deadline: self.deadline,
            request_id: self.asked.request_id.clone(),
            traceparent: self.asked.traceparent.clone(),
            stops_loops: self.stops_loops,
        };
        self.fleet.call(&self.backend, ask)
    }

    /// Asks and waits for the first chunk, which is then the stream's first again.
    async fn first_chunk(&self, request: ChatRequest) -> Result<Reply, BackendError> {
        let mut alarm = Alarm::at(self.deadline);
        let Reply { headers, mut chunks } = self.ask_within(&mut alarm, request).await?;
        let first = match alarm.before(chunks.next()).await {
            None => return Err(self.late()),
            Some(None) => return Err(BackendError::Broken { what: "an answer without a chunk".into() }),
            Some(Some(first)) => first?,
        };
        let chunks = futures_util::stream::once(std::future::ready(Ok(first))).chain(chunks);
        Ok(Reply { headers, chunks: Box::pin(chunks) })
    }

    pub fn late(&self) -> BackendError {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use spectra_backends::{Backend, Chunk, Facts, Member};
    use tower::service_fn;

    use super::*;

    /// A backend that answers (or fails) after so many milliseconds.
    fn after(ms: u64, answers: bool) -> Member {
        let backend = Backend::new(service_fn(move |_: Ask| async move {
            sleep(Duration::from_millis(ms)).await;
            if !answers {
                return Err(BackendError::Broken { what: format!("after {ms}") });
            }
            let text = format!(
                r#"{{"object":"chat.completion","choices":[{{"index":0,"message":{{"content":"{ms}"}},"finish_reason":"stop"}}]}}"#
            );
            let chunk = Chunk::parse(Bytes::from(text));
            Ok(Reply { headers: http::HeaderMap::new(), chunks: Box::pin(futures_util::stream::iter([chunk])) })
        }));
        Member { backend, facts: Arc::new(Facts::open()) }
    }

    /// Late after 100 ms. `expected`: who won, and whether the second was asked.
    async fn check(first: (u64, bool), second: (u64, bool), expected: (&str, bool)) {
        let members = HashMap::from([("one".to_owned(), after(first.0, first.1)), ("two".to_owned(), after(second.0, second.1))]);
        let fleet = Fleet::new(members);
        let opening = |backend: &str| {
            let began = Instant::now();
            Opening {
                fleet: fleet.clone(),
                backend: backend.into(),
                asked: Arc::default(),
                began,
                deadline: began + Duration::from_secs(60),
                stops_loops: false,
            }
        };
        let request = ChatRequest::parse(Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#)).unwrap();
        let mut asked = false;
        let won = race(&opening("one"), &request, Duration::from_millis(100), || {
            asked = true;
            opening("two")
        })
        .await;
        let won = match won {
            Won::First(Ok(_)) => "first",
            Won::First(Err(_)) => "none",
            Won::Second(_) => "second",
        };
        assert_eq!((won, asked), expected, "{first:?} {second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_wins_and_the_second_is_asked_only_when_the_first_is_late() {
        check((50, true), (1, true), ("first", false)).await;
        check((50, false), (1, true), ("none", false)).await;
        check((500, true), (10, true), ("second", true)).await;
        check((500, true), (1000, true), ("first", true)).await;
        check((500, true), (10, false), ("first", true)).await;
        check((500, false), (1000, true), ("second", true)).await;
        check((500, false), (10, false), ("none", true)).await;
    }
}
