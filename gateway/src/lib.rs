//! The HTTP edge: parse, respond, record, serve. Read `Gateway` and `stack::answer` first, then `chat`.

mod admin;
mod body;
pub mod books;
mod chat;
mod clerk;
pub mod cli;
mod clients;
pub mod dashboard;
#[cfg(feature = "llama")]
pub mod engine;
mod entrances;
mod error;
pub mod feed;
mod feedback;
mod fleet;
mod forecast;
mod json;
pub mod kept;
pub mod ledger;
mod lines;
pub mod live;
pub mod logs;
pub mod metrics;
mod models;
mod places;
mod probes;
pub mod record;
mod request_line;
mod respond;
#[cfg(test)]
mod sample;
mod server;
mod stack;
pub mod tally;
pub mod telemetry;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use spectra_backends::Fleet;
use spectra_config::Config;
use spectra_router::Router;
use tokio_util::sync::CancellationToken;

pub use body::Body;
pub use error::{Failure, Refusal};
pub use live::Live;
pub use server::{Listeners, Server};

use books::Books;
use clients::Clients;
use fleet::{Earlier, Workers};
use models::Names;
use places::Places;

/// Everything a request needs, built once from a config; another config makes another (`live`).
#[derive(Debug)]
pub struct Gateway {
    pub config: Config,
    pub router: Arc<Router>,
    pub(crate) books: Arc<Books>,
    pub(crate) clients: Clients,
    pub(crate) names: Names,
    pub(crate) places: Places,
    pub(crate) drain: Drain,
    pub(crate) workers: Workers,
    /// Configured but not there, in words: models that have to be pulled first.
    pub missing: Vec<String>,
    /// Seconds since 1970 at which it was built: the `created` of its models.
    pub(crate) born: u64,
}

/// The two steps of a shutdown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    /// No new requests; readiness is false.
    pub begun: CancellationToken,
    /// What still runs is broken off with an error.
    pub over: CancellationToken,
}

impl Gateway {
    /// What the worker of a local backend is doing; `None` for any other backend.
    #[cfg(feature = "llama")]
    #[must_use]
    pub fn worker(&self, backend: &str) -> Option<spectra_backends::llama::State> {
        Some(self.workers.0.get(backend)?.state())
    }

    /// Builds from a config and starts its local models; `beside` is the config's folder, for relative paths in it.
    ///
    /// # Errors
    /// For the world's reasons: no model there to be asked, a file of weights that cannot be read.
    pub fn build(config: Config, beside: Option<&Path>) -> anyhow::Result<Self> {
        let (fleet, workers, missing) = fleet::start(&config, beside, None)?;
        Ok(Self { workers, missing, ..Self::with_fleet(config, fleet)? })
    }

    /// Builds on backends that exist already.
    ///
    /// # Errors
    /// If the router's weights cannot be read.
    pub fn with_fleet(config: Config, fleet: Fleet) -> anyhow::Result<Self> {
        let router = Arc::new(Router::probing(&config, fleet, &probes::of)?);
        let books = Books::open(&config, router)?;
        let gateway = Self {
            clients: Clients::new(&config, None, books.views.ledger.as_deref()),
            names: Names::new(books.router.models()),
            places: Places::new(config.limits.in_flight),
            drain: Drain::default(),
            workers: Workers::default(),
            missing: Vec::new(),
            born: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            router: books.router.clone(),
            books: Arc::new(books),
            config,
        };
        gateway.books.views.metrics.config_applied(&gateway.config_hash());
        Ok(gateway)
    }

    /// The gateway of another config. It takes over what outlives a config: counts, what was learned, callers' limits so
    /// far, and every backend whose section is the same, with its worker and its breaker.
    ///
    /// # Errors
    /// As `build`; this one then goes on unchanged.
    pub fn next(&self, mut config: Config, beside: Option<&Path>) -> anyhow::Result<Self> {
        // What a guard replays is read from the ledger.
        self.books.settle();
        let told = forecast::guard(&self.config, &config, self.books.views.ledger.as_deref())?;
        let earlier = Earlier { config: &self.config, fleet: self.router.fleet(), workers: &self.workers };
        let (fleet, workers, missing) = fleet::start(&config, beside, Some(earlier))?;
        let router = Arc::new(self.router.next(&config, fleet, &probes::of)?);
        config.notices.extend(at_next_start(&self.config, &config).into_iter().chain(told));
        let books = self.books.next(&self.config, &config, router);
        self.places.resize(config.limits.in_flight);
        Ok(Self {
            clients: Clients::new(&config, Some(&self.clients), books.views.ledger.as_deref()),
            names: Names::new(books.router.models()),
            places: self.places.clone(),
            drain: self.drain.clone(),
            workers,
            missing,
            born: self.born,
            router: books.router.clone(),
            books: Arc::new(books),
            config,
        })
    }

    /// What the router has learned from all requests that have ended. It blocks for some milliseconds: not for async code that serves.
    #[must_use]
    pub fn learned(&self) -> spectra_router::score::State {
        self.books.settle();
        self.router.scorer().export()
    }

    /// The start of the SHA-256 of the config's text.
    #[must_use]
    pub fn config_hash(&self) -> String {
        use std::fmt::Write as _;
        Sha256::digest(self.config.source.as_bytes()).iter().take(6).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// Keys that a reload cannot change, in words.
fn at_next_start(before: &Config, now: &Config) -> Vec<String> {
    let file = |config: &Config| config.accounting.ledger.clone();
    let changed = [
        ("server.listen", before.server.listen != now.server.listen),
        ("server.threads", before.server.threads != now.server.threads),
        ("admin.listen", before.admin.listen != now.admin.listen),
        ("accounting.ledger", file(before) != file(now)),
        ("tracing.json", before.tracing.json != now.tracing.json),
    ];
    changed
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| format!("{key} has changed: it takes effect at the next start"))
        .collect()
}
