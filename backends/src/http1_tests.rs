//! Answers as servers send them, cut at every place.

use super::*;

/// What a client makes of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: u16,
    body: String,
    /// The connection may be used again.
    keep: bool,
    /// The end was seen without the connection being closed.
    whole: bool,
}

fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Read, Fault> {
    let mut wire = BytesMut::new();
    let (mut head, mut text) = (None, Vec::new());
    for part in parts {
        wire.extend_from_slice(part);
        let Some(of) = (match head.take() {
            None => take_head(&mut wire)?,
            some => some,
        }) else {
            continue;
        };
        let mut of: Head = of;
        while let Piece::Data(bytes) = of.body.take(&mut wire)? {
            text.extend_from_slice(&bytes);
        }
        head = Some(of);
    }
    let Some(Head { status, mut body, keep, .. }) = head else { return Err(Fault::Closed("the head")) };
    let whole = body.take(&mut wire)? == Piece::End;
    Ok(Read { status: status.as_u16(), body: String::from_utf8(text).unwrap(), keep, whole })
}

#[test]
fn answers_are_read_alike_however_they_are_cut() {
    for (answer, status, body, keep, whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, "hello", true, true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", 200, "hel", true, false),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, "", true, true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\ncontent-length: 2\r\n\r\nhi", 200, "hi", true, true),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true, true),
        ("HTTP/1.1 429 Slow Down\r\nretry-after: 1\r\nconnection: Close\r\ncontent-length: 2\r\n\r\nno", 429, "no", false, true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=\"y\"\r\n world\r\n0\r\n\r\n",
            200,
            "hello world",
            true,
            true,
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\nx-t: 1\r\ny: 2\r\n\r\n", 200, "hello", true, true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0000000A\r\n0123456789\r\n0\r\n\r\n", 200, "0123456789", true, true),
        ("HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n1\na\n0\n\n", 200, "a", true, true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", 200, "hello", true, false),
        // A length beside chunks: the chunks are right, and the connection is used up.
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, "a", false, true),
        // Other encodings than chunks at the end: until the connection closes.
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nxyz", 200, "xyz", false, false),
        ("HTTP/1.1 200 OK\r\n\r\nuntil closed", 200, "until closed", false, false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", 200, "a", false, true),
        ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na", 200, "a", true, true),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
            200,
            "a",
            true,
            true,
        ),
    ] {
        let expected = Read { status, body: body.to_owned(), keep, whole };
        let bytes = answer.as_bytes();
        assert_eq!(read([bytes]).unwrap(), expected, "{answer}");
        assert_eq!(read(bytes.chunks(1)).unwrap(), expected, "{answer} byte by byte");
        for at in 0..=bytes.len() {
            assert_eq!(read([&bytes[..at], &bytes[at..]]).unwrap(), expected, "{answer} cut at {at}");
        }
    }
}

#[test]
fn what_is_no_answer_is_an_error_however_it_is_cut() {
    let long = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}\r\na\r\n0\r\n\r\n", "x".repeat(LINE_BYTES));
    let trailers = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{}\r\n", "a: b\r\n".repeat(TRAILER_BYTES / 4));
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS + 1));
    let head = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(2 * HEAD_BYTES));
    for answer in [
        "SSH-2.0-OpenSSH_9\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5x\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 099 Odd\r\n\r\n",
        long.as_str(),
        trailers.as_str(),
        fields.as_str(),
        head.as_str(),
    ] {
        let bytes = answer.as_bytes();
        assert!(read([bytes]).is_err(), "{answer:.80}");
        assert!(read(bytes.chunks(1 + bytes.len() / 5000)).is_err(), "{answer:.80} in pieces");
    }
}

#[test]
fn an_answer_that_is_cut_off_says_what_is_missing() {
    assert_eq!(Fault::Closed("the end of the answer").to_string(), "the connection was closed before the end of the answer had come");
}
