//! Python for [`super::outline`].

use tree_sitter::Node;

use super::{Import, Outline, children, field, head, named, slice};

pub fn read(root: Node<'_>, text: &str, out: &mut Outline) {
    named(root).for_each(|node| statement(node, text, out, false));
    signatures(root, text, "", out);
    stubs(root, text, "", false, out);
}

/// Names and imports at the top level, also inside `if` and `try`.
fn statement(node: Node<'_>, text: &str, out: &mut Outline, guarded: bool) {
    match node.kind() {
        "import_statement" | "import_from_statement" | "future_import_statement" => {
            import(node, text, guarded, out);
        }
        "function_definition" | "class_definition" => define(field(node, "name", text), out),
        "decorated_definition" => {
            if let Some(inner) = node.child_by_field_name("definition") {
                statement(inner, text, out, guarded);
            }
        }
        "expression_statement" => named(node).for_each(|inner| {
            if let Some(left) = inner.child_by_field_name("left") {
                targets(left, text, out);
            }
        }),
        "type_alias_statement" => targets(node.named_child(0).unwrap_or(node), text, out),
        "if_statement" | "try_statement" | "with_statement" | "block" | "else_clause" | "elif_clause" | "except_clause"
        | "finally_clause" | "for_statement" => {
            let guarded = guarded || node.kind() == "try_statement";
            named(node).for_each(|inner| statement(inner, text, out, guarded));
        }
        _ => {}
    }
}

fn targets(node: Node<'_>, text: &str, out: &mut Outline) {
    match node.kind() {
        "identifier" | "type" => define(slice(node, text), out),
        "pattern_list" | "tuple_pattern" | "list_pattern" => {
            named(node).for_each(|inner| targets(inner, text, out));
        }
        _ => {}
    }
}

fn define(name: &str, out: &mut Outline) {
    if !name.is_empty() && !out.defines.iter().any(|known| known == name) {
        out.defines.push(name.to_owned());
    }
}

/// `import a, b as c` and `from m import x as y, z`; the bound names are importable from this file too.
fn import(node: Node<'_>, text: &str, guarded: bool, out: &mut Outline) {
    let line = node.start_position().row + 1;
    let mut cursor = node.walk();
    let listed: Vec<(String, String)> = node
        .children_by_field_name("name", &mut cursor)
        .map(|name| match name.kind() {
            "aliased_import" => (field(name, "name", text).to_owned(), field(name, "alias", text).to_owned()),
            _ => (slice(name, text).to_owned(), slice(name, text).to_owned()),
        })
        .collect();
    if node.kind() == "import_statement" {
        for (module, bound) in listed {
            define(bound.split('.').next().unwrap_or(&bound), out);
            out.imports.push(Import { module, names: Vec::new(), line, guarded });
        }
        return;
    }
    let future = node.kind() == "future_import_statement";
    let module = if future { "__future__" } else { field(node, "module_name", text) };
    if !future {
        listed.iter().for_each(|(_, bound)| define(bound, out));
    }
    let names = listed.into_iter().map(|(name, _)| name).collect();
    out.imports.push(Import { module: module.to_owned(), names, line, guarded });
}

fn signatures(node: Node<'_>, text: &str, indent: &str, out: &mut Outline) {
    for inner in named(node) {
        let definition = inner.child_by_field_name("definition").unwrap_or(inner);
        if inner.kind() == "decorated_definition" {
            let decorators = named(inner).filter(|child| child.kind() == "decorator");
            decorators.for_each(|child| {
                out.signatures.push(format!("{indent}{}", slice(child, text).lines().next().unwrap_or("")));
            });
        }
        match definition.kind() {
            "function_definition" => out.signatures.push(format!("{indent}{}", head(definition, text))),
            "class_definition" => {
                out.signatures.push(format!("{indent}{}", head(definition, text)));
                if let Some(body) = definition.child_by_field_name("body") {
                    signatures(body, text, &format!("{indent}    "), out);
                }
            }
            // A class's annotated fields are its signature; so are the module's constants and objects.
            "expression_statement" => {
                let shown = slice(definition, text);
                let assigns = definition.named_child(0).is_some_and(|child| child.kind() == "assignment");
                if assigns && !shown.contains('\n') && shown.len() < 120 {
                    out.signatures.push(format!("{indent}{shown}"));
                }
            }
            _ => {}
        }
    }
}

fn stubs(node: Node<'_>, text: &str, scope: &str, abstract_class: bool, out: &mut Outline) {
    for inner in named(node) {
        match inner.kind() {
            "class_definition" => {
                let bases = field(inner, "superclasses", text);
                let name = format!("{scope}{}.", field(inner, "name", text));
                if let Some(body) = inner.child_by_field_name("body") {
                    stubs(body, text, &name, bases.contains("Protocol"), out);
                }
            }
            "function_definition" => {
                let body = inner.child_by_field_name("body");
                let excused = abstract_class || abstract_by_decorator(inner, text);
                if !excused && body.is_some_and(|body| does_nothing(body, text)) {
                    out.stubs.push(format!("{scope}{}", field(inner, "name", text)));
                }
                if let Some(body) = body {
                    stubs(body, text, scope, false, out);
                }
            }
            _ => stubs(inner, text, scope, abstract_class, out),
        }
    }
}

fn abstract_by_decorator(function: Node<'_>, text: &str) -> bool {
    let Some(parent) = function.parent().filter(|parent| parent.kind() == "decorated_definition") else {
        return false;
    };
    children(parent).filter(|child| child.kind() == "decorator").any(|decorator| {
        let shown = slice(decorator, text);
        shown.contains("abstract") || shown.contains("overload")
    })
}

/// Only docstrings, comments, `pass`, `...` and `raise NotImplementedError`.
fn does_nothing(body: Node<'_>, text: &str) -> bool {
    let mut docstring_only = true;
    let idle = named(body).filter(|node| node.kind() != "comment").all(|node| match node.kind() {
        "pass_statement" => {
            docstring_only = false;
            true
        }
        "raise_statement" => {
            docstring_only = false;
            slice(node, text).contains("NotImplementedError")
        }
        "expression_statement" => match node.named_child(0).map(|child| child.kind()) {
            Some("ellipsis") => {
                docstring_only = false;
                true
            }
            Some("string") => true,
            _ => false,
        },
        _ => false,
    });
    // A body of a docstring alone is legal and idle as well.
    idle && (!docstring_only || body.named_child_count() > 0)
}
