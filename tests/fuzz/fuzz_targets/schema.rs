//! Schemas: whatever is compiled judges whatever is parsed, without panic and in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spectra_router::verify::Schema;

// A schema and a value, on a line each.
fuzz_target!(|input: &[u8]| {
    let Some((schema, value)) = std::str::from_utf8(input).ok().and_then(|text| text.split_once('\n')) else { return };
    if let (Ok(schema), Ok(value)) = (Schema::compile(schema), serde_json::from_str(value)) {
        assert_eq!(schema.fits(&value), schema.errors(&value).is_empty());
    }
});
