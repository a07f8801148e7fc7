//! Values bent to a schema: a number out of its quotes, one value for a list of one, the case of an enum, a key misspelt.
//!
//! A step is taken where the schema at that place leaves one choice, and the result counts only if the whole then fits.
//! The text is spliced; what is not bent keeps its bytes.

use serde_json::{Map, Value};

use super::Stage;

/// Steps tried on one text.
const STEPS_MAX: usize = 256;
/// Schemas followed through references at one place.
const FOLLOW_MAX: usize = 32;

/// Bends the values of a JSON text to `schema` until `fits` says yes. `None` if no sequence of unique steps gets there.
#[must_use]
pub fn coerce(text: &str, schema: &Value, fits: &dyn Fn(&Value) -> bool) -> Option<(String, Vec<Stage>)> {
    let value: Value = serde_json::from_str(text).ok()?;
    let mut bender = Bender { root: schema, text, edits: Vec::new(), stages: Vec::new() };
    let mut at = 0;
    bender.value(&value, schema, &mut at)?;
    if bender.edits.is_empty() {
        return None;
    }
    let bent = bender.spliced();
    let value: Value = serde_json::from_str(&bent).ok()?;
    let Bender { mut stages, .. } = bender;
    stages.sort_unstable();
    stages.dedup();
    fits(&value).then_some((bent, stages))
}

/// Walks a text and its value side by side.
struct Bender<'a> {
    root: &'a Value,
    text: &'a str,
    /// Spans of `text` and what stands there instead, in order.
    edits: Vec<(usize, usize, String)>,
    stages: Vec<Stage>,
}

impl<'a> Bender<'a> {
    /// Bends the value that starts at or behind `at` and leaves `at` behind it. `None`: too much to do.
    fn value(&mut self, value: &Value, schema: &'a Value, at: &mut usize) -> Option<()> {
        if self.edits.len() > STEPS_MAX {
            return None;
        }
        self.blanks(at);
        let start = *at;
        let schema = self.followed(schema);
        match value {
            Value::Object(map) if takes(schema, "object") => self.object(map, schema, at)?,
            Value::Array(list) if takes(schema, "array") => self.array(list, schema, at)?,
            _ => {
                *at = end_of(self.text, start)?;
                if let Some((instead, stage)) = self.instead(value, schema, start, *at) {
                    self.edits.push((start, *at, instead));
                    self.stages.push(stage);
                }
            }
        }
        Some(())
    }

    fn object(&mut self, map: &Map<String, Value>, schema: &'a Value, at: &mut usize) -> Option<()> {
        *at += 1;
        loop {
            self.blanks(at);
            match self.text.as_bytes().get(*at)? {
                b'}' => break,
                b',' => *at += 1,
                _ => {
                    let start = *at;
                    *at = end_of(self.text, start)?;
                    let key: String = serde_json::from_str(&self.text[start..*at]).ok()?;
                    let wanted = wanted_key(&key, map, schema);
                    if let Some(wanted) = &wanted {
                        self.edits.push((start, *at, Value::from(wanted.as_str()).to_string()));
                        self.stages.push(Stage::CoercedKey);
                    }
                    self.blanks(at);
                    *at += 1;
                    let inner = property(schema, wanted.as_deref().unwrap_or(&key));
                    // With a key twice the map holds the last value only; its text is walked, not bent.
                    match (map.get(&key), inner) {
                        (Some(value), Some(inner)) => self.value(value, inner, at)?,
                        _ => {
                            self.blanks(at);
                            *at = end_of(self.text, *at)?;
                        }
                    }
                }
            }
        }
        *at += 1;
        Some(())
    }

    fn array(&mut self, list: &[Value], schema: &'a Value, at: &mut usize) -> Option<()> {
        *at += 1;
        let mut items = list.iter().enumerate();
        loop {
            self.blanks(at);
            match self.text.as_bytes().get(*at)? {
                b']' => break,
                b',' => *at += 1,
                _ => {
                    let (place, value) = items.next()?;
                    match item(schema, place) {
                        Some(inner) => self.value(value, inner, at)?,
                        None => *at = end_of(self.text, *at)?,
                    }
                }
            }
        }
        *at += 1;
        Some(())
    }

    /// What a value should be instead, if the schema leaves one choice.
    fn instead(&self, value: &Value, schema: &'a Value, start: usize, end: usize) -> Option<(String, Stage)> {
        let said = &self.text[start..end];
        if let Some(Value::Array(choices)) = schema.get("enum") {
            return enumerated(value, choices).map(|choice| (choice, Stage::CoercedEnum));
        }
        let scalar = !value.is_array() && !value.is_object();
        let kind = kind_of(value);
        let only = schema.get("type").and_then(Value::as_str);
        if scalar && only == Some("array") && !value.is_null() {
            let inner = self.followed(item(schema, 0)?);
            return takes(inner, kind).then(|| (format!("[{said}]"), Stage::CoercedArray));
        }
        let text = value.as_str()?;
        // What a string in quotes can only have meant, where no string is wanted.
        match only? {
            "integer" => is_integer(text).then(|| (text.to_owned(), Stage::CoercedNumber)),
            "number" => crate::verify::json::Scan::whole(text)
                .is_ok_and(|()| text.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
                .then(|| (text.to_owned(), Stage::CoercedNumber)),
            "boolean" => match text.to_ascii_lowercase().as_str() {
                "true" => Some(("true".into(), Stage::CoercedNumber)),
                "false" => Some(("false".into(), Stage::CoercedNumber)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The schema that a local reference leads to; itself where there is none, or a choice of one.
    fn followed(&self, schema: &'a Value) -> &'a Value {
        let mut at = schema;
        for _ in 0..FOLLOW_MAX {
            let next = match (at.get("$ref").and_then(Value::as_str), at.get("allOf").and_then(Value::as_array)) {
                (Some(reference), _) => reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)),
                (None, Some(all)) if all.len() == 1 && at.get("type").is_none() => all.first(),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => return at,
            }
        }
        at
    }

    fn blanks(&self, at: &mut usize) {
        while self.text.as_bytes().get(*at).is_some_and(u8::is_ascii_whitespace) {
            *at += 1;
        }
    }

    fn spliced(&self) -> String {
        let mut bent = String::with_capacity(self.text.len());
        let mut from = 0;
        for (start, end, instead) in &self.edits {
            bent.push_str(&self.text[from..*start]);
            bent.push_str(instead);
            from = *end;
        }
        bent.push_str(&self.text[from..]);
        bent
    }
}

/// The end of the valid JSON value or key that starts at `start`.
fn end_of(text: &str, start: usize) -> Option<usize> {
    let mut stream = serde_json::Deserializer::from_str(text.get(start..)?).into_iter::<&serde_json::value::RawValue>();
    stream.next()?.ok()?;
    Some(start + stream.byte_offset())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The schema's `type` allows this kind, or says nothing.
fn takes(schema: &Value, kind: &str) -> bool {
    let is = |word: &Value| word.as_str().is_some_and(|word| word == kind || (word == "number" && kind == "integer"));
    match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(is),
        Some(one) => is(one),
        None => true,
    }
}

fn property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get("properties")?.get(key)
}

fn item(schema: &Value, place: usize) -> Option<&Value> {
    let fixed = schema.get("prefixItems").or_else(|| schema.get("items").filter(|items| items.is_array()));
    if let Some(one) = fixed.and_then(|fixed| fixed.get(place)) {
        return Some(one);
    }
    schema.get("items").filter(|items| items.is_object())
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'))
}

/// The one choice that a value equals but for case, blanks and separators, or but for its quotes.
fn enumerated(value: &Value, choices: &[Value]) -> Option<String> {
    if choices.contains(value) {
        return None;
    }
    let said = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => return None,
    };
    let alike = |choice: &&Value| match choice {
        Value::String(text) => folded(text) == folded(&said),
        Value::Number(number) => number.to_string() == said.trim(),
        Value::Bool(truth) => said.trim() == if *truth { "true" } else { "false" },
        _ => false,
    };
    let mut found = choices.iter().filter(alike);
    let first = found.next()?;
    found.next().is_none().then(|| first.to_string())
}

/// Letters and digits alone, in lower case.
fn folded(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The key the schema knows that an unknown key must have meant: one missing property, alike but for case and separators or for one letter.
fn wanted_key(key: &str, map: &Map<String, Value>, schema: &Value) -> Option<String> {
    let properties = schema.get("properties")?.as_object()?;
    if properties.contains_key(key) {
        return None;
    }
    // Where other keys are welcome, only a key that must be there can have been meant.
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    let required = |wanted: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|name| name.as_str() == Some(wanted)))
    };
    let missing = || properties.keys().filter(|wanted| !map.contains_key(*wanted) && (closed || required(wanted)));
    let alike: Vec<&String> = missing().filter(|wanted| folded(wanted) == folded(key)).collect();
    let near: Vec<&String> = if alike.is_empty() { missing().filter(|wanted| one_letter_apart(wanted, key)).collect() } else { alike };
    // Two keys that would become one are two readings.
    let rivals = |wanted: &str| map.keys().filter(|other| folded(other) == folded(wanted) || one_letter_apart(other, wanted)).count();
    match near.as_slice() {
        [one] if rivals(one) == 1 => Some((*one).clone()),
        _ => None,
    }
}

/// One letter more, less or other, in words long enough to be sure.
fn one_letter_apart(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.to_lowercase().chars().collect(), other.to_lowercase().chars().collect());
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    if short.len() < 5 || long.len() - short.len() > 1 {
        return false;
    }
    let head = short.iter().zip(&long).take_while(|(a, b)| a == b).count();
    let tail = |skip: usize| short[head + skip..] == long[head + 1..];
    short != long && if short.len() == long.len() { tail(1) } else { tail(0) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, text: &str, want: Option<(&str, &[Stage])>) {
        let compiled = crate::verify::Schema::compile(&schema.to_string()).unwrap();
        let got = coerce(text, schema, &|value| compiled.fits(value));
        assert_eq!(got.as_ref().map(|(text, stages)| (text.as_str(), stages.as_slice())), want, "{text}");
    }

    #[test]
    fn bends_what_has_one_reading() {
        let schema = json!({
            "type": "object",
            "properties": {
                "count": {"type": "integer"},
                "ratio": {"type": "number"},
                "live": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "level": {"enum": ["low", "high"]},
                "file_name": {"type": "string"},
                "inner": {"$ref": "#/$defs/inner"}
            },
            "additionalProperties": false,
            "$defs": {"inner": {"type": "object", "properties": {"n": {"type": "integer"}}}}
        });
        check(&schema, r#"{ "count" : "12345678901234567" }"#, Some((r#"{ "count" : 12345678901234567 }"#, &[Stage::CoercedNumber])));
        check(&schema, r#"{"ratio": "1.50", "live": "True"}"#, Some((r#"{"ratio": 1.50, "live": true}"#, &[Stage::CoercedNumber])));
        check(&schema, r#"{"tags": "a\n"}"#, Some((r#"{"tags": ["a\n"]}"#, &[Stage::CoercedArray])));
        check(&schema, r#"{"level": "HIGH"}"#, Some((r#"{"level": "high"}"#, &[Stage::CoercedEnum])));
        check(&schema, r#"{"fileName": "x"}"#, Some((r#"{"file_name": "x"}"#, &[Stage::CoercedKey])));
        check(&schema, r#"{"file_nam": "x"}"#, Some((r#"{"file_name": "x"}"#, &[Stage::CoercedKey])));
        check(&schema, r#"{"inner": {"n": "3"}}"#, Some((r#"{"inner": {"n": 3}}"#, &[Stage::CoercedNumber])));
    }

    #[test]
    fn leaves_what_has_none_or_several() {
        let schema = json!({
            "type": "object",
            "properties": {"count": {"type": "integer"}, "level": {"enum": ["low", "Low"]}, "colour": {"type": "string"}},
            "required": ["count"],
            "additionalProperties": false
        });
        for text in [
            r#"{"count": "twelve"}"#,
            r#"{"count": "012"}"#,
            r#"{"count": 1, "level": "LOW"}"#,
            r#"{"count": 1, "color": "x", "colours": "y"}"#,
            r#"{"count": "1", "more": 2}"#,
            "[]",
        ] {
            check(&schema, text, None);
        }
    }
}
