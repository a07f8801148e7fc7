//! What can go wrong between us and one model, and whose fault it is.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

/// A failed attempt at one backend. The router decides what follows; nothing here is logged or sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackendError {
    /// Our own guard refused: no slot within the queue's bound.
    #[error("backend is at its limit of concurrent requests")]
    Overloaded { retry_after: Option<Duration> },

    /// A deadline passed. `after` is measured from the start of the attempt.
    #[error("{phase} timed out after {} ms", after.as_millis())]
    Timeout { phase: Phase, after: Duration },

    /// The upstream answered with an error, or sent one as an event (then `status` is its `code` or 502).
    #[error("upstream answered {status}")]
    Upstream { status: u16, headers: Box<HeaderMap>, body: Bytes },

    /// The exchange broke: reset, malformed chunk, a stream that ended without saying so.
    #[error("upstream exchange broke: {what}")]
    Broken { what: String },

    /// Nobody to talk to: connection refused, worker not up, breaker open, backend not configured.
    #[error("backend unavailable: {why}")]
    Unavailable { why: String },

    /// Its breaker is open, or it asked us to stay away: nothing was sent.
    #[error("backend is left alone for {} ms more", retry_after.as_millis())]
    CoolingDown { retry_after: Duration },
}

/// The part of an attempt a deadline watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Connect,
    /// From sending the request to the first chunk of a stream.
    FirstChunk,
    /// Between two chunks.
    Idle,
    /// The whole attempt.
    Total,
}

/// What a model that refused a request cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Hold the answer to the wanted form while it is written.
    Constraint,
    /// Take so long a prompt with so long an answer.
    Context,
    /// A field or a value of the request.
    Unsupported,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Phase {
    /// Stable name for logs and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::FirstChunk => "first_chunk",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

impl BackendError {
    /// Every `kind`.
    pub const KINDS: [&str; 8] =
        ["overloaded", "timeout", "rate_limited", "upstream_4xx", "upstream_5xx", "broken", "unavailable", "cooling_down"];

    /// Stable name of the cause for metric labels and ledger rows.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overloaded",
            Self::Timeout { .. } => "timeout",
            Self::Upstream { status: 429, .. } => "rate_limited",
            Self::Upstream { status, .. } if *status >= 500 => "upstream_5xx",
            Self::Upstream { .. } => "upstream_4xx",
            Self::Broken { .. } => "broken",
            Self::Unavailable { .. } => "unavailable",
            Self::CoolingDown { .. } => "cooling_down",
        }
    }

    /// True where the caller's request itself was refused, so that asking the same model again is useless.
    /// 401, 403 and 404 are our configuration's fault, not the caller's: another rung may do better.
    #[must_use]
    pub fn is_callers_fault(&self) -> bool {
        matches!(self, Self::Upstream { status: 400 | 413 | 415 | 422, .. })
    }

    /// What an upstream's error body complains of, where that says that another model, or another way of asking, may do.
    #[must_use]
    pub fn complaint(&self) -> Option<Complaint> {
        let Self::Upstream { body, .. } = self else { return None };
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        let said = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
        let word = |name: &str| said.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        // OpenAI names the cause in `code`, llama-server in `type`, vLLM only in the message (its `code` is the status).
        let named = |cause: &str| word("code").starts_with(cause) || word("type").starts_with(cause);
        if named("constraint_unsupported") {
            Some(Complaint::Constraint)
        } else if named("context_length_exceeded") || named("exceed_context_size") || word("message").contains("maximum context length") {
            Some(Complaint::Context)
        } else {
            named("unsupported").then_some(Complaint::Unsupported)
        }
    }

    /// How long the upstream asked us to wait (`retry-after-ms`, then `retry-after` in seconds).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } => *retry_after,
            Self::CoolingDown { retry_after } => Some(*retry_after),
            Self::Upstream { headers, .. } => {
                let number =
                    |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
                number("retry-after-ms")
                    .map(|ms| ms / 1000.0)
                    .or_else(|| number("retry-after"))
                    .map(|s| Duration::from_secs_f64(s.min(86_400.0)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refusal_complains_of() {
        let check = |body: &'static str, expected: Option<Complaint>| {
            let error = BackendError::Upstream { status: 400, headers: Box::default(), body: Bytes::from_static(body.as_bytes()) };
            assert_eq!(error.complaint(), expected, "{body}");
        };
        check(r#"{"error":{"code":"context_length_exceeded","message":"…"}}"#, Some(Complaint::Context));
        check(r#"{"error":{"code":400,"type":"exceed_context_size_error","message":"…"}}"#, Some(Complaint::Context));
        check(r#"{"object":"error","message":"This model's maximum context length is 8192 tokens.","code":400}"#, Some(Complaint::Context));
        check(r#"{"error":{"code":"unsupported_parameter","message":"…"}}"#, Some(Complaint::Unsupported));
        check(r#"{"error":{"code":"constraint_unsupported"}}"#, Some(Complaint::Constraint));
        check(r#"{"error":{"code":"invalid_value","message":"unsupported: context_length_exceeded"}}"#, None);
        check(r#"{"error":"unsupported"}"#, None);
        check("unsupported", None);
    }
}
