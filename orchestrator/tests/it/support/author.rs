//! The scripted author: real, correct files for the plan of each of the 30 requests. What it serves is small (records
//! in memory behind the planned endpoints) but runs; the oracle of the tests is its text, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

/// A request of `data/requests.jsonl` with the author's service for it.
#[derive(Debug, Clone)]
pub struct Work {
    pub id: String,
    pub level: String,
    pub request: String,
    pub single_shot: String,
    pub expect: Value,
    pub name: String,
    pub plan: Value,
    /// Text by path, for every planned file; templates write some of them in their own way.
    pub texts: BTreeMap<String, String>,
}

struct Draft {
    endpoints: Vec<String>,
    files: Vec<Value>,
    texts: BTreeMap<String, String>,
}

/// All requests, in the order of the file.
pub fn works() -> Vec<Work> {
    include_str!("../../data/requests.jsonl").lines().map(work).collect()
}

fn work(line: &str) -> Work {
    let row: Value = serde_json::from_str(line).unwrap();
    let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let name = match text("/expect/service_name") {
        name if name.is_empty() => "snake".to_owned(),
        name => name,
    };
    let draft = match name.as_str() {
        "snake" => snake(),
        _ => service(&name, &text("/level"), &paths(&name, &row["expect"])),
    };
    let plan = json!({
        "service_name": name, "endpoints": draft.endpoints, "entities": [], "files_to_create": draft.files,
    });
    Work {
        id: text("/id"),
        level: text("/level"),
        request: text("/request"),
        single_shot: text("/single_shot/system"),
        expect: row["expect"].clone(),
        name,
        plan,
        texts: draft.texts,
    }
}

/// The expected paths; a few requests name things but no paths.
fn paths(name: &str, expect: &Value) -> Vec<String> {
    let listed = expect["openapi_paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut paths: Vec<String> = listed.filter(|path| *path != "/health").map(str::to_owned).collect();
    if paths.is_empty() {
        let own: &[&str] = match name {
            "service-catalog" => &["/apps", "/environments", "/makers", "/connectors"],
            "service-catalog-api" => &["/services", "/owners", "/environments", "/dependencies"],
            "lice" => &["/licenses", "/headers", "/languages"],
            _ => &["/hello"],
        };
        paths.extend(own.iter().map(|path| (*path).to_owned()));
    }
    paths
}

fn service(name: &str, level: &str, paths: &[String]) -> Draft {
    let mut draft = Draft { endpoints: vec!["GET /health".to_owned()], files: Vec::new(), texts: BTreeMap::new() };
    for path in paths {
        draft.endpoints.push(format!("GET {path}"));
        if !path.contains('{') {
            draft.endpoints.push(format!("POST {path}"));
        }
    }
    if level == "S" {
        // Hello world is planned by the template set, which has its own name for the entry point.
        let main = if name == "hello-world" { "app/main.py" } else { "main.py" };
        draft.add(main, "critical", "the whole service", &[], &["app"], &single_file(name, paths));
        draft.add("requirements.txt", "low", "what the code imports", &[], &[], "fastapi\nuvicorn\n");
        return draft;
    }
    draft.add("app/__init__.py", "normal", "marks the package", &[], &[], "");
    draft.add("app/routers/__init__.py", "normal", "marks the package", &[], &[], "");
    draft.add("app/store.py", "critical", "records in memory", &[], &["Store", "store"], include_str!("../../data/author/store.py"));
    let parts = parts(level);
    for (path, defines, text) in &parts {
        draft.add(path, "critical", "a part of the service's logic", &[], defines, text);
    }
    let mut routers = Vec::new();
    for (group, members) in groups(paths) {
        let path = format!("app/routers/{group}.py");
        draft.add(&path, "critical", &format!("the endpoints of {group}"), &["app/store.py"], &["router"], &router(&group, &members));
        routers.push(path);
    }
    let needs: Vec<&str> = routers.iter().map(String::as_str).collect();
    draft.add("app/main.py", "critical", "the application", &needs, &["app"], &main_file(name, &routers));
    draft.add("tests/test_api.py", "normal", "the endpoints answer", &["app/main.py"], &[], &api_test(paths));
    draft.add("requirements.txt", "low", "what the code imports", &[], &[], "fastapi\nuvicorn\nhttpx\npytest\n");
    draft.add("Dockerfile", "low", "an image", &[], &[], "FROM python:3.12-slim\n");
    if matches!(level, "L" | "XL") {
        draft.add("README.md", "low", "how to run it", &[], &[], "# Service\n");
        draft.add("docker-compose.yml", "low", "run it here", &[], &[], "services: {}\n");
        draft.add(".env.example", "low", "variables", &[], &[], "# none\n");
    }
    draft
}

type Part = (&'static str, &'static [&'static str], &'static str);

/// Modules that larger services have.
fn parts(level: &str) -> Vec<Part> {
    let all: [Part; 11] = [
        ("app/errors.py", &["Conflict", "install"], include_str!("../../data/author/errors.py")),
        ("app/auth.py", &["issue", "verify"], include_str!("../../data/author/auth.py")),
        ("app/events.py", &["Events", "events"], include_str!("../../data/author/events.py")),
        ("app/pages.py", &["page"], include_str!("../../data/author/pages.py")),
        ("app/audit.py", &["Audit", "audit"], include_str!("../../data/author/audit.py")),
        ("app/search.py", &["search"], include_str!("../../data/author/search.py")),
        ("app/metrics.py", &["Metrics", "metrics"], include_str!("../../data/author/metrics.py")),
        ("app/cache.py", &["Cache"], include_str!("../../data/author/cache.py")),
        ("app/outbox.py", &["Outbox"], include_str!("../../data/author/outbox.py")),
        ("app/export.py", &["to_csv"], include_str!("../../data/author/export.py")),
        ("alembic/env.py", &["database_url"], include_str!("../../data/author/alembic_env.py")),
    ];
    let some = match level {
        "M" => 0,
        "L" => 5,
        _ => all.len(),
    };
    all[..some].to_vec()
}

impl Draft {
    fn add(&mut self, path: &str, priority: &str, purpose: &str, needs: &[&str], defines: &[&str], text: &str) {
        let file = json!({
            "path": path, "priority": priority, "purpose": purpose, "needs": needs, "defines": defines,
        });
        self.files.push(file);
        self.texts.insert(path.to_owned(), text.to_owned());
    }
}

fn snake() -> Draft {
    let mut draft = Draft { endpoints: Vec::new(), files: Vec::new(), texts: BTreeMap::new() };
    let model = "snake/model.py";
    draft.add(model, "critical", "the rules", &[], &["Game"], include_str!("../../data/author/snake_model.py"));
    draft.add("snake/view.py", "critical", "the board as text", &[model], &["draw"], include_str!("../../data/author/snake_view.py"));
    draft.add(
        "snake/controller.py",
        "critical",
        "keys to moves",
        &[model],
        &["press"],
        include_str!("../../data/author/snake_controller.py"),
    );
    let needs = [model, "snake/view.py", "snake/controller.py"];
    draft.add("snake/main.py", "critical", "the game in a terminal", &needs, &["main"], include_str!("../../data/author/snake_main.py"));
    draft
}

/// Paths by their first part that is no prefix.
fn groups(paths: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in paths {
        let first = path.split('/').find(|part| !part.is_empty() && *part != "api").unwrap_or("root");
        groups.entry(first.replace('-', "_")).or_default().push(path.clone());
    }
    groups
}

fn function(path: &str) -> String {
    let name: String = path.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    name.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

fn parameters(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
}

/// A reader of each path, and a writer where the path names a collection.
fn endpoints(on: &str, paths: &[String], out: &mut String) {
    for path in paths {
        let name = function(path);
        let parameters = parameters(path);
        if parameters.is_empty() {
            let _ = write!(
                out,
                "\n\n@{on}.get(\"{path}\")\ndef read_{name}() -> dict[str, object]:\n    \"\"\"Return what is stored under {path}.\"\"\"\n    \
                 return {{\"items\": store.all(\"{path}\")}}\n\n\n@{on}.post(\"{path}\", status_code=201)\n\
                 def write_{name}(body: dict[str, object]) -> dict[str, object]:\n    \"\"\"Store a record under {path}.\"\"\"\n    \
                 if not body:\n        raise HTTPException(422, \"the body is empty\")\n    return store.add(\"{path}\", body)\n"
            );
        } else {
            let signature: Vec<String> = parameters.iter().map(|parameter| format!("{parameter}: str")).collect();
            let key: Vec<String> = parameters.iter().map(|parameter| format!("{{{parameter}}}")).collect();
            let _ = write!(
                out,
                "\n\n@{on}.get(\"{path}\")\ndef read_{name}({}) -> dict[str, object]:\n    \"\"\"Return what is stored for one key.\"\"\"\n    \
                 key = f\"{}\"\n    return {{\"key\": key, \"items\": store.all(key)}}\n",
                signature.join(", "),
                key.join("/")
            );
        }
    }
}

fn router(group: &str, paths: &[String]) -> String {
    let raises = paths.iter().any(|path| !path.contains('{'));
    let imported = if raises { "APIRouter, HTTPException" } else { "APIRouter" };
    let mut out = format!(
        "\"\"\"The endpoints of {group}.\"\"\"\n\nfrom fastapi import {imported}\n\nfrom app.store import store\n\n\
         router = APIRouter(tags=[\"{group}\"])\n"
    );
    endpoints("router", paths, &mut out);
    out
}

const HEALTH: &str = "\n\n@app.get(\"/health\")\ndef health() -> dict[str, str]:\n    \"\"\"Say that the process answers.\"\"\"\n    \
    return {\"status\": \"ok\"}\n";

fn main_file(name: &str, routers: &[String]) -> String {
    let mut out = format!("\"\"\"{name}: the application.\"\"\"\n\nfrom fastapi import FastAPI\n\n");
    let modules: BTreeSet<&str> = routers.iter().filter_map(|path| path.strip_prefix("app/routers/")?.strip_suffix(".py")).collect();
    for module in &modules {
        let _ = writeln!(out, "from app.routers import {module}");
    }
    let _ = write!(out, "\napp = FastAPI(title=\"{name}\")\n");
    for module in &modules {
        let _ = writeln!(out, "app.include_router({module}.router)");
    }
    out + HEALTH
}

fn single_file(name: &str, paths: &[String]) -> String {
    let mut out = format!(
        "\"\"\"{name}: the whole service.\"\"\"\n\nfrom fastapi import FastAPI, HTTPException\n\n\n\
         class Store:\n    \"\"\"Records by path.\"\"\"\n\n    def __init__(self) -> None:\n        \
         self._records: dict[str, list[dict[str, object]]] = {{}}\n\n    \
         def add(self, path: str, record: dict[str, object]) -> dict[str, object]:\n        \"\"\"Keep a record.\"\"\"\n        \
         self._records.setdefault(path, []).append(record)\n        return record\n\n    \
         def all(self, path: str) -> list[dict[str, object]]:\n        \"\"\"Return all records of a path.\"\"\"\n        \
         return list(self._records.get(path, []))\n\n\nstore = Store()\napp = FastAPI(title=\"{name}\")\n"
    );
    endpoints("app", paths, &mut out);
    out + HEALTH
}

fn api_test(paths: &[String]) -> String {
    let first = paths.iter().find(|path| !path.contains('{')).map_or("/health", String::as_str);
    format!(
        "\"\"\"The endpoints answer.\"\"\"\n\nfrom fastapi.testclient import TestClient\n\nfrom app.main import app\n\n\
         client = TestClient(app)\n\n\ndef test_health() -> None:\n    \"\"\"The service is up.\"\"\"\n    \
         assert client.get(\"/health\").json() == {{\"status\": \"ok\"}}\n\n\ndef test_write_then_read() -> None:\n    \
         \"\"\"What is stored comes back.\"\"\"\n    assert client.post(\"{first}\", json={{\"a\": 1}}).status_code == 201\n    \
         assert client.get(\"{first}\").json()[\"items\"][-1][\"a\"] == 1\n\n\ndef test_empty_body_is_refused() -> None:\n    \
         \"\"\"Nothing is not a record.\"\"\"\n    assert client.post(\"{first}\", json={{}}).status_code == 422\n"
    )
}
