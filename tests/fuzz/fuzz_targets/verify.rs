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

fuzz_target!(|input: (bool, Vec<String>)| {
    let (json, pieces) = input;
    if pieces.is_empty() {
        return;
    }
    let checks = Arc::new(Checks::of_json(Settings { json, ..Settings::default() }, None));
    let whole = pieces.concat();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    assert_eq!(judged(&checks, &pieces), judged(&checks, &[&whole]));
});
