//! Files inside answers: fields that carry a path and its content, and fenced blocks of code.

use serde_json::{Map, Value};

use super::checks::Settings;
use super::code::{self, Language, Source};
use super::text::Fence;
use super::{Flaw, placeholder};

/// Objects looked at in one answer.
const FILES_MAX: usize = 2000;
const PATHS: [&str; 8] = ["path", "file_path", "filepath", "filePath", "filename", "file_name", "fileName", "file"];
const CONTENTS: [&str; 7] = ["content", "contents", "code", "source", "file_content", "fileContent", "text"];

/// Checks every file that a JSON value carries.
///
/// # Errors
/// `Placeholder`, `BadCode`, or `Custom` for a path that leaves the project.
pub(super) fn judge(value: &Value, settings: &Settings) -> Result<(), Flaw> {
    if !settings.placeholder && !settings.code {
        return Ok(());
    }
    let mut open = vec![value];
    let mut seen = 0;
    while let Some(value) = open.pop() {
        match value {
            Value::Array(list) => {
                sound_paths(list, settings)?;
                open.extend(list.iter().rev());
            }
            Value::Object(map) => {
                if let Some((path, content)) = file_in(map) {
                    seen += 1;
                    if seen > FILES_MAX {
                        return Ok(());
                    }
                    judge_file(path, content, settings)?;
                }
                open.extend(map.values().rev());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks one file.
///
/// # Errors
/// As [`judge`].
pub(super) fn judge_file(path: &str, content: &str, settings: &Settings) -> Result<(), Flaw> {
    let source = Language::of_path(path).map(|language| Source::new(language, content));
    if settings.placeholder
        && let Some(why) = placeholder::of_file(path, content, source.as_ref())
    {
        return Err(Flaw::Placeholder { at: path.to_owned(), why });
    }
    if settings.code
        && let Some(source) = source.filter(|_| !has_comments_by_habit(path) && !path.ends_with(".d.ts"))
        && let Some(fault) = source.fault()
    {
        return Err(Flaw::BadCode { language: source.language.as_str(), line: fault.line, why: format!("{path}: {}", fault.why) });
    }
    Ok(())
}

/// A file, if the object carries one: a path with an ending or a well-known name, and a text.
fn file_in(map: &Map<String, Value>) -> Option<(&str, &str)> {
    let (path, content) = given(map)?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let looks_like_path =
        path.len() < 400 && !path.contains('\n') && !path.contains("://") && (name.contains('.') || path.contains('/') || is_known(name));
    // The schema's own words for an example: {"path": "string", "content": "string"}.
    let example = placeholder::is_a_word_for_content(path) && placeholder::is_a_word_for_content(content);
    (looks_like_path || example).then_some((path, content))
}

/// What an object gives as a path and a content, whatever the path looks like.
fn given(map: &Map<String, Value>) -> Option<(&str, &str)> {
    let text = |names: &[&str]| names.iter().find_map(|name| map.get(*name)).and_then(Value::as_str);
    Some((text(&PATHS)?, text(&CONTENTS)?)).filter(|(path, _)| !path.contains("://") || path.starts_with("file:"))
}

fn is_known(name: &str) -> bool {
    matches!(
        name,
        "Dockerfile" | "Containerfile" | "Makefile" | "Procfile" | "LICENSE" | "Jenkinsfile" | "Vagrantfile" | "Gemfile" | "justfile"
    )
}

/// JSON that its tools read with comments.
fn has_comments_by_habit(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("tsconfig")
        || name.starts_with("jsconfig")
        || path.contains(".vscode/")
        || name.starts_with(".eslintrc")
        || name == "devcontainer.json"
}

/// Why a path must not be written to.
fn unsafe_path(path: &str) -> Option<&'static str> {
    let bytes = path.as_bytes();
    let drive = bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' && (bytes[2] == b'\\' || bytes[2] == b'/');
    if path.split(['/', '\\']).any(|part| part == "..") {
        return Some("leaves the project's folder");
    }
    // `/users/{id}` is a route, not a file.
    let system = ["etc", "usr", "var", "home", "root", "tmp", "opt", "bin", "dev", "proc", "sys", "app"];
    let name = path.rsplit('/').next().unwrap_or(path);
    let file = name.contains('.') || path.split('/').nth(1).is_some_and(|first| system.contains(&first));
    if path.starts_with(['\\', '~']) || drive || (path.starts_with('/') && file) || path.starts_with("file:") {
        return Some("is absolute");
    }
    if path.trim_matches([' ', '.', '/']).is_empty() {
        return Some("names no file");
    }
    path.contains('\0').then_some("holds a NUL")
}

/// Paths of a list of files stay inside the project, and no two files share one: one of them would be lost.
fn sound_paths(list: &[Value], settings: &Settings) -> Result<(), Flaw> {
    if !settings.placeholder {
        return Ok(());
    }
    let mut seen = std::collections::HashMap::new();
    for (path, content) in list.iter().filter_map(Value::as_object).filter_map(given) {
        if let Some(why) = unsafe_path(path) {
            return Err(Flaw::Custom { check: "file_path".into(), why: format!("{path:?} {why}") });
        }
        if seen.insert(path.trim_start_matches("./"), content).is_some_and(|other| other != content) {
            return Err(Flaw::Custom { check: "file_path".into(), why: format!("{path:?} is given twice with different content") });
        }
    }
    Ok(())
}

/// Checks the fenced code of a text: fragments are fine, code that does not parse however it is read is not.
///
/// # Errors
/// `BadCode`.
pub(super) fn judge_fences(fences: &[Fence<'_>], by_length: bool) -> Result<(), Flaw> {
    for fence in fences {
        let Some(language) = Language::of_label(fence.label).filter(|language| language.is_program() || *language == Language::Json) else {
            continue;
        };
        // Lines that documentation of Rust hides.
        let hidden = language == Language::Rust && fence.code.lines().any(|line| line.trim_start().starts_with("# "));
        if (!fence.closed && by_length) || hidden || is_excerpt(fence.code) || fence.code.lines().count() < 3 {
            continue;
        }
        if let Some(fault) = fragment_fault(language, fence.code).filter(|fault| !fault.why.starts_with("missing")) {
            return Err(Flaw::BadCode { language: language.as_str(), line: fence.line + fault.line - 1, why: fault.why });
        }
    }
    Ok(())
}

/// Elisions, prompts, diffs: code that is shown, not given.
fn is_excerpt(code: &str) -> bool {
    code.contains("...")
        || code.contains('…')
        || code.contains("{{")
        || code.lines().any(|line| {
            let line = line.trim_start();
            [">>> ", "$ ", "> ", "+ ", "- ", "In [", "@@ ", "<", "#!"].iter().any(|mark| line.starts_with(mark))
        })
}

/// The fault of code that is read as a file, as the body of a function and as a member of a class.
fn fragment_fault(language: Language, code: &str) -> Option<code::Fault> {
    let fault = code::fault(language, code)?;
    let dedented = dedented(code);
    let wrapped = match language {
        Language::Rust => vec![
            format!("fn f() {{\n{code}\n}}"),
            format!("impl F {{\n{code}\n}}"),
            format!("enum F {{\n{code}\n}}"),
            format!("struct F {{\n{code}\n}}"),
        ],
        Language::Java => vec![format!("class F {{\n{code}\n}}"), format!("class F {{ void f() {{\n{code}\n}} }}")],
        Language::JavaScript | Language::TypeScript | Language::Tsx => vec![
            format!("async function f() {{\n{code}\n}}"),
            format!("class F {{\n{code}\n}}"),
            format!("({{\n{code}\n}})"),
            format!("(\n{code}\n)"),
        ],
        Language::Go => vec![format!("package p\n{code}"), format!("package p\nfunc f() {{\n{code}\n}}")],
        Language::Json => return json_fragment(code).then_some(fault),
        _ => vec![dedented.clone(), format!("async def f():\n{}", indented(&dedented))],
    };
    wrapped.iter().all(|code| code::fault(language, code).is_some()).then_some(fault)
}

/// JSON with comments or several values in one block is shown, not broken; only cut JSON is.
fn json_fragment(code: &str) -> bool {
    matches!(crate::repair::json(code, &crate::repair::Given::default()), crate::repair::Repaired::Cut { .. })
}

fn dedented(code: &str) -> String {
    let indent = code.lines().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    code.lines().map(|line| line.get(indent..).unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn indented(code: &str) -> String {
    code.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// The last fence is open and its code breaks off, not only its closing line.
pub(super) fn ends_abruptly(fences: &[Fence<'_>]) -> bool {
    let Some(fence) = fences.last().filter(|fence| !fence.closed) else { return false };
    match Language::of_label(fence.label) {
        Some(language) => fragment_fault(language, fence.code).is_some(),
        None => false,
    }
}
