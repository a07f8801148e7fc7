//! A thread behind the requests that writes them down: whoever answers a request hands its account over and goes on.
//!
//! Nothing is lost for it: where the queue is full the account is written on the spot, and whoever wants to read what was
//! written (a scrape, the page, feedback, a reload) has the clerk settle first, so that an answer that was sent is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

/// Accounts that wait; with more of them they are written where they come from.
const QUEUE: usize = 1024;
/// How long the clerk rests between two rounds. What it does right after an answer keeps a client's next request waiting where
/// both share a core.
const REST: Duration = Duration::from_millis(10);
/// It goes on looking for so many rounds without an account: waking it costs the thread that serves more than its looks cost.
const PATIENCE: u32 = 50;

/// Something to be written down.
pub(crate) trait Account: Send + 'static {
    fn write(self);
}

/// A handle to the thread; dropping it writes what waits and ends it.
#[derive(Debug)]
pub(crate) struct Clerk<A: Account> {
    /// `None` only while dropping.
    queue: Option<SyncSender<A>>,
    taken: AtomicU64,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Progress {
    /// How many of those taken were written; `None` once nobody writes any more.
    written: Mutex<Option<u64>>,
    changed: Condvar,
}

impl<A: Account> Clerk<A> {
    /// # Errors
    /// If the system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let (queue, accounts) = sync_channel(QUEUE);
        let progress = Arc::new(Progress { written: Mutex::new(Some(0)), changed: Condvar::new() });
        let writing = Writing(progress.clone());
        let runtime = Handle::try_current();
        let thread = std::thread::Builder::new().name("clerk".into()).spawn(move || {
            // What an account begins and does not wait for runs where the gateway's other work does.
            let _within = runtime.as_ref().map(Handle::enter);
            writing.run(&accounts);
        })?;
        Ok(Self { queue: Some(queue), taken: AtomicU64::new(0), progress, thread: Some(thread) })
    }

    /// Takes an account. Never waits.
    pub fn take(&self, account: A) {
        let Some(queue) = &self.queue else { return account.write() };
        match queue.try_send(account) {
            Ok(()) => {
                self.taken.fetch_add(1, Ordering::Release);
            }
            Err(TrySendError::Full(account) | TrySendError::Disconnected(account)) => account.write(),
        }
    }

    /// Waits until all that was taken so far is written, some milliseconds at most. It blocks: not for async code.
    pub fn settle(&self) {
        let taken = self.taken.load(Ordering::Acquire);
        let Some(thread) = self.thread.as_ref().map(JoinHandle::thread) else { return };
        self.progress.wait(taken, thread);
    }
}

impl Progress {
    fn wait(&self, taken: u64, clerk: &Thread) {
        let mut written = self.written.lock();
        while written.is_some_and(|written| written < taken) {
            clerk.unpark();
            self.changed.wait_for(&mut written, REST);
        }
    }
}

/// The thread's end. Dropping it, also by a panic, tells those who wait that nobody writes any more.
struct Writing(Arc<Progress>);

impl Writing {
    fn run<A: Account>(self, accounts: &Receiver<A>) {
        while let Ok(first) = accounts.recv() {
            let mut first = Some(first);
            let mut quiet = 0;
            while quiet < PATIENCE {
                std::thread::park_timeout(REST);
                let some = self.write(first.take().into_iter().chain(accounts.try_iter()));
                quiet = if some { 0 } else { quiet + 1 };
            }
        }
    }

    /// False where there was none.
    fn write<A: Account>(&self, accounts: impl Iterator<Item = A>) -> bool {
        let count = accounts.map(A::write).count() as u64;
        if count > 0 {
            if let Some(written) = &mut *self.0.written.lock() {
                *written += count;
            }
            self.0.changed.notify_all();
        }
        count > 0
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        *self.0.written.lock() = None;
        self.0.changed.notify_all();
    }
}

impl<A: Account> Drop for Clerk<A> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panicked: said where it did.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Writes its number, once it may.
    struct Numbered {
        number: usize,
        gate: Arc<Mutex<()>>,
        out: Sender<usize>,
    }

    impl Account for Numbered {
        fn write(self) {
            assert!(self.number != usize::MAX, "as the test wants it");
            // Only the clerk waits at the gate.
            let _open = (std::thread::current().name() == Some("clerk")).then(|| self.gate.lock());
            self.out.send(self.number).unwrap();
        }
    }

    #[test]
    fn each_is_written_once_also_those_for_which_there_is_no_room() {
        let (gate, (out, written)) = (Arc::new(Mutex::new(())), channel());
        let clerk = Clerk::start().unwrap();
        let take = |number| clerk.take(Numbered { number, gate: gate.clone(), out: out.clone() });
        let all = QUEUE + 10;
        let closed = gate.lock();
        (0..all).for_each(take);
        // The clerk holds one at the gate, at most; the rest of the overflow was written here.
        assert!((9..=10).contains(&written.try_iter().count()));
        drop(closed);
        clerk.settle();
        assert!((all - 10..=all - 9).contains(&written.try_iter().count()));
        take(1);
        drop(clerk);
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [1], "dropping writes what waits");
    }

    #[test]
    fn nobody_waits_for_a_clerk_that_is_gone() {
        let (gate, (out, written)) = (Arc::default(), channel());
        let clerk = Clerk::start().unwrap();
        let take = |number| clerk.take(Numbered { number, gate: Arc::clone(&gate), out: out.clone() });
        take(usize::MAX);
        clerk.settle();
        // Until the channel is closed too it may take one more; settling does not wait for it.
        while clerk.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
        take(7);
        clerk.settle();
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [7]);
    }
}
