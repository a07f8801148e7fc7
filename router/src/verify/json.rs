//! Is this text JSON so far? An RFC 8259 check that reads every byte once, in whatever pieces they come.

use memchr::memchr2;

/// Where a text stands after the bytes seen so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A prefix of some JSON text; nothing is wrong yet.
    Open,
    /// One whole value (a number at the root may still grow).
    Complete,
    /// Never JSON, whatever follows.
    Broken { at: usize, why: &'static str },
}

/// The incremental check. It keeps one bit a nesting level and nothing of the text.
#[derive(Clone, Debug)]
pub struct Scan {
    state: State,
    stack: Nesting,
    /// Bytes seen.
    at: usize,
    /// Length of the run of blanks outside strings that ends here, in bytes.
    blank: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// After `[`: a value or `]`.
    First,
    /// After `{`: a key or `}`.
    FirstKey,
    /// After a comma in an object.
    Key,
    Colon,
    /// After a value inside a container.
    After,
    String {
        key: bool,
    },
    Escape {
        key: bool,
    },
    Hex {
        key: bool,
        left: u8,
    },
    Number(Number),
    Literal {
        word: &'static [u8],
        next: usize,
    },
    Done,
    Broken {
        at: usize,
        why: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Dot,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Default for Scan {
    fn default() -> Self {
        Self { state: State::Value, stack: Nesting::default(), at: 0, blank: 0 }
    }
}

impl Scan {
    /// Checks a whole text.
    ///
    /// # Errors
    /// The offset of the first byte that cannot be JSON (the text's length if it merely ends too early) and why.
    pub fn whole(text: &str) -> Result<(), (usize, &'static str)> {
        let mut scan = Self::default();
        scan.push(text);
        match scan.end() {
            Progress::Complete => Ok(()),
            Progress::Broken { at, why } => Err((at, why)),
            Progress::Open => Err((text.len(), "ends too early")),
        }
    }

    /// Reads on.
    pub fn push(&mut self, text: &str) -> Progress {
        let bytes = text.as_bytes();
        let mut from = 0;
        while from < bytes.len() {
            if let State::String { key } = self.state {
                from += self.string(&bytes[from..], key);
            } else if matches!(self.state, State::Broken { .. }) {
                break;
            } else {
                self.byte(bytes[from]);
                self.at += 1;
                from += 1;
            }
        }
        self.progress()
    }

    /// The verdict if nothing more comes.
    #[must_use]
    pub fn end(&self) -> Progress {
        match self.state {
            State::Number(Number::Zero | Number::Integer | Number::Fraction | Number::Exponent) if self.stack.depth == 0 => {
                Progress::Complete
            }
            _ => self.progress(),
        }
    }

    /// Blanks outside strings at the end of what was read, in bytes: a constrained model that has lost its way prints them for ever.
    #[must_use]
    pub fn blank_run(&self) -> usize {
        self.blank
    }

    fn progress(&self) -> Progress {
        match self.state {
            State::Done => Progress::Complete,
            State::Broken { at, why } => Progress::Broken { at, why },
            _ => Progress::Open,
        }
    }

    /// The inside of a string, up to and with its end; answers the number of bytes read.
    fn string(&mut self, bytes: &[u8], key: bool) -> usize {
        let end = memchr2(b'"', b'\\', bytes);
        let plain = &bytes[..end.unwrap_or(bytes.len())];
        if let Some(control) = plain.iter().position(|byte| *byte < 0x20) {
            self.state = State::Broken { at: self.at + control, why: "control character in a string" };
            self.at += bytes.len();
            return bytes.len();
        }
        match end {
            None => {
                self.at += bytes.len();
                bytes.len()
            }
            Some(end) => {
                self.at += end + 1;
                if bytes[end] == b'\\' {
                    self.state = State::Escape { key };
                } else {
                    self.state = if key { State::Colon } else { self.after_value() };
                }
                end + 1
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.blank = if blank { self.blank + 1 } else { 0 };
        match self.state {
            State::Value | State::First | State::FirstKey | State::Key | State::Colon | State::After | State::Done if blank => {}
            State::Value => self.value(byte),
            State::First if byte == b']' => self.close(false),
            State::First => self.value(byte),
            State::FirstKey if byte == b'}' => self.close(true),
            State::FirstKey | State::Key => {
                if byte == b'"' {
                    self.state = State::String { key: true };
                } else {
                    self.broken("expected a key in double quotes");
                }
            }
            State::Colon if byte == b':' => self.state = State::Value,
            State::Colon => self.broken("expected a colon after the key"),
            State::After => self.separator(byte),
            State::Escape { key } => self.escape(byte, key),
            State::Hex { key, left } if byte.is_ascii_hexdigit() => {
                self.state = if left == 1 { State::String { key } } else { State::Hex { key, left: left - 1 } };
            }
            State::Hex { .. } => self.broken("bad \\u escape"),
            State::Number(number) => self.number(number, byte),
            State::Literal { word, next } if word[next] == byte => {
                self.state = if next + 1 == word.len() { self.after_value() } else { State::Literal { word, next: next + 1 } };
            }
            State::Literal { .. } => self.broken("unknown word"),
            State::Done => self.broken("text after the end of the JSON value"),
            State::String { .. } | State::Broken { .. } => {}
        }
    }

    fn value(&mut self, byte: u8) {
        self.state = match byte {
            b'"' => State::String { key: false },
            b'{' => {
                self.stack.push(true);
                State::FirstKey
            }
            b'[' => {
                self.stack.push(false);
                State::First
            }
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            b't' => State::Literal { word: b"true", next: 1 },
            b'f' => State::Literal { word: b"false", next: 1 },
            b'n' => State::Literal { word: b"null", next: 1 },
            _ => return self.broken("expected a value"),
        };
    }

    fn separator(&mut self, byte: u8) {
        match byte {
            b',' => self.state = if self.stack.in_object() { State::Key } else { State::Value },
            b'}' | b']' => self.close(byte == b'}'),
            _ => self.broken("expected a comma or a closing bracket"),
        }
    }

    fn close(&mut self, object: bool) {
        if self.stack.in_object() == object && self.stack.pop() {
            self.state = self.after_value();
        } else {
            self.broken("closing bracket does not match");
        }
    }

    fn escape(&mut self, byte: u8, key: bool) {
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.state = State::String { key },
            b'u' => self.state = State::Hex { key, left: 4 },
            _ => self.broken("unknown escape in a string"),
        }
    }

    fn number(&mut self, number: Number, byte: u8) {
        let next = match (number, byte) {
            (Number::Minus, b'0') => Number::Zero,
            (Number::Minus, b'1'..=b'9') | (Number::Integer, b'0'..=b'9') => Number::Integer,
            (Number::Zero | Number::Integer, b'.') => Number::Dot,
            (Number::Dot | Number::Fraction, b'0'..=b'9') => Number::Fraction,
            (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::E,
            (Number::E, b'+' | b'-') => Number::Sign,
            (Number::E | Number::Sign | Number::Exponent, b'0'..=b'9') => Number::Exponent,
            (Number::Zero | Number::Integer | Number::Fraction | Number::Exponent, _) => {
                // The byte ends the number and is read again as what it is.
                self.state = self.after_value();
                return self.byte(byte);
            }
            _ => return self.broken("malformed number"),
        };
        self.state = State::Number(next);
    }

    fn after_value(&self) -> State {
        if self.stack.depth == 0 { State::Done } else { State::After }
    }

    fn broken(&mut self, why: &'static str) {
        self.state = State::Broken { at: self.at, why };
    }
}

/// One bit a level: true for an object.
#[derive(Clone, Debug, Default)]
struct Nesting {
    bits: Vec<u64>,
    depth: usize,
}

impl Nesting {
    fn push(&mut self, object: bool) {
        let (word, bit) = (self.depth / 64, self.depth % 64);
        if word == self.bits.len() {
            self.bits.push(0);
        }
        self.bits[word] = (self.bits[word] & !(1 << bit)) | (u64::from(object) << bit);
        self.depth += 1;
    }

    fn in_object(&self) -> bool {
        self.depth > 0 && self.bits[(self.depth - 1) / 64] >> ((self.depth - 1) % 64) & 1 == 1
    }

    fn pop(&mut self) -> bool {
        let some = self.depth > 0;
        self.depth = self.depth.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_grammar() {
        let good =
            ["0", "-0.5e+10", "[]", "{}", " [1 , 2]\n", r#"{"a":{"b":[true,false,null]},"c":"\u00e9\n"}"#, "12", "\"x\"", "[[[[]]]]"];
        let bad = [
            ("", 0),
            ("01", 1),
            ("[1,]", 3),
            ("{\"a\" 1}", 5),
            ("[1}", 2),
            ("{\"a\":1]", 6),
            ("tru", 3),
            ("truth", 3),
            ("\"\n\"", 1),
            ("\"\\x\"", 2),
            ("1 2", 2),
            ("]", 0),
            ("-", 1),
            ("1.", 2),
        ];
        for text in good {
            assert_eq!(Scan::whole(text), Ok(()), "{text}");
        }
        for (text, at) in bad {
            assert_eq!(Scan::whole(text).map_err(|error| error.0), Err(at), "{text}");
        }
    }

    #[test]
    fn every_split_gives_the_same() {
        let text = "{\"k\u{e9}y\": [1.5e-3, \"a\\u00e9\\\\\", true, null], \"z\": {}}";
        for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            let mut scan = Scan::default();
            scan.push(&text[..cut]);
            assert_eq!(scan.push(&text[cut..]), Progress::Complete, "cut at {cut}");
        }
    }
}
