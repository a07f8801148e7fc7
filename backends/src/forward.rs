//! The second call form: another endpoint of the same server, passed through without reading the answer.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use tokio::time::Instant;

use crate::{BackendError, Shared};

/// A backend that passes requests of other endpoints through.
pub type Forwarder = Shared<Forward, Forwarded>;

/// Bytes as they arrive. A stream that breaks ends in an `Err`.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BackendError>> + Send>>;

/// What else a server may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Completions,
    Embeddings,
}

impl Endpoint {
    /// Behind the base URL, which ends in `/v1`.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
        }
    }
}

/// One request to pass on. Only the body's `model` is changed, to what the server calls it.
#[derive(Clone, Debug)]
pub struct Forward {
    pub endpoint: Endpoint,
    /// A JSON object.
    pub body: Bytes,
    /// The body says `"stream": true`: then the first-chunk and idle deadlines hold.
    pub stream: bool,
    /// Nothing of this attempt outlives it.
    pub deadline: Instant,
    pub request_id: Arc<str>,
    pub traceparent: Option<Arc<str>>,
}

/// A successful answer (2xx); others are `BackendError::Upstream`.
pub struct Forwarded {
    pub status: u16,
    /// Filtered like `Reply::headers`, and with the `content-type`.
    pub headers: HeaderMap,
    pub body: ByteStream,
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarded").field("status", &self.status).field("headers", &self.headers).finish_non_exhaustive()
    }
}
