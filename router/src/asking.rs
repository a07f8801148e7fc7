//! The next question to a model: the caller's request with what has to change. Never the identical request twice.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use spectra_backends::chat::{BadRequest, Format};
use spectra_backends::{ChatRequest, Continuation, Edit};

use crate::repair::{self, Given, Repaired, Stage};
use crate::verify::json::Scan;
use crate::verify::{Flaw, Hint, feedback};

/// What was wrong with the answer before, and how much of it there is.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    pub flaw: Flaw,
    pub text: String,
}

/// Token limit of a second try, if the caller set none.
const ROOM: u32 = 4096;
/// A re-ask quotes at most so many bytes of the answer.
const EXCERPT_BYTES: usize = 4000;
/// The same of an answer that repeats itself.
const LOOP_BYTES: usize = 200;

/// Asks the same model again, told what was wrong, with the change that the hint names.
pub(crate) fn reask(request: &ChatRequest, before: &Before, hint: Hint, turn: usize) -> Result<ChatRequest, BadRequest> {
    // A loop that is shown again leads a model into it again: its beginning is enough.
    let most = if matches!(before.flaw, Flaw::Looping { .. }) { LOOP_BYTES } else { EXCERPT_BYTES };
    let excerpt = tail_cut(&before.text, most);
    let told = feedback(&before.flaw, &before.text);
    let mut messages = Vec::new();
    if !excerpt.trim().is_empty() {
        messages.push(json!({ "role": "assistant", "content": excerpt }));
        messages.push(json!({ "role": "user", "content": told }));
    }
    let mut edits = vec![request.with_messages(&messages)];
    let view = request.view();
    match hint {
        Hint::MoreTokens | Hint::Continue => edits.push(more_tokens(request)),
        // Caught in its own words: a little warmer each time, within the API's 0 to 2.
        Hint::Reheat => edits.push(Edit::Set("temperature", format!("{}", (view.temperature.unwrap_or(0.7) + 0.3).min(1.5)))),
        Hint::Constrain => edits.push(Edit::Set("temperature", format!("{}", view.temperature.unwrap_or(1.0).min(0.2)))),
        Hint::Tell | Hint::Escalate | Hint::Elsewhere => {}
    }
    if let Some(seed) = view.seed {
        // A fixed seed would draw the same answer again.
        edits.push(Edit::Set("seed", seed.wrapping_add(i64::try_from(turn).unwrap_or(1)).to_string()));
    }
    request.edited(&edits)
}

/// The caller's request for a model that cannot be held to the form while it writes: the form is told in words instead.
/// What it says is verified all the same.
pub(crate) fn unbound(request: &ChatRequest) -> Result<ChatRequest, BadRequest> {
    let view = request.view();
    let told = match &view.format {
        Format::JsonSchema { schema: Some(schema), .. } => {
            format!("Answer with one JSON value that fits this JSON Schema, and with nothing else:\n{schema}")
        }
        Format::JsonSchema { .. } | Format::JsonObject => "Answer with one JSON object, and with nothing else.".into(),
        Format::Text => "Answer by calling one of the given tools.".into(),
    };
    let mut edits = vec![told_first(request, &told)?];
    if view.format != Format::Text {
        edits.push(Edit::Remove("response_format"));
    }
    if !view.tools.is_empty() {
        edits.push(Edit::Set("tool_choice", "\"auto\"".into()));
    }
    request.edited(&edits)
}

/// The messages with an instruction at their head, in the caller's own system message where it is a plain text: some templates know one
/// only. A small model answers what it reads last; a schema there would be what it writes on.
fn told_first(request: &ChatRequest, told: &str) -> Result<Edit, BadRequest> {
    let text = request.field("messages").unwrap_or("[]");
    let unread = |error: serde_json::Error| BadRequest::new("invalid_json", "messages".to_owned(), error.to_string());
    let mut messages: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(unread)?;
    let first: Option<Value> = messages.first().and_then(|message| serde_json::from_str(message.get()).ok());
    let system = first.filter(|first| matches!(first["role"].as_str(), Some("system" | "developer")) && first["content"].is_string());
    let message = match system {
        Some(mut system) => {
            system["content"] = format!("{}\n\n{told}", system["content"].as_str().unwrap_or_default()).into();
            messages.remove(0);
            system
        }
        None => json!({ "role": "system", "content": told }),
    };
    messages.insert(0, serde_json::value::to_raw_value(&message).map_err(unread)?);
    Ok(Edit::Set("messages", serde_json::to_string(&messages).map_err(unread)?))
}

/// The caller's request with more room for the answer.
pub(crate) fn roomier(request: &ChatRequest) -> Result<ChatRequest, BadRequest> {
    request.edited(&[more_tokens(request)])
}

fn more_tokens(request: &ChatRequest) -> Edit {
    let key =
        if request.field("max_completion_tokens").is_some_and(|text| text != "null") { "max_completion_tokens" } else { "max_tokens" };
    let limit = request.view().max_tokens.map_or(ROOM, |limit| limit.saturating_mul(2));
    Edit::Set(key, limit.to_string())
}

/// Asks to go on from `text`. A grammar would start afresh, so a JSON contract is checked on the joined text instead.
pub(crate) fn continuation(request: &ChatRequest, text: &str, by: Continuation) -> Result<ChatRequest, BadRequest> {
    let mut messages = vec![json!({ "role": "assistant", "content": text })];
    let mut edits = Vec::new();
    match by {
        Continuation::Prefill => {}
        Continuation::Flagged => {
            edits.push(Edit::Set("continue_final_message", "true".into()));
            edits.push(Edit::Set("add_generation_prompt", "false".into()));
        }
        Continuation::Instruction => messages.push(json!({
            "role": "user",
            "content": "Your answer was cut off. Continue it exactly where it stops, beginning with the very next character. Repeat nothing, explain nothing, open no code fence."
        })),
    }
    edits.push(request.with_messages(&messages));
    if request.view().format != Format::Text {
        edits.push(Edit::Remove("response_format"));
    }
    request.edited(&edits)
}

/// `text` and what was said on, joined: an end of `text` that `more` begins with again is there once. A model that started over
/// instead of going on has given a whole answer, which then stands alone.
pub(crate) fn joined(text: &str, more: &str) -> String {
    if starts_over(text, more) {
        return more.to_owned();
    }
    let mut out = String::with_capacity(text.len() + more.len());
    out.push_str(text);
    out.push_str(&more[overlap(text, more)..]);
    out
}

/// A whole JSON value where the rest of one was asked for: joined, it would be JSON too, and not what was meant.
pub(crate) fn starts_over(text: &str, more: &str) -> bool {
    let opens = |text: &str| text.trim_start().starts_with(['{', '[', '`']);
    let value = Scan::whole(text).is_err() && opens(text) && opens(more);
    value
        && match repair::json(more, &Given { cut_by_length: true, ..Given::default() }) {
            Repaired::Clean => true,
            // Brackets too many close what was open before.
            Repaired::Mended { stages, .. } => !stages.contains(&Stage::ExtraClosers),
            _ => false,
        }
}

/// Bytes of `more` that repeat the end of `text`. Short chance overlaps (under 12 bytes) are not taken for repetition.
pub(crate) fn overlap(text: &str, more: &str) -> usize {
    const LEAST: usize = 12;
    const MOST: usize = 2048;
    let longest = text.len().min(more.len()).min(MOST);
    (LEAST..=longest).rev().find(|size| more.is_char_boundary(*size) && text.as_bytes().ends_with(&more.as_bytes()[..*size])).unwrap_or(0)
}

/// At most `bytes` of the text, from its start, whole characters.
fn tail_cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes.min(text.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(extra: &str) -> ChatRequest {
        let body = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"x"}}],"odd":1.0e0{extra}}}"#);
        ChatRequest::parse(body.into_bytes().into()).unwrap()
    }

    #[test]
    fn a_reask_always_differs_and_keeps_the_rest() {
        for (hint, extra) in
            [(Hint::Tell, ""), (Hint::MoreTokens, r#","max_tokens":7"#), (Hint::Reheat, r#","seed":3"#), (Hint::Constrain, "")]
        {
            let before = Before { flaw: Flaw::Empty, text: "half".into() };
            let asked = reask(&request(extra), &before, hint, 1).unwrap();
            assert_ne!(asked.raw(), request(extra).raw());
            assert_eq!(asked.field("odd"), Some("1.0e0"));
            assert_eq!(asked.view().messages.len(), 3);
        }
    }

    #[test]
    fn a_loop_is_not_shown_again() {
        let flaw = Flaw::Looping { period_bytes: 3, excerpt: "la ".into() };
        let asked = reask(&request(""), &Before { flaw, text: "la ".repeat(2000) }, Hint::Reheat, 1).unwrap();
        assert!(asked.raw().len() < 1000, "{}", asked.raw().len());
    }

    #[test]
    fn a_form_in_words_comes_before_the_question() {
        let format = r#","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object"}}}"#;
        let asked = unbound(&request(format)).unwrap();
        let said: Vec<&str> = asked.view().messages.iter().map(|message| message.text.as_str()).collect();
        assert_eq!((said.len(), said[1], asked.field("response_format")), (2, "x", None));
        assert!(said[0].ends_with(r#"{"type":"object"}"#), "{}", said[0]);
        let own = r#"{"model":"auto","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"x","odd":1.0e0}]"#;
        let asked = unbound(&ChatRequest::parse(format!("{own}{format}}}").into_bytes().into()).unwrap()).unwrap();
        assert_eq!(asked.view().messages.len(), 2);
        assert!(asked.view().messages[0].text.starts_with("Be brief.\n\nAnswer with"));
        assert!(asked.field("messages").unwrap().ends_with(r#"{"role":"user","content":"x","odd":1.0e0}]"#), "the rest keeps its bytes");
    }

    #[test]
    fn more_room_doubles_the_callers_own_limit() {
        assert_eq!(roomier(&request(r#","max_completion_tokens":100"#)).unwrap().view().max_tokens, Some(200));
        assert_eq!(roomier(&request("")).unwrap().view().max_tokens, Some(ROOM));
    }

    #[test]
    fn a_continuation_speaks_as_the_backend_understands() {
        for (by, messages, flagged) in
            [(Continuation::Prefill, 2, false), (Continuation::Flagged, 2, true), (Continuation::Instruction, 3, false)]
        {
            let asked = continuation(&request(r#","response_format":{"type":"json_object"}"#), "half", by).unwrap();
            assert_eq!(asked.view().messages.len(), messages, "{by:?}");
            assert_eq!(asked.field("continue_final_message").is_some(), flagged, "{by:?}");
            assert_eq!(asked.field("response_format"), None);
        }
    }

    #[test]
    fn joins_on_overlap_only_where_it_is_long_enough_to_be_one() {
        for (text, more, expected) in [
            (r#"{"a": "hello wor"#, r#"ld"}"#, r#"{"a": "hello world"}"#),
            (r#"{"a": "hello world, how"#, r#""hello world, how are"}"#, r#"{"a": "hello world, how are"}"#),
            ("aaa", "aaa", "aaaaaa"),
            (r#"{"a": {"b":"#, r#"{"a": 1}"#, r#"{"a": 1}"#),
            (r#"{"a": {"b":"#, r#"{"c": 1}}}"#, r#"{"a": {"b":{"c": 1}}}"#),
            ("naïve café au lait s", "é au lait s'il", "naïve café au lait s'il"),
        ] {
            assert_eq!(joined(text, more), expected);
        }
    }
}
