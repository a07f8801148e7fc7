//! `[server]`, `[admin]`, `[limits]`, `[keys.NAME]`, `[accounting]`, `[tracing]`: the edge.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Fault;
use crate::secret::{Environment, Secret, Text};

/// The listener that clients use.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Port 0 takes a free one; the start-up line says which.
    pub listen: SocketAddr,
    /// Longest wait for running requests at shutdown.
    pub drain_ms: u64,
    /// Send `: ping` comments while a stream is held. It spends the HTTP status: off by default.
    pub ping_ms: Option<u64>,
    /// Threads that serve; unset: one for each core this process may use. One of them needs no locks between threads.
    pub threads: Option<usize>,
}

impl Default for Server {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), drain_ms: 30_000, ping_ms: None, threads: None }
    }
}

impl Server {
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match self.ping_ms {
            Some(0) => Err(Fault::new(None, "server.ping_ms is 0", "write milliseconds such as 15000, or leave it out")),
            _ if self.threads == Some(0) => Err(Fault::new(None, "server.threads is 0", "write 1 or more, or leave it out for one a core")),
            _ => Ok(()),
        }
    }
}

/// The listener for health, metrics and the page.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    pub listen: SocketAddr,
    /// Asked as `Authorization: Bearer` for everything but `/healthz` and `/readyz`. Unset: open, so keep it on loopback.
    pub token: Option<Secret>,
    /// False: requests are neither counted nor remembered; `/metrics` and the page stay empty.
    pub watch: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)), token: None, watch: true }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub body_bytes: usize,
    pub header_bytes: usize,
    /// Requests being answered at once; more get 429 with Retry-After.
    pub in_flight: usize,
    /// Longest wait for a client's headers, and for each next part of its body.
    pub client_read_ms: u64,
    /// A client that takes nothing of its stream for so long is dropped.
    pub client_write_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: 32 << 20, header_bytes: 64 << 10, in_flight: 1024, client_read_ms: 30_000, client_write_ms: 60_000 }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.body_bytes < 1024
            || self.header_bytes < 8192
            || self.in_flight == 0
            || self.client_read_ms == 0
            || self.client_write_ms == 0
        {
            return Err(Fault::new(
                None,
                "limits: body_bytes at least 1024, header_bytes at least 8192, the others at least 1",
                "leave them out for the defaults",
            ));
        }
        Ok(())
    }
}

/// A caller.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// `sha256:` and the hex digest of the key; `spectra key` makes one.
    pub hash: Option<String>,
    /// The key itself, from the environment or a file.
    pub secret: Option<Secret>,
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u64>,
    /// Spent per day (UTC); over it 429 `insufficient_quota`.
    pub usd_per_day: Option<f64>,
}

impl Key {
    pub(crate) fn check(&mut self, name: &str, env: Environment<'_>) -> Result<(), Fault> {
        match (&self.hash, &mut self.secret) {
            (Some(hash), None) => {
                let hex = hash.strip_prefix("sha256:").unwrap_or_default();
                if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(Fault::new(
                        None,
                        format!("keys.{name}.hash is not `sha256:` and 64 hex digits"),
                        "make one with `spectra key`",
                    ));
                }
                Ok(())
            }
            (None, Some(secret)) => secret.resolve(&format!("keys.{name}.secret"), env),
            _ => Err(Fault::new(None, format!("keys.{name} needs either hash or secret"), "make a hash with `spectra key`")),
        }
    }
}

/// What is written down of each request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Accounting {
    /// SQLite file of outcomes; unset: none is kept, and nothing learned survives a restart.
    pub ledger: Option<Text>,
    /// Rows older than so many days are deleted.
    pub keep_days: u32,
    /// The oldest rows are deleted over this size.
    pub keep_mib: u32,
    /// Keep prompt and answer text in the ledger and show it on the page.
    pub keep_text: bool,
    /// What an hour of the local machine costs, in USD, so that savings are honest.
    pub local_usd_per_hour: f64,
    /// Backend whose price local answers are compared with; unset: the dearest.
    pub compare_with: Option<String>,
}

impl Default for Accounting {
    fn default() -> Self {
        Self { ledger: None, keep_days: 30, keep_mib: 512, keep_text: false, local_usd_per_hour: 0.0, compare_with: None }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,spectra_router=debug`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// OTLP/HTTP collector, such as `http://127.0.0.1:4318`; unset: no traces are sent.
    pub otlp: Option<Text>,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { level: "info".into(), json: false, otlp: None }
    }
}
