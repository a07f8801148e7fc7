//! One request on its way up the ladder: ask, judge, decide, until an answer is usable or a bound is reached.

use std::sync::Arc;
use std::time::Duration;

use spectra_backends::chat::Format;
use spectra_backends::chunk::{Finish, Usage};
use spectra_backends::{Alarm, BackendError, ChatRequest, Chunk, Complaint, Continuation, Fleet, Reply};
use tokio::time::{Instant, sleep};

use crate::asking::{Before, continuation, joined, reask, roomier, unbound};
use crate::compose::recompose;
use crate::decide::{Limits, Past, Seen, Step, next};
use crate::draft::{Draft, Reading, Watched, rejudged};
use crate::error::RouteError;
use crate::flow::Flow;
use crate::hedge::{Opening, Won, race};
use crate::outside::About;
use crate::plan::{Held, Plan};
use crate::trail::{Trail, Verified, Why};
use crate::verify::{Flaw, Hint, Judged, Verdict, next_ask_hint};
use crate::{Answer, Asked, Head, Router};

/// Longest pause before the same backend is asked again; a longer Retry-After is passed on to the client.
const PATIENCE: Duration = Duration::from_secs(5);
/// First pause before a retry where the upstream named none; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Climb {
    pub router: Arc<Router>,
    pub plan: Arc<Plan>,
    pub trail: Trail,
    pub request: ChatRequest,
    pub asked: Arc<Asked>,
    alarm: Alarm,
    past: Vec<Past>,
    last: Option<Whole>,
    retry_after: Option<Duration>,
}

/// A whole answer as read, judged, not usable as it is.
struct Whole {
    chunks: Vec<Chunk>,
    before: Before,
    finish: Option<Finish>,
    usage: Option<Usage>,
    headers: http::HeaderMap,
    backend: Arc<str>,
}

/// One question put to one backend.
struct Question {
    backend: Arc<str>,
    index: usize,
    rung: usize,
    began: Instant,
    why: Why,
}

/// What came of an attempt.
enum Came {
    Committed(Box<Answer>),
    Seen(Seen),
}

impl Climb {
    pub fn new(router: Arc<Router>, plan: Plan, trail: Trail, request: ChatRequest, asked: Asked) -> Self {
        let alarm = Alarm::at(plan.deadline);
        let (plan, asked) = (Arc::new(plan), Arc::new(asked));
        Self { router, plan, trail, request, asked, alarm, past: Vec::new(), last: None, retry_after: None }
    }

    /// At most `plan.attempts` attempts: `decide::next` sees to it.
    pub async fn run(mut self) -> Result<Answer, RouteError> {
        loop {
            match next(&self.limits(), &self.past) {
                Step::Deliver | Step::GiveUp => return self.give_up(),
                Step::Ask { rung, why, hint, after } => {
                    if !after.is_zero() {
                        sleep(after).await;
                    }
                    let mut question = self.begin(rung, why);
                    let seen = match self.attempt(&mut question, hint).await {
                        Came::Committed(answer) => {
                            if question.rung > 0 {
                                self.router.affinity.remember(&self.request, self.asked.session.as_deref());
                            }
                            return Ok(*answer);
                        }
                        Came::Seen(seen) => seen,
                    };
                    self.past.push(Past { rung: question.rung, why: question.why, seen });
                }
            }
        }
    }

    fn limits(&self) -> Limits {
        let spent = || self.trail.read(crate::trail::Account::cost_usd);
        let left = self.plan.deadline.saturating_duration_since(Instant::now());
        Limits {
            rungs: self.plan.ladder.len(),
            attempts: self.plan.attempts,
            attempts_per_rung: self.plan.attempts_per_rung,
            continuations: self.plan.continuations,
            affordable: !left.is_zero() && self.plan.budget_usd.is_none_or(|budget| spent() < budget),
            patience: PATIENCE.min(left),
        }
    }

    fn begin(&self, rung: usize, why: Why) -> Question {
        let (backend, began) = (self.router.fleet.pick(&self.plan.ladder[rung]), Instant::now());
        let local = self.router.fleet.facts(&backend).is_some_and(|facts| facts.local);
        let index = self.trail.begin_attempt(backend.clone(), rung, why, local, began);
        Question { backend, index, rung, began, why }
    }

    async fn attempt(&mut self, question: &mut Question, hint: Option<Hint>) -> Came {
        let request = match self.worded(question, hint) {
            Ok(request) => request,
            Err(error) => return self.faulty(question, BackendError::Broken { what: error.message }),
        };
        let mut reply = match self.open(question, request).await {
            Ok(reply) => reply,
            Err(error) => return self.faulty(question, error),
        };
        let headers = std::mem::take(&mut reply.headers);
        let mut draft = Draft::new(self.plan.checks.clone());
        draft.watched = self.watched(question);
        // A continuation is half an answer: it is joined first and judged then.
        let hold = if question.why == Why::Continue { Held::Whole } else { self.plan.hold };
        let reading = draft.read(reply, &self.plan, hold, question.began, &mut self.alarm).await;
        self.note(question, &draft);
        match reading {
            Reading::Flowing(rest) => self.flowing(question, draft, rest, headers),
            Reading::Judged(said) if question.why == Why::Continue => self.stitched(question, said, draft.usage, headers).await,
            Reading::Judged(judged) => self.judged(question, draft.chunks, judged, draft.usage, headers).await,
            Reading::Hopeless(flaw) => {
                let Judged { choices, .. } = draft.judge();
                let text = choices.into_iter().next().map(|choice| choice.text).unwrap_or_default();
                self.flawed(
                    question,
                    Whole {
                        chunks: Vec::new(),
                        before: Before { flaw, text },
                        finish: None,
                        usage: draft.usage,
                        headers,
                        backend: question.backend.clone(),
                    },
                )
            }
            Reading::Broken(error) => self.faulty(question, error),
        }
    }

    /// A first answer of a local model is watched where another model is left to ask.
    fn watched(&self, question: &Question) -> Option<Watched> {
        let cascade = self.plan.cascade.filter(|_| question.why == Why::First && question.rung + 1 < self.plan.ladder.len())?;
        let tells = self.router.fleet.facts(&question.backend).is_some_and(|facts| facts.local && facts.logprobs);
        tells.then(|| Watched { cascade, strips: !self.request.view().logprobs })
    }

    /// Asks; where the route hedges and the backend is later than its own 95th percentile, the next rung too.
    async fn open(&mut self, question: &mut Question, request: ChatRequest) -> Result<Reply, BackendError> {
        let first = self.opening(question);
        let may = self.plan.hedge && question.why == Why::First && self.plan.ladder.len() > 1 && self.plan.attempts > 1;
        let late = if may { self.router.fleet.first_chunk_p95(&question.backend) } else { None };
        let Some(late) = late else { return first.ask_within(&mut self.alarm, request).await };
        let mut hedge = None;
        let won = race(&first, &request, late, || {
            let question = hedge.insert(self.begin(question.rung + 1, Why::Hedge));
            self.opening(question)
        })
        .await;
        match (won, hedge) {
            (Won::Second(reply), Some(hedge)) => {
                // The slow one has had its attempt; its trail says that it was let go.
                self.past.push(Past { rung: question.rung, why: question.why, seen: Seen::Fault { after: Duration::ZERO } });
                *question = hedge;
                Ok(reply)
            }
            (Won::Second(reply), None) => Ok(reply),
            (Won::First(reply), _) => reply,
        }
    }

    fn opening(&self, question: &Question) -> Opening {
        Opening {
            fleet: self.router.fleet.clone(),
            backend: question.backend.clone(),
            asked: self.asked.of_attempt(question.index),
            began: question.began,
            deadline: self.plan.deadline,
            stops_loops: self.plan.checks.settings().looping,
        }
    }

    /// The request as this attempt puts it.
    fn worded(&self, question: &Question, hint: Option<Hint>) -> Result<ChatRequest, spectra_backends::chat::BadRequest> {
        let was_unbound = |attempt: &Past| attempt.rung == question.rung && attempt.why == Why::Unbound;
        let honoured = self.router.fleet.facts(&question.backend).is_none_or(|facts| facts.json_schema);
        let wants_schema = matches!(self.request.view().format, Format::JsonSchema { .. });
        let request = if question.why == Why::Unbound || (wants_schema && !honoured) || self.past.iter().any(was_unbound) {
            &unbound(&self.request)?
        } else {
            &self.request
        };
        match (question.why, &self.last, hint) {
            (Why::Continue, Some(last), _) => continuation(request, &last.before.text, self.continues_by(&question.backend)),
            (Why::MoreTokens, _, _) => roomier(request),
            (Why::Reask, Some(last), Some(hint)) => reask(request, &last.before, hint, self.past.len()),
            _ => match self.watched(question) {
                Some(Watched { cascade, strips: true }) => request.edited(&cascade.asks()),
                _ => Ok(request.clone()),
            },
        }
    }

    pub fn continues_by(&self, backend: &str) -> Continuation {
        self.router.fleet.facts(backend).map_or(Continuation::Instruction, |facts| facts.continues_by)
    }

    /// Writes down what the reading cost.
    fn note(&self, question: &Question, draft: &Draft) {
        let cost = cost_usd(&self.router.fleet, &question.backend, draft.usage);
        self.trail.used(question.index, draft.usage, cost);
        self.trail.write(|account| {
            account.verify_time += draft.verify_time;
            account.attempts[question.index].first_chunk = draft.first_chunk;
        });
    }

    fn verdict(&self, question: &Question, verdict: Verdict) {
        // An exchange's faults reach the breaker through the guard; this is the verifier's word.
        if !matches!(&verdict, Verdict::Flawed(Flaw::Backend(_))) {
            self.router.fleet.report(&question.backend, verdict.is_usable());
        }
        self.trail.end_attempt(question.index, verdict);
    }

    fn flowing(&mut self, question: &Question, mut draft: Draft, rest: spectra_backends::ChunkStream, headers: http::HeaderMap) -> Came {
        let head = self.head(question.backend.clone(), Verified::Skipped, headers);
        self.trail.write(|account| account.delivered = Some(question.index));
        let held = std::mem::take(&mut draft.chunks);
        let flow = Flow {
            router: self.router.clone(),
            plan: self.plan.clone(),
            trail: self.trail.clone(),
            request: self.request.clone(),
            asked: self.asked.clone(),
            backend: question.backend.clone(),
            index: question.index,
            rung: question.rung,
            began: question.began,
            alarm: std::mem::replace(&mut self.alarm, Alarm::at(self.plan.deadline)),
            verifier: draft.into_verifier(),
        };
        Came::Committed(Box::new(Answer { head, chunks: flow.run(held, rest) }))
    }

    async fn judged(
        &mut self,
        question: &Question,
        chunks: Vec<Chunk>,
        judged: Judged,
        usage: Option<Usage>,
        headers: http::HeaderMap,
    ) -> Came {
        let judged = self.about(question).checked(judged).await;
        let chunks = match &judged.verdict {
            Verdict::Pass => Ok(chunks),
            Verdict::Mended(_) => recompose(&chunks, &judged.choices, None),
            Verdict::Flawed(flaw) => {
                let (text, finish) = judged.choices.first().map(|choice| (choice.text.clone(), choice.finish.clone())).unwrap_or_default();
                let before = Before { flaw: flaw.clone(), text };
                return self.flawed(question, Whole { chunks, before, finish, usage, headers, backend: question.backend.clone() });
            }
        };
        let chunks = match chunks {
            Ok(chunks) => chunks,
            Err(error) => return self.faulty(question, error),
        };
        let verified = match &judged.verdict {
            _ if self.plan.checks.is_off() => Verified::Skipped,
            Verdict::Mended(_) => Verified::Repaired,
            _ => Verified::Ok,
        };
        self.verdict(question, judged.verdict);
        self.commit(question.index, verified, usage);
        let head = self.head(question.backend.clone(), verified, headers);
        Came::Committed(Box::new(Answer { head, chunks: whole_stream(chunks) }))
    }

    fn about<'a>(&'a self, question: &'a Question) -> About<'a> {
        About {
            fleet: &self.router.fleet,
            plan: &self.plan,
            trail: &self.trail,
            request: &self.request,
            asked: &self.asked,
            backend: &question.backend,
        }
    }

    /// Joins a continuation to what was there, and judges the whole.
    async fn stitched(&mut self, question: &Question, said: Judged, usage: Option<Usage>, headers: http::HeaderMap) -> Came {
        let Some(last) = self.last.take() else {
            return self.faulty(question, BackendError::Broken { what: "nothing to continue".into() });
        };
        let mut choice = said.choices.into_iter().next().unwrap_or_default();
        choice.text = joined(&last.before.text, &choice.text);
        choice.mended = Some(choice.text.clone());
        choice.finish = choice.finish.or(last.finish);
        let usage = summed(last.usage, usage);
        match recompose(&last.chunks, std::slice::from_ref(&choice), usage) {
            Ok(chunks) => {
                let judged = rejudged(&self.plan.checks, &chunks);
                self.judged(question, chunks, judged, usage, headers).await
            }
            Err(error) => self.faulty(question, error),
        }
    }

    fn flawed(&mut self, question: &Question, whole: Whole) -> Came {
        let flaw = whole.before.flaw.clone();
        let mut hint = next_ask_hint(&flaw);
        // Only a single, read text can be gone on from.
        if hint == Hint::Continue && (self.request.view().n > 1 || whole.chunks.is_empty() || !self.request.view().tools.is_empty()) {
            hint = Hint::MoreTokens;
        }
        self.verdict(question, Verdict::Flawed(flaw));
        self.last = Some(whole);
        Came::Seen(Seen::Flawed(hint))
    }

    fn faulty(&mut self, question: &Question, error: BackendError) -> Came {
        let seen = self.classed(&error);
        self.retry_after = error.retry_after();
        self.verdict(question, Verdict::Flawed(Flaw::Backend(error.clone())));
        if self.last.is_none() || matches!(seen, Seen::Refused) {
            self.last = Some(Whole {
                chunks: Vec::new(),
                before: Before { flaw: Flaw::Backend(error), text: String::new() },
                finish: None,
                usage: None,
                headers: http::HeaderMap::new(),
                backend: question.backend.clone(),
            });
        }
        Came::Seen(seen)
    }

    fn classed(&self, error: &BackendError) -> Seen {
        match (error, error.complaint()) {
            // Told in words only where its answer is verified; else nothing would hold the form.
            (_, Some(Complaint::Constraint)) if self.plan.checks.hold_the_form() => Seen::Unbound,
            // Too long for this model, or a field it does not know, is no fault of the caller's.
            (_, Some(_)) => Seen::Unfit,
            _ if error.is_callers_fault() => Seen::Refused,
            (BackendError::Upstream { status: 401..=404, .. }, _) => Seen::Unfit,
            _ => {
                let doubled = PAUSE * 2u32.saturating_pow(u32::try_from(self.past.len()).unwrap_or(8).min(8));
                Seen::Fault { after: error.retry_after().unwrap_or(doubled) }
            }
        }
    }

    /// No attempt was usable: an error, or the last answer with its flaw told.
    fn give_up(mut self) -> Result<Answer, RouteError> {
        let attempts = self.past.len();
        let out_of = if Instant::now() >= self.plan.deadline { Some("deadline") } else { (!self.limits().affordable).then_some("budget") };
        let Some(last) = self.last.take() else {
            return Err(RouteError::OutOf { what: out_of.unwrap_or("attempts"), attempts });
        };
        let deliverable = !last.chunks.is_empty() && may_deliver(self.plan.exhausted, &last.before.flaw, self.plan.checks.wants_json());
        if !deliverable {
            if let (Some(what), true) = (out_of, matches!(last.before.flaw, Flaw::Backend(BackendError::Timeout { .. }))) {
                return Err(RouteError::OutOf { what, attempts });
            }
            return Err(RouteError::Exhausted { flaw: Box::new(last.before.flaw), attempts, retry_after: self.retry_after });
        }
        let index = self.trail.read(|account| account.attempts.iter().rposition(|attempt| attempt.backend == last.backend)).unwrap_or(0);
        self.commit(index, Verified::Failed, last.usage);
        let head = self.head(last.backend, Verified::Failed, last.headers);
        Ok(Answer { head, chunks: whole_stream(last.chunks) })
    }

    fn commit(&self, index: usize, verified: Verified, usage: Option<Usage>) {
        self.trail.write(|account| {
            account.delivered = Some(index);
            account.verified = verified;
            account.usage = usage;
        });
    }

    fn head(&self, model: Arc<str>, verified: Verified, headers: http::HeaderMap) -> Head {
        let (attempts, cost_usd) = self.trail.read(|account| (account.attempts.len(), account.cost_usd()));
        Head { route: self.plan.route.clone(), model, attempts, verified, cost_usd, headers }
    }
}

/// True where a flawed answer is still worth having, told as such.
fn may_deliver(exhausted: spectra_config::Exhausted, flaw: &Flaw, wants_json: bool) -> bool {
    use spectra_config::Exhausted;
    match exhausted {
        Exhausted::Error => false,
        Exhausted::Deliver => true,
        Exhausted::Auto => match flaw {
            Flaw::Empty | Flaw::NotJson { .. } | Flaw::OffSchema { .. } | Flaw::BadToolCall { .. } | Flaw::Backend(_) => false,
            // What the operator's own check refuses is not for callers: it may hold a key.
            Flaw::Custom { .. } => false,
            // A model that declines has answered: its caller must see the refusal.
            Flaw::Refused { .. } => true,
            _ => !wants_json,
        },
    }
}

/// USD of one attempt; 0 where the model did not say what it used.
pub(crate) fn cost_usd(fleet: &Fleet, backend: &str, usage: Option<Usage>) -> f64 {
    let price = fleet.facts(backend).map(|facts| facts.price).unwrap_or_default();
    usage.map_or(0.0, |usage| price.cost_usd(usage.prompt_tokens, usage.completion_tokens))
}

pub(crate) fn summed(one: Option<Usage>, other: Option<Usage>) -> Option<Usage> {
    match (one, other) {
        (Some(mut sum), Some(more)) => {
            sum += more;
            Some(sum)
        }
        (one, other) => one.or(other),
    }
}

fn whole_stream(chunks: Vec<Chunk>) -> spectra_backends::ChunkStream {
    Box::pin(futures_util::stream::iter(chunks.into_iter().map(Ok)))
}
