//! What templates know about the service besides its plan: read off the finished files, never guessed.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

use crate::check::Texts;
use crate::outline::{Lang, outline};
use crate::packages;
use crate::plan::{Plan, is_for_tests};

#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// `app.main:app` for Python; none: nothing that can be served.
    pub entry: Option<String>,
    /// Lines of a requirements file: what runs in production, and what only the tests need besides.
    pub requirements: Vec<String>,
    pub dev_requirements: Vec<String>,
    pub npm: Vec<String>,
    pub crates: Vec<String>,
    /// Environment variables the code reads.
    pub variables: Vec<String>,
}

impl Facts {
    pub fn of(plan: &Plan, texts: &Texts) -> Self {
        let all = packages::python_requirements(plan, texts, |_| true);
        let requirements = packages::python_requirements(plan, texts, |path| !is_for_tests(path));
        Self {
            entry: entry(plan, texts),
            dev_requirements: all.into_iter().filter(|line| !requirements.contains(line)).collect(),
            requirements,
            npm: packages::script_packages(texts),
            crates: packages::rust_crates(texts),
            variables: variables(texts),
        }
    }
}

/// The Python module that makes the ASGI application, or the entry file of another language.
fn entry(plan: &Plan, texts: &Texts) -> Option<String> {
    let python = plan.files_to_create.iter().find_map(|file| {
        let text = texts.get(&file.path)?;
        let serves = text.contains("FastAPI(") || text.contains("Starlette(");
        let facts = outline(&file.path, text)?;
        let name = ["app", "application", "api"].into_iter().find(|name| facts.defines.iter().any(|known| known == name))?;
        (serves && !file.path.contains("test")).then(|| {
            let module = file.path.trim_end_matches(".py").trim_end_matches("/__init__");
            format!("{}:{name}", module.trim_start_matches("src/").replace('/', "."))
        })
    });
    python.or_else(|| {
        let known = ["src/main.rs", "src/index.ts", "src/server.ts", "src/index.js", "src/server.js", "index.js"];
        known.into_iter().find(|path| texts.contains_key(*path)).map(str::to_owned)
    })
}

/// Read by name (`os.getenv("A")`, `process.env.A`, `env::var("A")`), or by the fields of a pydantic settings class.
fn variables(texts: &Texts) -> Vec<String> {
    static NAMED: LazyLock<Regex> =
        LazyLock::new(|| pattern(r#"(?:getenv\(|environ(?:\.get\(|\[)|process\.env\.|env::var\()\s*["']?([A-Z][A-Z0-9_]+)"#));
    static FIELDS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^class \w+\(BaseSettings\):\n((?:[ \t]+.*\n|\n)+)"));
    static FIELD: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^[ \t]+([a-z][a-z0-9_]*): "));
    let mut found = BTreeSet::new();
    for (path, text) in texts.iter().filter(|(path, _)| Lang::of(path).is_some()) {
        found.extend(NAMED.captures_iter(text).map(|named| named[1].to_owned()));
        if path.ends_with(".py") {
            let bodies = FIELDS.captures_iter(text).map(|class| class[1].to_owned());
            found.extend(bodies.flat_map(|body| FIELD.captures_iter(&body).map(|field| field[1].to_uppercase()).collect::<Vec<_>>()));
        }
    }
    found.into_iter().collect()
}

fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the patterns are constants and every one runs in the tests")]
    Regex::new(text).expect("a valid pattern")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_by_name_and_by_field() {
        let check = |path: &str, text: &str, want: &[&str]| assert_eq!(variables(&Texts::from([(path.to_owned(), text.to_owned())])), want);
        check("a.py", "import os\nx = os.getenv('B_URL')\ny = os.environ[\"AB\"]\n", &["AB", "B_URL"]);
        check("a.ts", "const port = process.env.PORT ?? 1;\n", &["PORT"]);
        check("a.rs", "let host = env::var(\"HOST\");\n", &["HOST"]);
        let class =
            "class Settings(BaseSettings):\n    \"\"\"X.\"\"\"\n\n    log_level: str = 'INFO'\n    model_config = 1\n\n\nother: int = 2\n";
        check("a.py", class, &["LOG_LEVEL"]);
    }
}
