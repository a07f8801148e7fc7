//! `/v1/responses`: OpenAI's newer form. Stateless here: nothing is stored, so nothing can be referred to.

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value, json};
use spectra_backends::chat::BadRequest;
use spectra_backends::chunk::{Finish, Usage};
use spectra_backends::{ChatRequest, Chunk};

use super::{carry, chat_request, field, missing, named, object, refuse, wrong};
use crate::Failure;
use crate::record::Entrance;
use crate::respond::{Dialect, Manner};

pub(super) fn understand(raw: &[u8]) -> Result<(ChatRequest, Box<dyn Dialect>), BadRequest> {
    let mut body = object(raw)?;
    refuse(&body, "previous_response_id", |_| false)?;
    refuse(&body, "conversation", |_| false)?;
    refuse(&body, "prompt", |_| false)?;
    refuse(&body, "background", |value| *value == false)?;
    // What the response repeats of its request.
    let mut echo = Map::new();
    for (name, otherwise) in [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("temperature", json!(1.0)),
        ("text", json!({ "format": { "type": "text" } })),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", json!(1.0)),
        ("reasoning", json!({ "effort": null, "summary": null })),
        ("truncation", json!("disabled")),
    ] {
        echo.insert(name.into(), body.get(name).filter(|value| !value.is_null()).cloned().unwrap_or(otherwise));
    }
    let mut chat = Map::new();
    carry(
        &mut body,
        &mut chat,
        &["model", "temperature", "top_p", "stream", "parallel_tool_calls", "metadata", "user", "service_tier", "seed"],
    );
    if let Some(most) = body.remove("max_output_tokens").filter(|most| !most.is_null()) {
        chat.insert("max_completion_tokens".into(), most);
    }
    if let Some(effort) = body.get("reasoning").map(|reasoning| reasoning["effort"].clone()).filter(|effort| !effort.is_null()) {
        chat.insert("reasoning_effort".into(), effort);
    }
    format(&body, &mut chat)?;
    tools(&body, &mut chat)?;
    let mut messages = Vec::new();
    if let Some(instructions) = body.get("instructions").and_then(Value::as_str) {
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    match body.remove("input") {
        Some(Value::String(text)) => messages.push(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                translate(at, item, &mut messages)?;
            }
        }
        None | Some(Value::Null) => return Err(missing("input")),
        Some(_) => return Err(wrong("input", "a string or an array of items")),
    }
    chat.insert("messages".into(), Value::Array(messages));
    Ok((chat_request(chat)?, Box::new(Responses { echo, ..Responses::default() })))
}

/// `text.format` is `response_format` with one level less.
fn format(body: &Map<String, Value>, chat: &mut Map<String, Value>) -> Result<(), BadRequest> {
    let Some(format) = body.get("text").map(|text| &text["format"]).filter(|format| !format.is_null()) else { return Ok(()) };
    let ours = match format["type"].as_str() {
        Some("text") => return Ok(()),
        Some("json_object") => json!({ "type": "json_object" }),
        Some("json_schema") => {
            let mut schema = format.as_object().cloned().unwrap_or_default();
            schema.remove("type");
            json!({ "type": "json_schema", "json_schema": schema })
        }
        _ => return Err(wrong("text.format.type", "'text', 'json_object' or 'json_schema'")),
    };
    chat.insert("response_format".into(), ours);
    Ok(())
}

fn tools(body: &Map<String, Value>, chat: &mut Map<String, Value>) -> Result<(), BadRequest> {
    let Some(tools) = body.get("tools").and_then(Value::as_array).filter(|tools| !tools.is_empty()) else { return Ok(()) };
    let mut ours = Vec::new();
    for (at, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" {
            let message = "Tools that run at the provider are not supported by this gateway.";
            return Err(BadRequest::new("unsupported_parameter", format!("tools[{at}].type"), message));
        }
        let mut function = tool.as_object().cloned().unwrap_or_default();
        function.remove("type");
        ours.push(json!({ "type": "function", "function": function }));
    }
    chat.insert("tools".into(), Value::Array(ours));
    match body.get("tool_choice") {
        Some(Value::String(word)) => drop(chat.insert("tool_choice".into(), word.clone().into())),
        Some(choice) if choice["type"] == "function" => {
            chat.insert("tool_choice".into(), json!({ "type": "function", "function": { "name": choice["name"] } }));
        }
        _ => {}
    }
    Ok(())
}

/// One item of the input; a call joins the assistant's message before it.
fn translate(at: usize, item: &Value, out: &mut Vec<Value>) -> Result<(), BadRequest> {
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let content = match &item["content"] {
                Value::Array(parts) => Value::Array(parts.iter().map(part).collect()),
                other => other.clone(),
            };
            out.push(json!({ "role": item["role"], "content": content }));
        }
        "function_call" => {
            let call =
                json!({ "id": item["call_id"], "type": "function", "function": { "name": item["name"], "arguments": item["arguments"] } });
            match out.last_mut().filter(|last| last["role"] == "assistant").and_then(Value::as_object_mut) {
                Some(last) => {
                    if let Some(calls) = last.entry("tool_calls").or_insert_with(|| json!([])).as_array_mut() {
                        calls.push(call);
                    }
                }
                None => out.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] })),
            }
        }
        "function_call_output" => {
            let output = item["output"].as_str().map_or_else(|| item["output"].to_string(), str::to_owned);
            out.push(json!({ "role": "tool", "tool_call_id": item["call_id"], "content": output }));
        }
        // Another provider's thinking is of no use to a model, and may be encrypted.
        "reasoning" => {}
        other => {
            let message = format!("Items of type '{other}' are not supported by this gateway.");
            return Err(BadRequest::new("unsupported_parameter", format!("input[{at}].type"), message));
        }
    }
    Ok(())
}

fn part(part: &Value) -> Value {
    match part["type"].as_str() {
        Some("input_text" | "output_text" | "text") => json!({ "type": "text", "text": part["text"] }),
        Some("input_image") => {
            json!({ "type": "image_url", "image_url": { "url": part["image_url"], "detail": part["detail"].as_str().unwrap_or("auto") } })
        }
        Some("refusal") => json!({ "type": "text", "text": part["refusal"] }),
        _ => part.clone(),
    }
}

/// What of the answer has been told so far.
#[derive(Default)]
struct Responses {
    echo: Map<String, Value>,
    sequence: u64,
    head: Value,
    /// Finished and open items, in their order.
    items: Vec<Item>,
    finish: Option<Finish>,
    usage: Option<Usage>,
}

/// A message or a function call.
#[derive(Default)]
struct Item {
    /// Index of the tool call; `None`: the message.
    call: Option<u32>,
    call_id: String,
    name: String,
    text: String,
    done: bool,
}

impl Dialect for Responses {
    fn whole(&mut self, chunk: Chunk) -> Bytes {
        self.begin(&chunk);
        let choice = chunk.view.choices.into_iter().next().unwrap_or_default();
        if let Some(text) = choice.content.or(choice.refusal).filter(|text| !text.is_empty()) {
            self.items.push(Item { text, done: true, ..Item::default() });
        }
        for call in choice.tool_calls {
            let (call_id, name) = (call.id.unwrap_or_default(), call.name.unwrap_or_default());
            self.items.push(Item { call: Some(call.index), call_id, name, text: call.arguments.unwrap_or_default(), done: true });
        }
        (self.finish, self.usage) = (choice.finish, chunk.view.usage);
        self.response(self.status()).to_string().into()
    }

    fn chunk(&mut self, chunk: &Chunk, _: &Manner, out: &mut BytesMut) {
        self.usage = chunk.view.usage.or(self.usage);
        // Azure begins with a chunk of its own, which has neither choice nor id.
        if chunk.view.choices.is_empty() {
            return;
        }
        if self.head.is_null() {
            self.begin(chunk);
            for name in ["response.created", "response.in_progress"] {
                let response = self.response("in_progress");
                self.tell(name, json!({ "response": response }), out);
            }
        }
        for choice in chunk.view.choices.iter().filter(|choice| choice.index == 0) {
            if let Some(text) = choice.content.as_deref().or(choice.refusal.as_deref()).filter(|text| !text.is_empty()) {
                let at = self.open(None, "", "", out);
                self.items[at].text.push_str(text);
                let data = json!({ "item_id": self.id(at), "output_index": at, "content_index": 0, "delta": text, "logprobs": [] });
                self.tell("response.output_text.delta", data, out);
            }
            for call in &choice.tool_calls {
                let at = self.open(Some(call.index), call.id.as_deref().unwrap_or_default(), call.name.as_deref().unwrap_or_default(), out);
                if let Some(arguments) = call.arguments.as_deref().filter(|arguments| !arguments.is_empty()) {
                    self.items[at].text.push_str(arguments);
                    let data = json!({ "item_id": self.id(at), "output_index": at, "delta": arguments });
                    self.tell("response.function_call_arguments.delta", data, out);
                }
            }
            self.finish = choice.finish.clone().or(self.finish.take());
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.close(out);
        let status = self.status();
        let response = self.response(status);
        self.tell(if status == "completed" { "response.completed" } else { "response.incomplete" }, json!({ "response": response }), out);
    }

    fn broken(&mut self, failure: &Failure, out: &mut BytesMut) {
        let data = json!({ "code": failure.code, "message": failure.message, "param": failure.param });
        self.tell("error", data, out);
    }

    fn entrance(&self) -> Entrance {
        Entrance::Responses
    }
}

impl Responses {
    fn begin(&mut self, chunk: &Chunk) {
        let id = field(&chunk.data, "id");
        let id = id.as_str().map_or_else(String::new, |id| id.strip_prefix("chatcmpl-").unwrap_or(id).to_owned());
        self.head = json!({ "id": id, "created_at": field(&chunk.data, "created"), "model": field(&chunk.data, "model") });
    }

    fn tell(&mut self, name: &str, mut data: Value, out: &mut BytesMut) {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        named(name, &data, out);
    }

    /// The place of the open item for the message or this call; begins it, and ends another that is open.
    fn open(&mut self, call: Option<u32>, call_id: &str, name: &str, out: &mut BytesMut) -> usize {
        // Pieces of parallel calls may come interleaved: an item that has begun stays open until the end.
        if let Some(at) = self.items.iter().position(|item| item.call == call && !item.done) {
            return at;
        }
        if call.is_some() && self.items.iter().any(|item| item.call.is_none() && !item.done) {
            self.close(out);
        }
        let at = self.items.len();
        self.items.push(Item { call, call_id: call_id.to_owned(), name: name.to_owned(), ..Item::default() });
        let mut item = self.item(at, "in_progress");
        if call.is_none() {
            item["content"] = json!([]);
        }
        self.tell("response.output_item.added", json!({ "output_index": at, "item": item }), out);
        if call.is_none() {
            let part = json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] });
            self.tell(
                "response.content_part.added",
                json!({ "item_id": self.id(at), "output_index": at, "content_index": 0, "part": part }),
                out,
            );
        }
        at
    }

    /// Ends every open item.
    fn close(&mut self, out: &mut BytesMut) {
        for at in 0..self.items.len() {
            if std::mem::replace(&mut self.items[at].done, true) {
                continue;
            }
            let (id, text) = (self.id(at), self.items[at].text.clone());
            if self.items[at].call.is_none() {
                let place = |more: Value| {
                    let mut data = json!({ "item_id": id, "output_index": at, "content_index": 0 });
                    for (key, value) in more.as_object().into_iter().flatten() {
                        data[key] = value.clone();
                    }
                    data
                };
                self.tell("response.output_text.done", place(json!({ "text": text, "logprobs": [] })), out);
                let part = json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
                self.tell("response.content_part.done", place(json!({ "part": part })), out);
            } else {
                let data = json!({ "item_id": id, "output_index": at, "name": self.items[at].name, "arguments": text });
                self.tell("response.function_call_arguments.done", data, out);
            }
            let item = self.item(at, "completed");
            self.tell("response.output_item.done", json!({ "output_index": at, "item": item }), out);
        }
    }

    fn id(&self, at: usize) -> String {
        let kind = if self.items[at].call.is_none() { "msg" } else { "fc" };
        format!("{kind}_{}_{at}", self.head["id"].as_str().unwrap_or_default())
    }

    fn item(&self, at: usize, status: &str) -> Value {
        let item = &self.items[at];
        if item.call.is_none() {
            let part = json!({ "type": "output_text", "text": item.text, "annotations": [], "logprobs": [] });
            return json!({ "id": self.id(at), "type": "message", "status": status, "role": "assistant", "content": [part] });
        }
        json!({ "id": self.id(at), "type": "function_call", "status": status, "call_id": item.call_id, "name": item.name, "arguments": item.text })
    }

    fn status(&self) -> &'static str {
        if matches!(self.finish, Some(Finish::Length | Finish::ContentFilter)) { "incomplete" } else { "completed" }
    }

    fn response(&self, status: &str) -> Value {
        let reason = match self.finish {
            Some(Finish::Length) if status == "incomplete" => json!({ "reason": "max_output_tokens" }),
            Some(Finish::ContentFilter) if status == "incomplete" => json!({ "reason": "content_filter" }),
            _ => Value::Null,
        };
        let mut response = json!({
            "id": format!("resp_{}", self.head["id"].as_str().unwrap_or_default()),
            "object": "response",
            "created_at": self.head["created_at"],
            "status": status,
            "error": null,
            "incomplete_details": reason,
            "model": self.head["model"],
            "output": (0..self.items.len()).filter(|at| self.items[*at].done).map(|at| self.item(at, "completed")).collect::<Vec<_>>(),
            "previous_response_id": null,
            "store": false,
            "usage": self.usage.filter(|_| status != "in_progress").map(used),
            "user": null,
        });
        for (name, value) in &self.echo {
            response[name] = value.clone();
        }
        response
    }
}

fn used(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.cached_tokens },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    })
}
