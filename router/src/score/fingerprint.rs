//! Which template a request was made from: a hash of what repeats, with the variables stripped.

use spectra_backends::chat::{Format, Role, View};

use super::scan::Scan;

/// What of a request may be its template's own. No single reading of a prompt tells its template for certain (variables may stand
/// first, last, or bring headings of their own), so statistics are kept under several; those that a variable spoils are never seen
/// twice and say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    /// System prompt, tools and schema only; 0 where there are none.
    pub frame: u64,
    /// The names of the JSON keys that are spelled out in the message; 0 where there are none.
    pub json: u64,
    /// The message's first words.
    pub opening: u64,
    /// Its last words.
    pub ending: u64,
    /// System prompt, tools, schema, first words and the skeleton of the message: the fingerprint.
    pub template: u64,
}

/// How many keys there are.
pub(super) const KEYS: usize = 5;
/// Bytes of the message whose skeleton is taken, from either end.
const SKELETON: usize = 2048;
/// JSON keys that count.
const JSON_KEYS: usize = 32;
/// A line that begins with a label this short is a heading of the template ("Context: …").
const LABEL: usize = 32;
/// Words of the opening and of the ending that count.
const OPENING: usize = 5;
const ENDING: usize = 5;

impl Keys {
    pub fn of(view: &View, text: &str, scan: &Scan) -> Self {
        let frame = frame(view);
        let hash = |seed: u64, words: &[u32]| words.iter().fold(Hash::new(frame ^ seed), |hash, word| hash.add(&word.to_le_bytes())).0;
        let words = &scan.words;
        let skeleton = skeleton(text.as_bytes());
        let first = hash(0, &words[..words.len().min(3)]);
        Self {
            frame,
            json: if skeleton.keys == 0 { 0 } else { Hash::new(frame ^ 1).add(&skeleton.json.0.to_le_bytes()).0 },
            opening: hash(2, &words[..words.len().min(OPENING)]),
            // Of a long text the last words are not kept: its skeleton's last line stands in.
            ending: hash(3, &words[words.len().saturating_sub(ENDING)..]),
            template: Hash::new(first).add(&skeleton.all.0.to_le_bytes()).0,
        }
    }
}

impl Keys {
    /// From the coarsest to the finest; 0 for one that is not there.
    pub fn all(&self) -> [u64; KEYS] {
        [self.frame, self.json, self.opening, self.ending, self.template]
    }

    pub fn from_all([frame, json, opening, ending, template]: [u64; KEYS]) -> Self {
        Self { frame, json, opening, ending, template }
    }
}

/// System prompt, tool names and schema. The whole of them is hashed: a template's frame is fixed text.
fn frame(view: &View) -> u64 {
    let mut hash = Hash::new(0);
    let mut any = false;
    for message in view.messages.iter().filter(|message| matches!(message.role, Role::System | Role::Developer)) {
        hash = hash.stripped(message.text.as_bytes());
        any = true;
    }
    for tool in &view.tools {
        hash = hash.add(tool.name.as_bytes());
        any = true;
    }
    match &view.format {
        Format::Text => {}
        Format::JsonObject => {
            hash = hash.add(b"json");
            any = true;
        }
        Format::JsonSchema { schema, name, .. } => {
            hash = hash.add(name.as_bytes()).add(schema.as_deref().unwrap_or("").as_bytes());
            any = true;
        }
    }
    if any { hash.0 | 1 } else { 0 }
}

struct Skeleton {
    /// Labels, keys, tags and the last line.
    all: Hash,
    /// The JSON keys alone, and how many there are.
    json: Hash,
    keys: usize,
}

/// What of a message is likely to be the template's own: labels at the start of lines, quoted JSON keys, tags, and the last line.
/// Values, numbers and running text leave no trace.
fn skeleton(text: &[u8]) -> Skeleton {
    let mut found = Skeleton { all: Hash::new(0x5EED), json: Hash::new(0x15), keys: 0 };
    let mut last: &[u8] = b"";
    let ends = if text.len() > 2 * SKELETON { [&text[..SKELETON], &text[text.len() - SKELETON..]] } else { [text, b""] };
    for line in ends.iter().flat_map(|part| part.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let label = line.iter().take(LABEL).position(|byte| *byte == b':').unwrap_or(0);
        if label > 0 && line[0] != b'-' && !line[..label].iter().any(u8::is_ascii_digit) {
            found.all = found.all.add(&line[..label]);
        } else if line[0] == b'#' || line[0] == b'<' || line.starts_with(b"```") {
            found.all = found.all.stripped(&line[..line.len().min(LABEL)]);
        }
        found.json_keys(line);
        last = line;
    }
    // The last line is part of the template where it is an instruction and not a question.
    if last.len() <= 160 && !last.contains(&b'?') {
        let from = last.iter().rposition(|byte| *byte == b':').filter(|at| at + 1 < last.len());
        found.all = found.all.stripped(&last[..from.unwrap_or(last.len()).min(48)]);
    }
    found
}

impl Skeleton {
    /// Takes the JSON keys of a line in: a format that is spelled out in a prompt is the template's.
    fn json_keys(&mut self, line: &[u8]) {
        let mut open = None;
        for (at, byte) in line.iter().enumerate() {
            if *byte == b'"' {
                match open {
                    Some(from) if line.get(at + 1) == Some(&b':') && at - from <= LABEL && self.keys < JSON_KEYS => {
                        self.all = self.all.add(&line[from..at]);
                        self.json = self.json.add(&line[from..at]);
                        self.keys += 1;
                        open = None;
                    }
                    _ => open = Some(at + 1),
                }
            }
        }
    }
}

/// A 64-bit hash, eight bytes at a step: stable between runs and machines, which `DefaultHasher` does not promise.
#[derive(Clone, Copy)]
pub(super) struct Hash(pub u64);

impl Hash {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    fn mix(self, value: u64) -> Self {
        let product = u128::from(self.0 ^ value) * 0xD6E8_FEB8_6659_FD93_u128;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves are folded")]
        Self((product as u64) ^ (product >> 64) as u64)
    }

    pub fn add(self, bytes: &[u8]) -> Self {
        let mut hash = self.mix(bytes.len() as u64 ^ 0xA5A5);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            hash = hash.mix(u64::from_le_bytes(chunk.try_into().unwrap_or_default()) ^ 0x2545_F491_4F6C_DD1D);
        }
        let mut tail = [0_u8; 8];
        tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        hash.mix(u64::from_le_bytes(tail))
    }

    /// As `add`, with every run of digits counted as one digit: dates and counters in a system prompt do not make a new template.
    fn stripped(self, bytes: &[u8]) -> Self {
        if !bytes.iter().any(u8::is_ascii_digit) {
            return self.add(bytes);
        }
        let mut hash = self;
        for (at, part) in bytes.split(u8::is_ascii_digit).filter(|part| !part.is_empty()).enumerate() {
            hash = if at == 0 { hash.add(part) } else { hash.mix(0).add(part) };
        }
        hash
    }
}
