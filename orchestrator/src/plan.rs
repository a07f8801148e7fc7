//! The plan: which files the service has, what each is for, and what each must define. Small, checked, editable.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::name;

/// The folder inside the service where the orchestrator keeps its own notes.
pub const NOTES: &str = ".spectra";
/// More files than this is a runaway answer, not a service.
const MAX_FILES: usize = 120;

/// A service to build, as a person or a model may write it (`--plan FILE`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub service_name: String,
    /// The template set, for example `fastapi`; empty: chosen from the request.
    #[serde(default)]
    pub stack: String,
    /// What the running service must answer to, as `METHOD /path`.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Things the service stores; templates write schemas and CRUD from them.
    #[serde(default)]
    pub entities: Vec<Entity>,
    pub files_to_create: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// Singular, PascalCase: `Task`.
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// snake_case.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: FieldKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    String,
    Integer,
    Number,
    Boolean,
    Date,
    Datetime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Relative to the service's folder, with `/`.
    pub path: String,
    pub priority: Priority,
    pub purpose: String,
    /// Planned files that this one imports; they are written first.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Names that other files import from here: the file's contract.
    #[serde(default)]
    pub defines: Vec<String>,
}

/// Who writes the file: the model, a template with the plan, or plain facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    Critical,
    Normal,
    Low,
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Priority::Critical => "critical",
            Priority::Normal => "normal",
            Priority::Low => "low",
        })
    }
}

/// What is wrong with a plan, in words that its author (a person or a model) can act on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("the plan is not the JSON asked for: {0}")]
    NotAPlan(String),
    #[error("the plan has no files")]
    Empty,
    #[error("the plan has {0} files; at most {MAX_FILES} make sense")]
    TooLarge(usize),
    #[error("path {path:?}: {why}")]
    Path { path: String, why: &'static str },
    #[error("paths {0:?} and {1:?} are the same file on a file system that ignores case")]
    Clash(String, String),
    #[error("{file:?} is planned as a file and, by {inside:?}, as a folder")]
    FileAndFolder { file: String, inside: String },
    #[error("{path:?} needs {needs:?}, which the plan does not create")]
    NeedsUnplanned { path: String, needs: String },
    #[error("files need each other in a circle: {0}")]
    Circle(String),
    #[error("endpoint {0:?} is not `METHOD /path`")]
    Endpoint(String),
    #[error("entity or field name {0:?} is not an identifier")]
    Entity(String),
}

impl Plan {
    /// Reads a plan from JSON text and checks it whole.
    ///
    /// # Errors
    /// The first fault found, in words for the plan's author.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let plan: Plan = serde_json::from_str(text).map_err(|err| PlanError::NotAPlan(err.to_string()))?;
        plan.check()?;
        Ok(plan)
    }

    /// Paths stay inside and apart, needs are planned and without circles, endpoints and entities are well formed.
    pub fn check(&self) -> Result<(), PlanError> {
        match self.files_to_create.len() {
            0 => return Err(PlanError::Empty),
            n if n > MAX_FILES => return Err(PlanError::TooLarge(n)),
            _ => {}
        }
        self.check_paths()?;
        let planned: BTreeSet<&str> = self.paths().collect();
        for file in &self.files_to_create {
            if let Some(needs) = file.needs.iter().find(|needs| !planned.contains(needs.as_str())) {
                return Err(PlanError::NeedsUnplanned { path: file.path.clone(), needs: needs.clone() });
            }
        }
        for endpoint in &self.endpoints {
            split_endpoint(endpoint).ok_or_else(|| PlanError::Endpoint(endpoint.clone()))?;
        }
        for entity in &self.entities {
            let names = entity.fields.iter().map(|field| &field.name).chain([&entity.name]);
            if let Some(bad) = names.into_iter().find(|name| !is_identifier(name)) {
                return Err(PlanError::Entity(bad.clone()));
            }
        }
        self.waves().map(drop)
    }

    /// The files in the order of writing: a wave needs only files of earlier waves. Critical files and what they
    /// need come first, so that a spent budget leaves the least; low ones come last, since they state facts about
    /// the others.
    pub fn waves(&self) -> Result<Vec<Vec<&File>>, PlanError> {
        let urgency = self.urgency();
        let mut waves = Vec::new();
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for class in [Priority::Critical, Priority::Normal, Priority::Low] {
            let mut left: Vec<&File> = self.files_to_create.iter().filter(|file| urgency.get(file.path.as_str()) == Some(&class)).collect();
            while !left.is_empty() {
                let (wave, rest): (Vec<&File>, Vec<&File>) =
                    left.iter().partition(|file| file.needs.iter().all(|path| done.contains(path.as_str())));
                if wave.is_empty() {
                    let names: Vec<&str> = rest.iter().map(|file| file.path.as_str()).collect();
                    return Err(PlanError::Circle(names.join(", ")));
                }
                done.extend(wave.iter().map(|file| file.path.as_str()));
                waves.push(wave);
                left = rest;
            }
        }
        Ok(waves)
    }

    /// Each path with its class, raised to the class of the most urgent file that needs it.
    fn urgency(&self) -> BTreeMap<&str, Priority> {
        let mut urgency: BTreeMap<&str, Priority> = self.files_to_create.iter().map(|file| (file.path.as_str(), file.priority)).collect();
        for _ in 0..self.files_to_create.len() {
            let mut settled = true;
            for file in &self.files_to_create {
                let Some(&own) = urgency.get(file.path.as_str()) else {
                    continue;
                };
                for needed in &file.needs {
                    if let Some(class) = urgency.get_mut(needed.as_str()).filter(|class| **class > own) {
                        *class = own;
                        settled = false;
                    }
                }
            }
            if settled {
                break;
            }
        }
        urgency
    }

    pub fn file(&self, path: &str) -> Option<&File> {
        self.files_to_create.iter().find(|file| file.path == path)
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files_to_create.iter().map(|file| file.path.as_str())
    }

    fn check_paths(&self) -> Result<(), PlanError> {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for path in self.paths() {
            check_path(path).map_err(|why| PlanError::Path { path: path.to_owned(), why })?;
            if let Some(other) = seen.insert(path.to_lowercase(), path) {
                return Err(PlanError::Clash(other.to_owned(), path.to_owned()));
            }
        }
        for path in seen.keys() {
            for (cut, _) in path.match_indices('/') {
                if let Some(file) = seen.get(&path[..cut]) {
                    return Err(PlanError::FileAndFolder { file: (*file).to_owned(), inside: path.clone() });
                }
            }
        }
        Ok(())
    }
}

/// Whether a file serves the tests only: nothing of it runs in production.
pub fn is_for_tests(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with("tests/") || is_test(path) || name == "conftest.py"
}

/// Whether a test runner finds tests in a file of this name.
pub fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("test_") || name.contains(".test.") || name == "tests.rs" || path.starts_with("tests/") && name.ends_with(".rs")
}

/// `GET /tasks/{id}` as its method and path.
pub fn split_endpoint(endpoint: &str) -> Option<(&str, &str)> {
    let (method, path) = endpoint.split_once(' ')?;
    let known = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"].contains(&method);
    (known && path.starts_with('/') && !path.contains(char::is_whitespace)).then_some((method, path))
}

/// Whether a planned path is safe to create under the service's folder on any file system.
///
/// # Errors
/// Why it is not.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > 240 {
        return Err("must have 1 to 240 characters");
    }
    if path.starts_with(['/', '~']) || path.get(1..2) == Some(":") {
        return Err("must be relative to the service's folder");
    }
    if path.contains('\\') {
        return Err("folders are separated with /");
    }
    if path.chars().any(|c| c.is_control() || "<>:\"|?*".contains(c)) {
        return Err("has a character that file systems refuse");
    }
    for part in path.split('/') {
        match part {
            "" | "." => return Err("has an empty part"),
            ".." => return Err("must not leave the service's folder"),
            ".git" | NOTES => return Err("is a folder that is not the service's"),
            _ if part.ends_with(['.', ' ']) || part.starts_with(' ') => {
                return Err("has a part that starts or ends with a space or ends with a dot");
            }
            _ => {}
        }
        let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
        if name::reserved(&stem) {
            return Err("has a name that Windows keeps for a device");
        }
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The JSON schema a planning model is held to (strict mode: every key required).
pub fn schema() -> Value {
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let field = object(json!({
        "name": {"type": "string"},
        "type": {"type": "string", "enum": ["string", "integer", "number", "boolean", "date", "datetime"]},
    }));
    let entity = object(json!({"name": {"type": "string"}, "fields": {"type": "array", "items": field}}));
    let file = object(json!({
        "path": {"type": "string"},
        "priority": {"type": "string", "enum": ["critical", "normal", "low"]},
        "purpose": {"type": "string"},
        "needs": strings,
        "defines": strings,
    }));
    object(json!({
        "service_name": {"type": "string"},
        "endpoints": strings,
        "entities": {"type": "array", "items": entity},
        "files_to_create": {"type": "array", "minItems": 1, "items": file},
    }))
}

fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(|map| map.keys()).collect();
    json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(paths: &[&str]) -> Result<Plan, PlanError> {
        let files: Vec<Value> = paths.iter().map(|path| json!({"path": path, "priority": "normal", "purpose": "x"})).collect();
        Plan::parse(&json!({"service_name": "a-b", "files_to_create": files}).to_string())
    }

    #[test]
    fn paths_stay_inside_and_apart() {
        let check = |paths: &[&str], fault: &str| match plan(paths) {
            Ok(_) => assert!(fault.is_empty(), "{paths:?} should fail: {fault}"),
            Err(err) => {
                let text = err.to_string();
                assert!(!fault.is_empty() && text.contains(fault), "{paths:?}: {text}");
            }
        };
        check(&["app/main.py", ".env.example", ".github/workflows/ci.yml"], "");
        check(&[], "no files");
        check(&["../evil.py"], "leave");
        check(&["app/../../evil.py"], "leave");
        check(&["/etc/passwd"], "relative");
        check(&["C:/x.py"], "relative");
        check(&["~/x.py"], "relative");
        check(&["app\\main.py"], "separated");
        check(&["app//main.py"], "empty part");
        check(&["app/main.py."], "dot");
        check(&["app/aux.py"], "Windows");
        check(&[".git/hooks/pre-commit"], "not the service's");
        check(&[".spectra/manifest.json"], "not the service's");
        check(&["a\u{0}b"], "refuse");
        check(&["App/Main.py", "app/main.py"], "ignores case");
        check(&["app", "app/main.py"], "folder");
        check(&[&"x".repeat(241)], "240");
    }

    #[test]
    fn waves_follow_needs_and_class() {
        let text = json!({"service_name": "a-b", "files_to_create": [
            {"path": "requirements.txt", "priority": "low", "purpose": "x"},
            {"path": "main.py", "priority": "critical", "purpose": "x", "needs": ["routes.py"]},
            {"path": "routes.py", "priority": "critical", "purpose": "x", "needs": ["schemas.py"]},
            {"path": "schemas.py", "priority": "normal", "purpose": "x"},
        ]});
        let plan = Plan::parse(&text.to_string()).unwrap();
        let waves: Vec<Vec<&str>> = plan.waves().unwrap().iter().map(|wave| wave.iter().map(|file| file.path.as_str()).collect()).collect();
        assert_eq!(waves, [["schemas.py"], ["routes.py"], ["main.py"], ["requirements.txt"]]);
    }

    #[test]
    fn circles_and_unplanned_needs_are_told() {
        let two = |a: &str, b: &str| {
            let text = json!({"service_name": "a-b", "files_to_create": [
                {"path": "a.py", "priority": "normal", "purpose": "x", "needs": [a]},
                {"path": "b.py", "priority": "normal", "purpose": "x", "needs": [b]},
            ]});
            Plan::parse(&text.to_string()).unwrap_err().to_string()
        };
        assert!(two("b.py", "a.py").contains("circle"));
        assert!(two("b.py", "c.py").contains("does not create"));
    }
}
