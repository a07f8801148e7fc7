//! What the `spectra` command can do besides serving; one file a subcommand.

#[cfg(feature = "llama")]
pub mod engine;
pub mod model;
pub mod verify;
