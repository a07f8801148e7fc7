//! `/v1/chat/completions`: what models say passes as it is.

use bytes::{Bytes, BytesMut};
use spectra_backends::{Chunk, Edit, splice};

use super::event;
use crate::Failure;
use crate::record::Entrance;
use crate::respond::{Dialect, Manner};

/// OpenAI's chat completions.
pub(super) struct Chat;

impl Dialect for Chat {
    fn whole(&mut self, chunk: Chunk) -> Bytes {
        chunk.data
    }

    fn chunk(&mut self, chunk: &Chunk, manner: &Manner, out: &mut BytesMut) {
        let hidden = chunk.view.usage.is_some() && !manner.include_usage;
        if hidden && chunk.view.choices.is_empty() {
            return;
        }
        out.extend_from_slice(&chunk.extra);
        match hidden.then(|| splice(&chunk.data, &[Edit::Remove("usage")])) {
            Some(Ok(without)) => event(&without, out),
            _ => event(&chunk.data, out),
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn broken(&mut self, failure: &Failure, out: &mut BytesMut) {
        event(failure.json().as_bytes(), out);
    }

    fn entrance(&self) -> Entrance {
        Entrance::Chat
    }
}
