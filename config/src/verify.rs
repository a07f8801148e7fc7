//! `[verify]`: what counts as an answer, and checks of the operator's own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::backend::Backend;
use crate::error::Fault;
use crate::secret::{Environment, Text};

/// `own.NAME.ask` with this value asks the local model that answered.
pub const ITSELF: &str = "self";
/// Longest time a check may be given.
const MOST_MS: u64 = 60_000;

/// What makes an answer usable, and what may be done about one that is not.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// False: answers pass unjudged, counted as `skipped`.
    pub enabled: bool,
    pub checks: Checks,
    /// Mend what can be mended without asking again.
    pub repair: bool,
    /// Also mend values by the schema (number in quotes, enum case, …).
    pub coerce: bool,
    /// Checks of the operator's own, by name.
    pub own: BTreeMap<String, Own>,
}

impl Default for Verify {
    fn default() -> Self {
        Self { enabled: true, checks: Checks::default(), repair: true, coerce: false, own: BTreeMap::new() }
    }
}

/// One switch per check.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Checks {
    pub empty: bool,
    pub truncated: bool,
    pub json: bool,
    pub schema: bool,
    pub tools: bool,
    pub refusal: bool,
    pub looping: bool,
    pub echo: bool,
    pub placeholder: bool,
    pub code: bool,
    /// Lowest mean log-probability per token that passes; unset: not looked at.
    pub min_mean_logprob: Option<f32>,
    /// Lowest mean lead over the runner-up token, natural log, that passes; unset: not looked at.
    pub min_mean_margin: Option<f32>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            empty: true,
            truncated: true,
            json: true,
            schema: true,
            tools: true,
            refusal: true,
            looping: true,
            echo: true,
            placeholder: true,
            code: true,
            min_mean_logprob: None,
            min_mean_margin: None,
        }
    }
}

/// `[verify.own.NAME]`: a check of the operator's own, made of answers that pass all others. Exactly one of the first six.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Own {
    /// A regular expression that the answer's text must match.
    pub matches: Option<String>,
    /// A regular expression that it must not match.
    pub lacks: Option<String>,
    /// A JSON Schema, as JSON, that it must fit.
    pub schema: Option<String>,
    /// A program and its arguments. It reads one JSON object on standard input; exit code 0: usable, 1: not, and what it prints says why.
    pub command: Option<Vec<String>>,
    /// An endpoint that takes the same object by POST and answers `{"usable": true}`, or `false` and a `why`.
    pub url: Option<Text>,
    /// A backend that is asked whether the answer does what was asked; `self`: the local model that gave it.
    pub ask: Option<String>,
    /// Longest time for `command`, `url` and `ask`; a check that is later has failed.
    pub within_ms: Option<u64>,
    /// What a check that cannot be made (late, crashed, unreachable) says of the answer.
    pub on_failure: OnFailure,
}

/// What to think of an answer that could not be checked.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It passes; the failure is counted.
    #[default]
    Pass,
    /// It is not usable.
    Refuse,
}

impl Verify {
    /// `table`: `verify`, or a route's own.
    pub(crate) fn check(&mut self, table: &str, backends: &BTreeMap<String, Backend>, env: Environment<'_>) -> Result<(), Fault> {
        for (name, own) in &mut self.own {
            own.check(&format!("{table}.own.{name}"), backends, env)?;
        }
        Ok(())
    }
}

impl Own {
    /// Longest time for the check.
    #[must_use]
    pub fn within(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.within_ms.unwrap_or(if self.ask.is_some() { 30_000 } else { 5_000 }))
    }

    /// True for a program, an endpoint or a model.
    #[must_use]
    pub fn needs_more_than_text(&self) -> bool {
        self.command.is_some() || self.url.is_some() || self.ask.is_some()
    }

    fn check(&mut self, key: &str, backends: &BTreeMap<String, Backend>, env: Environment<'_>) -> Result<(), Fault> {
        let fault = |message: String, remedy: &str| Err(Fault::new(None, message, remedy));
        let kinds = [
            self.matches.is_some(),
            self.lacks.is_some(),
            self.schema.is_some(),
            self.command.is_some(),
            self.url.is_some(),
            self.ask.is_some(),
        ];
        if kinds.into_iter().filter(|given| *given).count() != 1 {
            return fault(format!("{key} does not say what to check"), "give exactly one of: matches, lacks, schema, command, url, ask");
        }
        if let Some(error) = [&self.matches, &self.lacks].into_iter().flatten().find_map(|pattern| regex::Regex::new(pattern).err()) {
            return fault(
                format!("{key} is not a regular expression: {error}"),
                "write it in the syntax of Rust's regex crate, in single quotes",
            );
        }
        if let Some(error) = self.schema.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).err()) {
            return fault(format!("{key}.schema is not JSON: {error}"), "write the JSON Schema between three single quotes");
        }
        if self.command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
            return fault(
                format!("{key}.command is empty"),
                "name a program and its arguments: command = [\"/usr/local/bin/check\", \"--strict\"]",
            );
        }
        if let Some(url) = &mut self.url {
            url.resolve(env).map_err(|why| Fault::new(None, format!("{key}.url: {why}"), "set it, or give a default"))?;
            if !url.get().starts_with("http://") && !url.get().starts_with("https://") {
                return fault(format!("{key}.url is not an address"), "write http://… or https://…");
            }
        }
        if let Some(ask) = self.ask.as_deref().filter(|ask| *ask != ITSELF && !backends.contains_key(*ask)) {
            return fault(format!("{key}.ask names the backend {ask}, which is not defined"), "name a backend, or write ask = \"self\"");
        }
        if self.within_ms.is_some_and(|ms| ms == 0 || ms > MOST_MS) {
            return fault(format!("{key}.within_ms is not 1 to {MOST_MS}"), "write milliseconds, for example 5000");
        }
        Ok(())
    }
}
