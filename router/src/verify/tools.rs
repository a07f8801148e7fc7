//! Tool calls: pieces joined, the name known, the arguments JSON that fits.

use spectra_backends::chat::ToolChoice;
use spectra_backends::chunk::ToolDelta;

use super::checks::Checks;
use super::schema::Schema;
use super::{Flaw, JudgedCall};
use crate::repair::{self, Given, Repaired, Stage};

/// Joins a piece to its call; pieces with equal `index` belong together.
pub(super) fn merge(calls: &mut Vec<JudgedCall>, delta: &ToolDelta) {
    let at = calls.iter().position(|call| call.index == delta.index).unwrap_or_else(|| {
        calls.push(JudgedCall { index: delta.index, ..JudgedCall::default() });
        calls.len() - 1
    });
    let call = &mut calls[at];
    if call.id.is_none() {
        call.id.clone_from(&delta.id);
    }
    // Some servers repeat the whole name in every piece.
    if let Some(name) = delta.name.as_deref().filter(|name| *name != call.name) {
        call.name.push_str(name);
    }
    if let Some(arguments) = &delta.arguments {
        call.arguments.push_str(arguments);
    }
}

/// An answer without a call, where one was demanded.
///
/// # Errors
/// `BadToolCall`.
pub(super) fn required(checks: &Checks) -> Result<(), Flaw> {
    match &checks.tool_choice {
        ToolChoice::Required if !checks.tools.is_empty() => {
            Err(Flaw::BadToolCall { name: String::new(), why: "a tool call was required, none was made".into() })
        }
        ToolChoice::Named(name) => Err(Flaw::BadToolCall { name: name.clone(), why: "this call was required, it was not made".into() }),
        _ => Ok(()),
    }
}

/// Checks and mends all calls of an answer.
///
/// # Errors
/// `BadToolCall`, or `Truncated` where the arguments break off.
pub(super) fn judge(checks: &Checks, calls: &mut [JudgedCall], by_length: bool) -> Result<Vec<Stage>, Flaw> {
    let mut stages = Vec::new();
    for call in calls {
        let bad = |why: String| Flaw::BadToolCall { name: call.name.clone(), why };
        // A request whose tools we cannot read (hosted tools) has none to compare with.
        let tool = checks.tools.iter().find(|tool| tool.name == call.name);
        if tool.is_none() && !checks.tools.is_empty() {
            let known: Vec<&str> = checks.tools.iter().map(|tool| tool.name.as_str()).collect();
            return Err(bad(format!("no such tool; there are: {}", known.join(", "))));
        }
        if let ToolChoice::Named(wanted) = &checks.tool_choice
            && *wanted != call.name
        {
            return Err(bad(format!("tool {wanted} was required")));
        }
        let schema = tool.and_then(|tool| tool.schema.as_deref());
        if let Some((text, more)) = arguments(checks, &call.name, &call.arguments, schema, by_length)? {
            call.mended = Some(text);
            stages.extend(more);
        }
    }
    Ok(stages)
}

/// The arguments of one call: `None` if they stand as they are.
fn arguments(
    checks: &Checks,
    name: &str,
    said: &str,
    schema: Option<&Schema>,
    by_length: bool,
) -> Result<Option<(String, Vec<Stage>)>, Flaw> {
    let bad = |why: String| Flaw::BadToolCall { name: name.to_owned(), why };
    let fits = |text: &str| serde_json::from_str(text).is_ok_and(|value| schema.is_none_or(|schema| schema.fits(&value)));
    let given = Given { cut_by_length: by_length, fits: schema.map(|_| &fits as &dyn Fn(&str) -> bool), string_wanted: false };
    let mut mended = if said.trim().is_empty() && !by_length && fits("{}") {
        Some(("{}".to_owned(), vec![Stage::EmptyArguments]))
    } else if !checks.settings.repair {
        super::json::Scan::whole(said).map_err(|(at, why)| bad(format!("arguments are not JSON at byte {at}: {why}")))?;
        None
    } else {
        match repair::json(said, &given) {
            Repaired::Clean => None,
            Repaired::Mended { text, stages } => Some((text, stages)),
            Repaired::Cut { .. } => return Err(Flaw::Truncated { by_length, bytes: said.len() }),
            Repaired::Declined { at, why } => return Err(bad(format!("arguments are not JSON at byte {at}: {why}"))),
        }
    };
    let text = mended.as_ref().map_or(said, |(text, _)| text);
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    if !value.is_object() {
        return Err(bad("arguments are not an object".into()));
    }
    if let Some(schema) = schema {
        let errors = schema.errors(&value);
        if !errors.is_empty() {
            let bent = checks.settings.coerce.then(|| repair::coerce::coerce(text, schema.value(), &|value| schema.fits(value))).flatten();
            let Some((text, more)) = bent else { return Err(bad(errors.join("; "))) };
            let before = mended.map(|(_, stages)| stages).unwrap_or_default();
            mended = Some((text, before.into_iter().chain(more).collect()));
        }
    }
    Ok(mended)
}
