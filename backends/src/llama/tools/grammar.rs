//! The grammar of one or more calls, in llguidance's Lark.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Style;
use crate::chat::Tool;

/// A grammar whose every answer is a call of one of `tools`, or several calls where `many`.
/// `opening` is the id of the control token that opens calls, where the model has one; `lenient` skips keywords
/// of the tools' schemas that cannot be enforced.
///
/// # Errors
/// For arguments described by something that is not a JSON Schema.
pub fn grammar(style: Style, tools: &[&Tool], many: bool, opening: Option<i32>, lenient: bool) -> Result<String, String> {
    let literal = |text: &str| Value::from(text).to_string();
    let open = match opening {
        Some(token) => format!("<[{token}]>"),
        None => literal(style.opening()),
    };
    let mut out = String::new();
    let start = match (style, many) {
        (Style::Tagged, true) => format!("start: call (\"\\n\" call){{0,7}}\ncall: {open} \"\\n\" body \"\\n</tool_call>\"\n"),
        (Style::Tagged, false) => format!("start: {open} \"\\n\" body \"\\n</tool_call>\"\n"),
        (Style::Listed, true) => format!("start: {open} \" \"? \"[\" body (\", \" body){{0,7}} \"]\"\n"),
        (Style::Listed, false) => format!("start: {open} \" \"? \"[\" body \"]\"\n"),
        (Style::Bare, _) => "start: body\n".to_owned(),
    };
    out.push_str(&start);
    let bodies: Vec<String> = (0..tools.len()).map(|at| format!("body_{at}")).collect();
    let _ = writeln!(out, "body: {}", bodies.join(" | "));
    for (at, tool) in tools.iter().enumerate() {
        let head = format!("{{\"name\": {}, \"{}\": ", Value::from(tool.name.as_str()), style.arguments_key());
        let schema = arguments(tool, lenient)?;
        let _ = writeln!(out, "body_{at}: {} arguments_{at} \"}}\"\narguments_{at}: %json {schema}", literal(&head));
    }
    Ok(out)
}

fn arguments(tool: &Tool, lenient: bool) -> Result<Value, String> {
    let Some(text) = tool.parameters.as_deref() else { return Ok(closed(lenient)) };
    let mut schema = crate::llama::constraint::read_schema(text).map_err(|why| format!("tool {}: {why}", tool.name))?;
    if let Some(fields) = schema.as_object_mut() {
        // Arguments are an object, whatever else a schema leaves open.
        fields.entry("type").or_insert_with(|| json!("object"));
    }
    Ok(crate::llama::constraint::with_options(schema, lenient))
}

/// A function without described arguments takes none.
fn closed(lenient: bool) -> Value {
    crate::llama::constraint::with_options(json!({ "type": "object", "additionalProperties": false }), lenient)
}
