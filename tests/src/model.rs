//! A model that does as it is told: it fills the schema it is given, calls the tools it is offered, stops at a stop word.
//! What it says has no meaning; its form is that of a good answer, so that a client library can be held to its contract.

use serde_json::{Map, Value, json};
use spectra_backends::ChatRequest;
use spectra_backends::chat::{Format, Message, Role, ToolChoice, View};

use crate::upstream::{Received, Step, whole_body};

const SAYS: &str = "Hello to you, from a model that does as it is told.";

/// The model as a server: chat completions, streamed or whole, and embeddings. It answers in text to a tool's result; where
/// the question says `both`, it calls every tool it has.
#[must_use]
pub fn obedient(request: &Received, turn: usize) -> Vec<Step> {
    if request.target.ends_with("/embeddings") {
        return whole_body("application/json", &embeddings(&request.json()));
    }
    let Ok(asked) = ChatRequest::parse(request.body.clone()) else {
        return vec![Step::Head(400, vec![("content-type", "application/json".into())]), Step::Body("{}".into()), Step::End];
    };
    let view = asked.view();
    let said = said(view);
    if !view.stream {
        return whole_body("application/json", &whole(turn, view, &said));
    }
    let mut steps = vec![Step::Head(200, vec![("content-type", "text/event-stream".into())])];
    steps.extend(streamed(turn, view, &said).into_iter().map(|data| Step::Body(format!("data: {data}\n\n").into())));
    steps.extend([Step::Body("data: [DONE]\n\n".into()), Step::End]);
    steps
}

/// A vector of two numbers for each input, spelt as asked.
fn embeddings(asked: &Value) -> String {
    let inputs = asked["input"].as_array().map_or(1, Vec::len);
    // The little-endian bytes of 0.5 and -1.0 in base 64.
    let vector = if asked["encoding_format"] == "base64" { json!("AAAAPwAAgL8=") } else { json!([0.5, -1.0]) };
    let data: Vec<Value> = (0..inputs).map(|index| json!({"object": "embedding", "index": index, "embedding": vector})).collect();
    json!({"object": "list", "data": data, "model": asked["model"], "usage": {"prompt_tokens": inputs, "total_tokens": inputs}}).to_string()
}

enum Said {
    Text(String),
    /// Names and arguments.
    Calls(Vec<(String, String)>),
}

fn said(view: &View) -> Said {
    let last = view.messages.last();
    let question = view.messages.iter().rev().find(|message| message.role == Role::User).map_or("", |message| message.text.as_str());
    let forced = matches!(view.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
    let calls =
        !view.tools.is_empty() && view.tool_choice != ToolChoice::None && (forced || last.is_some_and(|last| last.role != Role::Tool));
    if calls {
        let named = |name: &str| match &view.tool_choice {
            ToolChoice::Named(wanted) => wanted == name,
            _ => true,
        };
        let all = question.contains("both") && view.parallel_tool_calls != Some(false);
        let tools = view.tools.iter().filter(|tool| named(&tool.name)).take(if all { usize::MAX } else { 1 });
        return Said::Calls(tools.map(|tool| (tool.name.clone(), filled(tool.parameters.as_deref(), question))).collect());
    }
    Said::Text(match &view.format {
        Format::JsonSchema { schema, .. } => filled(schema.as_deref(), question),
        Format::JsonObject => match schema_in(&view.messages) {
            Some(schema) => filled(Some(&schema), question),
            None => Value::Object(quoted(question).into_iter().map(|key| (key, json!("text"))).collect()).to_string(),
        },
        Format::Text => match schema_in(&view.messages) {
            Some(schema) => format!("```json\n{}\n```", filled(Some(&schema), question)),
            None => until_stop(view),
        },
    })
}

fn until_stop(view: &View) -> String {
    let end = view.stop.iter().filter_map(|stop| SAYS.find(stop.as_str())).min().unwrap_or(SAYS.len());
    SAYS[..end].to_owned()
}

/// A JSON schema that somebody wrote into the conversation.
fn schema_in(messages: &[Message]) -> Option<String> {
    let texts = messages.iter().map(|message| message.text.as_str());
    let objects = texts.flat_map(|text| text.match_indices('{').map(|(at, _)| &text[at..]));
    objects
        .filter_map(|text| serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok())
        .find(|value| value["properties"].is_object())
        .map(|value| value.to_string())
}

/// What stands in single quotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

/// JSON that fits a schema: numbers and quoted words of the question where it takes some.
fn filled(schema: Option<&str>, question: &str) -> String {
    let schema: Value = schema.and_then(|schema| serde_json::from_str(schema).ok()).unwrap_or_else(|| json!({"type": "object"}));
    value(&schema, &schema, question).to_string()
}

fn value(schema: &Value, root: &Value, question: &str) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).cloned().unwrap_or_default();
        return value(&target, root, question);
    }
    if let Some(first) = schema["enum"].get(0).or_else(|| schema.get("const")) {
        return first.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema[choice].get(0) {
            return value(first, root, question);
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("integer" | "number") => {
            let number = question.split(|c: char| !c.is_ascii_digit()).find_map(|digits| digits.parse().ok()).unwrap_or(3_i64);
            let number = schema["minimum"].as_i64().map_or(number, |least| number.max(least));
            json!(schema["maximum"].as_i64().map_or(number, |most| number.min(most)))
        }
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        Some("array") => json!([value(&schema["items"], root, question)]),
        Some("string") => json!(quoted(question).first().map_or("text", String::as_str)),
        _ => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            Value::Object(properties.iter().map(|(key, of)| (key.clone(), value(of, root, question))).collect::<Map<_, _>>())
        }
    }
}

fn usage(view: &View, said: &Said) -> Value {
    let prompt: usize = view.messages.iter().map(|message| message.text.split_whitespace().count() + 1).sum();
    let text = match said {
        Said::Text(text) => text.clone(),
        Said::Calls(calls) => calls.iter().map(|(name, arguments)| format!("{name} {arguments} ")).collect(),
    };
    let completion = text.split_whitespace().count() * view.n as usize;
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}})
}

fn logprobs(view: &View, text: &str) -> Value {
    if !view.logprobs {
        return Value::Null;
    }
    let token = |word: &str, logprob: f32| json!({"token": word, "logprob": logprob, "bytes": word.as_bytes()});
    let content = text.split_inclusive(' ').map(|word| {
        let mut content = token(word, -0.1);
        content["top_logprobs"] = (0..view.top_logprobs.unwrap_or(0))
            .map(|at| token(if at == 0 { word } else { "other" }, -0.1 - f32::from(u8::try_from(at).unwrap_or(u8::MAX))))
            .collect();
        content
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

fn head(turn: usize, object: &str) -> Value {
    json!({"id": format!("chatcmpl-{turn}"), "object": object, "created": 1_767_225_600, "model": "small", "service_tier": "default", "system_fingerprint": "fp_1"})
}

fn call(at: usize, turn: usize, name: &str, arguments: &str) -> Value {
    json!({"id": format!("call_{turn}_{at}"), "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn whole(turn: usize, view: &View, said: &Said) -> String {
    let mut message = json!({"role": "assistant", "content": null, "refusal": null, "annotations": []});
    let (finish, logprobs) = match said {
        Said::Text(text) => {
            message["content"] = json!(text);
            ("stop", logprobs(view, text))
        }
        Said::Calls(calls) => {
            message["tool_calls"] = calls.iter().enumerate().map(|(at, (name, arguments))| call(at, turn, name, arguments)).collect();
            ("tool_calls", Value::Null)
        }
    };
    let mut answer = head(turn, "chat.completion");
    answer["choices"] =
        (0..view.n).map(|index| json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})).collect();
    answer["usage"] = usage(view, said);
    answer.to_string()
}

fn streamed(turn: usize, view: &View, said: &Said) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = head(turn, "chat.completion.chunk");
        chunk["choices"] = choices;
        chunk["usage"] = usage;
        chunk.to_string()
    };
    let mut chunks = Vec::new();
    let mut tell = |delta: Value, logprobs: &Value, finish: Value| {
        for index in 0..view.n {
            chunks.push(chunk(json!([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]), Value::Null));
        }
    };
    tell(
        json!({"role": "assistant", "content": if matches!(said, Said::Text(_)) { json!("") } else { Value::Null }, "refusal": null}),
        &Value::Null,
        Value::Null,
    );
    let finish = match said {
        Said::Text(text) => {
            for word in text.split_inclusive(' ') {
                tell(json!({ "content": word }), &logprobs(view, word), Value::Null);
            }
            "stop"
        }
        Said::Calls(calls) => {
            for (at, (name, arguments)) in calls.iter().enumerate() {
                let mut head = call(at, turn, name, "");
                head["index"] = at.into();
                tell(json!({"tool_calls": [head]}), &Value::Null, Value::Null);
                for piece in arguments.chars().collect::<Vec<_>>().chunks(5) {
                    let piece: String = piece.iter().collect();
                    tell(json!({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}), &Value::Null, Value::Null);
                }
            }
            "tool_calls"
        }
    };
    tell(json!({}), &Value::Null, json!(finish));
    chunks.push(chunk(json!([]), usage(view, said)));
    chunks
}
