//! What a source file says about itself: its syntax errors, the names it defines, what it imports, which functions
//! are stubs, and its signatures for the next file's prompt. One walk over a tree-sitter tree per language.

mod python;
mod rust;
mod script;

use std::path::Path;

use tree_sitter::{Language, Node, Parser};

/// A language the checks can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    Python,
    JavaScript,
    TypeScript,
    Rust,
}

/// The facts of one source file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outline {
    /// `line 12: …`, from tree-sitter's error recovery.
    pub syntax_errors: Vec<String>,
    /// Names other files can import.
    pub defines: Vec<String>,
    pub imports: Vec<Import>,
    /// Functions whose body does nothing, without a reason the language has for that.
    pub stubs: Vec<String>,
    /// Whether there is anything but comments.
    pub has_code: bool,
    /// Declarations without bodies.
    pub signatures: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// As written: `app.schemas`, `.storage`, `../db`, `crate::model`.
    pub module: String,
    /// The names taken from it; empty when it is imported whole.
    pub names: Vec<String>,
    /// 1-based.
    pub line: usize,
    /// Inside a `try` or a function: a missing module may be meant.
    pub guarded: bool,
}

impl Lang {
    pub fn of(path: &str) -> Option<Self> {
        match Path::new(path).extension()?.to_str()? {
            "py" | "pyi" => Some(Lang::Python),
            "js" | "mjs" | "cjs" => Some(Lang::JavaScript),
            "ts" => Some(Lang::TypeScript),
            "rs" => Some(Lang::Rust),
            _ => None,
        }
    }

    fn grammar(self) -> Language {
        match self {
            Lang::Python => tree_sitter_python::LANGUAGE.into(),
            Lang::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
            Lang::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
            Lang::Rust => tree_sitter_rust::LANGUAGE.into(),
        }
    }
}

/// Reads a source file; none when its language is not one of [`Lang`] or the grammar does not load.
pub fn outline(path: &str, text: &str) -> Option<Outline> {
    let lang = Lang::of(path)?;
    let mut parser = Parser::new();
    parser.set_language(&lang.grammar()).ok()?;
    let tree = parser.parse(text, None)?;
    let root = tree.root_node();
    let mut out = Outline { has_code: has_code(root), ..Outline::default() };
    syntax_errors(root, text, &mut out.syntax_errors);
    match lang {
        Lang::Python => python::read(root, text, &mut out),
        Lang::JavaScript | Lang::TypeScript => script::read(root, text, &mut out),
        Lang::Rust => rust::read(root, text, &mut out),
    }
    Some(out)
}

fn has_code(root: Node<'_>) -> bool {
    children(root).any(|node| !node.kind().contains("comment"))
}

fn syntax_errors(node: Node<'_>, text: &str, out: &mut Vec<String>) {
    if !node.has_error() || out.len() >= 5 {
        return;
    }
    let line = node.start_position().row + 1;
    if node.is_missing() {
        out.push(format!("line {line}: {} is missing", node.kind()));
    } else if node.is_error() {
        let shown: String = slice(node, text).lines().next().unwrap_or("").chars().take(60).collect();
        out.push(format!("line {line}: cannot be parsed near `{shown}`"));
    } else {
        children(node).for_each(|child| syntax_errors(child, text, out));
    }
}

fn children(node: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    (0..node.child_count()).filter_map(move |index| node.child(index))
}

fn named(node: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    children(node).filter(Node::is_named)
}

fn slice<'t>(node: Node<'_>, text: &'t str) -> &'t str {
    text.get(node.byte_range()).unwrap_or("")
}

fn field<'t>(node: Node<'_>, name: &str, text: &'t str) -> &'t str {
    node.child_by_field_name(name).map_or("", |child| slice(child, text))
}

/// The declaration up to its body, on one line.
fn head(node: Node<'_>, text: &str) -> String {
    let end = node.child_by_field_name("body").map_or(node.end_byte(), |body| body.start_byte());
    let shown = text.get(node.start_byte()..end).unwrap_or("");
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_facts() {
        let text = r#"# app/x.py
"""Doc."""
from __future__ import annotations
import os, json as j
from .storage import Store, load as l
from app.schemas import (
    Task,
)
try:
    import uvloop
except ImportError:
    uvloop = None
LIMIT: int = 3
router, other = object(), 1

@decorator
async def handler(task: Task) -> dict[str, int]:
    return {}

class Base(Protocol):
    def get(self) -> int: ...

class Real:
    size = 3
    def stub(self):
        """Doc."""
        pass
    @abstractmethod
    def hook(self): ...

def todo():
    raise NotImplementedError("x")
"#;
        let out = outline("app/x.py", text).unwrap();
        assert!(out.syntax_errors.is_empty(), "{:?}", out.syntax_errors);
        assert_eq!(out.defines, ["os", "j", "Store", "l", "Task", "uvloop", "LIMIT", "router", "other", "handler", "Base", "Real", "todo"]);
        let modules: Vec<(&str, bool)> = out.imports.iter().map(|import| (import.module.as_str(), import.guarded)).collect();
        assert_eq!(
            modules,
            [("__future__", false), ("os", false), ("json", false), (".storage", false), ("app.schemas", false), ("uvloop", true)]
        );
        assert_eq!(out.imports[3].names, ["Store", "load"]);
        assert_eq!(out.stubs, ["Real.stub", "todo"]);
        assert!(out.signatures.contains(&"async def handler(task: Task) -> dict[str, int]:".to_owned()));
        assert!(out.signatures.contains(&"class Real:".to_owned()));
        let broken = outline("x.py", "def f(:\n  return").unwrap();
        assert!(!broken.syntax_errors.is_empty());
        assert!(!outline("x.py", "# only a comment\n").unwrap().has_code);
    }

    #[test]
    fn script_facts() {
        let text = "import express, { Router } from 'express';\nimport { store as s } from './store.js';\n\
            const fs = require('node:fs');\nexport const app = express();\nexport function add(a: number): number { return a; }\n\
            export default class Thing { run() {} }\nexport { Router };\ninterface Local { a: string }\n\
            export interface Task { id: string }\nexport function todo() { throw new Error('not implemented'); }\n";
        let out = outline("src/x.ts", text).unwrap();
        assert!(out.syntax_errors.is_empty(), "{:?}", out.syntax_errors);
        assert_eq!(out.defines, ["app", "add", "default", "Thing", "Router", "Task", "todo"]);
        let modules: Vec<&str> = out.imports.iter().map(|import| import.module.as_str()).collect();
        assert_eq!(modules, ["express", "./store.js", "node:fs"]);
        assert_eq!(out.imports[1].names, ["store"]);
        assert_eq!(out.stubs, ["Thing.run", "todo"]);
    }

    #[test]
    fn rust_facts() {
        let text = "use std::fmt;\nuse crate::store::{Store, load};\nuse axum::Router;\nmod routes;\n\
            pub struct App { pub a: u32 }\npub fn build() -> Router { todo!() }\nfn private() {}\n\
            impl App { pub fn new() -> Self { Self { a: 1 } } }\n";
        let out = outline("src/x.rs", text).unwrap();
        assert!(out.syntax_errors.is_empty(), "{:?}", out.syntax_errors);
        assert_eq!(out.defines, ["routes", "App", "build", "private"]);
        let modules: Vec<&str> = out.imports.iter().map(|import| import.module.as_str()).collect();
        assert_eq!(modules, ["std::fmt", "crate::store::{Store, load}", "axum::Router", "self::routes"]);
        assert_eq!(out.stubs, ["build"]);
        assert!(out.signatures.contains(&"pub fn new() -> Self".to_owned()));
    }
}
