//! The connections to one HTTP/1.1 server, kept from one request to the next.
//!
//! hyper-util's client serves any number of hosts in both versions of HTTP and pays for it with every request: a key of scheme
//! and host, a race between a pooled and a new connection, a URI and a `host` made anew (benches/README.md). A backend has one
//! host, so that a list of hyper's own handles does.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use parking_lot::Mutex;
use tower::{BoxError, Service, ServiceExt};

use super::head::Head;
use super::transport::Connector;

type Handle = SendRequest<Full<Bytes>>;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    connector: Connector,
    server: Uri,
    idle: Arc<Idle>,
}

#[derive(Debug)]
struct Idle {
    within: Duration,
    handles: Mutex<Handles>,
}

/// The last one used is used first, so that the others grow old.
#[derive(Debug, Default)]
struct Handles {
    list: Vec<Handle>,
    /// So many of them were there at the last look, and not used since: those at the front.
    old: usize,
    /// Somebody looks.
    watched: bool,
}

pub enum Failed {
    Connect(BoxError),
    Send(hyper::Error),
}

/// The head as HTTP/1.1 has it: the server in `host`, unless the operator says otherwise, and the rest as the target.
pub fn addressed(mut head: Head) -> Head {
    let host = head.uri.host().map(|host| match head.uri.port_u16().filter(|port| *port != 80) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    });
    if let Some(host) = host.and_then(|host| HeaderValue::from_str(&host).ok()) {
        head.headers.entry(HOST).or_insert(host);
    }
    head.uri = head.uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    head
}

impl Pool {
    /// Idle connections are closed after `within` to twice as long.
    pub fn new(connector: Connector, server: Uri, within: Duration) -> Self {
        Self { connector, server, idle: Arc::new(Idle { within, handles: Mutex::default() }) }
    }

    /// Sends a request, that is `addressed`, and waits for the head of the response. A kept connection that the
    /// server had closed is replaced; a request that was sent is never repeated.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
        loop {
            let kept = self.idle.take();
            let reused = kept.is_some();
            let mut handle = match kept {
                Some(handle) => handle,
                None => self.connect().await?,
            };
            match handle.try_send_request(request).await {
                Ok(response) => {
                    self.idle.keep(handle);
                    return Ok(response);
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(Failed::Send(failed.into_error())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Handle, Failed> {
        let stream = self.connector.clone().ready_oneshot().await.map_err(Failed::Connect)?.call(self.server.clone());
        let (handle, connection) = http1::handshake(stream.await.map_err(Failed::Connect)?).await.map_err(Failed::Send)?;
        // It ends with its handle, or when the server closes.
        tokio::spawn(connection);
        Ok(handle)
    }
}

impl Idle {
    fn take(&self) -> Option<Handle> {
        let mut handles = self.handles.lock();
        loop {
            let handle = handles.list.pop()?;
            handles.old = handles.old.min(handles.list.len());
            if handle.is_ready() {
                return Some(handle);
            }
        }
    }

    /// Keeps the connection for the next request: now, or once the answer's body has been read.
    fn keep(self: &Arc<Self>, mut handle: Handle) {
        if handle.is_ready() {
            return self.put(handle);
        }
        let idle = Arc::clone(self);
        tokio::spawn(async move {
            if handle.ready().await.is_ok() {
                idle.put(handle);
            }
        });
    }

    fn put(self: &Arc<Self>, handle: Handle) {
        let mut handles = self.handles.lock();
        handles.list.push(handle);
        if !std::mem::replace(&mut handles.watched, true) {
            tokio::spawn(watch(Arc::downgrade(self), self.within));
        }
    }

    /// Lets those go that were not used since the last look; false when none is left.
    fn look(&self) -> bool {
        let mut handles = self.handles.lock();
        let old = handles.old;
        handles.list.drain(..old);
        handles.list.retain(|handle| !handle.is_closed());
        handles.old = handles.list.len();
        handles.watched = !handles.list.is_empty();
        handles.watched
    }
}

async fn watch(idle: Weak<Idle>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if !idle.upgrade().is_some_and(|idle| idle.look()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use spectra_config as config;
    use tokio::net::TcpListener;
    use tokio::task::AbortHandle;

    use super::super::transport::Transport;
    use super::*;

    /// A server that counts its connections and can drop the last one.
    #[derive(Clone, Default)]
    struct Server {
        accepted: Arc<AtomicUsize>,
        last: Arc<Mutex<Option<AbortHandle>>>,
    }

    impl Server {
        async fn start(&self) -> SocketAddr {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, server) = (listener.local_addr().unwrap(), self.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    server.accepted.fetch_add(1, Ordering::SeqCst);
                    let answer = service_fn(|request: Request<Incoming>| async move {
                        let told = format!("{} {:?}", request.uri(), request.headers()[HOST]);
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(told))))
                    });
                    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                    *server.last.lock() = Some(tokio::spawn(served).abort_handle());
                }
            });
            address
        }
    }

    fn transport(address: SocketAddr) -> Transport {
        let text = format!(
            "[backends.b.openai]\nbase_url = \"http://{address}/v1\"\nmodel = \"m\"\n[routes.r]\nladder=[\"b\"]\n[router]\nlocal=\"r\"\nstrong=\"r\""
        );
        let config = config::Config::parse(&text, "test", &|_| None).unwrap();
        Transport::new("b", config.backends["b"].openai.as_deref().unwrap(), &config.backends["b"].deadlines).unwrap()
    }

    /// One exchange, and the connection back in the pool.
    async fn ask(pool: &Pool, head: &Head) -> String {
        let mut request = Request::new(Full::new(Bytes::new()));
        (*request.uri_mut(), *request.headers_mut()) = (head.uri.clone(), head.headers.clone());
        let Ok(response) = pool.send(request).await else { panic!("no answer") };
        let told = response.into_body().collect().await.unwrap().to_bytes();
        while pool.idle.handles.lock().list.is_empty() {
            tokio::task::yield_now().await;
        }
        String::from_utf8(told.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_it_is_idle_for_long_or_closed() {
        let server = Server::default();
        let address = server.start().await;
        let transport = transport(address);
        let uri = format!("http://{address}/v1/chat?a=b").parse().unwrap();
        let head = transport.addressed(Head { uri, headers: http::HeaderMap::new() });
        let Transport::Plain(pool) = &transport else { panic!("plain HTTP takes the pool") };
        assert_eq!(ask(pool, &head).await, format!("/v1/chat?a=b \"{address}\""));
        // Used between two looks: kept.
        assert!(pool.idle.look());
        ask(pool, &head).await;
        assert!(pool.idle.look());
        assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
        // Not used between two looks: let go.
        assert!(!pool.idle.look());
        ask(pool, &head).await;
        assert_eq!(server.accepted.load(Ordering::SeqCst), 2);
        // Closed by the server: replaced.
        if let Some(connection) = server.last.lock().take() {
            connection.abort();
        }
        while !pool.idle.handles.lock().list.iter().all(SendRequest::is_closed) {
            tokio::task::yield_now().await;
        }
        ask(pool, &head).await;
        assert_eq!(server.accepted.load(Ordering::SeqCst), 3);
    }
}
