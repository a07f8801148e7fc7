//! Who is calling, and how much they may.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use spectra_config::Config;

use crate::{Failure, Refusal};

/// All callers of the config by the SHA-256 of their key: the key itself is not kept.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    callers: HashMap<[u8; 32], Arc<Caller>>,
}

/// One caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub name: Arc<str>,
}

impl Clients {
    pub fn new(config: &Config) -> Self {
        let callers =
            config.keys.iter().filter_map(|(name, key)| Some((digest_of(key)?, Arc::new(Caller { name: name.as_str().into() })))).collect();
        Self { callers }
    }

    /// The caller a request belongs to; `None` where no keys are configured.
    ///
    /// A key is looked up by its hash, so the time this takes says nothing about the keys there are.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<&Arc<Caller>>, Failure> {
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
