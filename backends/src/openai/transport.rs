//! Our own HTTP client under the hosted backend: pooled, `TCP_NODELAY`, HTTP/1.1 and 2, one connect deadline for TCP
//! and TLS together, no retries and no redirects.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_platform_verifier::BuilderVerifierExt;
use spectra_config as config;
use tokio::time::Instant;
use tower::{BoxError, Service};

use super::head::Head;
use super::pool::{self, Failed, Pool};
use crate::{BackendError, BuildError, Phase};

/// An idle connection is closed after so long; most servers close theirs after 60 s or more.
const POOL_IDLE: Duration = Duration::from_secs(55);

/// The connections to one server.
#[derive(Clone, Debug)]
pub enum Transport {
    /// HTTP/1.1 without TLS: servers on this machine and in this network, where a request's own cost is most of it.
    Plain(Pool),
    /// Where the handshake says which version of HTTP is spoken, or it is HTTP/2.
    Negotiated(Client<Connector, Full<Bytes>>),
}

impl Transport {
    pub fn new(name: &str, openai: &config::Openai, deadlines: &config::Deadlines) -> Result<Self, BuildError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let wire = if openai.base_url.get().starts_with("https:") {
            let tls = tls(name)?;
            Wire::Tls(Box::new(HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_all_versions().wrap_connector(tcp)))
        } else {
            Wire::Plain(tcp)
        };
        let plain = matches!(wire, Wire::Plain(_)) && !openai.http2_prior_knowledge;
        let connector = Connector { wire, limit: Duration::from_millis(deadlines.connect_ms) };
        if plain {
            let server = openai.base_url.get().parse::<Uri>();
            let wrong =
                |error| BuildError::Backend { name: name.to_owned(), what: format!("base_url {:?}: {error}", openai.base_url.get()) };
            return Ok(Self::Plain(Pool::new(connector, server.map_err(wrong)?, POOL_IDLE)));
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            // A pooled connection that the server closed is replaced; a request that was sent is never repeated.
            .retry_canceled_requests(true)
            .http2_only(openai.http2_prior_knowledge)
            // h2 drops a connection whose unread small frames cost more than half the connection's window; token streams
            // are small frames, and one slow reader must not end the streams of all. A stream's backlog stays bounded.
            .http2_initial_connection_window_size(64 << 20)
            .http2_initial_stream_window_size(256 << 10)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .build(connector);
        Ok(Self::Negotiated(client))
    }

    /// The head as this transport sends it.
    pub fn addressed(&self, head: Head) -> Head {
        match self {
            Self::Plain(_) => pool::addressed(head),
            Self::Negotiated(_) => head,
        }
    }

    /// Sends a request and waits for the head of the response.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BackendError> {
        let started = Instant::now();
        let unreached = |error: &(dyn std::error::Error + 'static)| {
            let cause = causes(error);
            if cause.timed_out {
                BackendError::Timeout { phase: Phase::Connect, after: started.elapsed() }
            } else {
                BackendError::Unavailable { why: format!("cannot connect: {}", cause.text) }
            }
        };
        match self {
            Self::Plain(pool) => pool.send(request).await.map_err(|failed| match failed {
                Failed::Connect(error) => unreached(&*error),
                Failed::Send(error) => BackendError::Broken { what: causes(&error).text },
            }),
            Self::Negotiated(client) => client
                .request(request)
                .await
                .map_err(|error| if error.is_connect() { unreached(&error) } else { BackendError::Broken { what: causes(&error).text } }),
        }
    }
}

/// async-openai wants a client of reqwest to build requests with; it opens no connection.
pub fn never_used(name: &str) -> Result<reqwest::Client, BuildError> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|tls| tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    let wrong = |what: String| BuildError::Backend { name: name.to_owned(), what };
    let tls = tls.map_err(|error| wrong(error.to_string()))?;
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().map_err(|error| wrong(error.to_string()))
}

fn tls(name: &str) -> Result<rustls::ClientConfig, BuildError> {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map(|tls| tls.with_no_client_auth())
        .map_err(|error| BuildError::Backend {
            name: name.to_owned(),
            what: format!("no TLS: {error} (install the system's CA certificates, or set SSL_CERT_FILE)"),
        })
}

/// The texts of an error and of what caused it, and whether our connect deadline is among them.
pub struct Causes {
    pub text: String,
    timed_out: bool,
}

pub fn causes(error: &(dyn std::error::Error + 'static)) -> Causes {
    let mut found = Causes { text: error.to_string(), timed_out: false };
    let mut next = error.source();
    while let Some(cause) = next {
        found.timed_out |= cause.is::<ConnectTimeout>()
            || cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<ConnectTimeout>());
        let text = cause.to_string();
        if !found.text.contains(&text) {
            found.text.push_str(": ");
            found.text.push_str(&text);
        }
        next = cause.source();
    }
    found
}

#[derive(Debug, thiserror::Error)]
#[error("connect deadline passed")]
struct ConnectTimeout;

#[derive(Clone, Debug)]
enum Wire {
    Plain(HttpConnector),
    Tls(Box<HttpsConnector<HttpConnector>>),
}

/// TCP, or TCP and TLS, within one deadline.
#[derive(Clone, Debug)]
pub struct Connector {
    wire: Wire,
    limit: Duration,
}

type Connection = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.wire {
            Wire::Plain(tcp) => tcp.poll_ready(cx).map_err(Into::into),
            Wire::Tls(tls) => tls.poll_ready(cx),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = self.limit;
        let connect: Self::Future = match &mut self.wire {
            Wire::Plain(tcp) => {
                let connect = tcp.call(uri);
                Box::pin(async move { Ok(Connection::Http(connect.await?)) })
            }
            Wire::Tls(tls) => Box::pin(tls.call(uri)),
        };
        Box::pin(async move { tokio::time::timeout(limit, connect).await.unwrap_or_else(|_| Err(Box::new(ConnectTimeout))) })
    }
}
