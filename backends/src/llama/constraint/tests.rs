//! Constraints over a vocabulary of single bytes: what is allowed is the grammar's business, not the tokenizer's.

use llguidance::toktrie::ApproximateTokEnv;

use super::*;

fn grammars() -> Grammars {
    let words: Vec<Vec<u8>> =
        (0..=255_u8).map(|byte| if byte < 255 { vec![byte] } else { vec![0xFF, b'<', b'e', b'n', b'd', b'>'] }).collect();
    let trie = TokTrie::from(&TokRxInfo::new(256, 255), &words).with_eos_tokens(&[255]);
    let numbers = Arc::new(Numbers::of(&words));
    Grammars { environment: Arc::new(ApproximateTokEnv::new(trie)), factory: OnceLock::new(), kept: Mutex::default(), numbers }
}

/// Whether `text` can be written, token by token, and may end there.
fn writes(grammars: &Grammars, form: &Form, text: &str) -> bool {
    let mut constraint = grammars.compile(form).unwrap();
    for byte in text.bytes() {
        let bits = constraint.allowed().unwrap();
        if bits[byte as usize / 32] >> (byte % 32) & 1 == 0 {
            return false;
        }
        constraint.accept(i32::from(byte), &[byte]).unwrap();
    }
    constraint.is_complete() || constraint.allowed().unwrap()[7] >> 31 & 1 == 1
}

fn schema(text: &str) -> Form {
    Form::Schema(Arc::from(text))
}

#[test]
fn only_what_the_schema_allows_can_be_written() {
    let grammars = grammars();
    let form = schema(
        r#"{"type":"object","properties":{"n":{"type":"integer"},"s":{"enum":["a","b"]}},"required":["n","s"],"additionalProperties":false}"#,
    );
    for (text, expected) in [
        (r#"{"n": 1, "s": "a"}"#, true),
        (r#"{"n": -12, "s": "b"}"#, true),
        (r#"{"n": 1, "s": "c"}"#, false),
        (r#"{"n": 1.5, "s": "a"}"#, false),
        (r#"{"n": 1}"#, false),
        (r#"{"n": 1, "s": "a"} "#, false),
        (r#"{ "n": 1, "s": "a"}"#, false),
        ("no", false),
    ] {
        assert_eq!(writes(&grammars, &form, text), expected, "{text}");
    }
    assert!(writes(&grammars, &Form::Object, r#"{"a": [1, {"b": null}], "c": "d"}"#));
    assert!(!writes(&grammars, &Form::Object, "[1]"));
    assert!(!writes(&grammars, &Form::Object, r#"{"a": 54E4730}"#), "numbers that parsers refuse");
}

#[test]
fn what_cannot_be_enforced_is_enforced_in_part_or_refused() {
    let grammars = grammars();
    let part = grammars.compile(&schema(r#"{"type":"array","items":{"type":"integer"},"uniqueItems":true}"#)).unwrap();
    assert_eq!(part.strength, Strength::Lenient);
    for (text, words) in [
        (r#"{"type":"integer","minimum":5,"maximum":4}"#, "Unsatisfiable"),
        (r#"{"type":"strong"}"#, "strong"),
        (r#"{"$ref":"https://example.com/schema.json"}"#, ""),
        (r##"{"$ref":"#/nowhere"}"##, ""),
        ("7", "not a JSON object"),
    ] {
        let error = grammars.compile(&schema(text)).map(|constraint| constraint.strength).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn hostile_schemas_end_in_words() {
    let nest = |n: usize| format!("{}true{}", r#"{"type":"array","items":"#.repeat(n), "}".repeat(n));
    let grammars = grammars();
    assert!(grammars.compile(&schema(&nest(MOST_SCHEMA_DEPTH))).is_ok(), "as deep as allowed, on a test's small stack");
    assert!(grammars.compile(&schema(&nest(60_000))).is_err());
    for deep in [format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000)), format!("start: {}", "(".repeat(500))] {
        assert!(grammars.compile(&Form::Grammar(deep.into())).is_err());
    }
    let wide: String = (0..9000).map(|n| format!("\"k{n}\":{{\"type\":\"string\",\"pattern\":\"^(a|b)*c{{1,50}}$\"}},")).collect();
    let wide = format!("{{\"type\":\"object\",\"properties\":{{{}}}}}", wide.trim_end_matches(','));
    assert!(grammars.compile(&schema(&wide)).is_err());
    let loops = r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}"##;
    assert!(grammars.compile(&schema(loops)).is_err());
}

#[test]
fn the_same_schema_is_compiled_once() {
    let grammars = grammars();
    for n in 0..KEPT + 5 {
        let form = schema(&format!(r#"{{"const":{n}}}"#));
        grammars.compile(&form).unwrap();
        grammars.compile(&form).unwrap();
    }
    assert_eq!(grammars.kept.lock().len(), KEPT);
}

#[test]
fn forced_calls_are_calls() {
    use crate::chat::Tool;
    use crate::llama::{Style, grammar};
    let tool = |name: &str, parameters: Option<&str>| Tool {
        name: name.into(),
        description: None,
        parameters: parameters.map(Arc::from),
        strict: false,
    };
    let first = tool(
        "get\"it",
        Some(
            r##"{"properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"$defs":{"n":{"type":"integer"}},"additionalProperties":false}"##,
        ),
    );
    let second = tool("g", None);
    let tools = [&first, &second];
    let grammars = grammars();
    let check = |style, many, text: &str, expected: bool| {
        let form = Form::Grammar(grammar(style, &tools, many, None, false).unwrap().into());
        assert_eq!(writes(&grammars, &form, text), expected, "{text}");
    };
    let one = r#"<tool_call>
{"name": "get\"it", "arguments": {"a": 1}}
</tool_call>"#;
    let two = "<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
    check(Style::Tagged, false, one, true);
    check(Style::Tagged, false, two, true);
    check(Style::Tagged, false, &format!("{one}\n{two}"), false);
    check(Style::Tagged, true, &format!("{one}\n{two}"), true);
    check(Style::Tagged, true, "It is five.", false);
    check(Style::Tagged, true, &one.replace(": 1", ": \"1\""), false);
    check(Style::Listed, true, r#"[TOOL_CALLS] [{"name": "g", "arguments": {}}, {"name": "get\"it", "arguments": {"a": 2}}]"#, true);
    check(Style::Bare, false, r#"{"name": "g", "parameters": {}}"#, true);
    check(Style::Bare, false, r#"{"name": "h", "parameters": {}}"#, false);
}
