//! The HTTP edge: parse, respond, record, serve. Read `Gateway` and `stack::answer` first, then `chat`.

mod admin;
mod body;
mod chat;
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
pub mod ledger;
pub mod metrics;
mod models;
pub mod record;
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

use spectra_backends::Fleet;
use spectra_config::Config;
use spectra_router::Router;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use body::Body;
pub use error::{Failure, Refusal};
pub use server::{Listeners, Server};

use clients::Clients;
use feed::Feed;
use fleet::Workers;
use ledger::Ledger;
use metrics::Metrics;
use models::Names;
use record::Books;
use telemetry::Traces;

/// Everything a request needs, built once from a config.
#[derive(Debug)]
pub struct Gateway {
    pub config: Config,
    pub router: Arc<Router>,
    pub(crate) books: Arc<Books>,
    pub(crate) clients: Clients,
    pub(crate) names: Names,
    /// A place for each request being answered.
    pub(crate) places: Arc<Semaphore>,
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
        let (fleet, workers, missing) = fleet::start(&config, beside)?;
        Ok(Self { workers, missing, ..Self::with_fleet(config, fleet)? })
    }

    /// Builds on backends that exist already.
    ///
    /// # Errors
    /// If the router's weights cannot be read.
    pub fn with_fleet(config: Config, fleet: Fleet) -> anyhow::Result<Self> {
        let router = Arc::new(Router::new(&config, fleet)?);
        let metrics = Metrics::new(&config)?;
        let books = Books {
            metrics,
            feed: Feed::new(&config),
            ledger: ledger(&config, &router),
            traces: config
                .tracing
                .otlp
                .as_ref()
                .map(|collector| collector.get().trim())
                .filter(|it| !it.is_empty())
                .and_then(Traces::start),
            compare_with: compared_price(&config, router.fleet()),
            router: router.clone(),
        };
        Ok(Self {
            books: Arc::new(books),
            clients: Clients::new(&config),
            names: Names::new(router.models()),
            places: Arc::new(Semaphore::new(config.limits.in_flight.min(Semaphore::MAX_PERMITS))),
            drain: Drain::default(),
            workers: Workers::default(),
            missing: Vec::new(),
            born: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            router,
            config,
        })
    }
}

/// Under this name the ledger keeps what the router learned.
const ROUTER_STATE: &str = "router";

/// The ledger, with what was learned before taken up and what will be learned to be kept. Without a usable file the
/// gateway serves all the same, and says so.
fn ledger(config: &Config, router: &Arc<Router>) -> Option<Ledger> {
    let ledger = match Ledger::open(&config.accounting) {
        Ok(ledger) => ledger?,
        Err(error) => {
            tracing::error!("{error:#}; outcomes are not kept");
            return None;
        }
    };
    let state = ledger.load_state(ROUTER_STATE).ok().flatten().and_then(|text| serde_json::from_str(&text).ok());
    if state.is_some_and(|state| !router.scorer().import(state)) {
        tracing::warn!("what the ledger holds of the router's learning is another version's, and not used");
    }
    let learned = router.clone();
    ledger.keep_state(ROUTER_STATE, Box::new(move || serde_json::to_string(&learned.scorer().export()).ok()));
    Some(ledger)
}

/// What local answers are compared with: the named backend's price, or the dearest.
fn compared_price(config: &Config, fleet: &Fleet) -> spectra_backends::Price {
    let named = config.accounting.compare_with.as_deref().and_then(|name| fleet.facts(name)).map(|facts| facts.price);
    let dearest = || {
        fleet
            .names()
            .filter_map(|name| fleet.facts(name))
            .map(|facts| facts.price)
            .max_by(|one, other| (one.input + one.output).total_cmp(&(other.input + other.output)))
    };
    named.or_else(dearest).unwrap_or_default()
}
