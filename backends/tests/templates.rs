//! Other people's programs as oracles of our prompts: Mistral's tokenizer library for tokens, Python's Jinja for templates.

#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test program: its helpers fail loudly")]

#[expect(dead_code, reason = "this test brings a vocabulary and a template of its own")]
mod support;

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use spectra_backends::ChatRequest;
use spectra_backends::llama::{Model, Prompt, Settings};

/// Mistral-7B-Instruct-v0.2's turns, in our own words: tokenizer v1 knows no control tokens but the first and the last.
const V1: &str = "{{ bos_token }}{% for message in messages %}\
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate.') }}{% endif %}\
    {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
    {% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}\
    {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

/// Mistral-7B-Instruct-v0.3's: tools stand before the last user message, and what the system says within it.
const V3: &str = "{% set turns = messages | rejectattr('role', 'equalto', 'system') | list %}\
    {% set users = turns | selectattr('role', 'equalto', 'user') | list %}{{ bos_token }}\
    {% for message in turns %}{% if message['role'] == 'user' %}\
    {% if tools and message == users[-1] %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}\
    {{ '[INST] ' }}{% if messages[0]['role'] == 'system' and loop.last %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}\
    {{ message['content'] + '[/INST]' }}\
    {% elif message['role'] == 'assistant' and message['tool_calls'] %}{{ '[TOOL_CALLS] [' }}\
    {% for call in message['tool_calls'] %}{{ (call['function'] | tojson)[:-1] + ', \"id\": \"' + call['id'] + '\"}' }}\
    {% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}\
    {% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}\
    {% elif message['role'] == 'tool' %}\
    {{ '[TOOL_RESULTS] {\"content\": ' + (message['content'] | tojson) + ', \"call_id\": \"' + message['tool_call_id'] + '\"}[/TOOL_RESULTS]' }}\
    {% endif %}{% endfor %}";

#[derive(Deserialize)]
struct Oracle {
    v1: Told,
    v3: Told,
}

#[derive(Deserialize)]
struct Told {
    vocabulary: Vec<support::Word>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    body: serde_json::Map<String, serde_json::Value>,
    tokens: Vec<i32>,
}

/// What a program of `tests/clients/python` says; `None` where its packages are not installed.
fn said<T: for<'de> Deserialize<'de>>(packages: &str, program: &str, arguments: &[&str]) -> Option<T> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = std::env::var_os("SPECTRA_TEST_PYTHON").map_or_else(|| root.join(".tools/venv/bin/python"), Into::into);
    let installed = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("skipped: no {packages} in {}: run scripts/setup --tests", python.display());
        return None;
    }
    let said = Command::new(&python).arg(root.join("tests/clients/python").join(program)).args(arguments).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Some(serde_json::from_slice(&said.stdout).unwrap())
}

fn check(name: &str, told: &Told, template: &str, space: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mistral.gguf");
    std::fs::write(&path, support::model_bytes(&told.vocabulary, template, space)).unwrap();
    let model = Model::load(&Settings::new(path)).unwrap();
    let prompt = Prompt::of(&model).unwrap();
    for chat in &told.chats {
        let mut body = chat.body.clone();
        body.insert("model".into(), "m".into());
        let body = serde_json::Value::from(body).to_string();
        let request = ChatRequest::parse(body.clone().into()).unwrap_or_else(|error| panic!("{body}: {error}"));
        let text = prompt.render(request.view()).unwrap();
        let ours = model.tokenize(&text);
        let spelt = |tokens: &[i32]| -> Vec<String> {
            tokens.iter().map(|token| told.vocabulary[usize::try_from(*token).unwrap()].0.clone()).collect()
        };
        assert_eq!(spelt(&ours), spelt(&chat.tokens), "{name}: {body}\n{text}");
        assert_eq!(ours, chat.tokens, "{name}: {body}");
    }
    println!("{name}: {} chats, the same tokens", told.chats.len());
}

#[test]
fn mistral_chats_become_the_tokens_that_mistral_common_makes() {
    let Some(oracle) = said::<Oracle>("mistral_common, sentencepiece", "mistral_oracle.py", &[]) else { return };
    check("v1", &oracle.v1, V1, true);
    check("v3", &oracle.v3, V3, false);
}

#[derive(Deserialize)]
struct Rendered {
    name: String,
    template: String,
    body: serde_json::Value,
    /// `None`: the template refuses the chat as it is.
    text: Option<String>,
}

/// Original templates say the same here as in Python. They are other people's and not in this repository: llama.cpp's source
/// has a folder of them (`models/templates`).
#[test]
fn original_templates_say_what_they_say_in_python() {
    let Ok(folder) = std::env::var("SPECTRA_TEST_TEMPLATES") else {
        println!("skipped: SPECTRA_TEST_TEMPLATES names no folder of chat templates");
        return;
    };
    let Some(all) = said::<Vec<Rendered>>("jinja2", "jinja_oracle.py", &[&folder]) else { return };
    let (mut same, mut refused, mut different) = (0, 0, Vec::new());
    for Rendered { name, template, body, text } in &all {
        let Some(text) = text else {
            refused += 1;
            continue;
        };
        let request = ChatRequest::parse(body.to_string().into()).unwrap();
        let prompt = Prompt::compile(template, "<s>", "</s>").unwrap_or_else(|error| panic!("{name}: {error}"));
        let explained = !request.view().tools.is_empty() && !template.contains("tools");
        match prompt.render(request.view()) {
            // Where a template knows no tools, ours are told in words.
            Ok(_) if explained => {}
            Ok(ours) if ours == *text => same += 1,
            Ok(ours) => different.push(format!("{name}: {body}\n--- ours\n{ours}\n--- Python's\n{text}\n")),
            Err(error) => different.push(format!("{name}: {body}: {error}\n")),
        }
    }
    println!("{} chats: {same} the same, {refused} refused by their template, {} different", all.len(), different.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}
