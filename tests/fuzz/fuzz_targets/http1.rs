//! Answers over HTTP/1.1: any cut of the bytes gives the head and the body of the whole, and no bytes make the reader panic.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use spectra_backends::http1::{Fault, Framing, Head, Piece, take_head};

/// Status and body, and whether the body's end was found; or that it is no answer.
fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<(u16, Vec<u8>, bool)>, ()> {
    let mut input = BytesMut::new();
    let (mut head, mut body): (Option<Head>, _) = (None, Vec::new());
    let mut ended = false;
    let wrong = |_: Fault| ();
    for part in parts {
        input.extend_from_slice(part);
        if head.is_none() {
            head = take_head(&mut input).map_err(wrong)?;
        }
        let Some(head) = &mut head else { continue };
        loop {
            match head.body.take(&mut input).map_err(wrong)? {
                Piece::Data(bytes) => body.extend_from_slice(&bytes),
                Piece::More => break,
                Piece::End => {
                    ended = true;
                    break;
                }
            }
        }
    }
    assert!(!ended || head.as_ref().is_some_and(|head| head.body != Framing::Close));
    Ok(head.map(|head| (head.status.as_u16(), body, ended)))
}

// The first byte says how the rest is cut.
fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let whole = read([bytes]);
    let at = usize::from(cut) * bytes.len() / 256;
    assert_eq!(read([&bytes[..at], &bytes[at..]]), whole, "in two");
    assert_eq!(read(bytes.chunks(usize::from(cut % 7) + 1)), whole, "in parts");
});
