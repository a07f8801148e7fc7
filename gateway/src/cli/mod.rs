//! What the `spectra` command can do besides serving; one file a subcommand.

pub mod model;
