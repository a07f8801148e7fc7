//! A template filled from the plan and from facts about the finished files.

use anyhow::Context as _;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::json;

use super::spelling::{plural, snake};
use super::{Facts, Set};
use crate::check::Texts;
use crate::plan::{File, Plan, split_endpoint};

impl Set {
    /// The text of a planned file, if a template of this set is for its path.
    ///
    /// # Errors
    /// A template that does not render: a fault of the set.
    pub fn render(&self, plan: &Plan, file: &File, texts: &Texts) -> anyhow::Result<Option<String>> {
        let Some(rule) = self.rule(plan, &file.path) else {
            return Ok(None);
        };
        let paths: Vec<&str> = plan.paths().collect();
        let needed: Vec<&File> = file.needs.iter().filter_map(|path| plan.file(path)).collect();
        let entity = plan.entities.iter().find(|entity| rule.path_for(entity) == file.path);
        let endpoints: Vec<(&str, &str)> = plan.endpoints.iter().filter_map(|endpoint| split_endpoint(endpoint)).collect();
        let known = json!({
            "plan": plan, "file": file, "paths": paths, "needed": needed, "endpoints": endpoints,
            "entity": entity, "entities": plan.entities, "facts": Facts::of(plan, texts),
            "package": plan.service_name.replace('-', "_"),
        });
        let rendered = self.environment()?.get_template(&rule.template)?.render(Value::from(Serde(known)));
        rendered.map(Some).with_context(|| format!("template {} of {}", rule.template, self.name))
    }

    fn environment(&self) -> anyhow::Result<Environment<'_>> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
        environment.set_syntax(syntax.build()?);
        // Escaping by file name would quote names inside YAML and JSON; templates write the quotes themselves.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_filter("snake", |name: String| snake(&name));
        environment.add_filter("plural", |name: String| plural(&name));
        // Of the files a file needs, those that define a router.
        environment.add_filter("routers", |needed: Vec<Value>| needed.into_iter().filter(defines_router).collect::<Vec<_>>());
        environment.add_filter("module", |path: String| path.trim_end_matches(".py").replace('/', "."));
        for (name, text) in &self.sources {
            environment.add_template(name, text)?;
        }
        Ok(environment)
    }
}

fn defines_router(file: &Value) -> bool {
    let defines = file.get_attr("defines").and_then(|defines| defines.try_iter());
    defines.is_ok_and(|mut defines| defines.any(|name| name.as_str() == Some("router")))
}
