//! `/v1/completions`, the legacy form: the prompt is asked as one user message. What chat cannot express is passed on to
//! a server that has the endpoint.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use spectra_backends::chat::BadRequest;
use spectra_backends::chunk::{Choice, Finish, Usage};
use spectra_backends::{ChatRequest, Chunk};

use super::{carry, chat_request, event, field, missing, object, wrong};
use crate::Failure;
use crate::record::Entrance;
use crate::respond::{Dialect, Manner};

const SAME: &[&str] = &[
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stream",
    "stream_options",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "user",
    "top_k",
    "min_p",
];

/// True where the request says what a chat message cannot.
pub(super) fn passes(raw: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Legacy {
        prompt: Option<Value>,
        suffix: Option<Value>,
        echo: Option<Value>,
        best_of: Option<Value>,
        logprobs: Option<Value>,
    }
    // What is no such object is refused where it is read.
    let Ok(asked) = serde_json::from_slice::<Legacy>(raw) else { return false };
    let several = |prompts: &[Value]| prompts.len() != 1 || !prompts[0].is_string();
    asked.prompt.is_some_and(|prompt| prompt.as_array().is_some_and(|prompts| several(prompts)))
        || asked.suffix.is_some_and(|suffix| suffix != "")
        || asked.echo.is_some_and(|echo| echo != false)
        || asked.best_of.is_some_and(|best_of| best_of != 1)
        || asked.logprobs.is_some()
}

pub(super) fn understand(raw: &[u8]) -> Result<(ChatRequest, Box<dyn Dialect>), BadRequest> {
    let mut body = object(raw)?;
    let prompt = match body.remove("prompt") {
        Some(Value::String(prompt)) => prompt,
        Some(Value::Array(mut prompts)) if prompts.len() == 1 && prompts[0].is_string() => match prompts.remove(0) {
            Value::String(prompt) => prompt,
            _ => String::new(),
        },
        None | Some(Value::Null) => return Err(missing("prompt")),
        Some(_) => return Err(wrong("prompt", "a string or an array")),
    };
    let mut chat = Map::new();
    carry(&mut body, &mut chat, SAME);
    chat.insert("messages".into(), json!([{ "role": "user", "content": prompt }]));
    Ok((chat_request(chat)?, Box::new(Completions)))
}

struct Completions;

impl Dialect for Completions {
    fn whole(&mut self, chunk: Chunk) -> Bytes {
        let mut whole = text_completion(&chunk);
        whole["usage"] = chunk.view.usage.map(usage).unwrap_or_default();
        whole.to_string().into()
    }

    fn chunk(&mut self, chunk: &Chunk, manner: &Manner, out: &mut BytesMut) {
        let mut piece = text_completion(chunk);
        match chunk.view.usage.filter(|_| chunk.view.choices.is_empty()) {
            Some(used) if manner.include_usage => piece["usage"] = usage(used),
            Some(_) => return,
            None => {}
        }
        event(piece.to_string().as_bytes(), out);
    }

    fn end(&mut self, out: &mut BytesMut) {
        event(b"[DONE]", out);
    }

    fn broken(&mut self, failure: &Failure, out: &mut BytesMut) {
        event(failure.json().as_bytes(), out);
    }

    fn entrance(&self) -> Entrance {
        Entrance::Completions
    }
}

fn text_completion(chunk: &Chunk) -> Value {
    let choices: Vec<Value> = chunk.view.choices.iter().map(choice).collect();
    let id = field(&chunk.data, "id");
    let id = id.as_str().map_or_else(String::new, |id| format!("cmpl-{}", id.strip_prefix("chatcmpl-").unwrap_or(id)));
    json!({ "id": id, "object": "text_completion", "created": field(&chunk.data, "created"), "model": field(&chunk.data, "model"), "choices": choices })
}

fn choice(choice: &Choice) -> Value {
    let text = choice.content.as_deref().unwrap_or_default();
    json!({ "text": text, "index": choice.index, "logprobs": null, "finish_reason": choice.finish.as_ref().map(Finish::as_str) })
}

fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
