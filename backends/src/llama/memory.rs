//! How much memory a model will take, before it takes it: a refusal with arithmetic instead of an out-of-memory kill.

use super::Settings;
use super::model::{LoadError, Model};

/// Compares the key-value cache and the weights with what the machine has free.
pub(crate) fn check(settings: &Settings, model: &Model, context_tokens: u32, slots: u32) -> Result<(), LoadError> {
    let offloaded = llama_offloads() && settings.gpu_layers != Some(0);
    let Some(free) = available_bytes() else { return Ok(()) };
    let per_token = model.kv_bytes_per_token(settings.kv_type);
    match refusal(free, if offloaded { 0 } else { model.bytes() }, per_token, context_tokens, slots) {
        None => Ok(()),
        Some(why) => Err(LoadError::TooLarge(format!("{} does not fit: {why}", model.name()))),
    }
}

/// Weights are mapped and may be in the page cache already, which the kernel counts as available.
fn refusal(free: u64, weights: u64, kv_per_token: u64, context_tokens: u32, slots: u32) -> Option<String> {
    let cache = kv_per_token.saturating_mul(u64::from(context_tokens)).saturating_mul(u64::from(slots));
    // Buffers for one step: some hundred MiB for any model; a twentieth of the rest follows their growth.
    let steps = (64 << 20) + (weights + cache) / 20;
    let need = weights.saturating_add(cache).saturating_add(steps);
    let mib = |bytes: u64| bytes >> 20;
    (need > free).then(|| {
        format!(
            "weights {} MiB + cache {} MiB ({slots} slots x {context_tokens} tokens x {} KiB) + buffers {} MiB = {} MiB, \
             and {} MiB are free; use fewer slots, fewer context_tokens, kv_type = \"q8_0\" or a smaller model",
            mib(weights),
            mib(cache),
            kv_per_token >> 10,
            mib(steps),
            mib(need),
            mib(free)
        )
    })
}

fn llama_offloads() -> bool {
    super::model::backend().is_ok_and(llama_cpp_2::llama_backend::LlamaBackend::supports_gpu_offload)
}

/// `MemAvailable` of Linux, less where a control group allows less; `None` where nobody says.
fn available_bytes() -> Option<u64> {
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

    #[test]
    fn refuses_with_the_sum() {
        let gib = 1 << 30;
        assert_eq!(refusal(16 * gib, 4 * gib, 128 << 10, 4096, 4), None);
        let why = refusal(4 * gib, 4 * gib, 128 << 10, 4096, 4).unwrap();
        assert!(why.contains("weights 4096 MiB + cache 2048 MiB (4 slots x 4096 tokens x 128 KiB)"), "{why}");
        assert!(refusal(gib, 0, u64::MAX, u32::MAX, 64).is_some(), "absurd sizes do not overflow");
    }
}
