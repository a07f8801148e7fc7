//! Requests that are ready at the same time go through the same few lines one after the other.

/// Below this many others a request goes on at once: to wait for seven of them costs it more than it spares the processor.
const CROWD: usize = 24;

/// Where a crowd of other requests is under way, lets those that are ready come to this same point before any goes on. They then
/// find the code in the caches, and a peer that the first of them has woken: a fifth of the CPU time at 64 connections
/// (benches/README.md).
pub async fn abreast(others: usize) {
    if others > CROWD {
        tokio::task::yield_now().await;
    }
}
