//! What is read off a request, and how much each reading says about difficulty: the one table of features and weights.

use spectra_backends::chat::{Format, Role, ToolChoice, View};

use super::fingerprint::{Hash, Keys};
use super::lexicon::{self as cue, CUES, Lexicon};
use super::scan::Scan;

/// A reading of the request.
pub struct Feature {
    /// Stable name, for reports and weights files.
    pub name: &'static str,
    /// The same in words.
    pub words: &'static str,
    /// Weight of version 0, set by hand: what one unit adds to the log-odds of "difficult".
    pub weight: f32,
    of: fn(&Facts) -> f32,
}

/// How many readings there are.
pub const DIM: usize = FEATURES.len();

const fn feature(name: &'static str, words: &'static str, weight: f32, of: fn(&Facts) -> f32) -> Feature {
    Feature { name, words, weight, of }
}

/// All readings. Every value lies between 0 and about 3, so that the weights can be compared.
#[rustfmt::skip]
pub const FEATURES: [Feature; 76] = [
    // The length prior. Version 0 takes it from the first two; both only grow with the text.
    feature("length", "length of the last user message", 0.55, |f| log(f.scan.chars) / 4.0),
    feature("total_length", "length of all messages", 0.10, |f| log(f.chars) / 4.0),
    feature("system_length", "length of the system prompt", 0.0, |f| log(f.system_chars) / 4.0),
    feature("turns", "number of turns", 0.20, |f| log(f.turns)),
    feature("max_tokens", "room asked for the answer", 0.10, |f| log(f.max_tokens as usize) / 4.0),
    // The text's shape.
    feature("word_length", "long words on average", 0.0, |f| ratio(f.scan.word_chars, f.scan.word_count) / 4.0),
    feature("long_words", "share of long words", 0.6, |f| ratio(f.scan.long_words, f.scan.word_count) * 4.0),
    feature("sentence_length", "long sentences", 0.0, |f| log(ratio(f.scan.word_count, f.scan.sentences.max(1)) as usize) / 2.0),
    feature("sentences", "number of sentences", 0.0, |f| log(f.scan.sentences as usize)),
    feature("variety", "varied vocabulary", 0.0, |f| ratio(f.scan.distinct, f.scan.word_count.min(384)) * 2.0),
    feature("lines", "number of lines", 0.0, |f| log(f.scan.lines as usize) / 2.0),
    feature("questions", "question marks", 0.0, |f| log(f.scan.questions as usize)),
    feature("digits", "share of digits", 0.0, |f| ratio(f.scan.digits, f.scan.seen) * 8.0),
    feature("numbers", "how many numbers", 0.05, |f| log(f.scan.numbers as usize) / 1.5),
    feature("long_numbers", "large numbers", 0.0, |f| log(f.scan.long_numbers as usize)),
    feature("maths_signs", "signs of arithmetic", 0.15, |f| log(f.scan.maths as usize) / 1.5),
    feature("latex", "formulas", 0.35, |f| log((f.scan.dollars + f.scan.backslashes) as usize) / 1.5),
    feature("brackets", "brackets", 0.0, |f| ratio(f.scan.brackets, f.scan.seen) * 16.0),
    feature("semicolons", "semicolons", 0.0, |f| log(f.scan.semicolons as usize)),
    feature("fences", "code blocks", 0.15, |f| log(f.scan.fences as usize)),
    feature("indented", "indented lines", 0.0, |f| log(f.scan.indented as usize) / 2.0),
    feature("upper", "share of capitals", 0.0, |f| ratio(f.scan.upper, f.scan.seen) * 10.0),
    feature("proper_names", "proper names", 0.0, |f| ratio(f.scan.proper, f.scan.word_count) * 4.0),
    feature("foreign", "letters outside ASCII", 0.0, |f| ratio(f.scan.foreign, f.scan.seen) * 2.0),
    feature("quotes", "quotation marks", 0.0, |f| log(f.scan.quotes as usize) / 2.0),
    feature("commas", "commas", 0.0, |f| ratio(f.scan.commas, f.scan.word_count) * 8.0),
    feature("json_keys", "JSON keys in the text", 0.10, |f| log(f.scan.json_keys as usize)),
    feature("blanks", "blanks to fill", 0.0, |f| log(f.scan.blanks as usize)),
    feature("bullets", "listed points", 0.0, |f| log(f.scan.bullets as usize)),
    feature("options", "answers to choose from", 0.0, |f| log(f.scan.options as usize)),
    feature("option_length", "long answers to choose from", 0.0, |f| log(ratio(f.scan.option_chars, f.scan.options) as usize) / 2.0),
    feature("option_digits", "numbers to choose from", 0.0, |f| ratio(f.scan.option_digits, f.scan.option_chars) * 2.0),
    feature("paths", "files named", 0.10, |f| log(f.scan.paths as usize)),
    // What the request demands besides its text.
    feature("tools", "tools offered", 0.25, |f| log(f.tools)),
    feature("tool_size", "size of the tools' schemas", 0.05, |f| log(f.tool_chars) / 4.0),
    feature("tool_forced", "a tool call demanded", 0.1, |f| flag(f.tool_forced)),
    feature("json", "JSON demanded", 0.2, |f| flag(f.json)),
    feature("schema_depth", "depth of the schema", 0.30, |f| log(f.schema_depth as usize)),
    feature("schema_fields", "fields of the schema", 0.15, |f| log(f.schema_fields as usize) / 1.5),
    feature("media", "images or files attached", 0.5, |f| log(f.media)),
    // Kinds of prompt.
    feature("is_choice", "a multiple-choice question", 0.0, |f| flag(f.kind == Kind::Choice)),
    feature("is_sum", "a word problem", 0.1, |f| flag(f.kind == Kind::Sum)),
    feature("is_code", "about code", 0.3, |f| flag(f.kind == Kind::Code)),
    feature("is_structured", "structured output", 0.1, |f| flag(f.kind == Kind::Structured)),
    feature("is_open", "an open question", 0.0, |f| flag(f.kind == Kind::Open)),
    // Cues: what it is about and what is to be done.
    feature("cue_proof", "a proof", 1.6, |f| f.cue(cue::PROOF)),
    feature("cue_maths", "mathematics", 0.9, |f| f.cue(cue::MATHS)),
    feature("cue_physics", "physics", 0.9, |f| f.cue(cue::PHYSICS)),
    feature("cue_law", "law", 1.0, |f| f.cue(cue::LAW)),
    feature("cue_algorithm", "algorithms", 1.1, |f| f.cue(cue::ALGORITHM)),
    feature("cue_medicine", "medicine", 0.6, |f| f.cue(cue::MEDICINE)),
    feature("cue_systems", "design of systems", 1.0, |f| f.cue(cue::SYSTEMS)),
    feature("cue_coding", "programming", 0.5, |f| f.cue(cue::CODING)),
    feature("cue_explain", "an explanation or judgement", 0.4, |f| f.cue(cue::EXPLAIN)),
    feature("cue_compare", "a comparison or an optimum", 0.3, |f| f.cue(cue::COMPARE)),
    feature("cue_count", "a quantity asked for", 0.1, |f| f.cue(cue::COUNT)),
    feature("cue_quantity", "parts, rates and totals", 0.1, |f| f.cue(cue::QUANTITY)),
    feature("cue_logic", "logic", 0.3, |f| f.cue(cue::LOGIC)),
    feature("cue_constraint", "constraints to keep", 0.3, |f| f.cue(cue::CONSTRAINT)),
    feature("cue_negation", "negation", 0.0, |f| f.cue(cue::NEGATION)),
    feature("cue_steps", "several steps", 0.25, |f| f.cue(cue::STEPS)),
    feature("cue_easy", "words of a mechanical task", -0.4, |f| f.cue(cue::EASY)),
    feature("cue_small_talk", "small talk", -0.9, |f| f.cue(cue::SMALL_TALK)),
    feature("cue_creative", "free writing", -0.3, |f| f.cue(cue::CREATIVE)),
    feature("cue_money_time", "money and time", 0.0, |f| f.cue(cue::MONEY_TIME)),
    feature("cue_clauses", "subordinate clauses", 0.0, |f| f.cue(cue::CLAUSES)),
    feature("cue_economy", "economics", 0.5, |f| f.cue(cue::ECONOMY)),
    feature("cue_chemistry", "chemistry", 0.6, |f| f.cue(cue::CHEMISTRY)),
    feature("cue_morals", "morals", 0.0, |f| f.cue(cue::MORALS)),
    feature("cue_files", "files or services to make", 0.4, |f| f.cue(cue::FILES)),
    feature("cue_people", "people in a story", 0.0, |f| f.cue(cue::PEOPLE)),
    // The first words carry the instruction.
    feature("asks_easy", "asks for a mechanical task", -2.2, |f| lead(f, cue::EASY)),
    feature("asks_small_talk", "asks for small talk or a fact", -1.0, |f| lead(f, cue::SMALL_TALK)),
    feature("asks_proof", "asks for a proof", 1.2, |f| lead(f, cue::PROOF)),
    feature("asks_code", "asks for code", 0.5, |f| lead(f, cue::CODING)),
    feature("asks_design", "asks for a design", 0.6, |f| lead(f, cue::SYSTEMS)),
];

/// The first features are the length prior.
const LENGTHS: usize = 2;

/// What "to be worked out" is worth on the scale of `Facts::cold`, and how much length counts beside it. Public comparisons of small and
/// large models say that they differ in reasoning, mathematics and code, and hardly in writing.
const WORKED: f32 = 1.5;
const BESIDE: f32 = 0.6;

/// Added to the log-odds before any feature: an empty prompt is easy.
pub const INTERCEPT: f32 = -3.2;

/// The kind of a prompt: what kind of answer it wants, as far as its form tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Choice,
    Sum,
    Code,
    Structured,
    Open,
}

/// Everything that one pass over a request yields.
#[derive(Debug)]
pub(super) struct Facts {
    pub scan: Scan,
    pub keys: Keys,
    pub kind: Kind,
    chars: usize,
    system_chars: usize,
    turns: usize,
    max_tokens: u32,
    tools: usize,
    tool_chars: usize,
    tool_forced: bool,
    json: bool,
    schema_depth: u32,
    schema_fields: u32,
    media: usize,
}

impl Facts {
    pub fn of(view: &View, lexicon: &Lexicon) -> Self {
        let asked = view.messages.iter().rposition(|message| message.role == Role::User);
        let text = asked.and_then(|at| view.messages.get(at)).map_or("", |message| message.text.as_str());
        let scan = Scan::of(text, lexicon);
        let is_system = |role: Role| matches!(role, Role::System | Role::Developer);
        let (schema_depth, schema_fields) = match &view.format {
            Format::JsonSchema { schema: Some(schema), .. } => shape(schema),
            _ => (0, 0),
        };
        let json = view.format != Format::Text;
        let keys = Keys::of(view, text, &scan);
        let told = || view.messages.iter().any(|message| is_system(message.role) && spells_schema(&message.text));
        let kind = kind(&scan, json || !view.tools.is_empty() || told());
        Self {
            keys,
            kind,
            chars: view.messages.iter().map(|message| message.text.len()).sum(),
            system_chars: view.messages.iter().filter(|message| is_system(message.role)).map(|message| message.text.len()).sum(),
            turns: view.messages.iter().filter(|message| message.role == Role::User).count().saturating_sub(1),
            max_tokens: view.max_tokens.unwrap_or(0),
            tools: view.tools.len(),
            tool_chars: view.tools.iter().filter_map(|tool| tool.parameters.as_ref()).map(|text| text.len()).sum(),
            tool_forced: matches!(view.tool_choice, ToolChoice::Required | ToolChoice::Named(_)),
            json,
            schema_depth,
            schema_fields,
            media: view.messages.iter().map(|message| message.media.len()).sum(),
            scan,
        }
    }

    /// Form of the prompt: the kind of answer it wants and the fixed line it ends with, where it has one.
    /// Prompts in a frame (system prompt, tools, schema) are forms of their own.
    pub fn form(&self, last_line: bool) -> u64 {
        let kind = Hash::new(u64::from(self.keys.frame != 0)).add(&[self.kind as u8]);
        if last_line { kind.add(&self.scan.last_line.to_le_bytes()).0 } else { kind.0 }
    }

    /// Log-odds of "the local model will not do", for prompts of a form that nothing was learned about: the length decides, the
    /// hand-set cues help. Out of their family, weights trained on prompts did worse than length alone (docs/routing.md), so none
    /// are used here.
    pub fn cold(&self, values: &[f32; DIM]) -> f32 {
        let length = (log(self.scan.chars) - 5.5) / 0.8;
        let cues: f32 = values.iter().zip(&FEATURES).skip(LENGTHS).map(|(value, feature)| value * feature.weight).sum();
        let cues = cues.clamp(-6.0, 6.0);
        if self.kind != Kind::Choice && self.mechanical() {
            // "Translate this", "format this log": the length is that of the material, not of the task.
            return length.min(-0.5) + 0.3 * cues.min(0.0) - 1.5;
        }
        // A short question on a hard matter is not easy because it is short.
        let floor = -3.5 + 1.2 * cues.clamp(0.0, 3.0);
        match self.kind {
            Kind::Choice => length + 0.05 * cues,
            // JSON asked for in words makes no structured form, but it is none of the tasks below.
            _ if self.kind == Kind::Structured || self.keys.json != 0 || self.scan.tasks[cue::DATA] > 0 => length + 0.1 * cues,
            _ => {
                let worked = if self.kind == Kind::Sum { 1.0 } else { self.worked() };
                // Of what has to be worked out the cues say next to nothing.
                let open = 1.0 - worked.max(0.0);
                let lift = (floor - length).max(0.0);
                BESIDE * (length + open * lift) + (0.02 + 0.18 * open) * cues + WORKED * worked
            }
        }
    }

    /// From -1 (many answers would do) to 1 (it has to be worked out, and can be wrong). It is cut there so that among questions of one
    /// sort the length decides.
    fn worked(&self) -> f32 {
        let signs = self.scan.maths + self.scan.dollars + self.scan.backslashes;
        let [worked, free] = [cue::WORKED, cue::FREE].map(|task| self.dense(self.scan.tasks[task].into()));
        (4.0 * (worked - free + 0.2 * self.dense(signs)) - 0.4).clamp(-1.0, 1.0)
    }

    /// The first words ask for something that needs no thought, and nothing there speaks of a hard matter.
    fn mechanical(&self) -> bool {
        let hard = [cue::PROOF, cue::MATHS, cue::PHYSICS, cue::ALGORITHM, cue::SYSTEMS];
        let easy = self.scan.lead[cue::EASY];
        // "Write a function that sorts" is no sorting.
        easy > 0
            && easy >= self.scan.lead[cue::CODING]
            && self.scan.lead_worked == 0
            && hard.iter().all(|group| self.scan.lead[*group] == 0)
    }

    pub fn values(&self) -> [f32; DIM] {
        std::array::from_fn(|at| (FEATURES[at].of)(self))
    }

    fn cue(&self, group: usize) -> f32 {
        debug_assert!(group < CUES, "a group of the lexicon");
        self.dense(self.scan.cues[group].into())
    }

    /// Two mentions in a short prompt say as much as four in a long one.
    fn dense(&self, hits: u32) -> f32 {
        // Most cues are not there, and a logarithm each would be a good part of the score's time.
        if hits == 0 {
            return 0.0;
        }
        let room = (ratio(self.scan.word_count, 1) / 25.0).max(1.0).sqrt();
        (1.0 + ratio(hits, 1) / room).ln()
    }
}

fn kind(scan: &Scan, structured: bool) -> Kind {
    let code = scan.cues[cue::CODING] + scan.cues[cue::ALGORITHM] / 2;
    let amount = scan.cues[cue::COUNT] + scan.cues[cue::QUANTITY] + scan.cues[cue::MONEY_TIME];
    if structured || scan.json_keys >= 2 {
        Kind::Structured
    } else if scan.options >= 2 && scan.options <= 12 {
        Kind::Choice
    } else if scan.fences > 0 || scan.semicolons >= 3 {
        Kind::Code
    } else if scan.numbers >= 2 && scan.questions >= 1 && amount >= 2 || scan.numbers >= 1 && scan.cues[cue::COUNT] >= 1 && amount >= 3 {
        Kind::Sum
    } else if code >= 2 || scan.lead[cue::CODING] >= 1 {
        Kind::Code
    } else {
        Kind::Open
    }
}

/// True for a system prompt that spells out a JSON Schema, or functions to call in JSON: the answer is to be structured.
fn spells_schema(system: &str) -> bool {
    const LOOKED_AT: usize = 16 * 1024;
    let bytes = system.as_bytes();
    memchr::memmem::find(&bytes[..bytes.len().min(LOOKED_AT)], b"\"type\":").is_some()
}

/// Depth of a JSON schema and the number of its fields, read off its text: no tree is built.
fn shape(schema: &str) -> (u32, u32) {
    let (mut depth, mut deepest, mut fields) = (0_u32, 0_u32, 0_u32);
    for byte in schema.bytes().take(64 * 1024) {
        match byte {
            b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' => depth = depth.saturating_sub(1),
            b':' => fields += 1,
            _ => {}
        }
    }
    (deepest, fields)
}

#[expect(clippy::cast_precision_loss, reason = "counts of bytes, far below 2^24 where it matters")]
pub(super) fn log(count: usize) -> f32 {
    (count as f32).ln_1p()
}

#[expect(clippy::cast_precision_loss, reason = "counts of bytes, far below 2^24 where it matters")]
pub(super) fn ratio(part: u32, whole: u32) -> f32 {
    if whole == 0 { 0.0 } else { part as f32 / whole as f32 }
}

fn flag(on: bool) -> f32 {
    if on { 1.0 } else { 0.0 }
}

fn lead(facts: &Facts, group: usize) -> f32 {
    f32::from(facts.scan.lead[group]).ln_1p()
}

impl std::fmt::Debug for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feature").field("name", &self.name).field("weight", &self.weight).finish_non_exhaustive()
    }
}
