//! The HTTP edge: parse, respond, record, serve.

pub mod cli;
#[cfg(feature = "llama")]
pub mod engine;
pub mod metrics;
pub mod record;
#[cfg(test)]
mod sample;
