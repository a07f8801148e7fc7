//! What is done for every request whatever it asks: an id, a panic caught, a path found.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use spectra_backends::abreast;
use spectra_backends::trace::{digits, text};

use crate::record::Entrance;
use crate::{Body, Failure, Gateway, Refusal, chat, feedback, models, respond};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers one request of the main listener. Outermost first.
pub(crate) async fn answer(gateway: Arc<Gateway>, request: Request<Incoming>) -> Response<Body> {
    // An id first, so that every answer and every log line has one.
    let id = request_id(request.headers());
    // A bug answers as an error, not as a closed connection; what it left is dropped with the future.
    let answered = AssertUnwindSafe(dispatch(&gateway, request, id.clone())).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|panic| {
        tracing::error!(request_id = &*id, panic = what(&*panic), "a request panicked");
        respond::failure(&Refusal::Panicked.into())
    });
    abreast(gateway.places.taken()).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The whole surface of the main listener.
async fn dispatch(gateway: &Arc<Gateway>, request: Request<Incoming>, id: Arc<str>) -> Response<Body> {
    let entrance = match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/chat/completions") => Entrance::Chat,
        (&Method::POST, "/v1/completions") => Entrance::Completions,
        (&Method::POST, "/v1/embeddings") => Entrance::Embeddings,
        (&Method::POST, "/v1/messages") => Entrance::Messages,
        (&Method::POST, "/v1/responses") => Entrance::Responses,
        (&Method::POST, "/v1/feedback") => return feedback::answer(gateway, request).await,
        (&Method::GET, "/v1/models") => return models::list(gateway, request.headers()),
        (&Method::GET, path) if path.starts_with("/v1/models/") => {
            return models::one(gateway, request.headers(), &path["/v1/models/".len()..]);
        }
        (_, path) => return lost(path),
    };
    chat::answer(gateway.clone(), entrance, request, id).await
}

/// A path that is not there, or not for this method.
fn lost(path: &str) -> Response<Body> {
    let allowed = match path {
        "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" | "/v1/messages" | "/v1/responses" | "/v1/feedback" => "POST",
        "/v1/models" => "GET",
        path if path.starts_with("/v1/models/") => "GET",
        _ => return respond::failure(&Refusal::NoSuchPath { path: path.chars().take(200).collect() }.into()),
    };
    let mut response = respond::failure(&Failure::from(Refusal::WrongMethod { path: path.chars().take(200).collect(), allowed }));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The caller's `x-request-id` if it is short and plain (it goes into logs), else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let plain = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(plain).map_or_else(new_id, Arc::from)
}

/// Unique across restarts and machines: 64 random bits of the process, then a counter. They rise, so that the ledger's index
/// of them grows at its end: at scattered places every row of a batch dirties a page of its own.
pub(crate) fn new_id() -> Arc<str> {
    use std::hash::{BuildHasher, RandomState};
    static PROCESS: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let process = *PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    ["req_", text(&digits(process)), text(&digits(count))].concat().into()
}

/// The text of a panic, for the log.
pub(crate) fn what(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_callers_if_plain_and_unique_otherwise() {
        let given = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(id).unwrap());
            request_id(&headers)
        };
        assert_eq!(&*given("my-id_1.2"), "my-id_1.2");
        for strange in ["", "a b", "x\"y", &"l".repeat(129)] {
            assert!(given(strange).starts_with("req_"), "{strange}");
        }
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
