//! Repair without a model: the text is cut and spliced, never parsed into values and printed again.
//!
//! What is untouched keeps its bytes: strings, big integers, the spelling of numbers, blanks. What has more than one reading is declined.

mod bare;
pub mod coerce;
mod lenient;
mod peel;
mod strings;

use crate::verify::json::Scan;

/// One named way to mend a text. The order is the order of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    ByteOrderMark,
    /// A `<think>` block before the answer.
    Thinking,
    /// `</s>`, `<|im_end|>` and their like.
    EndTokens,
    Fence,
    Prose,
    /// JSON inside a JSON string.
    DoubleEncoding,
    /// The same value twice: once is enough.
    Repetition,
    /// Single, typographic, triple quotes and backticks.
    Quotes,
    /// A comma before a closing or after an opening bracket.
    StrayComma,
    /// No comma between two members.
    MissingComma,
    Comments,
    UnquotedKeys,
    /// `True`, `False`, `None`.
    Literals,
    /// `\_`, `\'`, `\x41`.
    Escapes,
    /// Raw line breaks and tabs inside strings.
    ControlCharacters,
    /// Non-breaking and other odd blanks, full-width punctuation.
    OddBlanks,
    /// `.5`, `5.`, `+5`.
    Numbers,
    /// Closing brackets at the end, when nothing else was missing.
    MissingClosers,
    /// One or two closing brackets too many at the end.
    ExtraClosers,
    /// `""` for the arguments of a tool that needs none.
    EmptyArguments,
    CoercedNumber,
    CoercedArray,
    CoercedEnum,
    CoercedKey,
}

impl Stage {
    /// Every stage, for those who count them.
    pub const ALL: [Self; 24] = [
        Self::ByteOrderMark,
        Self::Thinking,
        Self::EndTokens,
        Self::Fence,
        Self::Prose,
        Self::DoubleEncoding,
        Self::Repetition,
        Self::Quotes,
        Self::StrayComma,
        Self::MissingComma,
        Self::Comments,
        Self::UnquotedKeys,
        Self::Literals,
        Self::Escapes,
        Self::ControlCharacters,
        Self::OddBlanks,
        Self::Numbers,
        Self::MissingClosers,
        Self::ExtraClosers,
        Self::EmptyArguments,
        Self::CoercedNumber,
        Self::CoercedArray,
        Self::CoercedEnum,
        Self::CoercedKey,
    ];

    /// Stable name for headers, metric labels and ledger rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ByteOrderMark => "byte_order_mark",
            Self::Thinking => "thinking",
            Self::EndTokens => "end_tokens",
            Self::Fence => "fence",
            Self::Prose => "prose",
            Self::DoubleEncoding => "double_encoding",
            Self::Repetition => "repetition",
            Self::Quotes => "quotes",
            Self::StrayComma => "stray_comma",
            Self::MissingComma => "missing_comma",
            Self::Comments => "comments",
            Self::UnquotedKeys => "unquoted_keys",
            Self::Literals => "literals",
            Self::Escapes => "escapes",
            Self::ControlCharacters => "control_characters",
            Self::OddBlanks => "odd_blanks",
            Self::Numbers => "numbers",
            Self::MissingClosers => "missing_closers",
            Self::ExtraClosers => "extra_closers",
            Self::EmptyArguments => "empty_arguments",
            Self::CoercedNumber => "coerced_number",
            Self::CoercedArray => "coerced_array",
            Self::CoercedEnum => "coerced_enum",
            Self::CoercedKey => "coerced_key",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What repair may assume and whom it may ask.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    /// The model was stopped by a token limit: closers are never added then.
    pub cut_by_length: bool,
    /// True where a text is the wanted JSON (its schema, say). It settles which of several values is meant, and whether closers may be added.
    pub fits: Option<&'a dyn Fn(&str) -> bool>,
    /// A string at the root is wanted, so JSON inside one is not unpacked.
    pub string_wanted: bool,
}

/// What became of a text that should be JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// Already JSON; nothing to do.
    Clean,
    Mended {
        text: String,
        stages: Vec<Stage>,
    },
    /// It ends before its content does. `at` is where.
    Cut {
        at: usize,
    },
    Declined {
        at: usize,
        why: Why,
    },
}

/// Why a text was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `...` stands for something.
    Elided,
    /// Several readings, or none.
    Ambiguous(&'static str),
    /// Several different values.
    Several,
    NoJson,
    TooDeep,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Elided => "something was left out (\"...\")",
            Self::Ambiguous(why) => why,
            Self::Several => "several different JSON values",
            Self::NoJson => "no JSON found",
            Self::TooDeep => "nested too deeply",
        })
    }
}

/// Makes JSON of a text that was meant to be JSON, if there is one way to read it.
#[must_use]
pub fn json(text: &str, given: &Given<'_>) -> Repaired {
    if Scan::whole(text).is_ok() {
        return unpacked(text, given).unwrap_or(Repaired::Clean);
    }
    let peeled = peel::peel(text);
    let mut stages = peeled.stages;
    if peeled.unfinished_thought {
        return Repaired::Cut { at: text.len() };
    }
    let inner = &text[peeled.start..peeled.end];
    if Scan::whole(inner).is_ok() && !inner.trim().is_empty() {
        return match unpacked(inner, given) {
            Some(Repaired::Mended { text, stages: more }) => finished(text, stages.into_iter().chain(more).collect()),
            _ => finished(inner.trim().to_owned(), stages),
        };
    }
    match bare::only_value(inner, given) {
        Repaired::Mended { text: mended, stages: more } => {
            stages.extend(more);
            match unpacked(&mended, given) {
                Some(Repaired::Mended { text, stages: more }) => finished(text, stages.into_iter().chain(more).collect()),
                _ => finished(mended, stages),
            }
        }
        Repaired::Cut { at } => Repaired::Cut { at: peeled.start + at },
        Repaired::Declined { at, why } => Repaired::Declined { at: peeled.start + at, why },
        Repaired::Clean => finished(inner.to_owned(), stages),
    }
}

/// Nothing leaves here that the strict check would not pass.
fn finished(text: String, mut stages: Vec<Stage>) -> Repaired {
    stages.sort_unstable();
    stages.dedup();
    if stages.is_empty() {
        // Only blanks that JSON does not know were around it.
        stages.push(Stage::OddBlanks);
    }
    match Scan::whole(&text) {
        Ok(()) => Repaired::Mended { text, stages },
        Err((at, why)) => Repaired::Declined { at, why: Why::Ambiguous(why) },
    }
}

/// An object or array that was packed into a JSON string.
fn unpacked(text: &str, given: &Given<'_>) -> Option<Repaired> {
    let trimmed = text.trim();
    if given.string_wanted || !trimmed.starts_with('"') {
        return None;
    }
    // A schema that says nothing of types lets the string pass; if what is in it fits too, that is what was meant.
    let stays = given.fits.is_some_and(|fits| fits(text));
    let meant = |inner: &str| !stays || given.fits.is_some_and(|fits| fits(inner));
    let inner: String = serde_json::from_str(trimmed).ok()?;
    if !inner.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let stages = vec![Stage::DoubleEncoding];
    if Scan::whole(&inner).is_ok() {
        return meant(&inner).then_some(Repaired::Mended { text: inner, stages });
    }
    // A string that only begins like JSON is a string.
    match bare::only_value(&inner, &Given { cut_by_length: true, ..*given }) {
        Repaired::Mended { text, stages: more } if meant(&text) => {
            Some(Repaired::Mended { text, stages: stages.into_iter().chain(more).collect() })
        }
        _ => None,
    }
}

impl std::fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given")
            .field("cut_by_length", &self.cut_by_length)
            .field("fits", &self.fits.is_some())
            .field("string_wanted", &self.string_wanted)
            .finish()
    }
}
