//! A client's socket with deadlines: for its first bytes, and for taking what we send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::retold::retold;

/// An HTTP/2 preface is so long; until that much is here nobody else watches the clock.
const OPENING_BYTES: usize = 24;

/// Breaks the connection of a client that says nothing at first, or that stops reading.
///
/// Headers and bodies that come slowly are watched where they are read: this is what is left for the socket.
pub(crate) struct Guarded {
    stream: TcpStream,
    /// Runs until the opening is here.
    opening: Option<Pin<Box<Sleep>>>,
    opened_bytes: usize,
    write_within: Duration,
    /// Runs while the client's window is full.
    stuck: Option<Pin<Box<Sleep>>>,
    /// What is written instead of hyper's own refusal, and how many of its bytes that stands for.
    instead: Option<(Bytes, usize)>,
}

impl Guarded {
    pub fn new(stream: TcpStream, read_within: Duration, write_within: Duration) -> Self {
        Self { stream, opening: Some(Box::pin(sleep(read_within))), opened_bytes: 0, write_within, stuck: None, instead: None }
    }

    /// Starts or checks the clock of a write that cannot go on.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let within = self.write_within;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Writes what stands for `bytes` where they are a refusal of hyper's own; `None`: they are not.
    fn told_instead(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.instead.is_none() {
            self.instead = Some((retold(bytes)?, bytes.len()));
        }
        let (mut rest, stands_for) = self.instead.take()?;
        while !rest.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &rest);
            match self.written(cx, written) {
                Poll::Ready(Ok(written)) => rest.advance(written),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => {
                    self.instead = Some((rest, stands_for));
                    return Some(Poll::Pending);
                }
            }
        }
        Some(Poll::Ready(Ok(stands_for)))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(opening) = &mut this.opening else { return Pin::new(&mut this.stream).poll_read(cx, buffer) };
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                this.opened_bytes += buffer.filled().len() - before;
                if this.opened_bytes >= OPENING_BYTES {
                    this.opening = None;
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(opening.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends nothing")))
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(told) = self.told_instead(cx, bytes) {
            return told;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(told) = slices.first().and_then(|first| self.told_instead(cx, first)) {
            return told;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
