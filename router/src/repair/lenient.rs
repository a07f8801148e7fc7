//! One value, read with the habits of models and written as JSON: spans are copied, only what is wrong is spliced.

use super::strings::{self, Quote};
use super::{Stage, Why};

/// Deeper than this nobody nests on purpose.
const DEPTH_MAX: usize = 512;

/// A value that was read to its end, or to the text's.
#[derive(Debug)]
pub(super) struct Found {
    /// Offset behind it.
    pub end: usize,
    /// Its JSON.
    pub text: String,
    pub stages: Vec<Stage>,
    /// Brackets that were still open when the text ended; closed in `text`.
    pub missing: usize,
    /// Something speaks for missing content, not only missing brackets.
    pub lacking: bool,
}

/// Why a value could not be read.
#[derive(Debug)]
pub(super) enum Stop {
    /// The text ends before the content does.
    Cut {
        at: usize,
    },
    Declined {
        at: usize,
        why: Why,
    },
}

/// Reads the object or array that opens at `start`.
///
/// # Errors
/// `Cut` where content is missing at the end, `Declined` where there is more than one reading or none.
pub(super) fn value(text: &str, start: usize) -> Result<Found, Stop> {
    let mut mender = Mender::new(text, start);
    loop {
        mender.blanks()?;
        if mender.at_end() {
            return mender.ended();
        }
        match mender.expect {
            Expect::Value | Expect::First => mender.value()?,
            Expect::Key | Expect::FirstKey => mender.key()?,
            Expect::Colon => mender.colon()?,
            Expect::After => mender.after()?,
        }
        if mender.frames.is_empty() {
            return Ok(mender.found(0, false));
        }
    }
}

/// True where a text at this place has come to an end: a closing fence or a model's end token.
pub(super) fn ends_here(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with("```") || super::peel::end_token(rest).is_some()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    First,
    Key,
    FirstKey,
    Colon,
    After,
}

/// An open bracket.
#[derive(Debug)]
struct Frame {
    object: bool,
    /// Hashes of the keys of an object.
    keys: Vec<u64>,
    /// Keys that all finished objects of an array have.
    shared: Option<Vec<u64>>,
}

struct Mender<'a> {
    text: &'a str,
    at: usize,
    out: String,
    stages: Vec<Stage>,
    frames: Vec<Frame>,
    expect: Expect,
    /// Where in `out` the last value ended: a missing comma belongs there.
    value_end: usize,
    /// Where in `out` a comma stands that nothing has followed yet.
    comma: Option<usize>,
    /// The last value read and whether a line break followed it.
    last: Last,
    broke: bool,
    python: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    String,
    Number,
    Word,
    Container,
}

impl<'a> Mender<'a> {
    fn new(text: &'a str, start: usize) -> Self {
        let python = text[start..].trim_start_matches(['{', '[', ' ', '\n', '\r', '\t']).starts_with('\'');
        Self {
            text,
            at: start,
            out: String::with_capacity(text.len() - start),
            stages: Vec::new(),
            frames: Vec::new(),
            expect: Expect::Value,
            value_end: 0,
            comma: None,
            last: Last::Container,
            broke: false,
            python,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn at_end(&self) -> bool {
        ends_here(self.rest())
    }

    fn declined<T>(&self, why: &'static str) -> Result<T, Stop> {
        Err(Stop::Declined { at: self.at, why: Why::Ambiguous(why) })
    }

    fn stage(&mut self, stage: Stage) {
        if !self.stages.contains(&stage) {
            self.stages.push(stage);
        }
    }

    /// Copies blanks, drops comments, replaces odd blanks.
    fn blanks(&mut self) -> Result<(), Stop> {
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Ok(()) };
            match first {
                ' ' | '\t' | '\n' | '\r' => {
                    self.broke |= first == '\n';
                    self.out.push(first);
                    self.at += 1;
                }
                '\\' if rest[1..].starts_with(['n', 'r', 't']) => {
                    self.broke |= rest.as_bytes()[1] == b'n';
                    self.stage(Stage::Escapes);
                    self.out.push(' ');
                    self.at += 2;
                }
                odd if is_odd_blank(odd) => {
                    self.stage(Stage::OddBlanks);
                    self.out.push(' ');
                    self.at += odd.len_utf8();
                }
                '/' | '#' => {
                    let Some(length) = comment(rest) else { return Ok(()) };
                    if elides(&rest[..length]) {
                        return Err(Stop::Declined { at: self.at, why: Why::Elided });
                    }
                    self.stage(Stage::Comments);
                    self.broke |= rest[..length].contains('\n');
                    self.at += length;
                }
                '.' if rest.starts_with("...") => return Err(Stop::Declined { at: self.at, why: Why::Elided }),
                '…' => return Err(Stop::Declined { at: self.at, why: Why::Elided }),
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or('\0');
        match first {
            '{' | '[' => self.open(first == '{'),
            ']' | '}' if self.expect == Expect::First || (self.comma.is_some() && !self.in_object()) => self.close(first == '}'),
            ',' | '，' if self.expect == Expect::First => self.stray_comma(first),
            '-' | '+' | '.' | '0'..='9' => self.number(),
            _ => match Quote::opening(rest) {
                Some(quote) => self.string(quote, false),
                None => self.word(),
            },
        }
    }

    fn open(&mut self, object: bool) -> Result<(), Stop> {
        if self.frames.len() == DEPTH_MAX {
            return Err(Stop::Declined { at: self.at, why: Why::TooDeep });
        }
        self.out.push(if object { '{' } else { '[' });
        self.at += 1;
        self.comma = None;
        self.frames.push(Frame { object, keys: Vec::new(), shared: None });
        self.expect = if object { Expect::FirstKey } else { Expect::First };
        Ok(())
    }

    fn close(&mut self, object: bool) -> Result<(), Stop> {
        if self.in_object() != object {
            return self.declined("closing bracket does not match");
        }
        if let Some(comma) = self.comma.take() {
            self.out.remove(comma);
            self.stage(Stage::StrayComma);
        }
        self.out.push(if object { '}' } else { ']' });
        self.at += 1;
        self.pop();
        self.valued(Last::Container);
        Ok(())
    }

    /// Leaves a container; its keys are remembered by the array around it.
    fn pop(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        if let Some(outer) = self.frames.last_mut().filter(|outer| !outer.object && frame.object) {
            match &mut outer.shared {
                Some(shared) => shared.retain(|key| frame.keys.contains(key)),
                none => *none = Some(frame.keys),
            }
        }
    }

    fn valued(&mut self, last: Last) {
        self.value_end = self.out.len();
        self.last = last;
        self.broke = false;
        self.comma = None;
        self.expect = Expect::After;
    }

    fn in_object(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.object)
    }

    fn stray_comma(&mut self, comma: char) -> Result<(), Stop> {
        self.at += comma.len_utf8();
        self.blanks()?;
        if self.rest().starts_with([',', '，', ']', '}']) {
            return self.declined("commas with nothing between them");
        }
        self.stage(Stage::StrayComma);
        Ok(())
    }

    fn key(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or('\0');
        match first {
            '}' | ']' if self.expect == Expect::FirstKey || self.comma.is_some() => return self.close(first == '}'),
            ',' | '，' if self.expect == Expect::FirstKey => return self.stray_comma(first),
            ',' | '，' => return self.declined("commas with nothing between them"),
            _ => {}
        }
        if let Some(quote) = Quote::opening(rest) {
            return self.string(quote, true);
        }
        let Some(length) = bare_key(rest) else {
            return if cut_word(rest) { Err(Stop::Cut { at: self.at }) } else { self.declined("expected a key") };
        };
        self.stage(Stage::UnquotedKeys);
        self.remember(&rest[..length]);
        self.out.push('"');
        self.out.push_str(&rest[..length]);
        self.out.push('"');
        self.at += length;
        self.comma = None;
        self.expect = Expect::Colon;
        Ok(())
    }

    fn remember(&mut self, key: &str) {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        if let Some(frame) = self.frames.last_mut() {
            frame.keys.push(hasher.finish());
        }
    }

    fn string(&mut self, quote: Quote, key: bool) -> Result<(), Stop> {
        let begin = self.out.len();
        let read = strings::string(self.text, self.at, quote, self.python, &mut self.out)?;
        for stage in read.stages {
            self.stage(stage);
        }
        self.at = read.end;
        if key {
            let spelled = self.out[begin + 1..self.out.len() - 1].to_owned();
            self.remember(&spelled);
            self.comma = None;
            self.expect = Expect::Colon;
        } else {
            self.valued(Last::String);
        }
        Ok(())
    }

    fn colon(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        if rest.starts_with(':') {
            self.at += 1;
        } else if rest.starts_with('：') {
            self.stage(Stage::OddBlanks);
            self.at += '：'.len_utf8();
        } else {
            return self.declined("expected a colon after the key");
        }
        self.out.push(':');
        self.expect = Expect::Value;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
        let token = &rest[..length];
        match number(token) {
            // A number that ends with the text may have had more digits; one that is malformed for it surely had.
            Some(spelled) if spelled != token && length == rest.len() => Err(Stop::Cut { at: self.at }),
            Some(spelled) => {
                if spelled != token {
                    self.stage(Stage::Numbers);
                }
                self.out.push_str(&spelled);
                self.at += length;
                self.valued(Last::Number);
                Ok(())
            }
            None if length == rest.len() => Err(Stop::Cut { at: self.at }),
            None => self.declined("malformed number"),
        }
    }

    fn word(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
        let word = &rest[..length];
        let (spelled, stage) = match word {
            "true" | "false" | "null" => (word, None),
            "True" | "TRUE" => ("true", Some(Stage::Literals)),
            "False" | "FALSE" => ("false", Some(Stage::Literals)),
            "None" | "NULL" | "Null" => ("null", Some(Stage::Literals)),
            _ if cut_word(rest) => return Err(Stop::Cut { at: self.at }),
            _ => return self.declined("expected a value"),
        };
        if let Some(stage) = stage {
            self.stage(stage);
        }
        self.out.push_str(spelled);
        self.at += length;
        self.valued(Last::Word);
        Ok(())
    }

    fn after(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        let first = rest.chars().next().unwrap_or('\0');
        match first {
            ',' | '，' => {
                if first != ',' {
                    self.stage(Stage::OddBlanks);
                }
                self.comma = Some(self.out.len());
                self.out.push(',');
                self.at += first.len_utf8();
                self.expect = if self.in_object() { Expect::Key } else { Expect::Value };
                Ok(())
            }
            '}' | ']' => self.close(first == '}'),
            _ => self.missing_comma(rest, first),
        }
    }

    /// Two members with no comma between them, where nothing else can be meant.
    fn missing_comma(&mut self, rest: &str, first: char) -> Result<(), Stop> {
        let gap = self.out.len() > self.value_end;
        let sure = if self.in_object() {
            // Two quotes in a row may also be quotes inside a string.
            (gap || self.last != Last::String) && key_follows(rest)
        } else {
            match (self.last, first) {
                (_, '{' | '[') | (Last::Container, _) => Quote::opening(rest).is_some() || "{[".contains(first) || value_starts(rest),
                // In Python two strings in a row are one.
                (Last::String, _) if Quote::opening(rest).is_some() => self.broke && first == '"' && !self.python,
                (Last::Number, '-' | '+' | '0'..='9') => self.broke,
                _ => gap && (Quote::opening(rest).is_some() || value_starts(rest)),
            }
        };
        let unfinished = Quote::opening(rest)
            .is_some_and(|quote| matches!(strings::string(rest, 0, quote, self.python, &mut String::new()), Err(Stop::Cut { .. })));
        if !sure {
            return if gap && (cut_word(rest) || unfinished) {
                Err(Stop::Cut { at: self.at })
            } else {
                self.declined("expected a comma or a closing bracket")
            };
        }
        self.out.insert(self.value_end, ',');
        self.stage(Stage::MissingComma);
        self.expect = if self.in_object() { Expect::Key } else { Expect::Value };
        Ok(())
    }

    /// The text is over; what is open is closed if only brackets are missing.
    fn ended(mut self) -> Result<Found, Stop> {
        if self.expect != Expect::After {
            return Err(Stop::Cut { at: self.at });
        }
        let pretty = self.text[..self.at].trim_end().contains('\n') && self.out.contains("\n ");
        let missing = self.frames.len();
        // A line begun behind a member, for a bracket that did not come: the layout breaks off, so more than brackets may be missing.
        let begun = missing >= 2 && self.rest().is_empty() && self.out[self.value_end..].contains('\n');
        let lacking = self.lacks_keys() || (pretty && missing >= 3) || begun;
        self.out.truncate(self.out.trim_end().len());
        let closers: String = self.frames.iter().rev().map(|frame| if frame.object { '}' } else { ']' }).collect();
        self.out.push_str(&closers);
        Ok(self.found(missing, lacking))
    }

    /// An open object in an array lacks keys that all its finished siblings have.
    fn lacks_keys(&self) -> bool {
        self.frames.windows(2).any(|pair| {
            let (outer, inner) = (&pair[0], &pair[1]);
            let shared = outer.shared.as_deref().unwrap_or_default();
            !outer.object && inner.object && shared.iter().any(|key| !inner.keys.contains(key))
        })
    }

    fn found(self, missing: usize, lacking: bool) -> Found {
        let mut stages = self.stages;
        if missing > 0 {
            stages.push(Stage::MissingClosers);
        }
        Found { end: self.at, text: self.out, stages, missing, lacking }
    }
}

pub(super) fn is_odd_blank(c: char) -> bool {
    matches!(
        c,
        '\u{b}' | '\u{c}' | '\u{85}' | '\u{a0}' | '\u{1680}' | '\u{180e}' | '\u{2000}'
            ..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{2060}' | '\u{3000}' | '\u{feff}'
    )
}

/// Length of the comment that `rest` starts with, without the line break that ends it.
pub(super) fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("/*") {
        return rest.find("*/").map(|end| end + 2);
    }
    (rest.starts_with("//") || rest.starts_with('#')).then(|| rest.find('\n').unwrap_or(rest.len()))
}

/// A comment that says that members were left out.
fn elides(comment: &str) -> bool {
    if comment.contains("...") || comment.contains('…') {
        return true;
    }
    let words = comment.to_ascii_lowercase();
    let said = [
        "rest of",
        "the rest",
        "remaining",
        "omitted",
        "truncated",
        "and so on",
        "same as",
        "similar",
        "repeat for",
        "etc",
        "abbreviated",
        "continue",
        "the others",
        "unchanged",
        "add more",
        "and more",
        "more here",
        "goes here",
        "go here",
        "add your",
        "todo: add",
        "not shown",
        "left out",
        "as above",
        "as before",
        "see above",
        "snip",
    ];
    let more = ["more ", "other ", "additional "];
    let things = ["item", "entr", "element", "field", "file", "object", "row", "record", "propert", "key", "value", "user", "data"];
    said.iter().any(|phrase| words.contains(phrase))
        || more.iter().any(|more| words.find(more).is_some_and(|at| things.iter().any(|thing| words[at..].contains(thing))))
}

/// Length of an unquoted key that a colon follows.
pub(super) fn bare_key(rest: &str) -> Option<usize> {
    let length = rest.find(|c: char| !(c.is_alphanumeric() || "_$-.".contains(c))).unwrap_or(rest.len());
    let behind = rest[length..].trim_start();
    let starts = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
    (length > 0 && starts && behind.starts_with([':', '：']) && !behind.starts_with("://")).then_some(length)
}

/// A key, quoted or not, and its colon stand here.
fn key_follows(rest: &str) -> bool {
    if let Some(quote) = Quote::opening(rest) {
        let mut scratch = String::new();
        return strings::string(rest, 0, quote, true, &mut scratch)
            .is_ok_and(|read| rest[read.end..].trim_start().starts_with([':', '：']) && !scratch.contains("\\n"));
    }
    bare_key(rest).is_some()
}

/// A number or a literal word stands here, whole.
fn value_starts(rest: &str) -> bool {
    let length = rest.find(|c: char| !(c.is_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
    let token = &rest[..length];
    matches!(token, "true" | "false" | "null" | "True" | "False" | "None") || number(token).is_some_and(|spelled| spelled == token)
}

/// The text breaks off inside a word that stands here.
fn cut_word(rest: &str) -> bool {
    let word = rest.trim_end();
    !word.is_empty() && word.len() <= 64 && word.chars().all(|c| c.is_alphanumeric() || "_$-".contains(c))
}

/// The JSON spelling of a number: its own, or JSON5's with the missing zero.
fn number(token: &str) -> Option<String> {
    let unsigned = token.strip_prefix('+').unwrap_or(token);
    let mut spelled = unsigned.to_owned();
    if let Some(dot) = unsigned.find('.') {
        let digit = |at: Option<usize>| at.and_then(|at| unsigned.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
        if !digit(Some(dot + 1)) && digit(dot.checked_sub(1)) {
            spelled.insert(dot + 1, '0');
        }
        if !digit(dot.checked_sub(1)) && digit(Some(dot + 1)) {
            spelled.insert(dot, '0');
        }
    }
    let starts = spelled.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    (starts && crate::verify::json::Scan::whole(&spelled).is_ok()).then_some(spelled)
}
