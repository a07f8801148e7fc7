//! How a finished request counts: one ending, one worth of its first try, one verdict per attempt. Metrics and page share it.

use spectra_router::Verified;

use crate::record::{AttemptData, Outcome, RecordData};

/// Endings of a request, in the order of `ended`.
pub const ENDED: [&str; 7] = ["usable", "unusable", "unjudged", "rejected", "failed", "broken", "cancelled"];
/// Worth of a first try, in the order of `first_try`.
pub const FIRST: [&str; 5] = ["usable", "unusable", "error", "unjudged", "cancelled"];
/// Verdicts of an attempt, in the order of `verdict`.
pub const VERDICT: [&str; 5] = ["pass", "mended", "flawed", "error", "cancelled"];

/// Index into `ENDED`.
#[must_use]
pub fn ended(record: &RecordData) -> usize {
    match (record.outcome, record.verified) {
        (Outcome::Delivered, Verified::Ok | Verified::Repaired) => 0,
        (Outcome::Delivered, Verified::Failed) => 1,
        (Outcome::Delivered, Verified::Skipped) => 2,
        (Outcome::Rejected, _) => 3,
        (Outcome::Failed, _) => 4,
        (Outcome::Broken, _) => 5,
        (Outcome::Cancelled, _) => 6,
    }
}

/// Index into `FIRST`; `None` where no model was asked.
#[must_use]
pub fn first_try(record: &RecordData) -> Option<usize> {
    Some(match verdict(record.attempts.first()?) {
        0 | 1 if record.outcome == Outcome::Delivered && record.verified == Verified::Skipped => 3,
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        _ => 4,
    })
}

/// Index into `VERDICT`.
#[must_use]
pub fn verdict(attempt: &AttemptData) -> usize {
    match attempt.verdict {
        "pass" => 0,
        "mended" => 1,
        "cancelled" => 4,
        _ if attempt.flaw.is_some() => 2,
        _ => 3,
    }
}
