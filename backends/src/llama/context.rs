//! The one door to `llama_context`: what would abort the process is refused here, before the call.

use std::num::NonZeroU32;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2::{LLAMA_FLASH_ATTN_TYPE_AUTO, LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_flash_attn_type};

use super::abort::{Abort, Wanted};
use super::file::LoadError;
use super::model::{Model, Token, backend};
use super::{KvType, Pooling, Settings};

/// Sequence ids that llama.cpp can tell apart in one context.
pub(crate) const MOST_SEQUENCES: u32 = 256;

/// A context and its batch. Born and dropped in the decode thread.
pub(crate) struct Context<'model> {
    inner: LlamaContext<'model>,
    /// Behind `inner`, which asks it as long as it is there.
    abort: Abort,
    batch: LlamaBatch<'static>,
    capacity: usize,
    cells: u32,
    sequences: i32,
    vocabulary: Token,
    /// For each token of the last decoded batch, whether its logits were asked for.
    has_logits: Vec<bool>,
    decoded: bool,
}

/// The sizes a context is made with, as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Tokens the key-value cache holds, shared by all sequences.
    pub cells: u32,
    pub sequences: u32,
    /// Tokens of one call, and of these how many are computed at once.
    pub batch: u32,
    pub step: u32,
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
    /// Nobody wanted it any more. Of its tokens the first may be in the cache: they are to be forgotten.
    Unwanted,
    Broken(String),
}

/// What llama.cpp returns when its callback said no.
const ABORTED: i32 = 2;

impl<'model> Context<'model> {
    pub(crate) fn new(model: &'model Model, settings: &Settings, shape: Shape) -> Result<Self, LoadError> {
        let kv = match settings.kv_type {
            KvType::F16 => KvCacheType::F16,
            KvType::Q8_0 => KvCacheType::Q8_0,
        };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(shape.cells))
            .with_n_batch(shape.batch)
            .with_n_ubatch(shape.step)
            .with_n_seq_max(shape.sequences)
            .with_n_threads(shape.threads)
            .with_n_threads_batch(shape.threads)
            .with_type_k(kv)
            .with_type_v(kv)
            .with_flash_attention_policy(flash_attention(settings.flash_attention, model.plan().gpu_layers, model.header().layers))
            .with_kv_unified(true)
            .with_swa_full(true)
            .with_embeddings(settings.embeddings)
            .with_pooling_type(pooling(settings, model));
        let abort = Abort::default();
        let inner = model
            .weights()
            .new_context(backend()?, abort.known_to(params))
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
            abort,
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

    /// Decodes what was added, as long as it is wanted. An empty batch is done at once.
    pub(crate) fn decode(&mut self, wanted: &Wanted<'_>) -> Result<(), DecodeFailed> {
        if self.has_logits.is_empty() {
            return Ok(());
        }
        match self.abort.during(wanted, || self.inner.decode(&mut self.batch)) {
            Ok(()) => {
                self.decoded = true;
                Ok(())
            }
            Err(DecodeError::NoKvCacheSlot) => Err(DecodeFailed::NoRoom),
            Err(DecodeError::Unknown(ABORTED)) => Err(DecodeFailed::Unwanted),
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

    /// The vector of all tokens of a sequence of the last decoded batch; the context was made for embeddings.
    pub(crate) fn embedding(&self, sequence: i32) -> Result<&[f32], Guarded> {
        self.known_sequence(sequence)?;
        if !self.decoded {
            return Err(Guarded::NoLogits(sequence));
        }
        self.inner.embeddings_seq_ith(sequence).map_err(|_| Guarded::NoLogits(sequence))
    }

    /// Forgets every sequence.
    pub(crate) fn forget_all(&mut self) {
        self.inner.clear_kv_cache();
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

    /// Bytes that `save` would take.
    pub(crate) fn saved_bytes(&self, sequence: i32) -> usize {
        self.known_sequence(sequence).map_or(0, |()| self.inner.state_seq_get_size_ext(sequence, LlamaStateSeqFlags::empty()))
    }

    /// A copy of a sequence's keys and values in plain memory.
    pub(crate) fn save(&self, sequence: i32) -> Option<SeqState> {
        self.known_sequence(sequence).ok()?;
        self.inner.state_seq_get(sequence, LlamaStateSeqFlags::empty()).ok()
    }

    /// Puts a copy back, in place of what the sequence has. False, and the sequence is empty, where there is no room.
    pub(crate) fn restore(&mut self, sequence: i32, state: &SeqState) -> bool {
        self.known_sequence(sequence).is_ok() && self.inner.state_seq_set(state, sequence).is_ok()
    }

    fn known_sequence(&self, sequence: i32) -> Result<(), Guarded> {
        if (0..self.sequences).contains(&sequence) { Ok(()) } else { Err(Guarded::Sequence(sequence)) }
    }
}

/// As the operator says, or as llama.cpp decides. It decides against where some of `layers` (and the output) are on a GPU and some are not,
/// and then a step computes its scores one batch by the whole cache at a time: gigabytes.
fn flash_attention(asked: Option<bool>, gpu_layers: u32, layers: u32) -> llama_flash_attn_type {
    match asked {
        Some(true) => LLAMA_FLASH_ATTN_TYPE_ENABLED,
        Some(false) => LLAMA_FLASH_ATTN_TYPE_DISABLED,
        None if (1..=layers).contains(&gpu_layers) => LLAMA_FLASH_ATTN_TYPE_ENABLED,
        None => LLAMA_FLASH_ATTN_TYPE_AUTO,
    }
}

/// How tokens become one vector: as the operator says, as the model was trained, or by their mean.
fn pooling(settings: &Settings, model: &Model) -> LlamaPoolingType {
    match settings.pooling {
        _ if !settings.embeddings => LlamaPoolingType::Unspecified,
        Some(Pooling::Mean) => LlamaPoolingType::Mean,
        Some(Pooling::Cls) => LlamaPoolingType::Cls,
        Some(Pooling::Last) => LlamaPoolingType::Last,
        None if matches!(model.header().pooling, Some(1..=3)) => LlamaPoolingType::Unspecified,
        None => {
            tracing::warn!("this model was not trained for embeddings: a text's vector is the mean of its tokens'");
            LlamaPoolingType::Mean
        }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("cells", &self.cells).field("sequences", &self.sequences).finish_non_exhaustive()
    }
}

/// Each call that ends the process when llama.cpp gets it, and what is said instead (`docs/engine.md` has the list).
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::llama::support;

    const BATCH: u32 = 32;
    const CELLS: u32 = 256;

    /// A context of two sequences over the small random model.
    fn with(check: impl FnOnce(&Model, Context<'_>)) {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { threads: Some(1), ..Settings::new(support::tiny_model(folder.path())) };
        let model = Model::load(&settings).unwrap();
        let shape = Shape { cells: CELLS, sequences: 2, batch: BATCH, step: BATCH / 2, threads: 1 };
        let context = Context::new(&model, &settings, shape).unwrap();
        check(&model, context);
    }

    #[test]
    fn calls_out_of_bounds_are_refused() {
        with(|model, mut context| {
            let size = i32::try_from(model.vocabulary()).unwrap();
            for (token, position, sequence, expected) in [
                (-1, 0, 0, Guarded::Token(-1)),
                (size, 0, 0, Guarded::Token(size)),
                (i32::MAX, 0, 0, Guarded::Token(i32::MAX)),
                (1, -1, 0, Guarded::Position(-1)),
                (1, i32::try_from(CELLS).unwrap(), 0, Guarded::Position(256)),
                (1, 0, -1, Guarded::Sequence(-1)),
                (1, 0, 2, Guarded::Sequence(2)),
            ] {
                assert_eq!(context.add(token, position, sequence, true), Err(expected));
            }
            for sequence in [-1, 2, i32::MAX] {
                assert_eq!(context.forget(sequence, 0), Err(Guarded::Sequence(sequence)));
                assert_eq!(context.share(0, sequence, 1), Err(Guarded::Sequence(sequence)));
                assert_eq!(context.share(sequence, 0, 1), Err(Guarded::Sequence(sequence)));
                assert_eq!(context.embedding(sequence), Err(Guarded::Sequence(sequence)));
            }
            assert_eq!(context.decode(&|| true), Ok(()), "an empty batch is done at once");
        });
    }

    #[test]
    fn a_batch_takes_no_more_than_it_was_made_for() {
        with(|_, mut context| {
            for position in 0..BATCH.cast_signed() {
                assert_eq!(context.add(5, position, 0, false), Ok(position));
            }
            assert_eq!(context.add(5, BATCH.cast_signed(), 0, false), Err(Guarded::BatchFull));
            assert_eq!(context.decode(&|| true), Ok(()));
        });
    }

    #[test]
    fn logits_are_there_only_where_they_were_asked_for() {
        with(|model, mut context| {
            assert_eq!(context.logits(0), Err(Guarded::NoLogits(0)), "before anything");
            context.add(5, 0, 0, false).unwrap();
            context.add(6, 1, 0, true).unwrap();
            assert_eq!(context.logits(1), Err(Guarded::NoLogits(1)), "before the decode");
            context.decode(&|| true).unwrap();
            for at in [-1, 0, 2, i32::MAX] {
                assert_eq!(context.logits(at), Err(Guarded::NoLogits(at)));
            }
            assert_eq!(context.logits(1).unwrap().len(), model.vocabulary());
            assert_eq!(context.embedding(0), Err(Guarded::NoLogits(0)), "a context for answers has no embeddings");
            context.clear_batch();
            assert_eq!(context.logits(1), Err(Guarded::NoLogits(1)), "of a batch that is gone");
        });
    }

    /// A model in two parts needs it for its memory's sake; else llama.cpp knows best.
    #[test]
    fn flash_attention_is_on_where_a_model_is_split() {
        let (on, off, auto) = (LLAMA_FLASH_ATTN_TYPE_ENABLED, LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_AUTO);
        for (asked, gpu_layers, expected) in
            [(None, 0, auto), (None, 1, on), (None, 30, on), (None, 31, auto), (Some(false), 16, off), (Some(true), 0, on)]
        {
            assert_eq!(flash_attention(asked, gpu_layers, 30), expected, "{asked:?} {gpu_layers}");
        }
    }

    /// A no may come behind any operation: within the batch's first half, or when that is in the cache already.
    #[test]
    fn a_decode_that_nobody_wants_is_stopped_and_can_be_taken_back() {
        with(|_, mut context| {
            let add = |context: &mut Context<'_>, from: i32, to: i32| {
                context.clear_batch();
                for position in from..to {
                    context.add(20 + position, position, 0, position + 1 == to).unwrap();
                }
            };
            add(&mut context, 0, 8);
            context.decode(&|| true).unwrap();
            let asked = AtomicUsize::new(0);
            let patient = |patience: usize| move |asked: &AtomicUsize| asked.fetch_add(1, Ordering::Relaxed) < patience;
            add(&mut context, 8, 40);
            context.decode(&|| patient(usize::MAX)(&asked)).unwrap();
            let whole = context.logits(31).unwrap().to_vec();
            let questions = asked.into_inner();
            assert!(questions > 40, "{questions}");
            for patience in [0, 1, questions / 3, questions / 2, questions * 2 / 3, questions - 1] {
                context.forget(0, 8).unwrap();
                add(&mut context, 8, 40);
                let asked = AtomicUsize::new(0);
                assert_eq!(context.decode(&|| patient(patience)(&asked)), Err(DecodeFailed::Unwanted), "{patience}");
                assert_eq!((context.logits(31), asked.into_inner()), (Err(Guarded::NoLogits(31)), patience + 1));
                context.forget(0, 8).unwrap();
                context.decode(&|| true).unwrap();
                assert_eq!(context.logits(31).unwrap(), whole, "{patience}");
            }
        });
    }

    #[test]
    fn a_full_cache_says_so_and_recovers() {
        with(|_, mut context| {
            let fill = |context: &mut Context<'_>, sequence| {
                for from in (0..CELLS.cast_signed()).step_by(BATCH as usize) {
                    context.clear_batch();
                    for position in from..from + BATCH.cast_signed() {
                        context.add(5, position, sequence, false).unwrap();
                    }
                    context.decode(&|| true)?;
                }
                Ok(())
            };
            assert_eq!(fill(&mut context, 0), Ok(()));
            assert_eq!(fill(&mut context, 1), Err(DecodeFailed::NoRoom));
            context.forget(0, 0).unwrap();
            context.forget(1, 0).unwrap();
            assert_eq!(fill(&mut context, 1), Ok(()));
        });
    }

    #[test]
    fn no_token_is_detokenised_by_llama_cpp_after_the_load() {
        with(|model, _| {
            for token in [-1, i32::MIN, i32::MAX, i32::try_from(model.vocabulary()).unwrap()] {
                assert_eq!((model.piece(token), model.control(token), model.ends(token)), (&b""[..], &b""[..], false));
            }
        });
    }
}
