//! From the envelope to the view, field by field, so that an error names the field.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::messages::messages;
use super::{BadRequest, Envelope, Format, Tool, ToolChoice, View};

/// Every field that `view` reads, or passes on knowing that any chat model may ignore it.
const READ: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "verbosity",
];

pub(super) fn view(body: &Envelope<'_>) -> Result<View, BadRequest> {
    let model: String = body.read("model", "a string")?.ok_or_else(|| missing("model"))?;
    let stream_options: Option<StreamOptions> = body.read("stream_options", "an object")?;
    let limits = (number::<u32>(body, "max_completion_tokens", 1.0, 4e9)?, number::<u32>(body, "max_tokens", 1.0, 4e9)?);
    if let (Some(new), Some(old)) = limits
        && new != old
    {
        return Err(BadRequest::new(
            "invalid_value",
            "max_tokens".to_owned(),
            "'max_tokens' and 'max_completion_tokens' are both set and differ; send one of them.",
        ));
    }
    Ok(View {
        model,
        messages: messages(body)?,
        stream: body.read("stream", "a boolean")?.unwrap_or(false),
        include_usage: stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        n: number(body, "n", 1.0, 128.0)?.unwrap_or(1),
        max_tokens: limits.0.or(limits.1),
        temperature: number(body, "temperature", 0.0, 2.0)?,
        top_p: number(body, "top_p", 0.0, 1.0)?,
        top_k: number(body, "top_k", 0.0, 1e6)?,
        min_p: number(body, "min_p", 0.0, 1.0)?,
        repeat_penalty: number(body, "repeat_penalty", 0.0, 10.0)?.or(number(body, "repetition_penalty", 0.0, 10.0)?),
        presence_penalty: number(body, "presence_penalty", -2.0, 2.0)?,
        frequency_penalty: number(body, "frequency_penalty", -2.0, 2.0)?,
        logit_bias: logit_bias(body)?,
        seed: body.read("seed", "an integer")?,
        stop: stop(body)?,
        logprobs: body.read("logprobs", "a boolean")?.unwrap_or(false),
        top_logprobs: number(body, "top_logprobs", 0.0, 20.0)?,
        format: format(body)?,
        tools: tools(body)?,
        tool_choice: tool_choice(body)?,
        parallel_tool_calls: body.read("parallel_tool_calls", "a boolean")?,
        unread: body.names().filter(|name| !READ.contains(name)).map(str::to_owned).collect(),
    })
}

/// The 400 for a field of the wrong type, worded as OpenAI words it.
pub(super) fn wrong_type(param: &str, expected: &str, got: &str) -> BadRequest {
    let got = match got.trim_start().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    let message = format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
    BadRequest::new("invalid_type", param.to_owned(), message)
}

pub(super) fn missing(param: &str) -> BadRequest {
    BadRequest::new("missing_required_parameter", param.to_owned(), format!("Missing required parameter: '{param}'."))
}

pub(super) fn invalid(param: String, message: impl Into<String>) -> BadRequest {
    BadRequest::new("invalid_value", param, message)
}

/// A number within `low..=high`, both ends allowed; integers must be whole.
fn number<T: FromNumber>(body: &Envelope<'_>, name: &str, low: f64, high: f64) -> Result<Option<T>, BadRequest> {
    let Some(text) = body.text(name) else { return Ok(None) };
    let value: f64 = serde_json::from_str(text).map_err(|_| wrong_type(name, T::EXPECTED, text))?;
    let number = T::from_f64(value).ok_or_else(|| wrong_type(name, T::EXPECTED, text))?;
    if !(low..=high).contains(&value) {
        return Err(invalid(name.to_owned(), format!("Invalid value for '{name}': {text} is outside {low} to {high}.")));
    }
    Ok(Some(number))
}

trait FromNumber: Sized {
    const EXPECTED: &'static str;
    fn from_f64(value: f64) -> Option<Self>;
}

impl FromNumber for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_f64(value: f64) -> Option<Self> {
        Some(value)
    }
}

impl FromNumber for u32 {
    const EXPECTED: &'static str = "an integer";
    fn from_f64(value: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, and the range is checked by the caller right after; the cast saturates"
        )]
        (value.fract() == 0.0).then_some(value as Self)
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

fn stop(body: &Envelope<'_>) -> Result<Vec<String>, BadRequest> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    let stops = match body.read("stop", "a string or an array of strings")? {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    if stops.len() > 4 {
        return Err(invalid(
            "stop".into(),
            format!("Invalid 'stop': array too long. Expected at most 4 strings, but got {} instead.", stops.len()),
        ));
    }
    Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
}

fn logit_bias(body: &Envelope<'_>) -> Result<Vec<(u32, f64)>, BadRequest> {
    let expected = "an object of token ids to numbers from -100 to 100";
    let Some(map): Option<std::collections::BTreeMap<String, f64>> = body.read("logit_bias", expected)? else { return Ok(Vec::new()) };
    map.into_iter()
        .map(|(token, bias)| match token.parse() {
            Ok(token) if (-100.0..=100.0).contains(&bias) => Ok((token, bias)),
            _ => Err(invalid(format!("logit_bias.{token}"), format!("Invalid 'logit_bias': expected {expected}."))),
        })
        .collect()
}

fn format(body: &Envelope<'_>) -> Result<Format, BadRequest> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        r#type: Cow<'a, str>,
        json_schema: Option<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
        schema: Option<Box<RawValue>>,
        strict: Option<bool>,
    }
    let Some(text) = body.text("response_format") else { return Ok(Format::Text) };
    let wire: Wire<'_> = serde_json::from_str(text)
        .map_err(|error| BadRequest::new("invalid_type", "response_format".to_owned(), format!("Invalid 'response_format': {error}.")))?;
    match (&*wire.r#type, wire.json_schema) {
        ("text", _) => Ok(Format::Text),
        ("json_object", _) => Ok(Format::JsonObject),
        ("json_schema", None) => Err(missing("response_format.json_schema")),
        ("json_schema", Some(named)) => {
            let fits = !named.name.is_empty()
                && named.name.len() <= 64
                && named.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            if !fits {
                return Err(invalid(
                    "response_format.json_schema.name".into(),
                    "Invalid 'response_format.json_schema.name': expected 1 to 64 of a-z, A-Z, 0-9, '_' and '-'.",
                ));
            }
            let schema = named.schema.map(|schema| Arc::from(schema.get())).filter(|text: &Arc<str>| &**text != "null");
            Ok(Format::JsonSchema { name: named.name, schema, strict: named.strict.unwrap_or(false) })
        }
        (other, _) => Err(invalid(
            "response_format.type".into(),
            format!("Invalid value for 'response_format.type': '{other}'. Supported values are: 'text', 'json_object' and 'json_schema'."),
        )),
    }
}

fn tools(body: &Envelope<'_>) -> Result<Vec<Tool>, BadRequest> {
    #[derive(Deserialize)]
    struct Wire {
        function: Option<Function>,
    }
    #[derive(Deserialize)]
    struct Function {
        name: String,
        description: Option<String>,
        parameters: Option<Box<RawValue>>,
        strict: Option<bool>,
    }
    let Some(list): Option<Vec<Box<RawValue>>> = body.read("tools", "an array of objects")? else { return Ok(Vec::new()) };
    if list.len() > 1024 {
        return Err(invalid("tools".into(), "Invalid 'tools': array too long. Expected at most 1024 tools."));
    }
    let mut tools = Vec::with_capacity(list.len());
    for (at, raw) in list.iter().enumerate() {
        let wire: Wire = serde_json::from_str(raw.get())
            .map_err(|error| BadRequest::new("invalid_type", format!("tools[{at}]"), format!("Invalid 'tools[{at}]': {error}.")))?;
        // Tools that are not functions (custom, hosted) pass through unread; only a route that knows them may take them.
        let Some(function) = wire.function else { continue };
        let parameters = function.parameters.map(|schema| Arc::from(schema.get())).filter(|text: &Arc<str>| &**text != "null");
        tools.push(Tool { name: function.name, description: function.description, parameters, strict: function.strict.unwrap_or(false) });
    }
    Ok(tools)
}

fn tool_choice(body: &Envelope<'_>) -> Result<ToolChoice, BadRequest> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Word(String),
        Object { function: Option<Function> },
    }
    #[derive(Deserialize)]
    struct Function {
        name: String,
    }
    Ok(match body.read("tool_choice", "a string or an object")? {
        None => ToolChoice::Unset,
        Some(Wire::Object { function }) => function.map_or(ToolChoice::Auto, |function| ToolChoice::Named(function.name)),
        Some(Wire::Word(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" | "any" => ToolChoice::Required,
            other => {
                let message = format!("Invalid value for 'tool_choice': '{other}'. Supported values are: 'none', 'auto' and 'required'.");
                return Err(invalid("tool_choice".into(), message));
            }
        },
    })
}
