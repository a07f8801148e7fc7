//! The ledger as rows to learn from, to train on and to replay: requests whose text was kept (`accounting.keep_text`).

use std::path::Path;

use serde_json::{Value, json};

use crate::ledger::decided::usable;
use crate::ledger::export::export;

/// The lines of a ledger's file; `None` if it is not an SQLite database.
///
/// # Errors
/// For a database that is not a ledger.
pub(super) fn lines(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    const MAGIC: &[u8] = b"SQLite format 3\0";
    // What can be read once only (a pipe) must not be looked into.
    if !path.is_file() {
        return Ok(None);
    }
    let mut first = [0; MAGIC.len()];
    let begins = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut first)).is_ok();
    if !begins || first != MAGIC {
        return Ok(None);
    }
    let mut lines = Vec::new();
    export(path, 0, true, &mut lines)?;
    Ok(Some(lines))
}

/// What a ledger's line says of a request: its text, which route took it, and what became of it there. Lines of other kinds stay as
/// they are; `None` for a request that nothing can be learned from: no text kept, pinned by its caller, or no answer judged.
pub(super) fn row(line: Value) -> Option<Value> {
    let Some(attempts) = line.get("attempts").and_then(Value::as_array) else { return Some(line) };
    line.get("score").filter(|score| !score.is_null())?;
    let messages = messages(line.get("prompt")?.as_str()?);
    // Rows of before this was kept say the route's name only.
    let side = line["side"].as_str().or(line["route"].as_str())?;
    let route = if side == "local" { "local" } else { "strong" };
    // The first word of either route is an outcome of the plain request; later ones were told what was wrong.
    let mut outcomes = [Value::Null, Value::Null];
    for attempt in attempts.iter().filter(|attempt| matches!(attempt["why"].as_str(), Some("first" | "escalate"))) {
        let Some(usable) = usable(attempt["verdict"].as_str()?, !attempt["flaw"].is_null()) else { continue };
        let strong = route == "strong" || attempt["rung"].as_u64() != Some(0);
        outcomes[usize::from(strong)] = json!(f32::from(u8::from(usable)));
    }
    // What the caller said later counts more than what the verifier saw.
    let taken = usize::from(route == "strong");
    if let (Some(said), 1) = (line["feedback"]["usable"].as_bool(), attempts.len()) {
        outcomes[taken] = json!(f32::from(u8::from(said)));
    }
    let happened = outcomes[taken].as_f64()? > 0.5;
    let [weak, strong] = outcomes;
    Some(json!({
        "id": line["request_id"],
        "source": "ledger",
        "family": "own",
        "reuse": "own",
        "request": {"model": "auto", "messages": messages},
        "weak_score": weak,
        "strong_score": strong,
        "route": route,
        "usable": happened,
        "propensity": line["propensity"].as_f64().unwrap_or(1.0),
        "cost_usd": line["cost_usd"],
    }))
}

/// Kept text back into messages: each begins a line with its role.
fn messages(kept: &str) -> Vec<Value> {
    const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
    let mut messages: Vec<(&str, String)> = Vec::new();
    for line in kept.split('\n') {
        let begun = line
            .split_once(": ")
            .or_else(|| line.split_once(':'))
            .and_then(|(role, text)| Some((ROLES.iter().find(|known| **known == role)?, text)));
        match (begun, messages.last_mut()) {
            (Some((role, text)), _) => messages.push((role, text.to_owned())),
            (None, Some((_, text))) => {
                text.push('\n');
                text.push_str(line);
            }
            (None, None) => messages.push(("user", line.to_owned())),
        }
    }
    // A tool's or function's words need ids that were not kept: they are the user's here.
    let role = |role: &str| if matches!(role, "tool" | "function") { "user".to_owned() } else { role.to_owned() };
    messages.into_iter().map(|(by, text)| json!({"role": role(by), "content": text})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_ledger_tells_what_became_of_either_route() {
        let attempt = |rung: u32, why: &str, verdict: &str| {
            let flaw = if verdict == "not_json" { json!(verdict) } else { Value::Null };
            json!({"rung": rung, "why": why, "verdict": verdict, "flaw": flaw})
        };
        let line = |attempts: Vec<Value>, feedback: Value| {
            json!({"request_id": "r", "score": 0.3, "route": "local", "prompt": "system: Be brief.\nuser: Hi\nthere", "cost_usd": 0.1,
                "attempts": attempts, "feedback": feedback})
        };
        for (attempts, feedback, weak, strong) in [
            (vec![attempt(0, "first", "pass")], Value::Null, json!(1.0), Value::Null),
            (vec![attempt(0, "first", "not_json"), attempt(0, "reask", "pass")], Value::Null, json!(0.0), Value::Null),
            (vec![attempt(0, "first", "not_json"), attempt(1, "escalate", "mended")], Value::Null, json!(0.0), json!(1.0)),
            (vec![attempt(0, "first", "pass")], json!({"usable": false}), json!(0.0), Value::Null),
        ] {
            let row = row(line(attempts, feedback)).unwrap();
            assert_eq!((&row["weak_score"], &row["strong_score"]), (&weak, &strong));
            assert_eq!(row["request"]["messages"][1]["content"], "Hi\nthere");
        }
        assert_eq!(row(line(vec![attempt(0, "first", "timeout")], Value::Null)), None);
        assert_eq!(row(json!({"prompt": "x"})), Some(json!({"prompt": "x"})));
    }
}
