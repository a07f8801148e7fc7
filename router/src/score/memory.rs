//! The last outcomes of one form of prompt, kept small, for the heads that cannot learn from sums.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::embed::ROWS;
use super::features::DIM;
use super::fingerprint::{KEYS, Keys};
use super::trend::{AMOUNTS, Amounts};

/// Outcomes kept; older ones are forgotten. About 500 bytes each.
pub(super) const KEPT: usize = 2000;
/// Steps a reading is cut into, 32 to one.
pub(super) const BINS: usize = 128;
/// Word rows kept of one prompt.
const GRAMS: usize = 512;

/// A reading from its step.
pub(super) fn unbin(bin: u8) -> f32 {
    (f32::from(bin) + 0.5) / 32.0
}

/// A reading as a step: readings lie between 0 and about 3.
pub(super) fn bin(value: f32) -> u8 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bins")]
    {
        (value * 32.0).clamp(0.0, 127.0) as u8
    }
}

/// One outcome, and what the prompt looked like.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub usable: bool,
    /// The chance that the weights alone gave it.
    pub chance: f32,
    pub keys: Keys,
    /// Its amounts and its readings as steps.
    amounts: [u8; AMOUNTS],
    pub bins: Box<[u8]>,
    /// Rows of its words and pairs of words, each once.
    pub grams: Box<[u16]>,
}

/// A sample, and how far its outcome was from what is expected of it without the heads.
pub(super) type Lesson<'a> = (&'a Sample, f32);

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory(VecDeque<Sample>);

impl Memory {
    pub fn add(&mut self, sample: Sample) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }

    /// The newest of both, in turn: no sample knows its hour.
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = VecDeque::new();
        let (mut one, mut two) = (self.0.iter().rev(), other.0.iter().rev());
        while merged.len() < KEPT {
            let before = merged.len();
            for sample in [one.next(), two.next()].into_iter().flatten() {
                merged.push_front(sample.clone());
            }
            if merged.len() == before {
                break;
            }
        }
        Self(merged)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sample in &self.0 {
            bytes.push(u8::from(sample.usable));
            bytes.extend_from_slice(&sample.chance.to_le_bytes());
            bytes.extend(sample.keys.all().iter().flat_map(|key| key.to_le_bytes()));
            bytes.extend_from_slice(&sample.amounts);
            bytes.extend_from_slice(&sample.bins);
            bytes.extend_from_slice(&u16::try_from(sample.grams.len()).unwrap_or(0).to_le_bytes());
            bytes.extend(sample.grams.iter().flat_map(|gram| gram.to_le_bytes()));
        }
        bytes
    }

    /// `None` for bytes that `to_bytes` did not write.
    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut memory = Self::default();
        while !bytes.is_empty() && memory.0.len() < KEPT {
            let (sample, rest) = Sample::from_bytes(bytes)?;
            memory.0.push_back(sample);
            bytes = rest;
        }
        Some(memory)
    }
}

impl Sample {
    pub fn new(usable: bool, chance: f32, keys: Keys, amounts: &Amounts, readings: &[f32], grams: &[u16]) -> Self {
        let amounts = amounts.map(bin);
        let bins = readings.iter().take(DIM).map(|value| bin(*value)).collect();
        Self { usable, chance, keys, amounts, bins, grams: grams.iter().take(GRAMS).copied().collect() }
    }

    pub fn amounts(&self) -> Amounts {
        self.amounts.map(unbin)
    }

    /// A copy without its readings and words.
    pub fn bare(&self) -> Self {
        Self { bins: Box::default(), grams: Box::default(), ..*self }
    }

    fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (usable, rest) = bytes.split_first()?;
        let (chance, mut rest) = rest.split_first_chunk::<4>()?;
        let mut keys = [0; KEYS];
        for key in &mut keys {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            (*key, rest) = (u64::from_le_bytes(*bytes), after);
        }
        let (amounts, rest) = rest.split_first_chunk::<AMOUNTS>()?;
        let (bins, rest) = rest.split_at_checked(DIM)?;
        let (count, rest) = rest.split_first_chunk::<2>()?;
        let (grams, rest) = rest.split_at_checked(2 * usize::from(u16::from_le_bytes(*count)))?;
        let sample = Self {
            usable: *usable == 1,
            chance: f32::from_le_bytes(*chance),
            keys: Keys::from_all(keys),
            amounts: *amounts,
            bins: bins.into(),
            grams: grams.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect(),
        };
        let sound = (0.0..=1.0).contains(&sample.chance)
            && sample.amounts.iter().chain(&sample.bins).all(|bin| usize::from(*bin) < BINS)
            && sample.grams.iter().all(|gram| usize::from(*gram) < ROWS);
        sound.then_some((sample, rest))
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Self::from_bytes(&bytes).ok_or_else(|| serde::de::Error::custom("not a memory of outcomes, or one of another layout"))
    }
}
