//! Is this file what was planned? Pure but for a question to Python's compiler; the running service is `service.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::compiler::Compiler;
use crate::outline::{Import, Lang, Outline, outline};
use crate::packages;
use crate::plan::{File, Plan};
use regex::Regex;

/// A fault of a file, in words that go into the next request for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the answer was empty")]
    Empty,
    #[error("the answer was cut off before its end")]
    Cut,
    #[error("no answer came in time: be brief")]
    Late,
    #[error("the file is a placeholder: {0}")]
    Placeholder(String),
    #[error("the answer is another file: its first line names {0}")]
    WrongFile(String),
    #[error("the answer repeats {0} word for word")]
    Repeats(String),
    #[error("the answer is not the file's text: {0}")]
    NotAFile(String),
    #[error("it does not parse: {0}")]
    Syntax(String),
    #[error("it must define {0}, which it does not")]
    Undefined(String),
    #[error("{0}")]
    Import(String),
    #[error("{0}")]
    Requirement(String),
    #[error("the service does not run: {0}")]
    Service(String),
}

impl Flaw {
    /// A short name for counts and feedback.
    pub fn kind(&self) -> &'static str {
        match self {
            Flaw::Empty => "empty",
            Flaw::Cut => "cut",
            Flaw::Late => "late",
            Flaw::Placeholder(_) => "placeholder",
            Flaw::WrongFile(_) => "wrong_file",
            Flaw::Repeats(_) => "repeats",
            Flaw::NotAFile(_) => "not_a_file",
            Flaw::Syntax(_) => "syntax",
            Flaw::Undefined(_) => "undefined",
            Flaw::Import(_) => "import",
            Flaw::Requirement(_) => "requirement",
            Flaw::Service(_) => "service",
        }
    }
}

/// Texts by path: what is finished so far, or the whole service.
pub type Texts = BTreeMap<String, String>;

/// The first fault of a file against its plan and the finished files.
///
/// # Errors
/// The fault. A file without one may still be wrong in what it does: the tests and the running service tell.
pub async fn file(plan: &Plan, planned: &File, text: &str, finished: &Texts, compiler: &Compiler) -> Result<(), Flaw> {
    let path = planned.path.as_str();
    if text.trim().is_empty() {
        return if may_be_empty(path) { Ok(()) } else { Err(Flaw::Empty) };
    }
    if let Some(why) = placeholder(path, text) {
        return Err(Flaw::Placeholder(why));
    }
    if let Some((other, _)) = finished.iter().find(|(other, known)| *other != path && known.trim() == text.trim()) {
        return Err(Flaw::Repeats(other.clone()));
    }
    if let Some(facts) = outline(path, text) {
        if let Some(error) = facts.syntax_errors.first() {
            return Err(Flaw::Syntax(error.clone()));
        }
        if Lang::of(path) == Some(Lang::Python)
            && let Some(fault) = compiler.fault(text).await
        {
            return Err(Flaw::Syntax(fault));
        }
        contract(planned, &facts)?;
        imports(plan, path, &facts, finished)?;
    } else {
        data(path, text)?;
    }
    Ok(())
}

/// Files whose emptiness means something.
fn may_be_empty(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(name, "__init__.py" | "py.typed" | ".gitkeep")
}

fn contract(planned: &File, facts: &Outline) -> Result<(), Flaw> {
    let missing: Vec<&str> = planned.defines.iter().filter(|name| !facts.defines.contains(name)).map(String::as_str).collect();
    if missing.is_empty() { Ok(()) } else { Err(Flaw::Undefined(missing.join(", "))) }
}

/// JSON and TOML have parsers; other formats have only their text.
fn data(path: &str, text: &str) -> Result<(), Flaw> {
    let fault = match path.rsplit('.').next() {
        Some("json") => serde_json::from_str::<serde_json::Value>(text).err().map(|err| err.to_string()),
        Some("toml") => toml::from_str::<toml::Table>(text).err().map(|err| err.message().to_owned()),
        _ => None,
    };
    fault.map_or(Ok(()), |fault| Err(Flaw::Syntax(fault)))
}

// === placeholders ===

/// Why a text is only the promise of a file, if it is.
pub fn placeholder(path: &str, text: &str) -> Option<String> {
    static PROMISE: LazyLock<Regex> = LazyLock::new(|| {
        #[expect(clippy::expect_used, reason = "a constant pattern, run by every test")]
        Regex::new(concat!(
            r"(?i)(?:rest of (?:the|your) (?:code|file|implementation)|existing (?:code|imports|routes)|same as (?:above|before|in the previous)",
            r"|\b(?:add|put|insert|write|implement) (?:your|the|more|other|main)\b[^\n]{0,40}\bhere\b|(?:code|content|logic|operations|implementation|routes) (?:goes?|comes?) here",
            r"|your (?:code|content|logic|implementation) here|\bcontent here\b|replace with (?:the )?actual|(?:actual|real) implementation",
            r"|^\W*placeholder\b|content (?:for|of) \S+\.\w+\s*$|lorem ipsum|^\W*todo:? (?:write|add|implement)|<insert )"
        ))
        .expect("a valid pattern")
    });
    let bare = text.trim().trim_matches(['<', '>', '#', '/', '*', '!', '-', ' ', '"']).to_ascii_lowercase();
    if matches!(bare.as_str(), "..." | "…" | "null" | "none" | "undefined" | "content" | "todo" | "placeholder" | "(same as above)") {
        return Some(format!("all it says is {bare:?}"));
    }
    // Prose may use these words of itself; in code and comments they stand for what is missing.
    let promising = text.lines().find(|line| PROMISE.is_match(line) && is_remark(path, line));
    if let Some(line) = promising {
        return Some(format!("it says {:?}", line.trim()));
    }
    let facts = outline(path, text)?;
    if !facts.has_code && !may_be_empty(path) {
        return Some("it has only comments".to_owned());
    }
    (!facts.stubs.is_empty()).then(|| format!("{} does nothing", facts.stubs.join(", ")))
}

/// A comment in a source file; any line of another file.
fn is_remark(path: &str, line: &str) -> bool {
    let line = line.trim_start();
    Lang::of(path).is_none()
        || ["#", "//", "/*", "*", "<", "(", "..."].iter().any(|start| line.starts_with(start))
        || ["# ", "// "].iter().any(|mark| line.contains(mark))
        || !line.contains(['=', '(', ':'])
}

// === imports ===

/// Every import is the standard library, a package with a name, or a planned file that defines what is taken.
fn imports(plan: &Plan, path: &str, facts: &Outline, finished: &Texts) -> Result<(), Flaw> {
    for import in facts.imports.iter().filter(|import| !import.guarded) {
        match target(plan, path, import) {
            Target::Elsewhere => {}
            Target::Missing => {
                return Err(Flaw::Import(format!("line {}: it imports {}, which no planned file is", import.line, import.module)));
            }
            Target::Planned(wanted) => names_exist(plan, &wanted, import, finished)?,
        }
    }
    Ok(())
}

enum Target {
    Planned(String),
    Missing,
    Elsewhere,
}

fn target(plan: &Plan, path: &str, import: &Import) -> Target {
    let candidates = match Lang::of(path) {
        Some(Lang::Python) => match packages::python_module(plan, path, &import.module) {
            Some(candidates) => candidates,
            None => return Target::Elsewhere,
        },
        Some(Lang::JavaScript | Lang::TypeScript) if import.module.starts_with('.') => packages::script_module(path, &import.module),
        Some(Lang::Rust) => match packages::rust_module(path, &import.module) {
            Some(candidates) => candidates,
            None => return Target::Elsewhere,
        },
        _ => return Target::Elsewhere,
    };
    let planned: BTreeSet<&str> = plan.paths().collect();
    // A Python folder without __init__.py is a package too.
    let folder = |candidate: &String| {
        candidate
            .strip_suffix("/__init__.py")
            .is_some_and(|dir| planned.iter().any(|path| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))))
    };
    candidates
        .iter()
        .find(|candidate| planned.contains(candidate.as_str()))
        .or_else(|| candidates.iter().find(|candidate| folder(candidate)))
        .map_or(Target::Missing, |found| Target::Planned(found.clone()))
}

/// Checked against the file when it is finished; a planned one is checked against us when its turn comes.
fn names_exist(plan: &Plan, wanted: &str, import: &Import, finished: &Texts) -> Result<(), Flaw> {
    let Some(text) = finished.get(wanted) else {
        return Ok(());
    };
    let Some(facts) = outline(wanted, text) else {
        return Ok(());
    };
    let folder = wanted.strip_suffix("__init__.py");
    let submodule = |name: &str| {
        folder.is_some_and(|dir| plan.paths().any(|path| path == format!("{dir}{name}.py") || path.starts_with(&format!("{dir}{name}/"))))
    };
    let missing = import.names.iter().find(|name| *name != "*" && !facts.defines.contains(name) && !submodule(name));
    match missing {
        Some(name) => Err(Flaw::Import(format!(
            "line {}: it imports {name} from {wanted}, which defines only {}",
            import.line,
            facts.defines.join(", ")
        ))),
        None => Ok(()),
    }
}

/// Faults between finished files: imports of names that are not there, packages that no requirement covers.
pub fn whole(plan: &Plan, texts: &Texts) -> Vec<(String, Flaw)> {
    let mut faults = Vec::new();
    for (path, text) in texts {
        if let Some(facts) = outline(path, text)
            && let Err(flaw) = imports(plan, path, &facts, texts)
        {
            faults.push((path.clone(), flaw));
        }
    }
    faults.extend(packages::uncovered(plan, texts).into_iter().map(|(path, missing)| {
        let flaw = Flaw::Requirement(format!("it must list {}, which the code imports", missing.join(", ")));
        (path, flaw)
    }));
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Row {
        id: String,
        path: String,
        content: String,
        placeholder: bool,
    }

    #[test]
    fn placeholders_of_the_data() {
        for line in include_str!("../tests/data/placeholder_files.jsonl").lines() {
            let row: Row = serde_json::from_str(line).unwrap();
            let found = placeholder(&row.path, &row.content);
            assert_eq!(found.is_some(), row.placeholder, "{} {:?}: {found:?}", row.id, row.content);
        }
    }

    fn plan() -> Plan {
        let files = json!([
            {"path": "app/__init__.py", "priority": "normal", "purpose": "x"},
            {"path": "app/store.py", "priority": "critical", "purpose": "x", "defines": ["Store"]},
            {"path": "app/main.py", "priority": "critical", "purpose": "x", "needs": ["app/store.py"], "defines": ["app"]},
            {"path": "package.json", "priority": "low", "purpose": "x"},
            {"path": "src/index.ts", "priority": "critical", "purpose": "x"},
        ]);
        Plan::parse(&json!({"service_name": "a-b", "files_to_create": files}).to_string()).unwrap()
    }

    #[tokio::test]
    async fn faults_of_a_file() {
        let store = "class Store:\n    size = 1\n";
        let finished = Texts::from([("app/store.py".to_owned(), store.to_owned())]);
        let compiler = Compiler::start();
        let check = async |path: &str, text: &str, kind: &str| {
            let plan = plan();
            let got = file(&plan, plan.file(path).unwrap(), text, &finished, &compiler).await;
            assert_eq!(got.as_ref().map_or_else(Flaw::kind, |()| ""), kind, "{text:?}: {got:?}");
        };
        check("app/main.py", "from app.store import Store\napp = Store()\n", "").await;
        check("app/main.py", "from .store import Store\napp = Store()\n", "").await;
        check("app/main.py", "from app import store\napp = store.Store()\n", "").await;
        check("app/main.py", "import os.path\nimport fastapi\napp = fastapi.FastAPI()\n", "").await;
        check("app/__init__.py", "", "").await;
        check("app/main.py", " \n", "empty").await;
        check("app/main.py", "app = 1\ndef f():\n    pass\n", "placeholder").await;
        check("app/main.py", store, "repeats").await;
        check("app/main.py", "app = (1\n", "syntax").await;
        // Only the real compiler sees this one.
        check("app/main.py", "app = 1\nreturn app\n", "syntax").await;
        check("app/main.py", "application = 1\n", "undefined").await;
        check("app/main.py", "from app.nothing import x\napp = x\n", "import").await;
        check("app/main.py", "from app.store import Shop\napp = Shop()\n", "import").await;
        check("package.json", "{\"a\": }", "syntax").await;
        check("src/index.ts", "import { a } from './gone.js';\nconsole.log(a);\n", "import").await;
        check("src/index.ts", "import express from 'express';\nexport const app = express();\n", "").await;
    }
}
