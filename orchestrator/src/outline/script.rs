//! JavaScript and TypeScript for [`super::outline`].

use tree_sitter::Node;

use super::{Import, Outline, children, field, head, named, slice};

pub fn read(root: Node<'_>, text: &str, out: &mut Outline) {
    for node in named(root) {
        match node.kind() {
            "import_statement" => import(node, text, out),
            "export_statement" => export(node, text, out),
            "lexical_declaration" | "variable_declaration" => require(node, text, out),
            _ => {}
        }
    }
    stubs(root, text, "", out);
}

fn unquote(text: &str) -> &str {
    text.trim_matches(['"', '\'', '`'])
}

fn import(node: Node<'_>, text: &str, out: &mut Outline) {
    let mut names = Vec::new();
    specifiers(node, "import_specifier", text, "name", &mut names);
    out.imports.push(Import {
        module: unquote(field(node, "source", text)).to_owned(),
        names,
        line: node.start_position().row + 1,
        guarded: false,
    });
}

fn specifiers(node: Node<'_>, kind: &str, text: &str, which: &str, out: &mut Vec<String>) {
    for inner in named(node) {
        if inner.kind() == kind {
            let shown = field(inner, which, text);
            out.push(if shown.is_empty() { field(inner, "name", text) } else { shown }.to_owned());
        } else {
            specifiers(inner, kind, text, which, out);
        }
    }
}

/// `const x = require('y')`.
fn require(node: Node<'_>, text: &str, out: &mut Outline) {
    for declared in named(node) {
        let Some(value) = declared.child_by_field_name("value") else {
            continue;
        };
        if value.kind() == "call_expression" && field(value, "function", text) == "require" {
            let argument = field(value, "arguments", text);
            out.imports.push(Import {
                module: unquote(argument.trim_matches(['(', ')'])).to_owned(),
                line: node.start_position().row + 1,
                ..Import::default()
            });
        }
    }
}

fn export(node: Node<'_>, text: &str, out: &mut Outline) {
    if children(node).any(|child| child.kind() == "default") {
        out.defines.push("default".to_owned());
    }
    specifiers(node, "export_specifier", text, "alias", &mut out.defines);
    let Some(declared) = node.child_by_field_name("declaration") else {
        return;
    };
    out.signatures.push(format!("export {}", head(declared, text)));
    match declared.kind() {
        "lexical_declaration" | "variable_declaration" => {
            for variable in named(declared) {
                out.defines.push(field(variable, "name", text).to_owned());
            }
        }
        _ => out.defines.push(field(declared, "name", text).to_owned()),
    }
    out.defines.retain(|name| !name.is_empty());
}

fn stubs(node: Node<'_>, text: &str, scope: &str, out: &mut Outline) {
    for inner in named(node) {
        match inner.kind() {
            "class_declaration" => {
                let name = format!("{scope}{}.", field(inner, "name", text));
                stubs(inner, text, &name, out);
            }
            "function_declaration" | "method_definition" => {
                let name = field(inner, "name", text);
                let idle = inner.child_by_field_name("body").is_some_and(|body| does_nothing(body, text));
                // An empty constructor can be all there is to do.
                if idle && name != "constructor" {
                    out.stubs.push(format!("{scope}{name}"));
                }
                stubs(inner, text, scope, out);
            }
            _ => stubs(inner, text, scope, out),
        }
    }
}

fn does_nothing(body: Node<'_>, text: &str) -> bool {
    named(body).filter(|node| node.kind() != "comment").all(|node| {
        let shown = slice(node, text).to_ascii_lowercase();
        node.kind() == "throw_statement" && (shown.contains("not implemented") || shown.contains("todo"))
    })
}
