//! Repair: no panic, valid JSON out, idempotent, valid JSON untouched, nothing closed after a length limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spectra_router::repair::{self, Given, Repaired, Stage};
use spectra_router::verify::json::Scan;

// The first byte says whether the text was cut by its length.
fuzz_target!(|input: &[u8]| {
    let Some((flag, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let given = Given { cut_by_length: *flag == b'1', ..Given::default() };
    match repair::json(text, &given) {
        Repaired::Clean => assert!(Scan::whole(text).is_ok()),
        Repaired::Mended { text: mended, stages } => {
            assert!(Scan::whole(&mended).is_ok());
            assert!(!given.cut_by_length || !stages.contains(&Stage::MissingClosers));
            assert!(Scan::whole(text).is_err() || stages.contains(&Stage::DoubleEncoding));
            assert_eq!(repair::json(&mended, &given), Repaired::Clean);
        }
        Repaired::Cut { .. } | Repaired::Declined { .. } => {}
    }
    // Our scanner and serde_json agree on what is JSON, but for what its grammar allows and serde_json cannot hold: deep
    // nesting, numbers beyond a double, and half of a surrogate pair.
    let beyond = ["recursion", "out of range", "surrogate", "hex escape"];
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => assert!(Scan::whole(text).is_ok(), "{text:?}"),
        Err(error) if beyond.iter().any(|limit| error.to_string().contains(limit)) => {}
        Err(_) => assert!(Scan::whole(text).is_err(), "{text:?}"),
    }
});
