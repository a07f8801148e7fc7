//! The one JSON value in a text with prose, fences and labels around it.

use super::lenient::{self, Found, Stop};
use super::{Given, Repaired, Stage, Why};

/// More values than this in one answer is a listing, not an answer.
const CANDIDATES_MAX: usize = 64;

/// A value and how it stands in the text.
struct Candidate {
    found: Found,
    start: usize,
    /// Behind a fence that has opened.
    fenced: bool,
    /// Text stands before it on its line.
    inline: bool,
}

/// Finds the only value, mends it, drops what is around it.
pub(super) fn only_value(text: &str, given: &Given<'_>) -> Repaired {
    if let Some(repaired) = escaped(text).or_else(|| quoted(text, given)) {
        return repaired;
    }
    let candidates = match candidates(text) {
        Ok(candidates) => candidates,
        Err(Stop::Cut { at }) => return Repaired::Cut { at },
        Err(Stop::Declined { at, why }) => return Repaired::Declined { at, why },
    };
    let (candidate, repeated) = match chosen(text, candidates, given) {
        Ok(chosen) => chosen,
        Err(Some(why)) => return Repaired::Declined { at: 0, why },
        Err(None) => return scalar(text).unwrap_or_else(|| nothing(text, given)),
    };
    delivered(text, candidate, repeated, given)
}

fn delivered(text: &str, candidate: Candidate, repeated: bool, given: &Given<'_>) -> Repaired {
    let Candidate { found, start, fenced, .. } = candidate;
    if found.missing > 0 && (given.cut_by_length || found.lacking || given.fits.is_some_and(|fits| !fits(&found.text))) {
        return Repaired::Cut { at: found.end };
    }
    let mut stages = found.stages;
    let (before, mut behind) = (&text[..start], &text[found.end..]);
    if repeated {
        stages.push(Stage::Repetition);
    } else {
        match extra_closers(behind) {
            Ok(0) => {}
            Ok(length) => {
                stages.push(Stage::ExtraClosers);
                behind = &behind[length..];
            }
            Err(why) => return Repaired::Declined { at: found.end, why },
        }
        let trimmed = behind.trim_start();
        if let Some(rest) = trimmed.strip_prefix(',') {
            if !lenient::ends_here(rest.trim_start()) {
                return Repaired::Declined { at: found.end, why: Why::Ambiguous("more members follow the end of the value") };
            }
            stages.push(Stage::StrayComma);
            behind = rest;
        } else if trimmed.starts_with([':', '"', '\'']) {
            return Repaired::Declined { at: found.end, why: Why::Ambiguous("more members follow the end of the value") };
        }
    }
    stages.extend(around(before, behind, fenced));
    Repaired::Mended { text: found.text, stages }
}

/// Stages for what was dropped around the value.
fn around(before: &str, behind: &str, fenced: bool) -> Vec<Stage> {
    let mut stages = Vec::new();
    let is_fence = |text: &str| text.contains("``");
    if fenced || is_fence(before) || is_fence(behind) {
        stages.push(Stage::Fence);
    }
    let comments_only = |text: &str| {
        let mut rest = text.trim_start();
        let mut any = false;
        while let Some(length) = lenient::comment(rest) {
            any = true;
            rest = rest[length..].trim_start();
        }
        any && rest.is_empty()
    };
    for text in [before, behind] {
        let words = text.trim().trim_matches('`').trim();
        if comments_only(text) {
            stages.push(Stage::Comments);
        } else if !words.is_empty() && !words.chars().all(|c| c.is_ascii_alphanumeric() && text.contains("``")) {
            stages.push(Stage::Prose);
        }
    }
    stages
}

/// Length of one or two closing brackets behind a value; more of them ask what was opened.
fn extra_closers(behind: &str) -> Result<usize, Why> {
    let mut length = 0;
    let mut closers = 0;
    for (at, c) in behind.char_indices() {
        match c {
            '}' | ']' => {
                closers += 1;
                length = at + 1;
            }
            ' ' | '\n' | '\r' | '\t' => {}
            _ => break,
        }
    }
    if closers > 2 {
        return Err(Why::Ambiguous("closing brackets do not match"));
    }
    Ok(length)
}

/// All values of a text, in order.
fn candidates(text: &str) -> Result<Vec<Candidate>, Stop> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut fenced = false;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let Some(step) = rest.find(['{', '[', '`', '<', '/', '#']) else { break };
        at += step;
        let rest = &text[at..];
        if rest.starts_with("``") {
            fenced = !fenced;
            at += rest.len() - rest.trim_start_matches('`').len();
        } else if !rest.starts_with(['{', '[']) {
            if !candidates.is_empty() && lenient::ends_here(rest) {
                break;
            }
            at += comment_before(text, at, candidates.is_empty());
        } else if looks_like_json(rest) {
            if candidates.len() == CANDIDATES_MAX {
                return Err(Stop::Declined { at, why: Why::Several });
            }
            let found = match lenient::value(text, at) {
                Ok(found) => found,
                // Behind a whole value, prose may hold brackets that are no JSON.
                Err(Stop::Declined { .. }) if !candidates.is_empty() && !fenced && is_inline(text, at) => {
                    at += 1;
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            let end = found.end;
            candidates.push(Candidate { found, start: at, fenced, inline: is_inline(text, at) });
            at = end;
        } else {
            at += aside(text, at, rest, candidates.is_empty())?;
        }
    }
    Ok(candidates)
}

/// Steps over a comment that stands where only blanks and comments stood before; brackets in it are words.
fn comment_before(text: &str, at: usize, nothing_yet: bool) -> usize {
    let line = text[..at].rfind('\n').map_or(0, |line| line + 1);
    let own_line = text[line..at].trim().is_empty();
    if nothing_yet && own_line { lenient::comment(&text[at..]).unwrap_or(1) } else { 1 }
}

/// Steps over brackets in prose: `[a link](..)`, `[INST]`, `{a word}`.
fn aside(text: &str, at: usize, rest: &str, nothing_yet: bool) -> Result<usize, Stop> {
    let close = if rest.starts_with('{') { '}' } else { ']' };
    let window = rest.char_indices().nth(200).map_or(rest, |(end, _)| &rest[..end]);
    let end = window.find(close).filter(|end| !window[1..*end].contains(['\n', '"', '{', '[', ':']));
    let at_root = nothing_yet && text[..at].trim().trim_matches('`').is_empty() && rest.starts_with('{');
    match end {
        Some(end) if !at_root => Ok(end + 1),
        _ if !nothing_yet => Ok(1),
        _ => Err(Stop::Declined { at, why: Why::Ambiguous("brackets that are not JSON") }),
    }
}

/// What opens here is meant as JSON.
fn looks_like_json(rest: &str) -> bool {
    let object = rest.starts_with('{');
    let mut inner = rest[1..].trim_start_matches(|c: char| c.is_whitespace() || lenient::is_odd_blank(c));
    while let Some(length) = lenient::comment(inner) {
        inner = inner[length..].trim_start();
    }
    while let Some(more) = inner.strip_prefix("\\n") {
        inner = more.trim_start();
    }
    let Some(first) = inner.chars().next() else { return true };
    let quoted = matches!(first, '"' | '\'' | '“' | '”' | '„' | '‘' | '`');
    if object {
        return quoted || matches!(first, '}' | ',' | '\\') || lenient::bare_key(inner).is_some();
    }
    let word = || {
        let length = inner.find(|c: char| !c.is_alphanumeric()).unwrap_or(inner.len());
        matches!(&inner[..length], "true" | "false" | "null" | "True" | "False" | "None")
    };
    quoted || matches!(first, '{' | '[' | ']' | ',' | '-' | '.' | '…' | '0'..='9') || word()
}

fn is_inline(text: &str, at: usize) -> bool {
    let line = text[..at].rfind('\n').map_or(0, |line| line + 1);
    !text[line..at].trim_matches(|c: char| c.is_whitespace() || c == '`' || lenient::is_odd_blank(c)).is_empty()
}

/// The value that is meant, and whether it was said more than once. `Err(None)`: there is none.
fn chosen(text: &str, mut candidates: Vec<Candidate>, given: &Given<'_>) -> Result<(Candidate, bool), Option<Why>> {
    if candidates.len() > 1 {
        // Citations and empty brackets in the prose beside an answer.
        let in_words = |start: usize| !text[..start].trim_end().ends_with(['}', ']', ',']);
        let is_aside =
            |candidate: &Candidate| candidate.inline && !candidate.fenced && is_small(&candidate.found.text) && in_words(candidate.start);
        if candidates.iter().any(|candidate| !is_aside(candidate)) {
            candidates.retain(|candidate| !is_aside(candidate));
        }
    }
    if candidates.len() > 1
        && let Some(fits) = given.fits
    {
        let fitting: Vec<bool> = candidates.iter().map(|candidate| fits(&candidate.found.text)).collect();
        if fitting.iter().filter(|fits| **fits).count() == 1 {
            let at = fitting.iter().position(|fits| *fits).unwrap_or(0);
            return Ok((candidates.swap_remove(at), true));
        }
    }
    let mut rest = candidates.into_iter();
    let first = rest.next().ok_or(None)?;
    if in_code(text, &first) || (rest.len() == 0 && in_passing(text, &first)) {
        return Err(Some(Why::Ambiguous("the JSON is part of something else")));
    }
    let mut repeated = false;
    for other in rest {
        let listed = text[..other.start].trim_end().ends_with(',');
        if listed || is_small(&first.found.text) || !same(&first.found.text, &other.found.text) {
            return Err(Some(Why::Several));
        }
        repeated = true;
    }
    Ok((first, repeated))
}

/// `[1]`, `{}`: nothing an answer would consist of beside another.
fn is_small(text: &str) -> bool {
    let inner = text[1..text.len() - 1].trim();
    inner.chars().all(|c| c.is_ascii_digit() || c == ',' || c == ' ' || c == '-')
}

/// Equal but for blanks between tokens.
fn same(one: &str, other: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other || parse(one).is_some_and(|value| parse(other) == Some(value))
}

/// An assignment, a call, a YAML or XML document: the JSON in it is not the answer.
fn in_code(text: &str, candidate: &Candidate) -> bool {
    if !candidate.inline {
        return false;
    }
    let before = text[..candidate.start].trim_end();
    if before.ends_with(['=', '+', ',', '{', '[', '&', '|']) || before.ends_with("return") || (candidate.fenced && in_program(before)) {
        return true;
    }
    let yaml = |line: &&str| {
        let line = line.trim_start().trim_start_matches("- ");
        let key = line.find(|c: char| !(c.is_alphanumeric() || "_-.".contains(c))).unwrap_or(line.len());
        // "User: …", "Action: …" are labels of a conversation.
        let label = line.starts_with(char::is_uppercase);
        key > 0 && !label && (line[key..].starts_with(": ") || &line[key..] == ":")
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    before.ends_with(':') && lines.filter(yaml).count() >= 2
}

/// The fence that is open at the end of `before` holds a program, and its code has begun.
fn in_program(before: &str) -> bool {
    let Some((_, inside)) = before.rsplit_once("```") else { return false };
    let Some((label, _)) = inside.split_once('\n') else { return false };
    let label = label.trim().to_ascii_lowercase();
    ["python", "py", "bash", "sh", "shell", "console", "ruby", "go", "rust", "java", "yaml", "yml", "xml", "html"].contains(&label.as_str())
}

/// A bracket or two in a sentence, or an example of what is not given: the only JSON of the text, and still not the answer.
fn in_passing(text: &str, candidate: &Candidate) -> bool {
    let before = text[..candidate.start].trim_end();
    let behind = text[candidate.found.end..].trim_start();
    if !candidate.inline || candidate.fenced || before.ends_with([':', '>', '(', '`', '"', '\'', '*']) {
        return false;
    }
    let goes_on = behind.starts_with(|c: char| c.is_alphanumeric() || c == '.' || c == ',');
    if is_small(&candidate.found.text) {
        return goes_on || behind.is_empty() && before.ends_with(char::is_alphanumeric) && !before.contains('\n');
    }
    let example = ["for example", "for instance", "such as", "e.g.", " like"];
    let lower = before.to_lowercase();
    example.iter().any(|words| lower.ends_with(words)) && (goes_on || crate::verify::is_refusal(before))
}

/// A string at the root that holds JSON, with line breaks that JSON strings may not have, or with prose or a fence before it.
fn quoted(text: &str, given: &Given<'_>) -> Option<Repaired> {
    use super::strings::{Quote, string};
    if given.string_wanted {
        return None;
    }
    let whole = unfenced(text);
    let (before, trimmed) = if whole.starts_with(['"', '\'']) { ("", whole) } else { packed_line(text)? };
    let quote = Quote::opening(trimmed)?;
    let mut out = String::new();
    let read = string(trimmed, 0, quote, quote == Quote::Single, &mut out).ok()?;
    let behind = &trimmed[read.end..];
    if !behind.trim_matches(|c: char| c.is_whitespace() || c == '`').is_empty() {
        return None;
    }
    let inner: String = serde_json::from_str(&out).ok()?;
    if !inner.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let (text, mut stages) = match super::json(&inner, &Given { string_wanted: true, ..*given }) {
        Repaired::Clean => (inner, Vec::new()),
        Repaired::Mended { text, stages } => (text, stages),
        _ => return None,
    };
    stages.push(Stage::DoubleEncoding);
    stages.extend(around(before, behind, false));
    Some(Repaired::Mended { text, stages })
}

/// The line that begins with a quote and JSON inside it, and what stands before; `None` if that holds brackets of its own.
fn packed_line(text: &str) -> Option<(&str, &str)> {
    let at =
        text.match_indices('\n').map(|(at, _)| at + 1).find(|at| ["\"{", "\"["].iter().any(|opening| text[*at..].starts_with(opening)))?;
    let (before, line) = text.split_at(at);
    (!before.contains(['{', '['])).then_some((before, line.trim_end()))
}

/// `{\"a\": \"b\"}`: the inside of a JSON string without its quotes.
fn escaped(text: &str) -> Option<Repaired> {
    let trimmed = unfenced(text);
    let opens = trimmed.starts_with(['{', '[']) && trimmed.contains("\\\"");
    let bytes = trimmed.as_bytes();
    let all_escaped = || memchr::memchr_iter(b'"', bytes).all(|at| at > 0 && bytes[at - 1] == b'\\');
    if !opens || !all_escaped() {
        return None;
    }
    let body = trimmed.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    let inner: String = serde_json::from_str(&format!("\"{body}\"")).ok()?;
    let whole = crate::verify::json::Scan::whole(&inner).is_ok();
    whole.then(|| Repaired::Mended { text: inner, stages: vec![Stage::DoubleEncoding] })
}

/// The inside of a fence that is the whole text; the text itself where there is none.
fn unfenced(text: &str) -> &str {
    let trimmed = text.trim();
    let inner = trimmed.strip_prefix("```").and_then(|inner| inner.strip_suffix("```"));
    inner.map_or(trimmed, |inner| inner.strip_prefix("json").unwrap_or(inner).trim())
}

/// A lone number, string or word in a fence.
fn scalar(text: &str) -> Option<Repaired> {
    let inner = unfenced(text);
    crate::verify::json::Scan::whole(inner).is_ok().then(|| Repaired::Mended { text: inner.to_owned(), stages: vec![Stage::Fence] })
}

fn nothing(text: &str, given: &Given<'_>) -> Repaired {
    if given.cut_by_length || text.trim().is_empty() {
        Repaired::Cut { at: text.len() }
    } else {
        Repaired::Declined { at: 0, why: Why::NoJson }
    }
}
