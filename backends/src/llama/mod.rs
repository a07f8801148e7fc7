//! The local model: a worker process that runs llama.cpp (`engine` and what it uses), and its supervisor on our side.
//!
//! Life of a job: `prompt` renders the chat, `model` tokenises it, `engine` takes the job into its queue, one thread
//! (`scheduler`) decodes it together with all others, `sampler` picks tokens, `text` turns their bytes into whole characters.

mod client;
mod demand;
mod file;
mod memory;
mod settings;
mod snapshot;
mod supervisor;

#[cfg(feature = "llama")]
mod abort;
#[cfg(feature = "llama")]
mod constraint;
#[cfg(feature = "llama")]
mod context;
#[cfg(feature = "llama")]
mod embedder;
#[cfg(feature = "llama")]
mod engine;
#[cfg(feature = "llama")]
mod log;
#[cfg(feature = "llama")]
mod model;
#[cfg(feature = "llama")]
mod prompt;
#[cfg(feature = "llama")]
mod sampler;
#[cfg(feature = "llama")]
mod scheduler;
#[cfg(feature = "llama")]
mod stats;
#[cfg(feature = "llama")]
mod text;
#[cfg(feature = "llama")]
mod tools;

pub use client::STOP_LOOPS;
pub use file::{Header, LoadError};
pub use memory::Plan;
pub use settings::{GpuSplit, KvType, Pooling, Settings};
pub use snapshot::{Gpu, Snapshot};
pub use supervisor::{Exit, Health, State, Supervision, Supervisor, WorkerPhase};

#[cfg(feature = "llama")]
pub use constraint::{Constraint, Form, Grammars, Strength, Unsupported};
#[cfg(feature = "llama")]
pub use engine::{Ended, Engine, Event, Job, Limits, Refused};
#[cfg(feature = "llama")]
pub use model::{Model, gpus};
#[cfg(feature = "llama")]
pub use prompt::{Prompt, PromptError};
#[cfg(feature = "llama")]
pub use sampler::{Sampling, TokenChoice};
#[cfg(feature = "llama")]
pub use stats::Stats;
#[cfg(feature = "llama")]
pub use tools::{Reader, Said, Style, grammar};

#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
mod support;
