//! The worker's HTTP face: one model behind the OpenAI wire, on a Unix socket for its supervisor or on TCP for other machines.

mod chat;
mod embeddings;
mod metrics;
mod respond;
mod voice;
mod wire;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use spectra_backends::chat::{BadRequest, Format, Tool, ToolChoice, View};
use spectra_backends::llama::{
    Constraint, Engine, Form, Grammars, LoadError, Prompt, PromptError, STOP_LOOPS, Settings, Strength, Style, Unsupported, gpus, grammar,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use self::respond::{Body, Problem};
use crate::metrics::resident_bytes;

/// Largest request body, in bytes.
const MOST_BODY: usize = 64 << 20;
/// A token is rarely shorter than this many bytes on average over a prompt; more text than that cannot fit the context,
/// and tokenising it would take long.
const MOST_BYTES_PER_TOKEN: usize = 64;

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Address {
    Socket(PathBuf),
    Tcp(String),
}

/// How a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot listen on {address}: {why}")]
    Listen { address: String, why: std::io::Error },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the decode thread ended; see the log above")]
    Died,
}

impl WorkerError {
    /// Exit code after `sysexits.h`; never 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { .. } => 73,
            Self::Load(error) => error.exit_code(),
            Self::Died => 70,
        }
    }
}

/// What an answer is generated from.
struct Prepared {
    tokens: Vec<i32>,
    /// One for each choice; none: the answer is free.
    constraints: Vec<Constraint>,
    /// How much of the asked form the constraints hold it to; `lenient` answers still have to be verified.
    enforced: Option<&'static str>,
}

/// A model that is up.
struct Loaded {
    engine: Engine,
    prompt: Result<Prompt, PromptError>,
    grammars: Grammars,
    /// The name answers carry.
    name: String,
    fingerprint: String,
    /// For what a request leaves open.
    defaults: spectra_config::Sampling,
    /// Serves embeddings instead of chat.
    embeds: bool,
}

impl Loaded {
    fn new(settings: &Settings, name: Option<String>) -> Result<Self, LoadError> {
        let engine = Engine::start(settings)?;
        let prompt = Prompt::of(engine.model());
        if let Err(error) = &prompt
            && !settings.embeddings
        {
            tracing::warn!(%error, "chat is not possible");
        }
        let name = name.unwrap_or_else(|| engine.model().name().to_owned());
        let fingerprint = format!("spectra-{}", env!("CARGO_PKG_VERSION"));
        let grammars = Grammars::of(engine.model());
        Ok(Self { engine, prompt, grammars, name, fingerprint, defaults: settings.defaults, embeds: settings.embeddings })
    }

    /// The tokens of a chat, and what holds its answers to the requested form.
    fn prepare(&self, view: &View) -> Result<Prepared, Problem> {
        let tokens = self.prompt_tokens(view)?;
        let Some(forms) = self.forms(view)? else { return Ok(Prepared { tokens, constraints: Vec::new(), enforced: None }) };
        // The first form that can be enforced: all of it, or all but what no grammar can say.
        let mut tried = forms.iter().enumerate().map(|(at, form)| (at, form, self.grammars.compile(form)));
        let refused = match tried.next() {
            Some((_, _, Err(refused))) => refused,
            Some((at, form, Ok(first))) => return self.prepared(view, tokens, at, form, first),
            None => return Ok(Prepared { tokens, constraints: Vec::new(), enforced: None }),
        };
        match tried.find_map(|(at, form, compiled)| Some((at, form, compiled.ok()?))) {
            Some((at, form, first)) => self.prepared(view, tokens, at, form, first),
            // The first refusal is the one that says what to change.
            None => Err(Problem::unsupported(&refused)),
        }
    }

    /// A constraint for each choice. `at` says which of the forms it was: only the first one is all that was asked for.
    fn prepared(&self, view: &View, tokens: Vec<i32>, at: usize, form: &Form, first: Constraint) -> Result<Prepared, Problem> {
        let strict = at == 0 && first.strength == Strength::Strict;
        let more = (1..view.n.max(1)).map(|_| self.grammars.compile(form).map_err(|error| Problem::unsupported(&error)));
        let constraints = std::iter::once(Ok(first)).chain(more).collect::<Result<_, _>>()?;
        Ok(Prepared { tokens, constraints, enforced: Some(if strict { "strict" } else { "lenient" }) })
    }

    /// What the answer must be, best first; `None`: anything.
    fn forms(&self, view: &View) -> Result<Option<Vec<Form>>, Problem> {
        if voice::calls_tools(view) && matches!(view.tool_choice, ToolChoice::Required | ToolChoice::Named(_)) {
            return self.call_forms(view).map(Some);
        }
        Ok(match &view.format {
            Format::Text => None,
            Format::JsonObject => Some(vec![Form::Object]),
            Format::JsonSchema { schema, .. } => Some(vec![Form::Schema(schema.clone().unwrap_or_else(|| "{}".into()))]),
        })
    }

    fn call_forms(&self, view: &View) -> Result<Vec<Form>, Problem> {
        let wanted = |tool: &&Tool| !matches!(&view.tool_choice, ToolChoice::Named(name) if *name != tool.name);
        let tools: Vec<&Tool> = view.tools.iter().filter(wanted).collect();
        if tools.is_empty() {
            let message = "Invalid value for 'tool_choice': no tool of that name is in 'tools'.";
            return Err(Problem::bad_request(&BadRequest::new("invalid_value", "tool_choice".to_owned(), message)));
        }
        let style = self.prompt.as_ref().map_or(Style::Tagged, Prompt::style);
        let many = view.tool_choice == ToolChoice::Required && view.parallel_tool_calls != Some(false);
        let opening = match style {
            Style::Listed => self.engine.model().control_named("[TOOL_CALLS]"),
            Style::Tagged => self.engine.model().control_named("<tool_call>"),
            Style::Bare => None,
        };
        let form = |lenient| {
            let text = grammar(style, &tools, many, opening, lenient).map_err(|why| Problem::unsupported(&Unsupported(why)))?;
            Ok(Form::Grammar(text.into()))
        };
        Ok(vec![form(false)?, form(true)?])
    }

    fn prompt_tokens(&self, view: &View) -> Result<Vec<i32>, Problem> {
        let prompt =
            self.prompt.as_ref().map_err(|error| Problem::new(StatusCode::NOT_IMPLEMENTED, "no_chat_template", error.to_string()))?;
        let text = prompt.render(view).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "invalid_messages", error.to_string()))?;
        let context = self.engine.limits().context_tokens;
        if text.len() > context as usize * MOST_BYTES_PER_TOKEN {
            let message =
                format!("This model's maximum context length is {context} tokens. However, your messages are {} bytes long.", text.len());
            return Err(Problem {
                param: Some("messages".into()),
                ..Problem::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
            });
        }
        Ok(self.engine.model().tokenize(&text))
    }
}

/// Loads the model and serves it until `stop` resolves. Requests that come while it loads get a 503.
///
/// # Errors
/// If the address is taken, the model cannot be loaded, or decoding ends.
pub async fn serve(address: Address, settings: Settings, name: Option<String>, stop: impl Future<Output = ()>) -> Result<(), WorkerError> {
    let slot: Arc<OnceLock<Arc<Loaded>>> = Arc::default();
    let accepting = accept(address, Arc::clone(&slot)).await?;
    let loading = tokio::task::spawn_blocking(move || Loaded::new(&settings, name));
    let run = async {
        let loaded = loading.await.map_err(|error| LoadError::Engine(format!("loading failed: {error}")))??;
        let loaded = Arc::new(loaded);
        // Set once, here.
        let _ = slot.set(Arc::clone(&loaded));
        loaded.engine.ended().await;
        Err(WorkerError::Died)
    };
    tokio::select! {
        result = run => result,
        () = accepting => Err(WorkerError::Died),
        () = stop => Ok(()),
    }
}

type Accepting = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn accept(address: Address, slot: Arc<OnceLock<Arc<Loaded>>>) -> Result<Accepting, WorkerError> {
    match address {
        Address::Socket(path) => {
            let listener = listen_unix(&path).map_err(|why| WorkerError::Listen { address: path.display().to_string(), why })?;
            Ok(Box::pin(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => connection(stream, Arc::clone(&slot)),
                        Err(error) => accept_failed(&error).await,
                    }
                }
            }))
        }
        Address::Tcp(address) => {
            let listener = TcpListener::bind(&address).await.map_err(|why| WorkerError::Listen { address: address.clone(), why })?;
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, "engine listening");
            }
            Ok(Box::pin(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            // Tokens are small: waiting to fill a packet would delay each of them.
                            let _ = stream.set_nodelay(true);
                            connection(stream, Arc::clone(&slot));
                        }
                        Err(error) => accept_failed(&error).await,
                    }
                }
            }))
        }
    }
}

fn listen_unix(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Out of file descriptors, mostly: others end soon.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, slot: Arc<OnceLock<Arc<Loaded>>>) {
    let service = service_fn(move |request| {
        let loaded = slot.get().cloned();
        async move { Ok::<_, std::convert::Infallible>(handle(loaded, request).await.unwrap_or_else(|problem| problem.response())) }
    });
    tokio::spawn(async move {
        let mut http = hyper::server::conn::http1::Builder::new();
        let served = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    });
}

async fn handle(loaded: Option<Arc<Loaded>>, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
    let path = request.uri().path().to_owned();
    let known = ["/health", "/v1/health", "/stats", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/embeddings"];
    let Some(loaded) = loaded else {
        if known.contains(&path.as_str()) {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "model_loading", "The model is still being loaded."));
        }
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", format!("There is nothing at {path}.")));
    };
    match (request.method(), path.as_str()) {
        (&Method::GET, "/health" | "/v1/health") => Ok(respond::json(StatusCode::OK, health(&loaded))),
        (&Method::GET, "/stats") => Ok(respond::json(StatusCode::OK, json!(loaded.engine.stats()).to_string())),
        (&Method::GET, "/metrics") => Ok(respond::text("text/plain; version=0.0.4", metrics::text(&loaded))),
        (&Method::GET, "/v1/models") => Ok(respond::json(StatusCode::OK, models(&loaded))),
        (&Method::POST, "/v1/chat/completions") => {
            let stops_loops = request.headers().contains_key(STOP_LOOPS);
            let body = body(request).await?;
            chat::answer(loaded, body, stops_loops).await
        }
        (&Method::POST, "/v1/embeddings") => {
            let body = body(request).await?;
            embeddings::answer(loaded, body).await
        }
        (method, path) if known.contains(&path) => {
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("{method} is not possible at {path}.")))
        }
        (_, path) => Err(Problem::new(StatusCode::NOT_FOUND, "not_found", format!("There is nothing at {path}."))),
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Problem> {
    match Limited::new(request.into_body(), MOST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", format!("The body is larger than {MOST_BODY} bytes.")))
        }
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_body", format!("The body could not be read: {error}."))),
    }
}

fn health(loaded: &Loaded) -> String {
    let limits = loaded.engine.limits();
    json!({
        "status": "ok",
        "model": loaded.name,
        "context_tokens": limits.context_tokens,
        "slots": limits.slots,
        "chat": loaded.prompt.is_ok() && !loaded.embeds,
        "embeddings": loaded.embeds,
        "stats": loaded.engine.stats(),
        "memory_bytes": resident_bytes().unwrap_or(0),
        "gpu_layers": loaded.engine.model().plan().gpu_layers,
        "gpus": gpus(),
    })
    .to_string()
}

fn models(loaded: &Loaded) -> String {
    let meta = json!({
        "n_ctx": loaded.engine.limits().context_tokens,
        "n_ctx_train": loaded.engine.model().trained_context(),
        "n_vocab": loaded.engine.model().vocabulary(),
        "n_embd": loaded.engine.model().width(),
        "size": loaded.engine.model().bytes(),
    });
    json!({ "object": "list", "data": [{ "id": loaded.name, "object": "model", "created": 0, "owned_by": "llamacpp", "meta": meta }] })
        .to_string()
}

/// A number nobody can guess: the standard library's hasher keys are random.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
