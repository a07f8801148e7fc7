//! The ledger as JSON lines: one request a line with its attempts and feedback.

use std::io::Write;
use std::path::Path;

use super::SINCE;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde_json::{Map, Value, json};

/// Writes the requests that arrived at or after `since_ms` (milliseconds since 1970), oldest first; gives their number.
///
/// # Errors
/// If the file is not there or not a ledger, or `out` cannot be written.
pub fn export(path: &Path, since_ms: i64, with_text: bool, out: &mut dyn Write) -> anyhow::Result<u64> {
    anyhow::ensure!(path.is_file(), "there is no ledger at {}", path.display());
    let connection = super::read_only(path)?;
    let mut requests = connection.prepare(&format!("SELECT * FROM requests WHERE {SINCE} AND arrived_ms >= ?1 ORDER BY id"))?;
    let mut rows = requests.query([since_ms])?;
    let mut written = 0;
    while let Some(row) = rows.next()? {
        let mut line = object(row)?;
        let id = line.remove("id").and_then(|id| id.as_i64()).unwrap_or_default();
        line.remove("tried");
        if !with_text {
            line.remove("prompt");
            line.remove("answer");
        }
        if let Some(reasons) = line.get("reasons").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()) {
            line.insert("reasons".into(), reasons);
        }
        line.insert("attempts".into(), attempts(&connection, id)?);
        let request_id = line.get("request_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        line.insert("feedback".into(), feedback(&connection, &request_id)?);
        writeln!(out, "{}", Value::Object(line))?;
        written += 1;
    }
    Ok(written)
}

fn attempts(connection: &Connection, request: i64) -> rusqlite::Result<Value> {
    let mut query = connection.prepare_cached("SELECT * FROM attempts WHERE request = ?1 ORDER BY number")?;
    let found = query.query_map([request], |row| {
        let mut attempt = object(row)?;
        attempt.remove("request");
        Ok(Value::Object(attempt))
    })?;
    found.collect::<rusqlite::Result<Vec<_>>>().map(Value::Array)
}

fn feedback(connection: &Connection, request_id: &str) -> rusqlite::Result<Value> {
    let mut query = connection.prepare_cached("SELECT usable, reason, at_ms FROM feedback WHERE request_id = ?1")?;
    let mut rows = query.query([request_id])?;
    let Some(row) = rows.next()? else { return Ok(Value::Null) };
    Ok(json!({ "usable": row.get::<_, bool>(0)?, "reason": row.get::<_, Option<String>>(1)?, "at_ms": row.get::<_, i64>(2)? }))
}

fn object(row: &Row<'_>) -> rusqlite::Result<Map<String, Value>> {
    let names: Vec<String> = row.as_ref().column_names().into_iter().map(str::to_owned).collect();
    names
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let value = match row.get_ref(index)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) if name == "streamed" => Value::Bool(number != 0),
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into(),
            };
            Ok((name, value))
        })
        .collect()
}
