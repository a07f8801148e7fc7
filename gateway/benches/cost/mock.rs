//! The upstream: it says the same at once, whole or in chunks, each flushed by itself as a model's tokens are.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpListener;
use tokio::time::{Instant, Interval, interval_at};

const FLOOD: u32 = 256;
const PACED: u32 = 64;
const PACE: Duration = Duration::from_millis(5);

pub async fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(served);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Said>, Infallible> {
    if request.uri().path() == "/v1/traces" {
        // The collector's part: it takes every span.
        drop(request.into_body().collect().await);
        return Ok(Response::new(Said::Whole(Some("{}".into()))));
    }
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let has = |text: &str| memmem::find(&body, text.as_bytes()).is_some();
    let said = match (has(r#""stream":true"#), has(r#""user":"paced""#)) {
        (false, _) => Said::Whole(Some(whole())),
        (true, paced) => Said::Chunks {
            next: 0,
            count: if paced { PACED } else { FLOOD },
            pace: paced.then(|| interval_at(Instant::now() + PACE, PACE)),
            yielded: false,
        },
    };
    let kind = if matches!(said, Said::Whole(_)) { "application/json" } else { "text/event-stream" };
    Ok(Response::builder().header("content-type", kind).header("x-request-id", "req-1").body(said).unwrap())
}

fn whole() -> Bytes {
    let text = "A reverse proxy takes each request and passes it to one of the servers behind it. ".repeat(8);
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":60,"completion_tokens":128,"total_tokens":188}}}}"#
    )
    .into()
}

enum Said {
    Whole(Option<Bytes>),
    Chunks { next: u32, count: u32, pace: Option<Interval>, yielded: bool },
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (next, count, pace, yielded) = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Chunks { next, count, pace, yielded } => (next, count, pace, yielded),
        };
        if *next > *count + 1 {
            return Poll::Ready(None);
        }
        match pace {
            // The first comes at once: a timer of no time fires at the next millisecond.
            Some(pace) if *next > 0 => drop(ready!(pace.poll_tick(cx))),
            Some(_) => {}
            // Pending once before each chunk: hyper flushes then.
            None if !std::mem::replace(yielded, !*yielded) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {}
        }
        let event = |choices: &str, usage: &str| {
            format!(
                r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default","choices":[{choices}]{usage}}}{}"#,
                "\n\n"
            )
        };
        let text = match *next {
            last if last == *count => {
                let finish = event(r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#, "");
                finish + &event("", r#","usage":{"prompt_tokens":60,"completion_tokens":256,"total_tokens":316}"#)
            }
            done if done > *count => "data: [DONE]\n\n".to_owned(),
            at => event(&format!(r#"{{"index":0,"delta":{{"content":" word{at}"}},"logprobs":null,"finish_reason":null}}"#), ""),
        };
        *next += 1;
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
