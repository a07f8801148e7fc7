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
