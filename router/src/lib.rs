//! Which model takes a request, and whether its answer is good enough.

pub mod score;
