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
    /// Levels of a value that are looked at: less than serde reads only where the schema's recursion multiplies.
    levels: usize,
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
            // Formats and contents are annotations, as they are to the field's other validators.
            let options = jsonschema::options()
                .should_validate_formats(false)
                .should_ignore_unknown_formats(true)
                .without_content_media_type_support("application/json")
                .without_content_encoding_support("base64");
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
        let levels = levels(&value);
        Ok(Self { value, validator, levels })
    }

    #[must_use]
    pub fn fits(&self, value: &Value) -> bool {
        !is_deeper(value, self.levels) && self.validator.is_valid(value)
    }

    /// What is wrong with a value, as `path: message`; empty if nothing is.
    #[must_use]
    pub fn errors(&self, value: &Value) -> Vec<String> {
        if is_deeper(value, self.levels) {
            return vec![format!("(root): nested more than {} deep, which this recursive schema is not checked for", self.levels)];
        }
        if self.validator.is_valid(value) {
            return Vec::new();
        }
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

/// Checks that a recursive schema may multiply to.
const CHECKS_MAX: f64 = 1e6;

/// How deep a value may be for a schema whose recursion holds one child against several schemas at every level.
fn levels(root: &Value) -> usize {
    let mut graph = Graph { root, cyclic: HashMap::new(), work: 0 };
    let mut most = 1_u32;
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        let mut slots = HashMap::new();
        graph.slots(node, &mut slots, 0);
        most = most.max(slots.values().copied().max().unwrap_or(1));
        match node {
            Value::Object(map) => nodes.extend(map.values()),
            Value::Array(list) => nodes.extend(list),
            _ => {}
        }
    }
    if graph.work > WORK_MAX {
        most = most.max(8);
    }
    if most < 2 {
        return usize::MAX;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive quotient")]
    let levels = (CHECKS_MAX.ln() / f64::from(most).ln()) as usize;
    levels.max(6)
}

/// The references of a schema.
struct Graph<'a> {
    root: &'a Value,
    /// Nodes from which a circle of references can be reached.
    cyclic: HashMap<*const Value, bool>,
    /// Nodes looked at, the same one again included.
    work: usize,
}

/// Nodes looked at before a schema is taken to multiply.
const WORK_MAX: usize = 1_000_000;

impl<'a> Graph<'a> {
    fn target(&self, reference: &str) -> Option<&'a Value> {
        reference.strip_prefix('#').and_then(|pointer| self.root.pointer(&unescaped(pointer)))
    }

    /// How often each child of a value is held against schemas that recur, by the child's name (`*` for unnamed ones).
    fn slots(&mut self, node: &'a Value, slots: &mut HashMap<&'a str, u32>, depth: usize) {
        let Value::Object(map) = node else { return };
        // The weight of combinators is bounded; their depth as well.
        self.work += 1;
        if depth > 200 || self.work > WORK_MAX {
            return;
        }
        for (key, value) in map {
            match (key.as_str(), value) {
                ("allOf" | "anyOf" | "oneOf", Value::Array(list)) => list.iter().for_each(|node| self.slots(node, slots, depth + 1)),
                ("not" | "if" | "then" | "else", node) => self.slots(node, slots, depth + 1),
                ("$ref", Value::String(reference)) => {
                    if let Some(node) = self.target(reference) {
                        self.slots(node, slots, depth + 1);
                    }
                }
                ("properties" | "patternProperties", Value::Object(children)) => {
                    for (name, child) in children {
                        let name = if key == "properties" { name.as_str() } else { "*" };
                        *slots.entry(name).or_default() += u32::from(self.recurs(child));
                    }
                }
                (
                    "items" | "additionalProperties" | "unevaluatedProperties" | "unevaluatedItems" | "contains" | "additionalItems",
                    child,
                ) => {
                    *slots.entry("*").or_default() += u32::from(self.recurs(child));
                }
                _ => {}
            }
        }
    }

    /// A circle of references can be reached from here.
    fn recurs(&mut self, from: &'a Value) -> bool {
        if let Some(known) = self.cyclic.get(&std::ptr::from_ref(from)) {
            return *known;
        }
        let mut open = HashSet::new();
        let mut done = HashSet::new();
        let found = self.circle(from, &mut open, &mut done, 0);
        self.cyclic.insert(from, found);
        found
    }

    fn circle(&self, node: &'a Value, open: &mut HashSet<*const Value>, done: &mut HashSet<*const Value>, depth: usize) -> bool {
        let id = std::ptr::from_ref(node);
        if open.contains(&id) || depth > 2000 {
            return true;
        }
        if !done.insert(id) {
            return false;
        }
        open.insert(id);
        let found = match node {
            Value::Object(map) => map.iter().any(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => self.target(reference).is_some_and(|node| self.circle(node, open, done, depth + 1)),
                (_, Value::Object(_) | Value::Array(_)) => self.circle(value, open, done, depth + 1),
                _ => false,
            }),
            Value::Array(list) => list.iter().any(|node| self.circle(node, open, done, depth + 1)),
            _ => false,
        };
        open.remove(&id);
        found
    }
}

/// The value has more than `levels` levels of containers.
fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        // Deeper than this nothing is parsed.
        _ if levels >= 128 => false,
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(list) => list.iter().any(|value| is_deeper(value, levels - 1)),
        Value::Object(map) => map.values().any(|value| is_deeper(value, levels - 1)),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!(7), |inner, _| json!({"x": inner}))
    }

    #[test]
    fn bombs_are_refused_or_bounded() {
        // Doubling references: 2^40 checks of one value.
        let defs: serde_json::Map<String, Value> = (0..40)
            .map(|n| {
                (format!("a{n}"), json!({"allOf": [{"$ref": format!("#/$defs/a{}", n + 1)}, {"$ref": format!("#/$defs/a{}", n + 1)}]}))
            })
            .chain([("a40".to_owned(), json!({"type": "string"}))])
            .collect();
        assert!(Schema::compile(&json!({"$ref": "#/$defs/a0", "$defs": defs}).to_string()).is_err());
        for endless in [
            json!({"$ref": "#"}),
            json!({"anyOf": [{"$ref": "#"}, {"type": "string"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ] {
            assert!(Schema::compile(&endless.to_string()).is_err(), "{endless}");
        }
        assert!(Schema::compile(r#"{"pattern": "((a{100}){100}){100}"}"#).is_err());
        assert!(Schema::compile(&format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000))).is_err());
    }

    #[test]
    fn recursion_that_doubles_is_bounded_by_depth() {
        let doubling = json!({"type": "object", "properties": {"x": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}});
        let schema = Schema::compile(&doubling.to_string()).unwrap();
        for depth in [3, 60, 120] {
            assert!(!schema.fits(&nested(depth)), "depth {depth}");
            assert!(!schema.errors(&nested(depth)).is_empty());
        }
        let plain = Schema::compile(r##"{"type": ["object", "integer"], "properties": {"x": {"$ref": "#"}}}"##).unwrap();
        assert!(plain.fits(&nested(120)));
    }

    #[test]
    fn nothing_is_fetched_and_names_nobody_knows_are_read_as_2020_12() {
        let remote = Schema::compile(r#"{"$ref": "http://127.0.0.1:1/schema.json"}"#).unwrap_err();
        assert!(remote.contains("127.0.0.1"), "{remote}");
        let schema = Schema::compile(r#"{"$schema": "https://example.org/mine", "prefixItems": [{"type": "string"}]}"#).unwrap();
        assert!(!schema.fits(&json!([1])));
        let draft4 =
            Schema::compile(r#"{"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": true}"#).unwrap();
        assert!(!draft4.fits(&json!(1)) && draft4.fits(&json!(2)));
    }

    #[test]
    fn a_pattern_that_backtracks_ends() {
        let schema = Schema::compile(r#"{"pattern": "^(?=a)(a+)+$"}"#).unwrap();
        assert!(!schema.fits(&json!(format!("{}b", "a".repeat(5000)))));
    }

    #[test]
    fn errors_name_their_place() {
        let schema = Schema::compile(r#"{"properties": {"a": {"items": {"type": "integer"}}}, "required": ["b"]}"#).unwrap();
        let errors = schema.errors(&json!({"a": [1, "x"]}));
        assert!(
            errors.iter().any(|error| error.starts_with("/a/1: ")) && errors.iter().any(|error| error.starts_with("(root): ")),
            "{errors:?}"
        );
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let cache = SchemaCache::new(2);
        let text = |n: usize| format!(r#"{{"minLength": {n}}}"#);
        let first = cache.get(&text(0)).unwrap();
        for n in 1..10 {
            cache.get(&text(n)).unwrap();
            assert!(Arc::ptr_eq(&first, &cache.get(&text(0)).unwrap()));
        }
        assert_eq!(cache.len(), 2);
    }
}
