//! Types that are only announced: classes without members, models without fields, bodies of a comment.

use tree_sitter::Node;

use super::bodies::comments_in;
use super::outline::{Function, Stub, is_comment};
use super::phrases;
use crate::verify::code::{Descend, Language, walk};

/// A comment in braces that is all that an element holds.
pub(super) fn is_promise_alone(node: Node<'_>, code: &str) -> bool {
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
    alone && (phrases::promises(text) || phrases::notes(std::iter::once(text)))
}

/// Members of a type that are only announced.
pub(super) fn is_promised_body(node: Node<'_>, code: &str) -> bool {
    let of_type = matches!(
        node.kind(),
        "interface_body" | "object_type" | "enum_body" | "field_declaration_list" | "enum_variant_list" | "declaration_list"
    );
    let mut cursor = node.walk();
    of_type
        && node.named_child_count() > 0
        && node.named_children(&mut cursor).all(is_comment)
        && phrases::notes(comments_in(&code[node.byte_range()]))
}

/// A class without members and without a base that would bring some.
pub(super) fn hollow_class(language: Language, node: Node<'_>, code: &str, bases: &[String]) -> Option<Function> {
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

/// Names of classes that other classes of the file extend.
pub(super) fn base_names(language: Language, root: Node<'_>, code: &str) -> Vec<String> {
    let mut names = Vec::new();
    if language == Language::Python && code.contains("class ") {
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

/// `class UserCreate(BaseModel): pass`: one may be meant, where it is all that there is it is not.
pub(super) fn is_empty_model(language: Language, node: Node<'_>, code: &str) -> bool {
    let field = |name: &str| node.child_by_field_name(name).map_or("", |part| code[part.byte_range()].trim());
    language == Language::Python
        && node.kind() == "class_definition"
        && matches!(field("superclasses"), "(BaseModel)" | "(SQLModel)" | "(models.Model)" | "(Base)")
        && field("body") == "pass"
}

/// A Python class of a `pass` or less and a promise.
pub(super) fn is_promised_class(language: Language, node: Node<'_>, code: &str) -> bool {
    if language != Language::Python || node.kind() != "class_definition" {
        return false;
    }
    let Some(body) = node.child_by_field_name("body") else { return false };
    let mut cursor = body.walk();
    let bare = body.named_children(&mut cursor).filter(|child| !is_comment(*child)).all(|child| {
        let text = code[child.byte_range()].trim();
        text == "pass" || text == "..." || text.starts_with("\"\"\"")
    });
    let own = node.child_by_field_name("superclasses").is_none();
    let comments = || comments_in(&code[node.byte_range()]);
    bare && (comments().any(phrases::promises) || (own && phrases::notes(comments())))
}
