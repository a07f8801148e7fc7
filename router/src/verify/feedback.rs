//! What to tell a model about its flawed answer, and what to change for the next ask.

use super::{Flaw, text};

/// What the next ask should change, besides being told what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Go on from the text so far.
    Continue,
    /// A higher token limit, or a smaller task.
    MoreTokens,
    /// The same model under a grammar.
    Constrain,
    /// The errors in a message are enough.
    Tell,
    /// Another temperature: the model is caught in its own words.
    Reheat,
    /// Another model: this one does not want or does not know.
    Escalate,
    /// The request as it was, elsewhere: the fault was not the answer's.
    Elsewhere,
}

/// What promises most for a flaw.
#[must_use]
pub fn next_ask_hint(flaw: &Flaw) -> Hint {
    match flaw {
        Flaw::Truncated { bytes: 0, .. } => Hint::MoreTokens,
        Flaw::Truncated { .. } => Hint::Continue,
        Flaw::NotJson { .. } | Flaw::OffSchema { .. } => Hint::Constrain,
        Flaw::BadToolCall { .. } | Flaw::BadCode { .. } | Flaw::Placeholder { .. } | Flaw::Custom { .. } => Hint::Tell,
        Flaw::Empty | Flaw::Looping { .. } | Flaw::Echo => Hint::Reheat,
        Flaw::Refused { .. } | Flaw::Unsure { .. } => Hint::Escalate,
        Flaw::Backend(_) => Hint::Elsewhere,
    }
}

/// The text of a re-ask: what was wrong, where, and what to do instead.
#[must_use]
pub fn feedback(flaw: &Flaw, answer_excerpt: &str) -> String {
    let quoted = |at: usize| {
        let around = around(answer_excerpt, at);
        if around.is_empty() { String::new() } else { format!("\nThe offending part:\n{around}\n") }
    };
    match flaw {
        Flaw::NotJson { at, why } => format!(
            "Your previous answer could not be read as JSON: {why} (byte {at}).{}Answer again with the complete JSON value only: no prose, no code fence, no comments, nothing left out.",
            quoted(*at)
        ),
        Flaw::OffSchema { errors } => format!(
            "Your previous answer was JSON, but it does not fit the required schema:\n{}\nAnswer again with the complete, corrected JSON value only.",
            listed(errors)
        ),
        Flaw::Truncated { .. } => "Your previous answer was cut off. Answer again, complete and as briefly as the task allows.".into(),
        Flaw::BadToolCall { name, why } if name.is_empty() => {
            format!("Your previous answer was not usable: {why}. Call one of the given tools.")
        }
        Flaw::BadToolCall { name, why } => {
            format!("Your previous call of the tool {name} was not usable: {why}. Call it again with arguments that fit its schema.")
        }
        Flaw::BadCode { language, line, why } => format!(
            "The {language} code of your previous answer does not parse (line {line}: {why}). Answer again with complete code that parses."
        ),
        Flaw::Placeholder { at, why } => format!(
            "Your previous answer holds a placeholder instead of content{}: {why}. Answer again with the full, working content everywhere; leave nothing out.",
            if at.is_empty() { String::new() } else { format!(" in {at}") }
        ),
        Flaw::Empty => "Your previous answer was empty. Answer the request in full.".into(),
        Flaw::Looping { excerpt, .. } => {
            format!("Your previous answer repeated itself without end ({excerpt:?}). Answer again, without repetition.")
        }
        Flaw::Echo => "Your previous answer only repeated the question or the schema. Answer the request itself.".into(),
        Flaw::Custom { check, why } => format!("Your previous answer failed the check \"{check}\": {why}. Answer again so that it passes."),
        Flaw::Refused { .. } | Flaw::Unsure { .. } | Flaw::Backend(_) => {
            "Answer the request again, in full and in the required form.".into()
        }
    }
}

fn listed(errors: &[String]) -> String {
    errors.iter().map(|error| format!("- {error}")).collect::<Vec<_>>().join("\n")
}

/// The text around an offset, at most 160 bytes of it.
fn around(answer: &str, at: usize) -> &str {
    let from = text::floor(answer, at.saturating_sub(60));
    let to = text::floor(answer, at.saturating_add(100));
    answer.get(from..to).unwrap_or("")
}
