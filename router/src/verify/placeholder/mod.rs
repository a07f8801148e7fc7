//! Stand-ins for a file's content: empty, a promise in a comment, bodies that do nothing, code left out.
//!
//! What looks like one and is none passes: protocols and abstract methods, `pass` in an `except`, an empty `__init__.py`,
//! a TODO beside real code, `.gitkeep`, example values in an `.env.example`.

mod bodies;
mod classes;
mod excuses;
mod open_ends;
mod outline;
mod phrases;
mod prose;
mod words;

use tree_sitter::Node;

pub(in crate::verify) use words::is_a_word_for_content;

use super::code::{self, Descend, Fault, Language, Source};

/// Why a file's content is a stand-in; `None`: it is content. `source`: the content, where its language has a grammar.
#[must_use]
pub(super) fn of_file(path: &str, content: &str, source: Option<&Source<'_>>) -> Option<String> {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    let trimmed = content.trim().trim_start_matches('\u{feff}');
    if trimmed.is_empty() {
        return (!may_be_empty(name)).then(|| "the file is empty".into());
    }
    if let Some(why) = words::is_junk(name, trimmed) {
        return Some(why.into());
    }
    if trimmed.len() < 400 && super::text::declines(trimmed) {
        return Some("a refusal instead of content".into());
    }
    match source.filter(|source| source.language != Language::Json) {
        Some(source) => of_code(name, source),
        None => prose::of_text(name, trimmed),
    }
}

/// Files that say what they say by being there.
fn may_be_empty(name: &str) -> bool {
    let known = [
        "__init__.py",
        "__init__.pyi",
        ".gitkeep",
        ".keep",
        ".gitignore",
        ".dockerignore",
        ".npmignore",
        ".nojekyll",
        "py.typed",
        "conftest.py",
        "go.sum",
        ".placeholder",
        ".empty",
        ".env",
        "requirements-dev.txt",
    ];
    known.contains(&name) || name.ends_with(".keep") || name.ends_with(".lock") || name.ends_with(".gitkeep")
}

/// A file in a language with a grammar.
fn of_code(name: &str, source: &Source<'_>) -> Option<String> {
    let (language, content) = (source.language, source.code);
    if !language.is_program()
        && let Some(why) = open_ends::of_settings(name, Some(language), content)
    {
        return Some(why);
    }
    let root = source.tree()?.root_node();
    let outline = outline::outline(language, root, content);
    let clip = |comment: &str| super::text::excerpt(comment.trim(), 80);
    if let Some(comment) = outline.comments.iter().find(|comment| leaves_out(comment, content)) {
        return Some(format!("code is left out: {:?}", clip(&comment.text)));
    }
    if outline.statements == 0 {
        let promise = outline.comments.iter().find(|comment| phrases::promises(&comment.text));
        let program = language.is_program() || matches!(language, Language::Sql | Language::Dockerfile | Language::Bash);
        let harmless = may_be_empty(name) || name.ends_with(".d.ts") || !program || content.len() > 600;
        return match promise {
            Some(promise) if name != "__init__.py" && content.len() < 600 => {
                Some(format!("nothing but a promise: {:?}", clip(&promise.text)))
            }
            _ => (!harmless).then(|| "comments and no code".into()),
        };
    }
    if root.has_error() && language.is_program() {
        // Not code at all is for the parser to say; what follows needs a tree to trust.
        return prose::of_text(name, content.trim()).filter(|_| content.len() < 400);
    }
    if name.ends_with(".pyi") || name.ends_with(".d.ts") || is_idle_by_trade(name) {
        return None;
    }
    if let Some(why) = outline.hollow(language) {
        return Some(why);
    }
    // Go keeps the documentation of a package in a file of its own.
    if language == Language::Go && outline.is_only_header && outline.statements == 1 && name != "doc.go" && outline.comments.is_empty() {
        return Some("a package clause and no code".into());
    }
    let promise = outline.comments.iter().find(|comment| {
        let alone = outline.is_only_header || outline.is_a_line(&comment.text);
        !comment.documents()
            && phrases::asks_for_content(&comment.text)
            && (open_ends::is_open(comment, content) || (alone && phrases::promises(&comment.text)))
    });
    promise
        .filter(|_| language.is_program() && name != "doc.go" && outline.is_thin(language))
        .map(|promise| format!("little but a promise: {:?}", clip(&promise.text)))
}

/// A comment that stands for code that is not there.
fn leaves_out(comment: &outline::Comment, content: &str) -> bool {
    if comment.documents()
        || comment.text.lines().count() > 4
        || (comment.trails(content) && content.len() > 1500)
        || !phrases::elides(&comment.text)
    {
        return false;
    }
    // A line of dots in a long file, or among other comments, is somebody's style; alone in a short one it is a gap.
    let worded = comment.text.chars().any(char::is_alphabetic);
    content.len() < 12_000 && (worded || !open_ends::has_comment_beside(comment, content))
}

/// `noop.rs`, `fake_mailer.py`: files whose functions do nothing on purpose.
fn is_idle_by_trade(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    stem.split(['_', '-']).any(|word| matches!(word, "noop" | "null" | "fake" | "fakes" | "mock" | "mocks" | "dummy" | "stub" | "stubs"))
}

/// What Python's grammar lets pass and Python does not: blocks without statements, tabs and spaces mixed.
pub(super) fn python_indentation(root: Node<'_>, code: &str) -> Option<Fault> {
    let mut found = None;
    code::walk(root, &mut |node| {
        if found.is_some() {
            return Descend::No;
        }
        // Blocks stand in statements, not in expressions.
        if matches!(node.kind(), "expression_statement" | "return_statement" | "parameters" | "identifier" | "comment") {
            return Descend::No;
        }
        if matches!(node.kind(), "print_statement" | "exec_statement") {
            found = Some(Fault { line: node.start_position().row + 1, why: "a statement of Python 2".into() });
            return Descend::No;
        }
        if matches!(
            node.kind(),
            "function_definition"
                | "class_definition"
                | "if_statement"
                | "for_statement"
                | "while_statement"
                | "with_statement"
                | "try_statement"
        ) {
            let empty = node.child_by_field_name("body").or_else(|| node.child_by_field_name("consequence")).is_none_or(|body| {
                (0..body.named_child_count())
                    .filter_map(|at| body.named_child(u32::try_from(at).unwrap_or(u32::MAX)))
                    .all(|child| child.kind() == "comment")
            });
            if empty {
                found = Some(Fault { line: node.start_position().row + 1, why: "expected an indented block".into() });
            }
        }
        if matches!(node.kind(), "block" | "module") {
            found = found.take().or_else(|| mixed(node, code));
        }
        Descend::Yes
    });
    found
}

/// Statements of one block that are indented with different blanks.
fn mixed(block: Node<'_>, code: &str) -> Option<Fault> {
    let mut first: Option<&str> = None;
    let mut cursor = block.walk();
    for child in block.named_children(&mut cursor).filter(|child| child.kind() != "comment") {
        let start = child.start_byte();
        let line = code[..start].rfind('\n').map_or(0, |line| line + 1);
        let indent = &code[line..start];
        // A second statement on a line, or the first of a one-line block.
        if !indent.trim_matches([' ', '\t', '\u{c}']).is_empty() {
            continue;
        }
        if *first.get_or_insert(indent) != indent {
            return Some(Fault { line: child.start_position().row + 1, why: "inconsistent indentation".into() });
        }
    }
    None
}
