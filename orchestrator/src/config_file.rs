//! What can be set: a TOML file (`spectra-orchestrator.toml`, or `--config`), over it the flags, under it defaults.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::write::Overwrite;

/// The file looked for when `--config` is not given.
pub const DEFAULT_FILE: &str = "spectra-orchestrator.toml";

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub endpoint: Endpoint,
    pub limits: Limits,
    pub write: Write,
    pub check: Check,
    pub templates: Templates,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoint {
    /// Any OpenAI-compatible server; `/v1` is added where it lacks. Default: `OPENAI_BASE_URL`, else a local Spectra.
    pub base_url: Option<String>,
    /// The environment variable with the key; the key itself is never written in a file.
    pub api_key_env: String,
    pub model: String,
    /// The model asked when two answers to a file were refused; none: the route `strong`, where the endpoint is a Spectra.
    pub stronger: Option<String>,
    /// Seconds one answer may take.
    pub timeout_seconds: u64,
}

/// Bounds of a build; a spent one ends in an honest summary, not in silence.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Answers asked for one file, repairs after the whole check included.
    pub attempts_per_file: u32,
    pub attempts_for_plan: u32,
    /// Of all questions together.
    pub calls: u32,
    pub tokens: u64,
    pub seconds: u64,
    /// Seconds for one file, all its attempts together.
    pub seconds_per_file: u64,
    /// Of one answer; doubled, up to four times this, after one that was cut.
    pub answer_tokens: u32,
    /// How often faults of the whole service go back to the files.
    pub repair_rounds: u32,
    /// Questions at the same time.
    pub concurrency: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Write {
    pub overwrite: Overwrite,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Check {
    pub service: ServiceCheck,
    /// A folder with prepared dependencies (a Python virtual environment) to use instead of a throw-away one.
    pub environment: Option<PathBuf>,
}

/// Whether the built service is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ServiceCheck {
    /// Where this machine can; the summary says so when it cannot.
    #[default]
    Auto,
    /// A service that could not be started counts as unfinished.
    Require,
    Off,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Templates {
    /// Folders of template sets, looked at before the built-in ones.
    pub folders: Vec<PathBuf>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { base_url: None, api_key_env: "OPENAI_API_KEY".to_owned(), model: "auto".to_owned(), stronger: None, timeout_seconds: 180 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts_per_file: 8,
            attempts_for_plan: 6,
            calls: 400,
            tokens: 2_000_000,
            seconds: 3600,
            seconds_per_file: 300,
            answer_tokens: 2048,
            repair_rounds: 2,
            concurrency: 4,
        }
    }
}

impl Default for Write {
    fn default() -> Self {
        Self { overwrite: Overwrite::IfUnchanged }
    }
}

impl Config {
    /// Reads the file given, or [`DEFAULT_FILE`] if it is there, or takes the defaults.
    ///
    /// # Errors
    /// A file that was asked for and is missing; a key that does not exist; a value of the wrong kind, with its line.
    pub fn load(given: Option<&Path>) -> anyhow::Result<Self> {
        let path = given.unwrap_or(Path::new(DEFAULT_FILE));
        if given.is_none() && !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let config: Self = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        config.check().with_context(|| format!("in {}", path.display()))?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        let limits = &self.limits;
        anyhow::ensure!(limits.concurrency > 0, "limits.concurrency must be at least 1");
        anyhow::ensure!(limits.answer_tokens >= 64, "limits.answer_tokens must be at least 64");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_defaults() {
        let example: Config = toml::from_str(include_str!("../spectra-orchestrator.toml")).unwrap();
        let mut defaults = Config::default();
        defaults.endpoint.base_url = Some("http://127.0.0.1:8080/v1".to_owned());
        assert_eq!(example, defaults);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let err = toml::from_str::<Config>("[limits]\ncals = 3\n").unwrap_err().to_string();
        assert!(err.contains("cals") && err.contains("line 2"), "{err}");
    }
}
