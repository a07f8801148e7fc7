//! Changes a few top-level fields of a JSON object and leaves every other byte where it was.

use std::borrow::Cow;

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
    let text = std::str::from_utf8(raw).map_err(|_| serde::de::Error::custom("body is not valid UTF-8"))?;
    Ok(spliced(raw, &fields(text)?, edits))
}

/// `splice` where the fields have been found already.
pub(crate) fn spliced(raw: &[u8], fields: &[Field], edits: &[Edit]) -> Bytes {
    let mut out = Vec::with_capacity(raw.len() + edits.len() * 32);
    let body_start = fields.first().map_or_else(|| close_of(raw), |field| field.key_start);
    out.extend_from_slice(&raw[..body_start]);
    let mut written = 0;
    for (at, field) in fields.iter().enumerate() {
        let edit = edits.iter().find(|edit| field.is(raw, edit.key()));
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
        if fields.iter().any(|field| field.is(raw, key)) {
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
    out.into()
}

/// Where the object's closing brace stands.
fn close_of(raw: &[u8]) -> usize {
    raw.iter().rposition(|byte| *byte == b'}').unwrap_or(raw.len())
}

/// Where one top-level field stands, as byte offsets into the object's text.
#[derive(Debug)]
pub(crate) struct Field {
    /// The key, where it is not simply what stands between its quotes.
    escaped: Option<Box<str>>,
    key_start: usize,
    key_end: usize,
    value_start: usize,
    value_end: usize,
}

/// `text` and `raw` are the text that the field was found in.
impl Field {
    pub fn key<'a>(&'a self, text: &'a str) -> &'a str {
        self.escaped.as_deref().unwrap_or_else(|| &text[self.key_start + 1..self.key_end - 1])
    }

    pub fn is(&self, raw: &[u8], key: &str) -> bool {
        self.escaped.as_deref().map_or(&raw[self.key_start + 1..self.key_end - 1], str::as_bytes) == key.as_bytes()
    }

    pub fn value<'a>(&self, text: &'a str) -> &'a str {
        &text[self.value_start..self.value_end]
    }

    pub fn value_bytes<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        &raw[self.value_start..self.value_end]
    }
}

/// The top-level fields of the object in `text`, in their order.
pub(crate) fn fields(text: &str) -> Result<Vec<Field>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let fields = parser.deserialize_map(Fields { text })?;
    parser.end()?;
    Ok(fields)
}

struct Fields<'a> {
    text: &'a str,
}

/// A key as it stands, or unescaped.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Fields<'de> {
    type Value = Vec<Field>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let base = self.text.as_ptr() as usize;
        let mut searched = 0;
        let mut found = Vec::with_capacity(16);
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            let value_start = value.get().as_ptr() as usize - base;
            let value_end = value_start + value.get().len();
            // Between the previous value and this one stands only `{` or `,`, white space, the key and `:`.
            let between = &self.text[searched..value_start];
            let key_start = searched + between.find('"').unwrap_or(0);
            let key_end = searched + between.rfind('"').map_or(0, |at| at + 1);
            searched = value_end;
            let escaped = match key {
                Cow::Borrowed(_) => None,
                Cow::Owned(key) => Some(key.into()),
            };
            found.push(Field { escaped, key_start, key_end, value_start, value_end });
        }
        Ok(found)
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
