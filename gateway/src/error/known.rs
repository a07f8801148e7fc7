//! The errors there are, for those who count them: a series that is there at zero shows its first rise.

use std::time::Duration;

use spectra_backends::{BackendError, Phase};
use spectra_router::RouteError;
use spectra_router::verify::Flaw;

use super::{Failure, Refusal};

/// Codes of requests that are refused for what is in them, all with status 400.
const BAD_REQUESTS: [&str; 9] = [
    "invalid_json",
    "invalid_utf8",
    "duplicate_parameter",
    "invalid_header",
    "invalid_json_schema",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "unsupported_parameter",
];

/// Status and label of every error a model request can end with; an upstream's own status may differ.
pub(crate) fn known() -> impl Iterator<Item = (u16, &'static str)> {
    let wait = Duration::from_secs(1);
    let refusals = [
        Refusal::BodyTooLarge { limit: 0 },
        Refusal::WrongMediaType { found: String::new() },
        Refusal::SlowBody,
        Refusal::CutBody,
        Refusal::NoKey,
        Refusal::Busy,
        Refusal::Draining,
        Refusal::OverRate { what: "", retry_after: wait },
        Refusal::OverBudget { retry_after: wait },
        Refusal::KeyReused,
        Refusal::Panicked,
    ];
    let none = || String::new();
    let unfit = |context_length| RouteError::NoRouteFits { route: none(), why: none(), context_length };
    let out_of = |what| RouteError::OutOf { what, attempts: 0 };
    let routes = [
        RouteError::UnknownModel { model: none() },
        unfit(true),
        unfit(false),
        out_of("budget"),
        out_of("deadline"),
        RouteError::Exhausted { flaw: Box::new(Flaw::Empty), attempts: 0, retry_after: None },
    ];
    let upstream = |status| BackendError::Upstream { status, headers: Box::default(), body: bytes::Bytes::new() };
    let backends = [
        BackendError::Overloaded { retry_after: None },
        BackendError::Timeout { phase: Phase::Total, after: wait },
        BackendError::Broken { what: none() },
        BackendError::Unavailable { why: none() },
        upstream(400),
        upstream(401),
        upstream(429),
        upstream(500),
    ];
    let failures = refusals.into_iter().map(Failure::from).chain(routes.into_iter().map(Failure::from));
    let failures = failures.chain(backends.into_iter().map(|error| Failure::upstream(error, None)));
    failures.map(|failure| (failure.status.as_u16(), failure.label)).chain(BAD_REQUESTS.map(|code| (400, code)))
}
