//! What an operator may write, checked. A `Config` that exists is consistent: every name resolves, every bound is sane.

mod backend;
mod error;
mod route;
mod secret;
mod server;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

pub use backend::{
    Backend, BackendKind, Breaker, Continues, Deadlines, GpuSplit, KvType, Llama, Loading, Openai, Pooling, Price, Sampling, Script,
    ScriptAnswer, Workers,
};
pub use error::ConfigError;
pub use route::{Cascade, Exhausted, Hold, Policy, Route, Router, Rung};
pub use secret::{Environment, Secret, Text};
pub use server::{Accounting, Admin, Key, Limits, Server, Tracing};
pub use verify::{Checks, ITSELF, OnFailure, Own, Verify};

/// The reference config, which is also the default one.
pub const REFERENCE: &str = include_str!("../gateway.toml");

/// The whole file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub server: Server,
    #[serde(default)]
    pub admin: Admin,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub accounting: Accounting,
    #[serde(default)]
    pub tracing: Tracing,
    /// Callers that may use the gateway, by name. Empty: no key is asked for.
    #[serde(default)]
    pub keys: BTreeMap<String, Key>,
    /// Models that can be asked, by name.
    pub backends: BTreeMap<String, Backend>,
    /// Ladders of backends, by name.
    pub routes: BTreeMap<String, Route>,
    #[serde(default)]
    pub router: Router,
    #[serde(default)]
    pub verify: Verify,
    /// Other names for `auto`, a route or a backend, such as `gpt-4o`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub aliases: BTreeMap<String, toml::Spanned<String>>,
    /// What was left out while loading, in words for the log: a backend whose key is not set, a rung without it.
    #[serde(skip)]
    pub notices: Vec<String>,
    /// The text it was read from.
    #[serde(skip)]
    pub source: String,
}

impl Config {
    /// Reads and checks a config file. Environment references are resolved against the process environment.
    ///
    /// # Errors
    /// With file, line, a caret under the fault and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
        Self::parse(&text, &path.display().to_string(), &|name| std::env::var(name).ok())
    }

    /// The reference config with the process environment.
    ///
    /// # Errors
    /// Where an environment variable that it refers to has an unusable value.
    pub fn reference() -> Result<Self, ConfigError> {
        Self::parse(REFERENCE, "gateway.toml (built in)", &|name| std::env::var(name).ok())
    }

    /// Checks a config's text. `name` stands for the file in messages.
    ///
    /// # Errors
    /// As `load`.
    pub fn parse(text: &str, name: &str, env: Environment<'_>) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::syntax(name, text, &error))?;
        config.check(env).map_err(|fault| fault.located(name, text))?;
        text.clone_into(&mut config.source);
        Ok(config)
    }

    /// JSON Schema of the file, for editors.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    fn check(&mut self, env: Environment<'_>) -> Result<(), error::Fault> {
        for (name, route) in &self.routes {
            route.check(name, &self.backends)?;
        }
        self.check_aliases()?;
        self.check_comparison()?;
        self.check_own(env)?;
        self.resolve_backends(env)?;
        self.resolve_keys(env)?;
        self.resolve_rest(env)?;
        self.check_routes()?;
        self.server.check()?;
        self.limits.check()
    }

    /// Takes secrets from the environment; an `optional` backend without its key leaves, with a notice.
    fn resolve_backends(&mut self, env: Environment<'_>) -> Result<(), error::Fault> {
        let mut absent = Vec::new();
        for (name, backend) in &mut self.backends {
            backend.check(name)?;
            if let Err(missing) = backend.resolve(name, env) {
                if !backend.optional {
                    return Err(missing);
                }
                absent.push((name.clone(), missing.message));
            }
        }
        for (name, why) in absent {
            self.backends.remove(&name);
            for route in self.routes.values_mut() {
                for rung in route.ladder.get_mut() {
                    rung.remove(&name);
                }
            }
            self.notices.push(format!("backend {name} is left out: {why}"));
            if self.accounting.compare_with.as_ref() == Some(&name) {
                self.notices.push(format!("savings are not against {name}, which is left out, but against the dearest backend"));
            }
        }
        Ok(())
    }

    fn check_own(&mut self, env: Environment<'_>) -> Result<(), error::Fault> {
        self.verify.check("verify", &self.backends, env)?;
        for (name, route) in &mut self.routes {
            if let Some(verify) = &mut route.verify {
                verify.check(&format!("routes.{name}.verify"), &self.backends, env)?;
            }
        }
        Ok(())
    }

    fn resolve_keys(&mut self, env: Environment<'_>) -> Result<(), error::Fault> {
        for (name, key) in &mut self.keys {
            key.check(name, env)?;
        }
        Ok(())
    }

    fn resolve_rest(&mut self, env: Environment<'_>) -> Result<(), error::Fault> {
        if let Some(token) = &mut self.admin.token {
            token.resolve("admin.token", env)?;
        }
        for (key, text) in [("accounting.ledger", &mut self.accounting.ledger), ("tracing.otlp", &mut self.tracing.otlp)] {
            let unset = |why| error::Fault::new(None, why, format!("{key} needs it; set it, or give a default = \"…\""));
            text.as_mut().map_or(Ok(()), |text| text.resolve(env)).map_err(unset)?;
        }
        Ok(())
    }

    /// Every rung names a backend; a route that lost all its rungs takes those of the routes that have some.
    fn check_routes(&mut self) -> Result<(), error::Fault> {
        if self.routes.is_empty() {
            return Err(error::Fault::new(
                None,
                "no [routes.NAME] is defined",
                "add at least one, for example [routes.local] with ladder = [\"llama\"]",
            ));
        }
        let spare: Vec<Rung> = self.routes.values().flat_map(|route| route.rungs()).filter(|rung| !rung.is_empty()).cloned().collect();
        for (name, route) in &mut self.routes {
            let ladder = route.ladder.get_mut();
            ladder.retain(|rung| !rung.is_empty());
            if ladder.is_empty() {
                if spare.is_empty() {
                    return Err(error::Fault::new(None, format!("route {name} has no backend left"), self.notices.join("; ")));
                }
                ladder.clone_from(&spare);
                route.degraded = true;
                self.notices.push(format!("route {name} has none of its own backends and uses {}", route.ladder_names().join(", ")));
            }
        }
        self.router.check(&self.routes)
    }

    fn check_comparison(&self) -> Result<(), error::Fault> {
        match &self.accounting.compare_with {
            Some(name) if !self.backends.contains_key(name) => {
                let known = self.backends.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let message = format!("accounting.compare_with is {name}, which is not a backend");
                Err(error::Fault::new(None, message, format!("write one of: {known}, or leave it out for the dearest")))
            }
            _ => Ok(()),
        }
    }

    fn check_aliases(&self) -> Result<(), error::Fault> {
        for (alias, target) in &self.aliases {
            let name = target.get_ref();
            if name != "auto" && !self.routes.contains_key(name) && !self.backends.contains_key(name) {
                let known = self.routes.keys().chain(self.backends.keys()).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(error::Fault::new(
                    Some(target.span()),
                    format!("alias {alias} points to {name}, which is neither a route nor a backend"),
                    format!("write one of: auto, {known}"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
