//! Scores: a number between 0 and 1 for every request, the same one each time.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use spectra_backends::ChatRequest;
use spectra_router::score::{Scorer, Settings, Weights};

static SCORER: LazyLock<Scorer> = LazyLock::new(|| Scorer::new(Weights::builtin(), Settings { freeze: true, ..Settings::default() }));

/// A body as it is, or text as one message.
fn request(input: &[u8]) -> Option<ChatRequest> {
    let whole = ChatRequest::parse(Bytes::copy_from_slice(input));
    whole.ok().or_else(|| {
        let text = std::str::from_utf8(input).ok()?;
        let body = serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": text}]});
        ChatRequest::parse(body.to_string().into()).ok()
    })
}

fuzz_target!(|input: &[u8]| {
    let Some(request) = request(input) else { return };
    let score = SCORER.score(&request);
    for share in [score.difficulty, score.p_local, score.p_hosted] {
        assert!((0.0..=1.0).contains(&share), "{score:?}");
    }
    assert!(score.need.is_finite());
    assert!(score.reasons.len() <= 4 && score.reasons.iter().all(|reason| reason.weight.is_finite()));
    let again = SCORER.score(&request);
    assert_eq!((score.difficulty.to_bits(), score.p_local.to_bits()), (again.difficulty.to_bits(), again.p_local.to_bits()));
});
