//! `[backends.NAME]`: one model and how to reach it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Fault;
use crate::secret::{Environment, Secret, Text};

/// One model: exactly one of `llama`, `openai`, `script`, and what is common to all.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// A GGUF run by llama.cpp in a supervised worker on this machine.
    pub llama: Option<Box<Llama>>,
    /// Any server that speaks the OpenAI API.
    pub openai: Option<Box<Openai>>,
    /// Fixed answers, for tests and demos.
    pub script: Option<Box<Script>>,
    /// Left out with a notice, instead of an error, when its secret is not set.
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub price: Price,
    #[serde(default)]
    pub deadlines: Deadlines,
    #[serde(default)]
    pub breaker: Breaker,
    /// Requests in flight at once; more wait in a bounded queue.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: u32,
    /// Requests that may wait for a place; more are refused at once and go to the next rung.
    #[serde(default = "defaults::queue")]
    pub queue: u32,
    /// Prompt plus answer, in tokens. Unset: the local model's own, unknown for a hosted one.
    pub context_tokens: Option<u32>,
    pub tools: Option<bool>,
    pub vision: Option<bool>,
    pub logprobs: Option<bool>,
    pub json_schema: Option<bool>,
    /// Largest `n` it serves.
    pub n_max: Option<u32>,
    /// How a cut answer is best continued here. Unset: `prefill` for a local model, else `instruction`.
    pub continues_by: Option<Continues>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Continues {
    /// A last message of role assistant is gone on from (llama-server, Anthropic and others).
    Prefill,
    /// The same, asked for with `continue_final_message`, as vLLM and SGLang want it.
    ContinueFinalMessage,
    /// A last message of role user asks to go on: works everywhere.
    Instruction,
}

/// Which of the three a backend is.
#[derive(Clone, Copy, Debug)]
pub enum BackendKind<'a> {
    Llama(&'a Llama),
    Openai(&'a Openai),
    Script(&'a Script),
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Llama {
    /// A name from `spectra model list`, or a path to a GGUF file.
    pub model: String,
    /// Most requests decoded at once; each has `context_tokens` of its own. Unset: chosen from memory, at most 4.
    pub slots: Option<u32>,
    /// Layers on the GPU. Unset: as many as fit its free memory.
    pub gpu_layers: Option<u32>,
    /// How several GPUs share it.
    #[serde(default)]
    pub gpu_split: GpuSplit,
    /// CPU threads. Unset: the physical cores less one, at least one.
    pub threads: Option<u32>,
    #[serde(default)]
    pub kv_type: KvType,
    #[serde(default)]
    pub flash_attention: Option<bool>,
    /// Most prompt tokens decoded in one step.
    #[serde(default = "defaults::batch_tokens")]
    pub batch_tokens: u32,
    /// Serve embeddings instead of chat.
    #[serde(default)]
    pub embeddings: bool,
    /// How the tokens of a text become one vector. Unset: as the model was trained, or their mean.
    pub pooling: Option<Pooling>,
    /// For what the caller leaves open.
    #[serde(default)]
    pub defaults: Sampling,
    #[serde(default)]
    pub worker: Workers,
}

/// Values for requests that do not name them; unset: the engine's own (temperature 0.8, as llama-server).
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    pub temperature: Option<f64>,
    /// A small model that does not find its end is stopped here.
    pub max_tokens: Option<u32>,
}

/// How a model is laid on several GPUs.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum GpuSplit {
    #[default]
    Layer,
    Row,
    /// One GPU only.
    None,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    Mean,
    Cls,
    Last,
}

/// When a model is loaded.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Loading {
    /// With the gateway.
    #[default]
    Start,
    /// With the first request that wants it.
    Demand,
}

/// How the worker process is watched.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Binary to start; unset: this one.
    pub program: Option<String>,
    /// A worker that has not answered for so long is killed and started again.
    pub heartbeat_ms: u64,
    /// Longest wait for the model to load.
    pub load_ms: u64,
    /// First pause before a restart; it doubles up to `backoff_max_ms`.
    pub backoff_ms: u64,
    pub backoff_max_ms: u64,
    pub load: Loading,
    /// Unload the model after so long without a request; the next one loads it again. 0: never.
    pub idle_unload_ms: u64,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            program: None,
            heartbeat_ms: 4_000,
            load_ms: 300_000,
            backoff_ms: 250,
            backoff_max_ms: 30_000,
            load: Loading::Start,
            idle_unload_ms: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum KvType {
    #[default]
    F16,
    Q8_0,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Openai {
    /// Up to and with `/v1`.
    pub base_url: Text,
    /// Unset: no Authorization header is sent.
    pub api_key: Option<Secret>,
    /// The model's name over there.
    pub model: Text,
    /// More headers to send, such as `api-key` for Azure.
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    /// Header that carries the key instead of `Authorization: Bearer`, such as `api-key`.
    pub key_header: Option<String>,
    /// Query parameters, such as `api-version` for Azure.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// Speak HTTP/2 without TLS to it.
    #[serde(default)]
    pub http2_prior_knowledge: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Given in turn, the last one for ever.
    pub answers: Vec<ScriptAnswer>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ScriptAnswer {
    #[serde(default)]
    pub text: String,
    /// `stop`, `length`, …
    #[serde(default = "defaults::finish")]
    pub finish: String,
    /// Answer with this HTTP status and `text` as the error's message instead.
    pub status: Option<u16>,
    /// Break the stream after so many characters.
    pub cut_after: Option<usize>,
}

/// USD per million tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    pub input: f64,
    pub output: f64,
}

/// Bounds of one attempt, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    pub connect_ms: u64,
    /// From the request to the first chunk of a stream.
    pub first_chunk_ms: u64,
    /// Between two chunks.
    pub idle_ms: u64,
    pub total_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect_ms: 3_000, first_chunk_ms: 60_000, idle_ms: 30_000, total_ms: 300_000 }
    }
}

/// When a backend is left alone for a while.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Share of failures among the last `window` attempts that opens it; over 1: never.
    pub failure_share: f64,
    pub window: u32,
    /// Attempts before it may open.
    pub min_attempts: u32,
    /// How long it stays open before one probe is let through; doubles up to `open_max_ms` while probes fail.
    pub open_ms: u64,
    pub open_max_ms: u64,
    /// How much an answer that failed verification counts beside a transport failure's 1.
    pub unusable_weight: f64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failure_share: 0.5, window: 20, min_attempts: 5, open_ms: 5_000, open_max_ms: 60_000, unusable_weight: 0.5 }
    }
}

mod defaults {
    pub fn concurrency() -> u32 {
        256
    }
    pub fn queue() -> u32 {
        256
    }
    pub fn batch_tokens() -> u32 {
        512
    }
    pub fn finish() -> String {
        "stop".into()
    }
}

impl Backend {
    /// What the backend is. `None` only before `Config::parse` has checked it.
    #[must_use]
    pub fn kind(&self) -> Option<BackendKind<'_>> {
        match (&self.llama, &self.openai, &self.script) {
            (Some(llama), None, None) => Some(BackendKind::Llama(llama)),
            (None, Some(openai), None) => Some(BackendKind::Openai(openai)),
            (None, None, Some(script)) => Some(BackendKind::Script(script)),
            _ => None,
        }
    }

    pub(crate) fn check(&self, name: &str) -> Result<(), Fault> {
        let at_least_one = [
            ("concurrency", u64::from(self.concurrency)),
            ("deadlines.total_ms", self.deadlines.total_ms),
            ("deadlines.first_chunk_ms", self.deadlines.first_chunk_ms),
            ("deadlines.idle_ms", self.deadlines.idle_ms),
            ("deadlines.connect_ms", self.deadlines.connect_ms),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Fault::new(None, format!("backends.{name}.{key} is 0"), "write 1 or more"));
        }
        if !(self.price.input >= 0.0 && self.price.output >= 0.0 && self.price.input.is_finite() && self.price.output.is_finite()) {
            return Err(Fault::new(
                None,
                format!("backends.{name}.price is negative or not a number"),
                "write USD per million tokens, for example { input = 2.0, output = 8.0 }",
            ));
        }
        match self.kind() {
            None => Err(Fault::new(
                None,
                format!("backends.{name} must be exactly one of llama, openai and script"),
                format!("for example [backends.{name}.openai] with base_url and model"),
            )),
            Some(BackendKind::Script(script)) if script.answers.is_empty() => Err(Fault::new(
                None,
                format!("backends.{name}.script.answers is empty"),
                "write at least one, for example answers = [{ text = \"hello\" }]",
            )),
            Some(BackendKind::Llama(llama)) if llama.slots == Some(0) || llama.threads == Some(0) || llama.batch_tokens < 32 => {
                Err(Fault::new(
                    None,
                    format!("backends.{name}.llama: slots and threads must be at least 1, batch_tokens at least 32"),
                    "leave them out for automatic values",
                ))
            }
            Some(BackendKind::Llama(llama))
                if llama.defaults.max_tokens == Some(0) || llama.defaults.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)) =>
            {
                Err(Fault::new(
                    None,
                    format!("backends.{name}.llama.defaults: temperature must be within 0 to 2, max_tokens at least 1"),
                    "for example defaults = { temperature = 0.2, max_tokens = 1024 }",
                ))
            }
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn resolve(&mut self, name: &str, env: Environment<'_>) -> Result<(), Fault> {
        let Some(openai) = &mut self.openai else { return Ok(()) };
        let unset = |why: String| {
            Fault::new(None, why, format!("backends.{name} needs it; set it, give a default, or mark the backend optional = true"))
        };
        openai.base_url.resolve(env).map_err(unset)?;
        openai.model.resolve(env).map_err(unset)?;
        for header in openai.headers.values_mut() {
            header.resolve(env).map_err(unset)?;
        }
        let url = openai.base_url.get();
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(Fault::new(
                None,
                format!("backends.{name}.openai.base_url is {url:?}, not an http:// or https:// address"),
                "write it up to and with /v1, for example http://127.0.0.1:8000/v1",
            ));
        }
        match &mut openai.api_key {
            Some(key) => key.resolve(&format!("backends.{name}.openai.api_key"), env),
            None => Ok(()),
        }
    }
}
