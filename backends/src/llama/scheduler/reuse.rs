//! What ended answers left behind, kept for prompts that begin the same: a little of it in the key-value cache, the rest in
//! plain memory.

use llama_cpp_2::context::session::SeqState;

use super::super::context::Context;
use super::super::memory::available_bytes;
use super::super::model::Token;
use super::sequence::Sequence;

/// Shorter remains are not worth a sequence id.
const LEAST: usize = 16;
/// Idle tokens that stay in the cache. Each step looks at every one of them, if only to pass over it: a thousand made a small
/// model's tokens a twentieth slower, ten thousand its prompts a third. More are parked in a pause, or before a long prompt, and
/// come back by a copy, which is a hundred times faster than reading.
const LEFT_IN_CACHE: usize = 256;
/// The same while answers stream, which a copy interrupts.
const LEFT_IN_BUSY_CACHE: usize = 4096;
/// Shorter remains are not worth parking.
const LEAST_PARKED: usize = 64;
/// Of what is parked at least this part must be of use to be brought back: all of it is copied.
const USEFUL_PART: usize = 8;
/// The machine keeps so much free memory; what would take it is forgotten instead of parked.
const SPARE_BYTES: u64 = 1 << 30;

/// Ids of sequences that are not running, what is under them, and what is parked.
pub(crate) struct Reuse {
    on: bool,
    cells: usize,
    free: Vec<i32>,
    idle: Vec<Idle>,
    /// As many tokens as the cache has at most.
    parked: Vec<Parked>,
    clock: u64,
}

struct Idle {
    id: i32,
    tokens: Vec<Token>,
    used: u64,
}

struct Parked {
    tokens: Vec<Token>,
    state: SeqState,
    used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Sequence(i32),
    Parked(usize),
}

/// The longest beginning of a prompt that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub length: usize,
    place: Option<Place>,
}

impl Reuse {
    pub(crate) fn new(sequences: i32, cells: usize, on: bool) -> Self {
        Self { on, cells, free: (0..sequences).rev().collect(), idle: Vec::new(), parked: Vec::new(), clock: 0 }
    }

    /// False for models whose memory cannot be cut.
    pub(crate) fn on(&self) -> bool {
        self.on
    }

    /// Tokens kept in the cache.
    pub(crate) fn tokens(&self) -> usize {
        self.idle.iter().map(|idle| idle.tokens.len()).sum()
    }

    /// Tokens kept in plain memory.
    pub(crate) fn parked_tokens(&self) -> usize {
        self.parked.iter().map(|parked| parked.tokens.len()).sum()
    }

    /// Looks among what is parked, idle and running; what needs no copy is preferred. At least one token of a prompt is always left to decode.
    pub(crate) fn best(&self, prompt: &[Token], running: &[Sequence]) -> Found {
        if !self.on {
            return Found::default();
        }
        let most = prompt.len().saturating_sub(1);
        let found = |place, tokens: &[Token]| Found { length: shared(tokens, prompt).min(most), place: Some(place) };
        let parked = self.parked.iter().enumerate().map(|(at, parked)| (found(Place::Parked(at), &parked.tokens), parked));
        let parked = parked.filter(|(found, parked)| found.length * USEFUL_PART >= parked.tokens.len()).map(|(found, _)| found);
        let idle = self.idle.iter().map(|idle| found(Place::Sequence(idle.id), &idle.tokens));
        let running = running.iter().map(|sequence| found(Place::Sequence(sequence.id), sequence.held()));
        parked.chain(idle).chain(running).filter(|found| found.length >= LEAST).max_by_key(|found| found.length).unwrap_or_default()
    }

    /// A sequence id under which the found beginning is, and nothing else; with its length, which is less where it could not be
    /// had after all. `None` if every id is running.
    pub(crate) fn take(&mut self, context: &mut Context<'_>, found: &Found) -> Option<(i32, usize)> {
        self.clock += 1;
        let source = match found.place {
            None => return Some((self.fresh(context, None)?, 0)),
            Some(Place::Parked(at)) => return self.bring_back(context, at, found.length),
            Some(Place::Sequence(id)) => id,
        };
        // What the new prompt continues to its end, or what has no other place to go, is taken over; the rest is shared.
        if let Some(at) = self.idle.iter().position(|idle| idle.id == source) {
            self.idle[at].used = self.clock;
            let whole = self.idle[at].tokens.len() <= found.length + LEAST;
            if whole || (self.free.is_empty() && self.idle.len() == 1) {
                let taken = self.idle.swap_remove(at);
                return self.cut(context, taken.id, found.length);
            }
        }
        let id = self.fresh(context, Some(source))?;
        let shared = u32::try_from(found.length).is_ok_and(|length| context.share(source, id, length).is_ok());
        Some((id, if shared { found.length } else { 0 }))
    }

    fn bring_back(&mut self, context: &mut Context<'_>, at: usize, length: usize) -> Option<(i32, usize)> {
        // Whatever has to go for it, it must not be itself.
        let mut parked = self.parked.swap_remove(at);
        let id = self.fresh(context, None)?;
        if !(context.restore(id, &parked.state) || self.forget_all(context) && context.restore(id, &parked.state)) {
            return self.cut(context, id, 0);
        }
        let cut = self.cut(context, id, length);
        if parked.tokens.len() > length + LEAST {
            parked.used = self.clock;
            self.parked.push(parked);
        }
        cut
    }

    /// More is idle in the cache than should be.
    pub(crate) fn is_crowded(&self) -> bool {
        self.tokens() > LEFT_IN_CACHE
    }

    /// More is idle in the cache than should be even while answers stream.
    pub(crate) fn is_overcrowded(&self) -> bool {
        self.tokens() > LEFT_IN_BUSY_CACHE
    }

    /// The same without what was used last, which is the likeliest to be wanted next.
    pub(crate) fn is_crowded_by_old(&self) -> bool {
        let last = self.idle.iter().max_by_key(|idle| idle.used).map_or(0, |idle| idle.tokens.len());
        self.tokens() - last > LEFT_IN_CACHE
    }

    /// Parks the longest unused of what is idle. False if there is none.
    pub(crate) fn park_oldest(&mut self, context: &mut Context<'_>) -> bool {
        self.forget_oldest(context, None)
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
        self.parked.retain(|parked| shared(&parked.tokens, &tokens) < parked.tokens.len());
        self.idle.push(Idle { id, tokens, used: self.clock });
    }

    /// Takes idle sequences out of the cache, the longest unused first, until `running` tokens fit beside the rest.
    /// Tokens that sequences share are counted for each, so this errs on the safe side.
    pub(crate) fn make_room(&mut self, context: &mut Context<'_>, running: usize) {
        while running + self.tokens() > self.cells {
            if !self.forget_oldest(context, None) {
                return;
            }
        }
    }

    /// Takes all idle sequences out of the cache. False if there were none.
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
        self.park(context, &idle);
        self.free_id(context, idle.id);
        true
    }

    /// Copies a sequence out of the cache, if there is memory for it.
    fn park(&mut self, context: &Context<'_>, idle: &Idle) {
        let length = idle.tokens.len();
        let known = self.parked.iter().any(|parked| shared(&parked.tokens, &idle.tokens) == length);
        if length < LEAST_PARKED || known {
            return;
        }
        while self.parked_tokens() + length > self.cells {
            let Some((oldest, _)) = self.parked.iter().enumerate().min_by_key(|(_, parked)| parked.used) else { break };
            self.parked.swap_remove(oldest);
        }
        let bytes = context.saved_bytes(idle.id) as u64;
        if available_bytes().is_some_and(|free| free < bytes.saturating_add(SPARE_BYTES)) {
            return;
        }
        if let Some(state) = context.save(idle.id) {
            self.parked.push(Parked { tokens: idle.tokens.clone(), state, used: idle.used });
        }
    }

    fn cut(&mut self, context: &mut Context<'_>, id: i32, length: usize) -> Option<(i32, usize)> {
        if context.forget(id, u32::try_from(length).ok()?).is_ok() {
            return Some((id, length));
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
