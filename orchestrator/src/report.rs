//! The truth about a build: what each file is, what the running service showed, and the exit code that says it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::service::Shown;

/// [`Report::plan_from`] of a plan that a template set made because the model could not.
pub const PLAN_IN_PLACE: &str = "template, in place of the model";

/// What became of a planned file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "why")]
pub enum Outcome {
    /// The model wrote it and every check of a file passed.
    Verified,
    /// A template or plain facts wrote it, as planned, and the checks passed.
    Template,
    /// The model was asked in vain; a template stands in, and the checks passed.
    Degraded(String),
    /// Somebody's own text, left alone; it passes the checks.
    Kept,
    /// Nothing that passes: not written, or somebody's own text that fails.
    Failed(String),
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub service_name: String,
    pub folder: String,
    /// `model`, `file`, `earlier run`, `template`, or [`PLAN_IN_PLACE`].
    pub plan_from: String,
    pub files: BTreeMap<String, Outcome>,
    pub service: Option<Shown>,
    /// A bound that was reached, or another reason the build stopped early.
    pub stopped: Option<String>,
    pub calls: u32,
    pub tokens: u64,
    pub cost_usd: f64,
    pub seconds: f64,
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Verified => "verified",
            Outcome::Template => "template",
            Outcome::Degraded(_) => "degraded",
            Outcome::Kept => "kept",
            Outcome::Failed(_) => "FAILED",
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Outcome::Degraded(why) | Outcome::Failed(why) => why,
            _ => "",
        }
    }
}

impl Report {
    /// 0: everything planned is there and passed. 2: files failed, or the service does not run. 3: whole and
    /// running, but templates stand in for files the model was to write.
    pub fn exit_code(&self) -> u8 {
        let failed = self.files.values().any(|outcome| matches!(outcome, Outcome::Failed(_)));
        let degraded = self.files.values().any(|outcome| matches!(outcome, Outcome::Degraded(_)));
        let broken = self.service.as_ref().is_some_and(|shown| shown.fault().is_some());
        match (failed || broken || self.stopped.is_some(), degraded || self.plan_from == PLAN_IN_PLACE) {
            (true, _) => 2,
            (false, true) => 3,
            (false, false) => 0,
        }
    }

    /// The summary in words.
    pub fn lines(&self) -> Vec<String> {
        let count = |name: &str| self.files.values().filter(|outcome| outcome.name() == name).count();
        let mut lines = vec![String::new(), format!("{} in {}", self.service_name, self.folder)];
        lines.push(format!(
            "files   {} planned: {} verified (model), {} from templates, {} degraded, {} kept, {} failed",
            self.files.len(),
            count("verified"),
            count("template"),
            count("degraded"),
            count("kept"),
            count("FAILED")
        ));
        for (path, outcome) in &self.files {
            if !outcome.why().is_empty() {
                lines.push(format!("        {} {path}: {}", outcome.name(), outcome.why()));
            }
        }
        lines.push(match &self.service {
            Some(shown) => format!("service {shown}"),
            None => "service not started: switched off".to_owned(),
        });
        lines.push(format!(
            "spent   {} calls, {} tokens, ${:.4}, {:.1} s; plan from {}",
            self.calls, self.tokens, self.cost_usd, self.seconds, self.plan_from
        ));
        if let Some(why) = &self.stopped {
            lines.push(format!("stopped {why}"));
        }
        lines.push(match self.exit_code() {
            0 => "finished".to_owned(),
            3 => "finished, DEGRADED: templates stand in for the model".to_owned(),
            _ => "NOT finished; run the same command again to go on".to_owned(),
        });
        lines
    }
}
