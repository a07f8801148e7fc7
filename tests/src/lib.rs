//! What the tests stand on: a gateway in this process and clients that show every byte.

pub mod harness;
