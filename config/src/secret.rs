//! Text that may come from the environment or a file, so that secrets stay out of the config.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Fault;

/// Looks a variable up; tests pass a closure.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Text that is not secret: written out, or `{ env = "NAME", default = "…" }`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum Text {
    Plain(String),
    Env { env: String, default: Option<String> },
}

impl Text {
    pub(crate) fn resolve(&mut self, env: Environment<'_>) -> Result<(), String> {
        if let Self::Env { env: name, default } = self {
            let found = env(name).filter(|value| !value.trim().is_empty()).or_else(|| default.clone());
            *self = Self::Plain(found.ok_or_else(|| format!("environment variable {name} is not set"))?.trim().to_owned());
        }
        Ok(())
    }

    /// The resolved text; empty before `resolve`, which `Config::parse` always calls.
    #[must_use]
    pub fn get(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Env { .. } => "",
        }
    }
}

/// A secret, never written in the config itself: `{ env = "NAME" }` or `{ file = "PATH" }`. Its `Debug` shows nothing.
#[derive(Clone, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    env: Option<String>,
    file: Option<String>,
    #[serde(skip)]
    value: String,
}

impl Secret {
    pub(crate) fn resolve(&mut self, what: &str, env: Environment<'_>) -> Result<(), Fault> {
        let found = match (&self.env, &self.file) {
            (Some(name), None) => env(name).ok_or_else(|| format!("environment variable {name} is not set")),
            (None, Some(path)) => std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}")),
            _ => Err("a secret is given as { env = \"NAME\" } or { file = \"PATH\" }".to_owned()),
        };
        match found.map(|value| value.trim().to_owned()) {
            Ok(value) if !value.is_empty() => self.value = value,
            Ok(_) => return Err(Fault::new(None, format!("{what} is empty"), "set it, or mark the backend optional = true")),
            Err(why) => return Err(Fault::new(None, why, format!("{what} needs it; set it, or mark the backend optional = true"))),
        }
        Ok(())
    }

    /// The secret itself, for the one header it belongs in.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
