use bytes::Bytes;
use proptest::prelude::*;
use spectra_backends::ChatRequest;

use super::metrics::{Random, Scored, calibration_error, calibration_floor, calibration_rms, measure};
use super::{Outcome, Policy, Route, Rule, Scorer, Settings, Situation, Weights};

fn scorer() -> Scorer {
    Scorer::new(Weights::builtin(), Settings::default())
}

fn ask(text: &str) -> ChatRequest {
    body(&serde_json::json!({"model": "auto", "messages": [{"role": "user", "content": text}]}))
}

fn body(value: &serde_json::Value) -> ChatRequest {
    ChatRequest::parse(Bytes::from(value.to_string())).unwrap()
}

#[test]
fn a_hard_short_prompt_scores_above_small_talk_and_says_why() {
    let scorer = scorer();
    let hard = scorer.score(&ask("Prove that the square root of 2 is irrational."));
    let easy = scorer.score(&ask("Hi, what is the capital of France?"));
    assert!(hard.need > easy.need && hard.difficulty > easy.difficulty, "{hard:?} {easy:?}");
    assert_eq!(hard.reasons[0].feature, "cue_proof");
}

#[test]
fn variables_do_not_change_the_fingerprint() {
    let prompt = |city: &str, day: u32| ask(&format!("Write a weather note.\nCity: {city}\nDay: {day}\nAnswer in one JSON object."));
    let scorer = scorer();
    let first = scorer.score(&prompt("Paris", 3)).fingerprint;
    assert_eq!(first, scorer.score(&prompt("New York", 14)).fingerprint);
    assert_ne!(first, scorer.score(&ask("Write a weather note.\nTown: Paris\nAnswer in one word.")).fingerprint);
}

#[test]
fn outcomes_move_the_template_and_survive_export() {
    let scorer = scorer();
    let request = ask("Make a title.\nText: something\nReturn JSON.");
    let before = scorer.score(&request);
    for _ in 0..20 {
        scorer.teach(&before, Outcome { local: true, usable: false, propensity: 1.0 });
    }
    let after = scorer.score(&request);
    assert!(after.p_local < before.p_local / 2.0, "{} {}", before.p_local, after.p_local);
    let state = serde_json::to_string(&scorer.export()).unwrap();
    let twin = self::scorer();
    assert!(twin.import(serde_json::from_str(&state).unwrap()));
    assert_eq!(twin.score(&request).p_local.to_bits(), after.p_local.to_bits());
}

#[test]
fn two_halves_merged_say_about_what_the_whole_says() {
    let (whole, halves) = (scorer(), [scorer(), scorer()]);
    let about = |task: &str, n: usize| ask(&format!("{task}\nText: {}\nReturn JSON.", passage(n)));
    let tasks = [("Make a title.", true), ("Count the verbs.", false)];
    for n in 0..60 {
        for (task, usable) in tasks {
            for scorer in [&whole, &halves[n % 2]] {
                let score = scorer.score(&about(task, n));
                for local in [true, false] {
                    scorer.learn(&score, Outcome { local, usable: usable || !local, propensity: 1.0 });
                }
            }
        }
    }
    let [one, two] = halves.map(|half| half.export());
    let together = scorer();
    together.adopt(one.clone().merge(two.clone()).unwrap()).unwrap();
    whole.settle(true);
    for (task, usable) in tasks {
        let (whole, together) = (whole.score(&about(task, 99)), together.score(&about(task, 99)));
        assert!((whole.p_local - together.p_local).abs() < 0.1, "{task} {} {}", whole.p_local, together.p_local);
        assert_eq!(together.p_local > 0.5, usable, "{}", together.p_local);
        let seen = [whole.seen, together.seen];
        assert!((seen[0] / seen[1] - 1.0).abs() < 0.3 && seen[1] > 80.0, "{seen:?}");
    }
    let other = super::State { weights: "another".to_owned(), ..two };
    assert!(one.merge(other.clone()).is_none());
    assert!(matches!(scorer().adopt(other.clone()), Err(super::BadState::Weights { .. })));
    assert_eq!(scorer().adopt(super::State { weights: String::new(), ..other }), Err(super::BadState::Unversioned));
}

/// Prompts of two tasks in one user message each, the variables first, in the middle or last.
#[test]
fn templates_are_told_apart_wherever_their_variables_stand() {
    let tasks = [("Rate the context from 0 to 5.", "{\"score\": \"int\"}"), ("Give several answers.", "[{\"answer\": \"string\"}]")];
    let styles: [fn(&str, &str, usize) -> String; 3] = [
        |task, format, n| format!("Task: {task}\nContext: {}\nAs JSON: {format}", passage(n)),
        |task, format, n| format!("{}\n\n{task} Return only JSON like {format}", passage(n)),
        |task, format, n| format!("{task} Use JSON like {format}.\ncontext: {}\nquestion: Who was number {n}?", passage(n)),
    ];
    for (style, text) in styles.iter().enumerate() {
        let scorer = scorer();
        for n in 0..40 {
            for (good, (task, format)) in [true, false].into_iter().zip(tasks) {
                let score = scorer.score(&ask(&text(task, format, n)));
                scorer.teach(&score, Outcome { local: true, usable: good, propensity: 1.0 });
            }
        }
        let [easy, hard] = tasks.map(|(task, format)| scorer.score(&ask(&text(task, format, 99))));
        assert!(easy.p_local > hard.p_local + 0.4, "style {style}: {} {}", easy.p_local, hard.p_local);
        assert!(hard.need > easy.need + 0.4, "style {style}");
    }
}

/// Running text that differs in every word but the small ones.
fn passage(n: usize) -> String {
    let mut random = Random(n as u64);
    (0..30).map(|_| format!("{:x} of the {:x}", random.bits() >> 40, random.bits() >> 44)).collect::<Vec<_>>().join(". ")
}

#[test]
fn words_alone_are_learned() {
    let scorer = scorer();
    let about =
        |topic: &str, n: usize| ask(&format!("{} the {topic} of {}", if n.is_multiple_of(2) { "Describe" } else { "Name" }, passage(n)));
    for n in 0..150 {
        for (topic, usable) in [("glaciers", true), ("lathes", false)] {
            let score = scorer.score(&about(topic, n));
            scorer.teach(&score, Outcome { local: true, usable, propensity: 1.0 });
        }
    }
    let [good, bad] = ["glaciers", "lathes"].map(|topic| scorer.score(&about(topic, 999)).p_local);
    assert!(good > bad + 0.15, "{good} {bad}");
}

#[test]
fn a_mangled_state_is_refused() {
    let scorer = scorer();
    let score = scorer.score(&ask("Name a river"));
    scorer.teach(&score, Outcome { local: true, usable: true, propensity: 1.0 });
    let state = serde_json::to_value(scorer.export()).unwrap();
    assert!(serde_json::from_value::<super::State>(state.clone()).is_ok());
    for memory in ["AA==", "not base64", "AQAAAAA="] {
        let mut bad = state.clone();
        bad["experts"][0]["memory"][0] = memory.into();
        assert!(serde_json::from_value::<super::State>(bad).is_err(), "{memory}");
    }
    let mut other = state;
    other["version"] = 1.into();
    assert!(!scorer.import(serde_json::from_value(other).unwrap()));
}

#[test]
fn frozen_learns_nothing() {
    let scorer = Scorer::new(Weights::builtin(), Settings { freeze: true, ..Settings::default() });
    let score = scorer.score(&ask("hello"));
    scorer.teach(&score, Outcome { local: true, usable: false, propensity: 1.0 });
    assert_eq!(scorer.score(&ask("hello")).p_local.to_bits(), score.p_local.to_bits());
}

#[test]
fn a_budget_holds_its_share() {
    let scorer = scorer();
    let policy = Policy::new(Rule::HostedShare(0.3), 0.0);
    let strong = (0_u32..2000)
        .filter(|n| {
            let text = "word ".repeat((n.wrapping_mul(2_654_435_761) >> 22) as usize % 400 + 1);
            policy.choose(&scorer.score(&ask(&text)), &Situation::default()).route == Route::Strong
        })
        .count();
    assert!((500..700).contains(&strong), "{strong} of 2000");
}

#[test]
fn what_is_not_there_is_not_chosen() {
    let score = scorer().score(&ask("Prove Goldbach's conjecture."));
    for rule in [Rule::Usable(0.99), Rule::HostedShare(1.0), Rule::Difficulty(0.0)] {
        let policy = Policy::new(rule, 0.1);
        for _ in 0..50 {
            assert_eq!(policy.choose(&score, &Situation { hosted: false, ..Situation::default() }).route, Route::Local);
            assert_eq!(policy.choose(&score, &Situation { local: false, ..Situation::default() }).route, Route::Strong);
        }
    }
}

proptest! {
    #[test]
    fn any_text_scores_to_numbers_and_twice_the_same(text in any::<String>(), system in any::<String>()) {
        let request = body(&serde_json::json!({"model": "auto", "messages": [
            {"role": "system", "content": system}, {"role": "user", "content": text}]}));
        let scorer = scorer();
        let (one, two) = (scorer.score(&request), scorer.score(&request));
        for value in [one.difficulty, one.p_local, one.p_hosted] {
            prop_assert!((0.0..=1.0).contains(&value));
        }
        prop_assert!(one.need.is_finite());
        prop_assert_eq!(one.need.to_bits(), two.need.to_bits());
        prop_assert_eq!(one.fingerprint, two.fingerprint);
    }

    #[test]
    fn longer_is_not_easier_all_else_equal(words in 1_usize..300, more in 1_usize..300) {
        let scorer = scorer();
        let short = scorer.score(&ask(&"zebra ".repeat(words)));
        let long = scorer.score(&ask(&"zebra ".repeat(words + more)));
        prop_assert!(long.difficulty >= short.difficulty);
        prop_assert!(long.need >= short.need);
    }
}

#[test]
fn functions_told_in_the_system_prompt_make_an_answer_structured() {
    let needs = |system: &str| {
        let need = |text: &str| {
            let messages = serde_json::json!([{"role": "system", "content": system}, {"role": "user", "content": text}]);
            scorer().score(&body(&serde_json::json!({"model": "auto", "messages": messages}))).need
        };
        need("Prove the theorem.") - need("Fetch my messages.")
    };
    let told = r#"Call one of: [{"name": "fetch", "parameters": {"type": "object", "properties": {}}}]"#;
    // How hard the matter is counts for little where a call is wanted.
    assert!(needs(told).abs() * 3.0 < needs("Be brief."), "{} {}", needs(told), needs("Be brief."));
}

/// The material that a long easy prompt carries.
fn material(name: &str) -> String {
    match name {
        "text" => "We met on Tuesday near the old harbour and talked about the summer. The boats were late, and nobody minded. ".repeat(20),
        "log" => (0..60)
            .map(|n| {
                format!(
                    "2026-03-{:02} 10:{n:02}:11 INFO web-{} served /index.html in {} ms to ann{n}@example.org\n",
                    n % 28 + 1,
                    n % 4,
                    n * 7 % 90
                )
            })
            .collect(),
        "csv" => (0..60).map(|n| format!("{n},Ann Lee {n},Lyon,{}\n", n * 13)).collect(),
        _ => (0..120).map(|n| format!("apple {}\n", n * 31 % 97)).collect(),
    }
}

#[test]
fn short_hard_prompts_rank_above_long_easy_ones() {
    let scorer = scorer();
    let (mut hard, mut easy) = (Vec::new(), Vec::new());
    for line in include_str!("cases.txt").lines() {
        let mut text = line.get(2..).unwrap_or_default().to_owned();
        for name in ["text", "log", "csv", "list"] {
            text = text.replace(&format!("{{{name}}}"), &format!("\n{}", material(name)));
        }
        match line.as_bytes().first() {
            Some(b'H') => hard.push((line, scorer.score(&ask(&text)))),
            Some(b'E') => easy.push((line, scorer.score(&ask(&text)))),
            _ => {}
        }
    }
    assert!(hard.len() >= 25 && easy.len() >= 25);
    for measure in [|score: &super::Score| score.need, |score: &super::Score| score.difficulty] {
        let pairs: Vec<_> = hard.iter().flat_map(|h| easy.iter().map(move |e| (h, e))).collect();
        let wrong: Vec<_> =
            pairs.iter().filter(|(h, e)| measure(&h.1) <= measure(&e.1)).map(|(h, e)| (h.0, measure(&h.1), e.0, measure(&e.1))).collect();
        assert!(wrong.len() * 10 <= pairs.len(), "{} of {} pairs wrong: {:#?}", wrong.len(), pairs.len(), &wrong[..wrong.len().min(60)]);
    }
}

/// Of the half of `open.txt` that no cue was tuned on: mathematics, code and reasoning, where a small model falls behind, against writing,
/// playing a part and the humanities, where it hardly does. `--nocapture` shows the figures of docs/routing.md.
#[test]
fn what_has_to_be_worked_out_ranks_above_free_writing() {
    // By how many points of ten a small model is thought to lose; public comparisons by kind of task say so.
    let gains = [("math", 2.0), ("coding", 2.0), ("reasoning", 2.0), ("extraction", 0.7), ("stem", 0.4)];
    let scorer = scorer();
    let (mut met, mut held) = (std::collections::HashMap::new(), Vec::new());
    for line in include_str!("open.txt").lines().filter(|line| !line.starts_with('#')) {
        let (kind, text) = line.split_once(": ").unwrap();
        let (text, nth) = (text.replace("\\n", "\n"), met.entry(kind).or_insert(0));
        *nth += 1;
        if *nth % 2 == 0 {
            let gain = gains.iter().find(|(of, _)| *of == kind).map_or(0.1, |(_, gain)| *gain);
            held.push((Scored { score: scorer.score(&ask(&text)).need.into(), weak: 0.0, strong: gain }, text));
        }
    }
    assert_eq!(held.len(), 40);
    let of = |low: f64, high: f64| held.iter().filter(move |(row, _)| (low..=high).contains(&row.strong));
    let pairs: Vec<_> = of(2.0, 2.0).flat_map(|hard| of(0.1, 0.1).map(move |free| (hard, free))).collect();
    let wrong: Vec<_> = pairs.iter().filter(|(hard, free)| hard.0.score <= free.0.score).collect();
    let by_router = measure(&held.iter().map(|(row, _)| *row).collect::<Vec<_>>()).apgr;
    let by_length = measure(&held.iter().map(|(row, text)| Scored { score: text.len() as f64, ..*row }).collect::<Vec<_>>()).apgr;
    println!("{} of {} pairs wrong; APGR {by_router:.3}, by length {by_length:.3}", wrong.len(), pairs.len());
    assert!(wrong.len() * 10 <= pairs.len(), "{} of {} pairs wrong: {wrong:#?}", wrong.len(), pairs.len());
}

#[test]
fn the_built_in_weights_are_there_and_written_as_read() {
    let weights = Weights::builtin();
    assert!(weights.forms().count() >= 2, "{}", weights.provenance);
    let bytes = weights.write();
    assert_eq!(Weights::read(&bytes).unwrap().version(), weights.version());
    for bad in [&bytes[..bytes.len() - 1], &bytes[..20], &bytes[1..], b""] {
        assert!(Weights::read(bad).is_err());
    }
}

#[test]
fn measures_agree_with_their_definitions() {
    let rows = |scores: [f64; 4]| -> Vec<Scored> {
        let outcomes = [(0.0, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)];
        scores.iter().zip(outcomes).map(|(score, (weak, strong))| Scored { score: *score, weak, strong }).collect()
    };
    // Worked by hand: q(c) goes 0.5, 0.75, 1, 1, 0.75 for the best order; the gap is 0.25.
    let best = measure(&rows([3.0, 1.0, 2.0, 0.0]));
    assert!((best.apgr - 1.375).abs() < 1e-12, "{best:?}");
    assert!((best.cpt50 - 12.5).abs() < 1e-9 && (best.auc - 1.0).abs() < 1e-12, "{best:?}");
    let constant = measure(&rows([7.0; 4]));
    assert!((constant.apgr - 0.5).abs() < 1e-12 && (constant.auc - 0.5).abs() < 1e-12, "{constant:?}");
    assert!((calibration_error(&[(0.8, 1.0), (0.8, 0.0)]) - 0.5).abs() < 1e-12);
    // Ten bins of 40 at a chance of a half: the mean of |N(0, 1/4/40)| is sqrt(2/pi) * 0.079.
    let fair: Vec<(f64, f64)> = (0..400).map(|at| (0.5, f64::from(at % 2))).collect();
    assert!((calibration_floor(&fair, 1) - 0.063).abs() < 0.004, "{}", calibration_floor(&fair, 1));
    assert_eq!(calibration_rms(&fair), 0.0);
    let wrong: Vec<(f64, f64)> = fair.iter().map(|(_, was)| (0.7, *was)).collect();
    assert!((calibration_rms(&wrong) - 0.2).abs() < 0.02, "{}", calibration_rms(&wrong));
}

#[test]
fn a_few_hundred_outcomes_calibrate() {
    let scorer = scorer();
    let mut random = Random(3);
    let mut last = Vec::new();
    for round in 0..700 {
        let hard = random.unit() < 0.5;
        let score = scorer
            .score(&ask(&format!("{} number {round}", if hard { "Rewrite the lease of house" } else { "Describe the garden of house" })));
        let usable = random.unit() < if hard { 0.2 } else { 0.9 };
        if round >= 500 {
            last.push((f64::from(score.p_local), f64::from(u8::from(usable))));
        }
        scorer.teach(&score, Outcome { local: true, usable, propensity: 1.0 });
    }
    assert!(calibration_error(&last) < 0.12, "{}", calibration_error(&last));
}
