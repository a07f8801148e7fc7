//! Template sets: folders with a `template.toml` and minijinja files, filled from the plan and from facts about the
//! finished files. A set also says how its service is started, what a plan without a model looks like, and what its
//! templates are known to carry.

mod cover;
mod facts;
mod manual;
mod render;
mod sources;
mod spelling;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::{Context as _, bail};
use regex::Regex;

pub use facts::Facts;
pub use manual::Service;
use manual::{Manual, Planned, Rule};
use sources::names;

use crate::plan::{File, Plan, is_for_tests};

/// The set taken when the request names no stack.
pub const DEFAULT_SET: &str = "fastapi";

/// One template set, read and checked.
#[derive(Debug, Default)]
pub struct Set {
    pub name: String,
    words: Vec<String>,
    hints: Vec<String>,
    /// The set this one extends: what speaks for that one speaks for this one, too.
    base: Option<Box<Set>>,
    endpoints: Vec<String>,
    files: Vec<Rule>,
    pub service: Service,
    /// Template texts by their name inside the set.
    sources: BTreeMap<String, String>,
}

impl Set {
    /// The named set, from the folders given or built in, with what it extends.
    ///
    /// # Errors
    /// No such set, or one that does not hold together.
    pub fn load(name: &str, folders: &[PathBuf]) -> anyhow::Result<Self> {
        let texts = sources::texts(name, folders)?;
        let manual = texts
            .get("template.toml")
            .with_context(|| format!("there is no template set {name:?}; there are: {}", names(folders).join(", ")))?;
        let manual: Manual = toml::from_str(manual).with_context(|| format!("in template set {name:?}"))?;
        let mut set = Self::default();
        if let Some(base) = &manual.extends {
            if base == name {
                bail!("template set {name:?} extends itself");
            }
            set = Self::load(base, folders)?;
            set.base = Some(Box::new(Self::load(base, folders)?));
        }
        name.clone_into(&mut set.name);
        set.words = manual.words;
        set.hints = manual.hints;
        set.endpoints = manual.endpoints;
        set.sources.extend(texts);
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
    pub fn choose(request: &str, folders: &[PathBuf]) -> anyhow::Result<Self> {
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
        let asked = cover::words_of(request);
        plan.files_to_create = self.planned(&plan, |rule| rule.planned != Planned::Never || cover::asks(&asked, &rule.asked_by));
        plan
    }

    /// Adds to a model's plan what every service of this set has, and what the request asks for by name: files and
    /// endpoints.
    pub fn complete(&self, plan: &mut Plan, request: &str) {
        self.name.clone_into(&mut plan.stack);
        let forgotten: Vec<String> = endpoints_in(request).into_iter().filter(|asked| !plan.endpoints.contains(asked)).collect();
        plan.endpoints.extend(forgotten);
        let asked = cover::words_of(request);
        let tested = plan.paths().any(is_for_tests);
        let wanted = |rule: &Rule| match rule.planned {
            Planned::Always => true,
            Planned::Tests if tested => true,
            _ => cover::asks(&asked, &rule.asked_by),
        };
        let fits = |file: &File| {
            let rule = self.files.iter().find(|rule| rule.path == file.path);
            rule.is_some_and(|rule| plan.paths().any(|path| rule.fits(path, &plan.entities)))
        };
        let added: Vec<File> = self.planned(plan, wanted).into_iter().filter(|file| !fits(file)).collect();
        plan.files_to_create.extend(added);
    }

    fn planned(&self, plan: &Plan, wanted: impl Fn(&Rule) -> bool) -> Vec<File> {
        let rules = self.files.iter().filter(|rule| wanted(rule) && (!rule.entities || !plan.entities.is_empty()));
        let mut files: Vec<File> = rules.flat_map(|rule| rule.files(&plan.entities)).collect();
        let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        files.iter_mut().for_each(|file| file.needs.retain(|needed| paths.contains(needed)));
        files
    }

    /// The rule whose template writes this path of this plan.
    fn rule(&self, plan: &Plan, path: &str) -> Option<&Rule> {
        self.files.iter().find(|rule| rule.applies(path, plan))
    }
}

/// `GET /tasks` and the like, as the request writes them.
fn endpoints_in(request: &str) -> Vec<String> {
    static ENDPOINT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(GET|POST|PUT|PATCH|DELETE)\s+(/[A-Za-z0-9_/{}-]*)").ok());
    let Some(pattern) = ENDPOINT.as_ref() else {
        return Vec::new();
    };
    let mut found: Vec<String> = pattern.captures_iter(request).map(|found| format!("{} {}", &found[1], &found[2])).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Texts;

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
    fn a_plan_gets_the_files_the_request_names() {
        let check = |request: &str, want: &[&str]| {
            let set = Set::load("fastapi", &[]).unwrap();
            let file = r#"{"path": "app/main.py", "priority": "critical", "purpose": "x"}"#;
            let mut plan = Plan::parse(&format!(r#"{{"service_name": "a-b", "files_to_create": [{file}]}}"#)).unwrap();
            set.complete(&mut plan, request);
            assert_eq!(plan.paths().skip(1).collect::<Vec<_>>(), want, "{request}");
        };
        check("a service", &["requirements.txt"]);
        check("a service with Docker and CI", &["requirements.txt", "Dockerfile", ".dockerignore", ".github/workflows/ci.yml"]);
        check(
            "a service, docker-compose, a README",
            &["requirements.txt", "Dockerfile", ".dockerignore", "docker-compose.yml", "README.md"],
        );
        check("a service without Docker, no README", &["requirements.txt"]);
    }

    #[test]
    fn compose_brings_the_database_that_the_code_uses() {
        let set = Set::load("fastapi", &[]).unwrap();
        let check = |imported: &str, wants: &[&str], lacks: &[&str]| {
            let plan = set.default_plan("a-b", "");
            let texts = Texts::from([("app/main.py".to_owned(), format!("{imported}\n"))]);
            let text = set.render(&plan, plan.file("docker-compose.yml").unwrap(), &texts).unwrap().unwrap();
            assert!(wants.iter().all(|part| text.contains(part)) && !lacks.iter().any(|part| text.contains(part)), "{imported}:\n{text}");
        };
        check("import os", &["a-b:"], &["postgres", "redis", "depends_on", "volumes"]);
        check("import asyncpg", &["postgresql+asyncpg://", "postgres:16", "condition: service_healthy"], &["redis"]);
        check("import psycopg2\nimport redis", &["postgresql://", "redis:7", "REDIS_URL"], &["asyncpg"]);
    }
}
