//! What a request through the gateway costs, beside the same request straight to the upstream, through nginx as a plain
//! reverse proxy (where it is installed) and through a bare hyper proxy. See `benches/README.md`.
//!
//!     cargo bench -p spectra-gateway --bench cost -- [rounds] [seconds] [direct nginx floor spectra bare scored …]
//!     cargo bench -p spectra-gateway --bench cost -- ladder [rounds] [answers]
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

use load::{Load, Seen, Until};
use peers::{Kind, LADDER, Peer};

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
        Some("ladder") => runtime.block_on(ladder(&words)),
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
        until: Until::Time(Duration::from_secs_f64(seconds)),
    };
    Load { until: Until::Answers(1), ..load(1, None) }.run().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle_mib = peer.memory_mib();
    // Warms pools and caches, also those of the branch predictor.
    Load { until: Until::Time(Duration::from_millis(700)), ..load(16, None) }.run().await;
    let alone = load(1, None).run().await;
    let (request_us, _) = per(peer, load(64, None), |seen| seen.answers).await;
    let (chunk_us, _) = per(peer, load(16, Some("flood")), |seen| seen.chunks).await;
    let paced = load(8, Some("paced")).run().await;
    let mut crowd = std::pin::pin!(load(256, None).run());
    let mut busy_mib = 0.0_f64;
    while tokio::time::timeout(Duration::from_millis(200), &mut crowd).await.is_err() {
        busy_mib = busy_mib.max(peer.memory_mib());
    }
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
    let before: f64 = peer.cpu_us().iter().sum();
    let seen = load.run().await;
    let spent = peer.cpu_us().iter().sum::<f64>() - before;
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    (spent / count(&seen).max(1) as f64, seen)
}

/// What each feature costs. All rungs run at once, and bursts of requests go to one after the other, many times: so the
/// machine's moods meet all alike. A burst's time includes what its threads do after it, until the next round.
async fn ladder(words: &[String]) {
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let (rounds, answers) = (numbers.first().copied().unwrap_or(30), numbers.get(1).copied().unwrap_or(2000));
    peers::pin_self();
    let upstream = peers::start_mock().await;
    let mut all = Vec::new();
    for kind in LADDER {
        all.push(Peer::start(kind, upstream.address).await);
    }
    let burst = |peer: &Peer, answers| {
        let request = load::request(None, peer.kind.model());
        Load { address: peer.address, request, connections: 16, until: Until::Answers(answers) }.run()
    };
    for peer in &all {
        burst(peer, 2 * answers).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut last: Vec<[f64; 2]> = all.iter().map(Peer::cpu_us).collect();
    let mut rows: [Vec<[f64; 2]>; LADDER.len()] = Default::default();
    for round in 0..usize::try_from(rounds).unwrap() {
        for turn in 0..all.len() {
            burst(&all[(round + turn) % all.len()], answers).await;
        }
        // The ledger's batch and the tracer's.
        tokio::time::sleep(Duration::from_millis(400)).await;
        for (at, peer) in all.iter().enumerate() {
            let now = peer.cpu_us();
            #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
            rows[at].push([0, 1].map(|part| (now[part] - last[at][part]) / answers as f64));
            last[at] = now;
        }
    }
    ladder_table(&rows);
}

fn ladder_table(rows: &[Vec<[f64; 2]>]) {
    let together = |row: &[f64; 2]| row[0] + row[1];
    let unwatched = &rows[LADDER.iter().position(|kind| *kind == Kind::Verified).unwrap()];
    println!("| | serving threads | threads behind | together | serving to `verified` | together to `verified` |");
    println!("|---|---|---|---|---|---|");
    for (kind, row) in LADDER.iter().zip(rows) {
        let of = |figure: &dyn Fn(&[f64; 2]) -> f64| median(row.iter().map(figure));
        let to = |figure: &dyn Fn(&[f64; 2]) -> f64| {
            let mut ratios: Vec<f64> = row.iter().zip(unwatched).map(|(one, other)| figure(one) / figure(other)).collect();
            ratios.sort_by(f64::total_cmp);
            let quarter = |share: usize| ratios[ratios.len() * share / 4];
            format!("{:.3} ({:.3} to {:.3})", quarter(2), quarter(1), quarter(3))
        };
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {} | {} |",
            kind.name(),
            of(&|row| row[0]),
            of(&|row| row[1]),
            of(&together),
            to(&|row| row[0]),
            to(&together)
        );
    }
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
