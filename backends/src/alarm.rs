//! One timer for all that a request waits for: a timer of its own for each chunk would cost more than reading the chunk.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline, for one wait after another.
#[derive(Debug)]
pub struct Alarm(pub(crate) Pin<Box<Sleep>>);

impl Alarm {
    #[must_use]
    pub fn at(deadline: Instant) -> Self {
        Self(Box::pin(sleep_until(deadline)))
    }

    /// What `wait` gives, or nothing where the deadline comes first.
    pub async fn before<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = pin!(wait);
        poll_fn(|cx| match wait.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => self.0.as_mut().poll(cx).map(|()| None),
        })
        .await
    }
}
