//! What can be wrong with any text: loops, refusals, echoes, fences left open.

/// Bytes of text between two looks for a loop.
pub(super) const STEP: usize = 512;
/// A stream that repeats itself for this many bytes is stopped.
pub(super) const HOPELESS_BYTES: usize = 8192;
/// A finished answer that ends in this many bytes of repetition is looping.
const FINAL_BYTES: usize = 600;
/// The longest period that is looked for.
const PERIOD_MAX: usize = 512;

/// A tail that repeats itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loop {
    pub period: usize,
    /// Bytes of the tail that are periodic.
    pub length: usize,
}

impl Loop {
    fn repeats(&self) -> usize {
        self.length / self.period
    }

    /// So long that no one meant it: reading on is waste.
    pub(super) fn is_hopeless(&self) -> bool {
        self.length >= HOPELESS_BYTES && self.repeats() >= 16
    }

    /// Long enough for a finished answer to be flawed: an answer that stopped by itself must consist of it mostly.
    pub(super) fn is_flaw(&self, text: &str, by_length: bool) -> bool {
        let long = self.length >= if by_length { FINAL_BYTES } else { 2 * FINAL_BYTES };
        let words = text[floor(text, text.len() - self.period)..].chars().any(char::is_alphanumeric);
        long && self.repeats() >= 12 && (by_length || (words && self.length * 10 >= text.len() * 6))
    }

    pub(super) fn excerpt(&self, text: &str) -> String {
        let period = &text[floor(text, text.len() - self.period)..];
        excerpt(period, 60)
    }
}

/// The largest character boundary at or below `at`.
pub(super) fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The repetition a text ends in: the smallest period of its last bytes, and how far back it holds.
///
/// `back_max` bounds the look back, in bytes: a stream is looked at again and again, a finished answer once.
pub(super) fn loop_at_end(text: &[u8], back_max: usize) -> Option<Loop> {
    let probe = 24.min(text.len() / 2);
    if probe < 8 {
        return None;
    }
    let needle = &text[text.len() - probe..];
    let window = &text[text.len().saturating_sub(PERIOD_MAX + probe)..text.len() - 1];
    // The last place is wanted, mostly in vain: its last byte is looked for, many bytes at once.
    let last = text[text.len() - 1];
    let ends = memchr::memrchr_iter(last, window).take_while(|at| *at + 1 >= probe);
    let found = ends.map(|at| at + 1 - probe).find(|from| window[*from..].starts_with(needle))?;
    let period = window.len() + 1 - probe - found;
    let length =
        (period..text.len().min(back_max)).take_while(|back| text[text.len() - 1 - back] == text[text.len() - 1 - (back - period)]).count()
            + period;
    (length >= 4 * period).then_some(Loop { period, length })
}

/// The text ends in so much repetition that reading on is waste: what stops a stream, for those who write whole answers.
#[must_use]
pub fn loops_on(text: &str) -> bool {
    loop_at_end(text.as_bytes(), 2 * HOPELESS_BYTES).is_some_and(|found| found.is_hopeless())
}

/// The first characters of a text, cut at `chars`.
pub(crate) fn excerpt(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How a model says no.
const REFUSALS: [&str; 26] = [
    "i can't assist",
    "i cannot assist",
    "i can't help",
    "i cannot help",
    "i can't fulfill",
    "i cannot fulfill",
    "i can't provide",
    "i cannot provide",
    "i can't comply",
    "i cannot comply",
    "i can't create",
    "i cannot create",
    "i can't generate",
    "i cannot generate",
    "i'm unable to",
    "i am unable to",
    "i am not able to",
    "i'm not able to",
    "i must decline",
    "i have to decline",
    "i won't be able to",
    "i will not",
    "as an ai language model",
    "as an ai model",
    "against my guidelines",
    "i'm sorry, but",
];

/// A text that declines: it is short, holds no JSON, and says so at its start.
pub(crate) fn is_refusal(text: &str) -> bool {
    let start = text[..floor(text, 320)].trim_start().replace('’', "'").to_lowercase();
    text.len() < 2000 && REFUSALS.iter().any(|phrase| start.contains(phrase))
        || start.starts_with("i'm sorry")
        || start.starts_with("i apologize")
}

/// A short text that is nothing but a no: stricter than [`is_refusal`], since an apology may stand in a document.
pub(super) fn declines(text: &str) -> bool {
    let start = text[..floor(text, 200)].trim_start().replace('’', "'").to_lowercase();
    let sorry =
        ["i'm sorry", "i am sorry", "sorry,", "i apologize", "apologies", "unfortunately"].iter().any(|word| start.starts_with(word));
    let cannot = ["can't", "cannot", "can not", "unable to", "not able to", "won't", "will not"].iter().any(|word| start.contains(word));
    let first = [
        "i can't ",
        "i cannot ",
        "i'm unable to ",
        "i am unable to ",
        "unable to generate",
        "as an ai",
        "i must decline",
        "could not generate",
    ];
    (sorry && cannot) || first.iter().any(|word| start.starts_with(word)) || start.starts_with("error: ") && !text.contains('\n')
}

/// Equal but for blanks and case.
pub(super) fn same_words(one: &str, other: &str) -> bool {
    let words = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>();
    // Short prompts come back rightly ("Say OK").
    other.len() >= 40 && one.len().abs_diff(other.len()) <= other.len() / 4 + 16 && words(one) == words(other)
}

/// The answer proper: what follows a block of thinking.
pub(super) fn after_thought(text: &str) -> &str {
    let trimmed = text.trim_start();
    for (open, close) in [("<think>", "</think>"), ("<thinking>", "</thinking>")] {
        if let Some(inner) = trimmed.strip_prefix(open) {
            return inner.find(close).map_or("", |at| &inner[at + close.len()..]);
        }
    }
    text
}

/// A fenced block of a Markdown text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fence<'a> {
    /// The first word behind the opening fence.
    pub label: &'a str,
    pub code: &'a str,
    pub closed: bool,
    /// Line of the first line of code, from 1.
    pub line: usize,
}

/// The fenced blocks of a text.
pub(super) fn fences(text: &str) -> Vec<Fence<'_>> {
    let mut fences = Vec::new();
    let mut open: Option<(usize, usize, &str, usize)> = None;
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let trimmed = line.trim();
        let ticks = trimmed.len() - trimmed.trim_start_matches('`').len();
        let begin = at;
        at += line.len();
        match open {
            None if ticks >= 3 && !trimmed[ticks..].contains('`') => {
                let label = trimmed[ticks..].split(|c: char| c.is_whitespace() || c == ',' || c == '{').next().unwrap_or("");
                open = Some((ticks, at, label, number + 2));
            }
            Some((fence, start, label, line)) if ticks >= fence && trimmed.len() == ticks => {
                fences.push(Fence { label, code: &text[start..begin], closed: true, line });
                open = None;
            }
            _ => {}
        }
    }
    if let Some((_, start, label, line)) = open {
        fences.push(Fence { label, code: &text[start.min(text.len())..], closed: false, line });
    }
    fences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_loops_and_spares_the_rest() {
        let looping = format!("Start. {}", "I do not know what to say. ".repeat(400));
        assert!(loop_at_end(looping.as_bytes(), usize::MAX).is_some_and(|found| found.is_hopeless() && found.period == 27));
        assert!(loop_at_end(("x".repeat(50) + "\n").repeat(3).as_bytes(), usize::MAX).is_none_or(|found| !found.is_hopeless()));
        let table: String = (0..400).map(|n| format!("| row {n} | value |\n")).collect();
        assert_eq!(loop_at_end(table.as_bytes(), usize::MAX), None);
        let prose = "The quick brown fox jumps over the lazy dog, and then it sleeps for a while under the old tree by the river.";
        assert_eq!(loop_at_end(prose.as_bytes(), usize::MAX), None);
    }

    #[test]
    fn fences_are_found_with_their_labels() {
        let text = "Here:\n```python title=x\nprint(1)\n```\nand\n````md\n```\n````\n```rust\nfn";
        let found: Vec<(&str, &str, bool)> = fences(text).into_iter().map(|fence| (fence.label, fence.code, fence.closed)).collect();
        assert_eq!(found, [("python", "print(1)\n", true), ("md", "```\n", true), ("rust", "fn", false)]);
    }
}
