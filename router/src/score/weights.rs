//! The weights file: the embedding table and the heads trained for kinds of prompts that the training data knows.

use serde::{Deserialize, Serialize};

use super::embed::{EMBED, ROWS, Table};
use super::fingerprint::Hash;
use super::ridge::Line;

/// The trained part of the score. Without it (`Weights::v0`) the table in `features.rs` and the length prior decide alone.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    pub(super) table: Table,
    pub(super) forms: Vec<Form>,
    /// Where the weights come from: sources, seed, rows.
    pub provenance: String,
}

/// A form of prompt that the training data knows, with its two heads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form {
    /// `Facts::form` of its prompts.
    pub key: u64,
    pub name: String,
    pub rows: u32,
    /// How much of the chances its heads give; length and cues give the rest.
    pub share: f32,
    pub local: Line,
    pub hosted: Line,
}

/// The first bytes of a weights file; the last is the version of its layout.
const MAGIC: &[u8; 8] = b"spectra\x01";

static BUILTIN: &[u8] = include_bytes!("../../weights/router.bin");

/// What precedes the table in the file.
#[derive(Serialize, Deserialize)]
struct Head {
    provenance: String,
    scale: Vec<f32>,
    forms: Vec<StoredForm>,
}

#[derive(Serialize, Deserialize)]
struct StoredForm {
    key: u64,
    name: String,
    rows: u32,
    #[serde(default = "whole")]
    share: f32,
    local: StoredLine,
    hosted: StoredLine,
}

fn whole() -> f32 {
    1.0
}

#[derive(Serialize, Deserialize)]
struct StoredLine {
    intercept: f32,
    centre: Vec<f32>,
    spread: Vec<f32>,
    weights: Vec<f32>,
}

/// A weights file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a weights file of this version: {0}")]
pub struct BadWeights(pub String);

impl Weights {
    /// The weights that ship with this build. Should they be unreadable, version 0 stands in: a router that scores worse is
    /// better than none, and a test sees to it that this does not happen.
    #[must_use]
    pub fn builtin() -> Self {
        Self::read(BUILTIN).unwrap_or_default()
    }

    /// Version 0: the hand-set table and the length prior only.
    #[must_use]
    pub fn v0() -> Self {
        Self { provenance: "v0: set by hand".to_owned(), ..Self::default() }
    }

    /// Names of the trained forms, the number of rows behind each, and the share of the chances that their heads give.
    pub fn forms(&self) -> impl Iterator<Item = (&str, u32, f32)> {
        self.forms.iter().map(|form| (form.name.as_str(), form.rows, form.share))
    }

    /// Reads what `write` wrote.
    ///
    /// # Errors
    /// `BadWeights` for anything else: wrong magic, cut off, lengths or numbers that cannot be.
    pub fn read(bytes: &[u8]) -> Result<Self, BadWeights> {
        let bad = |why: &str| BadWeights(why.to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("wrong first bytes"))?;
        let (size, rest) = rest.split_first_chunk::<4>().ok_or_else(|| bad("cut off"))?;
        let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| bad("too long"))?;
        if rest.len() < size {
            return Err(bad("cut off"));
        }
        let (head, table) = rest.split_at(size);
        let head: Head = serde_json::from_slice(head).map_err(|error| BadWeights(error.to_string()))?;
        let (idf, rows) = match table.len() {
            0 => (Vec::new(), Vec::new()),
            len if len == ROWS * (EMBED + 1) && head.scale.len() == EMBED => {
                (table[..ROWS].to_vec(), table[ROWS..].iter().map(|byte| byte.cast_signed()).collect())
            }
            _ => return Err(bad("the table has the wrong size")),
        };
        let forms: Vec<Form> = head.forms.into_iter().map(StoredForm::open).collect();
        if !forms.iter().all(|form| form.local.sound() && form.hosted.sound() && (0.0..=1.0).contains(&form.share)) {
            return Err(bad("a head with numbers that cannot be"));
        }
        Ok(Self { table: Table { idf, rows, scale: head.scale }, forms, provenance: head.provenance })
    }

    /// The file's bytes: the same weights give the same bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let head = Head {
            provenance: self.provenance.clone(),
            scale: self.table.scale.clone(),
            forms: self.forms.iter().map(StoredForm::of).collect(),
        };
        // Plain numbers and strings always serialise.
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.table.idf);
        bytes.extend(self.table.rows.iter().map(|byte| byte.cast_unsigned()));
        bytes
    }

    /// Short name of these weights, for logs and headers.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{:08x}", Hash::new(0).add(&self.write()).0 >> 32)
    }
}

impl StoredForm {
    fn of(form: &Form) -> Self {
        Self {
            key: form.key,
            name: form.name.clone(),
            rows: form.rows,
            share: form.share,
            local: StoredLine::of(&form.local),
            hosted: StoredLine::of(&form.hosted),
        }
    }

    fn open(self) -> Form {
        Form { key: self.key, name: self.name, rows: self.rows, share: self.share, local: self.local.open(), hosted: self.hosted.open() }
    }
}

impl StoredLine {
    fn of(line: &Line) -> Self {
        Self { intercept: line.intercept, centre: line.centre.clone(), spread: line.spread.clone(), weights: line.weights.clone() }
    }

    fn open(self) -> Line {
        Line { intercept: self.intercept, centre: self.centre, spread: self.spread, weights: self.weights }
    }
}
