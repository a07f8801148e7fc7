//! The operator's listener: health, readiness, metrics, the page, reload.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;
use spectra_backends::breaker;
use spectra_backends::llama::{State, WorkerPhase};

use crate::feed::{Levels, ModelLevel, Since};
use crate::metrics::{BreakerState, CONTENT_TYPE, EngineSample};
use crate::{Body, Failure, Gateway, Live, Refusal, dashboard, respond};

pub(crate) async fn answer(live: Arc<Live>, request: Request<Incoming>) -> Response<Body> {
    let (path, method) = (request.uri().path(), request.method());
    // Named as Prometheus names it.
    let allowed = if path == "/-/reload" { "POST" } else { "GET" };
    if method != allowed && (method, allowed) != (&Method::HEAD, "GET") {
        return respond::failure(&Refusal::WrongMethod { path: path.chars().take(200).collect(), allowed }.into());
    }
    let gateway = live.current();
    if path == "/-/reload" && authorised(&gateway, &request) {
        // Any page in a browser of this machine may post here; browsers then say where it is from, and programs do not.
        return if request.headers().contains_key(header::ORIGIN) {
            respond::failure(&Refusal::FromAPage.into())
        } else {
            reload(live).await
        };
    }
    if matches!(path, "/metrics" | "/dashboard/live") && authorised(&gateway, &request) {
        gateway.books.settled().await;
    }
    told(&gateway, &request)
}

/// What a reload came to.
#[derive(Serialize)]
struct Reloaded<'a> {
    config_hash: String,
    notices: Vec<&'a String>,
}

async fn reload(live: Arc<Live>) -> Response<Body> {
    // Files are read: not on a thread that serves requests.
    match tokio::task::spawn_blocking(move || live.reload()).await {
        Ok(Ok(gateway)) => {
            let notices = gateway.config.notices.iter().chain(&gateway.missing).collect();
            respond::json(&Reloaded { config_hash: gateway.config_hash(), notices })
        }
        Ok(Err(error)) => respond::failure(&Refusal::ConfigRejected { why: format!("{error:#}") }.into()),
        Err(_) => respond::failure(&Refusal::Panicked.into()),
    }
}

fn told(gateway: &Gateway, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    match path {
        // Alive as long as it answers.
        "/healthz" => respond::text("ok\n"),
        "/readyz" => ready(gateway),
        // The page's files hold no data; it asks for the token itself.
        _ if dashboard::file(path).is_some() => page(path),
        _ if !authorised(gateway, request) => respond::failure(&Failure::from(Refusal::NoKey)),
        "/metrics" => metrics(gateway),
        "/dashboard/live" => respond::json(&gateway.books.views.feed.live(Since::parse(request.uri().query()), &levels(gateway))),
        _ => respond::failure(&Refusal::NoSuchPath { path: path.chars().take(200).collect() }.into()),
    }
}

/// The exposition, with what only the moment of the scrape knows.
fn metrics(gateway: &Gateway) -> Response<Body> {
    let (metrics, fleet) = (&gateway.books.views.metrics, gateway.router.fleet());
    metrics.set_in_flight(gateway.places.taken());
    if let Some(ledger) = &gateway.books.views.ledger {
        metrics.set_ledger(ledger.sample());
    }
    if let Some(traces) = &gateway.books.views.traces {
        metrics.set_traces_dropped(traces.dropped());
    }
    for (name, load) in fleet.names().filter_map(|name| Some((name, fleet.load(name)?))) {
        metrics.set_breaker(name, load.breaker.into());
    }
    for (name, worker) in &gateway.workers.0 {
        metrics.set_engine(name, &engine_sample(&worker.state()));
    }
    let Ok(text) = metrics.text() else { return respond::failure(&Refusal::Panicked.into()) };
    let mut response = respond::text(text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// One file of the page, which may load from nowhere else.
fn page(path: &str) -> Response<Body> {
    let (kind, bytes) = dashboard::file(path).unwrap_or_default();
    let mut response = Response::new(Body::whole(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(dashboard::SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // It changes with the binary; asking again costs nothing on an admin listener.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What the page shows of this moment.
fn levels(gateway: &Gateway) -> Levels {
    let fleet = gateway.router.fleet();
    let mut models: Vec<ModelLevel> = fleet
        .names()
        .map(|name| ModelLevel {
            name: name.to_owned(),
            local: fleet.facts(name).is_some_and(|facts| facts.local),
            breaker: fleet.load(name).map_or(BreakerState::Closed, |load| load.breaker.into()),
            engine: gateway.workers.0.get(name).map(|worker| engine_sample(&worker.state())),
        })
        .collect();
    models.sort_by(|one, other| one.name.cmp(&other.name));
    Levels {
        in_flight: gateway.places.taken(),
        models,
        ledger: gateway.books.views.ledger.as_ref().map(|ledger| ledger.sample()),
        notices: gateway.config.notices.iter().chain(&gateway.missing).cloned().collect(),
        keeps_text: gateway.config.accounting.keep_text,
        usd_per_hour: gateway.config.accounting.local_usd_per_hour,
        config_hash: gateway.config_hash(),
    }
}

fn engine_sample(state: &State) -> EngineSample {
    let health = state.health.clone().unwrap_or_default();
    let stats = health.stats;
    #[expect(clippy::cast_precision_loss, reason = "a share of two small counts")]
    let kv_used = stats.kv_tokens as f64 / stats.kv_capacity.max(1) as f64;
    EngineSample {
        up: state.phase == WorkerPhase::Ready,
        slots: stats.slots,
        slots_busy: stats.slots_busy,
        queue: stats.waiting,
        kv_used,
        prompt_tokens: state.past_tokens[0] + stats.prompt_tokens_total,
        generated_tokens: state.past_tokens[1] + stats.generated_tokens_total,
        restarts: state.restarts,
        exits: state.exits.clone(),
        memory: health.memory_bytes,
        gpus: health.gpus.into_iter().map(|gpu| (gpu.name, [gpu.free_bytes, gpu.total_bytes])).collect(),
    }
}

impl From<breaker::State> for BreakerState {
    fn from(state: breaker::State) -> Self {
        match state {
            breaker::State::Closed => Self::Closed,
            breaker::State::HalfOpen => Self::Probing,
            breaker::State::Open => Self::Open,
        }
    }
}

fn authorised(gateway: &Gateway, request: &Request<Incoming>) -> bool {
    let Some(token) = &gateway.config.admin.token else { return true };
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let sent = sent.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token.trim());
    same(sent.as_bytes(), token.expose().as_bytes())
}

/// Compares in a time that depends on the lengths only.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

/// True where a request would be let through to the backend now.
fn available(gateway: &Gateway, name: &str) -> bool {
    // One that is loaded when it is wanted is there for whoever wants it.
    let there = |phase| matches!(phase, WorkerPhase::Ready | WorkerPhase::Unloaded);
    let loaded = gateway.workers.0.get(name).is_none_or(|worker| there(worker.state().phase));
    let here = !gateway.missing.iter().any(|missing| missing.starts_with(&format!("backend {name}:")));
    loaded && here && gateway.router.fleet().admits(name)
}

#[derive(Serialize)]
struct Readiness {
    /// `ready`, `degraded` (some tier is not there), `draining` or `unready`.
    status: &'static str,
    local: &'static str,
    hosted: &'static str,
}

/// Ready as long as some model can answer; each tier says for itself.
fn ready(gateway: &Gateway) -> Response<Body> {
    let fleet = gateway.router.fleet();
    let tier = |local: bool| {
        let mut states = fleet
            .names()
            .filter(|name| fleet.facts(name).is_some_and(|facts| facts.local == local))
            .map(|name| available(gateway, name))
            .peekable();
        if states.peek().is_none() {
            "absent"
        } else if states.any(|up| up) {
            "ready"
        } else {
            "unavailable"
        }
    };
    let (local, hosted) = (tier(true), tier(false));
    let status = match (local, hosted) {
        _ if gateway.drain.begun.is_cancelled() => "draining",
        ("ready", "ready") => "ready",
        // Not configured is a choice; unavailable is not.
        ("ready", "absent") | ("absent", "ready") => "ready",
        ("ready", _) | (_, "ready") => "degraded",
        _ => "unready",
    };
    let mut response = respond::json(&Readiness { status, local, hosted });
    if matches!(status, "draining" | "unready") {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}
