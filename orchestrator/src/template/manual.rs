//! `template.toml`: what a set says about itself, and which planned file each of its templates is for.

use serde::Deserialize;

use super::spelling::{plural, snake};
use crate::plan::{Entity, File, Plan, Priority};

/// A set's manual, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manual {
    /// A set whose files this one adds to and replaces.
    pub extends: Option<String>,
    /// Words in a request that choose this set.
    #[serde(default)]
    pub words: Vec<String>,
    /// Words that only decide where no set's `words` do: a language is often the subject, not the tool.
    #[serde(default)]
    pub hints: Vec<String>,
    /// What a service of this set answers to when the request names no endpoints.
    #[serde(default)]
    pub endpoints: Vec<String>,
    #[serde(default)]
    pub file: Vec<Rule>,
    pub service: Option<Service>,
}

/// Which paths a template is for, and where it stands in a plan made without a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `{entity}` stands for each entity's plural in snake_case.
    pub path: String,
    /// Other paths the same template fits, `*` for any characters but `/`.
    #[serde(default)]
    pub also: Vec<String>,
    pub template: String,
    pub priority: Priority,
    pub purpose: String,
    #[serde(default)]
    pub needs: Vec<String>,
    #[serde(default)]
    pub defines: Vec<String>,
    /// In plans without a model; `always` also adds it to a model's plan, `tests` to one that has tests.
    #[serde(default)]
    pub planned: Planned,
    /// Only for plans with entities.
    #[serde(default)]
    pub entities: bool,
    /// Words of a request that this file makes true: what the template is known to do.
    #[serde(default)]
    pub carries: Vec<String>,
    /// Words of a request that ask for this very file: a plan that lacks it gets it.
    #[serde(default)]
    pub asked_by: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Planned {
    #[default]
    Default,
    Always,
    Tests,
    Never,
}

/// How a service of this set is prepared, started and tested. `{env}` is the environment's folder, `{port}` a free
/// port, `{entry}` what [`super::Facts::entry`] found.
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

impl Rule {
    pub fn path_for(&self, entity: &Entity) -> String {
        filled(&self.path, entity)
    }

    /// Whether the template is for this path.
    pub fn fits(&self, path: &str, entities: &[Entity]) -> bool {
        self.path == path
            || (self.path.contains("{entity}") && entities.iter().any(|entity| self.path_for(entity) == path))
            || self.also.iter().any(|glob| glob_matches(glob, path))
    }

    /// Whether the template writes this file of this plan.
    pub fn applies(&self, path: &str, plan: &Plan) -> bool {
        (!self.entities || !plan.entities.is_empty()) && self.fits(path, &plan.entities)
    }

    /// The files this rule stands for: one, or one per entity.
    pub fn files(&self, entities: &[Entity]) -> Vec<File> {
        let file = |path: String, needs: Vec<String>| File {
            path,
            priority: self.priority,
            purpose: self.purpose.clone(),
            needs,
            defines: self.defines.clone(),
        };
        if self.path.contains("{entity}") {
            let one = |entity: &Entity| file(self.path_for(entity), self.needs.iter().map(|need| filled(need, entity)).collect());
            return entities.iter().map(one).collect();
        }
        let every = |need: &String| match need.contains("{entity}") {
            true => entities.iter().map(|entity| filled(need, entity)).collect(),
            false => vec![need.clone()],
        };
        vec![file(self.path.clone(), self.needs.iter().flat_map(every).collect())]
    }
}

fn filled(path: &str, entity: &Entity) -> String {
    path.replace("{entity}", &plural(&snake(&entity.name)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_stay_inside_a_folder() {
        let check = |glob: &str, path: &str, want: bool| assert_eq!(glob_matches(glob, path), want, "{glob} {path}");
        check("*/__init__.py", "app/__init__.py", true);
        check("*/__init__.py", "app/routers/__init__.py", false);
        check("app/*/__init__.py", "app/routers/__init__.py", true);
        check("main.py", "main.py", true);
        check(".github/workflows/*.yml", ".github/workflows/ci.yml", true);
    }
}
