//! The plan: taken from an earlier run, from the template set where that carries all that is asked, else from the model.

use super::Budget;
use crate::ask::{AskError, Upstream};
use crate::plan::{File, Plan, Priority};
use crate::progress::{Event, View};
use crate::prompt;
use crate::template::Set;

/// Plans with the very same fault, one after the other, before the model is taken not to be able to plan.
const SAME_FAULT: u32 = 5;
/// Files that are asked for by their name; those that templates are for are added by themselves.
const NAMED: &[&str] = &[
    "pyproject.toml",
    "Makefile",
    "requirements.txt",
    "package.json",
    "tsconfig.json",
    "Cargo.toml",
    "main.py",
    "conftest.py",
    "alembic.ini",
];

/// What a plan is made from.
pub struct Planning<'a> {
    pub request: &'a str,
    pub name: &'a str,
    pub set: &'a Set,
    pub upstream: &'a Upstream,
    pub view: &'a View,
    pub budget: &'a Budget,
}

impl Planning<'_> {
    /// Asks the model for a plan until one holds; none when it cannot plan within its attempts.
    ///
    /// # Errors
    /// An endpoint that refuses every question (wrong key, unknown model), and the reason.
    pub async fn ask(&self) -> Result<Result<Plan, String>, AskError> {
        let limits = &self.budget.limits;
        let (mut fault, mut same, mut failures) = (None::<String>, 0, 0);
        let mut max_tokens = limits.answer_tokens;
        for attempt in 1..=limits.attempts_for_plan {
            if let Err(spent) = self.budget.take() {
                return Ok(Err(spent));
            }
            let mut question = prompt::plan(self.request, self.name, &self.set.name, fault.as_deref(), max_tokens);
            question.stronger = attempt > 2;
            let answer = match self.upstream.ask(&question).await {
                Ok(answer) => answer,
                Err(err) if err.is_final() => return Err(err),
                Err(err) => {
                    self.view.show(&Event::Note { text: &format!("plan, question {attempt}: {err}") });
                    failures += 1;
                    if failures == 2 {
                        return Ok(Err(err.to_string()));
                    }
                    fault = Some(err.to_string());
                    continue;
                }
            };
            self.budget.spent_on(&answer);
            let read = if answer.cut {
                // A large service has a long plan.
                max_tokens = (max_tokens * 2).min(limits.answer_tokens * 4);
                Err("it was cut off".to_owned())
            } else {
                read(&answer.text, self.request, self.name, self.set)
            };
            self.view.show(&Event::asked("(plan)", attempt, &answer, read.as_ref().err().cloned()));
            if let Some(id) = &answer.request_id {
                self.upstream.feedback(id, read.is_ok(), read.as_ref().err().map(|_| "plan")).await;
            }
            match read {
                Ok(plan) => return Ok(Ok(plan)),
                Err(why) => {
                    same = if fault.as_ref() == Some(&why) { same + 1 } else { 1 };
                    fault = Some(why);
                    if same == SAME_FAULT {
                        break;
                    }
                }
            }
        }
        Ok(Err(fault.unwrap_or_else(|| "no attempts allowed".to_owned())))
    }
}

/// The request's name wins over the model's; what every service of the set has, and what the request names, is added.
fn read(text: &str, request: &str, name: &str, set: &Set) -> Result<Plan, String> {
    let mut plan: Plan =
        serde_json::from_str(prompt::unfence(text).unwrap_or(text).trim()).map_err(|err| format!("it is not the JSON asked for: {err}"))?;
    name.clone_into(&mut plan.service_name);
    set.complete(&mut plan, request);
    let forgotten = forgotten(request, &plan);
    plan.files_to_create.extend(forgotten);
    plan.check().map_err(|err| err.to_string())?;
    if !plan.files_to_create.iter().any(|file| file.priority == Priority::Critical) {
        return Err("no file is critical: where is the entry point?".to_owned());
    }
    Ok(plan)
}

/// The project files that a request names and a plan lacks. The service's own templates have added theirs before; the
/// model is asked for these.
fn forgotten(request: &str, plan: &Plan) -> Vec<File> {
    let end = |c: char| c.is_whitespace() || ",;:`'\"()".contains(c);
    let words: Vec<&str> = request.split(end).map(|word| word.trim_end_matches('.')).collect();
    let named = NAMED.iter().filter(|name| words.contains(*name));
    let lacking = named.filter(|name| !plan.paths().any(|path| path.rsplit('/').next() == Some(**name)));
    let file = |name: &&str| File {
        path: (*name).to_owned(),
        priority: Priority::Normal,
        purpose: "the request asks for it".to_owned(),
        needs: Vec::new(),
        defines: Vec::new(),
    };
    lacking.map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_request_names_is_planned() {
        let check = |request: &str, paths: &[&str], endpoints: &[&str]| {
            let set = Set::load("fastapi", &[]).unwrap();
            let text = r#"{"service_name": "x", "files_to_create": [{"path": "app/main.py", "priority": "critical", "purpose": "x"}]}"#;
            let plan = read(text, request, "a-b", &set).unwrap();
            assert_eq!(plan.paths().skip(2).collect::<Vec<_>>(), paths, "{request}");
            assert_eq!(plan.endpoints, endpoints, "{request}");
        };
        check("a service with a main.py", &[], &[]);
        check("a service with POST /echo and GET /health.", &[], &["POST /echo", "GET /health"]);
        check("a service with a Makefile and a pyproject.toml.", &["Makefile", "pyproject.toml"], &[]);
    }
}
