//! Where finished requests are written down, by the clerk: metrics, log, feed, ledger and traces, and what the router learns.

use std::sync::Arc;

use spectra_backends::{Fleet, Price};
use spectra_config::Config;
use spectra_router::score::State;
use spectra_router::{Lessons, Router, Sides, Trail};
use tokio::time::Instant;

use crate::clerk::{Account, Clerk};
use crate::feed::Feed;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::record::{Outcome, RecordData};
use crate::telemetry::Traces;

/// One per config; what is counted goes on from one to the next.
pub struct Books {
    pub router: Arc<Router>,
    pub views: Arc<Views>,
    pub keep_text: bool,
    clerk: Arc<Clerk<Finished>>,
}

/// What is made of a finished request.
pub struct Views {
    pub metrics: Metrics,
    /// The last hour, for the page.
    pub feed: Arc<Feed>,
    /// `None` where the config names no file, or it cannot be used.
    pub ledger: Option<Arc<Ledger>>,
    /// `None` where the config names no collector.
    pub traces: Option<Traces>,
    pub lessons: Lessons,
    /// USD per million tokens that local answers are compared with.
    compare_with: Price,
    sides: Sides,
    /// `admin.watch`: metrics and feed.
    watched: bool,
}

/// A finished request on its way to its views.
struct Finished {
    record: RecordData,
    trail: Trail,
    began: Instant,
    views: Arc<Views>,
}

impl Account for Finished {
    fn write(self) {
        let Self { mut record, trail, began, views } = self;
        trail.read(|account| {
            record.take(account, began);
            if record.outcome != Outcome::Rejected {
                views.lessons.learn(account, record.outcome.into());
            }
        });
        record.side = record.route.as_deref().and_then(|route| views.sides.of(route));
        let paid = views.compare_with;
        record.compared_usd = record.usage.map_or(0.0, |usage| paid.cost_usd(usage.prompt_tokens, usage.completion_tokens));
        if views.watched {
            views.metrics.observe(&record);
        }
        record.log();
        if record.trace.is_some() {
            record.attempts.iter_mut().for_each(|attempt| attempt.provider = views.metrics.provider(&attempt.model));
        }
        // What may be kept for long is a copy: the memory goes back to the threads that answer requests while it is warm.
        let mut copy = None;
        let mut copied = || copy.get_or_insert_with(|| Arc::new(record.clone())).clone();
        if let Some(ledger) = &views.ledger {
            ledger.keep(copied());
        }
        if let Some(traces) = &views.traces {
            traces.keep(copied());
        }
        if views.watched && views.feed.count(&record) {
            views.feed.remember(copied(), trail);
        }
    }
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
        let views = Views {
            metrics: Metrics::new(config)?,
            feed: Arc::default(),
            ledger: ledger.map(Arc::new),
            traces: Traces::start(&config.tracing, None),
            lessons: router.lessons(),
            compare_with: compared_price(config, router.fleet()),
            sides: router.sides(),
            watched: config.admin.watch,
        };
        Ok(Self { views: Arc::new(views), keep_text: config.accounting.keep_text, clerk: Arc::new(Clerk::start()?), router })
    }

    /// The same books under the next config.
    #[must_use]
    pub fn next(&self, before: &Config, config: &Config, router: Arc<Router>) -> Self {
        let old = &self.views;
        if let Some(ledger) = &old.ledger {
            ledger.keep_so_much(&config.accounting);
            remember(ledger, &router);
        }
        let same_collector = before.tracing.otlp == config.tracing.otlp;
        let traces = old.traces.as_ref();
        let views = Views {
            metrics: old.metrics.next(config),
            feed: old.feed.clone(),
            ledger: old.ledger.clone(),
            traces: if same_collector { traces.cloned() } else { Traces::start(&config.tracing, traces) },
            lessons: router.lessons(),
            compare_with: compared_price(config, router.fleet()),
            sides: router.sides(),
            watched: config.admin.watch,
        };
        Self { views: Arc::new(views), keep_text: config.accounting.keep_text, clerk: self.clerk.clone(), router }
    }

    /// Has a finished request written down and learned from, soon and by another thread.
    pub fn take(&self, record: RecordData, trail: &Trail, began: Instant) {
        self.clerk.take(Finished { record, trail: trail.clone(), began, views: self.views.clone() });
    }

    /// Waits until everything that was taken so far can be read. It blocks: not for async code.
    pub fn settle(&self) {
        self.clerk.settle();
    }

    /// The views with everything in them that was taken so far.
    pub async fn settled(self: &Arc<Self>) -> Arc<Views> {
        let books = self.clone();
        // An error: the runtime ends, and nobody will read what was asked for.
        let _ = tokio::task::spawn_blocking(move || books.settle()).await;
        self.views.clone()
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

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Books {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Books").finish_non_exhaustive()
    }
}
