//! A scripted OpenAI-compatible server over a real socket: it plans, writes files, answers the old way (a whole
//! service in one JSON), takes feedback, and spoils answers as told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::author::{Work, works};
use super::faults::{Spoilt, draw, fault, spoil_file, spoil_json};

/// How answers are spoilt.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub seed: u64,
    /// Of answers; of files inside an answer of the old way when `per_file`.
    pub percent: u64,
    pub per_file: bool,
}

#[derive(Debug)]
pub struct Upstream {
    pub base_url: String,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    works: Vec<Work>,
    script: Script,
    /// Answers given, by `request id/path`.
    asked: Mutex<HashMap<String, u32>>,
    feedback: Mutex<Vec<Value>>,
}

impl Upstream {
    /// Serves until the test process ends.
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State { works: works(), script, asked: Mutex::default(), feedback: Mutex::default() });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, serving));
        });
        Self { base_url, state }
    }

    /// Answers given so far, by `request id/path`.
    pub fn asked(&self) -> HashMap<String, u32> {
        self.state.asked.lock().unwrap().clone()
    }

    pub fn calls(&self) -> u32 {
        self.asked().values().sum()
    }

    pub fn feedback(&self) -> Vec<Value> {
        self.state.feedback.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(&state, request).await) }
            });
            // A client that was killed leaves in the middle.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await.ok();
        });
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (status, reply) = match path.as_str() {
        "/v1/chat/completions" => state.complete(&body),
        "/v1/feedback" => {
            state.feedback.lock().unwrap().push(body);
            (StatusCode::OK, json!({}))
        }
        _ => (StatusCode::NOT_FOUND, error("no such path")),
    };
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("x-request-id", format!("req-{:016x}", draw(&reply.to_string())))
        .body(Full::new(Bytes::from(reply.to_string())))
        .unwrap()
}

fn error(message: &str) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": null}})
}

impl State {
    fn complete(&self, body: &Value) -> (StatusCode, Value) {
        let text = |role: &str| {
            let messages = body["messages"].as_array().into_iter().flatten();
            messages.filter(|message| message["role"] == role).filter_map(|m| m["content"].as_str()).collect::<String>()
        };
        let user = text("user");
        let Some(work) = self.works.iter().find(|work| user.contains(&work.request)) else {
            return (StatusCode::BAD_REQUEST, error("none of the 30 requests"));
        };
        let schema = body.pointer("/response_format/json_schema/name").and_then(Value::as_str);
        let path = match schema {
            Some(name) => name.to_owned(),
            None => between(&user, "\nWrite the file ", ".\nPurpose:").unwrap_or_default(),
        };
        let attempt = {
            let mut asked = self.asked.lock().unwrap();
            let attempt = asked.entry(format!("{}/{path}", work.id)).or_default();
            *attempt += 1;
            *attempt
        };
        let key = format!("{}/{}/{path}/{attempt}", self.script.seed, work.id);
        let spoilt = match schema {
            Some("service_plan") => self.json(&key, &work.plan),
            Some(_) if self.script.per_file => self.whole_service(work, &key),
            Some(_) => self.json(&key, &whole_service(work, |_, text| text.to_owned())),
            None => self.file(work, &key, &path),
        };
        let tokens = spoilt.text.len() / 4 + 1;
        let reply = json!({
            "id": format!("chatcmpl-{:x}", draw(&key)), "object": "chat.completion", "created": 0, "model": "scripted",
            "choices": [{"index": 0, "finish_reason": spoilt.finish, "logprobs": null,
                "message": {"role": "assistant", "content": spoilt.text, "refusal": null}}],
            "usage": {"prompt_tokens": user.len() / 4, "completion_tokens": tokens, "total_tokens": user.len() / 4 + tokens},
        });
        (StatusCode::OK, reply)
    }

    fn json(&self, key: &str, whole: &Value) -> Spoilt {
        match fault(key, self.script.percent) {
            Some(fault) => spoil_json(fault, key, whole),
            None => Spoilt { text: whole.to_string(), finish: "stop" },
        }
    }

    fn file(&self, work: &Work, key: &str, path: &str) -> Spoilt {
        let marked = |path: &str| match work.texts.get(path) {
            Some(text) => format!("# file: {path}\n{text}# end of file"),
            None => String::new(),
        };
        let Some(fault) = fault(key, self.script.percent) else {
            return Spoilt { text: marked(path), finish: "stop" };
        };
        spoil_file(fault, key, &marked(path), &marked(other(work, key, path)), defines(work, path))
    }

    /// The old way, each file spoilt on its own; a cut one cuts the whole answer.
    fn whole_service(&self, work: &Work, key: &str) -> Spoilt {
        let mut finish = "stop";
        let mut cut_at = None;
        let whole = whole_service(work, |path, text| {
            let key = format!("{key}/{path}");
            let Some(fault) = fault(&key, self.script.percent).filter(|_| !text.is_empty()) else { return text.to_owned() };
            let spoilt = spoil_file(fault, &key, text, &work.texts[other(work, &key, path)], defines(work, path));
            if spoilt.finish == "length" {
                finish = "length";
                cut_at.get_or_insert(path.to_owned());
            }
            spoilt.text
        });
        let text = whole.to_string();
        let end = cut_at.and_then(|path| text.find(&format!("\"{path}\"")));
        Spoilt { text: text[..end.unwrap_or(text.len())].to_owned(), finish }
    }
}

fn whole_service(work: &Work, mut text: impl FnMut(&str, &str) -> String) -> Value {
    let files = work.plan["files_to_create"].as_array().unwrap().iter().map(|file| {
        let path = file["path"].as_str().unwrap();
        json!({"path": path, "priority": file["priority"], "content": text(path, &work.texts[path])})
    });
    json!({"service_name": work.name, "files_to_create": files.collect::<Vec<_>>()})
}

/// Another file with some text: what a model that mixes files up would send.
fn other<'w>(work: &'w Work, key: &str, path: &str) -> &'w str {
    let others: Vec<&String> =
        work.texts.iter().filter(|(other, text)| *other != path && !text.is_empty()).map(|(other, _)| other).collect();
    others[usize::try_from(draw(&format!("{key} other")) % others.len() as u64).unwrap()]
}

fn defines<'w>(work: &'w Work, path: &str) -> Option<&'w str> {
    let files = work.plan["files_to_create"].as_array()?;
    files.iter().find(|file| file["path"] == path)?["defines"].get(0)?.as_str()
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let from = text.find(start)? + start.len();
    let length = text[from..].find(end)?;
    Some(text[from..from + length].to_owned())
}
