//! From token bytes to text: whole characters only, stop strings taken out.

/// Collects the bytes of one answer.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// Bytes of a character that is not complete yet: at most three.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stops: Vec<String>,
}

/// What a token added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// Text that can leave; may be empty.
    Text(String),
    /// Text before a stop string, which ends the answer.
    Stopped(String),
}

impl Text {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { partial: Vec::new(), held: String::new(), stops }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Added {
        self.partial.extend_from_slice(bytes);
        self.take_whole_characters(false);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            self.partial.clear();
            return Added::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Added::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The end: what was held back leaves, an incomplete character as U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        self.take_whole_characters(true);
        std::mem::take(&mut self.held)
    }

    /// Moves complete characters from `partial` to `held`; bytes that can never be one become U+FFFD.
    fn take_whole_characters(&mut self, at_end: bool) {
        let mut rest = std::mem::take(&mut self.partial);
        let mut bytes = rest.as_slice();
        loop {
            match std::str::from_utf8(bytes) {
                Ok(text) => {
                    self.held.push_str(text);
                    bytes = &[];
                    break;
                }
                Err(error) => {
                    let (good, bad) = bytes.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(good));
                    let skip = match error.error_len() {
                        Some(length) => length,
                        None if at_end => bad.len(),
                        None => {
                            bytes = bad;
                            break;
                        }
                    };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    bytes = &bad[skip..];
                }
            }
        }
        let keep = bytes.len();
        rest.drain(..rest.len() - keep);
        self.partial = rest;
    }
}

/// Length of the longest end of `text` that `stop` starts with.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest).rev().find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces`, returns what left and whether a stop string ended it.
    fn check(stops: &[&str], pieces: &[&[u8]], text: &str, stopped: bool) {
        let mut out = String::new();
        let mut state = Text::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        for piece in pieces {
            match state.push(piece) {
                Added::Text(more) => out.push_str(&more),
                Added::Stopped(more) => {
                    out.push_str(&more);
                    assert_eq!((out.as_str(), true), (text, stopped), "{pieces:?}");
                    return;
                }
            }
        }
        out.push_str(&state.finish());
        assert_eq!((out.as_str(), false), (text, stopped), "{pieces:?}");
    }

    #[test]
    fn characters_stay_whole_wherever_tokens_split_them() {
        let text = "a é € 🦀 z".as_bytes();
        for at in 0..=text.len() {
            check(&[], &[&text[..at], &text[at..]], "a é € 🦀 z", false);
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        check(&[], &single, "a é € 🦀 z", false);
        check(&[], &[b"a\xff", b"b\xf0\x9f", b"c", b"\xe2\x82"], "a\u{fffd}b\u{fffd}c\u{fffd}", false);
    }

    #[test]
    fn stop_strings_never_leave() {
        check(&["END"], &[b"one E", b"N", b"D two"], "one ", true);
        check(&["END"], &[b"one EN", b"d two"], "one ENd two", false);
        check(&["END"], &[b"one EN"], "one EN", false);
        check(&["aab"], &[b"aaa", b"ab"], "aa", true);
        check(&["\n\n", "stop"], &[b"x st", b"o\n", b"\np"], "x sto", true);
        check(&["é!"], &[b"caf\xc3", b"\xa9", b"!"], "caf", true);
        check(&["b", "abc"], &[b"xabc"], "x", true);
    }
}
