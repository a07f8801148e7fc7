//! What a request through the gateway costs, beside the same request straight to the upstream, through nginx as a plain
//! reverse proxy (where it is installed) and through a bare hyper proxy. See `benches/README.md`.
//!
//!     cargo bench -p spectra-gateway --bench cost -- [rounds] [seconds] [direct nginx floor spectra bare scored verified held kept]
//!
//! The proxy under test has core 0 to itself, upstream and client share core 1. Peers take turns within a round, and the
//! median of the rounds is told. CPU time is the proxy's own, so that it says little of the machine's other work.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench fails loudly and prints its table")]

mod floor;
mod load;
mod mock;
mod peers;

use std::net::SocketAddr;
use std::time::Duration;

use load::{Load, Seen};
use peers::{Kind, Peer};

/// One row of the table: a peer in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    request_us: f64,
    p50_us: f64,
    p99_us: f64,
    chunk_us: f64,
    first_us: f64,
    idle_mib: f64,
    busy_mib: f64,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let port = |at: usize| -> SocketAddr { format!("127.0.0.1:{}", words[at]).parse().unwrap() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match words.first().map(String::as_str) {
        Some("mock") => runtime.block_on(mock::serve(port(1))),
        Some("floor") => runtime.block_on(floor::serve(port(1), port(2))),
        _ => runtime.block_on(compare(&words)),
    }
}

async fn compare(words: &[String]) {
    let numbers: Vec<f64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let (rounds, seconds) = (numbers.first().map_or(3, |rounds| *rounds as usize), numbers.get(1).copied().unwrap_or(2.0));
    let named: Vec<Kind> = words.iter().filter_map(|word| Kind::parse(word)).collect();
    let kinds = if named.is_empty() { vec![Kind::Direct, Kind::Nginx, Kind::Floor, Kind::Spectra] } else { named };
    let kinds: Vec<Kind> = kinds.into_iter().filter(|kind| kind.there()).collect();
    peers::pin_self();
    let upstream = peers::start_mock().await;
    let mut rows: Vec<Vec<Row>> = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (round + turn) % kinds.len();
            let peer = Peer::start(kinds[at], upstream.address).await;
            rows[at].push(measure(&peer, seconds).await);
        }
    }
    table(&kinds, &rows);
}

/// All the figures of one peer in one round.
async fn measure(peer: &Peer, seconds: f64) -> Row {
    let load = |connections, streamed| Load {
        address: peer.address,
        request: load::request(streamed, peer.kind.model()),
        connections,
        time: Duration::from_secs_f64(seconds),
    };
    let idle_mib = peer.memory_mib();
    // Warms pools and caches, also those of the branch predictor.
    Load { time: Duration::from_millis(700), ..load(16, None) }.run().await;
    let alone = load(1, None).run().await;
    let (request_us, _) = per(peer, load(64, None), |seen| seen.answers).await;
    let (chunk_us, _) = per(peer, load(16, Some("flood")), |seen| seen.chunks).await;
    let paced = load(8, Some("paced")).run().await;
    let mut crowd = std::pin::pin!(load(256, None).run());
    let middle = tokio::time::sleep(Duration::from_secs_f64(seconds / 2.0));
    let busy_mib = tokio::select! { _ = &mut crowd => peer.memory_mib(), () = middle => peer.memory_mib() };
    crowd.await;
    Row {
        request_us,
        p50_us: alone.quantile(0.5),
        p99_us: alone.quantile(0.99),
        chunk_us,
        first_us: paced.first_quantile(0.5),
        idle_mib,
        busy_mib,
    }
}

/// CPU time of the peer for each of what `count` counts.
async fn per(peer: &Peer, load: Load, count: impl Fn(&Seen) -> u64) -> (f64, Seen) {
    let before = peer.cpu_us();
    let seen = load.run().await;
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    ((peer.cpu_us() - before) / count(&seen).max(1) as f64, seen)
}

/// Medians over the rounds; latencies are differences to `direct` of the same round.
fn table(kinds: &[Kind], rows: &[Vec<Row>]) {
    let direct = kinds.iter().position(|kind| *kind == Kind::Direct);
    let figures = |at: usize| -> [f64; 7] {
        let over = |of: fn(&Row) -> f64| {
            median(rows[at].iter().enumerate().map(|(round, row)| of(row) - direct.map_or(0.0, |direct| of(&rows[direct][round]))))
        };
        let plain = |of: fn(&Row) -> f64| median(rows[at].iter().map(of));
        [
            plain(|row| row.request_us),
            over(|row| row.p50_us),
            over(|row| row.p99_us),
            plain(|row| row.chunk_us),
            over(|row| row.first_us),
            plain(|row| row.idle_mib),
            plain(|row| row.busy_mib),
        ]
    };
    println!(
        "| | CPU us per request, 64 connections | p50 added us, 1 connection | p99 added us | CPU us per streamed chunk | TTFT added p50 us | RSS MiB idle / at 256 connections |"
    );
    println!("|---|---|---|---|---|---|---|");
    let nginx = kinds.iter().position(|kind| *kind == Kind::Nginx).map(figures);
    for (at, kind) in kinds.iter().enumerate().filter(|(_, kind)| **kind != Kind::Direct) {
        let [request, p50, p99, chunk, first, idle, busy] = figures(at);
        println!("| {} | {request:.1} | {p50:.0} | {p99:.0} | {chunk:.2} | {first:.0} | {idle:.0} / {busy:.0} |", kind.name());
        if let Some(nginx) = nginx.filter(|_| *kind != Kind::Nginx) {
            let ratio = |at: usize, own: f64| own / nginx[at];
            println!(
                "| … to nginx | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | |",
                ratio(0, request),
                ratio(1, p50),
                ratio(2, p99),
                ratio(3, chunk),
                ratio(4, first)
            );
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
