//! A piece of an answer: the bytes as they came and the fields we read.

use bytes::Bytes;
use serde::Deserialize;

use crate::BackendError;

/// One event of a stream, or a whole unary answer.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The JSON as received: of one `data:` field, or of the whole body.
    pub data: Bytes,
    /// Other fields of the event (`id:`, `event:`, …), verbatim lines; mostly empty.
    pub extra: Bytes,
    pub view: View,
}

/// The fields we read of a chunk.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub shape: Shape,
    pub choices: Vec<Choice>,
    pub usage: Option<Usage>,
}

/// Which of the two objects of the chat API the chunk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `chat.completion.chunk`: content is added to what came before.
    #[default]
    Delta,
    /// `chat.completion`: the whole answer at once.
    Whole,
}

/// What one choice says in this chunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    pub index: u32,
    pub content: Option<String>,
    /// Thinking that some servers send beside the content (`reasoning_content` or `reasoning`).
    pub reasoning: Option<String>,
    pub refusal: Option<String>,
    pub tool_calls: Vec<ToolDelta>,
    pub finish: Option<Finish>,
    /// Natural-log probabilities of the tokens in this chunk, with the runner-up's where it was sent.
    pub logprobs: Vec<TokenLogprob>,
}

/// A piece of a tool call; pieces with equal `index` belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolDelta {
    pub index: u32,
    pub id: Option<String>,
    pub name: Option<String>,
    pub arguments: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    pub logprob: f32,
    /// The most likely other token's.
    pub runner_up: Option<f32>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    ToolCalls,
    FunctionCall,
    ContentFilter,
    /// A value nobody documented; taken as an end like any other.
    Other(String),
}

impl Finish {
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "function_call" => Self::FunctionCall,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::FunctionCall => "function_call",
            Self::ContentFilter => "content_filter",
            Self::Other(text) => text,
        }
    }
}

/// Tokens as the model counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Part of the prompt that came from a cache.
    pub cached_tokens: u64,
    /// Part of the completion that was thinking.
    pub reasoning_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.cached_tokens += other.cached_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}

impl Chunk {
    /// Reads the JSON of one event or of a whole body.
    ///
    /// # Errors
    /// `Upstream` where the JSON is an error object, `Broken` where it is not an answer at all.
    pub fn parse(data: Bytes) -> Result<Self, BackendError> {
        // UTF-8 is checked of the whole at once: text by text that takes several times as long.
        let wire: Result<wire::Chunk, _> = match std::str::from_utf8(&data) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(&data),
        };
        let wire = wire.map_err(|error| BackendError::Broken { what: format!("malformed chunk: {error}") })?;
        if let Some(error) = wire.error.filter(|error| error.get() != "null") {
            let status = wire::status_of(error.get());
            return Err(BackendError::Upstream { status, headers: Box::default(), body: data });
        }
        if wire.choices.is_none() && wire.usage.is_none() {
            return Err(BackendError::Broken { what: "malformed chunk: neither choices nor usage".into() });
        }
        let shape = if wire.object.as_deref() == Some("chat.completion") { Shape::Whole } else { Shape::Delta };
        let choices: Vec<Choice> = wire.choices.unwrap_or_default().into_iter().map(Choice::from).collect();
        let usage = wire.usage.map(Usage::from);
        Ok(Self { data, extra: Bytes::new(), view: View { shape, choices, usage } })
    }
}

/// Lenient twins of the wire: what we do not read may have any type.
mod wire {
    use serde_json::value::RawValue;

    use super::{Deserialize, Finish, TokenLogprob, ToolDelta};

    #[derive(Debug, Deserialize)]
    pub struct Chunk<'a> {
        #[serde(borrow)]
        pub object: Option<std::borrow::Cow<'a, str>>,
        pub choices: Option<Vec<Choice<'a>>>,
        pub usage: Option<Usage>,
        #[serde(borrow)]
        pub error: Option<&'a RawValue>,
    }

    #[derive(Debug, Deserialize)]
    pub struct Choice<'a> {
        #[serde(default)]
        pub index: u32,
        pub delta: Option<Message>,
        pub message: Option<Message>,
        #[serde(borrow)]
        pub finish_reason: Option<std::borrow::Cow<'a, str>>,
        pub logprobs: Option<Logprobs>,
    }

    #[derive(Debug, Deserialize, Default)]
    pub struct Message {
        pub content: Option<String>,
        /// Some servers send both names, in one chunk.
        pub reasoning_content: Option<String>,
        pub reasoning: Option<Value<String>>,
        pub refusal: Option<String>,
        pub tool_calls: Option<Vec<ToolCall>>,
    }

    #[derive(Debug, Deserialize)]
    pub struct ToolCall {
        pub index: Option<u32>,
        pub id: Option<String>,
        pub function: Option<Function>,
    }

    #[derive(Debug, Deserialize)]
    pub struct Function {
        pub name: Option<String>,
        pub arguments: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    pub struct Logprobs {
        pub content: Option<Vec<Token>>,
    }

    #[derive(Debug, Deserialize)]
    pub struct Token {
        #[serde(default)]
        pub token: String,
        pub logprob: f32,
        pub top_logprobs: Option<Vec<Top>>,
    }

    #[derive(Debug, Deserialize)]
    pub struct Top {
        #[serde(default)]
        pub token: String,
        pub logprob: f32,
    }

    #[derive(Debug, Deserialize)]
    pub struct Usage {
        #[serde(default)]
        pub prompt_tokens: Option<u64>,
        #[serde(default)]
        pub completion_tokens: Option<u64>,
        pub prompt_tokens_details: Option<PromptDetails>,
        pub completion_tokens_details: Option<CompletionDetails>,
    }

    #[derive(Debug, Deserialize)]
    pub struct PromptDetails {
        pub cached_tokens: Option<u64>,
    }

    #[derive(Debug, Deserialize)]
    pub struct CompletionDetails {
        pub reasoning_tokens: Option<u64>,
    }

    /// A field that others use for something else.
    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    pub enum Value<T> {
        Known(T),
        Other(serde::de::IgnoredAny),
    }

    impl<T> Value<T> {
        fn known(self) -> Option<T> {
            match self {
                Self::Known(value) => Some(value),
                Self::Other(_) => None,
            }
        }
    }

    impl From<Usage> for super::Usage {
        fn from(wire: Usage) -> Self {
            Self {
                prompt_tokens: wire.prompt_tokens.unwrap_or(0),
                completion_tokens: wire.completion_tokens.unwrap_or(0),
                cached_tokens: wire.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
                reasoning_tokens: wire.completion_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or(0),
            }
        }
    }

    impl From<Choice<'_>> for super::Choice {
        fn from(wire: Choice<'_>) -> Self {
            let message = wire.delta.or(wire.message).unwrap_or_default();
            let tool_calls = message.tool_calls.unwrap_or_default();
            Self {
                index: wire.index,
                content: message.content,
                reasoning: message.reasoning_content.or(message.reasoning.and_then(Value::known)),
                refusal: message.refusal,
                tool_calls: tool_calls.into_iter().enumerate().map(tool_delta).collect(),
                // Some servers write an empty text where others write null.
                finish: wire.finish_reason.filter(|reason| !reason.is_empty()).map(|reason| Finish::parse(&reason)),
                logprobs: wire.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default().into_iter().map(token_logprob).collect(),
            }
        }
    }

    /// A whole answer's tool calls carry no index: their place is their index.
    fn tool_delta((place, call): (usize, ToolCall)) -> ToolDelta {
        let (name, arguments) = call.function.map_or((None, None), |function| (function.name, function.arguments));
        ToolDelta { index: call.index.unwrap_or(u32::try_from(place).unwrap_or(u32::MAX)), id: call.id, name, arguments }
    }

    fn token_logprob(token: Token) -> TokenLogprob {
        let runner_up = token.top_logprobs.iter().flatten().filter(|top| top.token != token.token).map(|top| top.logprob).reduce(f32::max);
        TokenLogprob { logprob: token.logprob, runner_up }
    }

    /// The HTTP status an error event stands for: its numeric `code` or `status`, else 502.
    pub fn status_of(error: &str) -> u16 {
        #[derive(Debug, Deserialize)]
        struct Coded {
            code: Option<serde_json::Value>,
            status: Option<serde_json::Value>,
        }
        let number = |value: Option<serde_json::Value>| -> Option<u16> {
            let value = value?;
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            u16::try_from(number).ok().filter(|status| (400..600).contains(status))
        };
        serde_json::from_str::<Coded>(error).ok().and_then(|coded| number(coded.code).or_else(|| number(coded.status))).unwrap_or(502)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Chunk, BackendError> {
        Chunk::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn reads_what_it_needs_and_keeps_the_bytes() {
        let text = r#"{"id":"x","object":"chat.completion.chunk","choices":[{"index":1,"delta":{"content":"hé","odd":[1]},"finish_reason":"length"}],"usage":null,"service_tier":{"new":1}}"#;
        let chunk = parse(text).unwrap();
        assert_eq!(chunk.data, text);
        assert_eq!(chunk.view.choices[0].content.as_deref(), Some("hé"));
        assert_eq!(chunk.view.choices[0].finish, Some(Finish::Length));
        assert_eq!(chunk.view.usage, None);
    }

    #[test]
    fn what_servers_write_differently_is_read_all_the_same() {
        for (text, want) in [
            (r#"{"choices":[{"index":0,"delta":{"reasoning":"a","reasoning_content":"b"},"finish_reason":""}]}"#, (Some("b"), None)),
            (r#"{"choices":[{"delta":{"reasoning":{"steps":[1]}},"finish_reason":"eos"}]}"#, (None, Some(Finish::Other("eos".into())))),
            (
                r#"{"choices":[{"delta":{"reasoning":"a"},"logprobs":{"content":[{"token":"x","logprob":-1,"top_logprobs":null}]}}]}"#,
                (Some("a"), None),
            ),
        ] {
            let choice = parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).view.choices.remove(0);
            assert_eq!((choice.reasoning.as_deref(), choice.finish), want, "{text}");
        }
    }

    #[test]
    fn an_error_event_is_an_error() {
        for (text, want) in [(r#"{"error":{"message":"x","code":429}}"#, 429), (r#"{"error":{"message":"x","code":"rate"}}"#, 502)] {
            assert!(matches!(parse(text), Err(BackendError::Upstream { status, .. }) if status == want), "{text}");
        }
        for text in ["{}", "[]", "garbage", r#"{"choices":7}"#] {
            assert!(matches!(parse(text), Err(BackendError::Broken { .. })), "{text}");
        }
    }
}
