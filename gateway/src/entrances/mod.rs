//! The doors a request may come through. Each turns its body into a chat request and chat chunks into its own answer;
//! routing and verification behind them are the same.

mod chat;
mod completions;
pub(crate) mod forwarded;
pub(crate) mod messages;
mod responses;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};
use spectra_backends::ChatRequest;
use spectra_backends::chat::BadRequest;

use crate::record::Entrance;
use crate::respond::Dialect;

/// True where a request is passed on as it is, not asked as chat.
pub(crate) fn passes(entrance: Entrance, raw: &[u8]) -> bool {
    match entrance {
        Entrance::Embeddings => true,
        Entrance::Completions => completions::passes(raw),
        Entrance::Chat | Entrance::Messages | Entrance::Responses => false,
    }
}

/// The body as a chat request, and how its client wants to be spoken to.
pub(crate) fn understand(entrance: Entrance, raw: Bytes) -> Result<(ChatRequest, Box<dyn Dialect>), BadRequest> {
    match entrance {
        // Embeddings are not chat: they are passed on.
        Entrance::Chat | Entrance::Embeddings => Ok((ChatRequest::parse(raw)?, Box::new(chat::Chat::default()))),
        Entrance::Completions => completions::understand(&raw),
        Entrance::Messages => messages::understand(&raw),
        Entrance::Responses => responses::understand(&raw),
    }
}

/// A body's top-level object.
fn object(raw: &[u8]) -> Result<Map<String, Value>, BadRequest> {
    // Says what is wrong in the same words as at the main door: not UTF-8, not JSON, a field twice.
    match ChatRequest::parse(Bytes::copy_from_slice(raw)) {
        Err(bad) if matches!(bad.code, "invalid_json" | "invalid_utf8" | "duplicate_parameter") => return Err(bad),
        _ => {}
    }
    serde_json::from_slice(raw)
        .map_err(|error| BadRequest::new("invalid_json", None, format!("We could not parse the JSON body of your request: {error}.")))
}

fn chat_request(body: Map<String, Value>) -> Result<ChatRequest, BadRequest> {
    ChatRequest::parse(Value::Object(body).to_string().into())
}

/// Moves fields that mean the same under the same name; `null` counts as absent.
fn carry(from: &mut Map<String, Value>, to: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = from.remove(*name).filter(|value| !value.is_null()) {
            to.insert((*name).to_owned(), value);
        }
    }
}

/// Refuses a field that this door cannot honour: it is not dropped in silence.
fn refuse(body: &Map<String, Value>, name: &str, harmless: impl Fn(&Value) -> bool) -> Result<(), BadRequest> {
    match body.get(name) {
        Some(value) if !value.is_null() && !harmless(value) => Err(BadRequest::new(
            "unsupported_parameter",
            name.to_owned(),
            format!("Unsupported parameter: '{name}' is not supported by this gateway."),
        )),
        _ => Ok(()),
    }
}

fn missing(name: &str) -> BadRequest {
    BadRequest::new("missing_required_parameter", name.to_owned(), format!("Missing required parameter: '{name}'."))
}

fn wrong(name: &str, expected: &str) -> BadRequest {
    BadRequest::new("invalid_type", name.to_owned(), format!("Invalid type for '{name}': expected {expected}."))
}

/// One `data:` event.
fn event(data: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// One event with a name.
fn named(name: &str, data: &Value, out: &mut BytesMut) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\n");
    event(data.to_string().as_bytes(), out);
}

/// A field of a chunk's own JSON, such as its `id`.
fn field(data: &[u8], name: &str) -> Value {
    serde_json::from_slice::<Map<String, Value>>(data).ok().and_then(|mut object| object.remove(name)).unwrap_or_default()
}
