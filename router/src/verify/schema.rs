//! JSON Schemas, compiled once and kept: local references only, bounded work, linear regular expressions where they can be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

/// Bytes of schema text that are accepted.
const TEXT_MAX: usize = 512 * 1024;
/// Schemas that one value may have to be held against at one place, references unrolled.
const WEIGHT_MAX: u64 = 200_000;
/// Bytes of one compiled regular expression.
const REGEX_MAX: usize = 1 << 20;
/// Errors told of one value; more teach a model nothing.
const ERRORS_MAX: usize = 8;
/// Characters told of one error: some quote the whole value.
const ERROR_CHARS: usize = 240;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    value: Value,
    validator: jsonschema::Validator,
}

impl Schema {
    /// Compiles a schema. Drafts 4 to 2020-12, by its `$schema`, else 2020-12. `format` is an annotation, as the drafts from 2019 say.
    ///
    /// # Errors
    /// A sentence saying what is wrong: not JSON, not a schema, a reference that leaves the document, more work than the bound.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("the schema has {} bytes; the limit is {TEXT_MAX}", text.len()));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("the schema is not JSON: {error}"))?;
        if !value.is_object() && !value.is_boolean() {
            return Err("a schema must be an object or a boolean".into());
        }
        bounded(&value)?;
        let linear = jsonschema::PatternOptions::regex().size_limit(REGEX_MAX).dfa_size_limit(REGEX_MAX);
        let backtracking =
            jsonschema::PatternOptions::fancy_regex().backtrack_limit(100_000).size_limit(REGEX_MAX).dfa_size_limit(REGEX_MAX);
        let options = || {
            let options = jsonschema::options().should_validate_formats(false).should_ignore_unknown_formats(true);
            match draft(&value) {
                Some(draft) => options.with_draft(draft),
                None => options,
            }
        };
        let validator = options()
            .with_pattern_options(linear)
            .build(&value)
            .or_else(|_| options().with_pattern_options(backtracking).build(&value))
            .map_err(|error| clipped(&format!("{}: {error}", place(&error.instance_path().to_string()))))?;
        Ok(Self { value, validator })
    }

    #[must_use]
    pub fn fits(&self, value: &Value) -> bool {
        self.validator.is_valid(value)
    }

    /// What is wrong with a value, as `path: message`; empty if nothing is.
    #[must_use]
    pub fn errors(&self, value: &Value) -> Vec<String> {
        self.validator
            .iter_errors(value)
            .take(ERRORS_MAX)
            .map(|error| clipped(&format!("{}: {error}", place(&error.instance_path().to_string()))))
            .collect()
    }

    /// The schema itself, for what is guided by it.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// True where a lone string can be valid.
    #[must_use]
    pub fn takes_string(&self) -> bool {
        let named = |word: &Value| word.as_str() == Some("string");
        match self.value.get("type") {
            Some(Value::Array(types)) => types.iter().any(named),
            Some(one) => named(one),
            None => false,
        }
    }
}

/// Compiled schemas by their text, the least recently used dropped first.
#[derive(Debug)]
pub struct SchemaCache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    by_text: HashMap<Arc<str>, (Arc<Schema>, u64)>,
}

impl SchemaCache {
    /// Keeps at most `capacity` schemas.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), inner: Mutex::default() }
    }

    /// The compiled schema of a text.
    ///
    /// # Errors
    /// As [`Schema::compile`]; failures are not kept.
    pub fn get(&self, text: &str) -> Result<Arc<Schema>, String> {
        {
            let mut inner = self.inner.lock();
            inner.clock += 1;
            let now = inner.clock;
            if let Some((schema, used)) = inner.by_text.get_mut(text) {
                *used = now;
                return Ok(schema.clone());
            }
        }
        // Compiled outside the lock: a large schema must not hold up the requests beside it.
        let schema = Arc::new(Schema::compile(text)?);
        let mut inner = self.inner.lock();
        if inner.by_text.len() >= self.capacity
            && let Some(oldest) = inner.by_text.iter().min_by_key(|(_, (_, used))| *used).map(|(text, _)| text.clone())
        {
            inner.by_text.remove(&oldest);
        }
        let now = inner.clock;
        inner.by_text.insert(Arc::from(text), (schema.clone(), now));
        Ok(schema)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().by_text.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for SchemaCache {
    fn default() -> Self {
        Self::new(256)
    }
}

/// The draft that `$schema` names; 2020-12 for a name nobody knows, since fetching it is out of the question.
fn draft(schema: &Value) -> Option<jsonschema::Draft> {
    let name = schema.get("$schema")?.as_str()?;
    let known = ["draft-04", "draft-06", "draft-07", "2019-09", "2020-12"].iter().any(|draft| name.contains(draft));
    (!known).then_some(jsonschema::Draft::Draft202012)
}

/// Refuses schemas whose references or combinators multiply without end.
fn bounded(root: &Value) -> Result<(), String> {
    let mut weights = HashMap::new();
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        if weight(root, node, &mut weights, &mut HashSet::new(), 0)? > WEIGHT_MAX {
            return Err(format!("the schema's combinators and references unroll to more than {WEIGHT_MAX} checks of one value"));
        }
        match node {
            Value::Object(map) => nodes.extend(map.values()),
            Value::Array(list) => nodes.extend(list),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that one value at this node sets off: the node's and, unrolled, those of its combinators and references.
fn weight<'a>(
    root: &'a Value,
    node: &'a Value,
    known: &mut HashMap<*const Value, u64>,
    open: &mut HashSet<*const Value>,
    depth: usize,
) -> Result<u64, String> {
    let Value::Object(map) = node else { return Ok(1) };
    let id = std::ptr::from_ref(node);
    if let Some(weight) = known.get(&id) {
        return Ok(*weight);
    }
    if depth > 200 {
        return Err("the schema's combinators are nested more than 200 deep".into());
    }
    if !open.insert(id) {
        return Err("a $ref leads back to itself without descending into the value".into());
    }
    let mut total: u64 = 1;
    let mut add = |node: &'a Value, open: &mut HashSet<*const Value>| -> Result<(), String> {
        total = total.saturating_add(weight(root, node, known, open, depth + 1)?);
        Ok(())
    };
    for (key, value) in map {
        match (key.as_str(), value) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => list.iter().try_for_each(|node| add(node, open))?,
            ("not" | "if" | "then" | "else", node) => add(node, open)?,
            ("dependentSchemas", Value::Object(map)) => map.values().try_for_each(|node| add(node, open))?,
            ("$ref", Value::String(reference)) => {
                let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(&unescaped(pointer)));
                target.map_or(Ok(()), |node| add(node, open))?;
            }
            _ => {}
        }
    }
    open.remove(&id);
    known.insert(id, total);
    Ok(total)
}

/// A URI fragment's percent escapes undone.
fn unescaped(pointer: &str) -> String {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = (*first == b'%').then(|| more.get(..2)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "(root)" } else { pointer }
}

fn clipped(message: &str) -> String {
    match message.char_indices().nth(ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}
