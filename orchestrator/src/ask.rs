//! One question to an OpenAI-compatible endpoint, and what came of it told back to the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::{HttpRequestFactory, ReqwestService};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::config_file::Endpoint;

/// How often a busy or unreachable endpoint is tried again for one question, and the longest pause between.
const PATIENCE: u32 = 4;
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// The turn between a build's context and a question.
const READY: &str = "Understood. What shall I write?";

/// An endpoint with its key and model.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// With its `/v1`.
    base_url: String,
    key: String,
    model: String,
    /// Asked when the usual model's answers were refused; none: the strong route, where the endpoint is a Spectra.
    stronger: Option<String>,
    http: reqwest::Client,
    /// Per question.
    timeout: Duration,
    /// Set when the endpoint turns out to have no feedback route.
    no_feedback: Arc<AtomicBool>,
    /// Set when patience ran out once: then one try a question, until an answer comes.
    gone: Arc<AtomicBool>,
    /// Set when an answer names the route it took: the endpoint is a Spectra.
    routes: Arc<AtomicBool>,
    /// Set when the endpoint knows no stronger model.
    no_stronger: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
pub struct Question {
    pub system: String,
    /// What all questions of a build share: a first exchange before the question, so that a server can keep it read,
    /// and a gateway weighs the question by itself.
    pub context: Option<String>,
    pub user: String,
    /// Whether the stronger model is to be asked.
    pub stronger: bool,
    /// Questions about one thing share a name; a gateway then keeps them with a model that could answer.
    pub session: String,
    pub max_tokens: u32,
    /// A name and a JSON schema for the answer; none: plain text.
    pub schema: Option<(&'static str, Value)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub text: String,
    /// The model stopped because its tokens ran out.
    pub cut: bool,
    pub tokens: u64,
    /// What answered, as far as the endpoint tells: a gateway's route and model.
    pub route: String,
    pub model: String,
    pub cost_usd: f64,
    /// From `x-request-id`: what feedback refers to.
    pub request_id: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NoSuchModel(String),
    #[error("the question, with room for its answer, is longer than the model's window: {0}")]
    TooLong(String),
    #[error("the endpoint is busy or unreachable: {0}")]
    Unavailable(String),
    #[error("the answer is not a chat completion: {0}")]
    Strange(String),
}

impl AskError {
    /// Whether every further question must fail as well (wrong key, unknown model).
    pub fn is_final(&self) -> bool {
        matches!(self, AskError::Refused(_) | AskError::NoSuchModel(_))
    }
}

impl Upstream {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(endpoint: &Endpoint, key: &str) -> anyhow::Result<Self> {
        let base_url = endpoint.base_url.as_deref().unwrap_or("http://127.0.0.1:8080/v1");
        let base = base_url.trim_end_matches('/');
        let base_url = if base.ends_with("/v1") { base.to_owned() } else { format!("{base}/v1") };
        Ok(Self {
            base_url,
            key: key.to_owned(),
            model: endpoint.model.clone(),
            stronger: endpoint.stronger.clone(),
            http: reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).build()?,
            timeout: Duration::from_secs(endpoint.timeout_seconds),
            no_feedback: Arc::default(),
            gone: Arc::default(),
            routes: Arc::default(),
            no_stronger: Arc::default(),
        })
    }

    /// Asks, and asks again while the endpoint is busy (429, 5xx, no connection): [`PATIENCE`] times at most.
    ///
    /// # Errors
    /// See [`AskError`]; nothing here says whether the text of an answer is any good.
    pub async fn ask(&self, question: &Question) -> Result<Answer, AskError> {
        let mut pause = Duration::from_millis(500);
        let tries = if self.gone.load(Ordering::Relaxed) { 1 } else { PATIENCE };
        for left in (0..tries).rev() {
            match self.ask_once(question).await {
                // Not every gateway has a route of that name: then the usual model it is.
                Err((AskError::NoSuchModel(_), _)) if self.stronger_for(question).is_some() && left > 0 => {
                    self.no_stronger.store(true, Ordering::Relaxed);
                }
                Err((AskError::Unavailable(_), wait)) if left > 0 => {
                    tokio::time::sleep(wait.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause *= 3;
                }
                done => {
                    let gone = matches!(done, Err((AskError::Unavailable(_), _)));
                    self.gone.store(gone, Ordering::Relaxed);
                    return done.map_err(|(err, _)| err);
                }
            }
        }
        Err(AskError::Unavailable("out of patience".to_owned()))
    }

    async fn ask_once(&self, question: &Question) -> Result<Answer, (AskError, Option<Duration>)> {
        let headers: Arc<Mutex<HeaderMap>> = Arc::default();
        let client = self.client(Arc::clone(&headers), &question.session).map_err(|err| (AskError::Strange(err.to_string()), None))?;
        let chat = client.chat();
        let asked = chat.create_byot::<Value, Value>(self.body(question));
        let outcome = tokio::time::timeout(self.timeout, asked).await.map_err(|_| (AskError::Slow(self.timeout), None))?;
        let headers = headers.lock().await.clone();
        match outcome {
            Ok(body) => {
                self.routes.fetch_or(headers.contains_key("x-spectra-route"), Ordering::Relaxed);
                read(&body, &headers).map_err(|err| (err, None))
            }
            Err(err) => Err((classify(err), retry_after(&headers))),
        }
    }

    /// The model to ask in place of the usual one, if so.
    fn stronger_for(&self, question: &Question) -> Option<&str> {
        let known = || self.routes.load(Ordering::Relaxed).then_some("strong");
        let wanted = question.stronger && !self.no_stronger.load(Ordering::Relaxed);
        wanted.then(|| self.stronger.as_deref().or_else(known)).flatten()
    }

    /// async-openai parses the body only; the headers are taken on the way through its transport.
    fn client(&self, headers: Arc<Mutex<HeaderMap>>, session: &str) -> Result<Client<OpenAIConfig>, OpenAIError> {
        let config = OpenAIConfig::new().with_api_base(self.base_url.as_str()).with_api_key(self.key.as_str());
        let config = config.with_header("x-spectra-session", session)?;
        let transport = ReqwestService::new(self.http.clone());
        let service = tower::service_fn(move |request: HttpRequestFactory| {
            let (mut transport, headers) = (transport.clone(), Arc::clone(&headers));
            async move {
                let response = tower::Service::call(&mut transport, request).await?;
                headers.lock().await.clone_from(response.headers());
                Ok::<_, OpenAIError>(response)
            }
        });
        Ok(Client::build(self.http.clone(), config).with_http_service(service))
    }

    fn body(&self, question: &Question) -> Value {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages = vec![message("system", &question.system)];
        if let Some(context) = &question.context {
            messages.extend([message("user", context), message("assistant", READY)]);
        }
        messages.push(message("user", &question.user));
        let mut body = json!({
            "model": self.stronger_for(question).unwrap_or(&self.model),
            "messages": messages,
            "temperature": 0.2,
            "max_tokens": question.max_tokens,
            "stream": false,
        });
        if let Some((name, schema)) = &question.schema {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": {"name": name, "strict": true, "schema": schema},
            });
        }
        body
    }

    /// Tells the gateway how an answer turned out. An endpoint without such a route is asked once, then left alone;
    /// a failure to tell is no failure of the build.
    pub async fn feedback(&self, request_id: &str, usable: bool, reason: Option<&str>) {
        if self.no_feedback.load(Ordering::Relaxed) {
            return;
        }
        let mut body = json!({"request_id": request_id, "usable": usable});
        if let Some(reason) = reason {
            body["reason"] = json!(reason);
        }
        let sent = self
            .http
            .post(format!("{}/feedback", self.base_url))
            .bearer_auth(&self.key)
            .timeout(Duration::from_secs(5))
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await;
        if !sent.is_ok_and(|response| response.status().is_success()) {
            self.no_feedback.store(true, Ordering::Relaxed);
        }
    }
}

fn read(body: &Value, headers: &HeaderMap) -> Result<Answer, AskError> {
    let choice = body.pointer("/choices/0").ok_or_else(|| AskError::Strange(excerpt(&body.to_string())))?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").to_owned();
    Ok(Answer {
        text: text(choice.pointer("/message/content")),
        cut: choice.get("finish_reason").and_then(Value::as_str) == Some("length"),
        tokens: body.pointer("/usage/total_tokens").and_then(Value::as_u64).unwrap_or(0),
        route: header("x-spectra-route").unwrap_or_default(),
        model: header("x-spectra-model").unwrap_or_else(|| text(body.get("model"))),
        cost_usd: header("x-spectra-cost-usd").and_then(|cost| cost.parse().ok()).unwrap_or(0.0),
        request_id: header("x-request-id"),
    })
}

fn classify(err: OpenAIError) -> AskError {
    match err {
        OpenAIError::ApiError(api) => {
            let status = api.status_code;
            let busy = status.as_u16() == 429 || status.is_server_error();
            match api.api_error.code.as_deref() {
                _ if busy => AskError::Unavailable(api.to_string()),
                Some("context_length_exceeded") => AskError::TooLong(api.to_string()),
                Some("model_not_found") => AskError::NoSuchModel(api.to_string()),
                _ => AskError::Refused(api.to_string()),
            }
        }
        OpenAIError::JSONDeserialize(err, body) => AskError::Strange(format!("{err}: {}", excerpt(&body))),
        other => AskError::Unavailable(other.to_string()),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get("retry-after")?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}
