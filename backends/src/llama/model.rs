//! The weights, and everything about the vocabulary that is read once so that no later call can go out of range.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use super::Settings;

pub(crate) type Token = i32;

/// A loaded GGUF.
#[derive(Debug)]
pub struct Model {
    weights: LlamaModel,
    /// The bytes of every token; control tokens have none.
    pieces: Vec<Box<[u8]>>,
    ends: Vec<bool>,
    /// The names of control tokens.
    controls: HashMap<Token, Box<[u8]>>,
    end: Option<u32>,
    specials: Specials,
    template: Option<String>,
    name: String,
}

/// Texts of the tokens that a template names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    pub bos: String,
    pub eos: String,
    pub adds_bos: bool,
}

/// Why a model is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("model file {path} cannot be read: {why}")]
    Unreadable { path: PathBuf, why: String },
    #[error("{path} is not a GGUF model file: {why}")]
    NotGguf { path: PathBuf, why: String },
    #[error("llama.cpp cannot load {path}: the file is damaged, or of a model it does not know; its own words are in the log above")]
    Refused { path: PathBuf },
    #[error("{0}")]
    TooLarge(String),
    #[error("llama.cpp: {0}")]
    Engine(String),
}

impl LoadError {
    /// Exit code of a worker that ends with it, after `sysexits.h`: 66 no input, 65 bad data, 71 the system's limits, 70 software.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { .. } => 66,
            Self::NotGguf { .. } | Self::Refused { .. } => 65,
            Self::TooLarge(_) => 71,
            Self::Engine(_) => 70,
        }
    }
}

/// llama.cpp's own state is one per process; so is the handle to it.
pub(crate) fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
            LlamaBackend::init().ok()
        })
        .as_ref()
        .ok_or_else(|| LoadError::Engine("another part of this process has started it".into()))
}

impl Model {
    /// Reads the file into memory (mapped); takes seconds for a large one.
    ///
    /// # Errors
    /// For a file that is missing, not a GGUF, damaged, or of an unknown architecture.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        let path = &settings.model;
        check_file(path)?;
        let params = LlamaModelParams::default().with_n_gpu_layers(settings.gpu_layers.unwrap_or(999));
        let weights = LlamaModel::load_from_file(backend()?, path, &params).map_err(|_| LoadError::Refused { path: path.clone() })?;
        let vocab = weights.vocab();
        let count = weights.n_vocab();
        let pieces: Vec<Box<[u8]>> = (0..count).map(|id| vocab.token_to_piece(LlamaToken(id), false, None).into_boxed_slice()).collect();
        let nameless = (0..count).zip(&pieces).filter(|(_, piece)| piece.is_empty());
        let controls = nameless.map(|(id, _)| (id, vocab.token_to_piece(LlamaToken(id), true, None).into_boxed_slice())).collect();
        let end = [vocab.eot(), vocab.eos()].into_iter().find_map(|token| u32::try_from(token.0).ok());
        let ends = (0..count).map(|id| vocab.is_eog(LlamaToken(id))).collect();
        let text = |token: LlamaToken| {
            let known = (0..count).contains(&token.0);
            let bytes = if known { vocab.token_to_piece(token, true, None) } else { Vec::new() };
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let specials = Specials { bos: text(vocab.bos()), eos: text(vocab.eos()), adds_bos: vocab.should_add_bos() };
        let template = weights.chat_template(None).ok().and_then(|template| template.to_string().ok());
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let name = weights.meta_val_str("general.name").ok().filter(|name| !name.is_empty()).unwrap_or(stem);
        Ok(Self { pieces, ends, controls, end, specials, template, name, weights })
    }

    /// `general.name` of the GGUF, or the file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens the model was trained to hold.
    #[must_use]
    pub fn trained_context(&self) -> u32 {
        self.weights.n_ctx_train()
    }

    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.pieces.len()
    }

    /// The GGUF's own Jinja template.
    #[must_use]
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    pub(crate) fn specials(&self) -> &Specials {
        &self.specials
    }

    pub(crate) fn weights(&self) -> &LlamaModel {
        &self.weights
    }

    /// The bytes a token stands for; none for a control token or one out of range.
    #[must_use]
    pub fn piece(&self, token: Token) -> &[u8] {
        usize::try_from(token).ok().and_then(|at| self.pieces.get(at)).map_or(&[], |piece| piece)
    }

    /// The name of a control token, such as `[TOOL_CALLS]`; empty for others.
    #[must_use]
    pub fn control(&self, token: Token) -> &[u8] {
        self.controls.get(&token).map_or(&[], |name| name)
    }

    /// The control token of this name.
    #[must_use]
    pub fn control_named(&self, name: &str) -> Option<Token> {
        self.controls.iter().find(|(_, known)| &***known == name.as_bytes()).map(|(token, _)| *token)
    }

    /// The token that ends a turn.
    pub(crate) fn end_token(&self) -> Option<u32> {
        self.end
    }

    /// True for the tokens that end an answer.
    #[must_use]
    pub fn ends(&self, token: Token) -> bool {
        usize::try_from(token).ok().and_then(|at| self.ends.get(at)).copied().unwrap_or(false)
    }

    /// Tokens of a rendered prompt; special tokens in it are read as such. Adds the model's BOS where the template has not.
    #[must_use]
    pub fn tokenize(&self, text: &str) -> Vec<Token> {
        let bos = self.specials.bos.as_str();
        let adds = self.specials.adds_bos && (bos.is_empty() || !text.starts_with(bos));
        let tokens = self.weights.vocab().tokenize(text.as_bytes(), adds, true);
        tokens.into_iter().map(|token| token.0).collect()
    }

    /// Whether the key-value cache can be cut at any token, which reuse of prefixes needs.
    #[must_use]
    pub fn cuts_anywhere(&self) -> bool {
        !(self.weights.is_recurrent() || self.weights.is_hybrid())
    }

    /// Bytes of key-value cache one token takes.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kv: super::KvType) -> u64 {
        let heads = u64::from(self.weights.n_head()).max(1);
        let per_head = u64::try_from(self.weights.n_embd()).unwrap_or(0) / heads;
        let numbers = 2 * u64::from(self.weights.n_layer()) * u64::from(self.weights.n_head_kv()) * per_head;
        numbers * kv.bytes_of_32() / 32
    }

    /// Bytes of the weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weights.size()
    }
}

/// What can be said of the file before llama.cpp sees it, in words an operator can act on.
fn check_file(path: &Path) -> Result<(), LoadError> {
    let unreadable = |why: String| LoadError::Unreadable { path: path.to_owned(), why };
    let mut file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err(unreadable("not a regular file".into()));
    }
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Ok(()) => Err(LoadError::NotGguf { path: path.to_owned(), why: format!("it begins with {magic:02x?} instead of \"GGUF\"") }),
        Err(_) => Err(LoadError::NotGguf { path: path.to_owned(), why: "it has less than four bytes".into() }),
    }
}
