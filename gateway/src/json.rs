//! Pieces of JSON, appended to a text that is written straight.

use std::fmt::Write as _;

/// What stands between the quotes of a JSON string.
pub(crate) fn inner(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        let quoted = serde_json::Value::from(text).to_string();
        out.push_str(&quoted[1..quoted.len() - 1]);
    }
}

/// True where a quoted text needs no escapes, in JSON and in Rust. No byte ends the look early: so it is made of many at once.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\'))
}

/// JSON has no word for what is no number: 0 then. Several times as fast as std's way to the shortest digits.
pub(crate) fn number(out: &mut String, value: f64) {
    match serde_json::Number::from_f64(value) {
        Some(number) => drop(write!(out, "{number}")),
        None => out.push('0'),
    }
}
