//! Server-sent events, byte by byte: any split of the bytes gives the same events, and their data stays untouched.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// One event with data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The value of its `data` field, lines joined by `\n`. One line is a slice of the input, not a copy.
    pub data: Bytes,
    /// Its other fields (`id`, `event`, …), verbatim lines, each ending in `\n`. Comments are left out.
    pub extra: Bytes,
    /// The event says that it is an error: `event: error`, or a field `error` in place of `data`.
    pub error: bool,
}

impl Event {
    /// True for `[DONE]`, OpenAI's last event.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.data.trim_ascii() == b"[DONE]"
    }
}

/// An event grew over the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event is larger than {max_event_bytes} bytes")]
pub struct TooLarge {
    pub max_event_bytes: usize,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A state machine over the bytes of an event stream. Push what arrives, take events until there is none.
#[derive(Debug)]
pub struct Decoder {
    max_event_bytes: usize,
    /// Not yet looked at.
    input: Bytes,
    /// A line whose end has not arrived.
    line: Vec<u8>,
    /// The last line ended in `\r`; a `\n` that follows belongs to it.
    after_cr: bool,
    /// The first line is still to come; a byte-order mark in front of it is dropped.
    at_start: bool,
    event: Pending,
}

/// The event that is being put together.
#[derive(Debug, Default)]
struct Pending {
    data: Option<Bytes>,
    /// Used from the second `data` line on.
    joined: Option<BytesMut>,
    extra: BytesMut,
    error: bool,
    bytes: usize,
}

impl Decoder {
    /// `max_event_bytes` bounds what one event may hold, its unfinished line included.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self { max_event_bytes, input: Bytes::new(), line: Vec::new(), after_cr: false, at_start: true, event: Pending::default() }
    }

    /// Takes bytes as they arrive. Call `next` until it gives none before pushing more.
    pub fn push(&mut self, bytes: Bytes) {
        if self.input.is_empty() {
            self.input = bytes;
        } else {
            let mut both = BytesMut::with_capacity(self.input.len() + bytes.len());
            both.put_slice(&self.input);
            both.put_slice(&bytes);
            self.input = both.freeze();
        }
    }

    /// The next complete event, or none until more bytes are pushed.
    ///
    /// # Errors
    /// `TooLarge`; the decoder is of no use afterwards.
    #[expect(clippy::should_implement_trait, reason = "none means `push more`, not the end")]
    pub fn next(&mut self) -> Result<Option<Event>, TooLarge> {
        while let Some(line) = self.take_line()? {
            if line.is_empty() {
                if let Some(event) = self.event.take() {
                    return Ok(Some(event));
                }
            } else {
                self.event.add(line);
            }
        }
        Ok(None)
    }

    /// The last event where the stream ended without its blank line. Servers do that after `[DONE]`; a truncated
    /// JSON value cannot pass for a whole one, so nothing is lost by being lenient.
    #[must_use]
    pub fn finish(&mut self) -> Option<Event> {
        if !self.line.is_empty() {
            let line = Bytes::from(std::mem::take(&mut self.line));
            let line = self.without_mark(line);
            if !line.is_empty() {
                self.event.add(line);
            }
        }
        self.event.take()
    }

    fn take_line(&mut self) -> Result<Option<Bytes>, TooLarge> {
        if self.after_cr && !self.input.is_empty() {
            self.after_cr = false;
            if self.input[0] == b'\n' {
                self.input.advance(1);
            }
        }
        let Some(at) = memchr::memchr2(b'\n', b'\r', &self.input) else {
            self.line.extend_from_slice(&self.input);
            self.input.clear();
            self.bounded(self.line.len())?;
            return Ok(None);
        };
        let rest = self.input.split_to(at);
        self.after_cr = self.input[0] == b'\r';
        self.input.advance(1);
        let line = if self.line.is_empty() {
            rest
        } else {
            self.line.extend_from_slice(&rest);
            Bytes::from(std::mem::take(&mut self.line))
        };
        self.bounded(line.len())?;
        Ok(Some(self.without_mark(line)))
    }

    fn bounded(&self, line_bytes: usize) -> Result<(), TooLarge> {
        if self.event.bytes + line_bytes > self.max_event_bytes {
            return Err(TooLarge { max_event_bytes: self.max_event_bytes });
        }
        Ok(())
    }

    fn without_mark(&mut self, mut line: Bytes) -> Bytes {
        if std::mem::take(&mut self.at_start) && line.starts_with(BYTE_ORDER_MARK) {
            line.advance(BYTE_ORDER_MARK.len());
        }
        line
    }
}

impl Pending {
    fn add(&mut self, line: Bytes) {
        let colon = memchr::memchr(b':', &line);
        let (name, value_start) = match colon {
            // A comment.
            Some(0) => return,
            // A field that nobody knows, and `data` or another name wherever its line is the first one sent.
            _ if line.starts_with(BYTE_ORDER_MARK) => return,
            Some(at) => (&line[..at], if line.get(at + 1) == Some(&b' ') { at + 2 } else { at + 1 }),
            None => (&line[..], line.len()),
        };
        self.bytes += line.len() + 1;
        match name {
            b"data" => self.add_data(line.slice(value_start..)),
            // Older llama-server: `error: {…}` in place of `data: {"error":{…}}`.
            b"error" => {
                self.error = true;
                self.add_data(line.slice(value_start..));
            }
            _ => {
                self.error |= name == b"event" && &line[value_start..] == b"error";
                self.extra.put_slice(&line);
                self.extra.put_u8(b'\n');
            }
        }
    }

    fn add_data(&mut self, value: Bytes) {
        let Some(first) = &self.data else {
            self.data = Some(value);
            return;
        };
        let joined = self.joined.get_or_insert_with(|| BytesMut::from(&first[..]));
        joined.put_u8(b'\n');
        joined.put_slice(&value);
    }

    /// The event, if it has data; others are dropped, as the format's definition says.
    fn take(&mut self) -> Option<Event> {
        self.bytes = 0;
        let extra = self.extra.split().freeze();
        let error = std::mem::take(&mut self.error);
        let joined = self.joined.take();
        let data = self.data.take()?;
        Some(Event { data: joined.map_or(data, BytesMut::freeze), extra, error })
    }
}

/// Appends one event as sent to a client: other fields, then the data, one `data:` for each of its lines.
pub fn encode(out: &mut BytesMut, extra: &[u8], data: &[u8]) {
    out.reserve(extra.len() + data.len() + 16);
    out.put_slice(extra);
    let mut rest = data;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
        line(out, &rest[..at]);
        let ends_in_two = rest[at] == b'\r' && rest.get(at + 1) == Some(&b'\n');
        rest = &rest[at + 1 + usize::from(ends_in_two)..];
    }
    line(out, rest);
    out.put_u8(b'\n');
}

fn line(out: &mut BytesMut, value: &[u8]) {
    out.put_slice(b"data: ");
    out.put_slice(value);
    out.put_u8(b'\n');
}

/// The frame that ends a stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
