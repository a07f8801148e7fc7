//! What became of earlier requests of the same template: decayed Beta counts, bounded in number, sharded for concurrent use.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::fingerprint::Keys;

const SHARDS: usize = 16;
/// Templates kept in all. At 40 bytes each the table stays below a few megabytes.
const CAPACITY: usize = 32_768;
/// Each new outcome lets the older ones of its template fade: about the last 200 count.
const DECAY: f32 = 0.995;

/// Outcomes of both routes, counted with decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub local_ok: f32,
    pub local: f32,
    pub hosted_ok: f32,
    pub hosted: f32,
}

#[derive(Debug)]
pub(super) struct Templates {
    shards: Vec<Mutex<HashMap<u64, Counts>>>,
}

impl Templates {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect() }
    }

    pub fn get(&self, key: u64) -> Counts {
        self.shard(key).lock().get(&key).copied().unwrap_or_default()
    }

    /// Chance of a usable answer, the model's own estimate shrunk towards what was seen: from the coarsest key to the finest.
    pub fn adjust(&self, keys: &Keys, local: f32, hosted: f32) -> (f32, f32, f32) {
        let (mut local, mut hosted, mut seen) = (local, hosted, 0.0);
        for (key, strength) in keys.levels() {
            let counts = self.get(key);
            local = (counts.local_ok + strength * local) / (counts.local + strength);
            hosted = (counts.hosted_ok + strength * hosted) / (counts.hosted + strength);
            seen = counts.local + counts.hosted;
        }
        (local, hosted, seen)
    }

    pub fn learn(&self, keys: &Keys, on_local: bool, usable: bool) {
        for (key, _) in keys.levels() {
            let mut shard = self.shard(key).lock();
            if shard.len() >= CAPACITY / SHARDS && !shard.contains_key(&key) {
                evict(&mut shard);
            }
            shard.entry(key).or_default().add(on_local, usable);
        }
    }

    pub fn export(&self) -> Vec<(u64, Counts)> {
        let mut all: Vec<_> =
            self.shards.iter().flat_map(|shard| shard.lock().iter().map(|(key, counts)| (*key, *counts)).collect::<Vec<_>>()).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    pub fn import(&self, rows: &[(u64, Counts)]) {
        for shard in &self.shards {
            shard.lock().clear();
        }
        for (key, counts) in rows.iter().take(CAPACITY).filter(|(_, counts)| counts.sound()) {
            self.shard(*key).lock().insert(*key, *counts);
        }
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Counts>> {
        &self.shards[(key >> 60) as usize % SHARDS]
    }
}

impl Counts {
    pub fn add(&mut self, on_local: bool, usable: bool) {
        let (ok, all) = if on_local { (&mut self.local_ok, &mut self.local) } else { (&mut self.hosted_ok, &mut self.hosted) };
        *all = *all * DECAY + 1.0;
        *ok = *ok * DECAY + if usable { 1.0 } else { 0.0 };
    }

    /// False for a row that a mangled state file brought in.
    fn sound(&self) -> bool {
        [self.local_ok, self.local, self.hosted_ok, self.hosted].iter().all(|value| value.is_finite() && *value >= 0.0)
            && self.local_ok <= self.local
            && self.hosted_ok <= self.hosted
    }
}

impl Keys {
    /// From the coarsest to the finest, each with the number of outcomes that its parent's estimate is worth.
    fn levels(&self) -> impl Iterator<Item = (u64, f32)> {
        let frame = (self.frame != 0).then_some((self.frame, 8.0));
        frame.into_iter().chain([(self.opening, 8.0), (self.template, 4.0)])
    }
}

/// Drops the least-seen of a few entries: constant work, and a template in use survives.
fn evict(shard: &mut HashMap<u64, Counts>) {
    let victim = shard.iter().take(16).min_by(|a, b| (a.1.local + a.1.hosted).total_cmp(&(b.1.local + b.1.hosted))).map(|(key, _)| *key);
    if let Some(victim) = victim {
        shard.remove(&victim);
    }
}
