//! Listening, accepting, draining. Says nothing about requests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{Gateway, admin, stack};

mod guarded;

use guarded::Guarded;

/// Most streams that one HTTP/2 connection may have open.
const STREAMS_PER_CONNECTION: u32 = 256;
/// How often an idle HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// Pause after a failed accept (usually: out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The two sockets, bound.
#[derive(Debug)]
pub struct Listeners {
    pub main: TcpListener,
    pub admin: TcpListener,
}

impl Listeners {
    /// # Errors
    /// With the address and the usual remedy.
    pub async fn bind(gateway: &Gateway) -> anyhow::Result<Self> {
        let main = bind(gateway.config.server.listen, "--listen ADDRESS or listen in [server]").await?;
        let admin = bind(gateway.config.admin.listen, "--admin ADDRESS or listen in [admin]").await?;
        Ok(Self { main, admin })
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; another program may be using it: choose another address with {key}"))
}

/// A gateway and its sockets.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    listeners: Listeners,
}

impl Server {
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, listeners: Listeners) -> Self {
        Self { gateway, listeners }
    }

    /// Serves until `shutdown` is ready, then drains: no new connections, readiness false, running requests finish within
    /// `server.drain_ms`, and what is left is broken off with an error. True if everything finished by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> bool {
        let drain = self.gateway.drain.clone();
        let main = tokio::spawn(accept(self.listeners.main, self.gateway.clone(), drain.begun.clone(), Door::Main));
        // Health and metrics stay readable until the last request has ended.
        let closed = CancellationToken::new();
        let admin = tokio::spawn(accept(self.listeners.admin, self.gateway.clone(), closed.clone(), Door::Admin));
        shutdown.await;
        drain.begun.cancel();
        let patience = Duration::from_millis(self.gateway.config.server.drain_ms);
        let connections = main.await.unwrap_or_default();
        let mut finishing = std::pin::pin!(connections.shutdown());
        let finished = tokio::time::timeout(patience, &mut finishing).await.is_ok();
        if !finished {
            drain.over.cancel();
            // The error events need a moment to be written.
            let _ = tokio::time::timeout(Duration::from_secs(1), finishing).await;
        }
        closed.cancel();
        if let Ok(connections) = admin.await {
            let _ = tokio::time::timeout(Duration::from_secs(1), connections.shutdown()).await;
        }
        finished
    }
}

#[derive(Clone, Copy)]
enum Door {
    Main,
    Admin,
}

/// Accepts until `closed`; hands back the connections that still run.
async fn accept(listener: TcpListener, gateway: Arc<Gateway>, closed: CancellationToken, door: Door) -> GracefulShutdown {
    let connections = GracefulShutdown::new();
    let builder = Arc::new(builder(&gateway));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return connections,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(builder.clone(), stream, gateway.clone(), connections.watcher(), door));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    builder: Arc<auto::Builder<TokioExecutor>>,
    stream: TcpStream,
    gateway: Arc<Gateway>,
    watcher: hyper_util::server::graceful::Watcher,
    door: Door,
) {
    // Tokens are small writes; Nagle's algorithm would hold them back.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let limits = &gateway.config.limits;
    let stream = Guarded::new(stream, Duration::from_millis(limits.client_read_ms), Duration::from_millis(limits.client_write_ms));
    let service = service_fn(|request: Request<Incoming>| {
        let gateway = gateway.clone();
        async move {
            Ok::<_, io::Error>(match door {
                Door::Main => stack::answer(gateway, request).await,
                Door::Admin => admin::answer(&gateway, &request),
            })
        }
    });
    if let Err(error) = watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await {
        tracing::debug!(%error, "connection ended");
    }
}

fn builder(gateway: &Gateway) -> auto::Builder<TokioExecutor> {
    let limits = &gateway.config.limits;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.client_read_ms))
        .max_buf_size(limits.header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
    builder
}
