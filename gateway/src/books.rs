//! Where finished requests are written down: metrics, feed, ledger, traces, and the router that learns of them.

use std::sync::Arc;

use spectra_backends::{Fleet, Price};
use spectra_config::Config;
use spectra_router::Router;
use spectra_router::score::State;

use crate::feed::Feed;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::telemetry::Traces;

/// One per config; what is counted goes on from one to the next.
pub struct Books {
    pub router: Arc<Router>,
    pub metrics: Metrics,
    /// The last hour, for the page.
    pub feed: Arc<Feed>,
    /// `None` where the config names no file, or it cannot be used.
    pub ledger: Option<Arc<Ledger>>,
    /// `None` where the config names no collector.
    pub traces: Option<Traces>,
    /// USD per million tokens that local answers are compared with.
    pub compare_with: Price,
    pub keep_text: bool,
    /// `admin.watch`.
    pub watched: bool,
}

impl Books {
    /// # Errors
    /// As `Metrics::new`.
    pub fn open(config: &Config, router: Arc<Router>) -> anyhow::Result<Self> {
        let ledger = Ledger::open(&config.accounting).unwrap_or_else(|error| {
            tracing::error!("{error:#}; outcomes are not kept");
            None
        });
        if let Some(ledger) = &ledger {
            if !router.pinned() {
                recall(ledger, &router);
            }
            remember(ledger, &router);
        }
        Ok(Self {
            metrics: Metrics::new(config)?,
            feed: Arc::default(),
            ledger: ledger.map(Arc::new),
            traces: Traces::start(&config.tracing, None),
            compare_with: compared_price(config, router.fleet()),
            keep_text: config.accounting.keep_text,
            watched: config.admin.watch,
            router,
        })
    }

    /// The same books under the next config.
    #[must_use]
    pub fn next(&self, before: &Config, config: &Config, router: Arc<Router>) -> Self {
        if let Some(ledger) = &self.ledger {
            ledger.keep_so_much(&config.accounting);
            remember(ledger, &router);
        }
        let same_collector = before.tracing.otlp == config.tracing.otlp;
        Self {
            metrics: self.metrics.next(config),
            feed: self.feed.clone(),
            ledger: self.ledger.clone(),
            traces: if same_collector { self.traces.clone() } else { Traces::start(&config.tracing, self.traces.as_ref()) },
            compare_with: compared_price(config, router.fleet()),
            keep_text: config.accounting.keep_text,
            watched: config.admin.watch,
            router,
        }
    }
}

/// Under this name the ledger keeps what the router learned.
pub(crate) const ROUTER_STATE: &str = "router";

/// Takes up what was learned before.
fn recall(ledger: &Ledger, router: &Router) {
    let Some(text) = ledger.load_state(ROUTER_STATE).ok().flatten() else { return };
    let read = serde_json::from_str(&text).map_err(|error| error.to_string());
    if let Err(why) = read.and_then(|state: State| router.scorer().adopt(state).map_err(|error| error.to_string())) {
        tracing::warn!("what the ledger holds of the router's learning is not used: {why}");
    }
}

/// Has what will be learned kept. Only the scorer is held: a router would hold its backends beyond their config.
fn remember(ledger: &Ledger, router: &Router) {
    let scorer = router.scorer().clone();
    // What a file pins is no news, and must not take the place of what was learned before.
    let pinned = router.pinned();
    ledger.keep_state(ROUTER_STATE, Box::new(move || if pinned { None } else { serde_json::to_string(&scorer.export()).ok() }));
}

/// What local answers are compared with: the named backend's price, or the dearest.
fn compared_price(config: &Config, fleet: &Fleet) -> Price {
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

impl std::fmt::Debug for Books {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Books").finish_non_exhaustive()
    }
}
