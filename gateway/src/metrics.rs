//! The only place that knows Prometheus: every family is declared in `families`, every finished request passes `observe`.
//!
//! The registry belongs to the value, not to the process, so that tests run in parallel. Labels are names of the config
//! or of enums; anything else becomes `other`.

mod families;
mod gauges;
mod series;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use spectra_config::Config;

pub use families::{Family, Kind};
#[cfg(feature = "llama")]
pub(crate) use gauges::resident_bytes;
pub use gauges::{BreakerState, EngineSample, LedgerSample};

use crate::record::RecordData;
use families::Families;
use series::Series;

/// `Content-Type` of the text exposition.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters, histograms and gauges of one gateway, by the names of one config.
#[derive(Debug)]
pub struct Metrics {
    all: Arc<All>,
    /// Handles by name, resolved once a config: the hot path allocates nothing and takes no lock of the registry.
    series: Series,
}

/// What counts over all configs.
#[derive(Debug)]
struct All {
    registry: Registry,
    families: Families,
    started: SystemTime,
    machine: Mutex<Machine>,
    /// What each local worker said last of itself.
    engines: Mutex<HashMap<String, EngineSample>>,
    config_hash: Mutex<String>,
}

/// What running this machine costs.
#[derive(Debug)]
struct Machine {
    /// `accounting.local_usd_per_hour`.
    usd_per_hour: f64,
    /// Until when it was counted.
    counted: Instant,
}

impl Metrics {
    /// Declares every family and seeds every series that the config's names allow with zero.
    ///
    /// # Errors
    /// Where two families have one name: a mistake in `families`, found by the first test that runs.
    pub fn new(config: &Config) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Families::declare(&registry)?;
        let series = Series::seed(&families, config);
        let machine = Machine { usd_per_hour: config.accounting.local_usd_per_hour, counted: Instant::now() };
        let all = All {
            registry,
            families,
            started: SystemTime::now(),
            machine: Mutex::new(machine),
            engines: Mutex::default(),
            config_hash: Mutex::default(),
        };
        Ok(Self { all: Arc::new(all), series })
    }

    /// The same counts by the names of another config. Counters of names that left stay, their levels go; requests
    /// that began under the old config are counted under its names.
    #[must_use]
    pub fn next(&self, config: &Config) -> Self {
        self.count_machine();
        self.all.machine.lock().usd_per_hour = config.accounting.local_usd_per_hour;
        for gone in self.series.models().filter(|name| !config.backends.contains_key(*name)) {
            self.forget(gone);
        }
        Self { all: self.all.clone(), series: Series::seed(&self.all.families, config) }
    }

    /// Counts one finished request. To be called exactly once per request.
    pub fn observe(&self, record: &RecordData) {
        let families = &self.all.families;
        self.series.request(families, record);
        for (index, attempt) in record.attempts.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| record.attempts.get(before));
            self.series.attempt(families, record, attempt, before);
        }
        for (check, said) in &record.checks {
            families.attempts.checks.with_label_values(&[&**check, *said]).inc();
        }
    }

    /// OpenTelemetry's name for who serves a backend.
    #[must_use]
    pub fn provider(&self, model: &str) -> &'static str {
        self.series.provider(model)
    }

    /// Counts what a caller reported of an answer it got earlier; `route` is the one that the request took.
    pub fn feedback(&self, route: Option<&str>, usable: bool) {
        let labels = [self.series.route_name(route), if usable { "true" } else { "false" }];
        self.all.families.requests.feedback.with_label_values(&labels).inc();
    }

    /// Every family, in the order of declaration: for the docs and for the check of dashboards and rules.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.all.families.rows
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
        TextEncoder::new().encode_to_string(&self.all.registry.gather())
    }
}

#[cfg(test)]
mod tests;
