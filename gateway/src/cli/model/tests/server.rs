//! A scripted HTTP server on loopback that can do what real ones do to a transfer: cut it, stall it, ignore ranges.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen(String);

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().skip(1).filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }

    pub fn line(&self) -> &str {
        self.0.lines().next().unwrap()
    }

    fn offset(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Keep it open and silent instead.
    pub stall: bool,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn redirect(to: String) -> Self {
        Self::status(302).with("location", to)
    }

    /// What a proper file server says: the rest of the file if that was asked for and it is still the same.
    pub fn file(body: &[u8], etag: &str, seen: &Seen) -> Self {
        let same = seen.header("if-range").is_none_or(|wanted| wanted == etag);
        let answer = match seen.offset() {
            Some(offset) if same && offset < body.len() => {
                let range = format!("bytes {offset}-{}/{}", body.len() - 1, body.len());
                Self { status: 206, body: body[offset..].to_vec(), ..Self::default() }.with("content-range", range)
            }
            Some(_) if same => Self::status(416),
            _ => Self { status: 200, body: body.to_vec(), ..Self::default() },
        };
        answer.with("etag", etag.to_owned())
    }

    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }
}

#[derive(Debug)]
pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers the n-th request (from 0) with what `script` says.
    pub async fn start(script: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (seen.clone(), Arc::new(script));
        let task = tokio::spawn(async move {
            // A stalled connection lives in its own task, which ends with the runtime of the test.
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, log.clone(), script.clone()));
            }
        });
        Self { address, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, log: Arc<Mutex<Vec<Seen>>>, script: Arc<impl Fn(usize, &Seen) -> Answer>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let seen = Seen(String::from_utf8(head).unwrap());
    let number = {
        let mut log = log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    };
    let answer = script(number, &seen);
    let mut text = format!("HTTP/1.1 {} Scripted\r\nconnection: close\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let sent = answer.cut.unwrap_or(answer.body.len());
    // The client may have left; then there is nobody to answer.
    drop(stream.write_all(&[text.as_bytes(), &answer.body[..sent]].concat()).await);
    drop(stream.flush().await);
    if answer.stall {
        std::future::pending::<()>().await;
    }
}
