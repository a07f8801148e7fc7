//! The SSE decoder: any split of the bytes gives the events of the whole, an event over its bound is an error however it
//! arrives, and what was decoded is encoded to what decodes to it.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use spectra_backends::sse::{Decoder, Event, encode};

/// The events, and whether the bound was met.
fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>, bound: usize) -> (Vec<Event>, bool) {
    let mut decoder = Decoder::new(bound);
    let mut events = Vec::new();
    for part in parts {
        decoder.push(Bytes::copy_from_slice(part));
        loop {
            match decoder.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return (events, true),
            }
        }
    }
    events.extend(decoder.finish());
    (events, false)
}

// The first byte says how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let whole = decode([bytes], 1 << 20);
    assert!(!whole.1);
    assert_eq!(decode(bytes.chunks(1), 1 << 20), whole, "byte by byte");
    assert_eq!(decode(bytes.chunks(usize::from(cut % 7) + 2), 1 << 20), whole, "in parts");
    let at = usize::from(cut) * bytes.len() / 256;
    assert_eq!(decode([&bytes[..at], &bytes[at..]], 1 << 20), whole, "in two");
    let bound = usize::from(cut) + 8;
    let _ = decode(bytes.chunks(3), bound);
    for event in whole.0 {
        let mut out = BytesMut::new();
        encode(&mut out, &event.extra, &event.data);
        let (again, _) = decode([&out[..]], 1 << 20);
        let [again] = again.as_slice() else { panic!("{event:?} became {again:?}") };
        // An `error:` field is told as an event with the name; a carriage return inside data is one end of a line.
        assert_eq!(again.data, event.data);
    }
});
