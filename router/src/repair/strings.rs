//! Strings in every quotation a model uses, turned into JSON strings with the same characters.

use super::lenient::Stop;
use super::{Stage, Why};

/// A string read: its JSON spelling was appended to `out`.
#[derive(Debug)]
pub(super) struct Read {
    /// Offset behind the closing quote.
    pub end: usize,
    pub stages: Vec<Stage>,
}

/// The quotation marks that may open a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quote {
    Double,
    Single,
    SmartDouble,
    SmartSingle,
    Backtick,
    TripleDouble,
    TripleSingle,
}

impl Quote {
    /// The quotation that opens at the start of `rest`.
    pub(super) fn opening(rest: &str) -> Option<Self> {
        if rest.starts_with("\"\"\"") {
            return Some(Self::TripleDouble);
        }
        if rest.starts_with("'''") {
            return Some(Self::TripleSingle);
        }
        match rest.chars().next()? {
            '"' => Some(Self::Double),
            '\'' => Some(Self::Single),
            '“' | '”' | '„' | '‟' | '″' | '＂' => Some(Self::SmartDouble),
            '‘' | '’' | '‚' | '‛' | '′' | '＇' => Some(Self::SmartSingle),
            '`' if !rest.starts_with("```") => Some(Self::Backtick),
            _ => None,
        }
    }

    fn closes(self, mark: char) -> bool {
        match self {
            Self::Double => mark == '"',
            Self::Single => mark == '\'',
            Self::SmartDouble => matches!(mark, '“' | '”' | '‟' | '″' | '＂' | '"'),
            Self::SmartSingle => matches!(mark, '‘' | '’' | '‛' | '′' | '＇' | '\''),
            Self::Backtick => mark == '`',
            Self::TripleDouble | Self::TripleSingle => false,
        }
    }
}

/// Reads the string that opens at `start` and writes it to `out` as JSON.
///
/// `python`: the text quotes as Python does, so its escapes are Python's in double quotes too.
///
/// # Errors
/// `Cut` where the string does not end, `Declined` for an escape with more than one reading.
pub(super) fn string(text: &str, start: usize, quote: Quote, python: bool, out: &mut String) -> Result<Read, Stop> {
    match quote {
        Quote::TripleDouble => triple(text, start, "\"\"\"", out),
        Quote::TripleSingle => triple(text, start, "'''", out),
        _ => single(text, start, quote, python, out),
    }
}

fn single(text: &str, start: usize, quote: Quote, python: bool, out: &mut String) -> Result<Read, Stop> {
    let mut stages = Vec::new();
    if quote != Quote::Double {
        stages.push(Stage::Quotes);
    }
    let begin = start + text[start..].chars().next().map_or(1, char::len_utf8);
    let mut body = Body { out, stages, dropped: false, kept: false, letters: false };
    body.out.push('"');
    let mut at = begin;
    while at < text.len() {
        let rest = &text[at..];
        let plain = rest.find(|c: char| c == '\\' || c < ' ' || c == '"' || quote.closes(c)).unwrap_or(rest.len());
        body.out.push_str(&rest[..plain]);
        at += plain;
        let Some(mark) = text[at..].chars().next() else { break };
        if quote.closes(mark) {
            body.out.push('"');
            body.agree(start)?;
            return Ok(Read { end: at + mark.len_utf8(), stages: body.stages });
        }
        match mark {
            '\\' => at += body.escape(text, at, quote, python)?,
            '"' => {
                body.out.push_str("\\\"");
                at += 1;
            }
            control => {
                body.control(control);
                at += 1;
            }
        }
    }
    Err(Stop::Cut { at: start })
}

/// What a string's escapes have said so far about who meant them.
struct Body<'a> {
    out: &'a mut String,
    stages: Vec<Stage>,
    /// A backslash was dropped (`\_`).
    dropped: bool,
    /// A backslash was taken as itself (`\d`).
    kept: bool,
    /// JSON's own letter escapes (`\n`) occur.
    letters: bool,
}

impl Body<'_> {
    fn control(&mut self, control: char) {
        self.stages.push(Stage::ControlCharacters);
        match control {
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            other => self.unicode(u32::from(other)),
        }
    }

    /// `\uXXXX`, as a pair of surrogates above the basic plane.
    fn unicode(&mut self, code: u32) {
        use std::fmt::Write as _;
        let mut units = [0; 2];
        let units: &[u16] = match char::from_u32(code) {
            Some(character) => character.encode_utf16(&mut units),
            // A lone surrogate, kept as it was spelled.
            None => {
                units[0] = u16::try_from(code).unwrap_or(0xfffd);
                &units[..1]
            }
        };
        for unit in units {
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }

    /// One escape at `at`; answers its length.
    fn escape(&mut self, text: &str, at: usize, quote: Quote, python: bool) -> Result<usize, Stop> {
        let Some(mark) = text[at + 1..].chars().next() else { return Err(Stop::Cut { at }) };
        let declined = |why| Stop::Declined { at, why: Why::Ambiguous(why) };
        let foreign = python || quote != Quote::Double;
        if quote == Quote::Backtick && mark != '`' && mark != '\\' {
            return Err(declined("an escape inside backticks has two readings"));
        }
        match mark {
            '"' | '\\' | '/' => {
                self.out.push('\\');
                self.out.push(mark);
            }
            'b' | 'f' | 'n' | 'r' | 't' => {
                self.letters = true;
                self.out.push('\\');
                self.out.push(mark);
            }
            'u' => {
                let Some(_) = hex(text, at + 2, 4)? else { return Err(declined("bad \\u escape")) };
                self.out.push_str(&text[at..at + 6]);
                return Ok(6);
            }
            'x' | 'U' if foreign => {
                let digits = if mark == 'x' { 2 } else { 8 };
                let code = hex(text, at + 2, digits)?.ok_or_else(|| declined("bad hexadecimal escape"))?;
                self.stages.push(Stage::Escapes);
                self.unicode(code);
                return Ok(2 + digits);
            }
            'a' | 'v' | '0' if foreign => {
                self.stages.push(Stage::Escapes);
                self.unicode(match mark {
                    'a' => 7,
                    'v' => 11,
                    _ => 0,
                });
            }
            '\'' | '`' => {
                if !quote.closes(mark) {
                    self.stages.push(Stage::Escapes);
                }
                self.out.push(mark);
            }
            // Markdown's habit; a backslash before these means nothing in code.
            '_' | '*' | '#' | '~' | '!' | '&' | '@' | '%' | '=' | ',' | ';' | ':' | '<' | '>' => self.drop_backslash(mark),
            _ if !mark.is_ascii() && !mark.is_control() => self.drop_backslash(mark),
            _ if mark.is_ascii_alphabetic() && !foreign => {
                self.kept = true;
                self.stages.push(Stage::Escapes);
                self.out.push_str("\\\\");
                self.out.push(mark);
            }
            '\n' if quote == Quote::Single => self.stages.push(Stage::Escapes),
            _ => return Err(declined("unknown escape with more than one reading")),
        }
        Ok(1 + mark.len_utf8())
    }

    fn drop_backslash(&mut self, mark: char) {
        self.dropped = true;
        self.stages.push(Stage::Escapes);
        self.out.push(mark);
    }

    /// A string where one backslash is data and another is not has two readings (`C:\dir\new`).
    fn agree(&self, start: usize) -> Result<(), Stop> {
        if self.kept && (self.letters || self.dropped) {
            return Err(Stop::Declined { at: start, why: Why::Ambiguous("backslashes in one string have different readings") });
        }
        Ok(())
    }
}

/// `digits` hexadecimal digits at `at`; `None` where they are something else.
fn hex(text: &str, at: usize, digits: usize) -> Result<Option<u32>, Stop> {
    let bytes = &text.as_bytes()[at.min(text.len())..];
    let found = &bytes[..digits.min(bytes.len())];
    if !found.iter().all(u8::is_ascii_hexdigit) {
        return Ok(None);
    }
    if found.len() < digits {
        return Err(Stop::Cut { at });
    }
    Ok(std::str::from_utf8(found).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok()))
}

/// A Python triple-quoted string: raw line breaks and quotes inside. Only where no backslash and no second delimiter raises a question.
fn triple(text: &str, start: usize, mark: &str, out: &mut String) -> Result<Read, Stop> {
    let begin = start + mark.len();
    let declined = |why| Stop::Declined { at: start, why: Why::Ambiguous(why) };
    // `""` directly followed by a delimiter is an empty string with a quote too many.
    let Some(length) = text[begin..].find(mark) else {
        return Err(if text[begin..].contains('\n') { Stop::Cut { at: start } } else { declined("quotes do not pair") });
    };
    let content = &text[begin..begin + length];
    let end = begin + length + mark.len();
    if !text[end..].trim_start().starts_with([',', '}', ']', ':']) {
        return Err(declined("a triple-quoted string may end in more than one place"));
    }
    if content.contains('\\') {
        return Err(declined("an escape inside triple quotes has two readings"));
    }
    out.push('"');
    for character in content.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                use std::fmt::Write as _;
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    Ok(Read { end, stages: vec![Stage::Quotes] })
}
