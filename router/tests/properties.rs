//! What must hold of repair and verification whatever the text.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::Value;
use spectra_backends::chunk::{Choice, Finish, View};
use spectra_backends::{ChatRequest, Chunk};
use spectra_router::repair::{self, Given, Repaired, Stage};
use spectra_router::verify::json::Scan;
use spectra_router::verify::{Checks, Doubt, Schema, Settings, Verdict, Verifier};

/// Fixed seeds: a test that passes here passes everywhere.
fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..Config::default() }
}

/// Texts made of what JSON, and what goes wrong with it, is made of.
fn jsonish() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "'",
        "\\",
        "\"a\"",
        "\"b c\"",
        "key",
        "1",
        "-2.5e3",
        ".5",
        "5.",
        "true",
        "None",
        "null",
        "// c\n",
        "/* c */",
        "# c\n",
        "...",
        "…",
        "```json\n",
        "```",
        "<think>",
        "</think>",
        "</s>",
        "\n",
        " ",
        "\u{feff}",
        "\u{a0}",
        "“",
        "”",
        "\"\"\"",
        "`",
        "é",
        "\\n",
        "\\u12",
        "\\_",
        "Sure: ",
        "{\"a\": 1}",
        "[1]",
        "，",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        "[a-z\"'`\\\\{}\\[\\],:#/ \n\té“.…]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z_ \"'é]{0,6}", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object at the root: what a model is asked for.
fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-z_]{1,6}", value(), 1..5).prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn chunk(content: &str, finish: Option<Finish>) -> Chunk {
    let choice = Choice { content: Some(content.to_owned()), finish, ..Choice::default() };
    Chunk { data: bytes::Bytes::new(), extra: bytes::Bytes::new(), view: View { choices: vec![choice], ..View::default() } }
}

/// The checks of a request for plain text.
#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn plain() -> Arc<Checks> {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
    Checks::of(&ChatRequest::parse(bytes::Bytes::from_static(body)).unwrap(), &Settings::default(), None).unwrap()
}

/// The verdict and the text that would be delivered, as one string to compare.
fn judged(checks: &Arc<Checks>, text: &str, cuts: &[usize], finish: &Finish) -> String {
    let mut verifier = Verifier::new(checks.clone());
    let mut from = 0;
    let mut stopped = false;
    for cut in cuts.iter().copied().chain([text.len()]) {
        let last = cut == text.len();
        if matches!(verifier.push(&chunk(&text[from..cut], last.then(|| finish.clone()))), Doubt::Hopeless(_)) {
            stopped = true;
            break;
        }
        from = cut;
    }
    let judged = verifier.finish();
    assert!(!stopped || !judged.verdict.is_usable(), "stopped, and then found usable: {text:?}");
    let choice = &judged.choices[0];
    match judged.verdict {
        Verdict::Flawed(flaw) => format!("flawed: {flaw}"),
        verdict => format!("{verdict:?} {:?}", choice.mended.as_ref().unwrap_or(&choice.text)),
    }
}

fn boundaries(text: &str, places: &[prop::sample::Index]) -> Vec<usize> {
    let all: Vec<usize> = (0..text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    let mut cuts: Vec<usize> = if all.is_empty() { Vec::new() } else { places.iter().map(|place| *place.get(&all)).collect() };
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn repair_never_panics_and_is_idempotent(text in jsonish(), cut in any::<bool>()) {
        let given = Given { cut_by_length: cut, ..Given::default() };
        if let Repaired::Mended { text: mended, stages } = repair::json(&text, &given) {
            prop_assert!(!stages.is_empty());
            prop_assert_eq!(Scan::whole(&mended), Ok(()));
            prop_assert_eq!(repair::json(&mended, &given), Repaired::Clean, "from {:?}", text);
            prop_assert!(!cut || !stages.contains(&Stage::MissingClosers));
        }
    }

    #[test]
    fn any_text_at_all_is_survived(text in any::<String>()) {
        let _ = repair::json(&text, &Given::default());
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn valid_json_is_untouched(value in object(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        prop_assert_eq!(repair::json(&text, &Given::default()), Repaired::Clean);
    }

    #[test]
    fn what_is_around_an_answer_goes_and_its_bytes_stay(value in object(), pretty in any::<bool>(), around in 0..7_usize) {
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let wrapped = match around {
            0 => format!("```json\n{text}\n```"),
            1 => format!("Sure! Here is the JSON you asked for:\n\n```\n{text}\n```\n\nLet me know if you need more [1]."),
            2 => format!("<think>\nMaybe {{\"draft\": true}}?\n</think>\n{text}"),
            3 => format!("\u{feff}{text}"),
            4 => format!("{text}<|im_end|>"),
            5 => format!("Here is it:\n{text}\nNote: {{as requested}}."),
            _ => format!("{text}\n{text}"),
        };
        match repair::json(&wrapped, &Given::default()) {
            Repaired::Mended { text: mended, .. } => prop_assert_eq!(mended, text),
            other => prop_assert!(false, "{:?} of {:?}", other, wrapped),
        }
    }

    #[test]
    fn packed_json_comes_out_as_it_went_in(value in object()) {
        let text = value.to_string();
        let packed = Value::from(text.as_str()).to_string();
        prop_assert_eq!(repair::json(&packed, &Given::default()), Repaired::Mended { text, stages: vec![Stage::DoubleEncoding] });
    }

    /// A prefix is never taken for the whole: under a length limit not at all, otherwise only brackets may be missing.
    #[test]
    fn a_cut_answer_is_never_complete(value in object(), pretty in any::<bool>(), place in any::<prop::sample::Index>()) {
        let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let cut = boundaries(&text, &[place])[0];
        let prefix = &text[..cut];
        let limited = repair::json(prefix, &Given { cut_by_length: true, ..Given::default() });
        prop_assert!(matches!(limited, Repaired::Cut { .. } | Repaired::Declined { .. }), "{:?} of {:?}", limited, prefix);
        if let Repaired::Mended { text: mended, stages } = repair::json(prefix, &Given::default()) {
            prop_assert_eq!(&stages, &[Stage::MissingClosers], "{:?}", prefix);
            let closers: String = mended[prefix.trim_end().len()..].chars().filter(|c| !"}]".contains(*c)).collect();
            prop_assert!(mended.starts_with(prefix.trim_end()) && closers.is_empty(), "{:?} of {:?}", mended, prefix);
        }
    }

    #[test]
    fn every_chunking_gets_the_same_verdict(text in jsonish(), repeat in 1..200_usize, places in prop::collection::vec(any::<prop::sample::Index>(), 0..12), wanted in 0..4_usize, length in any::<bool>()) {
        let text = text.repeat(repeat);
        let finish = if length { Finish::Length } else { Finish::Stop };
        let schema = || Arc::new(Schema::compile(r#"{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}"#).unwrap());
        let checks = match wanted {
            0 => Arc::new(Checks::of_json(Settings { json: false, ..Settings::default() }, None)),
            1 => Arc::new(Checks::of_json(Settings::default(), None)),
            2 => Arc::new(Checks::of_json(Settings { coerce: true, ..Settings::default() }, Some(schema()))),
            _ => plain(),
        };
        let whole = judged(&checks, &text, &[], &finish);
        let cuts = boundaries(&text, &places);
        prop_assert_eq!(judged(&checks, &text, &cuts, &finish), whole);
    }
}

/// Every row of the corpus, byte by byte and in a few sizes.
#[test]
fn every_chunking_of_the_corpus_gets_the_same_verdict() {
    let rows = include_str!("data/malformed.jsonl");
    let checks = Arc::new(Checks::of_json(Settings::default(), None));
    for row in rows.lines().step_by(3) {
        let row: Value = serde_json::from_str(row).unwrap();
        let text = row["text"].as_str().unwrap();
        let finish = Finish::parse(row["finish_reason"].as_str().unwrap());
        let whole = judged(&checks, text, &[], &finish);
        for step in [1, 7, 64] {
            let cuts: Vec<usize> = (1..text.len()).step_by(step).filter(|at| text.is_char_boundary(*at)).collect();
            assert_eq!(judged(&checks, text, &cuts, &finish), whole, "{} in steps of {step}", row["id"]);
        }
    }
}

/// Sizes that break recursive or quadratic readers.
#[test]
fn large_and_deep_texts_are_survived() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        "[".repeat(100_000),
        deep,
        "{\"a\":".repeat(100_000),
        format!("{{\"a\": \"{}\"}}", "x".repeat(10_000_000)),
        format!("{{\"a\": \"{}", "x".repeat(10_000_000)),
        format!("{{a: '{}'}}", "x\"".repeat(1_000_000)),
        format!("[{}1]", "1, ".repeat(500_000)),
        format!("[{}]", "1 \n".repeat(200_000)),
        format!("Text {} end", "{word} ".repeat(100_000)),
        format!("{}{{\"a\": 1}}", "[x](y) ".repeat(100_000)),
        "{\"a\": 1} ".repeat(20_000),
        "'".repeat(500_000),
        "`".repeat(500_000),
        "\\\"".repeat(500_000),
        format!("{{{}", "// c\n".repeat(200_000)),
        " ".repeat(5_000_000),
    ];
    let checks = Arc::new(Checks::of_json(Settings::default(), None));
    for text in cases {
        for finish in [Finish::Stop, Finish::Length] {
            let _ = judged(&checks, &text, &[], &finish);
        }
    }
}

/// Readings that a model's habits suggest and that would be wrong.
#[test]
fn what_has_two_readings_is_declined() {
    let declined = [
        "{'a': ['one '\n 'two', 'three']}",
        "[1, 2, ...]",
        "[1,,2]",
        "{\"a\": \"say \"hi\" to\"}",
        "{\"a\": 05}",
        "{\"a\": undefined}",
        "{\"a\": \"C:\\dir\\new\"}",
        "{\"a\": 1}\n{\"a\": 2}",
        "{\"a\": [1, 2}",
        "{\"a\": 1, // ... more fields\n}",
        "x = {\"a\": 1}",
        "name: x\ntags: []\nports: {}",
    ];
    for text in declined {
        let repaired = repair::json(text, &Given::default());
        assert!(matches!(repaired, Repaired::Declined { .. }), "{text}: {repaired:?}");
    }
}
