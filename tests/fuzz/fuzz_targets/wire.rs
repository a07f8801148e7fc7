//! Requests and chunks: no bytes make the parsers panic, and splicing changes the named fields and no other byte.
#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use spectra_backends::{ChatRequest, Chunk, Edit, splice};

/// The top-level fields with the text of their values.
fn fields(raw: &[u8]) -> BTreeMap<String, Box<RawValue>> {
    serde_json::from_slice(raw).expect("an object")
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Chunk::parse(Bytes::copy_from_slice(bytes));
    let edits = [Edit::Set("model", "\"there\"".into()), Edit::Set("stream_options", "{}".into()), Edit::Remove("usage")];
    if let Ok(spliced) = splice(bytes, &edits) {
        let changed = ["model", "stream_options", "usage"];
        let others = |raw: &[u8]| -> Vec<(String, String)> {
            fields(raw).into_iter().filter(|(name, _)| !changed.contains(&name.as_str())).map(|(name, value)| (name, value.get().to_owned())).collect()
        };
        assert_eq!(others(&spliced), others(bytes));
        assert_eq!(splice(&spliced, &edits).expect("spliced text is an object"), spliced, "a second time changes nothing");
    }
    let Ok(request) = ChatRequest::parse(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(&request.raw()[..], bytes);
    assert_eq!(request.edited(&[]).expect("unchanged").raw(), request.raw());
    let more = request.with_messages(&[serde_json::json!({"role": "user", "content": "go on"})]);
    let longer = request.edited(&[more]).expect("a message more is a request");
    assert_eq!(longer.view().messages.len(), request.view().messages.len() + 1);
    assert_eq!(longer.view().messages[..request.view().messages.len()], request.view().messages[..]);
});
