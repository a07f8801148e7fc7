//! What the worker writes: OpenAI's chat objects.

use serde_json::{Value, json};
use spectra_backends::llama::{Model, TokenChoice};

/// What all chunks of one completion share.
pub(super) struct Head {
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
    /// Every chunk carries `usage: null`, and the last one the numbers.
    pub include_usage: bool,
}

/// Tokens of all choices of one completion.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub prompt: u64,
    pub cached: u64,
    pub completion: u64,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": { "cached_tokens": self.cached },
            "completion_tokens_details": { "reasoning_tokens": 0 },
        })
    }
}

impl Head {
    /// One streamed piece of one choice.
    pub(super) fn chunk(&self, index: usize, delta: &Value, logprobs: &Value, finish: Option<&str>) -> String {
        let choices = json!([{ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish }]);
        self.object("chat.completion.chunk", &choices, &Value::Null, self.include_usage)
    }

    /// The chunk behind the last one, for callers who asked for it.
    pub(super) fn usage_chunk(&self, usage: Usage) -> String {
        self.object("chat.completion.chunk", &json!([]), &usage.json(), true)
    }

    /// A whole answer.
    pub(super) fn whole(&self, choices: &Value, usage: Usage) -> String {
        self.object("chat.completion", choices, &usage.json(), true)
    }

    fn object(&self, kind: &str, choices: &Value, usage: &Value, with_usage: bool) -> String {
        let mut object = json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        });
        if with_usage {
            object["usage"] = usage.clone();
        }
        object.to_string()
    }
}

/// `logprobs` of the tokens behind a piece of text; null if there are none.
pub(super) fn logprobs(model: &Model, tokens: &[TokenChoice]) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let content: Vec<Value> = tokens.iter().map(|choice| logprob(model, choice)).collect();
    json!({ "content": content, "refusal": null })
}

fn logprob(model: &Model, choice: &TokenChoice) -> Value {
    let entry = |token: i32, logprob: f32| {
        let bytes = model.piece(token);
        // JSON has no negative infinity; OpenAI writes -9999 for what is out of reach.
        let logprob = if logprob.is_finite() { logprob } else { -9999.0 };
        json!({ "token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes })
    };
    let top: Vec<Value> = choice.top.iter().map(|(token, logprob)| entry(*token, *logprob)).collect();
    let mut own = entry(choice.token, choice.logprob.unwrap_or(0.0));
    own["top_logprobs"] = Value::Array(top);
    own
}
