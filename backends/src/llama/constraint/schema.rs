//! A caller's JSON Schema on its way to llguidance: bounded, then given our options.

use serde_json::{Value, json};

use super::{MOST_SCHEMA_BYTES, MOST_SCHEMA_DEPTH};

/// Reads a schema's text within the bounds.
pub(in crate::llama) fn read(text: &str) -> Result<Value, String> {
    if text.len() > MOST_SCHEMA_BYTES {
        return Err(format!("the schema is {} bytes long; at most {MOST_SCHEMA_BYTES} are read", text.len()));
    }
    let depth = depth(text);
    if depth > MOST_SCHEMA_DEPTH {
        return Err(format!("the schema is nested {depth} deep; at most {MOST_SCHEMA_DEPTH} are read"));
    }
    match serde_json::from_str(text) {
        Ok(Value::Bool(true)) => Ok(json!({})),
        Ok(schema @ Value::Object(_)) => Ok(schema),
        Ok(_) => Err("the schema is not a JSON object".into()),
        Err(error) => Err(format!("the schema is not JSON: {error}")),
    }
}

pub(super) fn object() -> Value {
    json!({ "type": "object" })
}

/// The schema with llguidance's options in it. White space is fixed: free white space lets a model write it for ever.
pub(in crate::llama) fn options(mut schema: Value, lenient: bool) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        let options = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ", "lenient": lenient });
        fields.insert("x-guidance".into(), options);
    }
    schema
}

/// Deepest nesting of brackets outside strings.
pub(super) fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' | b'(' => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' | b')' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_before_the_text_is_read() {
        assert_eq!(depth(r#"{"a":[{"]":"{{{\"[["}]}"#), 3);
        assert!(read(&"[".repeat(1 << 17)).unwrap_err().contains("nested 131072 deep"));
        assert!(read(&"x".repeat(1 << 19)).unwrap_err().contains("bytes long"));
        for text in ["3", "[]", "false", "{", "\"x\""] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
