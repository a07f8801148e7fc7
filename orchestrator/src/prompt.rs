//! The words the model gets: one question for the plan, one for each file; code as plain text, never inside JSON.

use std::fmt::Write as _;

use crate::ask::Question;
use crate::check::{Flaw, Texts};
use crate::outline::{Lang, outline};
use crate::plan::{File, Plan, Priority, schema};

/// The most that signatures of finished files may take of a prompt, in characters.
const SIGNATURES: usize = 8_000;

/// Refused answers to a file before the stronger model is asked.
const ESCALATE: usize = 2;

/// Asks for the plan. `fault` is what was wrong with the plan before.
pub fn plan(request: &str, service_name: &str, stack: &str, fault: Option<&str>, max_tokens: u32) -> Question {
    let system = "You plan the files of a service; others write them. Answer with JSON only: service_name, endpoints \
        (\"METHOD /path\", GET /health among them for a web service), entities (what the service stores, with fields; empty \
        when there is nothing to store), files_to_create. Each file: path (relative), priority (critical: entry point, \
        routes, models, logic; normal: package files, schemas, tests; low: requirements, Dockerfile, README, CI), purpose \
        (one sentence), needs (planned paths it imports), defines (names other files import from it). Few files, each \
        with one purpose."
        .to_owned();
    let mut user = format!("Service: {service_name} ({stack})\n\nRequest:\n{request}\n");
    if let Some(fault) = fault {
        let _ = write!(user, "\nThe plan before this one was refused: {fault}. Mend that.\n");
    }
    let session = session(service_name, "plan");
    Question { system, context: None, user, session, stronger: false, max_tokens, schema: Some(("service_plan", schema())) }
}

/// Asks for one file. `faults` are what was wrong with the answers before, the last one last.
///
/// Three parts, from the most to the least shared: the rules, which are the same in every build, so that a gateway
/// learns by them how well a model writes files of this kind; the service, the same for all files of a build; and the
/// question, short, so that it is weighed by what this one file demands.
pub fn file(request: &str, plan: &Plan, file: &File, finished: &Texts, faults: &[Flaw], max_tokens: u32) -> Question {
    let system = format!(
        "You write one file of a service: {}. Answer with the text of that file and nothing else: no JSON, no explanation. \
         The file is complete and production-grade: type hints, docstrings, error handling, no placeholders, no TODO.",
        kind(file)
    );
    let mut user = format!("Write the file {}.\nPurpose: {}\n", file.path, file.purpose);
    if !file.defines.is_empty() {
        let _ = writeln!(user, "Defines: {}", file.defines.join(", "));
    }
    if !file.needs.is_empty() {
        let _ = writeln!(user, "Imports from: {}", file.needs.join(", "));
    }
    if let Some((first, last)) = marks(&file.path) {
        let _ = writeln!(user, "First line: {first}\nLast line: {last}");
    }
    if let Some((last, before)) = faults.split_last() {
        let _ = write!(user, "\nAnswer {} was refused: {last}. Write the whole file again without that fault.\n", faults.len());
        let before: Vec<String> = before.iter().map(Flaw::to_string).collect();
        if !before.is_empty() {
            let _ = writeln!(user, "Answers before it: {}.", before.join("; "));
        }
    }
    let context = Some(context(request, plan) + &signatures(file, finished));
    Question {
        system,
        context,
        user,
        session: session(&plan.service_name, &file.path),
        stronger: faults.len() >= ESCALATE,
        max_tokens,
        schema: None,
    }
}

/// What the questions of a build have in common.
fn context(request: &str, plan: &Plan) -> String {
    let mut out = format!("Service: {} ({})\n\nRequest:\n{request}\n\nPlanned files:\n", plan.service_name, plan.stack);
    for other in &plan.files_to_create {
        let _ = writeln!(out, "- {}: {}{}", other.path, other.purpose, defines(other));
    }
    if !plan.endpoints.is_empty() {
        let _ = writeln!(out, "\nEndpoints of the service: {}", plan.endpoints.join(", "));
    }
    out
}

/// The kind of a file, as far as its path tells: files of one kind are about equally hard to write.
fn kind(file: &File) -> &'static str {
    let path = file.path.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| path.contains(part));
    match file.priority {
        _ if has(&["test"]) => "tests",
        Priority::Low => "a project file",
        _ if has(&["main.", "index.", "server.", "app.ts", "app.js"]) => "its entry point",
        _ if has(&["route", "api/", "endpoint", "controller", "view"]) => "routes",
        _ if has(&["model", "schema", "entit", "database", "migration"]) => "models",
        Priority::Normal => "a supporting file",
        Priority::Critical => "a part of its logic",
    }
}

/// A name for all questions about one file, fit for a header.
fn session(service_name: &str, path: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "/._-".contains(c) { c } else { '_' };
    format!("{service_name}/{path}").chars().map(plain).collect()
}

fn defines(file: &File) -> String {
    if file.defines.is_empty() { String::new() } else { format!(" (defines {})", file.defines.join(", ")) }
}

/// What the finished files offer that this one needs; where the plan does not say what it needs, all of them as far
/// as there is room.
fn signatures(file: &File, finished: &Texts) -> String {
    let mut out = String::new();
    for (path, text) in finished.iter().filter(|(path, _)| file.needs.is_empty() || file.needs.contains(path)) {
        let Some(facts) = outline(path, text).filter(|facts| !facts.signatures.is_empty()) else {
            continue;
        };
        let part = format!("\n{path}:\n{}\n", facts.signatures.join("\n"));
        if out.len() + part.len() > SIGNATURES {
            break;
        }
        out.push_str(&part);
    }
    if out.is_empty() { out } else { format!("\nSignatures of finished files:\n{out}") }
}

/// The first and the last line that an answer carries to say which file it is and that it is whole; they are taken
/// off before the file is written. None for formats without comments.
pub fn marks(path: &str) -> Option<(String, String)> {
    let comment = match Lang::of(path) {
        Some(Lang::Python) => "#",
        Some(Lang::JavaScript | Lang::TypeScript | Lang::Rust) => "//",
        None => match path.rsplit(['/', '.']).next()? {
            "txt" | "toml" | "yml" | "yaml" | "ini" | "cfg" | "Dockerfile" | "Makefile" | "sh" => "#",
            _ => return None,
        },
    };
    Some((format!("{comment} file: {path}"), format!("{comment} end of file")))
}

/// An answer's file text: fence and marks off. Prose around a single fence is dropped; anything else is left for the
/// checks to refuse.
///
/// # Errors
/// Another file's text, a text without its end, JSON where a file was asked for.
pub fn read_file(path: &str, answer: &str) -> Result<String, Flaw> {
    if answer.trim().is_empty() {
        return Err(Flaw::Empty);
    }
    let fenced = unfence(answer);
    let text = fenced.unwrap_or(answer).trim_matches(['\n', '\r']).trim_end();
    let json_asked = path.ends_with(".json");
    if !json_asked && text.starts_with('{') && serde_json::from_str::<serde_json::Value>(text).is_ok() {
        return Err(Flaw::NotAFile("it is JSON; the file's plain text is asked for".to_owned()));
    }
    let Some((first, last)) = marks(path) else {
        return Ok(format!("{text}\n"));
    };
    let mut lines: Vec<&str> = text.lines().collect();
    if let Some(named) = lines.first().and_then(|line| line.trim().strip_prefix(first.trim_end_matches(path))) {
        if named.trim() != path {
            return Err(Flaw::WrongFile(named.trim().to_owned()));
        }
        lines.remove(0);
    }
    // A closed fence is an end as good as the mark.
    match lines.last() {
        Some(line) if line.trim() == last => drop(lines.pop()),
        _ if fenced.is_some() => {}
        _ => return Err(Flaw::Cut),
    }
    let text = lines.join("\n").trim_matches('\n').trim_end().to_owned();
    Ok(if text.is_empty() { text } else { text + "\n" })
}

/// The inside of the only fence, if that is a wrapper around the answer and not a part of it (an example in a
/// docstring, the one code block of a README).
pub fn unfence(answer: &str) -> Option<&str> {
    const CODE: [&str; 6] = ["\"\"\"", "\u{27}\u{27}\u{27}", "import ", "# ", "//", "/*"];
    let fences: Vec<usize> = answer.match_indices("```").map(|(at, _)| at).collect();
    let &[open, close] = fences.as_slice() else {
        return None;
    };
    let before = answer.get(..open)?;
    if CODE.iter().any(|sign| before.contains(sign)) || before.trim().lines().count() > 3 {
        return None;
    }
    let inside = answer.get(open + 3..close)?;
    // The info string (`python`) ends with its line.
    inside.split_once('\n').map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_or_refused() {
        let check = |answer: &str, want: Result<&str, &str>| {
            let got = read_file("app/a.py", answer);
            let got = got.as_ref().map(String::as_str).map_err(Flaw::kind);
            assert_eq!(got, want, "{answer:?}");
        };
        let whole = "# file: app/a.py\nx = 1\n# end of file";
        check(whole, Ok("x = 1\n"));
        check("x = 1\n# end of file\n", Ok("x = 1\n"));
        check(&format!("```python\n{whole}\n```"), Ok("x = 1\n"));
        check(&format!("Sure, here it is:\n```python\n{whole}\n```\nHave fun!"), Ok("x = 1\n"));
        check("# file: app/b.py\nx = 1\n# end of file", Err("wrong_file"));
        check("# file: app/a.py\nx = 1\n", Err("cut"));
        check("```python\nx = 1\n```", Ok("x = 1\n"));
        check("```python\nx = 1\n", Err("cut"));
        check("{\"path\": \"app/a.py\"}", Err("not_a_file"));
        check("  \n", Err("empty"));
        let documented = "# file: app/a.py\n\"\"\"X.\n\n```\nx()\n```\n\"\"\"\nx = 1\n";
        check(documented, Err("cut"));
        check(&format!("{documented}# end of file"), Ok("\"\"\"X.\n\n```\nx()\n```\n\"\"\"\nx = 1\n"));
        assert_eq!(read_file("README.md", "# A\n\n```\nrun\n```\n").unwrap(), "# A\n\n```\nrun\n```\n");
        assert_eq!(read_file("LICENSE", "text\n").unwrap(), "text\n");
        assert_eq!(read_file("package.json", "{}").unwrap(), "{}\n");
    }
}
