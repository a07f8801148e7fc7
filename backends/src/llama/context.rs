//! The one door to `llama_context`: what would abort the process is refused here, before the call.

use std::num::NonZeroU32;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2::{LLAMA_FLASH_ATTN_TYPE_AUTO, LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED};

use super::model::{LoadError, Model, Token, backend};
use super::{KvType, Settings};

/// Sequence ids that llama.cpp can tell apart in one context.
pub(crate) const MOST_SEQUENCES: u32 = 256;

/// A context and its batch. Born and dropped in the decode thread.
pub(crate) struct Context<'model> {
    inner: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    capacity: usize,
    cells: u32,
    sequences: i32,
    vocabulary: Token,
    /// For each token of the last decoded batch, whether its logits were asked for.
    has_logits: Vec<bool>,
    decoded: bool,
}

/// The sizes a context is made with; all checked by `Shape::plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Tokens the key-value cache holds, shared by all sequences.
    pub cells: u32,
    pub sequences: u32,
    pub batch: u32,
    pub threads: i32,
}

/// A call that would have ended the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Guarded {
    #[error("the batch is full")]
    BatchFull,
    #[error("sequence {0} is not allocated")]
    Sequence(i32),
    #[error("token {0} is not in the vocabulary")]
    Token(Token),
    #[error("position {0} is outside the context")]
    Position(i32),
    #[error("no logits were asked for at {0}")]
    NoLogits(i32),
}

/// What a decode can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodeFailed {
    /// The cache has no room for the batch; it was not decoded.
    NoRoom,
    Broken(String),
}

impl<'model> Context<'model> {
    pub(crate) fn new(model: &'model Model, settings: &Settings, shape: Shape) -> Result<Self, LoadError> {
        let kv = match settings.kv_type {
            KvType::F16 => KvCacheType::F16,
            KvType::Q8_0 => KvCacheType::Q8_0,
        };
        let flash = match settings.flash_attention {
            None => LLAMA_FLASH_ATTN_TYPE_AUTO,
            Some(true) => LLAMA_FLASH_ATTN_TYPE_ENABLED,
            Some(false) => LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(shape.cells))
            .with_n_batch(shape.batch)
            .with_n_ubatch(shape.batch.min(512))
            .with_n_seq_max(shape.sequences)
            .with_n_threads(shape.threads)
            .with_n_threads_batch(shape.threads)
            .with_type_k(kv)
            .with_type_v(kv)
            .with_flash_attention_policy(flash)
            .with_kv_unified(true)
            .with_swa_full(true)
            .with_embeddings(settings.embeddings);
        let inner = model
            .weights()
            .new_context(backend()?, params)
            .map_err(|error| LoadError::Engine(format!("no context of {} tokens for {}: {error}", shape.cells, model.name())))?;
        let capacity = shape.batch.min(inner.n_batch()) as usize;
        Ok(Self {
            cells: inner.n_ctx(),
            batch: LlamaBatch::new(capacity, 1),
            capacity,
            sequences: i32::try_from(shape.sequences).unwrap_or(1),
            vocabulary: model.weights().n_vocab(),
            has_logits: Vec::with_capacity(capacity),
            decoded: false,
            inner,
        })
    }

    /// Tokens one batch takes.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn cells(&self) -> u32 {
        self.cells
    }

    pub(crate) fn sequences(&self) -> i32 {
        self.sequences
    }

    pub(crate) fn clear_batch(&mut self) {
        self.batch.clear();
        self.has_logits.clear();
        self.decoded = false;
    }

    /// Puts a token into the batch. Returns where its logits will be.
    pub(crate) fn add(&mut self, token: Token, position: i32, sequence: i32, logits: bool) -> Result<i32, Guarded> {
        if self.has_logits.len() >= self.capacity {
            return Err(Guarded::BatchFull);
        }
        self.known_sequence(sequence)?;
        if !(0..self.vocabulary).contains(&token) {
            return Err(Guarded::Token(token));
        }
        if position < 0 || position.unsigned_abs() >= self.cells {
            return Err(Guarded::Position(position));
        }
        let at = i32::try_from(self.has_logits.len()).map_err(|_| Guarded::BatchFull)?;
        self.batch.add(LlamaToken(token), position, &[sequence], logits).map_err(|_| Guarded::BatchFull)?;
        self.has_logits.push(logits);
        self.decoded = false;
        Ok(at)
    }

    /// Decodes what was added. An empty batch is done at once.
    pub(crate) fn decode(&mut self) -> Result<(), DecodeFailed> {
        if self.has_logits.is_empty() {
            return Ok(());
        }
        match self.inner.decode(&mut self.batch) {
            Ok(()) => {
                self.decoded = true;
                Ok(())
            }
            Err(DecodeError::NoKvCacheSlot) => Err(DecodeFailed::NoRoom),
            Err(error) => Err(DecodeFailed::Broken(error.to_string())),
        }
    }

    /// Logits after the token that `add` put at `at`, one per token of the vocabulary.
    pub(crate) fn logits(&self, at: i32) -> Result<&[f32], Guarded> {
        let asked = usize::try_from(at).ok().and_then(|at| self.has_logits.get(at)).copied().unwrap_or(false);
        if !(asked && self.decoded) {
            return Err(Guarded::NoLogits(at));
        }
        Ok(self.inner.get_logits_ith(at))
    }

    /// Forgets a sequence's tokens from position `from` on.
    pub(crate) fn forget(&mut self, sequence: i32, from: u32) -> Result<(), Guarded> {
        self.known_sequence(sequence)?;
        // Removing a whole sequence cannot fail; a part may, where the memory is recurrent, and then we never ask for a part.
        self.inner.kv_cache_seq_rm(sequence, Some(from), None).map_err(|_| Guarded::Sequence(sequence))
    }

    /// Lets `to` share the first `length` tokens of `from`; nothing is copied.
    pub(crate) fn share(&mut self, from: i32, to: i32, length: u32) -> Result<(), Guarded> {
        self.known_sequence(from)?;
        self.known_sequence(to)?;
        self.inner.copy_kv_cache_seq(from, to, Some(0), Some(length)).map_err(|_| Guarded::Sequence(to))
    }

    fn known_sequence(&self, sequence: i32) -> Result<(), Guarded> {
        if (0..self.sequences).contains(&sequence) { Ok(()) } else { Err(Guarded::Sequence(sequence)) }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("cells", &self.cells).field("sequences", &self.sequences).finish_non_exhaustive()
    }
}
