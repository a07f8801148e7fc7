//! What the gateway itself costs: CPU time of a request and of a streamed chunk on a scripted model, beside a bare hyper
//! server that sends the same bytes to the same client. `cargo bench -p spectra-gateway`. Read the difference and the
//! ratio; both sides carry the client's share, and the machine is what it is.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench fails loudly and prints its table")]

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use spectra_config::Config;
use spectra_gateway::{Gateway, Listeners, Live, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const REQUESTS: u32 = 2_000;
const STREAMS: u32 = 40;
/// Words of the scripted answer; each is one chunk of a stream.
const WORDS: u32 = 500;
const ROUNDS: usize = 3;

/// CPU time of this process so far, in microseconds, user and system.
fn cpu_us() -> f64 {
    // SAFETY: `usage` is plain data of the size that the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a bench's run")]
    let us = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    us(usage.ru_utime) + us(usage.ru_stime)
}

/// Sends one request and reads its answer to the end; the answer's bytes.
async fn exchange(stream: &mut TcpStream, request: &[u8], end: &[u8], buffer: &mut Vec<u8>) {
    stream.write_all(request).await.unwrap();
    buffer.clear();
    while !buffer.ends_with(end) {
        assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "closed early: {}", String::from_utf8_lossy(buffer));
    }
}

fn request(stream: bool, words: u32) -> Vec<u8> {
    let text = "Summarise what the service does. ".repeat(15);
    let body = format!(
        r#"{{"model":"{}","stream":{stream},"messages":[{{"role":"user","content":"{text}"}}]}}"#,
        if words > 10 { "long" } else { "auto" }
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Microseconds of CPU per exchange.
async fn cost(address: std::net::SocketAddr, request: &[u8], end: &[u8], times: u32) -> (f64, usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::with_capacity(1 << 20);
    for _ in 0..times / 10 {
        exchange(&mut stream, request, end, &mut buffer).await;
    }
    let began = cpu_us();
    for _ in 0..times {
        exchange(&mut stream, request, end, &mut buffer).await;
    }
    ((cpu_us() - began) / f64::from(times), buffer.len())
}

/// A server that answers anything with `size` bytes.
async fn bare(size: usize, end: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut body = vec![b' '; size - end.len()];
    body.extend_from_slice(end);
    let body = Bytes::from(body);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let body = body.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let body = body.clone();
                async move {
                    drop(http_body_util::BodyExt::collect(request.into_body()).await);
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(body)))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn config() -> Config {
    let long = "word ".repeat(WORDS as usize);
    let text = format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        [admin]
        listen = "127.0.0.1:0"
        [accounting]
        ledger = ""
        [tracing]
        level = "error"
        [backends.short.script]
        answers = [{{ text = "It keeps a catalogue of services." }}]
        [backends.wordy.script]
        answers = [{{ text = "{long}" }}]
        [routes.local]
        ladder = ["short"]
        [routes.strong]
        ladder = ["short"]
        [routes.long]
        ladder = ["wordy"]
        hold = {{ first = 1 }}
        [routes.long.verify.checks]
        looping = false
        "#
    );
    Config::parse(&text, "bench.toml", &|_| None).unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let gateway = Arc::new(Gateway::build(config(), None).unwrap());
    let listeners = Listeners::bind(&gateway).await.unwrap();
    let ours = listeners.main.local_addr().unwrap();
    tokio::spawn(Server::new(Live::fixed(gateway), listeners).run(std::future::pending()));
    let (unary, streamed) = (request(false, 1), request(true, WORDS));
    let (close, done): (&[u8], &[u8]) = (b"}", b"data: [DONE]\n\n\r\n0\r\n\r\n");

    println!("| round | request, us CPU | bare hyper | ratio | streamed chunk, us CPU |");
    println!("|---|---|---|---|---|");
    for round in 1..=ROUNDS {
        let (request_us, size) = cost(ours, &unary, close, REQUESTS).await;
        let floor = bare(size, b"}").await;
        let (floor_us, _) = cost(floor, &unary, close, REQUESTS).await;
        let (stream_us, _) = cost(ours, &streamed, done, STREAMS).await;
        let chunk_us = (stream_us - request_us) / f64::from(WORDS);
        println!("| {round} | {request_us:.1} | {floor_us:.1} | {:.2} | {chunk_us:.2} |", request_us / floor_us);
    }
}
