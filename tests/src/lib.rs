//! What the tests stand on: a gateway in this process, upstreams that fail as told, and clients that show every byte.

pub mod harness;
pub mod model;
pub mod upstream;
