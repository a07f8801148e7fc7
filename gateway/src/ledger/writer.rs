//! The writer thread: batches into transactions, and deletes what is too old or too much.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{CachedStatement, Connection, Transaction, params};

use super::{BATCH_ROWS, BATCH_WAIT, Counts, Entry, Feedback, Keep, StateSource};
use crate::json;
use crate::record::RecordData;

/// How often old rows are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Share of the rows that is deleted when the file is over its size.
const TIDY_SHARE: i64 = 10;
/// Rows that are looked at together for their age.
const TIDY_ROWS: usize = 1000;
const DAY_MS: i64 = 86_400_000;

pub(super) struct Writer {
    connection: Connection,
    keep: Keep,
    counts: Arc<Counts>,
    tidied: Option<Instant>,
    states: Vec<(&'static str, StateSource)>,
}

impl Writer {
    pub(super) fn new(connection: Connection, keep: Keep, counts: Arc<Counts>) -> Self {
        Self { connection, keep, counts, tidied: None, states: Vec::new() }
    }

    /// Writes until every handle is gone.
    pub(super) fn run(&mut self, entries: &Receiver<Entry>) {
        let mut open = true;
        while open {
            let mut batch: Vec<Entry> = Vec::new();
            let mut waiting = Vec::new();
            match entries.recv_timeout(TIDY_EVERY) {
                Ok(first) => open = fill(&mut batch, first, entries),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            let mut rows = Vec::with_capacity(batch.len());
            for entry in batch {
                match entry {
                    Entry::Flush(done) => waiting.push(done),
                    Entry::State { name, source } => {
                        self.counts.queue.fetch_sub(1, Ordering::Relaxed);
                        self.states.retain(|(other, _)| *other != name);
                        self.states.push((name, source));
                    }
                    Entry::Keep(keep) => {
                        self.counts.queue.fetch_sub(1, Ordering::Relaxed);
                        self.keep = keep;
                    }
                    row => rows.push(row),
                }
            }
            self.commit(&rows);
            self.tidy(!open);
            for done in waiting {
                // The one who waited may have left.
                let _ = done.try_send(());
            }
        }
    }

    fn commit(&mut self, batch: &[Entry]) {
        if batch.is_empty() {
            return;
        }
        let rows = batch.iter().filter(|entry| matches!(entry, Entry::Request(_))).count() as u64;
        match self.write(batch) {
            Ok(()) => {
                self.counts.rows.fetch_add(rows, Ordering::Relaxed);
            }
            Err(error) => {
                self.counts.errors.fetch_add(1, Ordering::Relaxed);
                self.counts.dropped.fetch_add(rows, Ordering::Relaxed);
                tracing::warn!(%error, rows, "the ledger could not write a batch");
            }
        }
        self.counts.queue.fetch_sub(batch.len() as u64, Ordering::Relaxed);
    }

    fn write(&mut self, batch: &[Entry]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let mut requests = transaction.prepare_cached(REQUEST)?;
        for entry in batch {
            match entry {
                Entry::Request(record) => request(&mut requests, record)?,
                Entry::Feedback(said) => feedback(&transaction, said)?,
                Entry::State { .. } | Entry::Keep(_) | Entry::Flush(_) => {}
            }
        }
        drop(requests);
        transaction.commit()
    }

    /// Retention and states: at the first batch, then once a minute, and at the end.
    fn tidy(&mut self, last: bool) {
        if !last && self.tidied.is_some_and(|at| at.elapsed() < TIDY_EVERY) {
            return;
        }
        self.tidied = Some(Instant::now());
        if let Err(error) = self.save_states().and_then(|()| self.delete_old()) {
            self.counts.errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "the ledger could not be tidied");
        }
    }

    fn save_states(&self) -> rusqlite::Result<()> {
        for (name, source) in &self.states {
            let Some(text) = source() else { continue };
            save_state(&self.connection, name, &text)?;
        }
        Ok(())
    }

    fn delete_old(&self) -> rusqlite::Result<()> {
        let oldest = now_ms() - i64::from(self.keep.days) * DAY_MS;
        // The oldest rows are the first.
        let first = format!("DELETE FROM requests WHERE id IN (SELECT id FROM requests ORDER BY id LIMIT {TIDY_ROWS}) AND arrived_ms < ?1");
        while self.connection.execute(&first, [oldest])? == TIDY_ROWS {}
        self.connection.execute("DELETE FROM feedback WHERE at_ms < ?1", [oldest])?;
        let mut bytes = self.bytes()?;
        while bytes > self.keep.bytes {
            let deleted = self.connection.execute(
                "DELETE FROM requests WHERE id IN (SELECT id FROM requests ORDER BY id LIMIT (SELECT count(*) / ?1 + 1 FROM requests))",
                [TIDY_SHARE],
            )?;
            if deleted == 0 {
                break;
            }
            bytes = self.bytes()?;
        }
        self.connection.execute_batch("PRAGMA incremental_vacuum")?;
        self.counts.bytes.store(self.bytes()?, Ordering::Relaxed);
        Ok(())
    }

    /// Pages in use; free ones are given back or used again.
    fn bytes(&self) -> rusqlite::Result<u64> {
        let read = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let used = (read("page_count")? - read("freelist_count")?) * read("page_size")?;
        Ok(u64::try_from(used).unwrap_or_default())
    }
}

pub(super) fn save_state(connection: &Connection, name: &str, text: &str) -> rusqlite::Result<()> {
    let query = "INSERT OR REPLACE INTO state (name, saved_ms, text) VALUES (?1, ?2, ?3)";
    connection.execute(query, params![name, now_ms(), text]).map(drop)
}

/// Takes what comes within the wait; false when every handle is gone.
fn fill(batch: &mut Vec<Entry>, first: Entry, entries: &Receiver<Entry>) -> bool {
    let end = Instant::now() + BATCH_WAIT;
    let mut hurry = matches!(first, Entry::Flush(_));
    batch.push(first);
    loop {
        while batch.len() < BATCH_ROWS {
            match entries.try_recv() {
                Ok(entry) => {
                    hurry |= matches!(entry, Entry::Flush(_));
                    batch.push(entry);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        let wait = end.saturating_duration_since(Instant::now());
        if hurry || batch.len() >= BATCH_ROWS || wait.is_zero() {
            return true;
        }
        // Parked, not waiting at the queue: there every request would wake this thread. Those in a hurry unpark it.
        std::thread::park_timeout(wait);
    }
}

const REQUEST: &str = "INSERT INTO requests (request_id, arrived_ms, key, entrance, asked_model, streamed, outcome, status, \
                       error_code, route, model, score, predicted, reason, reasons, verified, prompt_tokens, completion_tokens, \
                       cost_usd, compared_usd, parse_us, plan_us, verify_us, first_byte_us, total_us, prompt, answer, trace, \
                       propensity, side, p_local, p_hosted, need, tried) \
                       VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

fn request(requests: &mut CachedStatement<'_>, record: &RecordData) -> rusqlite::Result<()> {
    let timings = &record.timings;
    let kept = record.kept.as_deref();
    requests.execute(params![
        &*record.request_id,
        ms(record.arrived),
        record.key.as_deref(),
        record.entrance.as_str(),
        &*record.asked_model,
        record.streamed,
        record.outcome.as_str(),
        record.status,
        record.error_code,
        record.route.as_deref(),
        record.model.as_deref(),
        record.score,
        record.decision.predicted,
        record.reason,
        reasons(record),
        record.verified.as_str(),
        record.usage.map(|usage| signed(usage.prompt_tokens)),
        record.usage.map(|usage| signed(usage.completion_tokens)),
        record.cost_usd,
        record.compared_usd,
        us(timings.parse),
        us(timings.plan),
        us(timings.verify),
        timings.first_byte.map(us),
        us(timings.total),
        kept.map(|kept| &kept.prompt),
        kept.map(|kept| &kept.answer),
        record.trace.as_ref().map(|context| format!("{:032x}", context.trace)),
        record.decision.propensity,
        record.side,
        record.decision.chances.map(|chances| chances[0]),
        record.decision.chances.map(|chances| chances[1]),
        record.decision.need,
        tried(record),
    ])?;
    Ok(())
}

/// The attempts, each as the values of the view `attempts` in its order.
fn tried(record: &RecordData) -> String {
    let mut text = String::with_capacity(160);
    text.push('[');
    for attempt in &record.attempts {
        text.push_str(if text.len() == 1 { "[\"" } else { ",[\"" });
        json::inner(&mut text, &attempt.model);
        let _ = write!(text, "\",{},\"{}\",\"{}\",", attempt.rung, attempt.why, attempt.verdict);
        match attempt.flaw {
            Some(flaw) => text.extend(["\"", flaw, "\""]),
            None => text.push_str("null"),
        }
        text.extend([",\"", &attempt.repairs.join(" "), "\""]);
        let count = |count: Option<u64>| count.map_or(-1, signed);
        let tokens = [count(attempt.usage.map(|usage| usage.prompt_tokens)), count(attempt.usage.map(|usage| usage.completion_tokens))];
        tokens.into_iter().for_each(|tokens| integer(&mut text, tokens));
        text.push(',');
        json::number(&mut text, attempt.cost_usd);
        let times = [attempt.first_chunk.map_or(-1, us), us(attempt.total), us(attempt.started)];
        times.into_iter().for_each(|time| integer(&mut text, time));
        text.push(']');
    }
    text.push(']');
    text
}

/// The next value; what is not known is negative here and null there.
fn integer(text: &mut String, value: i64) {
    let _ = if value < 0 { write!(text, ",null") } else { write!(text, ",{value}") };
}

fn feedback(transaction: &Transaction<'_>, said: &Feedback) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO feedback (request_id, at_ms, usable, reason) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![said.request_id, now_ms(), said.usable, said.reason])?;
    Ok(())
}

/// `{"words":0.2,"code":-0.1}`, in order of strength. The names are features', which no JSON has to escape.
fn reasons(record: &RecordData) -> String {
    let mut text = String::with_capacity(128);
    for (name, weight) in &record.decision.reasons {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.extend(["\"", name, "\":"]);
        json::number(&mut text, (f64::from(*weight) * 1e4).round() / 1e4);
    }
    text.push_str(if text.is_empty() { "{}" } else { "}" });
    text
}

pub(super) fn ms(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn now_ms() -> i64 {
    ms(SystemTime::now())
}

fn us(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
