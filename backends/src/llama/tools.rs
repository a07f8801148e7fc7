//! Tool calls as model families write them: told apart by their template, read back into OpenAI's form, forced by a grammar.

mod grammar;
mod reader;

use serde_json::json;

use crate::chat::{Message, Role, Tool};

pub use grammar::grammar;
pub use reader::{Reader, Said};

/// How a family writes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Qwen, Hermes, and what we teach models that know no tools.
    Tagged,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …}, …]`: Mistral from v0.3.
    Listed,
    /// `{"name": …, "parameters": …}` and nothing else: Llama 3.
    Bare,
}

impl Style {
    /// The style of a chat template; `None` if it knows no tools, and they have to be explained in words (`explain`).
    #[must_use]
    pub fn of(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            None
        } else if template.contains("[TOOL_CALLS]") {
            Some(Self::Listed)
        } else if template.contains("<tool_call>") {
            Some(Self::Tagged)
        } else if template.contains("\"parameters\"") || template.contains("python_tag") {
            Some(Self::Bare)
        } else {
            None
        }
    }

    fn arguments_key(self) -> &'static str {
        match self {
            Self::Bare => "parameters",
            Self::Tagged | Self::Listed => "arguments",
        }
    }

    /// The text a call begins with; `Bare` has none, the answer itself is the call.
    fn opening(self) -> &'static str {
        match self {
            Self::Tagged => "<tool_call>",
            Self::Listed => "[TOOL_CALLS]",
            Self::Bare => "",
        }
    }
}

/// A function tool as OpenAI writes it, for templates and explanations.
pub(super) fn described(tool: &Tool) -> serde_json::Value {
    let parameters = tool.parameters.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let parameters: serde_json::Value = parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
    let description = tool.description.as_deref().unwrap_or_default();
    json!({ "type": "function", "function": { "name": tool.name, "description": description, "parameters": parameters } })
}

/// For templates that know no tools: the same conversation, with tools, calls and results in words of the `Tagged` style.
#[must_use]
pub fn explain(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut out: Vec<Message> = messages.iter().map(in_words).collect();
    if tools.is_empty() {
        return out;
    }
    let list: Vec<String> = tools.iter().map(|tool| described(tool).to_string()).collect();
    let text = format!(
        "You may call functions to help with the request. The functions, one JSON object a line:\n<tools>\n{}\n</tools>\n\
         To call one, answer with its name and arguments as JSON between tags, and nothing else:\n\
         <tool_call>\n{{\"name\": \"function name\", \"arguments\": {{}}}}\n</tool_call>",
        list.join("\n")
    );
    match out.first_mut().filter(|first| matches!(first.role, Role::System | Role::Developer)) {
        Some(system) => system.text = format!("{}\n\n{text}", system.text),
        None => {
            out.insert(0, Message { role: Role::System, text, name: None, tool_calls: Vec::new(), tool_call_id: None, media: Vec::new() })
        }
    }
    out
}

fn in_words(message: &Message) -> Message {
    let mut message = message.clone();
    for call in std::mem::take(&mut message.tool_calls) {
        let name = json!(call.name.unwrap_or_default());
        let arguments = call.arguments.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "{}".into());
        let gap = if message.text.is_empty() { "" } else { "\n" };
        message.text = format!("{}{gap}<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>", message.text);
    }
    if matches!(message.role, Role::Tool | Role::Function) {
        message.role = Role::User;
        message.text = format!("<tool_response>\n{}\n</tool_response>", message.text);
    }
    message
}

/// Mistral's templates accept call ids of nine letters and digits only.
#[must_use]
pub(super) fn nine_letters(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    // FNV-1a: the same id becomes the same nine letters in the call and in its result.
    let mut hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (0..9)
        .map(|_| {
            let letter = b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::try_from(hash % 36).unwrap_or(0)];
            hash /= 36;
            char::from(letter)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_apart() {
        for (template, style) in [
            ("{{ messages }}", None),
            ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", Some(Style::Listed)),
            ("{% if tools %}<tools>{% endif %}<tool_call>", Some(Style::Tagged)),
            ("{% if tools %}Environment: ipython{% endif %}'{\"name\": ' '\"parameters\": '", Some(Style::Bare)),
            ("{% if tools %}how?{% endif %}", None),
        ] {
            assert_eq!(Style::of(template), style, "{template}");
        }
    }

    #[test]
    fn ids_become_nine_letters_and_stay_equal() {
        assert_eq!(nine_letters("abcDEF123"), "abcDEF123");
        let id = nine_letters("call_8f3a9b");
        assert!(id.len() == 9 && id == nine_letters("call_8f3a9b") && id != nine_letters("call_8f3a9c"), "{id}");
    }
}
