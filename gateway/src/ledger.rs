//! What happened, kept in SQLite: one writer thread behind a bounded queue, so that accounting never holds a request up.
//!
//! Under pressure rows are dropped and counted. A batch is one transaction: after kill -9 the database is whole, and at
//! most what was not yet committed (at most `BATCH_ROWS` rows or `BATCH_WAIT`) is missing. Schema: `docs/ledger.md`.

pub(crate) mod decided;
pub mod export;
mod schema;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use spectra_config::Accounting;

use crate::metrics::LedgerSample;
use crate::record::RecordData;
use writer::Writer;

/// Rows waiting to be written; more are dropped and counted.
const QUEUE_ROWS: usize = 8192;
/// Most rows of one transaction.
const BATCH_ROWS: usize = 512;
/// Longest wait before a row is committed.
const BATCH_WAIT: Duration = Duration::from_millis(200);

/// A handle to the writer thread; dropping the last one writes what waits and ends it.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// `None` only while dropping.
    queue: Option<SyncSender<Entry>>,
    counts: Arc<Counts>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a caller said of an answer it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    pub request_id: String,
    pub usable: bool,
    pub reason: Option<String>,
}

/// Gives a state's text; `None` leaves the last one.
pub type StateSource = Box<dyn Fn() -> Option<String> + Send>;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Keep {
    days: u32,
    bytes: u64,
}

impl Keep {
    fn of(config: &Accounting) -> Self {
        Self { days: config.keep_days, bytes: u64::from(config.keep_mib) << 20 }
    }
}

enum Entry {
    Request(Arc<RecordData>),
    Feedback(Feedback),
    State {
        name: &'static str,
        source: StateSource,
    },
    Keep(Keep),
    /// Answered when everything before it is committed.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    rows: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
    queue: AtomicU64,
    bytes: AtomicU64,
}

impl Ledger {
    /// Opens or makes the file that the config names; `None` where it names none.
    ///
    /// # Errors
    /// If the file cannot be opened or made, is no ledger, or is a newer version's.
    pub fn open(config: &Accounting) -> anyhow::Result<Option<Self>> {
        let Some(path) = config.ledger.as_ref().map(|path| path.get().trim()).filter(|path| !path.is_empty()) else { return Ok(None) };
        Self::start(Path::new(path), Keep::of(config)).map(Some).with_context(|| format!("cannot use the ledger {path}"))
    }

    /// A ledger that keeps what the default config keeps.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> anyhow::Result<Self> {
        Self::start(path, Keep::of(&Accounting::default()))
    }

    fn start(path: &Path, keep: Keep) -> anyhow::Result<Self> {
        let mut connection = Connection::open(path)?;
        schema::prepare(&mut connection)?;
        let counts = Arc::new(Counts::default());
        let (queue, entries) = sync_channel(QUEUE_ROWS);
        let mut writer = Writer::new(connection, keep, counts.clone());
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || writer.run(&entries))?;
        Ok(Self { path: path.to_owned(), queue: Some(queue), counts, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a finished request for writing, or drops and counts it. Never waits.
    pub fn keep(&self, record: Arc<RecordData>) {
        self.send(Entry::Request(record));
    }

    /// Takes a caller's report for writing. Never waits.
    pub fn feedback(&self, feedback: Feedback) {
        self.send(Entry::Feedback(feedback));
    }

    /// Keeps as much as another config says, from the next tidying on.
    pub fn keep_so_much(&self, config: &Accounting) {
        self.send(Entry::Keep(Keep::of(config)));
    }

    /// Asks `source` for the state once a minute and at the end, and keeps the last one under this name; a later source
    /// takes the place of an earlier one.
    pub fn keep_state(&self, name: &'static str, source: StateSource) {
        self.send(Entry::State { name, source });
    }

    /// What `keep_state` kept last.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load_state(&self, name: &str) -> anyhow::Result<Option<String>> {
        load_state(&self.path, name)
    }

    /// The route of an earlier request, for feedback that comes late.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn route_of(&self, request_id: &str) -> anyhow::Result<Option<Option<String>>> {
        let query = "SELECT route FROM requests WHERE request_id = ?1 ORDER BY id DESC LIMIT 1";
        Ok(self.reader()?.query_row(query, [request_id], |row| row.get(0)).optional()?)
    }

    /// USD that each key's requests cost which arrived at or after `since`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn spent(&self, since: SystemTime) -> anyhow::Result<HashMap<String, f64>> {
        let reader = self.reader()?;
        let mut query = reader.prepare(&format!(
            "SELECT key, sum(cost_usd) FROM requests WHERE {SINCE} AND arrived_ms >= ?1 AND key IS NOT NULL GROUP BY key"
        ))?;
        let rows = query.query_map([writer::ms(since)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Waits until everything taken so far is committed. It blocks: not for async code.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if let Some(queue) = &self.queue
            && queue.send(Entry::Flush(done)).is_ok()
        {
            self.wake();
            // An error means that the writer is gone: nothing left to wait for.
            let _ = wait.recv();
        }
    }

    #[must_use]
    pub fn sample(&self) -> LedgerSample {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &*self.counts;
        LedgerSample {
            rows: read(&counts.rows),
            dropped: read(&counts.dropped),
            errors: read(&counts.errors),
            queue: read(&counts.queue),
            bytes: read(&counts.bytes),
        }
    }

    /// The last requests that a rule chose a route for, oldest first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn decided(&self, most: u32) -> anyhow::Result<Vec<decided::Decided>> {
        self.flush();
        Ok(decided::decided(&self.reader()?, most)?)
    }

    fn reader(&self) -> rusqlite::Result<Connection> {
        read_only(&self.path)
    }

    fn send(&self, entry: Entry) {
        let Some(queue) = &self.queue else { return };
        let waiting = self.counts.queue.fetch_add(1, Ordering::Relaxed) + 1;
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(entry) {
            self.counts.queue.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if waiting.is_multiple_of(BATCH_ROWS as u64) {
            self.wake();
        }
    }

    /// Has the writer look at the queue before its wait is over.
    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.queue = None;
        self.wake();
        if let Some(thread) = self.thread.lock().take() {
            drop(thread.join());
        }
    }
}

/// What a ledger keeps under this name.
///
/// # Errors
/// If there is no ledger, or it cannot be read.
pub fn load_state(path: &Path, name: &str) -> anyhow::Result<Option<String>> {
    anyhow::ensure!(path.is_file(), "there is no ledger at {}", path.display());
    let found = read_only(path)?.query_row("SELECT text FROM state WHERE name = ?1", [name], |row| row.get(0));
    Ok(found.optional()?)
}

/// Puts a state into a ledger, which is made if need be. A gateway that runs on it will write its own over that.
///
/// # Errors
/// If the file cannot be written, or is no ledger.
pub fn save_state(path: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let mut connection = Connection::open(path)?;
    schema::prepare(&mut connection)?;
    Ok(writer::save_state(&connection, name, text)?)
}

/// Passes over rows that are too old for `arrived_ms >= ?1` without reading them: rows stand in the order in which requests
/// ended, none of which took a day.
const SINCE: &str = "id > coalesce((SELECT id FROM requests WHERE arrived_ms < ?1 - 86400000 ORDER BY id DESC LIMIT 1), 0)";

/// Opens a ledger beside its writer.
fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
