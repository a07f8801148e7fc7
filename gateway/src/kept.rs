//! Prompts and answers, for an operator who chose to keep them (`accounting.keep_text`): the texts of messages only, never
//! headers, and of each so many bytes at most.

use spectra_backends::{chat, chunk};

/// Most bytes kept of a prompt, and of an answer.
const MOST: usize = 16 << 10;
/// Stands for what was left out.
const GAP: &str = " […] ";

/// The text of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptText {
    pub prompt: String,
    pub answer: String,
}

impl KeptText {
    #[must_use]
    pub fn of(request: &chat::View) -> Self {
        let mut prompt = String::new();
        for message in &request.messages {
            prompt += if prompt.is_empty() { "" } else { "\n" };
            prompt += message.role.as_str();
            prompt += ": ";
            prompt += &message.text;
            for media in &message.media {
                prompt += &format!(" [{media}]");
            }
            message.tool_calls.iter().for_each(|call| tool_call(call, &mut prompt));
        }
        Self { prompt: middle_out(prompt), answer: String::new() }
    }

    /// Adds what a chunk says; of several choices the first.
    pub fn add(&mut self, chunk: &chunk::View) {
        if self.answer.len() >= MOST {
            return;
        }
        for choice in chunk.choices.iter().filter(|choice| choice.index == 0) {
            self.answer.extend(choice.content.iter().chain(&choice.refusal).map(String::as_str));
            choice.tool_calls.iter().for_each(|call| tool_call(call, &mut self.answer));
        }
        if self.answer.len() > MOST {
            self.answer.truncate(self.answer.floor_char_boundary(MOST));
            self.answer += GAP;
        }
    }
}

/// A call or a piece of one: `name {"its":"arguments"}`.
fn tool_call(call: &chunk::ToolDelta, text: &mut String) {
    if let Some(name) = &call.name {
        *text += &format!("\n{name} ");
    }
    text.extend(call.arguments.as_deref());
}

/// The begin and the end of a long text: the question is mostly at the end.
fn middle_out(mut text: String) -> String {
    if text.len() > MOST {
        let (from, to) = (text.floor_char_boundary(MOST / 2), text.ceil_char_boundary(text.len() - MOST / 2));
        text.replace_range(from..to, GAP);
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use spectra_backends::{ChatRequest, Chunk};

    use super::*;

    fn prompt(text: &str) -> String {
        let body = serde_json::json!({ "model": "m", "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": text }] });
        KeptText::of(ChatRequest::parse(Bytes::from(body.to_string())).unwrap().view()).prompt
    }

    #[test]
    fn messages_are_kept_with_their_roles_and_long_ones_lose_their_middle() {
        assert_eq!(prompt("Hi"), "system: Be brief.\nuser: Hi");
        let long = prompt(&("ä".repeat(MOST) + "?"));
        assert!(long.len() <= MOST + GAP.len() && long.starts_with("system") && long.ends_with("ä?") && long.contains(GAP));
    }

    #[test]
    fn an_answer_is_joined_from_its_chunks_and_bounded() {
        let mut kept = KeptText::default();
        for text in ["Hel".to_owned(), "lo".to_owned(), "ö".repeat(2 * MOST), "never".to_owned()] {
            let data = serde_json::json!({ "choices": [{ "index": 0, "delta": { "content": text } }, { "index": 1, "delta": { "content": "other" } }] });
            kept.add(&Chunk::parse(Bytes::from(data.to_string())).unwrap().view);
        }
        assert!(kept.answer.starts_with("Helloö") && kept.answer.ends_with(GAP) && kept.answer.len() <= MOST + GAP.len());
        assert!(!kept.answer.contains("never") && !kept.answer.contains("other"));
    }
}
