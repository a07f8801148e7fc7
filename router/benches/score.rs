//! What a decision costs: parsing the request's view and scoring it, p50 and p99 in microseconds.
//! `cargo bench -p spectra-router --bench score`

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use bytes::Bytes;
use spectra_backends::ChatRequest;
use spectra_router::score::{Outcome, Scorer, Settings, Weights};

fn main() {
    let scorer = Scorer::new(Weights::builtin(), Settings::default());
    let mut output = std::io::stdout().lock();
    for (name, size, rounds) in [("600 bytes", 600, 20_000), ("100 KB", 100_000, 2_000)] {
        let bodies: Vec<Bytes> = (0..64).map(|seed| body(size, seed)).collect();
        // A router that has learned costs more than one that has not.
        for body in &bodies {
            if let Ok(request) = ChatRequest::parse(body.clone()) {
                let score = scorer.score(&request);
                scorer.teach(&score, Outcome { local: true, usable: true, propensity: 1.0 });
            }
        }
        let mut micros: Vec<f64> = (0..rounds)
            .map(|round| {
                let body = bodies[round % bodies.len()].clone();
                let start = Instant::now();
                black_box(ChatRequest::parse(body).map(|request| scorer.score(&request)).is_ok());
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        micros.sort_by(f64::total_cmp);
        let at = |share: usize| micros[(micros.len() * share / 100).min(micros.len() - 1)];
        drop(writeln!(output, "{name}: p50 {:.1} us, p99 {:.1} us (parse and score)", at(50), at(99)));
    }
}

/// A chat body of about `size` bytes, different for every seed.
fn body(size: usize, seed: usize) -> Bytes {
    const WORDS: [&str; 12] =
        ["service", "order", "why", "compute", "table", "function", "patient", "law", "summer", "value", "river", "endpoint"];
    let mut text = String::from("Explain what follows.\n");
    let mut at = seed;
    while text.len() + 60 < size {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(WORDS[(at >> 33) % WORDS.len()]);
        text.push_str(if at.is_multiple_of(11) { ". " } else { " " });
    }
    Bytes::from(serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": text}]}).to_string())
}
