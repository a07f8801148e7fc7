//! Why a body may do nothing: protocols, abstract bases, hooks, constructors.

use tree_sitter::Node;

use super::phrases;
use crate::verify::code::Language;

/// Why a body may do nothing.
pub(super) fn excused(language: Language, node: Node<'_>, name: &str, body: Node<'_>, code: &str, bases: &[String]) -> bool {
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
pub(super) fn is_quiet(name: &str) -> bool {
    (name.starts_with("__") && name.ends_with("__") && name != "__call__" && name != "__main__")
        || name.to_ascii_lowercase().contains("noop")
        || name.to_ascii_lowercase().contains("no_op")
        || matches!(name, "ignore" | "nothing" | "do_nothing" | "doNothing" | "discard" | "swallow")
        || (name.starts_with("on") && name[2..].starts_with(|c: char| c.is_uppercase()))
        || ["on_", "after_", "before_", "setup", "teardown", "tearDown", "setUp", "ngOnInit", "componentDid", "downgrade", "contextLoads"]
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
