//! `/v1/embeddings`: passed on as it is to a backend that embeds. Vectors of different models cannot be mixed, so the
//! model is the one named: a backend, or the first of a route's ladder that embeds; nothing escalates.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use serde_json::Value;
use spectra_backends::{BackendError, Endpoint, Forward, Forwarded};
use spectra_router::RouteError;
use tokio::time::Instant;

use super::{missing, object, wrong};
use crate::record::{Entrance, Outcome, Record};
use crate::{Body, Failure, Gateway, Refusal, chat, respond};

/// Most bytes of an answer: 2,048 inputs of 3,072 numbers, spelt out.
const MOST_BYTES: usize = 128 << 20;
const DEADLINE: Duration = Duration::from_secs(300);

pub(crate) async fn answer(gateway: Arc<Gateway>, request: Request<Incoming>, id: Arc<str>) -> Response<Body> {
    let mut record = Record::new(gateway.books.clone(), id, Entrance::Embeddings);
    let (parts, body) = request.into_parts();
    match embed(&gateway, &parts, body, &mut record).await {
        Ok(mut response) => {
            record.end(Outcome::Delivered, response.status().as_u16(), None);
            if let Some(caller) = &record.caller {
                caller.tell(response.headers_mut());
            }
            response
        }
        Err(failure) => chat::refused(Entrance::Embeddings, &failure, record),
    }
}

async fn embed(gateway: &Gateway, parts: &http::request::Parts, body: Incoming, record: &mut Record) -> Result<Response<Body>, Failure> {
    let raw = chat::take(gateway, parts, body, record).await?;
    let fields = object(&raw)?;
    let model = fields.get("model").filter(|model| !model.is_null()).ok_or_else(|| missing("model"))?;
    let model = model.as_str().ok_or_else(|| wrong("model", "a string"))?;
    record.data.asked_model = gateway.names.label(model);
    match fields.get("input") {
        None | Some(Value::Null) => return Err(missing("input").into()),
        Some(Value::String(_) | Value::Array(_)) => {}
        Some(_) => return Err(wrong("input", "a string or an array").into()),
    }
    if let Some(caller) = &record.caller {
        record.charge = Some(caller.charge(raw.len() as u64 / 4)?);
    }
    let backend = backend(gateway, model)?;
    record.data.model = Some(backend.as_str().into());
    let forward = Forward {
        endpoint: Endpoint::Embeddings,
        body: raw,
        stream: false,
        deadline: Instant::now() + DEADLINE,
        request_id: record.data.request_id.clone(),
        traceparent: None,
    };
    let fleet = gateway.router.fleet();
    let answered = tokio::select! {
        answered = fleet.forward(&backend, forward) => answered,
        () = gateway.drain.over.cancelled() => return Err(Refusal::Draining.into()),
    };
    let Forwarded { headers, mut body, .. } = answered.map_err(|error| Failure::upstream(error, None))?;
    let mut all = BytesMut::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| Failure::upstream(error, None))?;
        if all.len() + bytes.len() > MOST_BYTES {
            return Err(Failure::upstream(BackendError::Broken { what: "an answer too large".into() }, None));
        }
        all.extend_from_slice(&bytes);
    }
    let mut response = Response::new(Body::whole(all));
    *response.headers_mut() = headers;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(name) = HeaderValue::from_str(&backend) {
        response.headers_mut().insert(respond::MODEL, name);
    }
    Ok(response)
}

/// The backend that a name stands for here.
fn backend(gateway: &Gateway, asked: &str) -> Result<String, RouteError> {
    let config = &gateway.config;
    let named = config.aliases.get(asked).map_or(asked, |target| target.get_ref().as_str());
    let fleet = gateway.router.fleet();
    let candidates = match (config.routes.get(named), named) {
        (Some(route), _) => route.ladder_names(),
        (None, "auto") => config.routes.get(config.router.strong.get_ref()).map(spectra_config::Route::ladder_names).unwrap_or_default(),
        (None, _) if config.backends.contains_key(named) => vec![named.to_owned()],
        _ => return Err(RouteError::UnknownModel { model: named.chars().take(200).collect() }),
    };
    let none = || RouteError::NoRouteFits { route: named.to_owned(), why: "none of its models embeds".into(), context_length: false };
    candidates.into_iter().find(|name| fleet.forwards(name)).ok_or_else(none)
}
