//! Files without a grammar here: documents, markup, lists, settings.

use super::phrases;

/// Characters of text beside a promise that make it a remark.
const SUBSTANCE: usize = 60;

pub(super) fn of_text(name: &str, trimmed: &str) -> Option<String> {
    let said = |text: &str| format!("a promise instead of content: {:?}", crate::verify::text::excerpt(text.trim(), 80));
    let lower = trimmed.to_lowercase();
    if lower.contains("lorem ipsum") && trimmed.len() < 4000 {
        return Some("filler text".into());
    }
    let settings = is_settings(name);
    if settings && let Some(why) = super::open_ends::of_settings(name, None, trimmed) {
        return Some(why);
    }
    let document = is_document(name);
    if document && trimmed.len() < 400 && trimmed.contains("{{") && without_templates(trimmed).split_whitespace().all(|word| word.len() < 2)
    {
        return Some("a template that nobody filled in".into());
    }
    let mut substance = 0;
    let mut promise: Option<&str> = None;
    let mut fenced = false;
    for line in trimmed.lines().map(str::trim).filter(|line| !line.is_empty()) {
        fenced ^= line.starts_with("```");
        // Examples in a document leave out what they like.
        if fenced {
            substance += line.len();
            continue;
        }
        let comment = is_comment(name, line);
        // The points of a list to tick off.
        if document && (line.starts_with("- [") || line.starts_with("* [")) {
            substance += line.len();
            continue;
        }
        // A heading announces, it does not say.
        if line.starts_with('#') && !comment {
            continue;
        }
        let body = untagged(&line.replace("placeholder=", "title="));
        // In settings and data only comments speak; values such as "your-key-here" are for the reader to fill in.
        if comment || !settings {
            let boxed = comment || line.starts_with(['.', '…', '[', '(', '<', '*', '_']);
            if phrases::elides(&body) && boxed && line.len() < 120 && trimmed.len() < 6000 && line.chars().any(char::is_alphabetic) {
                return Some(format!("content is left out: {:?}", crate::verify::text::excerpt(line, 80)));
            }
            if phrases::promises(&body) && body.len() < 160 && (comment || !document || !mentions(&body)) {
                promise = promise.or(Some(line));
                continue;
            }
        }
        if !comment {
            substance += if settings { SUBSTANCE } else { body.trim().chars().count() };
        }
    }
    promise.filter(|line| substance < SUBSTANCE && (substance == 0 || phrases::asks_for_content(line))).map(said)
}

fn is_document(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    [".md", ".rst", ".adoc"].iter().any(|ending| lower.ends_with(ending)) || lower.starts_with("readme")
}

/// A sentence that speaks of a todo, a placeholder, a stub, instead of being one.
fn mentions(body: &str) -> bool {
    let bare = body.trim_start_matches(|c: char| !c.is_alphanumeric());
    let first = bare.split(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
    let marks = matches!(first, "TODO" | "FIXME" | "TBD" | "WIP" | "XXX") && !bare[first.len()..].starts_with(['-', '_']);
    let told = bare[first.len()..].trim_start().starts_with([':', '(', '-']);
    bare.split_whitespace().count() > 6 && !(marks && told)
}

/// Words outside headings and `{{ templates }}`.
fn without_templates(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().chars().all(|c| "=-~".contains(c)));
    let mut rest: String = lines.collect::<Vec<_>>().join("\n");
    while let Some(open) = rest.find("{{") {
        let close = rest[open..].find("}}").map_or(rest.len(), |close| open + close + 2);
        rest.replace_range(open..close, " ");
    }
    rest
}

/// Files of keys and values or of names, a line each.
fn is_settings(name: &str) -> bool {
    let ending = name.rsplit('.').next().unwrap_or("").to_ascii_lowercase();
    name.starts_with(".env")
        || name.starts_with(".git")
        || name.starts_with("requirements")
        || matches!(
            ending.as_str(),
            "env"
                | "ini"
                | "cfg"
                | "conf"
                | "json"
                | "properties"
                | "csv"
                | "lock"
                | "example"
                | "sample"
                | "in"
                | "xml"
                | "svg"
                | "mk"
                | "css"
                | "scss"
                | "tf"
                | "hcl"
                | "proto"
                | "graphql"
                | "gql"
                | "gradle"
                | "cmake"
        )
        || name == "Makefile"
}

fn is_comment(name: &str, line: &str) -> bool {
    let markdown = name.to_ascii_lowercase().ends_with(".md") || name.to_ascii_lowercase().ends_with(".rst");
    line.starts_with("<!--")
        || line.starts_with("/*")
        || line.starts_with("//")
        || line.starts_with("{#")
        || (!markdown && (line.starts_with('#') || line.starts_with(';') || line.starts_with("--")))
}

/// A line without its tags.
fn untagged(line: &str) -> String {
    if line.starts_with("<!--") || !line.contains('<') {
        return line.to_owned();
    }
    let mut text = String::with_capacity(line.len());
    let mut inside = false;
    for c in line.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => inside = false,
            c if !inside => text.push(c),
            _ => {}
        }
    }
    // A lone tag without attributes may be a note in brackets.
    if text.trim().is_empty() && !line.contains(['=', '/', '!']) { line.to_owned() } else { text }
}
