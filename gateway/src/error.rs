//! The whole table from a cause to what the client is told: status, type, code, and whether trying again makes sense.
//!
//! Client text is not log text: what an upstream said about *our* credentials stays here.

mod known;

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use spectra_backends::BackendError;
use spectra_backends::chat::BadRequest;
use spectra_router::verify::Flaw;
use spectra_router::{Ended, RouteError};

use crate::record::Outcome;

pub(crate) use known::known;

pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// An error as the client sees it, in OpenAI's form. `Failure::new` has no side effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: StatusCode,
    /// `invalid_request_error`, `rate_limit_error`, `server_error`, …
    pub kind: String,
    /// Stable, for programs. `None` only where an upstream's own error has none.
    pub code: Option<String>,
    pub param: Option<String>,
    pub message: String,
    /// Sent as Retry-After (seconds, rounded up) and retry-after-ms.
    pub retry_after: Option<Duration>,
    /// Told to SDKs as `x-should-retry`; `None`: they follow their own rule for the status.
    pub should_retry: Option<bool>,
    /// The same cause as a metric label: of a bounded set.
    pub label: &'static str,
}

/// What is refused before any model is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What came is no HTTP request.
    BadHttp,
    /// The head of the request is over its limit.
    HeadersTooLarge,
    UrlTooLong,
    NoSuchPath {
        path: String,
    },
    WrongMethod {
        path: String,
        allowed: &'static str,
    },
    /// `limit` in bytes.
    BodyTooLarge {
        limit: usize,
    },
    WrongMediaType {
        found: String,
    },
    /// The client stopped sending its body, or sends it too slowly.
    SlowBody,
    /// The connection broke inside the body.
    CutBody,
    NoKey,
    UnknownKey,
    /// Too many requests are being answered already.
    Busy,
    /// The gateway is shutting down.
    Draining,
    /// Over `what` per minute of the caller's key.
    OverRate {
        what: &'static str,
        retry_after: Duration,
    },
    /// Over the caller's budget of the day.
    OverBudget {
        retry_after: Duration,
    },
    /// The same Idempotency-Key came with another body.
    KeyReused,
    /// A reload of a config that cannot be used; `why` is for the operator, who alone asks for it.
    ConfigRejected {
        why: String,
    },
    /// A reload that a web page asks for.
    FromAPage,
    /// A bug of ours; what happened is in the log.
    Panicked,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl Failure {
    fn new(status: StatusCode, kind: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.to_owned(),
            code: Some(code.to_owned()),
            param: None,
            message: message.into(),
            retry_after: None,
            should_retry: None,
            label: code,
        }
    }

    fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// SDKs retry such a status by themselves; here it would only ask the same models again.
    fn final_answer(mut self) -> Self {
        self.should_retry = Some(false);
        self
    }

    /// How a request that got this error is counted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.label {
            "no_usable_answer"
            | "upstream_error"
            | "upstream_unavailable"
            | "upstream_timeout"
            | "upstream_broken"
            | "upstream_unauthorized"
            | "upstream_rate_limited"
            | "deadline_exceeded"
            | "budget_exceeded"
            | "internal_error" => Outcome::Failed,
            _ => Outcome::Rejected,
        }
    }

    /// The body: all four keys, real nulls.
    #[must_use]
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            r#type: &'a str,
            param: Option<&'a str>,
            code: Option<&'a str>,
        }
        let inner = Inner { message: &self.message, r#type: &self.kind, param: self.param.as_deref(), code: self.code.as_deref() };
        serde_json::to_string(&Envelope { error: inner })
            .unwrap_or_else(|_| String::from(r#"{"error":{"message":"","type":"server_error","param":null,"code":null}}"#))
    }

    /// Headers that belong to the error beside its body.
    pub fn headers(&self, headers: &mut http::HeaderMap) {
        if let Some(wait) = self.retry_after {
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000).max(1)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(milliseconds.max(1)));
        }
        if let Some(should_retry) = self.should_retry {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static(if should_retry { "true" } else { "false" }));
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadHttp => Self::new(StatusCode::BAD_REQUEST, INVALID, "bad_http", "This is not a well-formed HTTP request."),
            Refusal::HeadersTooLarge => {
                let message = "The request's headers are too large or too many.";
                Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, "headers_too_large", message)
            }
            Refusal::UrlTooLong => Self::new(StatusCode::URI_TOO_LONG, INVALID, "url_too_long", "The request's URL is too long."),
            Refusal::NoSuchPath { path } => Self::new(
                StatusCode::NOT_FOUND,
                INVALID,
                "unknown_url",
                format!("Unknown request URL: {path}. See the README for the ones there are."),
            ),
            Refusal::WrongMethod { path, allowed } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed", format!("{path} takes {allowed} only."))
            }
            Refusal::BodyTooLarge { limit } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                INVALID,
                "request_too_large",
                format!("The request body is larger than {limit} bytes."),
            ),
            Refusal::WrongMediaType { found } => {
                let message = format!("Unsupported content type '{found}'. Send the body as 'application/json'.");
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, "unsupported_media_type", message)
            }
            Refusal::SlowBody => {
                Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout", "The request body did not arrive in time.")
            }
            Refusal::CutBody => Self::new(StatusCode::BAD_REQUEST, INVALID, "incomplete_body", "The request body ended early."),
            Refusal::NoKey => {
                let message = "You did not provide an API key. Send it as 'Authorization: Bearer KEY'.";
                Self::new(StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key", message)
            }
            Refusal::UnknownKey => Self::new(StatusCode::UNAUTHORIZED, INVALID, "invalid_api_key", "Incorrect API key provided."),
            Refusal::Busy => {
                let message = "The gateway is answering as many requests as it is allowed to. Please try again shortly.";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", message).after(Duration::from_secs(1))
            }
            Refusal::Draining => {
                let message = "The gateway is shutting down. Please try again.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, "shutting_down", message).after(Duration::from_secs(1))
            }
            Refusal::OverRate { what, retry_after } => {
                let message = format!("Rate limit reached: {what} per minute. Please try again in {} ms.", retry_after.as_millis().max(1));
                Self::new(StatusCode::TOO_MANY_REQUESTS, what, "rate_limit_exceeded", message).after(retry_after)
            }
            Refusal::OverBudget { retry_after } => {
                let message = "The budget of this key is used up for today (UTC).";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", message)
                    .after(retry_after)
                    .final_answer()
            }
            Refusal::KeyReused => {
                let message = "This Idempotency-Key was used with another request body.";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, INVALID, "idempotency_key_reused", message)
            }
            Refusal::FromAPage => {
                let message = "Web pages may not reload the config: send no Origin header.";
                Self::new(StatusCode::FORBIDDEN, INVALID, "origin_not_allowed", message)
            }
            Refusal::ConfigRejected { why } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, INVALID, "config_rejected", why),
            Refusal::Panicked => {
                let message = "Something went wrong inside the gateway. Its log says more.";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error", message)
            }
        }
    }
}

impl From<BadRequest> for Failure {
    fn from(bad: BadRequest) -> Self {
        Self { param: bad.param, ..Self::new(StatusCode::BAD_REQUEST, INVALID, bad.code, bad.message) }
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        let message = error.to_string();
        match error {
            RouteError::BadRequest(bad) => bad.into(),
            RouteError::UnknownModel { .. } => {
                Self { param: Some("model".into()), ..Self::new(StatusCode::NOT_FOUND, INVALID, "model_not_found", message) }
            }
            RouteError::NoRouteFits { context_length: true, .. } => {
                Self { param: Some("messages".into()), ..Self::new(StatusCode::BAD_REQUEST, INVALID, "context_length_exceeded", message) }
            }
            RouteError::NoRouteFits { .. } => Self::new(StatusCode::BAD_REQUEST, INVALID, "unsupported_by_route", message),
            RouteError::OutOf { what: "budget", .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "budget_exceeded", message).final_answer()
            }
            RouteError::OutOf { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, "deadline_exceeded", message).final_answer(),
            RouteError::Exhausted { flaw, retry_after, .. } => match *flaw {
                Flaw::Backend(error) => Self::upstream(error, retry_after),
                // Asking again would spend the same attempts on the same request: an SDK must not multiply them.
                _ => Self::new(StatusCode::BAD_GATEWAY, SERVER, "no_usable_answer", message).final_answer(),
            },
        }
    }
}

impl Failure {
    /// The last backend's error, as the client may see it.
    #[must_use]
    pub fn upstream(error: BackendError, retry_after: Option<Duration>) -> Self {
        let wait = retry_after.or_else(|| error.retry_after());
        match error {
            BackendError::Overloaded { .. } => {
                let message = "Every model that could answer is at its limit of concurrent requests. Please try again shortly.";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", message)
                    .after(wait.unwrap_or(Duration::from_secs(1)))
            }
            BackendError::Timeout { phase, after } => {
                let message = format!("The model did not answer in time ({phase}, {} ms).", after.as_millis());
                Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, "upstream_timeout", message).final_answer()
            }
            BackendError::Broken { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, SERVER, "upstream_broken", "The model's answer broke off or was malformed.")
                    .final_answer()
            }
            BackendError::Unavailable { .. } | BackendError::CoolingDown { .. } => {
                let message = "No model that could answer is available at the moment.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, "upstream_unavailable", message)
                    .after(wait.unwrap_or(Duration::from_secs(1)))
            }
            // The upstream refused *our* key or address; its text may quote the key.
            BackendError::Upstream { status: status @ 401..=404, .. } => {
                let message = format!("The gateway's own access to the model failed ({status}). Its operator has to look at this.");
                Self::new(StatusCode::BAD_GATEWAY, SERVER, "upstream_unauthorized", message).final_answer()
            }
            BackendError::Upstream { status, body, .. } => Self::told_by_upstream(status, &body, wait),
        }
    }

    /// An upstream's own words, with its status.
    fn told_by_upstream(status: u16, body: &[u8], wait: Option<Duration>) -> Self {
        let status = StatusCode::from_u16(status).ok().filter(|status| status.is_client_error() || status.is_server_error());
        let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
        let told = Told::read(body);
        let (kind, label) = match status.as_u16() {
            429 => ("rate_limit_error", "upstream_rate_limited"),
            500.. => (SERVER, "upstream_error"),
            _ => (INVALID, "upstream_refused"),
        };
        let mut failure = Self::new(status, kind, label, format!("The model's server answered {status}."));
        if let Some(told) = told {
            failure.message = told.message;
            failure.kind = told.kind.unwrap_or(failure.kind);
            failure.param = told.param;
            failure.code = told.code;
        }
        match status.as_u16() {
            // 503 and 429 say when to come back, whoever is to blame.
            429 | 503 => failure.retry_after = Some(wait.unwrap_or(Duration::from_secs(1))),
            // It was asked again already, as often as the route allows: an SDK must not multiply that.
            500.. => failure.should_retry = Some(false),
            _ => {}
        }
        failure
    }
}

/// How the router learns of an end.
impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Delivered => Self::Delivered,
            Outcome::Broken => Self::Broken,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Rejected | Outcome::Failed => Self::Failed,
        }
    }
}

/// The error object of an upstream, in any of the spellings there are.
struct Told {
    message: String,
    kind: Option<String>,
    param: Option<String>,
    code: Option<String>,
}

impl Told {
    fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
            // FastAPI servers: {"object":"error","message":…} or {"detail":…}
            message: Option<String>,
            detail: Option<String>,
        }
        #[derive(Deserialize)]
        struct Inner<'a> {
            message: Option<String>,
            #[serde(borrow)]
            r#type: Option<&'a RawValue>,
            #[serde(borrow)]
            param: Option<&'a RawValue>,
            #[serde(borrow)]
            code: Option<&'a RawValue>,
        }
        let envelope: Envelope<'_> = serde_json::from_slice(body).ok()?;
        let plain = |message| Self { message, kind: None, param: None, code: None };
        let Some(error) = envelope.error.map(RawValue::get) else { return envelope.message.or(envelope.detail).map(plain) };
        if let Ok(message) = serde_json::from_str::<String>(error) {
            return Some(plain(message));
        }
        let inner: Inner<'_> = serde_json::from_str(error).ok()?;
        Some(Self { message: inner.message?, kind: text(inner.r#type), param: text(inner.param), code: text(inner.code) })
    }
}

/// A string as it is, a number as its digits, and `null` (also spelt `"None"`, as some gateways do) as nothing.
fn text(value: Option<&RawValue>) -> Option<String> {
    let value = value?.get();
    let text = serde_json::from_str::<String>(value)
        .ok()
        .or_else(|| serde_json::from_str::<serde_json::Number>(value).ok().map(|number| number.to_string()))?;
    (text != "None").then_some(text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn upstream(status: u16, body: &str) -> Failure {
        let flaw = Box::new(Flaw::Backend(BackendError::Upstream {
            status,
            headers: Box::default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }));
        RouteError::Exhausted { flaw, attempts: 1, retry_after: None }.into()
    }

    #[test]
    fn b10_upstream_errors_keep_status_and_words() {
        for (status, body, told) in [
            (
                400,
                r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#,
                r#"{"error":{"message":"m","type":"t","param":"p","code":"c"}}"#,
            ),
            (
                422,
                r#"{"error":{"message":"m","type":"None","param":"None","code":42}}"#,
                r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"42"}}"#,
            ),
            (500, r#"{"error":"boom"}"#, r#"{"error":{"message":"boom","type":"server_error","param":null,"code":null}}"#),
            (418, r#"{"detail":"tea"}"#, r#"{"error":{"message":"tea","type":"invalid_request_error","param":null,"code":null}}"#),
            (
                503,
                "<html>",
                r#"{"error":{"message":"The model's server answered 503 Service Unavailable.","type":"server_error","param":null,"code":"upstream_error"}}"#,
            ),
        ] {
            let failure = upstream(status, body);
            assert_eq!(failure.status, status);
            assert_eq!(failure.json(), told);
        }
    }

    #[test]
    fn an_upstreams_word_about_our_key_stays_here() {
        let failure = upstream(401, r#"{"error":{"message":"Incorrect API key provided: sk-canary"}}"#);
        assert_eq!((failure.status.as_u16(), failure.should_retry), (502, Some(false)));
        assert!(!failure.json().contains("canary"));
    }

    #[test]
    fn b14_429_and_503_say_when_to_come_back() {
        for failure in [
            Failure::from(Refusal::Busy),
            Refusal::Draining.into(),
            Refusal::OverRate { what: "requests", retry_after: Duration::from_millis(20) }.into(),
            Failure::upstream(BackendError::Overloaded { retry_after: None }, None),
            Failure::upstream(BackendError::Unavailable { why: "down".into() }, None),
            upstream(429, "{}"),
            upstream(503, "{}"),
        ] {
            let mut headers = http::HeaderMap::new();
            failure.headers(&mut headers);
            assert!(headers[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() >= 1, "{failure:?}");
            assert!(headers.contains_key("retry-after-ms"), "{failure:?}");
        }
    }
}
