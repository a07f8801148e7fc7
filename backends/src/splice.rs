//! Changes a few top-level fields of a JSON object and leaves every other byte where it was.

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One change to one top-level field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Replace the field's value, or append the field. The text must be JSON.
    Set(&'static str, String),
    /// Take the field away.
    Remove(&'static str),
}

impl Edit {
    fn key(&self) -> &'static str {
        match self {
            Self::Set(key, _) | Self::Remove(key) => key,
        }
    }
}

/// Applies `edits` to the object in `raw`: unknown fields, key order, white space and number spelling stay.
///
/// # Errors
/// If `raw` is not a JSON object.
pub fn splice(raw: &[u8], edits: &[Edit]) -> Result<Bytes, serde_json::Error> {
    let fields = fields(raw)?;
    let mut out = Vec::with_capacity(raw.len() + edits.len() * 32);
    let body_start = fields.first().map_or_else(|| close_of(raw), |field| field.key_start);
    out.extend_from_slice(&raw[..body_start]);
    let mut written = 0;
    for (at, field) in fields.iter().enumerate() {
        let edit = edits.iter().find(|edit| edit.key() == field.key);
        if matches!(edit, Some(Edit::Remove(_))) {
            continue;
        }
        if written > 0 {
            // The text between two fields: one comma and the caller's white space.
            out.extend_from_slice(&raw[fields[at - 1].value_end..field.key_start]);
        }
        written += 1;
        match edit {
            Some(Edit::Set(_, value)) => {
                out.extend_from_slice(&raw[field.key_start..field.value_start]);
                out.extend_from_slice(value.as_bytes());
            }
            _ => out.extend_from_slice(&raw[field.key_start..field.value_end]),
        }
    }
    for edit in edits {
        let Edit::Set(key, value) = edit else { continue };
        if fields.iter().any(|field| field.key == *key) {
            continue;
        }
        if written > 0 {
            out.push(b',');
        }
        written += 1;
        out.push(b'"');
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(&raw[fields.last().map_or_else(|| close_of(raw), |field| field.value_end)..]);
    Ok(out.into())
}

/// Where the object's closing brace stands.
fn close_of(raw: &[u8]) -> usize {
    raw.iter().rposition(|byte| *byte == b'}').unwrap_or(raw.len())
}

/// Where one top-level field stands, as byte offsets into the object's text.
pub(crate) struct Field {
    pub key: String,
    pub key_start: usize,
    pub value_start: usize,
    pub value_end: usize,
}

/// The top-level fields of the object in `raw`, in their order.
pub(crate) fn fields(raw: &[u8]) -> Result<Vec<Field>, serde_json::Error> {
    let text = std::str::from_utf8(raw).map_err(|_| serde::de::Error::custom("body is not valid UTF-8"))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let pairs = parser.deserialize_map(Pairs)?;
    parser.end()?;
    let base = text.as_ptr() as usize;
    let mut searched = 0;
    Ok(pairs
        .into_iter()
        .map(|(key, value)| {
            let value_start = value.get().as_ptr() as usize - base;
            let value_end = value_start + value.get().len();
            // Between the previous value and this one stands only `{` or `,`, white space, the key and `:`.
            let key_start = searched + text[searched..value_start].find('"').unwrap_or(0);
            searched = value_end;
            Field { key, key_start, value_start, value_end }
        })
        .collect())
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::with_capacity(16);
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, edits: &[Edit], expected: &str) {
        let got = splice(raw.as_bytes(), edits).unwrap();
        assert_eq!(std::str::from_utf8(&got).unwrap(), expected);
    }

    #[test]
    fn only_the_named_field_changes() {
        let set = |v: &str| Edit::Set("model", v.into());
        check(r#"{ "a" : 1.0e0, "model":"x", "z":[ 1 ] }"#, &[set("\"y\"")], r#"{ "a" : 1.0e0, "model":"y", "z":[ 1 ] }"#);
        check(r#"{"a":{"model":1}}"#, &[set("2")], r#"{"a":{"model":1},"model":2}"#);
        check("{}", &[set("2")], r#"{"model":2}"#);
        check(r#"{"mod\u0065l":"x"}"#, &[set("1")], r#"{"mod\u0065l":1}"#);
    }

    #[test]
    fn removed_fields_take_one_comma_along() {
        let gone = [Edit::Remove("a"), Edit::Remove("b")];
        check(r#"{"a":1, "b":2, "c":3}"#, &gone, r#"{"c":3}"#);
        check(r#"{"c":3, "a":1, "b":2}"#, &gone, r#"{"c":3}"#);
        check(r#"{"a":1,"b":2}"#, &gone, r"{}");
        check(r#"{"a":1,"c":3,"b":2}"#, &[Edit::Remove("a"), Edit::Set("d", "4".into())], r#"{"c":3,"b":2,"d":4}"#);
    }
}
