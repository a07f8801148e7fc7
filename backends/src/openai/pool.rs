//! The connections to one HTTP/1.1 server, kept from one request to the next.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::HOST;
use http::{Response, Uri};
use http_body::{Frame, SizeHint};
use hyper_util::client::legacy::connect::HttpConnector;
use parking_lot::Mutex;
use tower::{BoxError, ServiceExt};

use super::head::Head;
use super::transport::ConnectTimeout;
use crate::abreast;
use crate::http1::{Fault, Framing, Wire};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    connector: HttpConnector,
    connect_within: Duration,
    server: Uri,
    idle: Arc<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    within: Duration,
    wires: Mutex<Wires>,
    /// Exchanges whose answer has not begun.
    waiting: AtomicUsize,
}

/// One exchange whose answer has not begun, and how many others there were.
struct Waiting<'a> {
    idle: &'a Idle,
    others: usize,
}

/// The last one used is used first, so that the others grow old.
#[derive(Debug, Default)]
struct Wires {
    list: Vec<Wire>,
    /// So many of them were there at the last look, and not used since: those at the front.
    old: usize,
    /// Somebody looks.
    watched: bool,
}

pub enum Failed {
    Connect(BoxError),
    Exchange(Fault),
}

/// The body of an answer. Read to its end it gives its connection back; dropped before, it closes it.
#[derive(Debug)]
pub struct Body {
    wire: Option<Wire>,
    framing: Framing,
    keep: bool,
    idle: Arc<Idle>,
}

/// The head of every request to one endpoint, as bytes: all but the fields that differ from one request to the next.
pub fn opening(head: &Head) -> Bytes {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut out = BytesMut::new();
    for part in ["POST ", target, " HTTP/1.1\r\n"] {
        out.put_slice(part.as_bytes());
    }
    if !head.headers.contains_key(HOST) {
        let host = head.uri.host().unwrap_or_default();
        let port = head.uri.port_u16().filter(|port| *port != 80);
        field(&mut out, "host", port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")).as_bytes());
    }
    for (name, value) in &head.headers {
        field(&mut out, name.as_str(), value.as_bytes());
    }
    out.freeze()
}

/// One header. A value that could begin another one is left out.
pub fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return;
    }
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.put_slice(part);
    }
}

impl Pool {
    /// Idle connections are closed after `idle_within` to twice as long.
    pub fn new(connector: HttpConnector, connect_within: Duration, server: Uri, idle_within: Duration) -> Self {
        Self { connector, connect_within, server, idle: Arc::new(Idle { within: idle_within, ..Idle::default() }) }
    }

    /// Sends a request that begins with these header lines, and waits for the head of the response. A kept connection that the
    /// server is known to have closed is replaced; a request that was sent is never repeated.
    pub async fn send(&self, head: BytesMut, body: Bytes) -> Result<Response<Body>, Failed> {
        let waiting = self.idle.enter();
        abreast(waiting.others).await;
        let mut wire = match self.idle.take() {
            Some(wire) => wire,
            None => self.connect().await.map_err(Failed::Connect)?,
        };
        let mut request = request(head, body);
        let head = std::future::poll_fn(|cx| wire.poll_exchange(cx, &mut request)).await.map_err(Failed::Exchange)?;
        let mut body = Body { wire: Some(wire), framing: head.body, keep: head.keep, idle: Arc::clone(&self.idle) };
        body.give_back();
        let mut response = Response::new(body);
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        Ok(response)
    }

    async fn connect(&self) -> Result<Wire, BoxError> {
        let connect = self.connector.clone().oneshot(self.server.clone());
        let stream = tokio::time::timeout(self.connect_within, connect).await.map_err(|_| ConnectTimeout)??;
        Ok(Wire::new(stream.into_inner()))
    }
}

/// The rest of the head and the body. What is small goes out in one piece, which costs less than naming two.
fn request(mut head: BytesMut, body: Bytes) -> impl bytes::Buf {
    use bytes::Buf as _;
    field(&mut head, "content-length", body.len().to_string().as_bytes());
    head.put_slice(b"\r\n");
    if body.len() <= SMALL_BODY {
        head.put_slice(&body);
        return head.freeze().chain(Bytes::new());
    }
    head.freeze().chain(body)
}

const SMALL_BODY: usize = 8 << 10;

impl Body {
    /// Gives the connection back once nothing more of the answer can come.
    fn give_back(&mut self) {
        if let Some(wire) = &mut self.wire
            && self.framing.ended(wire)
            && let Some(wire) = self.wire.take()
            && self.keep
        {
            self.idle.put(wire);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.idle.waiting.fetch_sub(1, Relaxed);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        let Some(wire) = &mut this.wire else { return Poll::Ready(None) };
        let data = ready!(wire.poll_data(cx, &mut this.framing));
        this.give_back();
        // The end was found when it was asked for, or there is an error: nothing more comes.
        if !matches!(data, Some(Ok(_))) {
            this.wire = None;
        }
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.wire.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) | Framing::Close => SizeHint::default(),
        }
    }
}

impl Idle {
    fn enter(&self) -> Waiting<'_> {
        Waiting { idle: self, others: self.waiting.fetch_add(1, Relaxed) }
    }

    fn take(&self) -> Option<Wire> {
        let mut wires = self.wires.lock();
        loop {
            let wire = wires.list.pop()?;
            wires.old = wires.old.min(wires.list.len());
            if wire.is_idle() {
                return Some(wire);
            }
        }
    }

    fn put(self: &Arc<Self>, wire: Wire) {
        let mut wires = self.wires.lock();
        wires.list.push(wire);
        if !std::mem::replace(&mut wires.watched, true) {
            tokio::spawn(watch(Arc::downgrade(self), self.within));
        }
    }

    /// Lets those go that were not used since the last look; false when none is left.
    fn look(&self) -> bool {
        let mut wires = self.wires.lock();
        let old = wires.old;
        wires.list.drain(..old);
        wires.list.retain(Wire::is_idle);
        wires.old = wires.list.len();
        wires.watched = !wires.list.is_empty();
        wires.watched
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
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pool() -> (Pool, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        (Pool::new(connector, Duration::from_secs(5), server, Duration::from_secs(50)), listener)
    }

    fn head() -> BytesMut {
        let headers = [("a", "b"), ("host", "h")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        opening(&Head { uri: "http://h:81/v1/chat?a=b".parse().unwrap(), headers: headers.into_iter().collect() }).into()
    }

    /// Reads one request, to the end of a body of `body` bytes, and sends this.
    async fn serve(stream: &mut TcpStream, body: usize, answer: &str) -> String {
        let mut read = Vec::new();
        while !read.windows(4).any(|four| four == b"\r\n\r\n") || !read[..read.len() - body].ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    /// One exchange: what was answered.
    async fn ask(pool: &Pool, body: &'static str) -> String {
        let Ok(response) = pool.send(head(), Bytes::from_static(body.as_bytes())).await else { panic!("no answer") };
        let told = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(told.to_vec()).unwrap()
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    #[tokio::test]
    async fn a_connection_is_kept_until_it_is_idle_for_long_or_closed() {
        let (pool, listener) = pool().await;
        let one = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = serve(&mut stream, 2, OK).await;
            assert_eq!(asked, "POST /v1/chat?a=b HTTP/1.1\r\na: b\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}");
            serve(&mut stream, 2, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n").await;
            stream
        };
        let asked = async {
            assert_eq!(ask(&pool, "{}").await, "ok");
            assert!(pool.idle.look(), "used between two looks: kept");
            assert_eq!(ask(&pool, "{}").await, "yes");
            assert!(pool.idle.look());
        };
        let (stream, ()) = tokio::join!(one, asked);
        assert!(!pool.idle.look(), "not used between two looks: let go");
        drop(stream);
        // Told to close, and closed without a word while it lies there.
        for answer in ["HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", OK, OK] {
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                serve(&mut stream, 2, answer).await
            };
            let (_, told) = tokio::join!(server, ask(&pool, "{}"));
            assert_eq!(told, "ok");
            while pool.idle.wires.lock().list.iter().any(Wire::is_idle) {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn a_body_may_be_refused_before_it_is_read() {
        let (pool, listener) = pool().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
            stream
        };
        let asked = async {
            let Ok(response) = pool.send(head(), vec![b'x'; 64 << 20].into()).await else { panic!("no answer") };
            assert_eq!(response.status(), 413);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "big");
        };
        tokio::join!(server, asked);
        assert!(pool.idle.wires.lock().list.is_empty(), "half of a request was sent: not used again");
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_is_an_error() {
        for (answer, missing) in [
            ("", "head"),
            ("HTTP/1.1 200 OK\r\nconte", "head"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", "end"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "end"),
        ] {
            let (pool, listener) = pool().await;
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                serve(&mut stream, 2, answer).await
            };
            let asked = async {
                match pool.send(head(), Bytes::from_static(b"{}")).await {
                    Err(Failed::Exchange(fault)) => fault,
                    Err(Failed::Connect(_)) => panic!("it listens"),
                    Ok(response) => response.into_body().collect().await.unwrap_err(),
                }
            };
            let (_, fault) = tokio::join!(server, asked);
            assert!(matches!(fault, Fault::Closed(what) if what.contains(missing)), "{answer:?}: {fault}");
        }
    }
}
