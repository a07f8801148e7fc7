//! What models put around an answer: byte order marks, thinking, end tokens.

use super::Stage;

/// The answer's place in a text.
#[derive(Debug)]
pub(super) struct Peeled {
    pub start: usize,
    pub end: usize,
    pub stages: Vec<Stage>,
    /// A `<think>` that was never closed: there is no answer yet.
    pub unfinished_thought: bool,
}

/// Blocks of thinking, by their tags.
const THOUGHTS: [(&str, &str); 7] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
];

/// What models print when they should have stopped.
const END_TOKENS: [&str; 16] = [
    "</s>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|im_start|>",
    "<end_of_turn>",
    "<eos>",
    "<EOS>",
    "[/INST]",
    "<｜end▁of▁sentence｜>",
    "<|EOT|>",
    "<|END_OF_TURN_TOKEN|>",
];

/// The end token that `rest` starts with.
pub(super) fn end_token(rest: &str) -> Option<&'static str> {
    if !rest.starts_with(['<', '[']) {
        return None;
    }
    END_TOKENS.into_iter().find(|token| rest.starts_with(token))
}

/// Finds the answer inside what surrounds it.
pub(super) fn peel(text: &str) -> Peeled {
    let mut peeled = Peeled { start: 0, end: text.len(), stages: Vec::new(), unfinished_thought: false };
    let bare = text.trim_start_matches('\u{feff}');
    if bare.len() < text.len() {
        peeled.start = text.len() - bare.len();
        peeled.stages.push(Stage::ByteOrderMark);
    }
    while let Some(after) = thought(&text[peeled.start..]) {
        peeled.stages.push(Stage::Thinking);
        match after {
            Some(after) => peeled.start += after,
            None => {
                peeled.unfinished_thought = true;
                return peeled;
            }
        }
    }
    while let Some(token) = trailing_token(&text[peeled.start..peeled.end]) {
        peeled.end = peeled.start + text[peeled.start..peeled.end].trim_end().len() - token.len();
        peeled.stages.push(Stage::EndTokens);
    }
    peeled
}

/// The end of a block of thinking at the start: `Some(None)` if it does not end.
fn thought(text: &str) -> Option<Option<usize>> {
    let trimmed = text.trim_start();
    let lead = text.len() - trimmed.len();
    if let Some((open, close)) = THOUGHTS.iter().find(|(open, _)| trimmed.starts_with(open)) {
        return Some(trimmed[open.len()..].find(close).map(|at| lead + open.len() + at + close.len()));
    }
    // Templates that open the block in the prompt leave only its end in the answer.
    if trimmed.starts_with(['{', '[', '"', '`']) {
        return None;
    }
    let close = "</think>";
    let at = trimmed.find(close).filter(|at| !trimmed[..*at].contains("<think>"))?;
    Some(Some(lead + at + close.len()))
}

fn trailing_token(text: &str) -> Option<&'static str> {
    let trimmed = text.trim_end();
    if !trimmed.ends_with(['>', ']']) {
        return None;
    }
    END_TOKENS.into_iter().find(|token| trimmed.ends_with(token))
}
