//! The conversation: read in one pass where all is well, and again message by message only to say what is wrong.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fields_of::{invalid, missing, wrong_type};
use super::{BadRequest, Envelope, Message, Role};
use crate::chunk::ToolDelta;

const ROLES: &str = "one of 'system', 'developer', 'user', 'assistant', 'tool', 'function'";

pub(super) fn messages(body: &Envelope<'_>) -> Result<Vec<Message>, BadRequest> {
    let text = body.text("messages").ok_or_else(|| missing("messages"))?;
    // Prompts are most of the bytes there are to read.
    if let Ok(list) = serde_json::from_str::<Vec<Sound>>(text)
        && !list.is_empty()
    {
        return Ok(list.into_iter().map(|sound| sound.0).collect());
    }
    let list: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| wrong_type("messages", "an array of objects", text))?;
    if list.is_empty() {
        return Err(BadRequest::new(
            "empty_array",
            "messages".to_owned(),
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ));
    }
    list.iter().enumerate().map(|(at, raw)| message(at, raw.get())).collect()
}

/// A message on the wire; `R` and `C` are what is made of its role and content.
#[derive(serde::Deserialize)]
struct Wire<R, C> {
    role: Option<R>,
    content: Option<C>,
    name: Option<String>,
    tool_calls: Option<Vec<Call>>,
    tool_call_id: Option<String>,
}

#[derive(serde::Deserialize)]
struct Call {
    id: Option<String>,
    function: Option<Function>,
}

#[derive(serde::Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

impl<R, C> Wire<R, C> {
    fn into_message(self, role: Role, content: Content) -> Message {
        let calls = self.tool_calls.unwrap_or_default().into_iter().zip(0..);
        let tool_calls = calls.map(|(call, index)| {
            let (name, arguments) = call.function.map_or((None, None), |function| (function.name, function.arguments));
            ToolDelta { index, id: call.id, name, arguments }
        });
        Message {
            role,
            text: content.text,
            name: self.name,
            tool_calls: tool_calls.collect(),
            tool_call_id: self.tool_call_id,
            media: content.media,
        }
    }
}

/// Reads one message slowly, for the error it has.
fn message(at: usize, text: &str) -> Result<Message, BadRequest> {
    let path = |field: &str| format!("messages[{at}]{field}");
    if !text.trim_start().starts_with('{') {
        return Err(wrong_type(&path(""), "an object", text));
    }
    let wire: Wire<&RawValue, &RawValue> = serde_json::from_str(text)
        .map_err(|error| BadRequest::new("invalid_type", path(""), format!("Invalid '{}': {error}.", path(""))))?;
    let role = wire.role.ok_or_else(|| missing(&path(".role")))?.get();
    let word: String = serde_json::from_str(role).map_err(|_| wrong_type(&path(".role"), ROLES, role))?;
    let role =
        Role::parse(&word).ok_or_else(|| invalid(path(".role"), format!("Invalid value: '{word}'. Supported values are {ROLES}.")))?;
    let content = match wire.content.map(RawValue::get) {
        None | Some("null") if role == Role::Assistant => Content::default(),
        None | Some("null") => return Err(missing(&path(".content"))),
        Some(content) => {
            serde_json::from_str(content).map_err(|_| wrong_type(&path(".content"), "a string or an array of parts", content))?
        }
    };
    Ok(wire.into_message(role, content))
}

/// A message without fault.
struct Sound(Message);

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        // By a visitor of its own: serde's would take an array of the fields for the object too.
        impl<'de> Visitor<'de> for Object {
            type Value = Sound;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Sound, A::Error> {
                let mut wire: Wire<Role, Content> = Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                match (wire.role.take(), wire.content.take()) {
                    (Some(role), Some(content)) => Ok(Sound(wire.into_message(role, content))),
                    (Some(role @ Role::Assistant), None) => Ok(Sound(wire.into_message(role, Content::default()))),
                    _ => Err(A::Error::custom("incomplete")),
                }
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Text<'_> = Deserialize::deserialize(deserializer)?;
        Self::parse(&text.0).ok_or_else(|| D::Error::custom("no role"))
    }
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text of a message's content and the types of its other parts.
#[derive(Default)]
struct Content {
    text: String,
    media: Vec<String>,
}

#[derive(serde::Deserialize)]
struct Part {
    r#type: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

impl Content {
    /// `None` for a part that is of no type and says nothing.
    fn add(&mut self, part: Part) -> Option<()> {
        match (part.r#type.as_deref(), part.text.or(part.refusal)) {
            (Some("text" | "input_text" | "refusal") | None, Some(piece)) => {
                if !self.text.is_empty() {
                    self.text.push('\n');
                }
                self.text.push_str(&piece);
            }
            (kind, _) => self.media.push(kind?.to_owned()),
        }
        Some(())
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content { text: text.to_owned(), media: Vec::new() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut content = Content::default();
                while let Some(part) = parts.next_element()? {
                    content.add(part).ok_or_else(|| A::Error::custom("a part without type and text"))?;
                }
                Ok(content)
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways of reading agree, or the first declines.
    #[test]
    fn one_pass_reads_what_the_careful_one_reads() {
        for text in [
            r#"{"role":"user","content":"h\u00e9 \n","name":"n","odd":[1]}"#,
            r#"{"content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{}},{"text":"b"}],"role":"user"}"#,
            r#"{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}},{}]}"#,
            r#"{"role":"assistant","content":null}"#,
            r#"{"role":"\u0075ser","content":""}"#,
            r#"{"role":"user","content":null}"#,
            r#"{"role":"user","content":7}"#,
            r#"{"role":"user","content":[{}]}"#,
            r#"{"role":"king","content":"x"}"#,
            r#"{"role":null,"content":"x"}"#,
            r#"{"role":"user","role":"user","content":"x"}"#,
            r#"["user","x",null,null,null]"#,
            r#"{"content":"x"}"#,
            "7",
        ] {
            let quick = serde_json::from_str::<Sound>(text).map(|sound| sound.0);
            assert_eq!(quick.ok(), message(0, text).ok(), "{text}");
        }
    }
}
