//! What became of earlier requests of the same template: counts with decay, bounded in number, sharded for concurrent use.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::fingerprint::Keys;

const SHARDS: usize = 16;
/// Templates kept in all. At 40 bytes each the table stays below a few megabytes.
pub(super) const CAPACITY: usize = 32_768;
/// Each new outcome lets the older ones of its template fade: about the last 200 count.
const DECAY: f32 = 0.995;
/// How many outcomes an estimate is worth when the statistics of one key are added to it.
const STRENGTH: f32 = 12.0;

/// Outcomes of both routes, counted with decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub local: Tally,
    pub hosted: Tally,
}

/// Outcomes of one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub seen: f32,
    pub usable: f32,
    /// Sum of (outcome - the chance that the model gave it): what the model does not know about this template.
    pub surprise: f32,
}

#[derive(Debug)]
pub(super) struct Templates {
    shards: Vec<Mutex<Shard>>,
}

/// Keys are hashes already. Without a random seed the same lessons leave the same templates when the table is full.
type Shard = HashMap<u64, Counts, BuildHasherDefault<AsIs>>;

#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

impl Templates {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    pub fn get(&self, key: u64) -> Counts {
        self.shard(key).lock().get(&key).copied().unwrap_or_default()
    }

    /// The model's chances (local, hosted) moved by what was seen of the template, from the coarsest key to the finest; and the
    /// finest key's own counts.
    pub fn adjust(&self, keys: &Keys, chances: [f32; 2]) -> ([f32; 2], Counts) {
        let ([mut local, mut hosted], mut last) = (chances, Counts::default());
        for key in keys.all().into_iter().filter(|key| *key != 0) {
            last = self.get(key);
            local += last.local.shift();
            hosted += last.hosted.shift();
        }
        ([local, hosted], last)
    }

    /// What is expected of a request on one route if its own outcome is left out of what was seen. `chance` is the model's.
    pub fn without(&self, keys: &Keys, chance: f32, on_local: bool, usable: bool) -> f32 {
        let mut expected = chance;
        for key in keys.all().into_iter().filter(|key| *key != 0) {
            let counts = self.get(key);
            expected += if on_local { counts.local } else { counts.hosted }.shift_without(usable, expected);
        }
        expected
    }

    /// Takes an outcome in. `chances` are the model's (local, hosted), before any adjustment; each level learns what the coarser ones
    /// leave over.
    pub fn learn(&self, keys: &Keys, mut chances: [f32; 2], on_local: bool, usable: bool) {
        for key in keys.all().into_iter().filter(|key| *key != 0) {
            let mut shard = self.shard(key).lock();
            if shard.len() >= CAPACITY / SHARDS && !shard.contains_key(&key) {
                evict(&mut shard);
            }
            let Counts { local, hosted } = shard.entry(key).or_default();
            let before = [local.shift(), hosted.shift()];
            if on_local {
                local.add(usable, chances[0])
            } else {
                hosted.add(usable, chances[1])
            }
            chances = [chances[0] + before[0], chances[1] + before[1]];
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
        for (key, counts) in rows.iter().take(CAPACITY).filter(|(_, counts)| counts.local.sound() && counts.hosted.sound()) {
            self.shard(*key).lock().insert(*key, *counts);
        }
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        &self.shards[(key >> 60) as usize % SHARDS]
    }
}

impl Counts {
    pub(super) fn total(&self) -> f32 {
        self.local.seen + self.hosted.seen
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.local.merge(other.local);
        self.hosted.merge(other.hosted);
    }
}

impl Tally {
    /// How far the outcomes move a chance.
    fn shift(self) -> f32 {
        self.surprise / (self.seen + STRENGTH)
    }

    fn shift_without(self, usable: bool, chance: f32) -> f32 {
        if self.seen < 1.5 {
            return 0.0;
        }
        let own = if usable { 1.0 } else { 0.0 } - chance.clamp(0.0, 1.0);
        (self.surprise - own) / (self.seen - 1.0 + STRENGTH)
    }

    fn merge(&mut self, other: Self) {
        self.seen += other.seen;
        self.usable += other.usable;
        self.surprise += other.surprise;
    }

    fn add(&mut self, usable: bool, chance: f32) {
        let outcome = if usable { 1.0 } else { 0.0 };
        self.seen = self.seen * DECAY + 1.0;
        self.usable = self.usable * DECAY + outcome;
        self.surprise = self.surprise * DECAY + outcome - chance.clamp(0.0, 1.0);
    }

    /// False for a row that a mangled state file brought in.
    fn sound(self) -> bool {
        [self.seen, self.usable, self.surprise].iter().all(|value| value.is_finite())
            && self.seen >= 0.0
            && (0.0..=self.seen).contains(&self.usable)
            && self.surprise.abs() <= self.seen
    }
}

/// Drops the least-seen of a few entries: constant work, and a template in use survives.
fn evict(shard: &mut Shard) {
    let victim = shard.iter().take(16).min_by(|a, b| a.1.total().total_cmp(&b.1.total())).map(|(key, _)| *key);
    if let Some(victim) = victim {
        shard.remove(&victim);
    }
}
