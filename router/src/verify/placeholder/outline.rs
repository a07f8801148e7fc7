//! What a program does, in outline: its functions, which of them do nothing, and what else there is.

use tree_sitter::Node;

use super::bodies::{comments_in, stub};
use super::classes::{base_names, hollow_class, is_empty_model, is_promise_alone, is_promised_body, is_promised_class};
use super::excuses::{excused, is_quiet};
use super::phrases;
use crate::verify::code::{Descend, Language, walk};

/// A program in outline.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub comments: Vec<Comment>,
    /// Statements at the top level, comments aside.
    pub statements: usize,
    /// Of these, those that are neither import nor definition nor bare literal.
    pub effective: usize,
    /// Bare words, literals and `...` at the top level.
    idle: usize,
    /// A `...` at the top level.
    elided: bool,
    pub functions: Vec<Function>,
    /// Classes without members, with a promise in them.
    promised_classes: usize,
    /// Models without a field.
    empty_models: usize,
    /// Definitions of types, modules and macros.
    types: usize,
    /// Imports and package clauses are all there is.
    pub is_only_header: bool,
    /// Bytes outside comments.
    code_bytes: usize,
}

/// A comment, or a module's docstring.
#[derive(Debug)]
pub(super) struct Comment {
    pub text: String,
    /// Offset behind it.
    pub end: usize,
}

impl Comment {
    /// It documents code, with examples that leave things out.
    pub fn documents(&self) -> bool {
        ["///", "//!", "/**", "/*!", "\"", "'"].iter().any(|mark| self.text.starts_with(mark))
    }

    /// Code stands before it on its line.
    pub fn trails(&self, content: &str) -> bool {
        let before = &content[..self.end - self.text.len()];
        let line = before.rfind('\n').map_or(0, |line| line + 1);
        before[line..].contains(|c: char| c.is_alphanumeric() || ")]\"'".contains(c))
    }
}

#[derive(Debug)]
pub(super) struct Function {
    pub name: String,
    pub stub: Option<Stub>,
}

/// Why a body does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stub {
    /// It only does nothing.
    Bare,
    /// And a comment or a message says that something should be there.
    Marked,
}

impl Outline {
    /// Why the program is a stand-in for one.
    pub(super) fn hollow(&self, language: Language) -> Option<String> {
        if self.elided && language == Language::Python {
            return Some("\"...\" stands for code".into());
        }
        if language.is_program() && self.idle == self.statements {
            return Some("no code, only words".into());
        }
        let stubs: Vec<&Function> = self.functions.iter().filter(|function| function.stub.is_some()).collect();
        let named = |function: &Function| {
            format!("the body of {} does nothing", if function.name.is_empty() { "a function" } else { &function.name })
        };
        let marked: Vec<&&Function> = stubs.iter().filter(|function| function.stub == Some(Stub::Marked)).collect();
        // One open end in a large file is a remark on it.
        if let Some(first) = marked.first()
            && marked.len() * 12 >= self.functions.len()
        {
            return Some(format!("{} but promise", named(first)));
        }
        let rest = self.effective + self.types;
        let most = stubs.len() * 2 > self.functions.len();
        if most && (if self.functions.len() == 1 { rest <= 1 } else { rest <= 6 }) {
            return stubs.first().map(|stub| named(stub));
        }
        if self.empty_models >= 2 && self.functions.is_empty() && rest == 0 {
            return Some("models without a field".into());
        }
        (self.promised_classes > 0 && self.functions.is_empty()).then(|| "a class with nothing but a promise".into())
    }

    /// One short statement, and a comment that asks for another.
    pub(super) fn is_a_line(&self, comment: &str) -> bool {
        self.statements == 1 && self.code_bytes < 80 && phrases::asks_for_content(comment)
    }

    /// Hardly anything but imports and empty bodies.
    pub(super) fn is_thin(&self, language: Language) -> bool {
        let script = matches!(language, Language::Python | Language::JavaScript | Language::TypeScript | Language::Tsx);
        let works = self.functions.iter().any(|function| function.stub.is_none());
        !works && self.code_bytes < 600 && self.effective + self.types <= if script { 4 } else { 0 }
    }
}

/// Reads the outline off a tree.
pub(super) fn outline(language: Language, root: Node<'_>, code: &str) -> Outline {
    let mut outline = Outline::default();
    let mut cursor = root.walk();
    for child in root.named_children(&mut cursor) {
        top_level(language, child, code, &mut outline);
    }
    let bases = base_names(language, root, code);
    walk(root, &mut |node| {
        if is_comment(node) {
            outline.comments.push(Comment { text: code[node.byte_range()].to_owned(), end: node.end_byte() });
            return Descend::No;
        }
        outline.empty_models += usize::from(is_empty_model(language, node, code));
        // Names and numbers hold nothing; most nodes are such.
        if node.named_child_count() == 0 {
            return Descend::No;
        }
        if let Some(class) = hollow_class(language, node, code, &bases) {
            outline.functions.push(class);
            return Descend::Yes;
        }
        if let Some(body) = function_body(language, node) {
            let name = node.child_by_field_name("name").map_or("", |name| &code[name.byte_range()]);
            let stub = stub(language, body, code);
            // A body that may be empty says nothing about the others.
            if stub.is_none() || !excused(language, node, name, body, code, &bases) {
                outline.functions.push(Function { name: name.to_owned(), stub });
            }
        }
        if matches!(node.kind(), "arrow_function" | "function_expression")
            && let Some(body) = node.child_by_field_name("body")
        {
            outline.functions.extend(closure(language, node, body, code));
        }
        // `<div>{/* add your components here */}</div>`, `interface Props { /* props here */ }`
        if (node.kind() == "jsx_expression" && is_promise_alone(node, code)) || is_promised_body(node, code) {
            outline.functions.push(Function { name: String::new(), stub: Some(Stub::Marked) });
        }
        if is_promised_class(language, node, code) {
            outline.promised_classes += 1;
        }
        Descend::Yes
    });
    let said: usize = outline.comments.iter().map(|comment| comment.text.len()).sum();
    outline.code_bytes = code.len().saturating_sub(said);
    outline.is_only_header = outline.statements > 0
        && outline.effective + outline.types + outline.idle == 0
        && outline.functions.is_empty()
        && outline.promised_classes == 0;
    outline
}

/// A closure: work where it does something, a gap where it only announces, or is all that a name stands for.
fn closure(language: Language, node: Node<'_>, body: Node<'_>, code: &str) -> Option<Function> {
    let named = node.parent().filter(|parent| parent.kind() == "variable_declarator").and_then(|parent| parent.child_by_field_name("name"));
    let name = named.map_or("", |name| &code[name.byte_range()]);
    let Some(found) = stub(language, body, code) else { return Some(Function { name: name.to_owned(), stub: None }) };
    let silent = code[body.byte_range()].chars().all(|c| c.is_whitespace() || "{}".contains(c));
    // Closures are often empty on purpose.
    let meant = if silent { name.is_empty() } else { found == Stub::Bare && comments_in(&code[body.byte_range()]).next().is_none() };
    (!meant && !is_quiet(name)).then(|| Function { name: name.to_owned(), stub: Some(found) })
}

fn top_level(language: Language, child: Node<'_>, code: &str, outline: &mut Outline) {
    if is_comment(child) {
        return;
    }
    let text = code[child.byte_range()].trim();
    let kind = child.kind();
    // A file that consists of its docstring says nothing.
    if language == Language::Python && kind == "expression_statement" && text.starts_with(['"', '\'']) {
        outline.comments.push(Comment { text: text.to_owned(), end: child.end_byte() });
        return;
    }
    outline.statements += 1;
    let planned = ["it.todo(", "test.todo(", "describe.todo("].iter().any(|call| text.starts_with(call));
    if planned || (text.len() < 120 && phrases::says_nothing(text) && matches!(kind, "expression_statement" | "command")) {
        outline.idle += 1;
        return;
    }
    // A module that hands out nothing, and a note of what it should.
    if matches!(text.trim_end_matches(';'), "module.exports = {}" | "export default {}") && code.contains("//") {
        outline.idle += 1;
        return;
    }
    let inner = if kind == "expression_statement" { child.named_child(0).map_or(kind, |inner| inner.kind()) } else { kind };
    if matches!(
        inner,
        "identifier" | "ellipsis" | "none" | "null" | "undefined" | "string" | "pass_statement" | "true" | "false" | "integer" | "number"
    ) || matches!(text.trim_end_matches(';'), "{}" | "[]" | "()")
    {
        outline.idle += 1;
        outline.elided |= inner == "ellipsis";
    } else if kind.contains("import")
        || text.trim_end_matches(';') == "export {}"
        || (kind.ends_with("_declaration") && (text.contains("require(") || text.contains("=> {") || text.contains("=> (")))
        || matches!(kind, "use_declaration" | "package_clause" | "package_declaration" | "future_import_statement")
    {
        // Neither work nor nothing.
    } else if is_function(&text_of_definition(child)) && !has_fields(child, code) {
        // Told by its body.
    } else if matches!(kind, "lexical_declaration" | "variable_declaration") {
        outline.effective += 1;
    } else if kind.contains("definition") || kind.contains("declaration") || kind.ends_with("_item") || kind == "export_statement" {
        outline.types += 1;
    } else {
        // A loop or a choice over several lines holds several statements.
        let lines = child.end_position().row - child.start_position().row;
        outline.effective += if lines >= 4 && !matches!(inner, "call" | "call_expression" | "assignment") { 3 } else { 1 };
    }
}

/// The kind of what a decorator or an export wraps.
fn text_of_definition(node: Node<'_>) -> String {
    let inner = node.child_by_field_name("definition").or_else(|| node.child_by_field_name("declaration"));
    inner.map_or(node.kind(), |inner| inner.kind()).to_owned()
}

/// A class with members of its own besides methods.
fn has_fields(node: Node<'_>, code: &str) -> bool {
    let class = node.child_by_field_name("definition").or_else(|| node.child_by_field_name("declaration")).unwrap_or(node);
    if !class.kind().starts_with("class") {
        return false;
    }
    let Some(body) = class.child_by_field_name("body") else { return false };
    let mut cursor = body.walk();
    body.named_children(&mut cursor).any(|member| {
        let text = code[member.byte_range()].trim();
        let kind = member.kind();
        !is_comment(member)
            && !matches!(kind, "function_definition" | "decorated_definition" | "method_definition" | "pass_statement")
            && !text.starts_with(['"', '\''])
            && text != "..."
    })
}

fn is_function(kind: &str) -> bool {
    matches!(
        kind,
        "function_definition" | "function_declaration" | "function_item" | "method_declaration" | "generator_function_declaration"
    ) || kind == "class_definition"
        || kind == "class_declaration"
}

pub(super) fn is_comment(node: Node<'_>) -> bool {
    matches!(node.kind(), "comment" | "line_comment" | "block_comment" | "marginalia" | "html_comment")
}

/// The body of a function that is one by itself; closures passed along are often empty on purpose.
fn function_body<'tree>(language: Language, node: Node<'tree>) -> Option<Node<'tree>> {
    let kinds: &[&str] = match language {
        Language::Python => &["function_definition"],
        Language::JavaScript | Language::TypeScript | Language::Tsx => {
            &["function_declaration", "method_definition", "generator_function_declaration"]
        }
        Language::Rust => &["function_item"],
        Language::Go => &["function_declaration", "method_declaration"],
        Language::Java => &["method_declaration"],
        _ => &[],
    };
    kinds.contains(&node.kind()).then(|| node.child_by_field_name("body")).flatten()
}
