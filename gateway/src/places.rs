//! A place for each request being answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Cheap to clone; every clone means the same places.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    all: Arc<AtomicUsize>,
}

impl Places {
    pub fn new(all: usize) -> Self {
        let all = all.min(MOST);
        Self { free: Arc::new(Semaphore::new(all)), all: Arc::new(AtomicUsize::new(all)) }
    }

    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    pub fn taken(&self) -> usize {
        self.all.load(Relaxed).saturating_sub(self.free.available_permits())
    }

    /// More places at once, or fewer as those taken come free.
    pub fn resize(&self, all: usize) {
        let all = all.min(MOST);
        let before = self.all.swap(all, Relaxed);
        self.free.add_permits(all.saturating_sub(before));
        let surplus = before.saturating_sub(all);
        let taken = surplus - self.free.forget_permits(surplus);
        if let (1.., Ok(taken)) = (taken, u32::try_from(taken)) {
            let free = self.free.clone();
            // A waiter comes first: no new request gets in until the surplus has left.
            tokio::spawn(async move {
                if let Ok(permits) = free.acquire_many(taken).await {
                    permits.forget();
                }
            });
        }
    }
}

/// So many fit one `acquire_many`.
const MOST: usize = u32::MAX as usize >> 3;
