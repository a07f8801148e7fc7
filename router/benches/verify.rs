//! What verification and repair of a 4 KB answer cost, beside the same answer only passed through: `cargo bench -p spectra-router`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may fail")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use spectra_backends::chunk::{Choice, Finish, View};
use spectra_backends::{ChatRequest, Chunk};
use spectra_router::repair::{self, Given};
use spectra_router::verify::{Checks, Schema, Settings, Verifier};

const BYTES: usize = 4096;
const CHUNK: usize = 16;

fn chunks(text: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut from = 0;
    while from < text.len() {
        let mut to = (from + CHUNK).min(text.len());
        while !text.is_char_boundary(to) {
            to += 1;
        }
        let finish = (to == text.len()).then_some(Finish::Stop);
        let choice = Choice { content: Some(text[from..to].to_owned()), finish, ..Choice::default() };
        chunks.push(Chunk {
            data: bytes::Bytes::new(),
            extra: bytes::Bytes::new(),
            view: View { choices: vec![choice], ..View::default() },
        });
        from = to;
    }
    chunks
}

/// The median of 41 runs of 20, in microseconds each.
fn timed(mut run: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..41)
        .map(|_| {
            let start = Instant::now();
            (0..20).for_each(|_| run());
            start.elapsed().as_secs_f64() * 1e6 / 20.0
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[20]
}

fn folded(chunks: &[Chunk]) -> String {
    let mut text = String::new();
    for chunk in chunks {
        for choice in &chunk.view.choices {
            text.push_str(choice.content.as_deref().unwrap_or(""));
        }
    }
    text
}

fn verified(checks: &Arc<Checks>, chunks: &[Chunk]) -> bool {
    let mut verifier = Verifier::new(checks.clone());
    for chunk in chunks {
        black_box(verifier.push(chunk));
    }
    verifier.finish().verdict.is_usable()
}

fn main() {
    let prose = "The quick brown fox jumps over the lazy dog, again and in other words. ".to_owned();
    let prose: String = (0..)
        .map(|n| format!("{n}. {prose}"))
        .scan(0, |sum, line| {
            *sum += line.len();
            (*sum < BYTES).then_some(line)
        })
        .collect();
    let items: Vec<String> =
        (0..70).map(|n| format!("{{\"id\": {n}, \"name\": \"item {n}\", \"price\": {n}.50, \"tags\": [\"a\"]}}")).collect();
    let json = format!("{{\"items\": [{}]}}", items.join(", "));
    let broken = format!("Here it is:\n```json\n{}\n```", json.replace("]}", "],}").replace("\"id\"", "id"));
    let schema = r#"{"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": {"type": "object", "required": ["id", "name"], "properties": {"id": {"type": "integer"}, "name": {"type": "string"}, "price": {"type": "number"}}}}}}"#;
    let body: String = (0..70).map(|n| format!("def f{n}(x):\n    y = x + {n}\n    return y * 2\n\n\n")).collect();
    let file = serde_json::json!({"files": [{"path": "app/main.py", "content": body}]}).to_string();

    let request =
        ChatRequest::parse(bytes::Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#)).unwrap();
    let text = Checks::of(&request, &Settings::default(), None).unwrap();
    let any = Arc::new(Checks::of_json(Settings::default(), None));
    let typed = Arc::new(Checks::of_json(Settings::default(), Some(Arc::new(Schema::compile(schema).unwrap()))));

    println!("{:<44} {:>7} {:>8} {:>10} {:>9}", "answer, in chunks of 16 bytes", "bytes", "µs", "µs a chunk", "× folding");
    for (name, checks, answer) in [
        ("plain text", &text, &prose),
        ("JSON, no schema", &any, &json),
        ("JSON with a schema", &typed, &json),
        ("JSON to repair, with a schema", &typed, &broken),
        ("JSON that carries a Python file", &any, &file),
    ] {
        let pieces = chunks(answer);
        assert!(verified(checks, &pieces), "{name} is meant to pass");
        let passed = timed(|| drop(black_box(folded(&pieces))));
        let spent = timed(|| {
            black_box(verified(checks, &pieces));
        });
        #[expect(clippy::cast_precision_loss, reason = "a rate to print")]
        let each = spent / pieces.len() as f64;
        println!("{name:<44} {:>7} {spent:>8.1} {each:>10.3} {:>9.1}", answer.len(), spent / passed);
    }
    let spent = timed(|| drop(black_box(repair::json(&broken, &Given::default()))));
    println!("{:<44} {:>7} {spent:>8.1}", "repair alone", broken.len());
}
