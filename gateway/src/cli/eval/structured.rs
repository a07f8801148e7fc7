//! Simulated structured requests: few tasks, each asked again and again about other contexts in one user message, and a weak
//! model whose success depends on the task. Nothing here is measured on a real model.

use spectra_router::score::metrics::{Random, Scored, measure};
use spectra_router::score::train::Row;

use super::simulation::WORDS;

/// What is asked, the format that is spelled out, and how often the weak model keeps to it.
const TASKS: [(&str, &str, f64); 7] = [
    ("Answer the question with the help of the context.", r#"{"answer": "string"}"#, 0.99),
    ("Rate how useful the context is for the question, from 0 to 5.", r#"{"context_score": "int (0-5)"}"#, 0.99),
    ("Decide whether the context answers the question.", r#"{"answerable": "bool"}"#, 0.98),
    ("Write three paraphrases of the question.", r#"{"paraphrases": ["string", "string", "string"]}"#, 0.90),
    ("Answer the question and say how sure you are.", r#"{"answer": "string", "confidence": "int (0-5)"}"#, 0.75),
    ("Give several answers with a confidence each.", r#"[{"answer": "string", "confidence": "int (0-5)"}]"#, 0.35),
    ("Judge the answer's faithfulness and relevance.", r#"{"faithfulness": "float", "relevance": "float"}"#, 0.07),
];
const STRONG: f64 = 0.994;
const CONTEXTS: usize = 112;

/// Every task about every context, and the APGR of knowing each task's rate.
pub(super) fn rows(seed: u64) -> (Vec<Row>, f64) {
    let mut random = Random(seed ^ 0x57C7);
    let mut rows = Vec::with_capacity(CONTEXTS * TASKS.len());
    let mut known = Vec::with_capacity(CONTEXTS * TASKS.len());
    for _ in 0..CONTEXTS {
        let (length, asked) = (20 + random.below(160), 4 + random.below(10));
        let (context, question) = (text(length, &mut random), text(asked, &mut random));
        for (task, format, rate) in TASKS {
            let prompt =
                format!("Task: {task}\n\nContext: {context}.\n\nQuestion: {question}?\n\nRespond with JSON in this format: {format}");
            // A long context costs a little.
            let chance = rate - if length > 120 { 0.05 } else { 0.0 };
            let [weak, strong] = [chance, STRONG].map(|chance| f32::from(u8::from(random.unit() < chance)));
            known.push(Scored { score: -rate, weak: f64::from(weak), strong: f64::from(strong) });
            rows.push(Row { prompt, weak_score: weak, strong_score: strong, ..Row::default() });
        }
    }
    (rows, measure(&known).apgr)
}

fn text(words: usize, random: &mut Random) -> String {
    let picked: Vec<&str> = (0..words).map(|_| WORDS[random.below(WORDS.len())]).collect();
    picked.join(" ")
}
