//! The log's way to standard error: lines are collected and written together, a few times a second, since a system call
//! a request would cost more than the line. Warnings and errors are written at once, with what was collected before.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait; kill -9 loses as much.
const WAIT: Duration = Duration::from_millis(50);
/// With so many bytes waiting the writer does not wait longer, and with so many whoever brings a line writes them.
const MANY: usize = 64 << 10;
const MOST: usize = 1 << 20;
/// Room that stays for the next lines: a busy gateway would otherwise have the kernel clear pages for it each time.
const KEPT: usize = 512 << 10;

/// Cheap to clone; all clones write the same lines.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    shared: Arc<Shared>,
    /// The thread that writes what waits; parked while nothing does.
    writer: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Vec<u8>>,
    /// Held while writing, so that lines keep their order; takes turns with the other buffer.
    writing: Mutex<Vec<u8>>,
}

impl Lines {
    /// # Errors
    /// If the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let here = shared.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                std::thread::park();
                std::thread::park_timeout(WAIT);
                here.write();
            }
        })?;
        Ok(Self { shared, writer: thread.thread().clone() })
    }

    /// Writes what waits.
    pub fn write(&self) {
        self.shared.write();
    }
}

impl Shared {
    fn write(&self) {
        let mut lines = self.writing.lock();
        std::mem::swap(&mut *lines, &mut *self.waiting.lock());
        // Where standard error is gone there is nobody to tell.
        let _ = io::stderr().write_all(&lines);
        lines.clear();
        lines.shrink_to(KEPT);
    }
}

/// Takes one line.
pub(crate) struct Line<'a> {
    lines: &'a Lines,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut waiting = self.lines.shared.waiting.lock();
        let before = waiting.len();
        waiting.extend_from_slice(bytes);
        let now = waiting.len();
        drop(waiting);
        if self.urgent || now >= MOST {
            self.lines.write();
        } else if before == 0 || (before < MANY && now >= MANY) {
            self.lines.writer.unpark();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, urgent: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, urgent: *meta.level() <= Level::WARN }
    }
}
