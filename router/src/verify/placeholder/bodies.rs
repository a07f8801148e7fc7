//! Whether a body does anything: what each of its statements is worth.

use tree_sitter::Node;

use super::outline::{Stub, is_comment};
use super::phrases;
use crate::verify::code::Language;

/// Whether a body does nothing.
pub(super) fn stub(language: Language, body: Node<'_>, code: &str) -> Option<Stub> {
    let mut cursor = body.walk();
    let statements: Vec<Node<'_>> = body.named_children(&mut cursor).filter(|child| !is_comment(*child)).collect();
    let text = &code[body.byte_range()];
    let mut promise = false;
    // Comments may trail the block that they belong to.
    let line_end = code[body.end_byte()..].find('\n').map_or(code.len(), |end| body.end_byte() + end);
    for source in [text, &code[body.end_byte()..line_end]] {
        promise |= comments_in(source).any(phrases::promises);
    }
    let above = body.parent().and_then(|function| function.prev_named_sibling()).filter(|above| is_comment(*above));
    promise |= above.is_some_and(|above| phrases::is_still_to_do(&code[above.byte_range()]));
    // A comment directly before a Python block is not inside it.
    if let Some(before) = body.prev_named_sibling().filter(|before| is_comment(*before)) {
        promise |= phrases::promises(&code[before.byte_range()]);
    }
    let mut hollow = true;
    let mut trivial = 0;
    for (at, statement) in statements.iter().enumerate() {
        let text = code[statement.byte_range()].trim().trim_end_matches(';').trim();
        match worth(language, *statement, text, at == 0) {
            // Dots behind statements stand for more of them.
            Worth::Nothing if text == "..." && !hollow => return Some(Stub::Marked),
            Worth::Nothing => {}
            Worth::Confession => promise = true,
            Worth::Trivial => trivial += 1,
            Worth::Something => hollow = false,
        }
    }
    promise |= hollow && phrases::notes(comments_in(text));
    if !hollow || trivial > 1 || (trivial == 1 && !promise) {
        return None;
    }
    Some(if promise { Stub::Marked } else { Stub::Bare })
}

/// What a statement is worth to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    Nothing,
    /// It says that it does nothing yet.
    Confession,
    /// A constant answer, right in one place and a stand-in in another.
    Trivial,
    Something,
}

/// Answers that need no work, in lower case.
const CONSTANTS: &str = "[]|{}|\"\"|''|0|1|0.0|false|true|none|null|nil|dict()|list()|ok(())|ok(vec![])|json(vec![])|ok(json(vec![]))|vec![]|vec::new()|string::new()|\
    default::default()|-1|new arraylist<>()|list.of()|nil, nil|undefined|collections.emptylist()|()|set()";

fn worth(language: Language, statement: Node<'_>, text: &str, first: bool) -> Worth {
    let lower = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word)) && text.contains(['"', '\'', '`']);
    let confesses = || {
        let work = says(&[
            "not implemented",
            "not yet implemented",
            "notimplemented",
            "to be implemented",
            "unimplemented",
            "implement me",
            "not supported yet",
            "not yet supported",
        ]);
        let drawn = text.contains("</") && ["to be implemented", "not implemented", "implement me"].iter().any(|word| lower.contains(word));
        work || drawn || (says(&["todo"]) && !text.contains('{') && !lower.starts_with("return "))
    };
    match language {
        Language::Python => {
            if text == "pass"
                || text == "..."
                || (first
                    && text.starts_with(['"', '\'', 'r'])
                    && statement.kind() == "expression_statement"
                    && text.ends_with(['"', '\'']))
            {
                return Worth::Nothing;
            }
            if let Some(message) = text.strip_prefix("raise NotImplementedError") {
                // A message that says why it is not to be had is an answer.
                let excuse = ["todo", "implement", "stub", "placeholder", "later", "soon", "pending", "missing", "fixme"];
                // A name says no more than none.
                return match text.contains(['"', '\'']) && message.trim_matches(['(', ')', '"', '\'', 'f']).contains(' ') {
                    true if excuse.iter().any(|word| message.to_ascii_lowercase().contains(word)) => Worth::Confession,
                    true => Worth::Something,
                    false => Worth::Nothing,
                };
            }
            if matches!(text, "return" | "return None" | "return NotImplemented") || text == "assert True" {
                return Worth::Nothing;
            }
        }
        Language::Java if text.starts_with("throw new UnsupportedOperationException()") => return Worth::Nothing,
        Language::Rust if text.starts_with("todo!") || text.starts_with("unimplemented!") => return Worth::Confession,
        _ if matches!(text, "return" | "return null" | "return undefined") => return Worth::Trivial,
        _ => {}
    }
    if text.len() < 200 && !text.contains('\n') && phrases::says_nothing(text) {
        return Worth::Confession;
    }
    let raises = ["raise ", "throw ", "panic", "print(", "console.", "logger.", "return ", "logging.", "system.out", "fmt.print", "log."];
    if raises.iter().any(|word| lower.starts_with(word)) && confesses() && text.len() < 200 {
        return Worth::Confession;
    }
    let constant = lower.strip_prefix("return ").unwrap_or(if language == Language::Rust { &lower } else { "" });
    // `null as any`
    let constant = constant.split(" as ").next().unwrap_or(constant).trim_end_matches('!');
    if CONSTANTS.split('|').any(|known| known == constant)
        || (constant.starts_with(['{', '"', '[']) && constant.len() < 60 && text.starts_with("return"))
    {
        return Worth::Trivial;
    }
    Worth::Something
}

/// The comments of a piece of code, by their marks: good enough inside a body that holds hardly anything else.
pub(super) fn comments_in(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let line = line.trim();
        let hash = line.find('#').or_else(|| line.find("//")).or_else(|| line.find("/*")).or_else(|| line.starts_with('*').then_some(0));
        hash.map(|at| &line[at..])
    })
}
