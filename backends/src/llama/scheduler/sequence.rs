//! One running answer: its tokens, how far they are decoded, and what has yet to be told.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::super::constraint::{Constraint, Unsupported};
use super::super::context::Context;
use super::super::engine::{Ended, Event, Job};
use super::super::model::{Model, Token};
use super::super::sampler::{Sampler, TokenChoice};
use super::super::text::{Added, Text};
use super::reuse::shared;

pub(crate) struct Sequence {
    pub id: i32,
    /// Prompt and answer.
    tokens: Vec<Token>,
    /// How many of them are in the key-value cache.
    pub done: usize,
    prompt: usize,
    /// Most tokens of the answer.
    limit: usize,
    sampler: Sampler,
    constraint: Option<Constraint>,
    text: Text,
    /// Tokens whose text is held back, where log probabilities were asked for.
    untold: Vec<TokenChoice>,
    wants_logprobs: bool,
    tells_controls: bool,
    pub outbox: Outbox,
    pub ended: bool,
    /// Of this step: tokens in the batch, and where the last one's logits will be.
    pub in_batch: usize,
    pub row: Option<i32>,
}

/// Events on their way to one reader.
#[derive(Default)]
pub(crate) struct Outbox {
    events: VecDeque<Event>,
    to: Option<mpsc::Sender<Event>>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Who takes the events; closed when they have left.
    pub(crate) fn reader(&self) -> Option<&mpsc::Sender<Event>> {
        self.to.as_ref()
    }

    /// Sends what the reader takes. True while something is left and somebody reads.
    pub(crate) fn flush(&mut self) -> bool {
        self.flush_open() && !self.events.is_empty()
    }

    /// Sends what the reader takes. False when nobody reads any more.
    pub(crate) fn flush_open(&mut self) -> bool {
        let Some(to) = &self.to else { return false };
        while let Some(event) = self.events.pop_front() {
            match to.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.events.push_front(event);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        !to.is_closed()
    }

    fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }
}

impl Sequence {
    /// `cached` tokens of the prompt are in the cache under `id` already.
    pub(crate) fn new(id: i32, job: Job, cached: usize, context_tokens: u32) -> Self {
        let prompt = job.prompt.len();
        let most = (context_tokens as usize).saturating_sub(prompt);
        let mut outbox = Outbox { events: VecDeque::new(), to: Some(job.events) };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        outbox.push(Event::Started { prompt_tokens: count(prompt), cached_tokens: count(cached) });
        Self {
            id,
            done: cached,
            prompt,
            limit: job.max_tokens.map_or(most, |asked| most.min(asked as usize)),
            tells_controls: job.tells_controls,
            wants_logprobs: job.sampling.logprobs.is_some(),
            sampler: Sampler::new(job.sampling, &job.prompt),
            constraint: job.constraint,
            text: Text::new(job.stop),
            untold: Vec::new(),
            outbox,
            ended: false,
            in_batch: 0,
            row: None,
            tokens: job.prompt,
        }
    }

    /// The prompt is read and tokens are being sampled.
    pub(crate) fn is_streaming(&self) -> bool {
        self.tokens.len() > self.prompt
    }

    /// Tokens not decoded yet.
    pub(crate) fn missing(&self) -> usize {
        self.tokens.len() - self.done
    }

    pub(crate) fn held(&self) -> &[Token] {
        &self.tokens[..self.done]
    }

    /// The tokens whose keys and values are in the cache.
    pub(crate) fn into_held(mut self) -> Vec<Token> {
        self.tokens.truncate(self.done);
        self.tokens
    }

    /// How many tokens of `prompt` this sequence will have decoded once its own prompt is read; 0 if it has read it.
    pub(crate) fn will_share(&self, prompt: &[Token]) -> usize {
        if self.is_streaming() { 0 } else { shared(&self.tokens, prompt).min(prompt.len() - 1) }
    }

    /// Adds the next `count` tokens to the batch; logits are asked for behind the last known token only.
    pub(crate) fn put(&mut self, context: &mut Context<'_>, count: usize) {
        for at in self.done..self.done + count.min(self.missing()) {
            let last = at + 1 == self.tokens.len();
            let position = i32::try_from(at).unwrap_or(i32::MAX);
            match context.add(self.tokens[at], position, self.id, last) {
                Ok(row) => {
                    self.in_batch += 1;
                    self.row = last.then_some(row);
                }
                Err(error) => return self.fail(&error.to_string()),
            }
        }
    }

    /// Takes the next token from the logits, and behind it those that the constraint leaves no choice about: they are decoded
    /// together. Returns how many tokens that were.
    pub(crate) fn advance(&mut self, model: &Model, logits: &[f32]) -> usize {
        let before = self.tokens.len();
        match self.choose(model, logits) {
            Ok(Some(choice)) => self.take(model, choice),
            Ok(None) => self.fail("no token is allowed here"),
            Err(error) => self.fail(&format!("the constraint broke: {error}")),
        }
        // A log probability is known only for what was decoded one by one.
        if !self.ended && !self.wants_logprobs {
            let forced = self.constraint.as_mut().map(Constraint::forced).unwrap_or_default();
            for token in forced {
                if self.ended {
                    break;
                }
                self.take(model, TokenChoice { token, ..TokenChoice::default() });
            }
        }
        self.tokens.len() - before
    }

    fn take(&mut self, model: &Model, choice: TokenChoice) {
        let token = choice.token;
        self.tokens.push(token);
        self.sampler.accept(token);
        if let Some(constraint) = &mut self.constraint
            && let Err(error) = constraint.accept(token, model.piece(token))
        {
            return self.fail(&format!("the constraint broke: {error}"));
        }
        if model.ends(token) {
            return self.end(Ended::Stop);
        }
        if self.wants_logprobs {
            self.untold.push(choice);
        }
        let piece = if self.tells_controls && model.piece(token).is_empty() { model.control(token) } else { model.piece(token) };
        match self.text.push(piece) {
            Added::Stopped(text) => {
                self.tell(text);
                self.finish(Ended::Stop);
            }
            Added::Text(text) => {
                if !text.is_empty() {
                    self.tell(text);
                }
                if self.constraint.as_ref().is_some_and(Constraint::is_complete) {
                    self.end(Ended::Stop);
                } else if self.tokens.len() - self.prompt >= self.limit {
                    self.end(Ended::Length);
                }
            }
        }
    }

    /// The next token. Under a constraint the free choice is tried first, and only where it is not allowed all tokens are
    /// asked for: a token is drawn as often as if that had been done at once, p + (1 - allowed) * p / allowed = p / allowed.
    fn choose(&mut self, model: &Model, logits: &[f32]) -> Result<Option<TokenChoice>, Unsupported> {
        let free = self.sampler.choose(logits, None);
        let Some(constraint) = &mut self.constraint else { return Ok(free) };
        // Whether the answer may end here is for the mask to say.
        match free {
            Some(choice) if !model.ends(choice.token) && constraint.allows(choice.token) => Ok(Some(choice)),
            _ => Ok(self.sampler.choose(logits, Some(&constraint.allowed()?))),
        }
    }

    pub(crate) fn fail(&mut self, why: &str) {
        self.ended = true;
        self.outbox.push(Event::Failed { why: why.to_owned() });
    }

    /// Ends the answer with the text that was held back.
    fn end(&mut self, how: Ended) {
        let rest = self.text.finish();
        if !rest.is_empty() || !self.untold.is_empty() {
            self.tell(rest);
        }
        self.finish(how);
    }

    fn finish(&mut self, how: Ended) {
        self.ended = true;
        let completion_tokens = u32::try_from(self.tokens.len() - self.prompt).unwrap_or(u32::MAX);
        self.outbox.push(Event::Ended { how, completion_tokens });
    }

    fn tell(&mut self, text: String) {
        self.outbox.push(Event::Text { text, tokens: std::mem::take(&mut self.untold) });
    }
}
