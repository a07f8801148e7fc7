//! The weights, and everything about the vocabulary that is read once so that no later call can go out of range.

use std::collections::HashMap;
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::{LlamaModelParams, LlamaSplitMode};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

use super::file::{Header, LoadError};
use super::memory::Plan;
use super::{Gpu, GpuSplit, Settings};

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
    header: Header,
    plan: Plan,
}

/// Texts of the tokens that a template names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    pub bos: String,
    pub eos: String,
    pub adds_bos: bool,
}

/// llama.cpp's own state is one per process; so is the handle to it.
pub(crate) fn backend() -> Result<&'static LlamaBackend, LoadError> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            super::log::listen();
            LlamaBackend::init().ok()
        })
        .as_ref()
        .ok_or_else(|| LoadError::Engine("another part of this process has started it".into()))
}

impl Model {
    /// Reads the file into memory (mapped); takes seconds for a large one. What cannot fit is refused before that.
    ///
    /// # Errors
    /// For a file that is missing, not a GGUF, damaged, of an unknown architecture, or too large for this machine.
    pub fn load(settings: &Settings) -> Result<Self, LoadError> {
        let path = &settings.model;
        let header = Header::read(path)?;
        let backend = backend()?;
        let gpus = gpus();
        for Gpu { name, model, free_bytes, total_bytes } in &gpus {
            tracing::info!(gpu = %name, %model, free_mib = free_bytes >> 20, total_mib = total_bytes >> 20, "GPU found");
        }
        let plan = Plan::of(settings, &header, &gpus.iter().map(|gpu| gpu.free_bytes).collect::<Vec<_>>())?;
        let split = match settings.gpu_split {
            GpuSplit::Layer => LlamaSplitMode::Layer,
            GpuSplit::Row => LlamaSplitMode::Row,
            GpuSplit::None => LlamaSplitMode::None,
        };
        let params = LlamaModelParams::default().with_n_gpu_layers(plan.gpu_layers).with_split_mode(split);
        let weights = LlamaModel::load_from_file(backend, path, &params).map_err(|_| LoadError::Refused { path: path.clone() })?;
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
        Ok(Self { pieces, ends, controls, end, specials, template, name, header, plan, weights })
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

    /// Tokens of a text that is embedded, with those the model wants around every text. What looks like a control token is text.
    #[must_use]
    pub fn tokenize_plain(&self, text: &str) -> Vec<Token> {
        self.weights.vocab().tokenize(text.as_bytes(), true, false).into_iter().map(|token| token.0).collect()
    }

    /// Tokens of a piece from the middle of a text; `None` where the tokenizer does not give the same bytes back.
    pub(crate) fn tokenize_inside(&self, text: &[u8]) -> Option<Vec<Token>> {
        let text = std::str::from_utf8(text).ok()?;
        // Some tokenizers put a space before every text, and it may grow into the first word: behind a line's end it cannot.
        ["", "\n"].into_iter().find_map(|before| {
            let tokens = self.weights.vocab().tokenize(format!("{before}{text}").as_bytes(), false, false);
            let mut left = text.as_bytes();
            let mut begins = tokens.len();
            while !left.is_empty() {
                begins = begins.checked_sub(1)?;
                let piece = self.piece(tokens[begins].0);
                left = left.strip_suffix(piece).filter(|_| !piece.is_empty())?;
            }
            Some(tokens[begins..].iter().map(|token| token.0).collect())
        })
    }

    /// Whether the key-value cache can be cut at any token, which reuse of prefixes needs.
    #[must_use]
    pub fn cuts_anywhere(&self) -> bool {
        !(self.weights.is_recurrent() || self.weights.is_hybrid())
    }

    /// What its file says.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What it was given on this machine.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// Numbers of one embedding.
    #[must_use]
    pub fn width(&self) -> usize {
        usize::try_from(self.weights.n_embd()).unwrap_or(0)
    }

    /// Bytes of the weights.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weights.size()
    }
}

/// The GPUs that this build uses, and their memory now.
#[must_use]
pub fn gpus() -> Vec<Gpu> {
    if !backend().is_ok_and(LlamaBackend::supports_gpu_offload) {
        return Vec::new();
    }
    used(list_llama_ggml_backend_devices())
}

/// As llama.cpp chooses: GPUs of their own, and only where there are none those in the processor.
fn used(devices: Vec<LlamaBackendDevice>) -> Vec<Gpu> {
    let of = |kind| devices.iter().filter(move |device| device.device_type == kind);
    let own = of(LlamaBackendDeviceType::Gpu).next().is_some();
    of(if own { LlamaBackendDeviceType::Gpu } else { LlamaBackendDeviceType::IntegratedGpu })
        .map(|device| Gpu {
            name: device.name.clone(),
            model: device.description.clone(),
            free_bytes: device.memory_free as u64,
            total_bytes: device.memory_total as u64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_in_the_processor_counts_only_alone() {
        let device = |name: &str, device_type| LlamaBackendDevice {
            index: 0,
            name: name.to_owned(),
            description: String::new(),
            backend: String::new(),
            memory_total: 2,
            memory_free: 1,
            device_type,
        };
        let (cpu, own) = (device("CPU", LlamaBackendDeviceType::Cpu), device("Vulkan1", LlamaBackendDeviceType::Gpu));
        let inside = device("Vulkan0", LlamaBackendDeviceType::IntegratedGpu);
        let names = |devices: &[&LlamaBackendDevice]| {
            used(devices.iter().copied().cloned().collect()).into_iter().map(|gpu| gpu.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[&inside, &own, &cpu]), ["Vulkan1"]);
        assert_eq!(names(&[&inside, &cpu]), ["Vulkan0"]);
        assert!(names(&[&cpu]).is_empty());
    }
}
