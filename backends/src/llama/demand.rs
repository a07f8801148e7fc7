//! Who wants the model now: the first one wakes it, and nobody for a while lets it go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Requests that are there now, and when the last one left.
#[derive(Debug)]
pub(super) struct Demand {
    users: AtomicUsize,
    left: Mutex<Instant>,
    came: Notify,
}

/// One request; it ends when dropped.
#[derive(Debug)]
pub(super) struct Use(Arc<Demand>);

impl Demand {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { users: AtomicUsize::new(0), left: Mutex::new(Instant::now()), came: Notify::new() })
    }

    pub(super) fn enter(self: &Arc<Self>) -> Use {
        self.users.fetch_add(1, SeqCst);
        self.came.notify_one();
        Use(Arc::clone(self))
    }

    /// For how long nobody has been there; zero while somebody is.
    pub(super) fn idle(&self) -> Duration {
        if self.users.load(SeqCst) > 0 { Duration::ZERO } else { self.left.lock().elapsed() }
    }

    /// Returns when somebody is there.
    pub(super) async fn wanted(&self) {
        while self.users.load(SeqCst) == 0 {
            self.came.notified().await;
        }
    }

    /// A load of the model counts as use: what was loaded is kept for a while, also when its caller has left.
    pub(super) fn touch(&self) {
        *self.left.lock() = Instant::now();
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.touch();
        self.0.users.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_idle_while_somebody_is_there() {
        let demand = Demand::new();
        let (one, other) = (demand.enter(), demand.enter());
        demand.wanted().await;
        drop(one);
        assert_eq!(demand.idle(), Duration::ZERO);
        let before = Instant::now();
        drop(other);
        assert!(demand.idle() <= before.elapsed());
        let wakes = Arc::clone(&demand);
        let waiting = tokio::spawn(async move { wakes.wanted().await });
        tokio::task::yield_now().await;
        let _third = demand.enter();
        waiting.await.unwrap();
    }
}
