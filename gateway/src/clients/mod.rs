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
use crate::ledger::Ledger;
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
    requests: Option<Arc<Rate>>,
    tokens: Option<Arc<Rate>>,
    budget: Option<Budget>,
}

/// What a request was charged in advance; settled when it has ended.
#[derive(Debug)]
pub(crate) struct Charge {
    caller: Arc<Caller>,
    tokens: u64,
}

impl Clients {
    /// The callers of a config. What they used is taken over from those `before` it; what was spent today before the
    /// gateway started stands in the ledger.
    pub fn new(config: &Config, before: Option<&Self>, ledger: Option<&Ledger>) -> Self {
        let now = SystemTime::now();
        let has_budget = config.keys.values().any(|key| key.usd_per_day.is_some());
        let spent = ledger.filter(|_| has_budget).map(|ledger| ledger.spent(limits::midnight(now))).transpose();
        let spent = spent.unwrap_or_else(|error| {
            tracing::warn!("what was spent today cannot be read: {error:#}; budgets begin anew");
            None
        });
        let caller = |name: &str, key: &spectra_config::Key| {
            let earlier = before.and_then(|before| before.callers.values().find(|caller| &*caller.name == name));
            let spent = spent.as_ref().and_then(|spent| spent.get(name)).copied().unwrap_or_default();
            Arc::new(Caller::new(name, key, earlier.map(|caller| &**caller), (spent, now)))
        };
        let callers = config.keys.iter().filter_map(|(name, key)| Some((digest_of(key)?, caller(name, key)))).collect();
        Self { callers, flights: before.map_or_else(Arc::default, |before| before.flights.clone()) }
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
    /// `earlier`: the same caller under the config before. `spent`: USD of the day that the ledger knows of.
    fn new(name: &str, key: &spectra_config::Key, earlier: Option<&Self>, spent: (f64, SystemTime)) -> Self {
        // A rate that stays the same goes on as it is; another one begins with its whole allowance.
        let rate = |limit: Option<u64>, before: Option<&Arc<Rate>>| {
            let limit = limit?;
            let same = before.filter(|before| before.per_minute() == limit);
            Some(same.cloned().unwrap_or_else(|| Arc::new(Rate::new(limit))))
        };
        let budget = |usd_per_day| match earlier.and_then(|caller| caller.budget.as_ref()) {
            Some(before) => before.of(usd_per_day),
            None => Budget::new(usd_per_day, spent.0, spent.1),
        };
        Self {
            name: name.into(),
            requests: rate(key.requests_per_minute.map(u64::from), earlier.and_then(|caller| caller.requests.as_ref())),
            tokens: rate(key.tokens_per_minute, earlier.and_then(|caller| caller.tokens.as_ref())),
            budget: key.usd_per_day.map(budget),
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
