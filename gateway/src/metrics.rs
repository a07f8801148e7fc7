//! The only place that knows Prometheus: every family is declared in `families`, every finished request passes `observe`.
//!
//! The registry belongs to the value, not to the process, so that tests run in parallel. Labels are names of the config
//! or of enums; anything else becomes `other`.

mod families;
mod gauges;
mod series;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use spectra_config::Config;

pub use families::{Family, Kind};
pub use gauges::{BreakerState, EngineSample, LedgerSample};

use crate::record::RecordData;
use families::Families;
use series::Series;

/// `Content-Type` of the text exposition.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters, histograms and gauges of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Handles by name, resolved once a config: the hot path allocates nothing and takes no lock of the registry.
    series: ArcSwap<Series>,
    started: SystemTime,
    /// `accounting.local_usd_per_hour`.
    usd_per_hour: ArcSwap<f64>,
    config_hash: Mutex<String>,
}

impl Metrics {
    /// Declares every family and seeds every series that the config's names allow with zero.
    ///
    /// # Errors
    /// Where two families have one name: a mistake in `families`, found by the first test that runs.
    pub fn new(config: &Config) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::declare(&registry)?;
        let series = ArcSwap::from_pointee(Series::seed(&families, config));
        let usd_per_hour = ArcSwap::from_pointee(config.accounting.local_usd_per_hour);
        Ok(Self { registry, families, series, started: SystemTime::now(), usd_per_hour, config_hash: Mutex::default() })
    }

    /// Takes over the names of a reloaded config; series of names that left stay as they are, as Prometheus expects.
    pub fn reload(&self, config: &Config) {
        self.series.store(Arc::new(Series::seed(&self.families, config)));
        self.usd_per_hour.store(Arc::new(config.accounting.local_usd_per_hour));
    }

    /// Counts one finished request. To be called exactly once per request.
    pub fn observe(&self, record: &RecordData) {
        let series = self.series.load();
        series.request(&self.families, record);
        for (index, attempt) in record.attempts.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| record.attempts.get(before));
            series.attempt(&self.families, record, attempt, before);
        }
    }

    /// Counts what a caller reported of an answer it got earlier; `route` is the one that the request took.
    pub fn feedback(&self, route: Option<&str>, usable: bool) {
        let route = self.series.load().route_name(route).to_owned();
        self.families.requests.feedback.with_label_values(&[route.as_str(), if usable { "true" } else { "false" }]).inc();
    }

    /// Every family, in the order of declaration: for the docs and for the check of dashboards and rules.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families.rows
    }

    /// The families as a Markdown page.
    #[must_use]
    pub fn documentation(&self) -> String {
        let head = "# Metrics\n\nWritten from the registry; a test compares. Scrape `/metrics` on the admin listener. Names follow OpenTelemetry's GenAI\nconventions where they have one, and begin with `spectra_` where not. Labels are names of the config or of enums, never\na caller's text. Every series that the config allows is there at 0 from the start.\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n";
        self.families().iter().fold(head.to_owned(), |page, family| {
            let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            let kind = format!("{:?}", family.kind).to_lowercase();
            page + &format!("| `{}` | {kind} | {labels} | {} |\n", family.name, family.help)
        })
    }

    /// The text exposition of everything.
    ///
    /// # Errors
    /// Never for metrics declared here; the encoder's type keeps callers from having to prove it.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.refresh_process();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests;
