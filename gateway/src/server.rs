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
use spectra_config::Limits;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::{Gateway, Live, admin, stack};

mod guarded;
mod retold;

use guarded::Guarded;

/// Most streams that one HTTP/2 connection may have open.
const STREAMS_PER_CONNECTION: u32 = 256;
/// How often an idle HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const HTTP2_PING: Duration = Duration::from_secs(20);
/// Pause after a failed accept (usually: out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const BEAT: Duration = Duration::from_millis(500);

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
    live: Arc<Live>,
    listeners: Listeners,
}

impl Server {
    #[must_use]
    pub fn new(live: Arc<Live>, listeners: Listeners) -> Self {
        Self { live, listeners }
    }

    /// Serves until `shutdown` is ready, then drains: no new connections, readiness false, running requests finish within
    /// `server.drain_ms`, and what is left is broken off with an error. True if everything finished by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> bool {
        let drain = self.live.current().drain.clone();
        let main = tokio::spawn(accept(self.listeners.main, self.live.clone(), drain.begun.clone(), Door::Main));
        // Health and metrics stay readable until the last request has ended.
        let closed = CancellationToken::new();
        let admin = tokio::spawn(accept(self.listeners.admin, self.live.clone(), closed.clone(), Door::Admin));
        let beat = AbortOnDropHandle::new(tokio::spawn(beat()));
        shutdown.await;
        drop(beat);
        drain.begun.cancel();
        let patience = Duration::from_millis(self.live.current().config.server.drain_ms);
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

/// A timer that is always nearer than those of requests: for each one that becomes the nearest while it sleeps, tokio
/// wakes itself by a system call, which with few requests is several a request.
async fn beat() {
    let mut beat = tokio::time::interval(BEAT);
    loop {
        beat.tick().await;
    }
}

#[derive(Clone, Copy)]
enum Door {
    Main,
    Admin,
}

/// Accepts until `closed`; hands back the connections that still run.
async fn accept(listener: TcpListener, live: Arc<Live>, closed: CancellationToken, door: Door) -> GracefulShutdown {
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return connections,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, live.clone(), connections.watcher(), door));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, live: Arc<Live>, watcher: hyper_util::server::graceful::Watcher, door: Door) {
    // Tokens are small writes; Nagle's algorithm would hold them back.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let limits = live.current().config.limits.clone();
    let stream = Guarded::new(stream, Duration::from_millis(limits.client_read_ms), Duration::from_millis(limits.client_write_ms));
    let builder = builder(&limits);
    let service = service_fn(|request: Request<Incoming>| {
        let live = live.clone();
        async move {
            Ok::<_, io::Error>(match door {
                Door::Main => stack::answer(live.current(), request).await,
                Door::Admin => admin::answer(live, request).await,
            })
        }
    });
    if let Err(error) = watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await {
        tracing::debug!(%error, "connection ended");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
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
