//! The decode thread: one batch a step, made of the next token of every running answer and a share of new prompts.

mod reuse;
mod sequence;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use self::reuse::Reuse;
use self::sequence::{Outbox, Sequence};
use super::context::{Context, DecodeFailed};
use super::engine::{Job, Limits};
use super::model::Model;
use super::stats::{Stats, add, set};

/// Longest a step should take while answers are streaming, and while only prompts are read: then nobody waits for the next
/// token, and llama.cpp reads a prompt up to half again as fast in large pieces (its attention has tiles of 64).
const STREAMING_STEP: Duration = Duration::from_millis(80);
const READING_STEP: Duration = Duration::from_secs(5);
/// Fewer prompt tokens in a step than this waste the weights' trip through memory.
const LEAST_SHARE: usize = 32;
/// Pause without work before what is idle is parked; the next turn of a conversation is rarely faster.
const IDLE_PAUSE: Duration = Duration::from_millis(50);
/// The same for what was used last: its next turn may be quick, and would wait for the copy.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Time over which the rate of tokens is told.
const RATE_OVER: Duration = Duration::from_secs(1);
/// How long to look away when every answer waits for its reader.
const PAUSE: Duration = Duration::from_millis(2);
/// A job waits for a running one that is reading the same prompt, if that saves so many tokens.
const WORTH_WAITING: usize = 64;

pub(crate) struct Scheduler<'model> {
    model: &'model Model,
    context: Context<'model>,
    limits: Limits,
    stats: &'model Stats,
    waiting: VecDeque<Job>,
    running: Vec<Sequence>,
    /// Ended answers whose last events have not been taken yet.
    parting: Vec<Outbox>,
    reuse: Reuse,
    /// Microseconds a prompt token takes, smoothed.
    prompt_token_micros: f64,
    /// Since when tokens are counted for the rate, and how many there were then.
    counted: (Instant, u64),
}

impl<'model> Scheduler<'model> {
    pub(crate) fn new(model: &'model Model, context: Context<'model>, limits: Limits, stats: &'model Stats) -> Self {
        set(&stats.slots, limits.slots as usize);
        set(&stats.kv_capacity, context.cells() as usize);
        let reuse = Reuse::new(context.sequences(), context.cells() as usize, model.cuts_anywhere());
        Self {
            model,
            context,
            limits,
            stats,
            waiting: VecDeque::new(),
            running: Vec::new(),
            parting: Vec::new(),
            reuse,
            prompt_token_micros: 1000.0,
            counted: (Instant::now(), 0),
        }
    }

    /// Works until the engine's handle is dropped.
    pub(crate) fn run(mut self, inbox: &Receiver<Job>) {
        let mut idle = true;
        loop {
            if !self.take_in(inbox, idle) {
                return;
            }
            if idle {
                self.counted.0 = Instant::now();
            }
            self.part();
            self.admit();
            let busy = self.step();
            self.part();
            self.relieve();
            self.publish();
            let nothing = self.running.is_empty() && self.waiting.is_empty() && self.parting.is_empty();
            idle = nothing;
            self.tell_rate(idle);
            if !busy && !nothing {
                // Readers are slow or a job waits for another: nothing tells us when that ends.
                match inbox.recv_timeout(PAUSE) {
                    Ok(job) => self.waiting.push_back(job),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    /// Parks what is too much beside streaming answers: one between two steps, and not before the first text of an answer.
    fn relieve(&mut self) {
        let streaming = !self.running.is_empty() && self.running.iter().all(Sequence::is_streaming);
        if streaming && self.reuse.is_crowded() {
            self.reuse.park_oldest(&mut self.context);
        }
    }

    /// Moves new jobs to the queue; waits for one if there is nothing else to do. False: the engine was dropped.
    fn take_in(&mut self, inbox: &Receiver<Job>, wait: bool) -> bool {
        if wait && !self.wait_for_job(inbox) {
            return false;
        }
        loop {
            match inbox.try_recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// There is nothing else to do: the time is used to park what would slow the next jobs down.
    fn wait_for_job(&mut self, inbox: &Receiver<Job>) -> bool {
        loop {
            let pause = if self.reuse.idle() > 1 { IDLE_PAUSE } else { LAST_PAUSE };
            match inbox.recv_timeout(pause) {
                Ok(job) => {
                    self.waiting.push_back(job);
                    return true;
                }
                Err(RecvTimeoutError::Timeout) if self.reuse.tidy(&mut self.context) => self.publish(),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        inbox.recv().is_ok_and(|job| {
            self.waiting.push_back(job);
            true
        })
    }

    /// Gives events to their readers and lets go of answers that are over or that nobody reads.
    fn part(&mut self) {
        self.parting.retain_mut(|outbox| outbox.flush());
        let mut at = 0;
        while at < self.running.len() {
            let sequence = &mut self.running[at];
            let read = sequence.outbox.flush_open();
            if read && !sequence.ended {
                at += 1;
                continue;
            }
            let mut sequence = self.running.swap_remove(at);
            let told = sequence.ended && sequence.outbox.is_empty();
            if !read && !told {
                add(&self.stats.cancelled, 1);
            } else if !told {
                self.parting.push(std::mem::take(&mut sequence.outbox));
            }
            self.reuse.put(&mut self.context, sequence.id, sequence.into_held());
        }
    }

    /// Gives free slots to waiting jobs, in their order. Where nothing was running, what they leave idle leaves the cache.
    fn admit(&mut self) {
        let first = self.running.is_empty();
        self.admit_all();
        if first && !self.running.is_empty() {
            while self.reuse.park_oldest(&mut self.context) {}
        }
    }

    fn admit_all(&mut self) {
        let mut at = 0;
        while self.running.len() < self.limits.slots as usize && at < self.waiting.len() {
            let job = &self.waiting[at];
            if job.events.is_closed() {
                self.waiting.remove(at);
                self.leave_queue();
                add(&self.stats.cancelled, 1);
                continue;
            }
            let ready = self.reuse.best(&job.prompt, &self.running);
            let soon = self.running.iter().map(|sequence| sequence.will_share(&job.prompt)).max().unwrap_or(0);
            if self.reuse.on() && soon >= ready.length + WORTH_WAITING {
                at += 1;
                continue;
            }
            let Some((id, cached)) = self.reuse.take(&mut self.context, &ready) else { return };
            let Some(job) = self.waiting.remove(at) else { return };
            // Before it leaves the queue, and not only behind the step, which may take seconds.
            set(&self.stats.busy, self.running.len() + 1);
            self.leave_queue();
            add(&self.stats.prompt_tokens, job.prompt.len());
            add(&self.stats.cached_tokens, cached);
            let mut sequence = Sequence::new(id, job, cached, self.limits.context_tokens);
            // That it has begun is told at once: the next step passes over answers with something left to tell.
            sequence.outbox.flush_open();
            self.running.push(sequence);
        }
    }

    fn leave_queue(&self) {
        self.stats.waiting.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// One batch. False if there was nothing to decode.
    fn step(&mut self) -> bool {
        let prompt_tokens = self.fill();
        let tokens = self.running.iter().map(|sequence| sequence.in_batch).sum::<usize>();
        if tokens == 0 {
            return false;
        }
        self.reuse.make_room(&mut self.context, self.running.iter().map(|sequence| sequence.done + sequence.in_batch).sum());
        let began = Instant::now();
        self.stats.step_begins();
        let decoded = self.decode();
        let stopped = decoded == Err(DecodeFailed::Unwanted);
        match decoded {
            Ok(()) => self.pick(),
            Err(DecodeFailed::Unwanted) => self.take_back(),
            Err(DecodeFailed::NoRoom) => self.fail("the key-value cache is full"),
            Err(DecodeFailed::Broken(why)) => self.fail(&why),
        }
        self.stats.step_ends();
        if !stopped {
            self.account(began.elapsed(), prompt_tokens);
        }
        true
    }

    /// Decodes the batch, as long as anybody reads an answer in it.
    fn decode(&mut self) -> Result<(), DecodeFailed> {
        let readers: Vec<_> =
            self.running.iter().filter(|sequence| sequence.in_batch > 0).map(|sequence| sequence.outbox.reader()).collect();
        let wanted = || readers.iter().flatten().any(|reader| !reader.is_closed());
        let result = self.context.decode(&wanted);
        if result == Err(DecodeFailed::NoRoom) && self.reuse.forget_all(&mut self.context) {
            return self.context.decode(&wanted);
        }
        result
    }

    /// Fills the batch: every streaming answer's next tokens (more than one where they were forced), then prompts, the budget
    /// split evenly among them.
    fn fill(&mut self) -> usize {
        self.context.clear_batch();
        let streams = self.running.iter().filter(|sequence| sequence.is_streaming()).count();
        let room = self.context.capacity() / streams.max(1);
        for sequence in &mut self.running {
            sequence.in_batch = 0;
            sequence.row = None;
            if sequence.is_streaming() && sequence.outbox.is_empty() {
                sequence.put(&mut self.context, room);
            }
        }
        let taken: usize = self.running.iter().map(|sequence| sequence.in_batch).sum();
        let mut budget = self.share(taken > 0).min(self.context.capacity() - taken);
        let mut reading: Vec<&mut Sequence> =
            self.running.iter_mut().filter(|sequence| !sequence.is_streaming() && sequence.outbox.is_empty()).collect();
        reading.sort_by_key(|sequence| sequence.missing());
        let mut read = 0;
        let count = reading.len();
        for (at, sequence) in reading.into_iter().enumerate() {
            let part = budget.div_ceil(count - at).min(sequence.missing()).min(budget);
            sequence.put(&mut self.context, part);
            read += part;
            budget -= part;
        }
        read
    }

    /// Prompt tokens that fit into a step of the wanted length, by the rate so far.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    fn share(&self, streaming: bool) -> usize {
        let step = if streaming { STREAMING_STEP } else { READING_STEP };
        let fits = step.as_secs_f64() * 1e6 / self.prompt_token_micros.max(1.0);
        (fits as usize).clamp(LEAST_SHARE, self.context.capacity())
    }

    /// Samples for every sequence whose prompt is read.
    fn pick(&mut self) {
        let mut sampled = 0;
        for sequence in &mut self.running {
            sequence.done += sequence.in_batch;
            let Some(row) = sequence.row else { continue };
            match self.context.logits(row) {
                Ok(logits) => {
                    sampled += sequence.advance(self.model, logits);
                }
                Err(error) => sequence.fail(&error.to_string()),
            }
        }
        add(&self.stats.generated_tokens, sampled);
    }

    /// All readers left while the batch was decoded. What they had before it is still good for the next one with that prompt.
    fn take_back(&mut self) {
        for sequence in self.running.iter_mut().filter(|sequence| sequence.in_batch > 0) {
            let kept = u32::try_from(sequence.done).is_ok_and(|done| self.context.forget(sequence.id, done).is_ok());
            sequence.done = if kept { sequence.done } else { 0 };
        }
    }

    /// A batch that cannot be decoded ends every answer in it; their memory is in doubt and is forgotten.
    fn fail(&mut self, why: &str) {
        tracing::error!(%why, "decode failed");
        for sequence in self.running.iter_mut().filter(|sequence| sequence.in_batch > 0) {
            add(&self.stats.failed, 1);
            sequence.done = 0;
            sequence.fail(why);
        }
    }

    fn account(&mut self, took: Duration, prompt_tokens: usize) {
        let micros = usize::try_from(took.as_micros()).unwrap_or(usize::MAX);
        if prompt_tokens == 0 {
            add(&self.stats.decode_micros, micros);
            return;
        }
        add(&self.stats.prefill_micros, micros);
        if prompt_tokens >= LEAST_SHARE / 2 {
            #[expect(clippy::cast_precision_loss, reason = "a step is short and a batch small")]
            let each = micros as f64 / prompt_tokens as f64;
            self.prompt_token_micros += 0.3 * (each - self.prompt_token_micros);
        }
    }

    /// Tokens of answers per second, over the last second or a little more.
    fn tell_rate(&mut self, idle: bool) {
        let (since, before) = self.counted;
        let elapsed = since.elapsed();
        if !idle && elapsed < RATE_OVER {
            return;
        }
        let now = self.stats.generated_tokens.load(std::sync::atomic::Ordering::Relaxed);
        let rate = u128::from(now - before) * 1_000_000 / elapsed.as_millis().max(1);
        set(&self.stats.tokens_per_kilosecond, if idle { 0 } else { usize::try_from(rate).unwrap_or(usize::MAX) });
        self.counted = (Instant::now(), now);
    }

    fn publish(&self) {
        set(&self.stats.busy, self.running.len());
        set(&self.stats.kv_tokens, self.running.iter().map(|sequence| sequence.done).sum());
        set(&self.stats.kv_cached_tokens, self.reuse.tokens());
        set(&self.stats.parked_tokens, self.reuse.parked_tokens());
    }
}

impl std::fmt::Debug for Scheduler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("running", &self.running.len()).field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
