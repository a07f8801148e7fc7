//! What a program does, in outline: its functions, which of them do nothing, and why that may be right.

use tree_sitter::Node;

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
        (self.promised_classes > 0 && self.functions.is_empty()).then(|| "a class with nothing but a promise".into())
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
        // `<div>{/* add your components here */}</div>`
        if node.kind() == "jsx_expression" && is_promise_alone(node, code) {
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

/// A comment in braces that is all that an element holds.
fn is_promise_alone(node: Node<'_>, code: &str) -> bool {
    let comment = node.named_child(0).filter(|child| node.named_child_count() == 1 && is_comment(*child));
    let text = comment.map_or("", |comment| &code[comment.byte_range()]);
    let alone = node.parent().is_some_and(|element| {
        let mut cursor = element.walk();
        element.kind() == "jsx_element"
            && element.named_children(&mut cursor).all(|child| {
                child == node
                    || child.kind().starts_with("jsx_opening")
                    || child.kind().starts_with("jsx_closing")
                    || code[child.byte_range()].trim().is_empty()
            })
    });
    alone && (phrases::promises(text) || phrases::orders(text))
}

/// A class without members and without a base that would bring some.
fn hollow_class(language: Language, node: Node<'_>, code: &str, bases: &[String]) -> Option<Function> {
    let class = match language {
        Language::Python => node.kind() == "class_definition",
        Language::JavaScript | Language::TypeScript | Language::Tsx => node.kind() == "class_declaration",
        Language::Java => node.kind() == "class_declaration",
        Language::Rust => node.kind() == "impl_item" || node.kind() == "struct_item",
        _ => false,
    };
    let body = node.child_by_field_name("body").filter(|_| class)?;
    let mut cursor = body.walk();
    let empty = body.named_children(&mut cursor).all(|member| {
        let text = code[member.byte_range()].trim();
        is_comment(member) || text == "pass" || text == "..." || (language == Language::Python && text.starts_with(['"', '\'']))
    });
    let name = node.child_by_field_name("name").map_or("", |name| &code[name.byte_range()]);
    let decorated = node.parent().is_some_and(|parent| parent.kind() == "decorated_definition");
    let head = &code[node.start_byte()..body.start_byte()];
    let inherits = match language {
        Language::Python => node.child_by_field_name("superclasses").is_some_and(|supers| match code[supers.byte_range()].trim() {
            "()" | "(object)" => false,
            // A model without fields may be one; with dots for them it is not.
            "(BaseModel)" | "(SQLModel)" => !code[body.byte_range()].contains("..."),
            _ => true,
        }),
        // An empty `impl Trait for T {}` marks; so does a struct without a comment in it.
        Language::Rust => head.contains(" for ") || !code[body.byte_range()].contains("//"),
        _ => ["extends", "implements", "@"].iter().any(|word| head.contains(word)),
    };
    let role =
        ["Marker", "Sentinel", "Error", "Exception", "Mixin", "Null", "Empty", "Unset", "Missing", "Dummy", "Base", "Config", "Meta"];
    let meant = inherits || decorated || bases.iter().any(|base| base == name) || role.iter().any(|word| name.contains(word));
    let promise = comments_in(&code[body.byte_range()]).any(phrases::promises);
    (empty && !meant).then(|| Function { name: name.to_owned(), stub: Some(if promise { Stub::Marked } else { Stub::Bare }) })
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
    if text.len() < 120 && phrases::says_nothing(text) && matches!(kind, "expression_statement" | "command") {
        outline.idle += 1;
        return;
    }
    let inner = if kind == "expression_statement" { child.named_child(0).map_or(kind, |inner| inner.kind()) } else { kind };
    if matches!(
        inner,
        "identifier" | "ellipsis" | "none" | "null" | "undefined" | "string" | "pass_statement" | "true" | "false" | "integer" | "number"
    ) {
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

fn is_comment(node: Node<'_>) -> bool {
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

/// Whether a body does nothing.
fn stub(language: Language, body: Node<'_>, code: &str) -> Option<Stub> {
    let mut cursor = body.walk();
    let statements: Vec<Node<'_>> = body.named_children(&mut cursor).filter(|child| !is_comment(*child)).collect();
    let text = &code[body.byte_range()];
    let mut promise = false;
    // Comments may trail the block that they belong to.
    let line_end = code[body.end_byte()..].find('\n').map_or(code.len(), |end| body.end_byte() + end);
    for source in [text, &code[body.end_byte()..line_end]] {
        promise |= comments_in(source).any(phrases::promises);
    }
    // A comment directly before a Python block is not inside it.
    if let Some(before) = body.prev_named_sibling().filter(|before| is_comment(*before)) {
        promise |= phrases::promises(&code[before.byte_range()]);
    }
    let mut hollow = true;
    let mut trivial = 0;
    for (at, statement) in statements.iter().enumerate() {
        let text = code[statement.byte_range()].trim().trim_end_matches(';').trim();
        match worth(language, *statement, text, at == 0) {
            Worth::Nothing => {}
            Worth::Confession => promise = true,
            Worth::Trivial => trivial += 1,
            Worth::Something => hollow = false,
        }
    }
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
const CONSTANTS: &str = "[]|{}|\"\"|''|0|1|0.0|false|true|none|null|nil|dict()|list()|ok(())|vec![]|vec::new()|string::new()|\
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
        work || (says(&["todo"]) && !text.contains('{') && !lower.starts_with("return "))
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
            if text.starts_with("raise NotImplementedError") {
                // A message that says why it is not to be had is an answer.
                let excuse = ["todo", "implement", "stub", "placeholder", "later", "soon", "pending", "missing", "fixme"];
                return match text.contains(['"', '\'']) {
                    true if excuse.iter().any(|word| lower["raise notimplementederror".len()..].contains(word)) => Worth::Confession,
                    true => Worth::Something,
                    false => Worth::Nothing,
                };
            }
            if matches!(text, "return" | "return None" | "return NotImplemented") || text == "assert True" {
                return Worth::Nothing;
            }
        }
        Language::Rust if text.starts_with("todo!") || text.starts_with("unimplemented!") => return Worth::Confession,
        _ if matches!(text, "return" | "return null" | "return undefined") => return Worth::Trivial,
        _ => {}
    }
    if text.len() < 200 && phrases::says_nothing(text) {
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
fn comments_in(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let line = line.trim();
        let hash = line.find('#').or_else(|| line.find("//")).or_else(|| line.find("/*")).or_else(|| line.starts_with('*').then_some(0));
        hash.map(|at| &line[at..])
    })
}

/// Why a body may do nothing.
fn excused(language: Language, node: Node<'_>, name: &str, body: Node<'_>, code: &str, bases: &[String]) -> bool {
    let before = |node: Node<'_>| {
        node.parent()
            .filter(|parent| parent.kind() == "decorated_definition")
            .map_or("", |parent| &code[parent.start_byte()..node.start_byte()])
    };
    let body_text = &code[body.byte_range()];
    match language {
        Language::Python => {
            let decorators = before(node);
            if [
                "abstract",
                "overload",
                ".group",
                ".callback",
                ".hookspec",
                ".setter",
                "fixture",
                "click.command",
                "webhooks",
                "receiver",
                "204",
            ]
            .iter()
            .any(|word| decorators.contains(word))
            {
                return true;
            }
            let marked = phrases::promises(body_text) && !body_text.contains("NotImplementedError");
            if let Some(class) = enclosing(node, "class_definition") {
                return excused_class(class, code, bases, body_text) || (is_quiet(name) && !marked);
            }
            is_quiet(name) && !marked
        }
        Language::Rust => enclosing(node, "trait_item").is_some() || is_quiet(name),
        Language::Java => {
            let class = enclosing(node, "class_declaration");
            is_quiet(name)
                || class.is_some_and(|class| code[class.start_byte()..].split('{').next().is_some_and(|head| head.contains("abstract ")))
                || enclosing(node, "interface_declaration").is_some()
                || code[node.byte_range()].starts_with("default ")
        }
        Language::JavaScript | Language::TypeScript | Language::Tsx => name == "constructor" || is_quiet(name),
        _ => is_quiet(name),
    }
}

/// Protocols, abstract bases, bases of other classes here, and classes whose trade is to do nothing.
fn excused_class(class: Node<'_>, code: &str, bases: &[String], body: &str) -> bool {
    let name = class.child_by_field_name("name").map_or("", |name| &code[name.byte_range()]);
    let supers = class.child_by_field_name("superclasses").map_or("", |supers| &code[supers.byte_range()]);
    if ["Protocol", "ABC", "ABCMeta", "Interface", "TypedDict", "NamedTuple"].iter().any(|word| supers.contains(word)) {
        return true;
    }
    let role = ["Base", "Abstract", "Mixin", "Interface", "Null", "NoOp", "Noop", "Dummy", "Fake", "Mock", "Stub", "Silent"];
    if role.iter().any(|word| name.starts_with(word) || name.ends_with(word)) {
        return true;
    }
    let says_so = ["subclass", "override", "overridden", "abstract", "interface"]
        .iter()
        .any(|word| code[class.byte_range()].to_ascii_lowercase().contains(word));
    (bases.iter().any(|base| base == name) || says_so) && !body.to_ascii_lowercase().contains("todo")
}

/// Hooks and constructors that are often empty.
fn is_quiet(name: &str) -> bool {
    (name.starts_with("__") && name.ends_with("__") && name != "__call__" && name != "__main__")
        || name.to_ascii_lowercase().contains("noop")
        || name.to_ascii_lowercase().contains("no_op")
        || (name.starts_with("on") && name[2..].starts_with(|c: char| c.is_uppercase()))
        || ["on_", "after_", "before_", "setup", "teardown", "tearDown", "setUp", "ngOnInit", "componentDid", "downgrade"]
            .iter()
            .any(|start| name.starts_with(start))
}

fn enclosing<'tree>(node: Node<'tree>, kind: &str) -> Option<Node<'tree>> {
    let mut at = node.parent();
    while let Some(node) = at {
        if node.kind() == kind {
            return Some(node);
        }
        if matches!(node.kind(), "function_definition" | "module") {
            return None;
        }
        at = node.parent();
    }
    None
}

/// Names of classes that other classes of the file extend.
fn base_names(language: Language, root: Node<'_>, code: &str) -> Vec<String> {
    let mut names = Vec::new();
    if language == Language::Python {
        walk(root, &mut |node| {
            if node.kind() == "class_definition"
                && let Some(supers) = node.child_by_field_name("superclasses")
            {
                let text = &code[supers.byte_range()];
                names.extend(text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|name| !name.is_empty()).map(str::to_owned));
            }
            Descend::Yes
        });
    }
    names
}

/// A Python class of a `pass` or less and a promise.
fn is_promised_class(language: Language, node: Node<'_>, code: &str) -> bool {
    if language != Language::Python || node.kind() != "class_definition" {
        return false;
    }
    let Some(body) = node.child_by_field_name("body") else { return false };
    let mut cursor = body.walk();
    let bare = body.named_children(&mut cursor).filter(|child| !is_comment(*child)).all(|child| {
        let text = code[child.byte_range()].trim();
        text == "pass" || text == "..." || text.starts_with("\"\"\"")
    });
    bare && comments_in(&code[node.byte_range()]).any(phrases::promises)
}
