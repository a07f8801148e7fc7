//! `/v1/messages`, Anthropic's form, as its SDKs and the agents built on them speak it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};
use spectra_backends::chat::BadRequest;
use spectra_backends::chunk::{Finish, ToolDelta, Usage};
use spectra_backends::{ChatRequest, Chunk};

use super::{carry, chat_request, field, missing, named, object, refuse, wrong};
use crate::Failure;
use crate::record::Entrance;
use crate::respond::{Dialect, Manner};

pub(super) fn understand(raw: &[u8]) -> Result<(ChatRequest, Box<dyn Dialect>), BadRequest> {
    let mut body = object(raw)?;
    refuse(&body, "thinking", |value| value["type"] == "disabled")?;
    refuse(&body, "mcp_servers", |value| *value == json!([]))?;
    refuse(&body, "container", |_| false)?;
    let mut chat = Map::new();
    carry(&mut body, &mut chat, &["model", "max_tokens", "temperature", "top_p", "top_k", "stream"]);
    if !chat.contains_key("max_tokens") {
        return Err(missing("max_tokens"));
    }
    if let Some(stop) = body.remove("stop_sequences").filter(|stop| !stop.is_null()) {
        chat.insert("stop".into(), stop);
    }
    let mut messages = Vec::new();
    match body.remove("system") {
        None | Some(Value::Null) => {}
        Some(system) => messages
            .push(json!({ "role": "system", "content": text_of(&system).ok_or_else(|| wrong("system", "a string or text blocks"))? })),
    }
    let given = body.remove("messages").ok_or_else(|| missing("messages"))?;
    let given = given.as_array().ok_or_else(|| wrong("messages", "an array of objects"))?;
    for (at, message) in given.iter().enumerate() {
        translate(at, message, &mut messages)?;
    }
    chat.insert("messages".into(), Value::Array(messages));
    tools(&mut body, &mut chat)?;
    if let Some(user) = body.get("metadata").and_then(|metadata| metadata["user_id"].as_str()) {
        chat.insert("user".into(), user.into());
    }
    Ok((chat_request(chat)?, Box::new(Messages::default())))
}

/// The text of a string or of an array of text blocks.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(blocks) => {
            let texts: Option<Vec<&str>> =
                blocks.iter().map(|block| if block["type"] == "text" { block["text"].as_str() } else { None }).collect();
            Some(texts?.join("\n"))
        }
        _ => None,
    }
}

/// One message of theirs is one or more of ours: tool results are messages of their own.
fn translate(at: usize, message: &Value, out: &mut Vec<Value>) -> Result<(), BadRequest> {
    let path = format!("messages[{at}]");
    let role = message["role"].as_str().filter(|role| matches!(*role, "user" | "assistant" | "system"));
    let role = role.ok_or_else(|| wrong(&format!("{path}.role"), "'user' or 'assistant'"))?;
    let blocks = match &message["content"] {
        Value::String(text) => {
            out.push(json!({ "role": role, "content": text }));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        _ => return Err(wrong(&format!("{path}.content"), "a string or an array of blocks")),
    };
    let (mut parts, mut calls) = (Vec::new(), Vec::new());
    for (index, block) in blocks.iter().enumerate() {
        match block["type"].as_str().unwrap_or_default() {
            "text" => parts.push(json!({ "type": "text", "text": block["text"] })),
            "image" => parts.push(json!({ "type": "image_url", "image_url": { "url": image(&block["source"]) } })),
            "tool_use" => calls.push(json!({
                "id": block["id"], "type": "function",
                "function": { "name": block["name"], "arguments": block["input"].to_string() },
            })),
            "tool_result" => {
                let content = text_of(&block["content"])
                    .unwrap_or_else(|| if block["content"].is_null() { String::new() } else { block["content"].to_string() });
                out.push(json!({ "role": "tool", "tool_call_id": block["tool_use_id"], "content": content }));
            }
            // Another provider's thinking is of no use to a model, and may be encrypted.
            "thinking" | "redacted_thinking" => {}
            other => {
                let param = format!("{path}.content[{index}].type");
                return Err(BadRequest::new(
                    "unsupported_parameter",
                    param,
                    format!("Blocks of type '{other}' are not supported by this gateway."),
                ));
            }
        }
    }
    if parts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let mut ours = json!({ "role": role });
    ours["content"] = if parts.is_empty() { Value::Null } else { Value::Array(parts) };
    if !calls.is_empty() {
        ours["tool_calls"] = Value::Array(calls);
    }
    out.push(ours);
    Ok(())
}

fn image(source: &Value) -> String {
    match source["url"].as_str() {
        Some(url) => url.to_owned(),
        None => {
            format!("data:{};base64,{}", source["media_type"].as_str().unwrap_or("image/png"), source["data"].as_str().unwrap_or_default())
        }
    }
}

fn tools(body: &mut Map<String, Value>, chat: &mut Map<String, Value>) -> Result<(), BadRequest> {
    let Some(tools) = body.remove("tools").filter(|tools| !tools.is_null()) else { return Ok(()) };
    let tools = tools.as_array().ok_or_else(|| wrong("tools", "an array of objects"))?;
    let mut ours = Vec::new();
    for (at, tool) in tools.iter().enumerate() {
        if tool["type"].as_str().is_some_and(|kind| kind != "custom") {
            let message = "Tools that run at the provider are not supported by this gateway.";
            return Err(BadRequest::new("unsupported_parameter", format!("tools[{at}].type"), message));
        }
        let mut function = json!({ "name": tool["name"], "parameters": tool["input_schema"] });
        if let Some(description) = tool["description"].as_str() {
            function["description"] = description.into();
        }
        ours.push(json!({ "type": "function", "function": function }));
    }
    chat.insert("tools".into(), Value::Array(ours));
    let choice = body.remove("tool_choice").unwrap_or_default();
    let wanted = match choice["type"].as_str() {
        Some("auto") => Some(json!("auto")),
        Some("any") => Some(json!("required")),
        Some("none") => Some(json!("none")),
        Some("tool") => Some(json!({ "type": "function", "function": { "name": choice["name"] } })),
        _ => None,
    };
    if let Some(wanted) = wanted {
        chat.insert("tool_choice".into(), wanted);
    }
    if choice["disable_parallel_tool_use"] == true {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}

/// An error as Anthropic's clients read it.
pub(crate) fn failure(failure: &Failure) -> String {
    let kind = match failure.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": failure.message } }).to_string()
}

/// What of the answer has been told so far.
#[derive(Default)]
struct Messages {
    started: bool,
    /// Index of the block that is open, and the tool call it belongs to (`None`: text).
    open: Option<(usize, Option<u32>)>,
    /// Calls whose pieces came while another one's block was open: blocks follow each other, so they wait for the end.
    waiting: BTreeMap<u32, ToolDelta>,
    blocks: usize,
    finish: Option<Finish>,
    usage: Usage,
}

impl Dialect for Messages {
    fn whole(&mut self, chunk: Chunk) -> Bytes {
        let choice = chunk.view.choices.first().cloned().unwrap_or_default();
        let mut content = Vec::new();
        if let Some(text) = choice.content.or(choice.refusal).filter(|text| !text.is_empty()) {
            content.push(json!({ "type": "text", "text": text }));
        }
        for call in choice.tool_calls {
            let input: Value =
                call.arguments.as_deref().and_then(|arguments| serde_json::from_str(arguments).ok()).unwrap_or_else(|| json!({}));
            content.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
        }
        let mut message = head(&chunk);
        message["content"] = Value::Array(content);
        message["stop_reason"] = stop_reason(choice.finish.as_ref()).into();
        message["usage"] = used(chunk.view.usage.unwrap_or_default());
        message.to_string().into()
    }

    fn chunk(&mut self, chunk: &Chunk, _: &Manner, out: &mut BytesMut) {
        self.usage = chunk.view.usage.unwrap_or(self.usage);
        // Azure begins with a chunk of its own, which has neither choice nor id.
        if chunk.view.choices.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.started, true) {
            let mut message = head(chunk);
            message["usage"] = used(Usage::default());
            named("message_start", &json!({ "type": "message_start", "message": message }), out);
        }
        for choice in chunk.view.choices.iter().filter(|choice| choice.index == 0) {
            if let Some(text) = choice.content.as_deref().or(choice.refusal.as_deref()).filter(|text| !text.is_empty()) {
                let index = self.block(None, || json!({ "type": "text", "text": "" }), out);
                delta(index, json!({ "type": "text_delta", "text": text }), out);
            }
            for call in &choice.tool_calls {
                match self.open {
                    Some((_, Some(open))) if open != call.index => self.wait(call),
                    _ if self.waiting.contains_key(&call.index) => self.wait(call),
                    _ => self.call(call, out),
                }
            }
            self.finish = choice.finish.clone().or(self.finish.take());
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        for call in std::mem::take(&mut self.waiting).into_values() {
            self.call(&call, out);
        }
        self.close(out);
        let ending = json!({
            "type": "message_delta",
            "delta": { "stop_reason": stop_reason(self.finish.as_ref()), "stop_sequence": null },
            "usage": used(self.usage),
        });
        named("message_delta", &ending, out);
        named("message_stop", &json!({ "type": "message_stop" }), out);
    }

    fn broken(&mut self, told: &Failure, out: &mut BytesMut) {
        out.extend_from_slice(b"event: error\n");
        super::event(failure(told).as_bytes(), out);
    }

    fn entrance(&self) -> Entrance {
        Entrance::Messages
    }
}

impl Messages {
    /// A piece of the call whose block is open, or is opened by it.
    fn call(&mut self, call: &ToolDelta, out: &mut BytesMut) {
        let index = self.block(Some(call.index), || json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": {} }), out);
        if let Some(arguments) = call.arguments.as_deref().filter(|arguments| !arguments.is_empty()) {
            delta(index, json!({ "type": "input_json_delta", "partial_json": arguments }), out);
        }
    }

    fn wait(&mut self, piece: &ToolDelta) {
        let call = self.waiting.entry(piece.index).or_insert_with(|| ToolDelta { index: piece.index, ..ToolDelta::default() });
        call.id = call.id.take().or_else(|| piece.id.clone());
        call.name = call.name.take().or_else(|| piece.name.clone());
        call.arguments.get_or_insert_default().push_str(piece.arguments.as_deref().unwrap_or_default());
    }

    /// The index of the open block of this kind; opens one if another is open.
    fn block(&mut self, call: Option<u32>, start: impl Fn() -> Value, out: &mut BytesMut) -> usize {
        if let Some((index, open)) = self.open
            && open == call
        {
            return index;
        }
        self.close(out);
        let index = self.blocks;
        self.blocks += 1;
        self.open = Some((index, call));
        named("content_block_start", &json!({ "type": "content_block_start", "index": index, "content_block": start() }), out);
        index
    }

    fn close(&mut self, out: &mut BytesMut) {
        if let Some((index, _)) = self.open.take() {
            named("content_block_stop", &json!({ "type": "content_block_stop", "index": index }), out);
        }
    }
}

fn delta(index: usize, delta: Value, out: &mut BytesMut) {
    named("content_block_delta", &json!({ "type": "content_block_delta", "index": index, "delta": delta }), out);
}

fn head(chunk: &Chunk) -> Value {
    let id = field(&chunk.data, "id");
    let id = id.as_str().map_or_else(String::new, |id| format!("msg_{}", id.strip_prefix("chatcmpl-").unwrap_or(id)));
    json!({
        "id": id, "type": "message", "role": "assistant", "model": field(&chunk.data, "model"),
        "content": [], "stop_reason": null, "stop_sequence": null,
    })
}

fn stop_reason(finish: Option<&Finish>) -> &'static str {
    match finish {
        Some(Finish::Length) => "max_tokens",
        Some(Finish::ToolCalls | Finish::FunctionCall) => "tool_use",
        Some(Finish::ContentFilter) => "refusal",
        _ => "end_turn",
    }
}

fn used(usage: Usage) -> Value {
    json!({ "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens), "cache_read_input_tokens": usage.cached_tokens, "output_tokens": usage.completion_tokens })
}
