//! What a worker is started with.

use std::path::PathBuf;

/// One model and how to run it. `None` is chosen when the model is loaded, and then logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The GGUF file.
    pub model: PathBuf,
    /// Prompt plus answer of one request, in tokens. Unset: the model's own, at most 4,096.
    pub context_tokens: Option<u32>,
    /// Requests decoded at once, 1 to 64; each may fill `context_tokens`. Unset: as memory allows, at most 4.
    pub slots: Option<u32>,
    /// Requests that may wait for a slot; more are refused.
    pub queue: u32,
    /// CPU threads. Unset: the cores less one, at least one: threads that spin on a busy machine ruin the rate.
    pub threads: Option<u32>,
    /// Layers on the GPU. Unset: as many as fit its free memory.
    pub gpu_layers: Option<u32>,
    pub gpu_split: GpuSplit,
    pub kv_type: KvType,
    /// Unset: llama.cpp decides by model and device.
    pub flash_attention: Option<bool>,
    /// Most tokens decoded in one step, 32 or more.
    pub batch_tokens: u32,
    /// Serve embeddings instead of chat.
    pub embeddings: bool,
    /// How the tokens of a text become one vector. Unset: as the model was trained, or their mean.
    pub pooling: Option<Pooling>,
    /// For what a request leaves open.
    pub defaults: spectra_config::Sampling,
}

/// How a model is laid on several GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuSplit {
    #[default]
    Layer,
    Row,
    /// One GPU only.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    Cls,
    Last,
}

/// Number format of the key-value cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    #[default]
    F16,
    /// Half the memory of `F16`; needs flash attention.
    Q8_0,
}

impl KvType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Bytes of one number, times 32 (a block of `Q8_0` is 32 numbers and one scale: 34 bytes).
    #[must_use]
    pub fn bytes_of_32(self) -> u64 {
        match self {
            Self::F16 => 64,
            Self::Q8_0 => 34,
        }
    }
}

impl GpuSplit {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Row => "row",
            Self::None => "none",
        }
    }
}

impl Pooling {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Last => "last",
        }
    }
}

impl Settings {
    /// Automatic values for everything but the model.
    #[must_use]
    pub fn new(model: PathBuf) -> Self {
        Self {
            model,
            context_tokens: None,
            slots: None,
            queue: 256,
            threads: None,
            gpu_layers: None,
            gpu_split: GpuSplit::default(),
            kv_type: KvType::default(),
            flash_attention: None,
            batch_tokens: 512,
            embeddings: false,
            pooling: None,
            defaults: spectra_config::Sampling::default(),
        }
    }

    /// From the operator's words; `model` is the file that their name or path stands for.
    #[must_use]
    pub fn of(model: PathBuf, backend: &spectra_config::Backend, llama: &spectra_config::Llama) -> Self {
        Self {
            context_tokens: backend.context_tokens,
            slots: llama.slots,
            queue: backend.queue,
            threads: llama.threads,
            gpu_layers: llama.gpu_layers,
            gpu_split: match llama.gpu_split {
                spectra_config::GpuSplit::Layer => GpuSplit::Layer,
                spectra_config::GpuSplit::Row => GpuSplit::Row,
                spectra_config::GpuSplit::None => GpuSplit::None,
            },
            kv_type: match llama.kv_type {
                spectra_config::KvType::F16 => KvType::F16,
                spectra_config::KvType::Q8_0 => KvType::Q8_0,
            },
            flash_attention: llama.flash_attention,
            batch_tokens: llama.batch_tokens,
            embeddings: llama.embeddings,
            pooling: llama.pooling.map(|pooling| match pooling {
                spectra_config::Pooling::Mean => Pooling::Mean,
                spectra_config::Pooling::Cls => Pooling::Cls,
                spectra_config::Pooling::Last => Pooling::Last,
            }),
            defaults: llama.defaults,
            ..Self::new(model)
        }
    }

    /// The arguments that make `spectra engine` run with these settings.
    #[must_use]
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["--model".into(), self.model.clone().into()];
        let mut push = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                arguments.push(name.into());
                arguments.push(value.into());
            }
        };
        push("--context-tokens", self.context_tokens.map(|n| n.to_string()));
        push("--slots", self.slots.map(|n| n.to_string()));
        push("--queue", Some(self.queue.to_string()));
        push("--threads", self.threads.map(|n| n.to_string()));
        push("--gpu-layers", self.gpu_layers.map(|n| n.to_string()));
        push("--kv-type", Some(self.kv_type.as_str().into()));
        push("--flash-attention", self.flash_attention.map(|on| on.to_string()));
        push("--batch-tokens", Some(self.batch_tokens.to_string()));
        push("--gpu-split", (self.gpu_split != GpuSplit::default()).then(|| self.gpu_split.as_str().into()));
        push("--pooling", self.pooling.map(|pooling| pooling.as_str().into()));
        push("--temperature", self.defaults.temperature.map(|value| value.to_string()));
        push("--max-tokens", self.defaults.max_tokens.map(|value| value.to_string()));
        if self.embeddings {
            arguments.push("--embeddings".into());
        }
        arguments
    }
}
