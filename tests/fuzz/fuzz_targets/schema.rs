//! Schemas: whatever is compiled judges whatever is parsed, without panic and in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spectra_router::verify::Schema;

fuzz_target!(|input: (String, String)| {
    let (schema, value) = input;
    if let (Ok(schema), Ok(value)) = (Schema::compile(&schema), serde_json::from_str(&value)) {
        assert_eq!(schema.fits(&value), schema.errors(&value).is_empty());
    }
});
