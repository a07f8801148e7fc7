//! Which model takes a request, and whether its answer is good enough.

pub mod repair;
pub mod score;
pub mod verify;
