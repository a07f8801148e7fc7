//! W3C trace context of one attempt.

use std::sync::Arc;

/// The `traceparent` of a request's attempt, from the request's own: same trace, another span. The span's id follows from
/// the request's and the attempt's number, so that whoever reports spans later finds the same one.
#[must_use]
pub fn of_attempt(request: &str, number: usize) -> Arc<str> {
    match request.split_once('-').and_then(|(version, rest)| Some((version, rest.split_once('-')?))) {
        Some((version, (trace, rest))) => {
            let (span, flags) = rest.split_once('-').unwrap_or((rest, "01"));
            format!("{version}-{trace}-{}-{flags}", span_of_attempt(span, number)).into()
        }
        // Not ours to judge: it goes on as it came.
        None => request.into(),
    }
}

/// The span's id of a request's attempt: 16 hex digits, never all zero.
#[must_use]
pub fn span_of_attempt(request: &str, number: usize) -> String {
    let own = u64::from_str_radix(request, 16).unwrap_or_default();
    // Steps of the golden ratio do not meet again for 2^64 attempts; the mixing is SplitMix64's.
    let mut mixed = own.wrapping_add((number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    format!("{:016x}", (mixed ^ (mixed >> 31)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_share_the_trace_and_differ_in_their_spans() {
        let request = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (first, second) = (of_attempt(request, 0), of_attempt(request, 1));
        assert_ne!(first, second);
        assert_eq!(*first, format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", span_of_attempt("b7ad6b7169203331", 0)));
        assert_eq!(&*of_attempt("odd", 0), "odd");
    }
}
