//! What a worker counts, as it travels from worker to supervisor.

use serde::{Deserialize, Serialize};

/// Memory of a GPU that the worker can use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    pub name: String,
    /// What its driver calls it.
    pub model: String,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// The values at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Sequences that can be decoded at once.
    pub slots: u64,
    pub slots_busy: u64,
    /// Jobs accepted and not started.
    pub waiting: u64,
    /// Tokens that running requests hold in the key-value cache.
    pub kv_tokens: u64,
    /// Tokens kept in it for prompts that begin the same.
    pub kv_cached_tokens: u64,
    pub kv_capacity: u64,
    /// Tokens kept in plain memory for the same purpose.
    pub parked_tokens: u64,
    /// Jobs taken in since start, whatever became of them.
    pub requests_total: u64,
    /// Jobs whose receiver left.
    pub cancelled_total: u64,
    /// Jobs that ended in an error of the engine.
    pub failed_total: u64,
    pub prompt_tokens_total: u64,
    /// Prompt tokens that did not have to be computed.
    pub cached_tokens_total: u64,
    pub generated_tokens_total: u64,
    /// Tokens of answers in a thousand seconds, as of the last second or more of work; 0 while there is none.
    pub tokens_per_kilosecond: u64,
    pub steps_total: u64,
    /// Time in steps with prompt tokens in them, in microseconds.
    pub prefill_micros_total: u64,
    /// Time in steps of answer tokens only, in microseconds.
    pub decode_micros_total: u64,
    /// For how long the running step has been running, in milliseconds; 0: none is.
    pub step_age_ms: u64,
}
