//! `POST /v1/embeddings`: texts or tokens in, a vector of length 1 for each.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use spectra_backends::chat::BadRequest;

use super::chat::refusal;
use super::respond::{Body, Problem, json as json_response};
use super::{Loaded, MOST_BYTES_PER_TOKEN};

/// Texts one request may have, and tokens of all of them: OpenAI's bounds.
const MOST_TEXTS: usize = 2048;
const MOST_TOKENS: usize = 300_000;

#[derive(Deserialize)]
struct Request {
    input: Input,
    #[serde(default)]
    encoding_format: Encoding,
    dimensions: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<i32>),
    ManyTokens(Vec<Vec<i32>>),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct Whole<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: serde_json::Value,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Written<'a>,
}

/// Numbers, or the base64 of little-endian floats, which OpenAI's own clients ask for.
#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    Numbers(&'a [f32]),
    Text(String),
}

/// Answers one request.
pub(super) async fn answer(loaded: Arc<Loaded>, body: Bytes) -> Result<Response<Body>, Problem> {
    let request: Request = serde_json::from_slice(&body).map_err(|error| {
        let message = format!("This is not an embeddings request: {error}. 'input' is a string, a list of strings, or token ids.");
        invalid(None, message)
    })?;
    let width = loaded.engine.model().width();
    if let Some(asked) = request.dimensions
        && asked != width as u64
    {
        // A vector cut short means something only for models trained for it, and no GGUF says whether its model was.
        let message = format!("Invalid 'dimensions': this model's embeddings have {width} numbers and are not cut.");
        return Err(invalid(Some("dimensions"), message));
    }
    let there = Arc::clone(&loaded);
    let tokenising = tokio::task::spawn_blocking(move || tokens(&there, request.input));
    let texts = tokenising.await.map_err(|error| Problem::engine(&format!("tokenising failed: {error}")))??;
    let total: usize = texts.iter().map(Vec::len).sum();
    if total > MOST_TOKENS {
        return Err(invalid(Some("input"), format!("Invalid 'input': {total} tokens are more than the {MOST_TOKENS} of one request.")));
    }
    let vectors = loaded.engine.embed(texts).await.map_err(|refused| refusal(&refused, "input"))?;
    let data = vectors.iter().enumerate().map(|(index, vector)| Embedding {
        object: "embedding",
        index,
        embedding: match request.encoding_format {
            Encoding::Float => Written::Numbers(vector),
            Encoding::Base64 => {
                Written::Text(BASE64_STANDARD.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()))
            }
        },
    });
    let usage = json!({ "prompt_tokens": total, "total_tokens": total });
    let whole = Whole { object: "list", data: data.collect(), model: &loaded.name, usage };
    let text = serde_json::to_string(&whole).map_err(|error| Problem::engine(&error.to_string()))?;
    Ok(json_response(StatusCode::OK, text))
}

fn tokens(loaded: &Loaded, input: Input) -> Result<Vec<Vec<i32>>, Problem> {
    let model = loaded.engine.model();
    let most = loaded.engine.limits().context_tokens as usize * MOST_BYTES_PER_TOKEN;
    let text = |text: String| {
        if text.len() > most {
            let message = format!("Invalid 'input': a text of {} bytes is longer than this model reads.", text.len());
            return Err(Problem { code: "context_length_exceeded", ..invalid(Some("input"), message) });
        }
        Ok(model.tokenize_plain(&text))
    };
    let texts = match input {
        Input::Text(one) => vec![text(one)?],
        Input::Texts(many) if many.len() <= MOST_TEXTS => many.into_iter().map(text).collect::<Result<_, _>>()?,
        Input::Tokens(one) => vec![one],
        Input::ManyTokens(many) if many.len() <= MOST_TEXTS => many,
        Input::Texts(_) | Input::ManyTokens(_) => {
            return Err(invalid(Some("input"), format!("Invalid 'input': more than the {MOST_TEXTS} texts of one request.")));
        }
    };
    let known = |token: &i32| usize::try_from(*token).is_ok_and(|token| token < model.vocabulary());
    match texts.iter().flatten().find(|token| !known(token)) {
        Some(token) => Err(invalid(Some("input"), format!("Invalid 'input': token {token} is not in this model's vocabulary."))),
        None if texts.is_empty() || texts.iter().any(Vec::is_empty) => Err(invalid(Some("input"), "Invalid 'input': it is empty.".into())),
        None => Ok(texts),
    }
}

fn invalid(param: Option<&str>, message: String) -> Problem {
    Problem::bad_request(&BadRequest::new("invalid_value", param.map(str::to_owned), message))
}
