//! A backend that says what it was told to say: for tests, demos and benches. It spends no time of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use async_stream::try_stream;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use spectra_config as config;

use crate::{Ask, Backend, BackendError, Chunk, ChunkStream, Reply, Shared};

/// One scripted answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub text: String,
    /// `stop`, `length`, …
    pub finish: String,
    /// Fail with this HTTP status and `text` as the error's message instead.
    pub status: Option<u16>,
    /// Headers of the reply or of the error, such as `retry-after`.
    pub headers: Vec<(String, String)>,
    /// Break the answer after so many characters.
    pub cut_after: Option<usize>,
    /// Say nothing more after so many characters, without end.
    pub stall_after: Option<usize>,
    /// Characters of one streamed chunk.
    pub chunk_chars: usize,
    /// The JSON of the chunks, word for word, instead of what would be made of `text`.
    pub chunks: Option<Vec<String>>,
}

impl Answer {
    /// A complete answer.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            finish: "stop".into(),
            status: None,
            headers: Vec::new(),
            cut_after: None,
            stall_after: None,
            chunk_chars: 4,
            chunks: None,
        }
    }

    /// An error of the upstream.
    #[must_use]
    pub fn error(status: u16, message: impl Into<String>) -> Self {
        Self { status: Some(status), ..Self::text(message) }
    }
}

impl From<&config::ScriptAnswer> for Answer {
    fn from(answer: &config::ScriptAnswer) -> Self {
        Self { finish: answer.finish.clone(), status: answer.status, cut_after: answer.cut_after, ..Self::text(answer.text.clone()) }
    }
}

/// Answers of the config, given in turn, the last one for ever.
#[must_use]
pub fn backend(name: &str, script: &config::Script) -> Backend {
    let answers: Vec<Answer> = script.answers.iter().map(Answer::from).collect();
    from_fn(name, move |_, turn| answers[turn.min(answers.len().saturating_sub(1))].clone())
}

/// Answers made by a function of the question and of how many came before it.
pub fn from_fn(name: &str, answer: impl Fn(&Ask, usize) -> Answer + Send + Sync + 'static) -> Backend {
    let name: Arc<str> = name.into();
    let shared = Arc::new((answer, AtomicUsize::new(0)));
    Shared::of(move |ask: Ask| {
        let (answer, turns) = &*shared;
        let answer = answer(&ask, turns.fetch_add(1, Relaxed));
        std::future::ready(reply(&name, &ask, answer))
    })
}

fn reply(name: &str, ask: &Ask, answer: Answer) -> Result<Reply, BackendError> {
    let headers: HeaderMap = answer
        .headers
        .iter()
        .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?)))
        .collect();
    if let Some(status) = answer.status {
        let kind = if status == 429 {
            "rate_limit_error"
        } else if status >= 500 {
            "server_error"
        } else {
            "invalid_request_error"
        };
        let body = json!({"error": {"message": answer.text, "type": kind, "param": null, "code": null}});
        return Err(BackendError::Upstream { status, headers: Box::new(headers), body: body.to_string().into() });
    }
    let chunks: ChunkStream = if let Some(chunks) = answer.chunks {
        word_for_word(chunks)
    } else if ask.request.view().stream {
        streamed(name, ask, answer)
    } else {
        whole(name, ask, answer)
    };
    Ok(Reply { headers, chunks })
}

fn word_for_word(chunks: Vec<String>) -> ChunkStream {
    Box::pin(try_stream! {
        let mut finished = false;
        for chunk in chunks {
            let chunk = Chunk::parse(chunk.into())?;
            finished |= chunk.view.choices.iter().any(|choice| choice.finish.is_some());
            yield chunk;
        }
        if !finished {
            Err(BackendError::Broken { what: "stream ended without a finish".into() })?;
        }
    })
}

fn streamed(name: &str, ask: &Ask, answer: Answer) -> ChunkStream {
    let head = head(name, ask, "chat.completion.chunk");
    let view = ask.request.view();
    let choices = view.n.max(1);
    let usage = usage(ask, &answer.text);
    let text: Vec<char> = answer.text.chars().collect();
    Box::pin(try_stream! {
        for index in 0..choices {
            yield chunk(&head, &json!([{"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}]), None)?;
        }
        let mut said = 0;
        for part in text.chunks(answer.chunk_chars.max(1)) {
            let left = answer.cut_after.or(answer.stall_after).map_or(part.len(), |bound| part.len().min(bound.saturating_sub(said)));
            let content: String = part[..left].iter().collect();
            said += left;
            if left > 0 {
                for index in 0..choices {
                    yield chunk(&head, &json!([{"index": index, "delta": {"content": content}, "logprobs": null, "finish_reason": null}]), None)?;
                }
            }
            if left < part.len() {
                break;
            }
        }
        interrupted(&answer).await?;
        for index in 0..choices {
            yield chunk(&head, &json!([{"index": index, "delta": {}, "logprobs": null, "finish_reason": answer.finish}]), None)?;
        }
        yield chunk(&head, &json!([]), Some(&usage))?;
    })
}

fn whole(name: &str, ask: &Ask, answer: Answer) -> ChunkStream {
    let head = head(name, ask, "chat.completion");
    let usage = usage(ask, &answer.text);
    let choices: Vec<_> = (0..ask.request.view().n.max(1))
        .map(|index| json!({"index": index, "message": {"role": "assistant", "content": answer.text, "refusal": null}, "logprobs": null, "finish_reason": answer.finish}))
        .collect();
    Box::pin(try_stream! {
        interrupted(&answer).await?;
        yield chunk(&head, &json!(choices), Some(&usage))?;
    })
}

/// Breaks or stalls where the script says so.
async fn interrupted(answer: &Answer) -> Result<(), BackendError> {
    if answer.cut_after.is_some() {
        return Err(BackendError::Broken { what: "connection reset by script".into() });
    }
    if answer.stall_after.is_some() {
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn head(name: &str, ask: &Ask, object: &str) -> serde_json::Value {
    json!({"id": format!("chatcmpl-{}", ask.request_id), "object": object, "created": 1_767_225_600, "model": name})
}

fn chunk(head: &serde_json::Value, choices: &serde_json::Value, usage: Option<&serde_json::Value>) -> Result<Chunk, BackendError> {
    let mut chunk = head.clone();
    chunk["choices"] = choices.clone();
    chunk["usage"] = usage.cloned().unwrap_or_default();
    Chunk::parse(Bytes::from(chunk.to_string()))
}

/// A script has no tokenizer: words stand for tokens.
fn usage(ask: &Ask, text: &str) -> serde_json::Value {
    let prompt: usize = ask.request.view().messages.iter().map(|message| message.text.split_whitespace().count()).sum();
    let completion = text.split_whitespace().count() * ask.request.view().n.max(1) as usize;
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::time::Instant;
    use tower::ServiceExt;

    use super::*;
    use crate::ChatRequest;

    async fn said(backend: &Backend, stream: bool) -> (String, Option<String>) {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "one two"}], "stream": stream});
        let request = ChatRequest::parse(body.to_string().into()).unwrap();
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let ask = Ask { request, deadline, request_id: "r".into(), traceparent: None, stops_loops: false };
        let mut text = String::new();
        let mut ended = None;
        let reply = match backend.clone().oneshot(ask).await {
            Ok(reply) => reply,
            Err(error) => return (text, Some(error.kind().to_owned())),
        };
        let mut chunks = reply.chunks;
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => {
                    for choice in chunk.view.choices {
                        text += choice.content.as_deref().unwrap_or_default();
                        ended = choice.finish.map(|finish| finish.as_str().to_owned()).or(ended);
                    }
                }
                Err(error) => return (text, Some(error.kind().to_owned())),
            }
        }
        (text, ended)
    }

    #[tokio::test]
    async fn answers_come_in_turn_the_last_for_ever() {
        let config: config::Config = config::Config::parse(
            r#"
            [backends.demo.script]
            answers = [{ text = "hello there" }, { text = "{\"a\":", finish = "length" }, { status = 503, text = "busy" }, { text = "abcdefgh", cut_after = 6 }]
            [routes.local]
            ladder = ["demo"]
            [router]
            local = "local"
            strong = "local"
            "#,
            "test",
            &|_| None,
        )
        .unwrap();
        let script = config.backends["demo"].script.as_deref().unwrap();
        for stream in [true, false] {
            let backend = backend("demo", script);
            let end = |end: &str| Some(end.to_owned());
            assert_eq!(said(&backend, stream).await, ("hello there".into(), end("stop")));
            assert_eq!(said(&backend, stream).await, ("{\"a\":".into(), end("length")));
            assert_eq!(said(&backend, stream).await, (String::new(), end("upstream_5xx")));
            for _ in 0..2 {
                let text = if stream { "abcdef" } else { "" };
                assert_eq!(said(&backend, stream).await, (text.into(), end("broken")));
            }
        }
    }
}
