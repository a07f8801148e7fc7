//! A committed stream: it flows on through the verifier, and where it is cut the next model goes on from the text already sent.

use std::sync::Arc;

use async_stream::stream;
use futures_util::StreamExt;
use spectra_backends::chunk::{Finish, Usage};
use spectra_backends::{Alarm, BackendError, ChatRequest, Chunk, ChunkStream, Continuation, Phase};
use tokio::time::Instant;

use crate::asking::{continuation, overlap, starts_over};
use crate::climb::{cost_usd, summed};
use crate::compose::{content_chunk, finish_chunk, usage_chunk};
use crate::draft::rejudged;
use crate::hedge::Opening;
use crate::outside::About;
use crate::plan::Plan;
use crate::trail::{Trail, Verified, Why};
use crate::verify::{Flaw, Verdict, Verifier};
use crate::{Asked, Router};

pub(crate) struct Flow {
    pub router: Arc<Router>,
    pub plan: Arc<Plan>,
    pub trail: Trail,
    pub request: ChatRequest,
    pub asked: Arc<Asked>,
    pub backend: Arc<str>,
    pub index: usize,
    pub rung: usize,
    pub began: Instant,
    pub alarm: Alarm,
    pub verifier: Verifier,
}

/// How the upstream's part of a committed stream ended.
enum End {
    Over,
    Cut(BackendError),
}

/// True where a text ends as texts end, so that nothing need follow.
fn sounds_finished(text: &str) -> bool {
    text.trim_end().ends_with(['.', '!', '?', '\u{2026}', '\u{3002}', '\u{ff01}', '\u{ff1f}', ')', ']', '}', '"', '`'])
}

/// What a rescue brought.
struct Rescued {
    text: String,
    finish: Finish,
    usage: Option<Usage>,
}

impl Flow {
    /// `held` and then `rest`, as the client sees them. Chunks that end a choice wait until the whole is judged.
    pub fn run(mut self, held: Vec<Chunk>, mut rest: ChunkStream) -> ChunkStream {
        Box::pin(stream! {
            let base = held.iter().find(|chunk| !chunk.view.choices.is_empty()).cloned();
            let mut usage = held.iter().find_map(|chunk| chunk.view.usage);
            for chunk in held {
                yield Ok(chunk);
            }
            let mut ending: Vec<Chunk> = Vec::new();
            let end = loop {
                let chunk = match self.alarm.before(rest.next()).await {
                    None => break End::Cut(BackendError::Timeout { phase: Phase::Total, after: self.began.elapsed() }),
                    Some(None) => break End::Over,
                    Some(Some(Err(error))) => break End::Cut(error),
                    Some(Some(Ok(chunk))) => chunk,
                };
                // What is sent cannot be taken back: a doubt only matters to the verdict at the end.
                let _ = self.verifier.push(&chunk);
                usage = chunk.view.usage.or(usage);
                let ends = chunk.view.choices.iter().any(|choice| choice.finish.is_some());
                if ends || !ending.is_empty() {
                    ending.push(chunk);
                } else {
                    yield Ok(chunk);
                }
            };
            drop(rest);
            let spent = Verifier::new(self.plan.checks.clone());
            let judged = std::mem::replace(&mut self.verifier, spent).finish();
            let judged = match &end {
                // Too late to change what was sent, not what is said of it.
                End::Over => self.about().checked(judged).await,
                End::Cut(_) => judged,
            };
            let verdict = match &end {
                End::Cut(error) if ending.is_empty() => Verdict::Flawed(Flaw::Backend(error.clone())),
                _ => judged.verdict,
            };
            self.settle(&verdict, usage);
            let cut = match (&verdict, end) {
                (Verdict::Flawed(Flaw::Truncated { .. }), _) => Some(None),
                (Verdict::Flawed(Flaw::Backend(_)), End::Cut(error)) => Some(Some(error)),
                _ => None,
            };
            let Some(fault) = cut else {
                for chunk in ending {
                    yield Ok(chunk);
                }
                return;
            };
            let sent = judged.choices.into_iter().next().unwrap_or_default();
            // Only one plain text can be gone on from: half a tool call cannot be joined.
            let whole = base.filter(|_| self.request.view().n == 1 && sent.tool_calls.is_empty() && !sent.text.is_empty());
            let rescued = match &whole {
                Some(_) => self.rescue(&sent.text).await,
                None => None,
            };
            match (rescued, whole, fault) {
                (Some(rescued), Some(base), _) => {
                    for chunk in self.continued(&base, &sent.text, rescued, usage) {
                        yield chunk;
                    }
                }
                (_, _, Some(error)) => yield Err(error),
                // Truncated by its own end and nobody to go on: its own finish tells the caller.
                (_, _, None) => for chunk in ending {
                    yield Ok(chunk);
                },
            }
        })
    }

    fn about(&self) -> About<'_> {
        About {
            fleet: &self.router.fleet,
            plan: &self.plan,
            trail: &self.trail,
            request: &self.request,
            asked: &self.asked,
            backend: &self.backend,
        }
    }

    /// Writes the first attempt's end into the trail.
    fn settle(&self, verdict: &Verdict, usage: Option<Usage>) {
        let verified = match verdict {
            _ if self.plan.checks.is_off() => Verified::Skipped,
            Verdict::Pass => Verified::Ok,
            // It could have been mended, had it not been sent.
            Verdict::Mended(_) | Verdict::Flawed(_) => Verified::Failed,
        };
        if !matches!(verdict, Verdict::Flawed(Flaw::Backend(_))) {
            self.router.fleet.report(&self.backend, verified != Verified::Failed);
        }
        self.trail.used(self.index, usage, cost_usd(&self.router.fleet, &self.backend, usage));
        self.trail.end_attempt(self.index, verdict.clone());
        self.trail.write(|account| {
            account.verified = verified;
            account.usage = usage;
        });
    }

    /// Asks the next rungs, then this one, to go on from `sent`; the first that does is taken.
    async fn rescue(&self, sent: &str) -> Option<Rescued> {
        let mut text = String::new();
        let mut sum = None;
        for turn in 1..=self.plan.continuations {
            if Instant::now() >= self.plan.deadline
                || self.plan.budget_usd.is_some_and(|budget| self.trail.read(crate::Account::cost_usd) >= budget)
            {
                return None;
            }
            let rung = (self.rung + turn).min(self.plan.ladder.len() - 1);
            let so_far = format!("{sent}{text}");
            let Ok((more, finish, usage)) = self.go_on(rung, &so_far).await else { continue };
            // What was sent cannot be taken back for another whole.
            if starts_over(&so_far, &more) {
                continue;
            }
            text.push_str(&more[overlap(&so_far, &more)..]);
            sum = summed(sum, usage);
            if finish != Finish::Length {
                return Some(Rescued { text, finish, usage: sum });
            }
        }
        None
    }

    /// One continuation, read to its end.
    async fn go_on(&self, rung: usize, so_far: &str) -> Result<(String, Finish, Option<Usage>), BackendError> {
        let fleet = &self.router.fleet;
        let backend = fleet.pick(&self.plan.ladder[rung]);
        let facts = fleet.facts(&backend);
        let by = facts.map_or(Continuation::Instruction, |facts| facts.continues_by);
        let began = Instant::now();
        let local = facts.is_some_and(|facts| facts.local);
        let index = self.trail.begin_attempt(backend.clone(), rung, Why::Continue, local, began);
        self.trail.write(|account| account.rescues += 1);
        let opening = Opening {
            fleet: fleet.clone(),
            backend: backend.clone(),
            asked: self.asked.of_attempt(index),
            began,
            deadline: self.plan.deadline,
            stops_loops: false,
        };
        let outcome = self.heard(&opening, so_far, by).await;
        let verdict = match &outcome {
            Ok(_) => Verdict::Pass,
            Err(error) => Verdict::Flawed(Flaw::Backend(error.clone())),
        };
        let usage = outcome.as_ref().ok().and_then(|(_, _, usage)| *usage);
        self.trail.used(index, usage, cost_usd(fleet, &backend, usage));
        self.trail.end_attempt(index, verdict);
        outcome
    }

    async fn heard(&self, opening: &Opening, so_far: &str, by: Continuation) -> Result<(String, Finish, Option<Usage>), BackendError> {
        let broken = |error: spectra_backends::chat::BadRequest| BackendError::Broken { what: error.message };
        let request = continuation(&self.request, so_far, by).map_err(broken)?;
        let mut alarm = Alarm::at(opening.deadline);
        let mut reply = opening.ask_within(&mut alarm, request).await?;
        let (mut text, mut finish, mut usage) = (String::new(), None, None);
        while let Some(chunk) = alarm.before(reply.chunks.next()).await.ok_or_else(|| opening.late())? {
            let chunk = chunk?;
            usage = chunk.view.usage.or(usage);
            for choice in chunk.view.choices.into_iter().filter(|choice| choice.index == 0) {
                text.push_str(choice.content.as_deref().unwrap_or_default());
                finish = choice.finish.or(finish);
            }
            if text.len() > self.plan.hold_bytes {
                return Err(BackendError::Broken { what: format!("continuation is over {} bytes", self.plan.hold_bytes) });
            }
        }
        match finish {
            Some(finish) if !text.is_empty() => Ok((text, finish, usage)),
            // It was cut behind its last word: nothing is left to say.
            Some(Finish::Stop) if sounds_finished(so_far) => Ok((text, Finish::Stop, usage)),
            _ => Err(BackendError::Broken { what: "the continuation is empty".into() }),
        }
    }

    /// The rest of the answer under the first one's id.
    fn continued(&self, base: &Chunk, sent: &str, rescued: Rescued, usage: Option<Usage>) -> Vec<Result<Chunk, BackendError>> {
        let total = summed(usage, rescued.usage);
        let mut chunks = vec![content_chunk(base, 0, &rescued.text), finish_chunk(base, 0, &rescued.finish)];
        let joined: Vec<Chunk> = [content_chunk(base, 0, &format!("{sent}{}", rescued.text)), finish_chunk(base, 0, &rescued.finish)]
            .into_iter()
            .flatten()
            .collect();
        let verified = match rejudged(&self.plan.checks, &joined).verdict {
            _ if self.plan.checks.is_off() => Verified::Skipped,
            Verdict::Pass => Verified::Repaired,
            Verdict::Mended(_) | Verdict::Flawed(_) => Verified::Failed,
        };
        self.trail.write(|account| {
            account.verified = verified;
            account.usage = total;
        });
        chunks.extend(total.map(|total| usage_chunk(base, total)));
        chunks
    }
}
