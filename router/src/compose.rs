//! Makes legal chunks of an answer that repair or continuation changed, out of the bytes the model sent.

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use spectra_backends::chunk::{Finish, Shape, Usage};
use spectra_backends::{BackendError, Chunk, Edit, splice};

use crate::verify::{JudgedCall, JudgedChoice};

/// The chunks of `read` with the choices saying what `choices` say; ids, model and unknown fields stay as they were.
pub(crate) fn recompose(read: &[Chunk], choices: &[JudgedChoice], usage: Option<Usage>) -> Result<Vec<Chunk>, BackendError> {
    let Some(base) = read.iter().find(|chunk| !chunk.view.choices.is_empty()) else { return Ok(read.to_vec()) };
    if base.view.shape == Shape::Whole {
        return Ok(vec![whole(base, choices, usage)?]);
    }
    let mut chunks = Vec::with_capacity(choices.len() * 3 + 1);
    for choice in choices {
        chunks.extend(deltas(base, choice)?);
    }
    match usage {
        Some(usage) => chunks.push(usage_chunk(base, usage)?),
        None => chunks.extend(read.iter().filter(|chunk| chunk.view.choices.is_empty()).cloned()),
    }
    Ok(chunks)
}

/// One event that adds `content` to the answer that `base` belongs to.
pub(crate) fn content_chunk(base: &Chunk, index: u32, content: &str) -> Result<Chunk, BackendError> {
    event(base, index, &json!({ "content": content }), None)
}

/// The event that ends a choice.
pub(crate) fn finish_chunk(base: &Chunk, index: u32, finish: &Finish) -> Result<Chunk, BackendError> {
    event(base, index, &json!({}), Some(finish))
}

/// The event that carries usage and no choice.
pub(crate) fn usage_chunk(base: &Chunk, usage: Usage) -> Result<Chunk, BackendError> {
    reparsed(&base.data, &[Edit::Set("choices", "[]".into()), Edit::Set("usage", usage_json(usage))])
}

fn deltas(base: &Chunk, choice: &JudgedChoice) -> Result<Vec<Chunk>, BackendError> {
    let index = choice.index;
    let mut chunks = vec![event(base, index, &json!({ "role": "assistant", "content": "" }), None)?];
    if let Some(refusal) = &choice.refusal {
        chunks.push(event(base, index, &json!({ "refusal": refusal }), None)?);
    }
    let text = choice.mended.as_ref().unwrap_or(&choice.text);
    if !text.is_empty() {
        chunks.push(content_chunk(base, index, text)?);
    }
    for call in &choice.tool_calls {
        let function = json!({ "name": call.name, "arguments": arguments(call) });
        chunks.push(event(
            base,
            index,
            &json!({ "tool_calls": [{ "index": call.index, "id": call.id, "type": "function", "function": function }] }),
            None,
        )?);
    }
    chunks.push(finish_chunk(base, index, choice.finish.as_ref().unwrap_or(&Finish::Stop))?);
    Ok(chunks)
}

fn event(base: &Chunk, index: u32, delta: &serde_json::Value, finish: Option<&Finish>) -> Result<Chunk, BackendError> {
    let choices = json!([{ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish.map(Finish::as_str) }]);
    let mut edits = vec![Edit::Set("choices", choices.to_string())];
    if base.view.usage.is_some() {
        edits.push(Edit::Set("usage", "null".into()));
    }
    reparsed(&base.data, &edits)
}

/// A whole answer with new content, arguments and finish; what does not change keeps its bytes.
fn whole(base: &Chunk, choices: &[JudgedChoice], usage: Option<Usage>) -> Result<Chunk, BackendError> {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        choices: Vec<&'a RawValue>,
    }
    let body: Body<'_> = serde_json::from_slice(&base.data).map_err(malformed)?;
    let mut texts = Vec::with_capacity(body.choices.len());
    for (place, raw) in body.choices.iter().enumerate() {
        let index = base.view.choices.get(place).map_or(0, |choice| choice.index);
        let said = choices.iter().find(|choice| choice.index == index);
        texts.push(said.map_or_else(|| Ok(raw.get().to_owned()), |said| whole_choice(raw.get(), said))?);
    }
    let mut edits = vec![Edit::Set("choices", format!("[{}]", texts.join(",")))];
    if let Some(usage) = usage {
        edits.push(Edit::Set("usage", usage_json(usage)));
    }
    reparsed(&base.data, &edits)
}

fn whole_choice(raw: &str, said: &JudgedChoice) -> Result<String, BackendError> {
    #[derive(serde::Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        message: &'a RawValue,
    }
    let choice: Choice<'_> = serde_json::from_str(raw).map_err(malformed)?;
    let mut edits = Vec::new();
    if let Some(text) = said.mended.as_ref().or_else(|| Some(&said.text).filter(|text| !text.is_empty())) {
        edits.push(Edit::Set("content", json!(text).to_string()));
    }
    if said.tool_calls.iter().any(|call| call.mended.is_some()) {
        let calls: Vec<_> = said
            .tool_calls
            .iter()
            .map(|call| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": arguments(call) } }))
            .collect();
        edits.push(Edit::Set("tool_calls", json!(calls).to_string()));
    }
    let message = text_of(&splice(choice.message.get().as_bytes(), &edits).map_err(malformed)?)?;
    let mut edits = vec![Edit::Set("message", message)];
    if let Some(finish) = &said.finish {
        edits.push(Edit::Set("finish_reason", json!(finish.as_str()).to_string()));
    }
    text_of(&splice(raw.as_bytes(), &edits).map_err(malformed)?)
}

fn arguments(call: &JudgedCall) -> &str {
    call.mended.as_ref().unwrap_or(&call.arguments)
}

fn usage_json(usage: Usage) -> String {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
    })
    .to_string()
}

fn reparsed(data: &Bytes, edits: &[Edit]) -> Result<Chunk, BackendError> {
    Chunk::parse(splice(data, edits).map_err(malformed)?)
}

fn text_of(bytes: &Bytes) -> Result<String, BackendError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| BackendError::Broken { what: error.to_string() })
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn malformed(error: serde_json::Error) -> BackendError {
    BackendError::Broken { what: format!("malformed chunk: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> Chunk {
        Chunk::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_whole_answer_changes_in_its_content_only() {
        let base = chunk(
            r#"{"id":"i", "object":"chat.completion","x":1.0e0,"choices":[{"index":0,"message":{"role":"assistant","content":"bad","refusal":null},"logprobs":null,"finish_reason":"stop"}]}"#,
        );
        let said = JudgedChoice { mended: Some("go\"od".into()), text: "bad".into(), ..JudgedChoice::default() };
        let out = recompose(&[base], &[said], None).unwrap();
        assert_eq!(
            out[0].data,
            r#"{"id":"i", "object":"chat.completion","x":1.0e0,"choices":[{"index":0,"message":{"role":"assistant","content":"go\"od","refusal":null},"logprobs":null,"finish_reason":"stop"}]}"#
        );
    }

    #[test]
    fn a_stream_becomes_role_content_finish_usage_under_one_id() {
        let read = [
            chunk(r#"{"id":"i","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant"}}]}"#),
            chunk(r#"{"id":"i","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}"#),
            chunk(r#"{"id":"i","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#),
        ];
        let said = JudgedChoice { mended: Some("y".into()), finish: Some(Finish::Stop), ..JudgedChoice::default() };
        let out = recompose(&read, &[said], None).unwrap();
        assert_eq!(out.len(), 4);
        assert!(out.iter().all(|chunk| chunk.data.starts_with(br#"{"id":"i""#)));
        assert_eq!(out[1].view.choices[0].content.as_deref(), Some("y"));
        assert_eq!(out[2].view.choices[0].finish, Some(Finish::Stop));
        assert_eq!(out[3].view.usage.unwrap().completion_tokens, 2);
    }
}
