//! `/v1/chat/completions`: what models say passes as it is. Only the usage of a stream is put where OpenAI has it: once,
//! at the end, beside no choice, for those who asked for it.

use bytes::{Bytes, BytesMut};
use spectra_backends::{Chunk, Edit, splice};

use super::event;
use crate::Failure;
use crate::record::Entrance;
use crate::respond::{Dialect, Manner};

/// OpenAI's chat completions.
#[derive(Default)]
pub(super) struct Chat {
    /// The newest chunk that had its usage beside a choice.
    early: Option<Bytes>,
    /// A chunk with nothing but the usage was sent.
    told: bool,
}

impl Dialect for Chat {
    fn whole(&mut self, chunk: Chunk) -> Bytes {
        chunk.data
    }

    fn chunk(&mut self, chunk: &Chunk, manner: &Manner, out: &mut BytesMut) {
        let alone = chunk.view.choices.is_empty();
        let edit = match (chunk.view.usage, manner.include_usage) {
            (None, _) => None,
            (Some(_), false) if alone => return,
            (Some(_), false) => Some(Edit::Remove("usage")),
            (Some(_), true) if alone => {
                self.told = true;
                None
            }
            (Some(_), true) => {
                self.early = Some(chunk.data.clone());
                Some(Edit::Set("usage", "null".into()))
            }
        };
        out.extend_from_slice(&chunk.extra);
        match edit.map(|edit| splice(&chunk.data, &[edit])) {
            Some(Ok(edited)) => event(&edited, out),
            _ => event(&chunk.data, out),
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        let early = self.early.take().filter(|_| !self.told);
        if let Some(Ok(usage)) = early.map(|early| splice(&early, &[Edit::Set("choices", "[]".into())])) {
            event(&usage, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn broken(&mut self, failure: &Failure, out: &mut BytesMut) {
        event(failure.json().as_bytes(), out);
    }

    fn entrance(&self) -> Entrance {
        Entrance::Chat
    }
}
