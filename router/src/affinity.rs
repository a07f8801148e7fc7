//! A conversation that was escalated stays escalated for a while, so that it does not flap between models.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use spectra_backends::ChatRequest;
use spectra_backends::chat::Role;
use tokio::time::Instant;

/// Conversations remembered at most; the oldest leave first.
const MOST: usize = 4096;

#[derive(Debug)]
pub(crate) struct Affinity {
    ttl: Duration,
    until: Arc<Mutex<HashMap<u64, Instant>>>,
}

impl Affinity {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, until: Arc::default() }
    }

    /// The same conversations, remembered for another time from now on.
    pub fn lasting(&self, ttl: Duration) -> Self {
        Self { ttl, until: self.until.clone() }
    }

    /// True if this conversation was escalated within the time to live.
    pub fn sticks(&self, request: &ChatRequest, session: Option<&str>) -> bool {
        let continues = request.view().messages.iter().any(|message| message.role == Role::Assistant);
        if session.is_none() && !continues {
            return false;
        }
        self.until.lock().get(&key(request, session)).is_some_and(|until| *until > Instant::now())
    }

    pub fn remember(&self, request: &ChatRequest, session: Option<&str>) {
        if self.ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut until = self.until.lock();
        if until.len() >= MOST {
            until.retain(|_, until| *until > now);
            if until.len() >= MOST
                && let Some(oldest) = until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key)
            {
                until.remove(&oldest);
            }
        }
        until.insert(key(request, session), now + self.ttl);
    }
}

/// The session's name, else a hash of how the conversation began: everything up to the first answer.
/// A repeated first turn gives the same hash, but is not looked up: what becomes of its template is the scorer's to learn.
fn key(request: &ChatRequest, session: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(session) = session {
        session.hash(&mut hasher);
        return hasher.finish();
    }
    let messages = &request.view().messages;
    let beginning = messages.iter().position(|message| message.role == Role::Assistant).unwrap_or(messages.len());
    for message in &messages[..beginning] {
        message.role.as_str().hash(&mut hasher);
        message.text.hash(&mut hasher);
    }
    hasher.finish()
}
