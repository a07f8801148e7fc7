//! A static embedding: every word and pair of words has a row of a small table; a prompt is the weighted sum of its rows.
//! The rows are the leading singular vectors of the training prompts (latent semantic analysis), as bytes.

use super::lexicon::pair;

/// Rows of the table; words are hashed into them.
pub(super) const ROWS: usize = 1 << 15;
/// Numbers in a row.
pub const EMBED: usize = 64;

/// The table. `idf` and the rows are bytes with one scale each, so that 32,768 rows take 2 MB.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Weight of a row: inverse document frequency in twentieths; 0 for a row that was not seen in training.
    pub idf: Vec<u8>,
    pub rows: Vec<i8>,
    /// What one unit of a byte is worth, by column.
    pub scale: Vec<f32>,
}

impl Table {
    /// The embedding of a text by its words' `rows`: zeros for a text without known words, or without a table.
    pub fn embed(&self, rows: &[u16]) -> [f32; EMBED] {
        let mut sums = [0_i32; EMBED];
        let mut norm = 0_u32;
        if self.rows.len() != ROWS * EMBED {
            return [0.0; EMBED];
        }
        for row in rows.iter().map(|row| usize::from(*row)) {
            let idf = self.idf[row];
            if idf > 0 {
                let weight = i32::from(idf);
                norm += u32::from(idf) * u32::from(idf);
                let bytes = &self.rows[row * EMBED..(row + 1) * EMBED];
                for (sum, byte) in sums.iter_mut().zip(bytes) {
                    *sum += weight * i32::from(*byte);
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "sums of at most 768 products of two bytes")]
        let (unit, float) = (1.0 / (norm.max(1) as f32).sqrt(), |sum: i32| sum as f32);
        std::array::from_fn(|at| float(sums[at]) * unit * self.scale[at])
    }
}

/// The distinct rows that words and their pairs hash to.
pub(super) fn rows(words: &[u32]) -> Vec<u16> {
    let mut seen = [0_u64; ROWS / 64];
    let mut rows = Vec::with_capacity(2 * words.len());
    let pairs = words.windows(2).map(|two| pair(two[0], two[1]));
    for hash in words.iter().copied().chain(pairs) {
        let row = hash.wrapping_mul(0x9E37_79B1) >> 17;
        let (slot, bit) = (row as usize / 64, 1_u64 << (row % 64));
        if seen[slot] & bit == 0 {
            seen[slot] |= bit;
            rows.push(u16::try_from(row).unwrap_or(0));
        }
    }
    rows
}
