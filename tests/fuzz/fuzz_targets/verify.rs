//! Verification: any chunking of an answer gets the verdict of the whole.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use spectra_backends::Chunk;
use spectra_backends::chunk::{Choice, Finish, View};
use spectra_router::verify::{Checks, Doubt, Settings, Verdict, Verifier};

fn judged(checks: &Arc<Checks>, pieces: &[&str]) -> String {
    let mut verifier = Verifier::new(checks.clone());
    for (at, piece) in pieces.iter().enumerate() {
        let finish = (at + 1 == pieces.len()).then_some(Finish::Stop);
        let choice = Choice { content: Some((*piece).to_owned()), finish, ..Choice::default() };
        let view = View { choices: vec![choice], ..View::default() };
        if let Doubt::Hopeless(_) = verifier.push(&Chunk { data: bytes::Bytes::new(), extra: bytes::Bytes::new(), view }) {
            break;
        }
    }
    let judged = verifier.finish();
    match judged.verdict {
        Verdict::Flawed(flaw) => flaw.to_string(),
        verdict => format!("{verdict:?} {:?}", judged.choices.iter().map(|choice| choice.mended.as_ref().unwrap_or(&choice.text)).collect::<Vec<_>>()),
    }
}

// The first byte says whether JSON is wanted and how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((&flag, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let checks = Arc::new(Checks::of_json(Settings { json: flag & 1 == 1, ..Settings::default() }, None));
    let mut pieces = Vec::new();
    let (mut rest, mut draw) = (text, u64::from(flag) + 1);
    while !rest.is_empty() {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(((draw >> 60) as usize + 1).min(rest.len())));
        pieces.push(piece);
        rest = after;
    }
    if !pieces.is_empty() {
        assert_eq!(judged(&checks, &pieces), judged(&checks, &[text]));
    }
});
