//! What one choice has said so far: plain text, or text and tool calls read out of it.

use serde_json::{Value, json};
use spectra_backends::chat::{ToolChoice, View};
use spectra_backends::llama::{Ended, Reader, Said};

use super::{Loaded, random};

/// One choice.
pub(super) struct Voice {
    reader: Option<Reader>,
    text: String,
    calls: Vec<Call>,
}

struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// Whether the answer may be a tool call.
pub(super) fn calls_tools(view: &View) -> bool {
    !view.tools.is_empty() && view.tool_choice != ToolChoice::None
}

impl Voice {
    /// One for each choice.
    pub(super) fn all(loaded: &Loaded, view: &View, count: usize) -> Vec<Self> {
        let names: Vec<String> = view.tools.iter().map(|tool| tool.name.clone()).collect();
        let style = loaded.prompt.as_ref().ok().map(spectra_backends::llama::Prompt::style).filter(|_| calls_tools(view));
        let reader = || style.map(|style| Reader::new(style, names.clone()));
        (0..count).map(|_| Self { reader: reader(), text: String::new(), calls: Vec::new() }).collect()
    }

    /// The content of the chunk that names the role: with tools, whether there will be any is not known yet.
    pub(super) fn first_content(&self) -> Value {
        if self.reader.is_some() { Value::Null } else { json!("") }
    }

    /// Takes in more text; the deltas it becomes.
    pub(super) fn say(&mut self, text: &str) -> Vec<Value> {
        match &mut self.reader {
            None => {
                self.text.push_str(text);
                vec![json!({ "content": text })]
            }
            Some(reader) => {
                let said = reader.push(text);
                self.take(said)
            }
        }
    }

    /// The end of the text.
    pub(super) fn end(&mut self) -> Vec<Value> {
        let said = self.reader.as_mut().map(Reader::finish).unwrap_or_default();
        self.take(said)
    }

    pub(super) fn finish(&self, how: Ended) -> &'static str {
        match how {
            Ended::Length => "length",
            Ended::Stop if self.calls.is_empty() => "stop",
            Ended::Stop => "tool_calls",
        }
    }

    /// The message of a whole answer.
    pub(super) fn message(&self) -> Value {
        if self.calls.is_empty() {
            return json!({ "role": "assistant", "content": self.text, "refusal": null });
        }
        let call =
            |call: &Call| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } });
        let content = if self.text.is_empty() { Value::Null } else { json!(self.text) };
        let calls: Vec<Value> = self.calls.iter().map(call).collect();
        json!({ "role": "assistant", "content": content, "refusal": null, "tool_calls": calls })
    }

    fn take(&mut self, said: Vec<Said>) -> Vec<Value> {
        said.into_iter().map(|said| self.delta(said)).collect()
    }

    fn delta(&mut self, said: Said) -> Value {
        match said {
            Said::Text(text) => {
                self.text.push_str(&text);
                json!({ "content": text })
            }
            Said::Call { index, name } => {
                let id = format!("call_{:016x}", random());
                let function = json!({ "name": name, "arguments": "" });
                let delta = json!({ "tool_calls": [{ "index": index, "id": id, "type": "function", "function": function }] });
                self.calls.push(Call { id, name, arguments: String::new() });
                delta
            }
            Said::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(index as usize) {
                    call.arguments.push_str(&text);
                }
                json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
            }
        }
    }
}
