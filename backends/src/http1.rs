//! One exchange of HTTP/1.1 at a time over one connection (RFC 9112), in the task of whoever asks.
//!
//! hyper's client gives every connection a task of its own, so that a request, its head and each piece of its answer are
//! messages between two tasks, and wake one or the other. Nothing here needs the connection between two pieces: who reads the
//! answer drives it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use tokio::net::TcpStream;
use tokio_util::io::{poll_read_buf, poll_write_buf};

/// Most header fields of a response, and most bytes of its head, of a chunk's size line with its extensions, and of trailers.
const FIELDS: usize = 128;
const HEAD_BYTES: usize = 256 << 10;
const LINE_BYTES: usize = 4 << 10;
const TRAILER_BYTES: usize = 16 << 10;
/// Room for one read: small answers and the pieces of streams fit the first, large answers are read in the second.
const SMALL_READ: usize = 8 << 10;
const LARGE_READ: usize = 64 << 10;

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the connection was closed before {0} had come")]
    Closed(&'static str),
    #[error("no HTTP/1.1 response: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error("no HTTP/1.1 response: {0}")]
    Odd(&'static str),
    #[error("connection error: {0}")]
    Io(#[from] io::Error),
}

/// A connection, and what was read from it and not used yet.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
}

/// The head of a response, and how its body goes on.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Framing,
    /// The connection may be used again once the body is read.
    pub keep: bool,
}

/// How the end of a body is found.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunks),
    /// The body ends with the connection.
    Close,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunks {
    Size,
    Data(u64),
    /// The line end after the data.
    AfterData,
    /// So many bytes of trailers were passed over.
    Trailers(usize),
    Done,
}

/// What a body gives next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    More,
    End,
}

impl Wire {
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    /// Nothing is known against using it again: the server has neither closed it nor sent what nobody asked for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.input.is_empty() && self.stream.try_read(&mut [0]).is_err_and(nothing)
    }

    /// Sends what is left of the request while it waits for the head: a server may refuse a body before it has read it.
    /// Such a connection is not kept.
    ///
    /// # Errors
    /// For what the connection or the server does wrong.
    pub fn poll_exchange(&mut self, cx: &mut Context<'_>, request: &mut impl Buf) -> Poll<Result<Head, Fault>> {
        let mut written = Ok(());
        while request.has_remaining() && written.is_ok() {
            match poll_write_buf(Pin::new(&mut self.stream), cx, request) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => written = Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(sent) => written = sent.map(drop),
            }
        }
        loop {
            if let Some(mut head) = take_head(&mut self.input)? {
                head.keep &= !request.has_remaining();
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_fill(cx, SMALL_READ)) {
                // A server that closes has often said why.
                Ok(0) => return Poll::Ready(Err(written.err().map_or(Fault::Closed("the head of the answer"), Fault::Io))),
                read => drop(read?),
            }
        }
    }

    /// The next bytes of the body, `None` at its end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>, body: &mut Framing) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            match body.take(&mut self.input) {
                Ok(Piece::Data(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            let room = if matches!(body, Framing::Length(left) if *left > SMALL_READ as u64) { LARGE_READ } else { SMALL_READ };
            match ready!(self.poll_fill(cx, room)) {
                Ok(0) if *body == Framing::Close => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(Fault::Closed("the end of the answer")))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.input.reserve(room);
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)
    }
}

impl Framing {
    /// Takes what `input` holds of the body.
    ///
    /// # Errors
    /// For chunks that are not what they say.
    pub fn take(&mut self, input: &mut BytesMut) -> Result<Piece, Fault> {
        match self {
            Self::Length(0) => Ok(Piece::End),
            Self::Length(left) => Ok(data(input, left)),
            Self::Close if input.is_empty() => Ok(Piece::More),
            Self::Close => Ok(Piece::Data(input.split().freeze())),
            Self::Chunked(chunks) => chunks.take(input),
        }
    }

    /// Passes over what ends the body, as far as it has come; true where nothing more of it will.
    pub fn ended(&mut self, wire: &mut Wire) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Close => false,
            Self::Chunked(Chunks::Data(1..)) => false,
            // An error is told when the next piece is asked for: the state stays.
            Self::Chunked(chunks) => chunks.advance(&mut wire.input).is_ok() && *chunks == Chunks::Done,
        }
    }
}

impl Chunks {
    fn take(&mut self, input: &mut BytesMut) -> Result<Piece, Fault> {
        self.advance(input)?;
        match self {
            Self::Data(left) => Ok(data(input, left)),
            Self::Done => Ok(Piece::End),
            Self::Size | Self::AfterData | Self::Trailers(_) => Ok(Piece::More),
        }
    }

    /// Goes on to the next data, to the end, or as far as the input reaches.
    fn advance(&mut self, input: &mut BytesMut) -> Result<(), Fault> {
        loop {
            let limit = if matches!(self, Self::Trailers(_)) { TRAILER_BYTES } else { LINE_BYTES };
            match self {
                Self::Done => return Ok(()),
                Self::Data(0) => *self = Self::AfterData,
                Self::Data(_) => return Ok(()),
                Self::Size | Self::AfterData | Self::Trailers(_) => {
                    let Some(end) = line_end(input, limit)? else { return Ok(()) };
                    let line = &input[..end];
                    *self = self.after(line.strip_suffix(b"\r").unwrap_or(line))?;
                    input.advance(end + 1);
                }
            }
        }
    }

    /// What follows a line.
    fn after(&self, line: &[u8]) -> Result<Self, Fault> {
        match self {
            Self::Size => Ok(match chunk_size(line).ok_or(Fault::Odd("a chunk without its size"))? {
                0 => Self::Trailers(0),
                size => Self::Data(size),
            }),
            Self::AfterData if line.is_empty() => Ok(Self::Size),
            Self::Trailers(_) if line.is_empty() => Ok(Self::Done),
            Self::Trailers(passed) if passed + line.len() <= TRAILER_BYTES => Ok(Self::Trailers(passed + line.len() + 2)),
            _ => Err(Fault::Odd("a chunk that does not end where it said")),
        }
    }
}

/// As much of the next `left` bytes as is there.
fn data(input: &mut BytesMut, left: &mut u64) -> Piece {
    if input.is_empty() {
        return Piece::More;
    }
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= here as u64;
    Piece::Data(input.split_to(here).freeze())
}

/// Where the next line ends, or `None` until that has come. RFC 9112, 2.2: a lone line feed may be taken for a line end.
fn line_end(input: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
    match memchr::memchr(b'\n', input) {
        Some(at) if at <= limit => Ok(Some(at)),
        None if input.len() <= limit => Ok(None),
        _ => Err(Fault::Odd("a line of a chunked body that is too long")),
    }
}

/// Hexadecimal, then white space and extensions that nobody uses.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let rest = line[digits..].trim_ascii_start();
    if digits > 16 || !(rest.is_empty() || rest.starts_with(b";")) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

/// The head of the final response, once it is whole. Interim ones (`100 Continue`, early hints) are passed over.
///
/// # Errors
/// For what is no response of HTTP/1.1, or one whose end cannot be found.
pub fn take_head(input: &mut BytesMut) -> Result<Option<Head>, Fault> {
    loop {
        if input.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let bytes = match response.parse(input)? {
            httparse::Status::Complete(bytes) if bytes <= HEAD_BYTES => bytes,
            httparse::Status::Partial if input.len() <= HEAD_BYTES => return Ok(None),
            _ => return Err(Fault::Odd("a head that is too large")),
        };
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Fault::Odd("no status"))?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Fault::Odd("another protocol, which nobody asked for"));
        }
        if status.is_informational() {
            input.advance(bytes);
            continue;
        }
        let version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        let at = input.as_ptr() as usize;
        let places: Vec<(HeaderName, usize, usize)> = response
            .headers
            .iter()
            .map(|field| Ok((name(field.name)?, field.value.as_ptr() as usize - at, field.value.len())))
            .collect::<Result<_, Fault>>()?;
        let head = input.split_to(bytes).freeze();
        let mut headers = HeaderMap::with_capacity(places.len());
        for (name, start, length) in places {
            // Slices of the head, not copies.
            let value = HeaderValue::from_maybe_shared(head.slice(start..start + length));
            headers.append(name, value.map_err(|_| Fault::Odd("a header that cannot be read"))?);
        }
        return framed(status, headers, version).map(Some);
    }
}

fn name(text: &str) -> Result<HeaderName, Fault> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Fault::Odd("a header that cannot be read"))
}

/// RFC 9112, 6.3, for an answer to POST.
fn framed(status: StatusCode, headers: HeaderMap, version: Version) -> Result<Head, Fault> {
    let has = |name: HeaderName, token: &str| {
        let all = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        all.map(str::trim).any(|found| found.eq_ignore_ascii_case(token))
    };
    let closes = if version == Version::HTTP_10 { !has(CONNECTION, "keep-alive") } else { has(CONNECTION, "close") };
    let coded = headers.get_all(TRANSFER_ENCODING).iter().next_back();
    let body = if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        Framing::Length(0)
    } else if let Some(last) = coded {
        let last = last.to_str().unwrap_or_default().rsplit(',').next().unwrap_or_default().trim();
        if last.eq_ignore_ascii_case("chunked") { Framing::Chunked(Chunks::Size) } else { Framing::Close }
    } else {
        length(&headers)?.map_or(Framing::Close, Framing::Length)
    };
    // A length beside chunks is how one answer is smuggled into another: what follows is not to be trusted.
    let ambiguous = coded.is_some() && headers.contains_key(CONTENT_LENGTH);
    let keep = !closes && !ambiguous && body != Framing::Close;
    Ok(Head { status, headers, body, keep })
}

/// What `content-length` says; several that agree are one.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let mut found = None;
    for text in headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.to_str().unwrap_or("?").split(',')) {
        let text = text.trim();
        let length = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse::<u64>().ok());
        if length.is_none() || found.is_some_and(|found| Some(found) != length) {
            return Err(Fault::Odd("a content-length that is no length"));
        }
        found = length;
    }
    Ok(found)
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
