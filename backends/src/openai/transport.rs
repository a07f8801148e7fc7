//! Our own HTTP client under the hosted backend: pooled, `TCP_NODELAY`, HTTP/1.1 and 2, one connect deadline for TCP
//! and TLS together, no retries and no redirects.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body::{Frame, SizeHint};
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
use super::pool::{self, Failed, Pool, field};
use crate::{BackendError, BuildError, Phase};

/// An idle connection is closed after so long; most servers close theirs after 60 s or more.
const POOL_IDLE: Duration = Duration::from_secs(55);

/// The connections to one server.
#[derive(Clone, Debug)]
pub enum Transport {
    /// HTTP/1.1 without TLS: servers on this machine and in this network, where a request's own cost is most of it.
    Plain(Pool),
    /// Where the handshake says which version of HTTP is spoken, or it is HTTP/2.
    Negotiated(Box<Client<Connector, Full<Bytes>>>),
}

impl Transport {
    pub fn new(name: &str, openai: &config::Openai, deadlines: &config::Deadlines) -> Result<Self, BuildError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let limit = Duration::from_millis(deadlines.connect_ms);
        let secure = openai.base_url.get().starts_with("https:");
        if !secure && !openai.http2_prior_knowledge {
            let server = openai.base_url.get().parse::<Uri>();
            let wrong =
                |error| BuildError::Backend { name: name.to_owned(), what: format!("base_url {:?}: {error}", openai.base_url.get()) };
            return Ok(Self::Plain(Pool::new(tcp, limit, server.map_err(wrong)?, POOL_IDLE)));
        }
        let wire = if secure {
            Wire::Tls(Box::new(
                HttpsConnectorBuilder::new().with_tls_config(tls(name)?).https_only().enable_all_versions().wrap_connector(tcp),
            ))
        } else {
            Wire::Plain(tcp)
        };
        let connector = Connector { wire, limit };
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
        Ok(Self::Negotiated(Box::new(client)))
    }

    /// The head as this transport sends it.
    pub fn prepared(&self, head: Head) -> Prepared {
        match self {
            Self::Plain(_) => Prepared { opening: pool::opening(&head), head },
            Self::Negotiated(_) => Prepared { opening: Bytes::new(), head },
        }
    }

    /// Sends a request and waits for the head of the response.
    pub async fn send(&self, head: &Prepared, named: &Named<'_>, body: Bytes) -> Result<Response<Body>, BackendError> {
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
            Self::Plain(pool) => match pool.send(head.bytes(named), body).await {
                Ok(response) => Ok(response.map(Body::Plain)),
                Err(Failed::Connect(error)) => Err(unreached(&*error)),
                Err(Failed::Exchange(fault)) => Err(BackendError::Broken { what: causes(&fault).text }),
            },
            Self::Negotiated(client) => match client.request(head.request(named, body)).await {
                Ok(response) => Ok(response.map(Body::Negotiated)),
                Err(error) if error.is_connect() => Err(unreached(&error)),
                Err(error) => Err(BackendError::Broken { what: causes(&error).text }),
            },
        }
    }
}

/// The head of all requests to one endpoint.
#[derive(Debug)]
pub struct Prepared {
    pub head: Head,
    /// The same as the bytes of HTTP/1.1, where those are sent.
    opening: Bytes,
}

/// What names one request to the server.
#[derive(Debug)]
pub struct Named<'a> {
    pub request_id: &'a str,
    pub traceparent: Option<&'a str>,
}

impl Named<'_> {
    fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("x-request-id", self.request_id)].into_iter().chain(self.traceparent.map(|parent| ("traceparent", parent)))
    }
}

impl Prepared {
    fn bytes(&self, named: &Named<'_>) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(self.opening.len() + ROOM);
        bytes.extend_from_slice(&self.opening);
        named.fields().for_each(|(name, value)| field(&mut bytes, name, value.as_bytes()));
        bytes
    }

    fn request(&self, named: &Named<'_>, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.head.uri.clone();
        let headers = request.headers_mut();
        *headers = self.head.headers.clone();
        for (name, value) in named.fields() {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        request
    }
}

/// For the fields of one request, and a body as most are.
const ROOM: usize = 2 << 10;

/// The body of a response. Dropped before its end it closes the exchange.
#[derive(Debug)]
pub enum Body {
    Plain(pool::Body),
    Negotiated(Incoming),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Plain(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Negotiated(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Negotiated(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Negotiated(body) => body.size_hint(),
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
pub struct ConnectTimeout;

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
