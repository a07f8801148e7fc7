//! One pass over the bytes of a prompt: counts, words and cues. Work is bounded by `WINDOW`, whatever the caller sends.

use super::lexicon::{CUES, KINDS, Lexicon, WORKED, WORKS, fold, pair};

/// Bytes read from the head and from the tail of a long text; the middle is counted in the length only.
const HEAD: usize = 4096;
const TAIL: usize = 2048;
/// Words kept for the tables; later ones still count.
pub(super) const WORDS: usize = 384;
/// Words at the start that are taken for the instruction.
const LEAD: u32 = 16;

/// What one pass finds. Counts are of the scanned window, `chars` of the whole text.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    pub chars: usize,
    pub seen: u32,
    pub words: Vec<u32>,
    pub word_count: u32,
    pub word_chars: u32,
    pub long_words: u32,
    pub lines: u32,
    pub sentences: u32,
    pub questions: u32,
    pub digits: u32,
    pub numbers: u32,
    pub long_numbers: u32,
    pub maths: u32,
    pub dollars: u32,
    pub backslashes: u32,
    pub brackets: u32,
    pub semicolons: u32,
    pub upper: u32,
    pub foreign: u32,
    pub quotes: u32,
    pub json_keys: u32,
    pub blanks: u32,
    pub fences: u32,
    pub bullets: u32,
    pub options: u32,
    pub option_chars: u32,
    pub option_digits: u32,
    pub indented: u32,
    pub paths: u32,
    pub proper: u32,
    pub commas: u32,
    pub distinct: u32,
    pub cues: [u16; CUES],
    /// Words that are counted as amounts of work, by group.
    pub works: [u16; WORKS],
    /// Words and pairs that tell the kind of task.
    pub tasks: [u16; KINDS],
    /// Slashes and dots between two digits.
    pub fractions: u32,
    pub decimals: u32,
    /// Cues among the first words, where an instruction stands.
    pub lead: [u8; CUES],
    /// The same of the words of something to be worked out.
    pub lead_worked: u8,
    /// Hash of the last line with its digits stripped, if it is short enough to be a fixed instruction.
    pub last_line: u32,
    pub last_line_chars: u32,
}

impl Scan {
    pub fn of(text: &str, lexicon: &Lexicon) -> Self {
        let bytes = text.as_bytes();
        let mut scan = Self { chars: text.len(), words: Vec::with_capacity(WORDS.min(bytes.len() / 5 + 1)), ..Self::default() };
        let mut state = State::default();
        if bytes.len() <= HEAD + TAIL {
            scan.window(bytes, lexicon, &mut state);
        } else {
            scan.window(&bytes[..HEAD], lexicon, &mut state);
            state.word = None;
            scan.window(&bytes[bytes.len() - TAIL..], lexicon, &mut state);
        }
        scan.word_end(&mut state, lexicon);
        scan.line_end(&mut state);
        scan.distinct = distinct(&scan.words);
        scan
    }

    fn window(&mut self, bytes: &[u8], lexicon: &Lexicon, state: &mut State) {
        self.seen += count(bytes.len());
        for (at, &byte) in bytes.iter().enumerate() {
            let next = bytes.get(at + 1).copied().unwrap_or(b' ');
            if byte.is_ascii_alphabetic() || byte >= 0x80 {
                self.letter(byte, state);
            } else if byte.is_ascii_digit() {
                self.digit(state, lexicon);
            } else {
                // An apostrophe inside a word ("don't") does not end it.
                if !(byte == b'\'' && state.word.is_some() && next.is_ascii_alphabetic()) {
                    self.word_end(state, lexicon);
                }
                state.number = 0;
                self.mark(byte, next, state);
            }
            state.before = byte;
        }
    }

    fn letter(&mut self, byte: u8, state: &mut State) {
        if byte >= 0x80 {
            self.foreign += 1;
        }
        let upper = byte.is_ascii_uppercase();
        self.upper += u32::from(upper);
        match &mut state.word {
            Some(word) => {
                word.hash = fold(word.hash, byte);
                word.chars += 1;
            }
            None => {
                state.word = Some(Word { hash: fold(Word::SEED, byte), chars: 1, upper, first: byte });
            }
        }
        state.number = 0;
        state.line_text(byte);
    }

    fn digit(&mut self, state: &mut State, lexicon: &Lexicon) {
        self.word_end(state, lexicon);
        self.digits += 1;
        if state.number == 0 {
            self.numbers += 1;
        }
        state.number += 1;
        if state.number == 4 {
            self.long_numbers += 1;
        }
        if state.option {
            self.option_digits += 1;
        }
        state.line_text(b'0');
    }

    /// Anything that is neither a letter nor a digit.
    fn mark(&mut self, byte: u8, next: u8, state: &mut State) {
        match byte {
            b'\n' => {
                self.line_end(state);
                return;
            }
            b'.' | b'!' | b';' if next <= b' ' => self.sentences += 1,
            b'?' => {
                self.questions += 1;
                self.sentences += 1;
            }
            b'+' | b'=' | b'^' | b'<' | b'>' | b'%' => self.maths += 1,
            b'*' | b'/' | b'-' if next.is_ascii_digit() || state.before.is_ascii_digit() => self.maths += 1,
            b'-' | b'*' if state.line_chars == 0 => self.bullets += 1,
            b'$' => self.dollars += 1,
            b'\\' => self.backslashes += 1,
            b'{' | b'}' | b'(' | b')' | b'[' | b']' => self.brackets += 1,
            b'"' => {
                self.quotes += 1;
                self.json_keys += u32::from(next == b':');
            }
            b'_' if state.before == b'_' && next != b'_' => self.blanks += 1,
            b'`' if state.before == b'`' && next == b'`' => self.fences += 1,
            b',' => self.commas += 1,
            b'\t' if state.line_chars == 0 => self.indented += 1,
            b' ' if state.line_chars == 0 && state.before == b' ' && next != b' ' => self.indented += 1,
            _ => {}
        }
        // A file name: letters, a dot, letters.
        if byte == b'.' && state.before.is_ascii_alphanumeric() && next.is_ascii_lowercase() {
            self.paths += 1;
        }
        let in_number = state.before.is_ascii_digit() && next.is_ascii_digit();
        self.fractions += u32::from(byte == b'/' && in_number);
        self.decimals += u32::from(byte == b'.' && in_number);
        self.semicolons += u32::from(byte == b';');
        if (byte == b'.' || byte == b')') && state.line_chars == 1 && state.line_upper {
            state.option = true;
            self.options += 1;
        }
        if byte > b' ' {
            state.line_text(byte);
        }
    }

    fn word_end(&mut self, state: &mut State, lexicon: &Lexicon) {
        let Some(word) = state.word.take() else { return };
        let hash = word.hash;
        let leads = state.word_at < LEAD;
        for name in [hash, pair(state.last_word, hash)] {
            if let Some(cue) = lexicon.cue(name) {
                self.cues[cue] = self.cues[cue].saturating_add(1);
                self.lead[cue] = self.lead[cue].saturating_add(u8::from(leads));
            }
            if let Some(task) = lexicon.task(name) {
                self.tasks[task] = self.tasks[task].saturating_add(1);
                self.lead_worked += u8::from(leads && task == WORKED);
            }
        }
        if let Some(work) = lexicon.work(hash) {
            self.works[work] = self.works[work].saturating_add(1);
        }
        self.word_count += 1;
        self.word_chars += word.chars;
        self.long_words += u32::from(word.chars >= 9);
        self.proper +=
            u32::from(word.upper && word.chars > 1 && word.first.is_ascii_uppercase() && !matches!(state.ended, b'.' | b'?' | b'!'));
        if self.words.len() < WORDS {
            self.words.push(hash);
        }
        state.word_at += 1;
        state.last_word = hash;
        state.ended = state.before;
    }

    fn line_end(&mut self, state: &mut State) {
        self.lines += 1;
        if state.option {
            self.option_chars += state.line_chars;
        }
        if state.line_chars > 0 {
            self.last_line = state.line_hash;
            self.last_line_chars = state.line_chars;
        }
        state.line_chars = 0;
        state.line_hash = Word::SEED;
        state.line_upper = false;
        state.option = false;
    }
}

/// What the pass carries from byte to byte.
#[derive(Debug)]
struct State {
    word: Option<Word>,
    last_word: u32,
    word_at: u32,
    number: u32,
    before: u8,
    ended: u8,
    line_chars: u32,
    line_hash: u32,
    line_upper: bool,
    option: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            word: None,
            last_word: 0,
            word_at: 0,
            number: 0,
            before: b'\n',
            ended: b'.',
            line_chars: 0,
            line_hash: Word::SEED,
            line_upper: false,
            option: false,
        }
    }
}

impl State {
    /// A visible byte of the current line; runs of digits hash as one.
    fn line_text(&mut self, byte: u8) {
        if self.line_chars == 0 {
            self.line_upper = byte.is_ascii_uppercase();
        }
        self.line_chars += 1;
        if !(byte == b'0' && self.number > 1) {
            self.line_hash = fold(self.line_hash, byte);
        }
    }
}

#[derive(Debug)]
struct Word {
    hash: u32,
    chars: u32,
    upper: bool,
    first: u8,
}

impl Word {
    const SEED: u32 = super::lexicon::SEED;
}

fn count(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// How many different words, by a linear count over 1,024 bits.
fn distinct(words: &[u32]) -> u32 {
    let mut bits = [0_u64; 16];
    for word in words {
        let slot = (word.wrapping_mul(0x9E37_79B1) >> 22) as usize;
        bits[slot / 64] |= 1 << (slot % 64);
    }
    bits.iter().map(|part| part.count_ones()).sum()
}
