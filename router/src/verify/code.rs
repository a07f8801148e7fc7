//! Does this code parse? Tree-sitter grammars for the languages that services are written in.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use tree_sitter::{Node, ParseOptions, Parser, Tree};

/// Bytes of code that are parsed; more passes unread.
const CODE_MAX: usize = 512 * 1024;

/// A language with a grammar here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Python,
    JavaScript,
    TypeScript,
    Tsx,
    Rust,
    Go,
    Java,
    Sql,
    Yaml,
    Toml,
    Json,
    Dockerfile,
    Bash,
}

/// Where code stops being code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    pub why: String,
}

impl Language {
    /// By a file's name or ending.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
        if name == "Dockerfile" || name == "Containerfile" || name.starts_with("Dockerfile.") || name.ends_with(".dockerfile") {
            return Some(Self::Dockerfile);
        }
        let (_, ending) = name.rsplit_once('.')?;
        Some(match ending.to_ascii_lowercase().as_str() {
            "py" | "pyi" | "pyw" => Self::Python,
            "js" | "mjs" | "cjs" | "jsx" => Self::JavaScript,
            "ts" | "mts" | "cts" => Self::TypeScript,
            "tsx" => Self::Tsx,
            "rs" => Self::Rust,
            "go" => Self::Go,
            "java" => Self::Java,
            "sql" => Self::Sql,
            "yaml" | "yml" => Self::Yaml,
            "toml" => Self::Toml,
            "json" => Self::Json,
            "sh" | "bash" => Self::Bash,
            _ => return None,
        })
    }

    /// By the word behind a Markdown fence.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Some(match label.to_ascii_lowercase().as_str() {
            "python" | "py" | "python3" => Self::Python,
            "javascript" | "js" | "jsx" | "node" => Self::JavaScript,
            "typescript" | "ts" => Self::TypeScript,
            "tsx" => Self::Tsx,
            "rust" | "rs" => Self::Rust,
            "go" | "golang" => Self::Go,
            "java" => Self::Java,
            "sql" | "postgresql" | "sqlite" | "mysql" => Self::Sql,
            "yaml" | "yml" => Self::Yaml,
            "toml" => Self::Toml,
            "json" => Self::Json,
            "dockerfile" | "docker" => Self::Dockerfile,
            "bash" | "sh" | "shell" => Self::Bash,
            _ => return None,
        })
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::TypeScript => "typescript",
            Self::Tsx => "tsx",
            Self::Rust => "rust",
            Self::Go => "go",
            Self::Java => "java",
            Self::Sql => "sql",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Json => "json",
            Self::Dockerfile => "dockerfile",
            Self::Bash => "bash",
        }
    }

    /// True for programs, false for configuration, data and scripts of a shell.
    #[must_use]
    pub fn is_program(self) -> bool {
        matches!(self, Self::Python | Self::JavaScript | Self::TypeScript | Self::Tsx | Self::Rust | Self::Go | Self::Java)
    }

    fn grammar(self) -> tree_sitter::Language {
        match self {
            Self::Python => tree_sitter_python::LANGUAGE.into(),
            Self::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
            Self::TypeScript => tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(),
            Self::Tsx => tree_sitter_typescript::LANGUAGE_TSX.into(),
            Self::Rust => tree_sitter_rust::LANGUAGE.into(),
            Self::Go => tree_sitter_go::LANGUAGE.into(),
            Self::Java => tree_sitter_java::LANGUAGE.into(),
            Self::Sql => tree_sitter_sequel::LANGUAGE.into(),
            Self::Yaml => tree_sitter_yaml::LANGUAGE.into(),
            Self::Toml => tree_sitter_toml_ng::LANGUAGE.into(),
            Self::Json => tree_sitter_json::LANGUAGE.into(),
            Self::Dockerfile => tree_sitter_containerfile::LANGUAGE.into(),
            Self::Bash => tree_sitter_bash::LANGUAGE.into(),
        }
    }

    /// The share of a text, in percent, that its grammar may fail to read before the text is at fault.
    /// The grammars of SQL, shells and containers do not know every dialect.
    fn tolerance(self) -> usize {
        match self {
            Self::Sql => 50,
            Self::Bash | Self::Dockerfile => 30,
            _ => 0,
        }
    }
}

/// A text in a language, read when its tree is first asked for and then kept: several checks look at it.
pub(super) struct Source<'a> {
    pub language: Language,
    pub code: &'a str,
    tree: OnceCell<Option<Tree>>,
}

impl<'a> Source<'a> {
    pub fn new(language: Language, code: &'a str) -> Self {
        Self { language, code, tree: OnceCell::new() }
    }

    /// Its syntax tree; `None` for a text that is too long or that the grammar gives up on.
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.get_or_init(|| parsed(self.language, self.code)).as_ref()
    }

    /// Its first fault, if it has one.
    pub fn fault(&self) -> Option<Fault> {
        let (language, code) = (self.language, self.code);
        if language == Language::Json {
            return super::json::Scan::whole(code).err().map(|(at, why)| Fault { line: line_of(code, at), why: why.into() });
        }
        // Templates are filled in before they are read.
        let templated = code.contains("{{") || code.contains("{%") || code.contains("<%");
        if templated && !language.is_program() {
            return None;
        }
        let tree = self.tree()?;
        if language == Language::Sql && super::sql::is_cut(code) {
            return Some(Fault { line: line_of(code, code.len()), why: "the code ends too early".into() });
        }
        let fault = fault_in(language, code, tree)?;
        // Its grammar knows one dialect of many; what is SQL in any of them passes.
        (language != Language::Sql || !super::sql::is_some_sql(code)).then_some(fault)
    }
}

fn parsed(language: Language, code: &str) -> Option<Tree> {
    if code.len() > CODE_MAX {
        return None;
    }
    let mut parser = Parser::new();
    parser.set_language(&language.grammar()).ok()?;
    // Pathological input is cut short by work done, not by a clock: the same text always gets the same verdict.
    let mut ticks = 0_u32;
    let mut progress = |_: &tree_sitter::ParseState| {
        ticks += 1;
        if ticks > 200_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = ParseOptions::new().progress_callback(&mut progress);
    let bytes = code.as_bytes();
    parser.parse_with_options(&mut |at, _| bytes.get(at..).unwrap_or_default(), None, Some(options))
}

/// The first fault of a text, if it has one.
#[must_use]
pub fn fault(language: Language, code: &str) -> Option<Fault> {
    Source::new(language, code).fault()
}

fn fault_in(language: Language, code: &str, tree: &Tree) -> Option<Fault> {
    let root = tree.root_node();
    if root.has_error() {
        let broken = broken_bytes(root);
        if broken * 100 >= code.len() * language.tolerance() {
            return first_error(root).map(|node| Fault { line: node.start_position().row + 1, why: described(node, code) });
        }
    }
    (language == Language::Python).then(|| super::placeholder::python_indentation(root, code)).flatten()
}

fn described(node: Node<'_>, code: &str) -> String {
    if node.is_missing() {
        return format!("missing {}", node.kind());
    }
    let text = code.get(node.byte_range()).unwrap_or("");
    if node.end_byte() >= code.trim_end().len() {
        return "the code ends too early".into();
    }
    format!("unexpected {:?}", super::text::excerpt(text.lines().next().unwrap_or(""), 60))
}

/// Bytes under nodes of error that are not inside others.
fn broken_bytes(root: Node<'_>) -> usize {
    let mut total = 0;
    walk(root, &mut |node| {
        if node.is_error() {
            total += node.byte_range().len();
            return Descend::No;
        }
        if node.is_missing() {
            total += 1;
        }
        if node.has_error() { Descend::Yes } else { Descend::No }
    });
    total
}

fn first_error(root: Node<'_>) -> Option<Node<'_>> {
    let mut found = None;
    walk(root, &mut |node| {
        if found.is_none() && (node.is_error() || node.is_missing()) {
            found = Some(node);
        }
        if found.is_none() && node.has_error() { Descend::Yes } else { Descend::No }
    });
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Descend {
    Yes,
    No,
}

/// Visits nodes in the order of the text, without recursion: answers may nest as deep as they like.
/// Only named nodes: brackets and keywords say nothing, but for those that are missing.
pub(super) fn walk<'tree>(root: Node<'tree>, visit: &mut dyn FnMut(Node<'tree>) -> Descend) {
    let mut cursor = root.walk();
    loop {
        let node = cursor.node();
        let read = node.is_named() || node.is_missing();
        if read && visit(node) == Descend::Yes && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}
