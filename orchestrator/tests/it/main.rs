//! The binary from outside: a scripted upstream on one side, a folder on the other.

// The attribute tells clippy that helpers in here are tests too: they may unwrap and print.
#[cfg(test)]
mod killed;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod support;
#[cfg(test)]
mod templates;
