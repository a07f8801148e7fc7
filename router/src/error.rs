//! Why a request got no answer.

use std::time::Duration;

use spectra_backends::chat::BadRequest;

use crate::verify::Flaw;

/// No answer. The edge turns each into one status, type and code.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),

    /// Neither `auto`, a route, a backend nor an alias.
    #[error("The model '{model}' does not exist. GET /v1/models lists the models there are.")]
    UnknownModel { model: String },

    /// Every backend of the ladder is excluded by a hard rule.
    #[error("No model of route '{route}' can take this request: {why}.")]
    NoRouteFits { route: String, why: String, context_length: bool },

    /// All attempts were made; `flaw` is the last one's.
    #[error("No usable answer after {attempts} attempts: {flaw}")]
    Exhausted { flaw: Box<Flaw>, attempts: usize, retry_after: Option<Duration> },

    /// The request's deadline passed, or its budget was spent, before a usable answer was there.
    #[error("The request's {what} was used up after {attempts} attempts.")]
    OutOf { what: &'static str, attempts: usize },
}
