//! What a backend cannot do, before any score: hard rules, never learned.

use spectra_backends::chat::{Format, View};
use spectra_backends::{ChatRequest, Facts};

/// Request fields that only some upstreams know and that change what is answered; a local model would drop them silently.
const HOSTED_ONLY: &[&str] = &["audio", "modalities", "prediction", "web_search_options", "functions", "function_call", "moderation"];

/// Why a backend cannot take the request, in words that also serve as a metric label; `None`: it can.
/// `verified`: its answers are held against the wanted form, so that a backend which is only told the form will do.
#[must_use]
pub fn unfit(request: &ChatRequest, facts: &Facts, verified: bool) -> Option<&'static str> {
    let view = request.view();
    let rules: [(bool, &'static str); 7] = [
        (!verified && !facts.json_schema && matches!(view.format, Format::JsonSchema { .. }), "json_schema"),
        (facts.context_tokens.is_some_and(|context| least_tokens(view) > u64::from(context)), "context_length"),
        (!view.tools.is_empty() && !facts.tools, "tools"),
        (view.messages.iter().any(|message| !message.media.is_empty()) && !facts.vision, "vision"),
        (view.logprobs && !facts.logprobs, "logprobs"),
        (view.n > facts.n_max, "n"),
        (facts.local && view.unread.iter().any(|name| HOSTED_ONLY.contains(&name.as_str())), "parameter"),
    ];
    rules.iter().find(|(broken, _)| *broken).map(|(_, why)| *why)
}

/// A lower bound of prompt plus answer in tokens: a token of running text is rarely over 6 bytes, so a request that
/// breaks this bound is surely too long. The model's own count decides the rest, with an error that escalates.
fn least_tokens(view: &View) -> u64 {
    let bytes: usize = view.messages.iter().map(|message| message.text.len()).sum();
    bytes as u64 / 6 + u64::from(view.max_tokens.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(extra: &str, change: impl FnOnce(&mut Facts), expected: Option<&str>) {
        let body = format!(r#"{{"model":"auto","messages":[{{"role":"user","content":"hello"}}]{extra}}}"#);
        let request = ChatRequest::parse(body.into_bytes().into()).unwrap();
        let mut facts = Facts { context_tokens: Some(4096), vision: false, n_max: 4, local: true, ..Facts::open() };
        change(&mut facts);
        assert_eq!(unfit(&request, &facts, false), expected, "{extra}");
        // Only the form of an answer can be made good by verifying it.
        assert_eq!(unfit(&request, &facts, true), expected.filter(|why| *why != "json_schema"), "{extra}");
    }

    #[test]
    fn each_rule_excludes_and_nothing_else_does() {
        check("", |_| {}, None);
        check(r#","max_tokens":5000"#, |_| {}, Some("context_length"));
        check(r#","max_tokens":5000"#, |facts| facts.context_tokens = None, None);
        let tools = r#","tools":[{"type":"function","function":{"name":"f"}}]"#;
        check(tools, |_| {}, None);
        check(tools, |facts| facts.tools = false, Some("tools"));
        check(r#","logprobs":true"#, |facts| facts.logprobs = false, Some("logprobs"));
        check(r#","n":5"#, |_| {}, Some("n"));
        let schema = r#","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{}}}"#;
        check(schema, |_| {}, None);
        check(schema, |facts| facts.json_schema = false, Some("json_schema"));
        check(r#","response_format":{"type":"json_object"}"#, |facts| facts.json_schema = false, None);
        check(r#","audio":{}"#, |_| {}, Some("parameter"));
        check(r#","audio":{}"#, |facts| facts.local = false, None);
        check(r#","guided_whatever":{}"#, |_| {}, None);
    }
}
