//! How much memory a model will take, before it takes it: a refusal with arithmetic instead of an out-of-memory kill,
//! and as many layers on the GPU as fit it.

use super::file::{Header, LoadError};
use super::{GpuSplit, KvType, Settings};

/// Where the model was trained for more and nobody says how much is wanted.
const USUAL_CONTEXT: u32 = 4096;
/// Longest text that becomes one vector, where nobody says: all of it is one step, and steps cost memory.
const USUAL_EMBEDDED: u32 = 2048;
/// Longest context whatever a file says: llama.cpp works for minutes on larger ones before it fails.
const MOST_CONTEXT: u32 = 4 << 20;
/// Slots where nobody says.
const USUAL_SLOTS: u32 = 4;
/// Kept free on each GPU for its driver and for what one step needs.
const GPU_RESERVE: u64 = 512 << 20;

/// What a model is given, after automatic values were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub context_tokens: u32,
    pub slots: u32,
    /// Of `Header::layers` and the output layer.
    pub gpu_layers: u32,
}

impl Plan {
    /// Chooses what the settings leave open, and refuses what cannot fit. `gpus`: free bytes of each; none: no GPU is used.
    ///
    /// # Errors
    /// `TooLarge` with the sum that shows it.
    pub fn of(settings: &Settings, header: &Header, gpus: &[u64]) -> Result<Self, LoadError> {
        let context_tokens = context_tokens(settings, header);
        let free = available_bytes();
        // llama.cpp takes the first one then.
        let gpus = if settings.gpu_split == GpuSplit::None { &gpus[..gpus.len().min(1)] } else { gpus };
        let plan = |slots| plan(&Need::of(settings, header, context_tokens, slots), settings.gpu_layers, gpus, free);
        let refused = |why| {
            let name = settings.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            LoadError::TooLarge(format!("{name} does not fit: {why}"))
        };
        let slots = match settings.slots {
            Some(slots) => slots.clamp(1, 64),
            None => (1..=USUAL_SLOTS).rev().find(|slots| plan(*slots).is_ok()).unwrap_or(1),
        };
        let gpu_layers = plan(slots).map_err(refused)?;
        Ok(Self { context_tokens, slots, gpu_layers })
    }
}

/// Prompt and answer of one request: what is asked for, within what the model was trained for.
fn context_tokens(settings: &Settings, header: &Header) -> u32 {
    let trained = if header.context == 0 { MOST_CONTEXT } else { header.context.min(MOST_CONTEXT) };
    let usual = if settings.embeddings { USUAL_EMBEDDED } else { USUAL_CONTEXT };
    settings.context_tokens.unwrap_or(usual).clamp(1, trained).max(trained.min(256))
}

/// Bytes a model needs, and of what they are the sum.
#[derive(Clone, Copy, Debug)]
struct Need {
    weights: u64,
    layers: u32,
    kv_per_token: u64,
    context_tokens: u32,
    slots: u32,
}

impl Need {
    fn of(settings: &Settings, header: &Header, context_tokens: u32, slots: u32) -> Self {
        // Embeddings keep nothing between steps, and a step is one context.
        let slots = if settings.embeddings { 1 } else { slots };
        let kv = if settings.embeddings { KvType::F16 } else { settings.kv_type };
        Self { weights: header.bytes, layers: header.layers, kv_per_token: header.kv_bytes_per_token(kv), context_tokens, slots }
    }

    fn cache(&self) -> u64 {
        self.kv_per_token.saturating_mul(u64::from(self.context_tokens)).saturating_mul(u64::from(self.slots))
    }

    /// Buffers for one step: some hundred MiB for any model; a twentieth of the rest follows their growth.
    fn steps(&self) -> u64 {
        (64 << 20) + self.weights.saturating_add(self.cache()) / 20
    }

    /// Layers llama.cpp counts: the model's, and the output.
    fn parts(&self) -> u32 {
        self.layers + 1
    }

    /// Weights and cache of one layer; the output layer is taken for one like the others.
    fn layer(&self) -> u64 {
        (self.weights.saturating_add(self.cache())) / u64::from(self.parts())
    }
}

/// Layers to put on the GPU, or why there is no room for the model.
fn plan(need: &Need, asked: Option<u32>, gpus: &[u64], free: Option<u64>) -> Result<u32, String> {
    let room: u64 = gpus.iter().map(|free| free.saturating_sub(GPU_RESERVE)).sum();
    let fit = layers_that_fit(need, room);
    let offloaded = match asked {
        _ if gpus.is_empty() => 0,
        None => fit,
        Some(asked) if asked.min(need.parts()) > fit => return Err(too_many_layers(need, asked.min(need.parts()), fit, gpus)),
        Some(asked) => asked.min(need.parts()),
    };
    match free {
        Some(free) => refusal(need, offloaded, free).map_or(Ok(offloaded), Err),
        None => Ok(offloaded),
    }
}

fn layers_that_fit(need: &Need, room: u64) -> u32 {
    let fit = room.checked_div(need.layer()).unwrap_or(u64::from(need.parts()));
    u32::try_from(fit).unwrap_or(u32::MAX).min(need.parts())
}

fn too_many_layers(need: &Need, asked: u32, fit: u32, gpus: &[u64]) -> String {
    format!(
        "gpu_layers = {asked} x {} MiB (weights {} MiB + cache {} MiB over {} layers) is more than the {} MiB free on {} GPU(s) \
         less {} MiB each for steps; {fit} fit, or leave gpu_layers out",
        mib(need.layer()),
        mib(need.weights),
        mib(need.cache()),
        need.parts(),
        mib(gpus.iter().sum()),
        gpus.len(),
        mib(GPU_RESERVE)
    )
}

/// What is left for the machine's own memory. Weights are mapped and may be in the page cache already, which the kernel
/// counts as available.
fn refusal(need: &Need, offloaded: u32, free: u64) -> Option<String> {
    let here = |bytes: u64| bytes / u64::from(need.parts()) * u64::from(need.parts() - offloaded.min(need.parts()));
    let (weights, cache) = if offloaded == 0 { (need.weights, need.cache()) } else { (here(need.weights), here(need.cache())) };
    let sum = weights.saturating_add(cache).saturating_add(need.steps());
    (sum > free).then(|| {
        let on_gpu = if offloaded == 0 { String::new() } else { format!(" beside {offloaded} of {} layers on the GPU", need.parts()) };
        format!(
            "weights {} MiB + cache {} MiB ({} slots x {} tokens x {} KiB){on_gpu} + buffers {} MiB = {} MiB, and {} MiB are free; \
             use fewer slots, fewer context_tokens, kv_type = \"q8_0\" or a smaller model",
            mib(weights),
            mib(cache),
            need.slots,
            need.context_tokens,
            need.kv_per_token >> 10,
            mib(need.steps()),
            mib(sum),
            mib(free)
        )
    })
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// `MemAvailable` of Linux, less where a control group allows less; `None` where nobody says.
pub(super) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let number = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let group = number("memory.max").zip(number("memory.current")).map(|(most, used)| most.saturating_sub(used));
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Mistral 7B in 4 bits, as its file says.
    fn mistral() -> Header {
        Header { bytes: 4 * GIB, context: 32_768, layers: 32, kv_numbers: 32 * 8 * 256, pooling: None }
    }

    fn need(slots: u32) -> Need {
        Need::of(&Settings::new("m.gguf".into()), &mistral(), 4096, slots)
    }

    #[test]
    fn refuses_with_the_sum() {
        assert_eq!(plan(&need(4), None, &[], Some(16 * GIB)), Ok(0));
        let why = plan(&need(4), None, &[], Some(4 * GIB)).unwrap_err();
        assert!(why.contains("weights 4096 MiB + cache 2048 MiB (4 slots x 4096 tokens x 128 KiB) + buffers 371 MiB = 6515 MiB"), "{why}");
        let absurd = Need { weights: u64::MAX, layers: u32::MAX - 1, kv_per_token: u64::MAX, context_tokens: u32::MAX, slots: 64 };
        assert!(plan(&absurd, Some(u32::MAX), &[u64::MAX], Some(GIB)).is_err(), "absurd sizes do not overflow");
    }

    /// Free memory of the GPUs and of the machine, layers asked for, layers given (32 and the output make 33).
    #[test]
    fn as_many_layers_as_fit_the_gpus() {
        for (gpus, machine, asked, expected) in [
            (&[24 * GIB][..], 16, None, Ok(33)),
            (&[24 * GIB], 16, Some(999), Ok(33)),
            (&[24 * GIB], 16, Some(20), Ok(20)),
            // 6 GiB over 33 layers are 186 MiB each.
            (&[4 * GIB], 16, None, Ok(19)),
            (&[4 * GIB], 16, Some(19), Ok(19)),
            (&[4 * GIB], 16, Some(33), Err("19 fit")),
            (&[4 * GIB, 4 * GIB], 16, None, Ok(33)),
            (&[GIB / 4], 16, None, Ok(0)),
            (&[4 * GIB], 1, None, Err("beside 19 of 33 layers on the GPU")),
            // All of it on the GPU: the machine needs room for steps only.
            (&[24 * GIB], 1, None, Ok(33)),
            (&[], 16, Some(33), Ok(0)),
        ] {
            let got = plan(&need(4), asked, gpus, Some(machine * GIB));
            match (&got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(*got, expected, "{gpus:?} {asked:?}"),
                (Err(why), Err(words)) => assert!(why.contains(words), "{why}"),
                _ => panic!("{gpus:?} {asked:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn an_undivided_model_has_one_gpu() {
        let small = Header { bytes: 600 << 20, context: 512, layers: 5, kv_numbers: 5 * 256, pooling: None };
        for (gpu_split, gpus, layers) in
            [(GpuSplit::Layer, &[GIB, GIB][..], 6), (GpuSplit::None, &[GIB, GIB], 5), (GpuSplit::None, &[GIB], 5), (GpuSplit::None, &[], 0)]
        {
            let settings = Settings { gpu_split, ..Settings::new("m.gguf".into()) };
            assert_eq!(Plan::of(&settings, &small, gpus).unwrap().gpu_layers, layers, "{gpu_split:?} {gpus:?}");
        }
    }

    #[test]
    fn contexts_stay_within_what_a_model_was_trained_for() {
        let check = |asked, embeddings, trained, expected| {
            let settings = Settings { context_tokens: asked, embeddings, ..Settings::new("m.gguf".into()) };
            let header = Header { context: trained, ..mistral() };
            assert_eq!(context_tokens(&settings, &header), expected, "{asked:?} of {trained}");
        };
        check(None, false, 32_768, 4096);
        check(None, false, 2048, 2048);
        check(Some(8192), false, 32_768, 8192);
        check(Some(u32::MAX), false, 32_768, 32_768);
        check(Some(0), false, 32_768, 256);
        check(None, true, 512, 512);
        check(None, true, 32_768, 2048);
        check(None, false, 0, 4096);
        check(Some(u32::MAX), false, u32::MAX, MOST_CONTEXT);
    }
}
