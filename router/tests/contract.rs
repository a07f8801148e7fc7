//! What a request asks for and what the verifier makes of an answer to it.

#![expect(clippy::unwrap_used, reason = "a test")]

use spectra_backends::{ChatRequest, Chunk};
use spectra_router::verify::{Checks, Flaw, Judged, Settings, Verdict, Verifier, feedback, next_ask_hint};

fn checks(rest: &str, header: Option<&str>) -> Result<std::sync::Arc<Checks>, &'static str> {
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"Tell me about the city of Paris in two or three sentences, please."}}]{rest}}}"#
    );
    let request = ChatRequest::parse(body.into()).unwrap();
    let settings = Settings { least_logprob: Some(-1.5), ..Settings::default() };
    Checks::of(&request, &settings, header).map_err(|error| error.code)
}

fn judged(rest: &str, choices: &str) -> Judged {
    let mut verifier = Verifier::new(checks(rest, None).unwrap());
    verifier.push(&Chunk::parse(format!(r#"{{"object":"chat.completion","choices":[{choices}]}}"#).into()).unwrap());
    verifier.finish()
}

fn verdict(judged: &Judged) -> String {
    match &judged.verdict {
        Verdict::Pass => "pass".into(),
        Verdict::Mended(stages) => stages.iter().map(|stage| stage.as_str()).collect::<Vec<_>>().join(","),
        Verdict::Flawed(flaw) => {
            // Every flaw has something to say for itself and a way on.
            assert!(!flaw.to_string().is_empty() && !feedback(flaw, "excerpt").is_empty());
            let _ = next_ask_hint(flaw);
            flaw.kind().into()
        }
    }
}

const OBJECT: &str = r#","response_format":{"type":"json_object"}"#;
const SCHEMA: &str = r#","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}}}"#;
const TOOLS: &str = r#","tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","required":["a"],"properties":{"a":{"type":"integer"}}}}},{"type":"function","function":{"name":"now"}}]"#;

fn said(text: &str, finish: &str) -> String {
    format!(r#"{{"index":0,"message":{{"role":"assistant","content":{}}},"finish_reason":"{finish}"}}"#, serde_json::Value::from(text))
}

fn called(name: &str, arguments: &str) -> String {
    format!(
        r#"{{"index":0,"message":{{"role":"assistant","content":null,"tool_calls":[{{"id":"c","type":"function","function":{{"name":"{name}","arguments":{}}}}}]}},"finish_reason":"tool_calls"}}"#,
        serde_json::Value::from(arguments)
    )
}

#[test]
fn verdicts() {
    let required = format!(r#"{TOOLS},"tool_choice":"required""#);
    let limited = r#","max_tokens":5"#;
    let cases: &[(&str, String, &str)] = &[
        ("", said("Paris is the capital of France.", "stop"), "pass"),
        ("", said("", "stop"), "empty"),
        ("", said("<think>hm</think>\n", "stop"), "empty"),
        ("", said("Paris is the", "length"), "truncated"),
        (limited, said("Paris is the", "length"), "pass"),
        ("", said("I'm sorry, but I can't help with that.", "stop"), "pass"),
        ("", said("Tell me about the city of Paris in two or three  sentences, please.", "stop"), "echo"),
        ("", said("Here:\n```python\ndef f(x):\n    y = (x +\n", "stop"), "truncated"),
        ("", said("Here:\n```python\ndef f(x):\n    y = x +\n    return y )\n```\nDone.", "stop"), "bad_code"),
        ("", said("Here:\n```python\nx.append(1)\nreturn x\nprint(x)\n```", "stop"), "pass"),
        ("", said(&"I do not know. ".repeat(200), "stop"), "looping"),
        ("", r#"{"index":0,"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}"#.into(), "refused"),
        ("", r#"{"index":0,"message":{"content":""},"finish_reason":"content_filter"}"#.into(), "refused"),
        (OBJECT, said("{\"a\": 1}", "stop"), "pass"),
        (OBJECT, said("7", "stop"), "off_schema"),
        (OBJECT, said("I'm sorry, but I can't help with that.", "stop"), "refused"),
        (OBJECT, said("Paris is nice.", "stop"), "not_json"),
        (OBJECT, said("{\"a\": 1, \"b", "stop"), "truncated"),
        (OBJECT, said("{\"a\": 1}", "length"), "pass"),
        (OBJECT, said("```json\n{\"a\": 1,}\n```", "stop"), "fence,stray_comma"),
        (SCHEMA, said("{\"n\": 1}", "stop"), "pass"),
        (SCHEMA, said("{\"n\": \"x\"}", "stop"), "off_schema"),
        (SCHEMA, said("{\"m\": 1", "stop"), "truncated"),
        (SCHEMA, said("Maybe {\"m\": 1}? No: {\"n\": 1}", "stop"), "prose,repetition"),
        (TOOLS, said("No tool needed.", "stop"), "pass"),
        (&required, said("No tool needed.", "stop"), "bad_tool_call"),
        (TOOLS, called("add", "{\"a\": 1}"), "pass"),
        (TOOLS, called("add", "{a: 1}"), "unquoted_keys"),
        (TOOLS, called("add", "{\"a\": \"x\"}"), "bad_tool_call"),
        (TOOLS, called("add", "{\"a\": "), "truncated"),
        (TOOLS, called("sub", "{}"), "bad_tool_call"),
        (TOOLS, called("now", ""), "empty_arguments"),
        (TOOLS, called("add", ""), "truncated"),
        (
            "",
            r#"{"index":0,"message":{"content":"x"},"finish_reason":"stop","logprobs":{"content":[{"token":"x","logprob":-3.0}]}}"#.into(),
            "unsure",
        ),
        ("", format!("{},{}", said("Fine.", "stop"), r#"{"index":1,"message":{"content":""},"finish_reason":"stop"}"#), "empty"),
    ];
    for (rest, choices, want) in cases {
        assert_eq!(verdict(&judged(rest, choices)), *want, "{rest} {choices}");
    }
}

#[test]
fn the_mended_text_is_in_the_choice() {
    let judged = judged(TOOLS, &called("add", "{'a': 12345678901234567890}"));
    assert_eq!(judged.choices[0].tool_calls[0].mended.as_deref(), Some("{\"a\": 12345678901234567890}"));
}

#[test]
fn bad_requests() {
    let bad = r#","response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"objekt"}}}"#;
    let remote = r#","tools":[{"type":"function","function":{"name":"a","parameters":{"$ref":"https://example.org/a.json"}}}]"#;
    assert_eq!(checks(bad, None).err(), Some("invalid_json_schema"));
    assert_eq!(checks(remote, None).err(), Some("invalid_json_schema"));
    assert_eq!(checks("", Some("json, sense")).err(), Some("invalid_value"));
    assert!(checks("", Some("off")).unwrap().is_off());
    let only = checks("", Some("empty")).unwrap();
    assert!(only.settings().empty && !only.settings().looping && only.settings().repair);
}

#[test]
fn feedback_names_the_place() {
    let told = feedback(&Flaw::NotJson { at: 7, why: "expected a value".into() }, "{\"key\": }");
    assert!(told.contains("byte 7") && told.contains("{\"key\": }"), "{told}");
    let told = feedback(&Flaw::OffSchema { errors: vec!["/n: \"x\" is not of type \"integer\"".into()] }, "");
    assert!(told.contains("/n: \"x\""), "{told}");
}
