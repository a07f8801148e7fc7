//! Responses of the worker: JSON, SSE, and errors in OpenAI's form.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::json;
use spectra_backends::chat::BadRequest;
use spectra_backends::llama::Unsupported;

pub(super) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// An error as OpenAI writes it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub status: StatusCode,
    /// `error.type`.
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: &'static str,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        Self { status, kind, param: None, code, message: message.into(), retry_after: None }
    }

    pub(super) fn bad_request(error: &BadRequest) -> Self {
        Self { param: error.param.clone(), ..Self::new(StatusCode::BAD_REQUEST, error.code, error.message.clone()) }
    }

    pub(super) fn engine(why: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", format!("The engine failed: {why}."))
    }

    /// A form that cannot be enforced here. Not the caller's fault: another model may honour it.
    pub(super) fn unsupported(error: &Unsupported) -> Self {
        let message = format!("This model's answers cannot be held to the requested format: {error}.");
        Self { param: Some("response_format".into()), ..Self::new(StatusCode::NOT_IMPLEMENTED, "constraint_unsupported", message) }
    }

    pub(super) fn slow_schema() -> Self {
        Self::unsupported(&Unsupported("reading it took too long".into()))
    }

    pub(super) fn engine_gone() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_gone", "The engine has ended.")
    }

    pub(super) fn body(&self) -> String {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } }).to_string()
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut response = json(self.status, self.body());
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

pub(super) fn json(status: StatusCode, text: String) -> Response<Body> {
    typed(status, "application/json", Full::new(Bytes::from(text)).boxed_unsync())
}

pub(super) fn text(kind: &'static str, text: String) -> Response<Body> {
    typed(StatusCode::OK, kind, Full::new(Bytes::from(text)).boxed_unsync())
}

/// Each item is the data of one event.
pub(super) fn sse(events: impl Stream<Item = String> + Send + 'static) -> Response<Body> {
    let frames = events.map(|data| Ok(Frame::data(Bytes::from(format!("data: {data}\n\n")))));
    let mut response = typed(StatusCode::OK, "text/event-stream", StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn typed(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
