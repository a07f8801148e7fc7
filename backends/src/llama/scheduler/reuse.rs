//! What ended answers left behind, kept for prompts that begin the same: a little of it in the key-value cache, the rest in
//! plain memory.

use llama_cpp_2::context::session::SeqState;

use super::super::context::Context;
use super::super::memory::available_bytes;
use super::super::model::Token;
use super::sequence::Sequence;

/// Shorter remains are not worth a sequence id.
const LEAST: usize = 16;
/// Idle tokens that stay in the cache while answers stream. llama.cpp's attention passes over every cell up to the highest one in use,
/// whosever it is and if only to skip it: a thousand of them make a small model's step a twentieth longer. A copy out and back takes as
/// long as some ten steps beside it, and streams wait for it.
const LEFT_IN_CACHE: usize = 512;
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

    /// Sequences kept in the cache.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
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

    /// More is idle in the cache than should be while answers stream.
    pub(crate) fn is_crowded(&self) -> bool {
        self.tokens() > LEFT_IN_CACHE
    }

    /// Parks the longest unused of what is idle. False where there is none, or no memory for it.
    pub(crate) fn park_oldest(&mut self, context: &mut Context<'_>) -> bool {
        self.oldest(None).is_some_and(|at| {
            let parked = self.park(context, at);
            if parked {
                self.drop_idle(context, at);
            }
            parked
        })
    }

    /// Uses a pause, in which nothing runs: parks what is idle, one at a time. The last one, which is the likeliest to be wanted next, stays
    /// in the cache too, laid anew into the lowest cells. False when nothing is left to do.
    pub(crate) fn tidy(&mut self, context: &mut Context<'_>) -> bool {
        let [last] = &self.idle[..] else { return self.park_oldest(context) };
        let id = last.id;
        if self.is_parked(&last.tokens) || !self.park(context, 0) {
            return false;
        }
        if !self.parked.last().is_some_and(|copy| context.restore(id, &copy.state)) {
            self.drop_idle(context, 0);
        }
        true
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
            self.drop_idle(context, at);
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
        let Some(at) = self.oldest(except) else { return false };
        self.park(context, at);
        self.drop_idle(context, at);
        true
    }

    fn oldest(&self, except: Option<i32>) -> Option<usize> {
        let candidates = self.idle.iter().enumerate().filter(|(_, idle)| Some(idle.id) != except);
        candidates.min_by_key(|(_, idle)| idle.used).map(|(at, _)| at)
    }

    fn drop_idle(&mut self, context: &mut Context<'_>, at: usize) {
        let idle = self.idle.swap_remove(at);
        self.free_id(context, idle.id);
    }

    fn is_parked(&self, tokens: &[Token]) -> bool {
        self.parked.iter().any(|parked| shared(&parked.tokens, tokens) == tokens.len())
    }

    /// Copies an idle sequence to plain memory, unless it is there already. False if there is no memory for it.
    fn park(&mut self, context: &Context<'_>, at: usize) -> bool {
        let Idle { id, tokens, used } = &self.idle[at];
        if self.is_parked(tokens) {
            return true;
        }
        while self.parked_tokens() + tokens.len() > self.cells {
            let Some((oldest, _)) = self.parked.iter().enumerate().min_by_key(|(_, parked)| parked.used) else { break };
            self.parked.swap_remove(oldest);
        }
        let bytes = context.saved_bytes(*id) as u64;
        if available_bytes().is_some_and(|free| free < bytes.saturating_add(SPARE_BYTES)) {
            return false;
        }
        let Some(state) = context.save(*id) else { return false };
        self.parked.push(Parked { tokens: tokens.clone(), state, used: *used });
        true
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
