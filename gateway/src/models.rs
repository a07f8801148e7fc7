//! `GET /v1/models` and `/v1/models/{id}`: the names a caller may use as `model`.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, Response};
use serde::Serialize;
use spectra_router::RouteError;

use crate::{Body, Failure, Gateway, respond};

/// Every name that may be asked for.
#[derive(Debug)]
pub(crate) struct Names {
    ordered: Vec<String>,
    known: HashSet<Arc<str>>,
    other: Arc<str>,
}

impl Names {
    pub fn new(ordered: Vec<String>) -> Self {
        let known = ordered.iter().map(|name| Arc::from(name.as_str())).collect();
        Self { ordered, known, other: "other".into() }
    }

    /// The name as a bounded label: `other` for what is not in the config.
    pub fn label(&self, asked: &str) -> Arc<str> {
        self.known.get(asked).unwrap_or(&self.other).clone()
    }
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

pub(crate) fn list(gateway: &Gateway, headers: &HeaderMap) -> Response<Body> {
    if let Err(refusal) = gateway.clients.identify(headers) {
        return respond::failure(&refusal.into());
    }
    let data = gateway.names.ordered.iter().map(|id| model(gateway, id)).collect();
    respond::json(&List { object: "list", data })
}

pub(crate) fn one(gateway: &Gateway, headers: &HeaderMap, id: &str) -> Response<Body> {
    if let Err(refusal) = gateway.clients.identify(headers) {
        return respond::failure(&refusal.into());
    }
    match gateway.names.ordered.iter().find(|name| *name == id) {
        Some(id) => respond::json(&model(gateway, id)),
        None => respond::failure(&Failure::from(RouteError::UnknownModel { model: id.chars().take(200).collect() })),
    }
}

fn model<'a>(gateway: &Gateway, id: &'a str) -> Model<'a> {
    Model { id, object: "model", created: gateway.born, owned_by: "spectra" }
}
