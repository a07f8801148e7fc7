//! Rust for [`super::outline`].

use tree_sitter::Node;

use super::{Import, Outline, field, head, named, slice};

pub fn read(root: Node<'_>, text: &str, out: &mut Outline) {
    for node in named(root) {
        let line = node.start_position().row + 1;
        match node.kind() {
            "use_declaration" => {
                let module = field(node, "argument", text).to_owned();
                out.imports.push(Import { module, line, ..Import::default() });
            }
            "mod_item" => {
                let name = field(node, "name", text);
                out.defines.push(name.to_owned());
                if node.child_by_field_name("body").is_none() {
                    out.imports.push(Import { module: format!("self::{name}"), line, ..Import::default() });
                }
            }
            "function_item" | "struct_item" | "enum_item" | "trait_item" | "const_item" | "static_item" | "type_item" => {
                out.defines.push(field(node, "name", text).to_owned());
                out.signatures.push(head(node, text));
            }
            "impl_item" => {
                out.signatures.push(head(node, text));
                let body = node.child_by_field_name("body");
                let methods = body.into_iter().flat_map(named).filter(|inner| inner.kind() == "function_item");
                methods.for_each(|method| out.signatures.push(head(method, text)));
            }
            _ => {}
        }
    }
    stubs(root, text, out);
}

fn stubs(node: Node<'_>, text: &str, out: &mut Outline) {
    for inner in named(node) {
        if inner.kind() == "function_item" {
            let body = field(inner, "body", text);
            if body.contains("todo!(") || body.contains("unimplemented!(") {
                out.stubs.push(field(inner, "name", text).to_owned());
            }
        }
        if inner.kind() != "function_item" && !slice(inner, text).is_empty() {
            stubs(inner, text, out);
        }
    }
}
