//! What ended answers left in the key-value cache, kept for prompts that begin the same.

use super::super::context::Context;
use super::super::model::Token;
use super::sequence::Sequence;

/// Shorter remains are not worth a sequence id.
const LEAST: usize = 16;

/// Ids of sequences that are not running, and what is under them.
pub(crate) struct Reuse {
    on: bool,
    cells: usize,
    free: Vec<i32>,
    idle: Vec<Idle>,
    clock: u64,
}

struct Idle {
    id: i32,
    tokens: Vec<Token>,
    used: u64,
}

/// The longest beginning of a prompt that is in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub length: usize,
    id: Option<i32>,
}

impl Reuse {
    pub(crate) fn new(sequences: i32, cells: usize, on: bool) -> Self {
        Self { on, cells, free: (0..sequences).rev().collect(), idle: Vec::new(), clock: 0 }
    }

    /// False for models whose memory cannot be cut.
    pub(crate) fn on(&self) -> bool {
        self.on
    }

    /// Tokens kept for reuse.
    pub(crate) fn tokens(&self) -> usize {
        self.idle.iter().map(|idle| idle.tokens.len()).sum()
    }

    /// Looks among what is idle and what is running. At least one token of a prompt is always left to decode.
    pub(crate) fn best(&self, prompt: &[Token], running: &[Sequence]) -> Found {
        if !self.on {
            return Found::default();
        }
        let most = prompt.len().saturating_sub(1);
        let idle = self.idle.iter().map(|idle| (idle.id, idle.tokens.as_slice()));
        let running = running.iter().map(|sequence| (sequence.id, sequence.held()));
        idle.chain(running)
            .map(|(id, tokens)| Found { length: shared(tokens, prompt).min(most), id: Some(id) })
            .filter(|found| found.length >= LEAST)
            .max_by_key(|found| found.length)
            .unwrap_or_default()
    }

    /// A sequence id under which the found beginning is, and nothing else. `None` if every id is running.
    pub(crate) fn take(&mut self, context: &mut Context<'_>, found: &Found, prompt: &[Token]) -> Option<i32> {
        self.clock += 1;
        let Some(source) = found.id else { return self.fresh(context, None) };
        let idle = self.idle.iter().position(|idle| idle.id == source);
        // What the new prompt continues to its end, or what has no other place to go, is taken over; the rest is shared.
        if let Some(at) = idle {
            self.idle[at].used = self.clock;
            let whole = self.idle[at].tokens.len() <= found.length + LEAST;
            if whole || (self.free.is_empty() && self.idle.len() == 1) {
                let taken = self.idle.swap_remove(at);
                return self.cut(context, taken.id, found.length);
            }
        }
        let id = self.fresh(context, Some(source))?;
        let length = u32::try_from(found.length).ok()?;
        match context.share(source, id, length) {
            Ok(()) => {
                debug_assert!(found.length < prompt.len());
                Some(id)
            }
            Err(_) => None,
        }
    }

    /// Takes a sequence back, with what is under it.
    pub(crate) fn put(&mut self, context: &mut Context<'_>, id: i32, tokens: Vec<Token>) {
        self.clock += 1;
        if !self.on || tokens.len() < LEAST {
            self.free_id(context, id);
            return;
        }
        // The same beginning twice is of no use: the longer one stays.
        if let Some(at) = self.idle.iter().position(|idle| shared(&idle.tokens, &tokens) == idle.tokens.len()) {
            let covered = self.idle.swap_remove(at);
            self.free_id(context, covered.id);
        }
        self.idle.push(Idle { id, tokens, used: self.clock });
    }

    /// Forgets idle sequences, the longest unused first, until `running` tokens fit beside the rest.
    /// Tokens that sequences share are counted for each, so this errs on the safe side.
    pub(crate) fn make_room(&mut self, context: &mut Context<'_>, running: usize) {
        while running + self.tokens() > self.cells {
            if !self.forget_oldest(context, None) {
                return;
            }
        }
    }

    /// Forgets all idle sequences. False if there were none.
    pub(crate) fn forget_all(&mut self, context: &mut Context<'_>) -> bool {
        let any = !self.idle.is_empty();
        while self.forget_oldest(context, None) {}
        any
    }

    fn fresh(&mut self, context: &mut Context<'_>, except: Option<i32>) -> Option<i32> {
        if self.free.is_empty() {
            self.forget_oldest(context, except);
        }
        self.free.pop()
    }

    fn forget_oldest(&mut self, context: &mut Context<'_>, except: Option<i32>) -> bool {
        let candidates = self.idle.iter().enumerate().filter(|(_, idle)| Some(idle.id) != except);
        let Some((at, _)) = candidates.min_by_key(|(_, idle)| idle.used) else { return false };
        let idle = self.idle.swap_remove(at);
        self.free_id(context, idle.id);
        true
    }

    fn cut(&mut self, context: &mut Context<'_>, id: i32, length: usize) -> Option<i32> {
        if context.forget(id, u32::try_from(length).ok()?).is_ok() {
            return Some(id);
        }
        self.free_id(context, id);
        None
    }

    fn free_id(&mut self, context: &mut Context<'_>, id: i32) {
        if let Err(error) = context.forget(id, 0) {
            tracing::error!(%error, id, "a sequence could not be forgotten");
        }
        self.free.push(id);
    }
}

/// Length of the common beginning.
pub(crate) fn shared(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
