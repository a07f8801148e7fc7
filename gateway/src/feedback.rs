//! `POST /v1/feedback`: what only the caller knows of an answer, such as that its tests failed.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use spectra_backends::chat::BadRequest;

use crate::books::Views;
use crate::ledger::Feedback;
use crate::{Body, Failure, Gateway, chat, respond};

/// Longest reason that is kept, in characters.
const REASON_CHARS: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    request_id: String,
    usable: bool,
    reason: Option<String>,
}

#[derive(Serialize)]
struct Receipt<'a> {
    object: &'static str,
    request_id: &'a str,
    usable: bool,
    route: Option<&'a str>,
    /// The scorer has learned from it; false for a request of long ago, of which only the ledger knows.
    learned: bool,
}

pub(crate) async fn answer(gateway: &Arc<Gateway>, request: Request<Incoming>) -> Response<Body> {
    match take(gateway, request).await {
        Ok(response) => response,
        Err(failure) => respond::failure(&failure),
    }
}

async fn take(gateway: &Arc<Gateway>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    gateway.clients.identify(&parts.headers)?;
    let raw = chat::read(gateway, &parts.headers, body).await?;
    let report: Report = serde_json::from_slice(&raw).map_err(|error| {
        let expected = "Expected {\"request_id\": \"…\", \"usable\": true or false, \"reason\": \"…\" (optional)}";
        BadRequest::new("invalid_feedback", None, format!("We could not read the feedback: {error}. {expected}."))
    })?;
    let views = gateway.books.settled().await;
    let remembered = views.feed.feedback(&report.request_id, report.usable);
    let (route, learned) = match remembered {
        Some((trail, route)) => {
            trail.read(|account| views.lessons.feedback(account, report.usable));
            (route, true)
        }
        None => (written(views.clone(), &report.request_id).await?, false),
    };
    views.metrics.feedback(route.as_deref(), report.usable);
    if let Some(ledger) = &views.ledger {
        let reason = report.reason.map(|reason| reason.chars().take(REASON_CHARS).collect());
        ledger.feedback(Feedback { request_id: report.request_id.clone(), usable: report.usable, reason });
    }
    let receipt =
        Receipt { object: "spectra.feedback", request_id: &report.request_id, usable: report.usable, route: route.as_deref(), learned };
    Ok(respond::json(&receipt))
}

/// The route of a request that only the ledger remembers.
async fn written(views: Arc<Views>, request_id: &str) -> Result<Option<Arc<str>>, Failure> {
    let asked = request_id.to_owned();
    // SQLite blocks; not on a thread that serves requests.
    let looked = tokio::task::spawn_blocking(move || views.ledger.as_ref().and_then(|ledger| ledger.route_of(&asked).ok().flatten()));
    match looked.await.ok().flatten() {
        Some(route) => Ok(route.map(Arc::from)),
        None => {
            let text = format!("No request with the id '{request_id}' is known. Send the x-request-id of an answer of this gateway.");
            let unknown = BadRequest::new("request_not_found", "request_id".to_owned(), text);
            Err(Failure { status: StatusCode::NOT_FOUND, ..unknown.into() })
        }
    }
}
