//! A tower service that is shared: tower's own boxed services are boxed anew by every clone, and a call takes a clone a layer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::{Service, ServiceExt};

use crate::BackendError;

pub type Answered<A> = Pin<Box<dyn Future<Output = Result<A, BackendError>> + Send>>;

/// Always ready; what a call has to wait for it waits for itself.
pub struct Shared<Q, A>(Arc<dyn Fn(Q) -> Answered<A> + Send + Sync>);

impl<Q, A> Shared<Q, A> {
    /// Any service whose clones share what they count.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Q, Response = A, Error = BackendError, Future: Send> + Clone + Send + Sync + 'static,
        Q: Send + 'static,
    {
        Self(Arc::new(move |question| Box::pin(service.clone().oneshot(question))))
    }

    /// A function that is always ready. Its future is made where it stays: tower's `oneshot` moves it once it is made.
    pub fn of<F>(answer: impl Fn(Q) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<A, BackendError>> + Send + 'static,
    {
        Self(Arc::new(move |question| Box::pin(answer(question))))
    }

    /// As `oneshot`, for what is always ready.
    #[must_use]
    pub fn ask(&self, question: Q) -> Answered<A> {
        (self.0)(question)
    }
}

impl<Q, A> Service<Q> for Shared<Q, A> {
    type Response = A;
    type Error = BackendError;
    type Future = Answered<A>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BackendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, question: Q) -> Answered<A> {
        self.ask(question)
    }
}

impl<Q, A> Clone for Shared<Q, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Q, A> std::fmt::Debug for Shared<Q, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared(…)")
    }
}
