//! The embedding thread: as many texts as fit one step, and a vector for each.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use tokio::sync::oneshot;

use super::abort::Wanted;
use super::context::{Context, DecodeFailed};
use super::model::Token;
use super::stats::{Stats, add, set};

/// Texts of one request.
#[derive(Debug)]
pub(crate) struct Passage {
    pub texts: Vec<Vec<Token>>,
    /// A vector for each text, or why there is none. Dropped by the caller who leaves.
    pub answer: oneshot::Sender<Result<Vec<Vec<f32>>, String>>,
}

pub(crate) struct Embedder<'context> {
    context: Context<'context>,
    stats: &'context Stats,
}

impl<'context> Embedder<'context> {
    pub(crate) fn new(context: Context<'context>, stats: &'context Stats) -> Self {
        set(&stats.slots, 1);
        set(&stats.kv_capacity, context.cells() as usize);
        Self { context, stats }
    }

    /// Works until the engine's handle is dropped.
    pub(crate) fn run(mut self, inbox: &Receiver<Passage>) {
        while let Ok(passage) = inbox.recv() {
            self.stats.waiting.fetch_sub(1, Ordering::Relaxed);
            set(&self.stats.busy, 1);
            let vectors = self.embed(&passage);
            set(&self.stats.busy, 0);
            match vectors {
                None => add(&self.stats.cancelled, 1),
                Some(vectors) => {
                    add(&self.stats.failed, usize::from(vectors.is_err()));
                    // Who has left meanwhile does not want it.
                    let _ = passage.answer.send(vectors);
                }
            }
        }
    }

    /// `None`: the caller has left.
    fn embed(&mut self, passage: &Passage) -> Option<Result<Vec<Vec<f32>>, String>> {
        let mut vectors = Vec::with_capacity(passage.texts.len());
        while vectors.len() < passage.texts.len() {
            if passage.answer.is_closed() {
                return None;
            }
            match self.step(&passage.texts[vectors.len()..], &|| !passage.answer.is_closed()) {
                Ok(Some(more)) => vectors.extend(more),
                Ok(None) => return None,
                Err(why) => {
                    tracing::error!(%why, "embedding failed");
                    return Some(Err(why));
                }
            }
        }
        Some(Ok(vectors))
    }

    /// The vectors of the first texts, as many as one batch takes; at least one. `None`: they were not wanted any more.
    fn step(&mut self, texts: &[Vec<Token>], wanted: &Wanted<'_>) -> Result<Option<Vec<Vec<f32>>>, String> {
        self.context.clear_batch();
        self.context.forget_all();
        let (mut tokens, mut count) = (0, 0);
        for (text, sequence) in texts.iter().zip(0..self.context.sequences()) {
            if tokens + text.len() > self.context.capacity() && count > 0 {
                break;
            }
            for (token, position) in text.iter().zip(0..) {
                self.context.add(*token, position, sequence, true).map_err(|error| error.to_string())?;
            }
            tokens += text.len();
            count += 1;
        }
        let began = Instant::now();
        self.stats.step_begins();
        let decoded = self.context.decode(wanted);
        self.stats.step_ends();
        match decoded {
            Ok(()) => {}
            Err(DecodeFailed::Unwanted) => return Ok(None),
            Err(DecodeFailed::NoRoom) => return Err("the key-value cache is full".to_owned()),
            Err(DecodeFailed::Broken(why)) => return Err(why),
        }
        add(&self.stats.prompt_tokens, tokens);
        add(&self.stats.prefill_micros, usize::try_from(began.elapsed().as_micros()).unwrap_or(usize::MAX));
        (0..count)
            .map(|sequence| self.context.embedding(sequence).map(unit).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// The same direction with length 1, as OpenAI's vectors have: a dot product is then a cosine.
fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "a number between -1 and 1")]
    vector.iter().map(|x| (f64::from(*x) * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn vectors_have_length_one() {
        assert_eq!(unit(&[3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit(&[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(unit(&[1e30, 0.0]), [1.0, 0.0]);
    }
}
