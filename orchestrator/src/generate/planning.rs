//! The plan: taken from an earlier run, from the template set where that carries all that is asked, else from the model.

use super::Budget;
use crate::ask::{AskError, Upstream};
use crate::plan::{Plan, Priority};
use crate::progress::{Event, View};
use crate::prompt;
use crate::template::Set;

/// Plans with the very same fault, one after the other, before the model is taken not to be able to plan.
const SAME_FAULT: u32 = 3;
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

/// Asks for a plan until one holds; none when the model cannot plan within its attempts.
///
/// # Errors
/// An endpoint that refuses every question (wrong key, unknown model), and the reason.
pub async fn plan(
    request: &str,
    name: &str,
    set: &Set,
    upstream: &Upstream,
    view: &View,
    budget: &Budget,
) -> Result<Result<Plan, String>, AskError> {
    let limits = &budget.limits;
    let (mut fault, mut same, mut failures) = (None::<String>, 0, 0);
    let mut max_tokens = limits.answer_tokens;
    for attempt in 1..=limits.attempts_for_plan {
        if let Err(spent) = budget.take() {
            return Ok(Err(spent));
        }
        let mut question = prompt::plan(request, name, &set.name, fault.as_deref(), max_tokens);
        question.stronger = attempt > 2;
        let answer = match upstream.ask(&question).await {
            Ok(answer) => answer,
            Err(err) if err.is_final() => return Err(err),
            Err(err) => {
                view.show(&Event::Note { text: &format!("plan, question {attempt}: {err}") });
                failures += 1;
                if failures == 2 {
                    return Ok(Err(err.to_string()));
                }
                fault = Some(err.to_string());
                continue;
            }
        };
        budget.spent_on(&answer);
        let read = if answer.cut {
            // A large service has a long plan.
            max_tokens = (max_tokens * 2).min(limits.answer_tokens * 4);
            Err("it was cut off".to_owned())
        } else {
            read(&answer.text, request, name, set)
        };
        view.show(&Event::asked("(plan)", attempt, &answer, read.as_ref().err().cloned()));
        if let Some(id) = &answer.request_id {
            upstream.feedback(id, read.is_ok(), read.as_ref().err().map(|_| "plan")).await;
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

/// The request's name wins over the model's; what every service of the set has, and what the request names, is added.
fn read(text: &str, request: &str, name: &str, set: &Set) -> Result<Plan, String> {
    let mut plan: Plan =
        serde_json::from_str(prompt::unfence(text).unwrap_or(text).trim()).map_err(|err| format!("it is not the JSON asked for: {err}"))?;
    name.clone_into(&mut plan.service_name);
    set.complete(&mut plan, request);
    plan.check().map_err(|err| err.to_string())?;
    if !plan.files_to_create.iter().any(|file| file.priority == Priority::Critical) {
        return Err("no file is critical: where is the entry point?".to_owned());
    }
    match forgotten(request, &plan) {
        Some(name) => Err(format!("the request names {name}, which no planned file is")),
        None => Ok(plan),
    }
}

/// A project file that the request names and the plan lacks.
fn forgotten(request: &str, plan: &Plan) -> Option<&'static str> {
    let named = NAMED
        .iter()
        .filter(|name| request.split([' ', ',', '`', '\'', '"', '(', ')', '\n']).any(|word| word.trim_end_matches('.') == **name));
    named.copied().find(|name| !plan.paths().any(|path| path.rsplit('/').next() == Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_request_names_is_planned() {
        let check = |request: &str, want: Result<&[&str], &str>| {
            let set = Set::load("fastapi", &[]).unwrap();
            let text = r#"{"service_name": "x", "files_to_create": [{"path": "app/main.py", "priority": "critical", "purpose": "x"}]}"#;
            let got = read(text, request, "a-b", &set);
            let got = got.as_ref().map(|plan| plan.endpoints.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(got.as_deref().map_err(|why| why.as_str()), want, "{request}");
        };
        check("a service with a main.py", Ok(&[]));
        check("a service with POST /echo and GET /health.", Ok(&["POST /echo", "GET /health"]));
        check("a service with a pyproject.toml.", Err("the request names pyproject.toml, which no planned file is"));
    }
}
