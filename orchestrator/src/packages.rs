//! From import to file or package, per language: where a module of ours lies, which package a foreign one comes
//! from, and whether the requirements list it.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Texts;
use crate::outline::{Import, Lang, outline};
use crate::plan::Plan;

/// The modules of Python 3.11's standard library; older ones that later versions dropped are listed too.
const PYTHON_STDLIB: &str = include_str!("python_stdlib.txt");
const NODE_BUILTIN: &[&str] = &[
    "assert",
    "buffer",
    "child_process",
    "cluster",
    "crypto",
    "dns",
    "events",
    "fs",
    "http",
    "http2",
    "https",
    "net",
    "os",
    "path",
    "perf_hooks",
    "process",
    "querystring",
    "readline",
    "stream",
    "test",
    "timers",
    "tls",
    "tty",
    "url",
    "util",
    "v8",
    "vm",
    "worker_threads",
    "zlib",
];

/// Python packages whose name differs from the module's, and lower bounds for the usual ones.
const PYTHON_PACKAGES: &[(&str, &str)] = &[
    ("alembic", "alembic>=1.13"),
    ("attr", "attrs"),
    ("bs4", "beautifulsoup4"),
    ("cv2", "opencv-python-headless"),
    ("dateutil", "python-dateutil"),
    ("dotenv", "python-dotenv>=1.0"),
    ("fastapi", "fastapi>=0.110"),
    ("google", "google-api-python-client"),
    ("httpx", "httpx>=0.27"),
    ("jose", "python-jose[cryptography]>=3.3"),
    ("jwt", "PyJWT>=2.8"),
    ("magic", "python-magic"),
    ("multipart", "python-multipart>=0.0.9"),
    ("opentelemetry", "opentelemetry-sdk"),
    ("PIL", "Pillow"),
    ("prometheus_client", "prometheus-client>=0.20"),
    ("psycopg2", "psycopg2-binary"),
    ("pydantic", "pydantic>=2.6"),
    ("pydantic_settings", "pydantic-settings>=2.2"),
    ("pytest", "pytest>=8.0"),
    ("sklearn", "scikit-learn"),
    ("sqlalchemy", "SQLAlchemy>=2.0"),
    ("starlette", "starlette"),
    ("uvicorn", "uvicorn>=0.29"),
    ("yaml", "PyYAML>=6.0"),
];

/// Packages a text needs without importing them: a mark in the text, the requirement.
const PYTHON_HIDDEN: &[(&str, &str)] = &[
    ("from fastapi import", "uvicorn>=0.29"),
    ("UploadFile", "python-multipart>=0.0.9"),
    ("Form(", "python-multipart>=0.0.9"),
    ("OAuth2PasswordRequestForm", "python-multipart>=0.0.9"),
    ("TestClient", "httpx>=0.27"),
    ("EmailStr", "email-validator>=2.1"),
    ("postgresql+asyncpg", "asyncpg"),
    ("postgresql+psycopg:", "psycopg[binary]"),
    ("sqlite+aiosqlite", "aiosqlite"),
    ("CryptContext", "passlib[bcrypt]"),
];

/// Where a Python module may lie in the plan; none when it is not ours.
pub fn python_module(plan: &Plan, path: &str, module: &str) -> Option<Vec<String>> {
    let at = |dir: &str, rest: &str| {
        let stem = match (dir.is_empty(), rest.is_empty()) {
            (_, true) => dir.to_owned(),
            (true, false) => rest.replace('.', "/"),
            (false, false) => format!("{dir}/{}", rest.replace('.', "/")),
        };
        vec![format!("{stem}.py"), format!("{stem}/__init__.py")]
    };
    let own = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let name = module.trim_start_matches('.');
    let dots = module.len() - name.len();
    if dots > 0 {
        let dir = (1..dots).fold(own, |dir, _| dir.rsplit_once('/').map_or("", |(up, _)| up));
        return Some(at(dir, name));
    }
    let top = name.split('.').next().unwrap_or(name);
    // Roots a Python program runs from: the service's folder, `src`, and the script's own folder.
    let local = |root: &str| {
        let prefix = if root.is_empty() { top.to_owned() } else { format!("{root}/{top}") };
        plan.paths().any(|path| path == format!("{prefix}.py") || path.starts_with(&format!("{prefix}/")))
    };
    if let Some(root) = ["", "src", own].into_iter().find(|root| local(root)) {
        return Some(at(root, name));
    }
    // `import models` while the plan has app/models.py: a slip, not a package of that name.
    let slip = plan.paths().any(|path| Lang::of(path) == Some(Lang::Python) && path.rsplit('/').next() == Some(&format!("{top}.py")));
    (slip && !is_python_stdlib(top)).then(|| at("", name))
}

/// Where a relative JavaScript or TypeScript import may lie: `./store.js` is `store.ts` in the source.
pub fn script_module(path: &str, module: &str) -> Vec<String> {
    let own = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let mut parts: Vec<&str> = own.split('/').filter(|part| !part.is_empty()).collect();
    for part in module.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let full = parts.join("/");
    let stem = [".js", ".ts", ".mjs"].iter().find_map(|end| full.strip_suffix(end)).unwrap_or(&full);
    let mut found: Vec<String> = ["ts", "js", "mjs", "json"].iter().map(|end| format!("{stem}.{end}")).collect();
    found.extend(["ts", "js"].iter().map(|end| format!("{full}/index.{end}")));
    found.push(full);
    found
}

/// Where `crate::a::b` or `mod a;` may lie; none when it is not ours or the path could be an item.
pub fn rust_module(path: &str, module: &str) -> Option<Vec<String>> {
    let (root, rest) = module.split_once("::")?;
    let own = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let dir = match root {
        "crate" => "src".to_owned(),
        // The module file `src/a.rs` has its children in `src/a/`.
        "self" => match path.rsplit('/').next()? {
            "main.rs" | "lib.rs" | "mod.rs" => own.to_owned(),
            name => format!("{own}/{}", name.trim_end_matches(".rs")),
        },
        _ => return None,
    };
    let first = rest.split([':', '{', ' ']).next().filter(|name| !name.is_empty())?;
    let is_module = first.starts_with(|c: char| c.is_lowercase());
    is_module.then(|| {
        // `use crate::function` names an item of the root, which is a module file too.
        let mut found = vec![format!("{dir}/{first}.rs"), format!("{dir}/{first}/mod.rs")];
        if root == "crate" && !rest.contains("::") {
            found.extend([format!("{dir}/lib.rs"), format!("{dir}/main.rs")]);
        }
        found
    })
}

/// The requirements of the wanted Python files, sorted, as lines of a requirements file.
pub fn python_requirements(plan: &Plan, texts: &Texts, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |line: &str| {
        lines.entry(python_name(line)).or_insert_with(|| line.to_owned());
    };
    for (path, text) in texts.iter().filter(|(path, _)| Lang::of(path) == Some(Lang::Python) && wanted(path)) {
        let facts = outline(path, text).unwrap_or_default();
        for import in facts.imports.iter().filter(|import| !import.guarded) {
            if let Some(module) = foreign_python(plan, path, import) {
                let known = PYTHON_PACKAGES.iter().find(|(name, _)| *name == module);
                add(known.map_or(module, |(_, line)| line));
            }
        }
        PYTHON_HIDDEN.iter().filter(|(mark, _)| text.contains(mark)).for_each(|(_, line)| add(line));
    }
    lines.into_values().collect()
}

fn foreign_python<'i>(plan: &Plan, path: &str, import: &'i Import) -> Option<&'i str> {
    let top = import.module.split('.').next().filter(|top| !top.is_empty())?;
    let foreign = !is_python_stdlib(top) && python_module(plan, path, &import.module).is_none();
    foreign.then_some(top)
}

fn is_python_stdlib(module: &str) -> bool {
    PYTHON_STDLIB.split_whitespace().any(|known| known == module)
}

/// A requirement's package name as pip compares it: lower case, one kind of dash, no version and no extras.
fn python_name(line: &str) -> String {
    let name = line.split(['=', '<', '>', '~', '!', '[', ';', ' ', '@', '#']).next().unwrap_or(line);
    name.trim().to_lowercase().replace(['_', '.'], "-")
}

/// The npm packages of all script files, sorted.
pub fn script_packages(texts: &Texts) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (path, text) in texts {
        if !matches!(Lang::of(path), Some(Lang::JavaScript | Lang::TypeScript)) {
            continue;
        }
        for import in outline(path, text).unwrap_or_default().imports {
            let module = import.module.as_str();
            let parts: Vec<&str> = module.split('/').collect();
            let name = if module.starts_with('@') { parts[..parts.len().min(2)].join("/") } else { parts[0].to_owned() };
            let ours = module.starts_with('.') || module.starts_with("node:") || NODE_BUILTIN.contains(&name.as_str());
            if !ours && !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found.into_iter().collect()
}

/// The crates of all Rust files, sorted.
pub fn rust_crates(texts: &Texts) -> Vec<String> {
    let files = texts.iter().filter(|(path, _)| Lang::of(path) == Some(Lang::Rust));
    let facts: Vec<_> = files.filter_map(|(path, text)| outline(path, text)).collect();
    let local: BTreeSet<&str> = facts.iter().flat_map(|facts| facts.defines.iter().map(String::as_str)).collect();
    let named = facts.iter().flat_map(|facts| &facts.imports);
    let crates: BTreeSet<String> = named
        .filter_map(|import| import.module.split("::").next())
        .map(|name| name.split([' ', '{']).next().unwrap_or(name))
        .filter(|name| !matches!(*name, "std" | "core" | "alloc" | "crate" | "self" | "super" | ""))
        .filter(|name| !local.contains(name) && name.starts_with(|c: char| c.is_lowercase()))
        .map(|name| name.replace('_', "-"))
        .collect();
    crates.into_iter().collect()
}

/// Requirement files that miss packages the code imports, with those packages.
pub fn uncovered(plan: &Plan, texts: &Texts) -> Vec<(String, Vec<String>)> {
    let python: Vec<String> = python_requirements(plan, texts, |_| true).iter().map(|line| python_name(line)).collect();
    let is_python = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name == "pyproject.toml" || (name.starts_with("requirements") && name.ends_with(".txt"))
    };
    let script = script_packages(texts);
    let rust = rust_crates(texts);
    let mut found = Vec::new();
    found.extend(missing(texts, is_python, &python, |text| text.split(['\n', '"', '\'']).map(python_name).collect()));
    let words = |text: &str| text.split(['"', ' ', '\n', '=', '.']).map(|word| word.replace('_', "-")).collect();
    let quoted = |text: &str| text.split('"').map(str::to_owned).collect();
    found.extend(missing(texts, |path| path == "package.json", &script, quoted));
    found.extend(missing(texts, |path| path == "Cargo.toml", &rust, words));
    found
}

/// Several requirement files count together; the first is told what is missing.
fn missing(
    texts: &Texts,
    is_list: impl Fn(&str) -> bool,
    wanted: &[String],
    listed: impl Fn(&str) -> BTreeSet<String>,
) -> Option<(String, Vec<String>)> {
    let lists: Vec<(&String, &String)> = texts.iter().filter(|(path, _)| is_list(path)).collect();
    let known: BTreeSet<String> = lists.iter().flat_map(|(_, text)| listed(text)).collect();
    let missing: Vec<String> = wanted.iter().filter(|name| !known.contains(*name)).cloned().collect();
    let (first, _) = lists.first()?;
    (!missing.is_empty()).then(|| ((*first).clone(), missing))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(paths: &[&str]) -> Plan {
        let files: Vec<_> = paths.iter().map(|path| json!({"path": path, "priority": "normal", "purpose": "x"})).collect();
        Plan::parse(&json!({"service_name": "a-b", "files_to_create": files}).to_string()).unwrap()
    }

    #[test]
    fn requirements_come_from_the_imports() {
        let plan = plan(&["app/main.py", "app/models.py"]);
        let main = "import os, yaml\nfrom fastapi import FastAPI, UploadFile\nfrom app.models import X\nfrom . import models\n\
            from jose import jwt\ntry:\n    import uvloop\nexcept ImportError:\n    pass\n";
        let mut texts = Texts::from([("app/main.py".to_owned(), main.to_owned())]);
        let lines = python_requirements(&plan, &texts, |_| true);
        assert_eq!(lines, ["fastapi>=0.110", "python-jose[cryptography]>=3.3", "python-multipart>=0.0.9", "PyYAML>=6.0", "uvicorn>=0.29"]);
        texts.insert("requirements.txt".to_owned(), "FastAPI\npython_jose==3.3\nuvicorn[standard]\n".to_owned());
        let expected = vec!["python-multipart".to_owned(), "pyyaml".to_owned()];
        assert_eq!(uncovered(&plan, &texts), [("requirements.txt".to_owned(), expected)]);
        texts.insert("requirements-dev.txt".to_owned(), "pyyaml\npython-multipart>=1\n".to_owned());
        assert_eq!(uncovered(&plan, &texts), []);
    }

    #[test]
    fn modules_are_found() {
        let plan = plan(&["app/__init__.py", "app/models.py", "app/routers/users.py", "snake/main.py", "snake/model.py"]);
        let check = |path: &str, module: &str, first: Option<&str>| {
            let found = python_module(&plan, path, module);
            assert_eq!(found.as_ref().map(|found| found[0].as_str()), first, "{path} {module}");
        };
        check("app/routers/users.py", "..models", Some("app/models.py"));
        check("app/routers/users.py", "app.models", Some("app/models.py"));
        check("app/routers/users.py", ".", Some("app/routers.py"));
        check("app/routers/users.py", "models", Some("models.py")); // a slip: no such file
        check("snake/main.py", "model", Some("snake/model.py"));
        check("app/models.py", "fastapi", None);
        check("app/models.py", "os.path", None);
        assert_eq!(script_module("src/routes/a.ts", "../store.js")[0], "src/store.ts");
        assert_eq!(rust_module("src/a.rs", "self::b").unwrap()[0], "src/a/b.rs");
        assert_eq!(rust_module("src/a.rs", "crate::store::{Store}").unwrap()[0], "src/store.rs");
        assert_eq!(rust_module("src/a.rs", "axum::Router"), None);
    }

    #[test]
    fn script_and_rust_packages() {
        let texts = Texts::from([
            (
                "a.ts".to_owned(),
                "import x from '@scope/pkg/sub';\nimport fs from 'fs';\nimport e from 'express';\nimport l from './l';\n".to_owned(),
            ),
            ("src/main.rs".to_owned(), "mod store;\nuse std::fmt;\nuse tower_http::trace;\nuse store::X;\nuse crate::y;\n".to_owned()),
        ]);
        assert_eq!(script_packages(&texts), ["@scope/pkg", "express"]);
        assert_eq!(rust_crates(&texts), ["tower-http"]);
    }
}
