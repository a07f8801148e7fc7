//! Is the answer good enough? The caller's own contract (format, tools) and common sense, checked while the answer streams in.
//!
//! `Checks` says what is wanted of one request's answers, `Verifier` reads one answer, `Judged` is what it found. All of it is pure.

pub mod checks;
pub mod code;
pub mod corpus;
mod feedback;
mod files;
pub mod json;
mod placeholder;
pub mod schema;
mod sql;
mod text;
mod tools;
mod verifier;

use spectra_backends::BackendError;
use spectra_backends::chunk::Finish;

pub use crate::repair::Stage;
pub use checks::{Checks, Custom, Rule, Settings};
pub use feedback::{Hint, feedback, next_ask_hint};
pub use schema::{Schema, SchemaCache};
pub use text::loops_on;
pub(crate) use text::{excerpt, is_refusal};
pub use verifier::Verifier;

/// What is wrong with an answer.
#[derive(Clone, Debug)]
pub enum Flaw {
    /// Nothing was said and no tool called.
    Empty,
    /// The model declined. That is an answer of a kind, and not invalid JSON.
    Refused {
        excerpt: String,
    },
    /// It ends before its content does. `by_length`: the model was stopped by its token limit. `bytes`: how much there is.
    Truncated {
        by_length: bool,
        bytes: usize,
    },
    /// It says the same again and again.
    Looping {
        period_bytes: usize,
        excerpt: String,
    },
    /// `at` is a byte offset into the answer's text.
    NotJson {
        at: usize,
        why: String,
    },
    /// JSON, but not what the schema asks. Each error is `path: message`.
    OffSchema {
        errors: Vec<String>,
    },
    BadToolCall {
        name: String,
        why: String,
    },
    /// `line` counts from 1.
    BadCode {
        language: &'static str,
        line: usize,
        why: String,
    },
    /// A stand-in for content. `at` says where: a JSON path and file, or nothing.
    Placeholder {
        at: String,
        why: String,
    },
    /// The prompt or the schema came back.
    Echo,
    /// Natural-log probabilities: their mean over the answer's tokens, and the mean lead over the runner-up where it is known.
    Unsure {
        mean_logprob: f32,
        mean_margin: Option<f32>,
    },
    /// An operator's own check said no.
    Custom {
        check: String,
        why: String,
    },
    Backend(BackendError),
}

impl Flaw {
    /// Every `kind` but those of a backend's error.
    pub const KINDS: [&str; 12] = [
        "empty",
        "refused",
        "truncated",
        "looping",
        "not_json",
        "off_schema",
        "bad_tool_call",
        "bad_code",
        "placeholder",
        "echo",
        "unsure",
        "custom",
    ];

    /// Stable name for metric labels and ledger rows.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Refused { .. } => "refused",
            Self::Truncated { .. } => "truncated",
            Self::Looping { .. } => "looping",
            Self::NotJson { .. } => "not_json",
            Self::OffSchema { .. } => "off_schema",
            Self::BadToolCall { .. } => "bad_tool_call",
            Self::BadCode { .. } => "bad_code",
            Self::Placeholder { .. } => "placeholder",
            Self::Echo => "echo",
            Self::Unsure { .. } => "unsure",
            Self::Custom { .. } => "custom",
            Self::Backend(error) => error.kind(),
        }
    }
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("the answer is empty"),
            Self::Refused { excerpt } => write!(f, "the model declined: {excerpt}"),
            Self::Truncated { by_length: true, bytes } => write!(f, "cut off by the token limit after {bytes} bytes"),
            Self::Truncated { by_length: false, bytes } => write!(f, "ends before its content does, after {bytes} bytes"),
            Self::Looping { period_bytes, excerpt } => write!(f, "repeats {period_bytes} bytes over and over: {excerpt:?}"),
            Self::NotJson { at, why } => write!(f, "not JSON at byte {at}: {why}"),
            Self::OffSchema { errors } => write!(f, "does not fit the schema: {}", errors.join("; ")),
            Self::BadToolCall { name, why } if name.is_empty() => write!(f, "bad tool call: {why}"),
            Self::BadToolCall { name, why } => write!(f, "bad call of tool {name}: {why}"),
            Self::BadCode { language, line, why } => write!(f, "{language} does not parse at line {line}: {why}"),
            Self::Placeholder { at, why } if at.is_empty() => write!(f, "a placeholder instead of content: {why}"),
            Self::Placeholder { at, why } => write!(f, "a placeholder instead of content in {at}: {why}"),
            Self::Echo => f.write_str("the prompt or the schema came back instead of an answer"),
            Self::Unsure { mean_logprob, .. } => write!(f, "the model is unsure (mean log probability {mean_logprob:.2})"),
            Self::Custom { check, why } => write!(f, "check {check}: {why}"),
            Self::Backend(error) => error.fmt(f),
        }
    }
}

/// What is to be thought of an answer.
#[derive(Clone, Debug)]
pub enum Verdict {
    Pass,
    /// Usable after these stages of repair; the new text stands in `Judged::choices`.
    Mended(Vec<Stage>),
    Flawed(Flaw),
}

impl Verdict {
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !matches!(self, Self::Flawed(_))
    }
}

/// What a chunk changes for a draft that is held.
#[derive(Clone, Debug)]
pub enum Doubt {
    None,
    /// Something is wrong that repair may mend: hold to the end.
    Mendable,
    /// Nothing that follows can save the answer: stop reading.
    Hopeless(Flaw),
}

/// A whole answer and its verdict: the worst of its choices'.
#[derive(Clone, Debug)]
pub struct Judged {
    pub verdict: Verdict,
    /// In the order of their `index`.
    pub choices: Vec<JudgedChoice>,
}

/// One choice as it was said and, where repair changed it, as it should be said.
#[derive(Clone, Debug, Default)]
pub struct JudgedChoice {
    pub index: u32,
    pub text: String,
    pub refusal: Option<String>,
    pub tool_calls: Vec<JudgedCall>,
    pub finish: Option<Finish>,
    /// The new content; `None`: the text stands.
    pub mended: Option<String>,
    /// Mean natural-log probability of its tokens, where they were sent.
    pub mean_logprob: Option<f32>,
}

/// One tool call, its pieces joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JudgedCall {
    pub index: u32,
    pub id: Option<String>,
    pub name: String,
    pub arguments: String,
    /// The new arguments; `None`: they stand.
    pub mended: Option<String>,
}

impl JudgedChoice {
    /// The text to deliver.
    #[must_use]
    pub fn said(&self) -> &str {
        self.mended.as_deref().unwrap_or(&self.text)
    }
}
