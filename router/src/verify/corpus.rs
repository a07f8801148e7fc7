//! Files of rows to judge offline: what `spectra verify` does with a line, and how a file of them is scored.
//!
//! A row is told by its fields: `path` and `content` (a file), `schema` with `valid` or `invalid` (instances), else `text` or `base64` (an answer).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use spectra_backends::Chunk;
use spectra_backends::chunk::{Choice, Finish, Shape, View};

use super::{Checks, Flaw, Schema, SchemaCache, Settings, Verdict, Verifier, files};

/// What to hold rows against.
#[derive(Debug, Default)]
pub struct Corpus {
    pub settings: Settings,
    /// For rows without a schema of their own.
    pub schema: Option<Arc<Schema>>,
    cache: SchemaCache,
}

/// What was made of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The JSON line to print.
    pub line: String,
    /// One score a claim of the row; empty where it claims nothing.
    pub scores: Vec<Score>,
    /// Bytes judged.
    pub bytes: usize,
    /// All of the row would be delivered.
    pub usable: bool,
}

/// How a row's claim was met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// The row's kind, tier and expected action.
    pub group: String,
    pub grade: Grade,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Correct,
    /// Not delivered, though it could have been: costs another ask.
    Declined,
    Wrong,
}

impl Corpus {
    #[must_use]
    pub fn new(settings: Settings, schema: Option<Arc<Schema>>) -> Self {
        Self { settings, schema, cache: SchemaCache::new(64) }
    }

    /// Judges one line.
    ///
    /// # Errors
    /// A sentence for a line that is no row.
    pub fn judge(&self, line: &str) -> Result<Outcome, String> {
        let row: Map<String, Value> = serde_json::from_str(line).map_err(|error| format!("not a JSON object: {error}"))?;
        if row.contains_key("schema") && (row.contains_key("valid") || row.contains_key("invalid")) {
            return Ok(instances(&row));
        }
        if let (Some(path), Some(content)) = (text_of(&row, "path"), text_of(&row, "content")) {
            return Ok(self.file(&row, path, content));
        }
        self.answer(&row)
    }

    fn file(&self, row: &Map<String, Value>, path: &str, content: &str) -> Outcome {
        let found = files::judge_file(path, content, &self.settings);
        let action = if found.is_ok() { "pass" } else { "refuse" };
        let mut line = json!({"id": row.get("id"), "action": action});
        if let Err(flaw) = &found {
            line["flaw"] = flaw.kind().into();
            line["why"] = flaw.to_string().into();
        }
        let scores = row.get("placeholder").and_then(Value::as_bool).map(|placeholder| Score {
            group: if placeholder { "file placeholder" } else { "file legitimate" }.into(),
            grade: if placeholder == found.is_err() { Grade::Correct } else { Grade::Wrong },
        });
        Outcome { line: line.to_string(), scores: scores.into_iter().collect(), bytes: content.len(), usable: found.is_ok() }
    }

    fn answer(&self, row: &Map<String, Value>) -> Result<Outcome, String> {
        let bytes = match (text_of(row, "base64"), row.get("text")) {
            (Some(packed), _) => {
                base64::engine::general_purpose::STANDARD.decode(packed).map_err(|error| format!("bad base64: {error}"))?
            }
            (None, Some(Value::String(text))) => text.clone().into_bytes(),
            (None, Some(Value::Null)) => Vec::new(),
            _ => return Err("a row needs text, base64, or path and content".into()),
        };
        let length = bytes.len();
        let (action, text, told) = match String::from_utf8(bytes) {
            Err(_) => ("refuse", None, Some(("not_json", "not UTF-8".to_owned()))),
            Ok(text) => self.judged(row, text)?,
        };
        let mut line = json!({"id": row.get("id"), "action": action});
        if let Some(text) = &text {
            line["text"] = text.as_str().into();
        }
        match told {
            Some((_, stages)) if action == "repair" => line["stages"] = stages.split(',').collect(),
            Some((kind, why)) => {
                line["flaw"] = kind.into();
                line["why"] = why.into();
            }
            None => {}
        }
        let scores = claim(row, action, text.as_deref()).into_iter().collect();
        Ok(Outcome { line: line.to_string(), scores, bytes: length, usable: text.is_some() })
    }

    /// The action, the text to deliver, and what to tell of it.
    #[expect(clippy::type_complexity, reason = "three parts of one line of output")]
    fn judged(
        &self,
        row: &Map<String, Value>,
        said: String,
    ) -> Result<(&'static str, Option<String>, Option<(&'static str, String)>), String> {
        let schema = match row.get("schema").filter(|schema| !schema.is_null()) {
            Some(schema) => Some(self.cache.get(&schema.to_string())?),
            None => self.schema.clone(),
        };
        let checks = Arc::new(Checks::of_json(self.settings.clone(), schema));
        let finish = Finish::parse(text_of(row, "finish_reason").unwrap_or("stop"));
        let mut verifier = Verifier::new(checks);
        verifier.push(&whole(said, finish));
        let mut judged = verifier.finish();
        let choice = judged.choices.pop().unwrap_or_default();
        Ok(match judged.verdict {
            Verdict::Pass => ("pass", Some(choice.text), None),
            Verdict::Mended(stages) => {
                let stages: Vec<&str> = stages.into_iter().map(super::Stage::as_str).collect();
                ("repair", Some(choice.mended.unwrap_or(choice.text)), Some(("mended", stages.join(","))))
            }
            Verdict::Flawed(flaw @ Flaw::Truncated { .. }) => ("continue", None, Some((flaw.kind(), flaw.to_string()))),
            Verdict::Flawed(flaw) => ("refuse", None, Some((flaw.kind(), flaw.to_string()))),
        })
    }
}

/// A whole answer of one text as a chunk.
pub(crate) fn whole(text: String, finish: Finish) -> Chunk {
    let choice = Choice { content: Some(text), finish: Some(finish), ..Choice::default() };
    Chunk { data: bytes::Bytes::new(), extra: bytes::Bytes::new(), view: View { shape: Shape::Whole, choices: vec![choice], usage: None } }
}

/// A schema with instances that must pass and must not.
fn instances(row: &Map<String, Value>) -> Outcome {
    let text = row["schema"].to_string();
    let list = |name: &str| row.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let (valid, invalid) = (list("valid"), list("invalid"));
    let mut line = json!({"id": row.get("id")});
    let mut scores = Vec::new();
    match Schema::compile(&text) {
        Err(why) => {
            line["error"] = why.into();
            scores.extend((0..valid.len() + invalid.len()).map(|_| Score { group: "schema does not compile".into(), grade: Grade::Wrong }));
        }
        Ok(schema) => {
            let accepted: Vec<bool> = valid.iter().map(|value| schema.fits(value)).collect();
            let passed: Vec<bool> = invalid.iter().map(|value| schema.fits(value.get("data").unwrap_or(value))).collect();
            let graded = |right| if right { Grade::Correct } else { Grade::Wrong };
            scores.extend(accepted.iter().map(|accepted| Score { group: "schema valid".into(), grade: graded(*accepted) }));
            scores.extend(passed.iter().map(|passed| Score { group: "schema invalid".into(), grade: graded(!passed) }));
            let verdict = |usable: &bool| if *usable { "pass" } else { "refuse" };
            line["valid"] = accepted.iter().map(verdict).collect();
            line["invalid"] = passed.iter().map(verdict).collect();
        }
    }
    let usable = scores.iter().all(|score: &Score| score.grade == Grade::Correct);
    Outcome { line: line.to_string(), scores, bytes: text.len(), usable }
}

/// The row's claim and how it was met.
fn claim(row: &Map<String, Value>, action: &str, text: Option<&str>) -> Option<Score> {
    let delivered = text.is_some();
    let score = |group: String, grade| Some(Score { group, grade });
    match text_of(row, "kind").filter(|_| !row.contains_key("action")) {
        Some("must_accept") => {
            let same = action == "pass" && text.map(str::as_bytes) == bytes_of(row).as_deref();
            return score("json must_accept".into(), if same { Grade::Correct } else { Grade::Wrong });
        }
        Some("must_reject") => return score("json must_reject".into(), if action == "pass" { Grade::Wrong } else { Grade::Correct }),
        Some("either") => return score("json either".into(), Grade::Correct),
        _ => {}
    }
    let expected = row.get("expected").filter(|expected| !expected.is_null());
    let equal = || {
        text.and_then(|text| serde_json::from_str::<Value>(text).ok())
            .is_some_and(|value| expected.is_some_and(|expected| same(&value, expected)))
    };
    let graded = |usable: bool| match (usable, delivered) {
        (true, true) if expected.is_none() || equal() => Grade::Correct,
        (true, false) => Grade::Declined,
        (false, false) => Grade::Correct,
        _ => Grade::Wrong,
    };
    if let Some(verdict) = text_of(row, "verdict") {
        return score(format!("semantic {verdict}"), graded(verdict != "reask"));
    }
    let wanted = text_of(row, "action")?;
    let tier = text_of(row, "tier").unwrap_or("-");
    score(format!("malformed {wanted} {tier}"), graded(matches!(wanted, "pass" | "repair" | "close")))
}

/// Equal values: 1 and 1.0 are the same, big integers are exact.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || (one.as_f64() == other.as_f64() && (one.is_f64() || other.is_f64())),
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other)),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

fn text_of<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}

fn bytes_of(row: &Map<String, Value>) -> Option<Vec<u8>> {
    match text_of(row, "base64") {
        Some(packed) => base64::engine::general_purpose::STANDARD.decode(packed).ok(),
        None => text_of(row, "text").map(|text| text.as_bytes().to_vec()),
    }
}

/// Scores of a file, by group.
#[derive(Clone, Debug, Default)]
pub struct Table {
    groups: BTreeMap<String, [usize; 3]>,
    bytes: usize,
}

impl Table {
    pub fn add(&mut self, outcome: &Outcome) {
        self.bytes += outcome.bytes;
        for score in &outcome.scores {
            self.groups.entry(score.group.clone()).or_default()[score.grade as usize] += 1;
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Correct, declined and wrong rows of the groups whose name starts with `prefix`.
    #[must_use]
    pub fn counts(&self, prefix: &str) -> [usize; 3] {
        self.groups
            .iter()
            .filter(|(group, _)| group.starts_with(prefix))
            .fold([0; 3], |sum, (_, counts)| std::array::from_fn(|at| sum[at] + counts[at]))
    }

    /// Bytes judged so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<28} {:>6} {:>8} {:>9} {:>6} {:>9}", "kind, action, tier", "rows", "correct", "declined", "WRONG", "correct %")?;
        for (group, counts) in &self.groups {
            let rows: usize = counts.iter().sum();
            #[expect(clippy::cast_precision_loss, reason = "a percentage to print")]
            let percent = counts[0] as f64 * 100.0 / rows.max(1) as f64;
            writeln!(f, "{group:<28} {rows:>6} {:>8} {:>9} {:>6} {percent:>8.1}%", counts[0], counts[1], counts[2])?;
        }
        Ok(())
    }
}
