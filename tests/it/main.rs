//! Every story a stranger who speaks HTTP can tell; one file a theme.

// The attribute tells clippy that helpers in here are tests too: they may unwrap and print.
#[cfg(test)]
mod attempts;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod callers;
#[cfg(test)]
mod canary;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fidelity;
#[cfg(test)]
mod own_checks;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod surface;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod watch_grafana;
#[cfg(test)]
mod watch_prometheus;
#[cfg(test)]
mod watch_reload;
#[cfg(test)]
mod watch_sums;
#[cfg(test)]
mod wire;
