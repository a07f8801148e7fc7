//! Who is calling, and how much they may.

pub(crate) mod flight;
mod limits;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest, Sha256};
use spectra_config::Config;
use tokio::time::Instant;

use crate::Refusal;
use flight::Flights;
use limits::{Budget, Rate, spelt};

/// All callers of the config by the SHA-256 of their key: the key itself is not kept.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    callers: HashMap<[u8; 32], Arc<Caller>>,
    pub flights: Arc<Flights>,
}

/// One caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub name: Arc<str>,
    requests: Option<Rate>,
    tokens: Option<Rate>,
    budget: Option<Budget>,
}

/// What a request was charged in advance; settled when it has ended.
#[derive(Debug)]
pub(crate) struct Charge {
    caller: Arc<Caller>,
    tokens: u64,
}

impl Clients {
    pub fn new(config: &Config) -> Self {
        let callers = config.keys.iter().filter_map(|(name, key)| Some((digest_of(key)?, Arc::new(Caller::new(name, key))))).collect();
        Self { callers, flights: Arc::default() }
    }

    /// The caller a request belongs to; `None` where no keys are configured.
    ///
    /// A key is looked up by its hash, so the time this takes says nothing about the keys there are.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<&Arc<Caller>>, Refusal> {
        if self.callers.is_empty() {
            return Ok(None);
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
        });
        // Anthropic's clients send the key here.
        let plain = || headers.get("x-api-key").and_then(|value| value.to_str().ok());
        let key = bearer.or_else(plain).filter(|key| !key.is_empty()).ok_or(Refusal::NoKey)?;
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        Ok(Some(self.callers.get(&digest).ok_or(Refusal::UnknownKey)?))
    }
}

impl Caller {
    fn new(name: &str, key: &spectra_config::Key) -> Self {
        Self {
            name: name.into(),
            requests: key.requests_per_minute.map(|limit| Rate::new(u64::from(limit))),
            tokens: key.tokens_per_minute.map(Rate::new),
            budget: key.usd_per_day.map(Budget::new),
        }
    }

    /// Takes one request and its estimated tokens out of the caller's rates, if its budget is not used up.
    pub fn charge(self: &Arc<Self>, tokens: u64) -> Result<Charge, Refusal> {
        let now = Instant::now();
        if let Some(budget) = &self.budget {
            budget.check(SystemTime::now()).map_err(|retry_after| Refusal::OverBudget { retry_after })?;
        }
        let over = |what: &'static str| move |retry_after| Refusal::OverRate { what, retry_after };
        if let Some(rate) = &self.requests {
            rate.take(1, now).map_err(over("requests"))?;
        }
        if let Some(rate) = &self.tokens {
            rate.take(tokens, now).map_err(over("tokens"))?;
        }
        Ok(Charge { caller: self.clone(), tokens })
    }

    /// `x-ratelimit-*` as OpenAI sends them, for the limits that the caller has.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let now = Instant::now();
        for (rate, names) in [(&self.requests, REQUESTS), (&self.tokens, TOKENS)] {
            let Some(rate) = rate else { continue };
            let level = rate.look(now);
            let [limit, remaining, reset] = names;
            headers.insert(HeaderName::from_static(limit), HeaderValue::from(level.limit));
            headers.insert(HeaderName::from_static(remaining), HeaderValue::from(level.remaining));
            if let Ok(value) = HeaderValue::try_from(spelt(level.reset)) {
                headers.insert(HeaderName::from_static(reset), value);
            }
        }
    }
}

const REQUESTS: [&str; 3] = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKENS: [&str; 3] = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

impl Charge {
    /// Replaces the estimate by what was used; an estimate stands where nobody counted.
    pub fn settle(self, used_tokens: Option<u64>, usd: f64) {
        if let (Some(rate), Some(used)) = (&self.caller.tokens, used_tokens) {
            rate.settle(self.tokens, used, Instant::now());
        }
        if let Some(budget) = &self.caller.budget {
            budget.spend(usd, SystemTime::now());
        }
    }
}

fn digest_of(key: &spectra_config::Key) -> Option<[u8; 32]> {
    if let Some(secret) = &key.secret {
        return Some(Sha256::digest(secret.expose().as_bytes()).into());
    }
    let hex = key.hash.as_deref()?.strip_prefix("sha256:")?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
