//! Template sets: folders with a `template.toml` and minijinja files, filled from the plan and from facts about the
//! finished files. A set also says how its service is started and what a plan without a model looks like.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::check::Texts;
use crate::outline::outline;
use crate::packages;
use crate::plan::{Entity, File, Plan, Priority, split_endpoint};

include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The set taken when the request names no stack.
pub const DEFAULT_SET: &str = "fastapi";

/// One template set, read and checked.
#[derive(Debug)]
pub struct Set {
    pub name: String,
    words: Vec<String>,
    hints: Vec<String>,
    /// The set this one extends: what speaks for that one speaks for this one, too.
    base: Option<Box<Set>>,
    /// What a service of this set answers to when the request names no endpoints.
    endpoints: Vec<String>,
    files: Vec<Rule>,
    pub service: Service,
    /// Template texts by their name inside the set.
    sources: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manual {
    /// A set whose files this one adds to and replaces.
    extends: Option<String>,
    /// Words in a request that choose this set.
    #[serde(default)]
    words: Vec<String>,
    /// Words that only decide where no set's `words` do: a language is often the subject, not the tool.
    #[serde(default)]
    hints: Vec<String>,
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default)]
    file: Vec<Rule>,
    service: Option<Service>,
}

/// Which paths a template is for, and where it stands in a plan made without a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// `{entity}` stands for each entity's plural in snake_case.
    path: String,
    /// Other paths the same template fits, `*` for any characters but `/`.
    #[serde(default)]
    also: Vec<String>,
    template: String,
    priority: Priority,
    purpose: String,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    defines: Vec<String>,
    /// In plans without a model; `always` also adds it to a model's plan.
    #[serde(default)]
    planned: Planned,
    /// Only for plans with entities.
    #[serde(default)]
    entities: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Planned {
    #[default]
    Default,
    Always,
    Never,
}

/// How a service of this set is prepared, started and tested. `{env}` is the environment's folder, `{port}` a free
/// port, `{entry}` what [`Facts::entry`] found.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Make a throw-away environment; skipped when one is given.
    pub environment: Vec<Vec<String>>,
    /// Install, build.
    pub prepare: Vec<Vec<String>>,
    pub start: Vec<String>,
    pub tests: Vec<String>,
    /// Where the service describes itself; empty: it does not.
    pub openapi: String,
}

/// What templates know about the service besides its plan.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// `app.main:app` for Python; none: nothing that can be served.
    pub entry: Option<String>,
    pub requirements: Vec<String>,
    pub npm: Vec<String>,
    pub crates: Vec<String>,
    /// Environment variables the code reads.
    pub variables: Vec<String>,
}

impl Facts {
    pub fn of(plan: &Plan, texts: &Texts) -> Self {
        Self {
            entry: entry(plan, texts),
            requirements: packages::python_requirements(plan, texts),
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

fn variables(texts: &Texts) -> Vec<String> {
    let Ok(pattern) = Regex::new(r#"(?:getenv\(|environ(?:\.get\(|\[)|process\.env\.|env::var\()\s*["']?([A-Z][A-Z0-9_]+)"#) else {
        return Vec::new();
    };
    let mut found: Vec<String> =
        texts.values().flat_map(|text| pattern.captures_iter(text).map(|found| found[1].to_owned()).collect::<Vec<_>>()).collect();
    found.sort();
    found.dedup();
    found
}

// === impl Set ===

impl Set {
    /// The named set, from the folders given or built in, with what it extends.
    ///
    /// # Errors
    /// No such set, or one that does not hold together.
    pub fn load(name: &str, folders: &[std::path::PathBuf]) -> anyhow::Result<Self> {
        let sources = sources(name, folders)?;
        let manual = sources
            .get("template.toml")
            .with_context(|| format!("there is no template set {name:?}; there are: {}", names(folders).join(", ")))?;
        let manual: Manual = toml::from_str(manual).with_context(|| format!("in template set {name:?}"))?;
        let base = manual.extends.as_ref().filter(|base| *base != name).map(|base| Self::load(base, folders));
        let base = base.transpose()?.map(Box::new);
        let mut set = match &manual.extends {
            Some(base) if base == name => bail!("template set {name:?} extends itself"),
            Some(base) => Self::load(base, folders)?,
            None => Self {
                name: String::new(),
                words: Vec::new(),
                hints: Vec::new(),
                base: None,
                endpoints: Vec::new(),
                files: Vec::new(),
                service: Service::default(),
                sources: BTreeMap::new(),
            },
        };
        name.clone_into(&mut set.name);
        set.words = manual.words;
        set.hints = manual.hints;
        set.base = base;
        set.endpoints = manual.endpoints;
        set.sources.extend(sources);
        set.files.retain(|rule| manual.file.iter().all(|own| own.path != rule.path));
        set.files.splice(0..0, manual.file);
        if let Some(service) = manual.service {
            set.service = service;
        }
        if let Some(rule) = set.files.iter().find(|rule| !set.sources.contains_key(&rule.template)) {
            bail!("template set {name:?}: {} has no template {}", rule.path, rule.template);
        }
        Ok(set)
    }

    /// The set whose words the request says most often; [`DEFAULT_SET`] without any.
    ///
    /// # Errors
    /// A set that does not hold together.
    pub fn choose(request: &str, folders: &[std::path::PathBuf]) -> anyhow::Result<Self> {
        let request = request.to_lowercase();
        let words: Vec<&str> = request.split(|c: char| !c.is_alphanumeric()).collect();
        let mut best = (0, Self::load(DEFAULT_SET, folders)?);
        for name in names(folders) {
            let set = Self::load(&name, folders)?;
            let score = set.score(&words);
            if score > best.0 {
                best = (score, set);
            }
        }
        Ok(best.1)
    }

    /// How much a request's words speak for this set: any of its `words` outweighs all hints.
    fn score(&self, words: &[&str]) -> usize {
        let count = |known: &[String]| words.iter().filter(|word| known.iter().any(|known| known == *word)).count();
        let own = 1000 * count(&self.words) + count(&self.hints).min(999);
        let base = self.base.as_ref().filter(|_| own > 0).map_or(0, |base| base.score(words));
        own + base
    }

    /// A plan without a model: the set's files, the endpoints the request names, one CRUD part per entity.
    pub fn default_plan(&self, service_name: &str, request: &str) -> Plan {
        let mut plan = Plan {
            service_name: service_name.to_owned(),
            stack: self.name.clone(),
            endpoints: endpoints_in(request),
            entities: Vec::new(),
            files_to_create: Vec::new(),
        };
        if plan.endpoints.is_empty() {
            plan.endpoints.clone_from(&self.endpoints);
        }
        plan.files_to_create = self.planned(&plan, |rule| rule.planned != Planned::Never);
        plan
    }

    /// Adds to a model's plan what every service of this set has.
    pub fn complete(&self, plan: &mut Plan) {
        self.name.clone_into(&mut plan.stack);
        let added = self.planned(plan, |rule| rule.planned == Planned::Always);
        let fits = |file: &File| {
            let rule = self.files.iter().find(|rule| rule.path == file.path);
            rule.is_some_and(|rule| plan.paths().any(|path| rule.fits(path, &plan.entities)))
        };
        let added: Vec<File> = added.into_iter().filter(|file| !fits(file)).collect();
        plan.files_to_create.extend(added);
    }

    fn planned(&self, plan: &Plan, wanted: impl Fn(&Rule) -> bool) -> Vec<File> {
        let rules = self.files.iter().filter(|rule| wanted(rule) && (!rule.entities || !plan.entities.is_empty()));
        let mut files: Vec<File> = rules.flat_map(|rule| rule.files(&plan.entities)).collect();
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        files.iter_mut().for_each(|file| file.needs.retain(|needed| paths.contains(needed)));
        files
    }

    /// The text of a planned file, if a template of this set is for its path.
    ///
    /// # Errors
    /// A template that does not render: a fault of the set.
    pub fn render(&self, plan: &Plan, file: &File, texts: &Texts) -> anyhow::Result<Option<String>> {
        let Some(rule) = self.files.iter().find(|rule| rule.applies(&file.path, plan)) else {
            return Ok(None);
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
        environment.set_syntax(syntax.build()?);
        // Escaping by file name would quote names inside YAML and JSON; templates write the quotes themselves.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_filter("snake", |name: String| snake(&name));
        environment.add_filter("plural", |name: String| plural(&name));
        environment.add_filter("module", |path: String| path.trim_end_matches(".py").replace('/', "."));
        for (name, text) in &self.sources {
            environment.add_template(name, text)?;
        }
        let paths: Vec<&str> = plan.paths().collect();
        let needed: Vec<&File> = file.needs.iter().filter_map(|path| plan.file(path)).collect();
        let entity = plan.entities.iter().find(|entity| rule.path_for(entity) == file.path);
        let endpoints: Vec<(&str, &str)> = plan.endpoints.iter().filter_map(|endpoint| split_endpoint(endpoint)).collect();
        let known = json!({
            "plan": plan, "file": file, "paths": paths, "needed": needed, "endpoints": endpoints,
            "entity": entity, "entities": plan.entities, "facts": Facts::of(plan, texts),
            "package": plan.service_name.replace('-', "_"),
        });
        let rendered = environment.get_template(&rule.template)?.render(Value::from(Serde(known)));
        rendered.map(Some).with_context(|| format!("template {} of {}", rule.template, self.name))
    }
}

impl Rule {
    fn path_for(&self, entity: &Entity) -> String {
        self.path.replace("{entity}", &plural(&snake(&entity.name)))
    }

    fn fits(&self, path: &str, entities: &[Entity]) -> bool {
        self.path == path
            || (self.path.contains("{entity}") && entities.iter().any(|entity| self.path_for(entity) == path))
            || self.also.iter().any(|glob| glob_matches(glob, path))
    }

    fn applies(&self, path: &str, plan: &Plan) -> bool {
        (!self.entities || !plan.entities.is_empty()) && self.fits(path, &plan.entities)
    }

    fn files(&self, entities: &[Entity]) -> Vec<File> {
        let file = |path: String, needs: Vec<String>| File {
            path,
            priority: self.priority,
            purpose: self.purpose.clone(),
            needs,
            defines: self.defines.clone(),
        };
        if !self.path.contains("{entity}") {
            let every = |need: &String| match need.contains("{entity}") {
                true => entities.iter().map(|entity| need.replace("{entity}", &plural(&snake(&entity.name)))).collect(),
                false => vec![need.clone()],
            };
            return vec![file(self.path.clone(), self.needs.iter().flat_map(every).collect())];
        }
        let one = |entity: &Entity| {
            let filled = |need: &String| need.replace("{entity}", &plural(&snake(&entity.name)));
            file(self.path_for(entity), self.needs.iter().map(filled).collect())
        };
        entities.iter().map(one).collect()
    }
}

/// `GET /tasks` and the like, as the request writes them.
fn endpoints_in(request: &str) -> Vec<String> {
    let Ok(pattern) = Regex::new(r"\b(GET|POST|PUT|PATCH|DELETE)\s+(/[A-Za-z0-9_/{}-]*)") else {
        return Vec::new();
    };
    let mut found: Vec<String> = pattern.captures_iter(request).map(|found| format!("{} {}", &found[1], &found[2])).collect();
    found.dedup();
    found
}

fn glob_matches(glob: &str, path: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|start| path.strip_prefix(start)) else {
        return false;
    };
    for part in parts {
        let Some(at) = (if part.is_empty() { Some(rest.len()) } else { rest.find(part) }) else {
            return false;
        };
        if rest[..at].contains('/') {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.chars().enumerate() {
        if c.is_uppercase() && at > 0 && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn plural(name: &str) -> String {
    match name {
        _ if name.ends_with(['s', 'x']) || name.ends_with("ch") => format!("{name}es"),
        _ if name.ends_with('y') && !["ay", "ey", "oy"].iter().any(|end| name.ends_with(end)) => {
            format!("{}ies", &name[..name.len() - 1])
        }
        _ => format!("{name}s"),
    }
}

// === where sets lie ===

fn sources(name: &str, folders: &[std::path::PathBuf]) -> anyhow::Result<BTreeMap<String, String>> {
    for folder in folders {
        let dir = folder.join(name);
        if dir.join("template.toml").is_file() {
            let mut found = BTreeMap::new();
            collect(&dir, &dir, &mut found)?;
            return Ok(found);
        }
    }
    let prefix = format!("{name}/");
    let built_in = EMBEDDED.iter().filter_map(|(path, text)| Some((path.strip_prefix(&prefix)?, text)));
    Ok(built_in.map(|(path, text)| (path.to_owned(), (*text).to_owned())).collect())
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else {
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            found.insert(name, std::fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(())
}

/// All sets: of the folders given, then built in.
pub fn names(folders: &[std::path::PathBuf]) -> Vec<String> {
    let listed = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let own = listed.filter(|entry| entry.path().join("template.toml").is_file());
    let mut names: Vec<String> = own.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.extend(EMBEDDED.iter().filter_map(|(path, _)| path.strip_suffix("/template.toml")).map(str::to_owned));
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_chooses_the_set() {
        let check = |request: &str, name: &str| assert_eq!(Set::choose(request, &[]).unwrap().name, name, "{request}");
        check("Create a simple hello-world Python service", "fastapi");
        check("Build something", "fastapi");
        check("Build a FastAPI calculator", "calculator");
        check("a FastAPI service that compiles TypeScript, TypeScript and Rust", "fastapi");
        check("an API in TypeScript", "express");
        check("Build an Express API", "express");
        check("Build an Axum service for Python packages", "axum");
    }

    #[test]
    fn globs_stay_inside_a_folder() {
        let check = |glob: &str, path: &str, want: bool| assert_eq!(glob_matches(glob, path), want, "{glob} {path}");
        check("*/__init__.py", "app/__init__.py", true);
        check("*/__init__.py", "app/routers/__init__.py", false);
        check("app/*/__init__.py", "app/routers/__init__.py", true);
        check("main.py", "main.py", true);
        check(".github/workflows/*.yml", ".github/workflows/ci.yml", true);
    }

    #[test]
    fn names_become_paths() {
        let check = |name: &str, path: &str| assert_eq!(plural(&snake(name)), path);
        check("OrderItem", "order_items");
        check("Category", "categories");
        check("Box", "boxes");
        check("Day", "days");
    }
}
