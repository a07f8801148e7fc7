//! The HTTP edge: parse, respond, record, serve.

pub mod cli;
pub mod record;
