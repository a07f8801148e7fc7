//! Reads an answer while it is written: text is text, calls become OpenAI's pieces.

use super::Style;

/// What the answer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Text(String),
    /// A call begins; its index counts from 0.
    Call {
        index: u32,
        name: String,
    },
    /// More of the arguments' JSON text.
    Arguments {
        index: u32,
        text: String,
    },
}

/// The state between two pieces of text.
#[derive(Debug)]
pub struct Reader {
    style: Style,
    /// Tools that may be called; in the `Bare` style any other object is an answer.
    names: Vec<String>,
    state: State,
    /// Text not decided yet.
    held: String,
    calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before any call. `fresh`: nothing but white space has come.
    Text { fresh: bool },
    /// Behind the opening, before or inside a call's object, whose arguments have not begun.
    Object,
    /// Inside the arguments.
    Arguments(Scan),
    /// Behind the arguments, up to the end of the call.
    Rest(Scan),
}

/// Where we are in a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// True when the byte closes the outermost bracket.
    fn closes(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Where the value that `text` begins with ends.
    fn end(text: &str) -> Option<usize> {
        let mut scan = Self::default();
        text.bytes().position(|byte| scan.closes(byte)).map(|at| at + 1)
    }
}

impl Reader {
    #[must_use]
    pub fn new(style: Style, names: Vec<String>) -> Self {
        Self { style, names, state: State::Text { fresh: true }, held: String::new(), calls: 0 }
    }

    /// Calls seen so far.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// More of the answer.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        self.held.push_str(text);
        let mut said = Vec::new();
        while self.step(&mut said) {}
        said
    }

    /// The answer's end: what was held back in vain is text.
    pub fn finish(&mut self) -> Vec<Said> {
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Object if self.style != Style::Bare && !rest.trim().is_empty() => {
                vec![Said::Text(format!("{}{rest}", self.style.opening()))]
            }
            State::Object if !rest.is_empty() && self.style == Style::Bare => vec![Said::Text(rest)],
            // White space around calls belongs to nobody.
            State::Text { .. } if self.calls > 0 && rest.trim().is_empty() => Vec::new(),
            State::Text { .. } if !rest.is_empty() => vec![Said::Text(rest)],
            _ => Vec::new(),
        }
    }

    /// One move; false when more text is needed.
    fn step(&mut self, said: &mut Vec<Said>) -> bool {
        match self.state {
            State::Text { fresh } => self.text(fresh, said),
            State::Object => self.object(said),
            State::Arguments(scan) => self.arguments(scan, said),
            State::Rest(scan) => self.rest(scan),
        }
    }

    fn text(&mut self, fresh: bool, said: &mut Vec<Said>) -> bool {
        if self.style == Style::Bare {
            let start = self.held.trim_start().strip_prefix("<|python_tag|>").unwrap_or(self.held.trim_start());
            let start = if self.calls > 0 { start.trim_start_matches([';', ' ', '\n']) } else { start };
            if start.starts_with('{') && (fresh || self.calls > 0) {
                self.held = start.to_owned();
                self.state = State::Object;
                return true;
            }
            if fresh && (start.is_empty() || "<|python_tag|>".starts_with(start)) {
                return false;
            }
            return self.tell(said, self.held.len());
        }
        let opening = self.style.opening();
        if let Some(at) = self.held.find(opening) {
            let before = self.held[..at].trim_end().to_owned();
            if !before.is_empty() {
                said.push(Said::Text(before));
            }
            self.held.drain(..at + opening.len());
            self.state = State::Object;
            return true;
        }
        // Held back: what may be the opening, and white space, which is dropped before a call.
        let tail = (1..opening.len()).rev().find(|n| self.held.ends_with(&opening[..*n])).unwrap_or(0);
        let text = self.held[..self.held.len() - tail].trim_end().len();
        self.tell(said, text)
    }

    fn tell(&mut self, said: &mut Vec<Said>, length: usize) -> bool {
        if length > 0 {
            let rest = self.held.split_off(length);
            said.push(Said::Text(std::mem::replace(&mut self.held, rest)));
            self.state = State::Text { fresh: false };
        }
        false
    }

    fn object(&mut self, said: &mut Vec<Said>) -> bool {
        let start = self.held.trim_start_matches([' ', '\n', '\r', '\t', '[', ',']);
        self.held.drain(..self.held.len() - start.len());
        if self.held.is_empty() {
            return false;
        }
        if !self.held.starts_with('{') {
            // Not a call after all, or the list's end.
            self.state = State::Text { fresh: false };
            if self.held.starts_with(']') {
                self.held.remove(0);
                return !self.held.is_empty();
            }
            return true;
        }
        if let Some((name, at)) = header(&self.held, self.style.arguments_key())
            && self.known(&name)
        {
            said.push(Said::Call { index: self.calls, name });
            self.calls += 1;
            self.held.drain(..at);
            self.state = State::Arguments(Scan::default());
            return true;
        }
        match Scan::end(&self.held) {
            None => false,
            Some(end) => self.whole_object(end, said),
        }
    }

    /// An object whose keys come in another order, or that is no call.
    fn whole_object(&mut self, end: usize, said: &mut Vec<Said>) -> bool {
        let text: String = self.held.drain(..end).collect();
        let object = serde_json::from_str::<serde_json::Value>(&text).ok();
        let name = object.as_ref().and_then(|object| object.get("name")?.as_str()).map(str::to_owned);
        match name.filter(|name| self.known(name)) {
            Some(name) => {
                let arguments = object.as_ref().and_then(|object| object.get("arguments").or_else(|| object.get("parameters")));
                let arguments = arguments.map_or_else(|| "{}".to_owned(), ToString::to_string);
                said.push(Said::Call { index: self.calls, name });
                said.push(Said::Arguments { index: self.calls, text: arguments });
                self.calls += 1;
                self.state = State::Rest(Scan::default());
            }
            None => {
                let opening = self.style.opening();
                said.push(Said::Text(format!("{opening}{text}")));
                self.state = State::Text { fresh: false };
            }
        }
        !self.held.is_empty()
    }

    fn known(&self, name: &str) -> bool {
        self.style != Style::Bare || self.names.iter().any(|known| known == name)
    }

    fn arguments(&mut self, mut scan: Scan, said: &mut Vec<Said>) -> bool {
        let end = self.held.bytes().position(|byte| scan.closes(byte)).map(|at| at + 1);
        let text: String = self.held.drain(..end.unwrap_or(self.held.len())).collect();
        if !text.is_empty() {
            said.push(Said::Arguments { index: self.calls - 1, text });
        }
        // The object around the arguments is still open.
        self.state = if end.is_some() { State::Rest(Scan { depth: 1, ..Scan::default() }) } else { State::Arguments(scan) };
        end.is_some()
    }

    fn rest(&mut self, mut scan: Scan) -> bool {
        if scan.depth > 0 {
            let Some(end) = self.held.bytes().position(|byte| scan.closes(byte)) else {
                self.held.clear();
                self.state = State::Rest(scan);
                return false;
            };
            self.held.drain(..=end);
            self.state = State::Rest(Scan::default());
        }
        match self.style {
            Style::Bare => self.state = State::Text { fresh: true },
            Style::Listed => {
                let start = self.held.trim_start();
                if start.is_empty() {
                    return false;
                }
                self.state = if start.starts_with(',') { State::Object } else { State::Text { fresh: false } };
                self.held = start.strip_prefix(']').unwrap_or(start).to_owned();
            }
            Style::Tagged => {
                const CLOSING: &str = "</tool_call>";
                let start = self.held.trim_start();
                if start.len() < CLOSING.len() && CLOSING.starts_with(start) {
                    return false;
                }
                self.held = start.strip_prefix(CLOSING).unwrap_or(start).to_owned();
                self.state = State::Text { fresh: false };
            }
        }
        !self.held.is_empty()
    }
}

/// The name and the place of the arguments' opening bracket, if the object begins in the usual order.
fn header(text: &str, arguments: &str) -> Option<(String, usize)> {
    let after = |text: &'_ str, want: &str| -> Option<usize> {
        let start = text.trim_start();
        start.starts_with(want).then(|| text.len() - start.len() + want.len())
    };
    let mut at = 0;
    for want in ["{", "\"name\"", ":"] {
        at += after(&text[at..], want)?;
    }
    at += text[at..].len() - text[at..].trim_start().len();
    let mut names = serde_json::Deserializer::from_str(&text[at..]).into_iter::<String>();
    let name = names.next()?.ok()?;
    at += names.byte_offset();
    let key = format!("\"{arguments}\"");
    for want in [",", key.as_str(), ":"] {
        at += after(&text[at..], want)?;
    }
    let bracket = after(&text[at..], "{")?;
    Some((name, at + bracket - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text, and each call as `name(arguments)`; the same wherever the answer is split.
    fn check(style: Style, answer: &str, text: &str, calls: &[&str]) {
        let boundaries: Vec<usize> = (0..=answer.len()).filter(|at| answer.is_char_boundary(*at)).collect();
        for split in &boundaries {
            assert_eq!(
                read(style, &[&answer[..*split], &answer[*split..]]),
                (text.to_owned(), calls.iter().map(ToString::to_string).collect()),
                "{answer} at {split}"
            );
        }
        let letters: Vec<&str> = boundaries.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
        assert_eq!(read(style, &letters), (text.to_owned(), calls.iter().map(ToString::to_string).collect()), "{answer} by letter");
    }

    fn read(style: Style, pieces: &[&str]) -> (String, Vec<String>) {
        let mut reader = Reader::new(style, vec!["f".into(), "g".into()]);
        let mut said: Vec<Said> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
        said.extend(reader.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for said in said {
            match said {
                Said::Text(more) => text.push_str(&more),
                Said::Call { name, index } => {
                    assert_eq!(index as usize, calls.len());
                    calls.push(format!("{name}("));
                }
                Said::Arguments { index, text } => calls[index as usize].push_str(&text),
            }
        }
        (text, calls.into_iter().map(|call| call + ")").collect())
    }

    #[test]
    fn tagged_calls() {
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}é\", \"b\": [1]}}\n</tool_call>";
        check(Style::Tagged, call, "", &[r#"f({"a": "}é", "b": [1]})"#]);
        check(
            Style::Tagged,
            &format!("Let me see.\n\n{call}\n{call}"),
            "Let me see.",
            &[r#"f({"a": "}é", "b": [1]})"#, r#"f({"a": "}é", "b": [1]})"#],
        );
        check(Style::Tagged, "a < b and <tool kit>\n", "a < b and <tool kit>\n", &[]);
        check(Style::Tagged, r#"<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>"#, "", &[r#"g({"x":1})"#]);
        check(Style::Tagged, r#"<tool_call>{"name": "f", "arguments": {"x": "cut"#, "", &[r#"f({"x": "cut)"#]);
        check(Style::Tagged, r#"<tool_call>{"nam"#, r#"<tool_call>{"nam"#, &[]);
    }

    #[test]
    fn listed_calls() {
        check(
            Style::Listed,
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}, {"name": "g", "arguments": {}}]"#,
            "",
            &[r#"f({"a": 1})"#, "g({})"],
        );
        check(Style::Listed, r#"[TOOL_CALLS][{"name": "f", "arguments": {"a": "[]"}}]"#, "", &[r#"f({"a": "[]"})"#]);
        check(Style::Listed, "[TOO] short", "[TOO] short", &[]);
    }

    #[test]
    fn bare_calls() {
        check(Style::Bare, r#"{"name": "f", "parameters": {"a": 1}}"#, "", &[r#"f({"a": 1})"#]);
        check(Style::Bare, r#"<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}"#, "", &["f({})", "g({})"]);
        check(Style::Bare, r#"{"name": "Ann", "age": 3}"#, r#"{"name": "Ann", "age": 3}"#, &[]);
        check(Style::Bare, r#"It is {"name": "f", "parameters": {}}"#, r#"It is {"name": "f", "parameters": {}}"#, &[]);
    }
}
