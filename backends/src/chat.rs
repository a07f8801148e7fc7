//! A chat request: the bytes as the caller sent them, and the fields we read of them.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::chunk::ToolDelta;
use crate::splice::{Edit, Field, fields, spliced};

mod fields_of;
mod messages;

/// What a caller asked, kept byte for byte; the rest was read from `raw` once.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    raw: Bytes,
    read: Arc<Read>,
}

#[derive(Debug)]
struct Read {
    view: View,
    /// Where the top-level fields stand in `raw`.
    fields: Vec<Field>,
}

/// The fields we read. Absent and `null` are the same here, as they are to OpenAI.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub model: String,
    pub messages: Vec<Message>,
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    pub n: u32,
    /// `max_completion_tokens`, or `max_tokens` where only that is given.
    pub max_tokens: Option<u32>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    /// Extensions of local servers, as llama-server and vLLM spell them.
    pub top_k: Option<u32>,
    pub min_p: Option<f64>,
    pub repeat_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub logit_bias: Vec<(u32, f64)>,
    pub seed: Option<i64>,
    pub stop: Vec<String>,
    pub logprobs: bool,
    pub top_logprobs: Option<u32>,
    pub format: Format,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    /// `None`: the caller did not say (OpenAI's default is true).
    pub parallel_tool_calls: Option<bool>,
    /// Names of fields that are not read here, in their order: a route that cannot honour one is excluded.
    pub unread: Vec<String>,
}

/// One message; its text parts joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub text: String,
    pub name: Option<String>,
    pub tool_calls: Vec<ToolDelta>,
    pub tool_call_id: Option<String>,
    /// Parts that are not text, by their `type` (`image_url`, `input_audio`, `file`, …).
    pub media: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
    Function,
}

impl Role {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            "tool" => Self::Tool,
            "function" => Self::Function,
            _ => return None,
        })
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Function => "function",
        }
    }
}

/// What `response_format` asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Format {
    #[default]
    Text,
    JsonObject,
    JsonSchema {
        name: String,
        /// The schema's own text, so that its key order survives into a grammar. `None`: any JSON.
        schema: Option<Arc<str>>,
        strict: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments, as text. `None`: no arguments described.
    pub parameters: Option<Arc<str>>,
    pub strict: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// Not said: `auto` with tools, `none` without.
    #[default]
    Unset,
    None,
    Auto,
    Required,
    Named(String),
}

/// A request refused at the door. Becomes a 400 with `param` and `code`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    pub message: String,
    /// The field at fault, in OpenAI's path spelling (`messages[0].role`).
    pub param: Option<String>,
    /// Stable, for programs: `invalid_json`, `missing_required_parameter`, `invalid_type`, `invalid_value`, …
    pub code: &'static str,
}

impl BadRequest {
    pub fn new(code: &'static str, param: impl Into<Option<String>>, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: param.into(), code }
    }
}

impl ChatRequest {
    /// Reads a chat completion body.
    ///
    /// # Errors
    /// `BadRequest` for text that is not a JSON object, a repeated field, a missing or ill-typed field that we read.
    pub fn parse(raw: Bytes) -> Result<Self, BadRequest> {
        let envelope = Envelope::open(&raw)?;
        let view = fields_of::view(&envelope)?;
        let read = Arc::new(Read { view, fields: envelope.fields });
        Ok(Self { raw, read })
    }

    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    #[must_use]
    pub fn view(&self) -> &View {
        &self.read.view
    }

    /// The text of the user's last message; empty where there is none.
    #[must_use]
    pub fn last_user_text(&self) -> &str {
        self.view().messages.iter().rev().find(|message| message.role == Role::User).map_or("", |message| message.text.as_str())
    }

    /// The same request with some top-level fields changed; everything else keeps its bytes.
    ///
    /// # Errors
    /// `BadRequest` if an edit makes a field that we read ill-typed.
    pub fn edited(&self, edits: &[Edit]) -> Result<Self, BadRequest> {
        Self::parse(self.spliced(edits))
    }

    /// Only the bytes of `edited`, for sending: cheaper, since nothing is read again.
    #[must_use]
    pub fn spliced(&self, edits: &[Edit]) -> Bytes {
        spliced(&self.raw, &self.read.fields, edits)
    }

    /// The text of one top-level field, as sent.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.read.fields.iter().find(|field| field.is(&self.raw, name))?;
        std::str::from_utf8(field.value_bytes(&self.raw)).ok()
    }

    /// An edit that adds messages (JSON objects) behind the caller's, which keep their bytes.
    #[must_use]
    pub fn with_messages(&self, more: &[serde_json::Value]) -> Edit {
        let old = self.field("messages").unwrap_or("[]").trim_end();
        let mut text = old.strip_suffix(']').unwrap_or(old).trim_end().to_owned();
        for (at, message) in more.iter().enumerate() {
            if at > 0 || !text.ends_with('[') {
                text.push(',');
            }
            text.push_str(&message.to_string());
        }
        text.push(']');
        Edit::Set("messages", text)
    }
}

/// A body's top-level fields by name.
pub(crate) struct Envelope<'a> {
    text: &'a str,
    fields: Vec<Field>,
}

impl<'a> Envelope<'a> {
    fn open(raw: &'a [u8]) -> Result<Self, BadRequest> {
        let Ok(text) = std::str::from_utf8(raw) else {
            return Err(BadRequest::new("invalid_utf8", None, "The request body is not valid UTF-8."));
        };
        let fields = fields(text).map_err(|error| {
            BadRequest::new(
                "invalid_json",
                None,
                format!("We could not parse the JSON body of your request: {error}. Expected one JSON object."),
            )
        })?;
        let mut names: Vec<&str> = fields.iter().map(|field| field.key(text)).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BadRequest::new(
                "duplicate_parameter",
                pair[0].to_owned(),
                format!("Duplicate parameter: '{}' appears more than once.", pair[0]),
            ));
        }
        Ok(Self { text, fields })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.key(self.text))
    }

    /// The field's text; `null` counts as absent.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        let field = self.fields.iter().find(|field| field.is(self.text.as_bytes(), name))?;
        Some(field.value(self.text)).filter(|text| *text != "null")
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, BadRequest> {
        self.text(name).map(|text| serde_json::from_str(text).map_err(|_| fields_of::wrong_type(name, expected, text))).transpose()
    }
}
