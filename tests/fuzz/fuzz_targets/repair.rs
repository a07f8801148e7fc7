//! Repair: no panic, valid JSON out, idempotent, valid JSON untouched, nothing closed after a length limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spectra_router::repair::{self, Given, Repaired, Stage};
use spectra_router::verify::json::Scan;

fuzz_target!(|input: (bool, String)| {
    let (cut_by_length, text) = input;
    let given = Given { cut_by_length, ..Given::default() };
    match repair::json(&text, &given) {
        Repaired::Clean => assert!(Scan::whole(&text).is_ok()),
        Repaired::Mended { text: mended, stages } => {
            assert!(Scan::whole(&mended).is_ok());
            assert!(!cut_by_length || !stages.contains(&Stage::MissingClosers));
            assert!(Scan::whole(&text).is_err() || stages.contains(&Stage::DoubleEncoding));
            assert_eq!(repair::json(&mended, &given), Repaired::Clean);
        }
        Repaired::Cut { .. } | Repaired::Declined { .. } => {}
    }
});
