//! A closed loop of plain HTTP/1.1 exchanges: each connection asks again as soon as its answer is whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[derive(Clone, Debug)]
pub struct Load {
    pub address: SocketAddr,
    pub request: Vec<u8>,
    pub connections: usize,
    pub until: Until,
}

/// When a load is over.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    Time(Duration),
    /// So many answers, all connections together.
    Answers(u64),
}

/// What came back.
#[derive(Debug, Default)]
pub struct Seen {
    pub answers: u64,
    /// Events with content.
    pub chunks: u64,
    whole_us: Vec<f64>,
    first_us: Vec<f64>,
}

/// A question of common length. `streamed`: "flood" for chunks without pause, "paced" for one every few milliseconds.
pub fn request(streamed: Option<&str>, model: &str) -> Vec<u8> {
    let stream =
        streamed.map_or(String::new(), |how| format!(r#","stream":true,"stream_options":{{"include_usage":true}},"user":"{how}""#));
    let body = format!(
        r#"{{"model":"{model}","messages":[{{"role":"system","content":"You answer from the passages that are given and say so where they do not hold the answer."}},{{"role":"user","content":"Say in three sentences how a reverse proxy balances load, what it takes off the servers behind it, and where it fails in practice."}}],"temperature":0.2,"max_tokens":256{stream}}}"#
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nauthorization: Bearer sk-bench\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl Load {
    pub async fn run(self) -> Seen {
        let (end, answers) = match self.until {
            Until::Time(time) => (Some(Instant::now() + time), u64::MAX),
            Until::Answers(answers) => (None, answers),
        };
        let left = Arc::new(AtomicU64::new(answers));
        let mut clients = JoinSet::new();
        for _ in 0..self.connections {
            let (load, left) = (self.clone(), left.clone());
            let goes_on = move || {
                let one = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                one.is_ok() && end.is_none_or(|end| Instant::now() < end)
            };
            clients.spawn(async move { load.client(goes_on).await });
        }
        let mut all = Seen::default();
        while let Some(seen) = clients.join_next().await {
            let seen = seen.unwrap();
            all.answers += seen.answers;
            all.chunks += seen.chunks;
            all.whole_us.extend(seen.whole_us);
            all.first_us.extend(seen.first_us);
        }
        all.whole_us.sort_by(f64::total_cmp);
        all.first_us.sort_by(f64::total_cmp);
        all
    }

    async fn client(&self, goes_on: impl Fn() -> bool) -> Seen {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut seen = Seen::default();
        let mut buffer = Vec::with_capacity(1 << 16);
        while goes_on() {
            let asked = Instant::now();
            stream.write_all(&self.request).await.unwrap();
            buffer.clear();
            let (mut counted, mut first) = (0, None);
            while !is_whole(&buffer) {
                let read = stream.read_buf(&mut buffer).await.unwrap();
                assert_ne!(read, 0, "closed early: {}", String::from_utf8_lossy(&buffer));
                // An event may be cut by a read: what is left of it is looked at again.
                for at in memmem::find_iter(&buffer[counted..], CONTENT).map(|at| counted + at + CONTENT.len()).collect::<Vec<_>>() {
                    counted = at;
                    seen.chunks += 1;
                    first.get_or_insert_with(|| asked.elapsed());
                }
            }
            assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
            seen.answers += 1;
            seen.whole_us.push(us(asked.elapsed()));
            seen.first_us.extend(first.map(us));
        }
        seen
    }
}

/// Every event with content has this once, and nothing else does.
const CONTENT: &[u8] = br#""delta":{"content":"#;

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = memmem::find(answer, b"\r\n\r\n") else { return false };
    match memmem::find(&answer[..head], b"content-length: ").or_else(|| memmem::find(&answer[..head], b"Content-Length: ")) {
        Some(at) => {
            let digits = answer[at + 16..].iter().take_while(|byte| byte.is_ascii_digit());
            let length = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
            answer.len() >= head + 4 + length
        }
        None => answer.ends_with(b"\r\n0\r\n\r\n"),
    }
}

impl Seen {
    pub fn quantile(&self, share: f64) -> f64 {
        at(&self.whole_us, share)
    }

    pub fn first_quantile(&self, share: f64) -> f64 {
        at(&self.first_us, share)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a list")]
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or_default()
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
