//! A GGUF of Llama's architecture with random weights, made in milliseconds: it says nothing sensible, and tests of batching,
//! templates, limits, supervision and damage need no more.

use std::path::{Path, PathBuf};

const LAYERS: u32 = 2;
const WIDTH: u32 = 64;
const FEED: u32 = 96;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
/// Tokens the model was trained to hold, as its file says.
pub const CONTEXT: u32 = 2048;

/// Turns, tools and calls as Mistral-7B-Instruct-v0.3's template writes them.
const TEMPLATE: &str = "{{ bos_token }}{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}\
    {% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }}[/INST]\
    {% elif message['role'] == 'assistant' and message['tool_calls'] %}[TOOL_CALLS] [{% for call in message['tool_calls'] %}\
    {{ call['function'] | tojson }}{% endfor %}]{{ eos_token }}\
    {% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}\
    {% elif message['role'] == 'tool' %}[TOOL_RESULTS] {{ message['content'] }}[/TOOL_RESULTS]\
    {% else %}{{ raise_exception('Only user, assistant and tool roles are supported!') }}{% endif %}{% endfor %}";

const CONTROLS: [&str; 10] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
];

/// Writes the model into `folder`.
pub fn tiny_model(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    std::fs::write(&path, tiny_bytes()).unwrap();
    path
}

/// The file's bytes; the same every time.
pub fn tiny_bytes() -> Vec<u8> {
    model_bytes(&vocabulary(), TEMPLATE, false)
}

/// A word of a vocabulary: its text, its score, and its kind as GGUF numbers them.
pub type Word = (String, f32, u32);

/// The same network over another vocabulary. `space`: a space goes before every text, as Mistral's first tokenizer wants it.
pub fn model_bytes(tokens: &[Word], template: &str, space: bool) -> Vec<u8> {
    let tensors = tensors(u32::try_from(tokens.len()).unwrap());
    let mut out = Writer(b"GGUF".to_vec());
    out.u32(3);
    out.u64(tensors.len() as u64);
    let facts = facts(tokens, template, space);
    out.u64(facts.len() as u64);
    for fact in facts {
        out.0.extend(fact.0);
    }
    let mut offset = 0;
    for (name, dims) in &tensors {
        out.text(name);
        out.u32(u32::try_from(dims.len()).unwrap());
        dims.iter().for_each(|dim| out.u64(u64::from(*dim)));
        out.u32(0); // F32
        out.u64(offset);
        offset += dims.iter().map(|dim| u64::from(*dim)).product::<u64>() * 4;
    }
    out.0.resize(out.0.len().next_multiple_of(32), 0);
    let mut random = 42_u64;
    for (name, dims) in &tensors {
        let count: u32 = dims.iter().product();
        // Norms are ones; the rest is spread so that tokens differ clearly and greedy choices are no coin tosses.
        let (is_norm, spread) = (name.contains("norm"), if name == "output.weight" { 1.0 } else { 0.25 });
        for _ in 0..count {
            let value = if is_norm { 1.0 } else { unit(&mut random) * spread };
            out.0.extend_from_slice(&value.to_le_bytes());
        }
    }
    out.0
}

/// In [-1, 1).
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    f32::from(u16::try_from(*state >> 48).unwrap()) / 32_768.0 - 1.0
}

/// Text and type of each token: controls, all bytes, printable characters, and some words.
fn vocabulary() -> Vec<Word> {
    let controls = CONTROLS.iter().enumerate().map(|(at, name)| ((*name).to_owned(), if at == 0 { 2 } else { 3 }));
    let bytes = (0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6));
    let letters = (' '..='~').map(|letter| (letter.to_string().replace(' ', "\u{2581}"), 1));
    let words = ["he", "ll", "hell", "\u{2581}w", "\u{2581}wo", "rl", "\": ", "{\"", "\"}"].map(|word| (word.replace(' ', "\u{2581}"), 1));
    let scored = |(text, kind): (String, u32)| (text.len() as f32, text, kind);
    controls.chain(bytes).chain(letters).chain(words).map(scored).map(|(score, text, kind)| (text, score, kind)).collect()
}

fn tensors(vocabulary: u32) -> Vec<(String, Vec<u32>)> {
    let kv = WIDTH / HEADS * KV_HEADS;
    let mut all = vec![("token_embd.weight".to_owned(), vec![WIDTH, vocabulary])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, dims: &[u32]| all.push((format!("blk.{layer}.{name}.weight"), dims.to_vec()));
        add("attn_norm", &[WIDTH]);
        add("attn_q", &[WIDTH, WIDTH]);
        add("attn_k", &[WIDTH, kv]);
        add("attn_v", &[WIDTH, kv]);
        add("attn_output", &[WIDTH, WIDTH]);
        add("ffn_norm", &[WIDTH]);
        add("ffn_gate", &[WIDTH, FEED]);
        add("ffn_up", &[WIDTH, FEED]);
        add("ffn_down", &[FEED, WIDTH]);
    }
    all.push(("output_norm.weight".to_owned(), vec![WIDTH]));
    all.push(("output.weight".to_owned(), vec![WIDTH, vocabulary]));
    all
}

fn facts(tokens: &[Word], template: &str, space: bool) -> Vec<Writer> {
    let count = |name: &str, value: u32| Writer::fact(name, 4, |out| out.u32(value));
    let text = |name: &str, value: &str| Writer::fact(name, 8, |out| out.text(value));
    vec![
        text("general.architecture", "llama"),
        text("general.name", "tiny random"),
        count("llama.context_length", CONTEXT),
        count("llama.embedding_length", WIDTH),
        count("llama.block_count", LAYERS),
        count("llama.feed_forward_length", FEED),
        count("llama.attention.head_count", HEADS),
        count("llama.attention.head_count_kv", KV_HEADS),
        count("llama.rope.dimension_count", WIDTH / HEADS),
        Writer::fact("llama.attention.layer_norm_rms_epsilon", 6, |out| out.0.extend(1e-5_f32.to_le_bytes())),
        text("tokenizer.ggml.model", "llama"),
        Writer::fact("tokenizer.ggml.tokens", 9, |out| {
            out.list(8, tokens.len());
            tokens.iter().for_each(|(text, _, _)| out.text(text));
        }),
        Writer::fact("tokenizer.ggml.scores", 9, |out| {
            out.list(6, tokens.len());
            tokens.iter().for_each(|(_, score, _)| out.0.extend(score.to_le_bytes()));
        }),
        Writer::fact("tokenizer.ggml.token_type", 9, |out| {
            out.list(5, tokens.len());
            tokens.iter().for_each(|(_, _, kind)| out.u32(*kind));
        }),
        count("tokenizer.ggml.bos_token_id", 1),
        count("tokenizer.ggml.eos_token_id", 2),
        Writer::fact("tokenizer.ggml.add_bos_token", 7, |out| out.0.push(1)),
        Writer::fact("tokenizer.ggml.add_space_prefix", 7, |out| out.0.push(u8::from(space))),
        text("tokenizer.chat_template", template),
    ]
}

/// Little-endian, as GGUF is.
struct Writer(Vec<u8>);

impl Writer {
    fn fact(name: &str, kind: u32, value: impl FnOnce(&mut Self)) -> Self {
        let mut out = Self(Vec::new());
        out.text(name);
        out.u32(kind);
        value(&mut out);
        out
    }

    fn list(&mut self, kind: u32, length: usize) {
        self.u32(kind);
        self.u64(length as u64);
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }
}
