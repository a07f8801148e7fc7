//! The truth about a build: what each file is, what the running service showed, and the exit code that says it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::Priority;
use crate::service::Shown;
use crate::write::Source;

/// [`Report::plan_from`] of a plan that a template set made because the model could not.
pub const PLAN_IN_PLACE: &str = "template, in place of the model";
/// Words named in the summary; more would bury the rest.
const GAPS_SHOWN: usize = 16;

/// What became of a planned file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum Outcome {
    /// It passed every check of a file, and whoever wrote it does all that is asked of it.
    Verified { by: Source },
    /// The model was asked in vain; a template that does less than is asked stands in, and passed the checks.
    Degraded { why: String },
    /// Somebody's own text, left alone; it passes the checks.
    Kept,
    /// Nothing that passes: not written, or somebody's own text that fails.
    Failed { why: String },
}

/// A planned file, what became of it, and at what price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    #[serde(flatten)]
    pub outcome: Outcome,
    pub priority: Priority,
    /// Answers asked for.
    pub attempts: u32,
    /// What gave the accepted answer.
    pub route: String,
    pub model: String,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub service_name: String,
    pub folder: String,
    /// `model`, `file`, `earlier run`, `template`, or [`PLAN_IN_PLACE`].
    pub plan_from: String,
    pub files: BTreeMap<String, FileReport>,
    pub service: Option<Shown>,
    /// What the request asks for and no template carries: only the model can have written it.
    pub gaps: Vec<String>,
    pub calls: u32,
    /// Answers by the gateway's route, where it says so.
    pub routes: BTreeMap<String, u32>,
    pub tokens: u64,
    pub cost_usd: f64,
    pub seconds: f64,
}

impl Outcome {
    /// In words: a verified file says who wrote it.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Verified { by: Source::Model } => "verified",
            Outcome::Verified { by: Source::Template } => "template",
            Outcome::Degraded { .. } => "DEGRADED",
            Outcome::Kept => "kept",
            Outcome::Failed { .. } => "FAILED",
        }
    }

    pub fn why(&self) -> &str {
        match self {
            Outcome::Degraded { why } | Outcome::Failed { why } => why,
            _ => "",
        }
    }
}

impl FileReport {
    pub fn new(priority: Priority, outcome: Outcome) -> Self {
        Self { outcome, priority, attempts: 0, route: String::new(), model: String::new() }
    }

    fn lacks(&self) -> bool {
        match self.outcome {
            Outcome::Failed { .. } => true,
            Outcome::Degraded { .. } => self.priority == Priority::Critical,
            _ => false,
        }
    }
}

impl Report {
    /// A file is no longer what it was; one that is not planned (a fault without a file) is added.
    pub fn becomes(&mut self, path: &str, outcome: Outcome) {
        match self.files.get_mut(path) {
            Some(file) => file.outcome = outcome,
            None => drop(self.files.insert(path.to_owned(), FileReport::new(Priority::Critical, outcome))),
        }
    }

    /// 0: what was asked for is there and passed. 2: unfinished: files failed, a template stands in for a critical
    /// one without doing what is asked, or the service does not run. 3: whole and running, but a file that is not
    /// critical is a stand-in.
    pub fn exit_code(&self) -> u8 {
        let broken = self.service.as_ref().is_some_and(|shown| shown.fault().is_some());
        // A plan that a template made for want of one leaves out what it does not carry, however good its files.
        let planless = self.plan_from == PLAN_IN_PLACE && !self.gaps.is_empty();
        if broken || planless || self.files.values().any(FileReport::lacks) {
            return 2;
        }
        let degraded = self.files.values().any(|file| matches!(file.outcome, Outcome::Degraded { .. }));
        if degraded { 3 } else { 0 }
    }

    /// The summary in words.
    pub fn lines(&self) -> Vec<String> {
        let count = |name: &str| self.files.values().filter(|file| file.outcome.name() == name).count();
        let mut lines = vec![String::new(), format!("{} in {}", self.service_name, self.folder)];
        lines.push(format!(
            "files   {} planned: {} verified ({} by the model, {} from templates), {} degraded, {} kept, {} failed",
            self.files.len(),
            count("verified") + count("template"),
            count("verified"),
            count("template"),
            count("DEGRADED"),
            count("kept"),
            count("FAILED")
        ));
        for (path, file) in self.files.iter().filter(|(_, file)| !file.outcome.why().is_empty()) {
            lines.push(format!("        {} {path}: {}", file.outcome.name(), file.outcome.why()));
        }
        let degraded = count("DEGRADED") > 0 || self.plan_from == PLAN_IN_PLACE;
        if degraded && !self.gaps.is_empty() {
            let more = if self.gaps.len() > GAPS_SHOWN { ", …" } else { "" };
            let shown = &self.gaps[..self.gaps.len().min(GAPS_SHOWN)];
            lines.push(format!("        asked for, and in no template: {}{more}", shown.join(", ")));
        }
        lines.push(match &self.service {
            Some(shown) => format!("service {shown}"),
            None => "service not started: switched off".to_owned(),
        });
        let routes: Vec<String> = self.routes.iter().map(|(route, count)| format!("{count} {route}")).collect();
        let routes = if routes.is_empty() { String::new() } else { format!(" ({})", routes.join(", ")) };
        lines.push(format!(
            "spent   {} calls{routes}, {} tokens, ${:.4}, {:.1} s; plan from {}",
            self.calls, self.tokens, self.cost_usd, self.seconds, self.plan_from
        ));
        lines.push(match self.exit_code() {
            0 => "finished".to_owned(),
            3 => "finished, but templates stand in for files that are not critical".to_owned(),
            _ => "NOT finished: the same command goes on from here; a stronger model may write what is missing".to_owned(),
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_the_truth() {
        let check = |outcome: Outcome, priority: Priority, want: u8| {
            let files = BTreeMap::from([("a.py".to_owned(), FileReport::new(priority, outcome.clone()))]);
            let report = Report { files, ..Report::default() };
            assert_eq!(report.exit_code(), want, "{outcome:?} {priority:?}");
        };
        let why = || "x".to_owned();
        check(Outcome::Verified { by: Source::Model }, Priority::Critical, 0);
        check(Outcome::Verified { by: Source::Template }, Priority::Critical, 0);
        check(Outcome::Kept, Priority::Critical, 0);
        check(Outcome::Degraded { why: why() }, Priority::Critical, 2);
        check(Outcome::Degraded { why: why() }, Priority::Normal, 3);
        check(Outcome::Failed { why: why() }, Priority::Low, 2);
        let planless = |gaps: &[&str]| Report {
            plan_from: PLAN_IN_PLACE.to_owned(),
            gaps: gaps.iter().map(|word| (*word).to_owned()).collect(),
            ..Report::default()
        };
        assert_eq!((planless(&["audit"]).exit_code(), planless(&[]).exit_code()), (2, 0));
        let failing = Shown { start: Some(Err(why())), ..Shown::default() };
        assert_eq!(Report { service: Some(failing), ..Report::default() }.exit_code(), 2);
    }
}
