//! Any server that speaks the OpenAI API over HTTP.
//!
//! async-openai writes the request's head once, when the backend is built (`head.rs`); each request is that head, the
//! caller's bytes with two fields spliced, and our own transport (`transport.rs`, `pool.rs`, `crate::http1`); answers are read in `reply.rs`.

mod head;
mod pool;
mod reply;
mod transport;

use std::sync::Arc;

use bytes::Bytes;
use spectra_config as config;

use crate::forward::{Endpoint, Forward, Forwarded, Forwarder};
use crate::splice::{Edit, splice};
use crate::{Ask, Backend, BackendError, BuildError, ChatRequest, Reply, Shared};
use transport::{Named, Prepared, Transport};

/// Both call forms of one server.
#[derive(Clone, Debug)]
pub struct Hosted {
    pub backend: Backend,
    pub forwarder: Forwarder,
}

/// A server as configured. Nothing is sent until it is asked; it is not behind a guard yet.
///
/// # Errors
/// Where the URL, a header or the key cannot be sent, or the machine has no usable root certificates for `https`.
pub fn backend(name: &str, openai: &config::Openai, deadlines: &config::Deadlines) -> Result<Hosted, BuildError> {
    let transport = Transport::new(name, openai, deadlines)?;
    let head = |path| head::write(name, openai, path).map(|head| transport.prepared(head));
    let server = Arc::new(Server {
        chat: head("/chat/completions")?,
        completions: head(Endpoint::Completions.path())?,
        embeddings: head(Endpoint::Embeddings.path())?,
        transport,
        model: serde_json::Value::from(openai.model.get()).to_string(),
        secrets: secrets(openai),
    });
    let for_chat = Arc::clone(&server);
    Ok(Hosted {
        backend: Shared::of(move |ask| Arc::clone(&for_chat).chat(ask)),
        forwarder: Shared::of(move |forward| Arc::clone(&server).forward(forward)),
    })
}

struct Server {
    chat: Prepared,
    completions: Prepared,
    embeddings: Prepared,
    transport: Transport,
    /// What the server calls the model, as JSON.
    model: String,
    /// Texts that are taken out of error bodies, should the server repeat them.
    secrets: Vec<String>,
}

impl Server {
    async fn chat(self: Arc<Self>, ask: Ask) -> Result<Reply, BackendError> {
        let stream = ask.request.view().stream;
        let choices = ask.request.view().n.max(1);
        let body = chat_body(&ask.request, &self.model)?;
        let Ask { request, request_id, traceparent, .. } = ask;
        drop(request);
        let named = Named { request_id: &request_id, traceparent: traceparent.as_deref() };
        let response = reply::success(self.transport.send(&self.chat, &named, body).await?, &self.secrets).await?;
        let headers = reply::headers_for_client(response.headers());
        let chunks = if stream && !reply::is_json(&response) {
            reply::stream(response, choices, &self.secrets)?
        } else {
            reply::whole(response, &self.secrets)?
        };
        Ok(Reply { headers, chunks })
    }

    async fn forward(self: Arc<Self>, forward: Forward) -> Result<Forwarded, BackendError> {
        let head = match forward.endpoint {
            Endpoint::Completions => &self.completions,
            Endpoint::Embeddings => &self.embeddings,
        };
        let body = splice(&forward.body, &[Edit::Set("model", self.model.clone())]).map_err(|error| not_sent(&error))?;
        let named = Named { request_id: &forward.request_id, traceparent: forward.traceparent.as_deref() };
        let response = reply::success(self.transport.send(head, &named, body).await?, &self.secrets).await?;
        Ok(reply::forwarded(response))
    }
}

/// The caller's bytes with the server's model name, and for streams the wish for a usage chunk (the edge hides it
/// again from callers who did not ask).
fn chat_body(request: &ChatRequest, model: &str) -> Result<Bytes, BackendError> {
    let model = Edit::Set("model", model.to_owned());
    let view = request.view();
    if view.stream && !view.include_usage {
        let options = match request.field("stream_options") {
            Some(options) if options != "null" => {
                let with_usage = splice(options.as_bytes(), &[Edit::Set("include_usage", "true".into())]);
                String::from_utf8_lossy(&with_usage.map_err(|error| not_sent(&error))?).into_owned()
            }
            _ => r#"{"include_usage":true}"#.to_owned(),
        };
        return Ok(request.spliced(&[model, Edit::Set("stream_options", options)]));
    }
    Ok(request.spliced(&[model]))
}

/// Requests are parsed at the door; a body that cannot be spliced is a fault of ours, not of the server.
fn not_sent(error: &dyn std::fmt::Display) -> BackendError {
    BackendError::Unavailable { why: format!("request could not be written: {error}") }
}

fn secrets(openai: &config::Openai) -> Vec<String> {
    let key = openai.api_key.iter().map(|key| key.expose().to_owned());
    // Header values may be keys too (`api-key`); short ones such as `true` would only mangle messages.
    let headers = openai.headers.values().map(|value| value.get().to_owned());
    key.chain(headers).filter(|secret| secret.len() >= 8).collect()
}

// === impl Debug ===

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("uri", &self.chat.head.uri).field("model", &self.model).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b01_only_model_and_usage_change() {
        for (sent, goes) in [
            (
                r#"{ "z": 1.50, "model" : "auto","messages":[{"role":"user","content":"h\u00e9"}],"x":{"b":1,"a":null}}"#,
                r#"{ "z": 1.50, "model" : "gpt","messages":[{"role":"user","content":"h\u00e9"}],"x":{"b":1,"a":null}}"#,
            ),
            (
                r#"{"model":"auto","messages":[],"stream":true}"#,
                r#"{"model":"gpt","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream_options":{"include_obfuscation":false},"model":"auto","messages":[],"stream":true}"#,
                r#"{"stream_options":{"include_obfuscation":false,"include_usage":true},"model":"gpt","messages":[],"stream":true}"#,
            ),
            (
                r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":false}}"#,
                r#"{"model":"gpt","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"a","messages":[],"stream":true,"stream_options":null}"#,
                r#"{"model":"gpt","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"a","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
                r#"{"model":"gpt","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
        ] {
            // The door refuses empty messages; what matters here are the bytes around them.
            let sent = sent.replace("\"messages\":[]", r#""messages":[{"role":"user","content":""}]"#);
            let goes = goes.replace("\"messages\":[]", r#""messages":[{"role":"user","content":""}]"#);
            let request = ChatRequest::parse(sent.into()).unwrap();
            assert_eq!(chat_body(&request, "\"gpt\"").unwrap(), goes);
        }
    }
}
