//! Where a config is wrong, what is wrong, and what to write instead.

use std::ops::Range;
use std::path::Path;

/// A config that cannot be used. `Display` is ready for a terminal: file, line, caret, remedy.
#[derive(Debug, thiserror::Error)]
#[error("{rendered}")]
pub struct ConfigError {
    rendered: String,
}

/// A fault before it is located in a file.
pub(crate) struct Fault {
    pub span: Option<Range<usize>>,
    pub message: String,
    pub remedy: String,
    /// Text within `span` at which the caret should point.
    needle: Option<String>,
}

impl Fault {
    /// Without a span, a message or remedy that begins with the key it is about (`limits.in_flight is 0`) is located by it.
    pub fn new(span: Option<Range<usize>>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { span, message: message.into(), remedy: remedy.into(), needle: None }
    }

    /// As `new`, with the caret under `needle` inside `span`.
    pub fn within(span: Range<usize>, needle: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { needle: Some(needle.to_owned()), ..Self::new(Some(span), message, remedy) }
    }

    pub fn located(self, name: &str, text: &str) -> ConfigError {
        let span = self
            .span
            .map(|span| narrowed(text, span, self.needle.as_deref()))
            .or_else(|| mentioned(text, &self.message))
            .or_else(|| mentioned(text, &self.remedy));
        ConfigError { rendered: render(name, text, span, &self.message, &self.remedy) }
    }
}

impl ConfigError {
    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let remedy = "name an existing file, or leave it out to use the built-in config";
        Self { rendered: format!("error: cannot read {}: {error}\n  help: {remedy}", path.display()) }
    }

    pub(crate) fn syntax(name: &str, text: &str, error: &toml::de::Error) -> Self {
        let message = error.message().trim();
        let remedy = if message.contains("unknown field") || message.contains("unknown variant") {
            "remove or rename it; config/gateway.toml lists every key"
        } else if message.contains("missing field") {
            "add the key; config/gateway.toml shows it with its default"
        } else {
            "config/gateway.toml shows the form of every key"
        };
        Self { rendered: render(name, text, error.span(), message, remedy) }
    }
}

fn narrowed(text: &str, span: Range<usize>, needle: Option<&str>) -> Range<usize> {
    let found = needle.and_then(|needle| Some((text.get(span.clone())?.find(needle)? + span.start, needle.len())));
    found.map_or(span, |(start, length)| start..start + length)
}

/// Where the key is that the words begin with, or as much of its path as the file has.
fn mentioned(text: &str, words: &str) -> Option<Range<usize>> {
    let path = words.split([' ', ':']).next()?.split('.');
    let document = toml::de::DeTable::parse(text).ok()?;
    let (mut table, mut found) = (Some(document.get_ref()), None);
    for part in path {
        let Some((key, value)) = table.and_then(|table| table.get_key_value(part)) else { break };
        found = Some(key.span());
        table = value.get_ref().as_table();
    }
    found
}

/// Lays a fault out as rustc does.
fn render(name: &str, text: &str, span: Option<Range<usize>>, message: &str, remedy: &str) -> String {
    let Some(span) = span else { return format!("error: {message}\n --> {name}\n  help: {remedy}") };
    let start = span.start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let number = text[..start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count();
    let width = text.get(start..span.end.min(line_start + line.len())).map_or(1, |marked| marked.chars().count().max(1));
    let gutter = " ".repeat(number.to_string().len());
    format!(
        "error: {message}\n{gutter}--> {name}:{number}:{}\n{gutter} |\n{number} | {line}\n{gutter} | {}{}\n{gutter} = help: {remedy}",
        column + 1,
        " ".repeat(column),
        "^".repeat(width)
    )
}
