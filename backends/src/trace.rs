//! W3C trace context of one attempt.

use std::sync::Arc;

/// Where the span's digits stand in `00-<32 hex>-<16 hex>-<2 hex>`.
const SPAN: std::ops::Range<usize> = 36..52;

/// The `traceparent` of a request's attempt, from the request's own: same trace, another span. The span's id follows from
/// the request's and the attempt's number, so that whoever reports spans later finds the same one.
#[must_use]
pub fn of_attempt(request: &str, number: usize) -> Arc<str> {
    let span = request.get(SPAN).and_then(|span| u64::from_str_radix(span, 16).ok());
    match span {
        Some(span) => [&request[..SPAN.start], text(&digits(span_of_attempt(span, number))), &request[SPAN.end..]].concat().into(),
        // Not ours to judge: it goes on as it came.
        None => request.into(),
    }
}

/// The span's id of a request's attempt, never 0.
#[must_use]
pub fn span_of_attempt(request: u64, number: usize) -> u64 {
    // Steps of the golden ratio do not meet again for 2^64 attempts; the mixing is SplitMix64's.
    let mut mixed = request.wrapping_add((number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)).max(1)
}

/// 16 hex digits.
#[must_use]
pub fn digits(id: u64) -> [u8; 16] {
    std::array::from_fn(|at| b"0123456789abcdef"[(id >> (60 - 4 * at)) as usize & 15])
}

/// Digits as text.
#[must_use]
pub fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_share_the_trace_and_differ_in_their_spans() {
        let request = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (first, second) = (of_attempt(request, 0), of_attempt(request, 1));
        assert_ne!(first, second);
        let span = format!("{:016x}", span_of_attempt(0xb7ad_6b71_6920_3331, 0));
        assert_eq!(*first, format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01"));
        assert_eq!(&*of_attempt("odd", 0), "odd");
    }
}
