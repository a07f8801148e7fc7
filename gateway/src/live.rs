//! The gateway in force, and how another config takes its place: whole or not at all, for requests that come after.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use spectra_config::Config;

use crate::Gateway;
use crate::logs::Level;

/// Reads the config again.
pub type Read = Box<dyn Fn() -> anyhow::Result<Config> + Send + Sync>;

/// One per process. A request takes the gateway of its moment and keeps it to its end.
pub struct Live {
    current: ArcSwap<Gateway>,
    read: Read,
    /// Folder of the config, for relative paths in it.
    beside: Option<PathBuf>,
    level: Level,
    /// Reloads come one after the other.
    reloading: Mutex<()>,
}

impl Live {
    /// A gateway whose config is read again by `read`.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, read: Read) -> Self {
        Self { current: ArcSwap::new(gateway), read, beside: None, level: Level::default(), reloading: Mutex::default() }
    }

    /// A gateway that stays as it is.
    #[must_use]
    pub fn fixed(gateway: Arc<Gateway>) -> Arc<Self> {
        Arc::new(Self::new(gateway, Box::new(|| anyhow::bail!("this gateway has no config file to read again"))))
    }

    #[must_use]
    pub fn beside(self, folder: Option<PathBuf>) -> Self {
        Self { beside: folder, ..self }
    }

    /// With a log whose level follows the config.
    #[must_use]
    pub fn logging(self, level: Level) -> Self {
        Self { level, ..self }
    }

    #[must_use]
    pub fn current(&self) -> Arc<Gateway> {
        self.current.load_full()
    }

    /// Reads the config again and takes it into force. It blocks: files are read, workers started.
    ///
    /// # Errors
    /// A config that cannot be used, as a readable text; the one in force stays.
    pub fn reload(&self) -> anyhow::Result<Arc<Gateway>> {
        let _one_at_a_time = self.reloading.lock();
        let before = self.current();
        match self.next(&before) {
            Ok(next) => {
                let next = Arc::new(next);
                self.current.store(next.clone());
                self.level.set(&next.config.tracing);
                let hash = next.config_hash();
                before.books.views.metrics.config_applied(&hash);
                tracing::info!(config_hash = hash, "the config was read again and is in force");
                for notice in next.config.notices.iter().chain(&next.missing) {
                    tracing::warn!("{notice}");
                }
                Ok(next)
            }
            Err(error) => {
                before.books.views.metrics.config_rejected();
                tracing::error!("the config was rejected, the one in force stays: {error:#}");
                Err(error)
            }
        }
    }

    fn next(&self, before: &Gateway) -> anyhow::Result<Gateway> {
        let config = (self.read)()?;
        // A level that is none must not be found out when all else is done.
        crate::logs::filter(&config.tracing)?;
        before.next(config, self.beside.as_deref())
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("current", &self.current).finish_non_exhaustive()
    }
}
