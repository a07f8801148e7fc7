//! Which model takes a request, and whether its answer is good enough. Read `Router::answer` first.
//!
//! Everything here is a pure function of values, but for `Fleet::call` in `climb`.

mod affinity;
mod asking;
mod cascade;
mod climb;
mod compose;
pub mod constraints;
mod decide;
mod draft;
mod error;
mod flow;
mod hedge;
mod lessons;
pub mod outside;
mod plan;
pub mod repair;
pub mod score;
mod trail;
pub mod verify;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use serde::Serialize;
use spectra_backends::chat::Format;
use spectra_backends::{ChatRequest, ChunkStream, Fleet};
use spectra_config as config;

pub use error::RouteError;
pub use lessons::Lessons;
pub use plan::{Held, Plan};
pub use trail::{Account, Attempt, Checked, Ended, Said, Trail, Verified, Why};

use affinity::Affinity;
use climb::Climb;
use plan::Route;
use score::{Policy, Score, Scorer, Situation, Weights};
use verify::SchemaCache;

/// Chooses, asks, judges. One per process; shared by all requests.
#[derive(Debug)]
pub struct Router {
    fleet: Fleet,
    scorer: Arc<Scorer>,
    /// The file its weights are from.
    weights: Option<String>,
    /// Its scores are those of a file's state, and no others.
    pinned: bool,
    policy: Policy,
    routes: BTreeMap<Arc<str>, Route>,
    local: Arc<str>,
    strong: Arc<str>,
    aliases: HashMap<String, String>,
    schemas: SchemaCache,
    affinity: Affinity,
    cascade: Option<cascade::Cascade>,
    learns: bool,
}

/// The two routes a policy chooses between. One route may be both: then its first rung decides nothing, and it is the local one.
#[derive(Clone, Debug)]
pub struct Sides {
    local: Arc<str>,
    strong: Arc<str>,
}

impl Sides {
    /// `local`, `strong`, or neither.
    #[must_use]
    pub fn of(&self, route: &str) -> Option<&'static str> {
        [(&self.local, "local"), (&self.strong, "strong")].into_iter().find(|(name, _)| ***name == *route).map(|(_, side)| side)
    }
}

/// What a caller asked of the router beside the request itself (`x-spectra-*` headers).
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub route: Option<String>,
    /// `off`, `on`, or a list of checks.
    pub verify: Option<String>,
    pub session: Option<String>,
    /// Shortens the route's own deadline; cannot lengthen it.
    pub deadline: Option<Duration>,
    pub request_id: Arc<str>,
    /// W3C trace context of the request's span, sent upstream.
    pub traceparent: Option<Arc<str>>,
}

impl Asked {
    /// What an attempt is asked with: where there is a trace, its own span of it.
    pub(crate) fn of_attempt(self: &Arc<Self>, number: usize) -> Arc<Self> {
        match self.traceparent.as_deref() {
            None => self.clone(),
            Some(request) => {
                let traceparent = Some(spectra_backends::trace::of_attempt(request, number));
                Arc::new(Self { traceparent, ..Self::clone(self) })
            }
        }
    }
}

/// An answer on its way to the client: it can be continued or broken off, not replaced.
pub struct Answer {
    pub head: Head,
    /// Unary: one whole chunk. Stream: legal chunks under one id; an `Err` breaks it off.
    pub chunks: ChunkStream,
}

/// What is known of an answer when it is committed.
#[derive(Clone, Debug)]
pub struct Head {
    pub route: Arc<str>,
    /// Name of the backend that answers.
    pub model: Arc<str>,
    pub attempts: usize,
    /// `Skipped` for a stream that still flows: its verdict comes at the end, in the trail.
    pub verified: Verified,
    pub cost_usd: f64,
    /// Upstream headers that may travel on.
    pub headers: http::HeaderMap,
}

/// What would be done with a request, and why. No model was asked.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub route: Arc<str>,
    pub why: &'static str,
    pub difficulty: Option<f32>,
    pub p_local: Option<f32>,
    pub p_hosted: Option<f32>,
    pub reasons: Vec<Reasoned>,
    /// What would send it the other way, in words.
    pub otherwise: Vec<String>,
    pub ladder: Vec<Vec<Arc<str>>>,
    pub excluded: Vec<(Arc<str>, &'static str)>,
    pub hold: Held,
    pub attempts: usize,
    pub deadline_ms: u64,
}

/// One feature that moved the score.
#[derive(Clone, Debug, Serialize)]
pub struct Reasoned {
    pub feature: &'static str,
    pub weight: f32,
    pub text: String,
}

/// A config that the router cannot be built from, for the world's reasons.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(String);

/// A route taken, and why.
struct Chosen<'a> {
    route: std::borrow::Cow<'a, Route>,
    why: &'static str,
    score: Option<Score>,
    propensity: f32,
}

impl Router {
    /// A router whose operator's checks know no programs and no endpoints: those fail whenever they are made.
    ///
    /// # Errors
    /// As [`Self::probing`].
    pub fn new(config: &config::Config, fleet: Fleet) -> Result<Self, BuildError> {
        Self::probing(config, fleet, &|_| Arc::new(outside::Nobody))
    }

    /// `probe` makes what reaches the program or the endpoint of an operator's check.
    ///
    /// # Errors
    /// If the weights file that the config names cannot be read, or the schema of an operator's check cannot be used.
    pub fn probing(
        config: &config::Config,
        fleet: Fleet,
        probe: &dyn Fn(&config::Own) -> Arc<dyn outside::Probe>,
    ) -> Result<Self, BuildError> {
        let weights = match &config.router.weights {
            None => Weights::builtin(),
            Some(path) => read_weights(path).map_err(|why| BuildError(format!("cannot use the weights in {path}: {why}")))?,
        };
        #[expect(clippy::cast_possible_truncation, reason = "shares within 0 to 1")]
        let (rule, explore) = (config.router.policy.into(), config.router.explore as f32);
        // What is learned is `learns`'s business: the scorer outlives this config.
        let scorer = Scorer::new(weights, score::Settings::default());
        if let Some(path) = &config.router.state {
            adopt(&scorer, path).map_err(|why| BuildError(format!("cannot use the state in {path}: {why}")))?;
        }
        Ok(Self {
            fleet,
            scorer: Arc::new(scorer),
            pinned: config.router.state.is_some() && !config.router.learn,
            weights: config.router.weights.clone(),
            policy: Policy::new(rule, explore),
            routes: config
                .routes
                .iter()
                .map(|(name, route)| {
                    let made = Route::new(name, route, &config.verify, probe);
                    made.map(|route| (Arc::from(name.as_str()), route)).map_err(|why| BuildError(format!("a check of route {name}: {why}")))
                })
                .collect::<Result<_, _>>()?,
            local: config.router.local.get_ref().as_str().into(),
            strong: config.router.strong.get_ref().as_str().into(),
            aliases: config.aliases.iter().map(|(alias, target)| (alias.clone(), target.get_ref().clone())).collect(),
            schemas: SchemaCache::new(256),
            affinity: Affinity::new(Duration::from_millis(config.router.affinity_ms)),
            cascade: config.router.cascade.as_ref().map(cascade::Cascade::new),
            learns: config.router.learn,
        })
    }

    /// The router of another config, which goes on with what this one has learned and remembers.
    ///
    /// # Errors
    /// As `new`.
    pub fn next(
        &self,
        config: &config::Config,
        fleet: Fleet,
        probe: &dyn Fn(&config::Own) -> Arc<dyn outside::Probe>,
    ) -> Result<Self, BuildError> {
        let mut next = Self::probing(config, fleet, probe)?;
        // A file of weights may have been written anew under the same name.
        if next.pinned {
            // Its state is the file's.
        } else if next.weights.is_none() && self.weights.is_none() {
            next.scorer = self.scorer.clone();
        } else {
            next.scorer.import(self.scorer.export());
        }
        next.affinity = self.affinity.lasting(Duration::from_millis(config.router.affinity_ms));
        Ok(next)
    }

    /// Answers one request: score, plan, then ask, judge and decide until an answer is usable or a bound is reached.
    ///
    /// # Errors
    /// A request that nobody can or may answer, or no usable answer within the plan's bounds.
    pub async fn answer(self: &Arc<Self>, trail: &Trail, request: ChatRequest, asked: Asked) -> Result<Answer, RouteError> {
        let clock = Clock::now();
        let plan = self.plan(trail, &request, &asked);
        trail.write(|account| account.plan_time = clock.elapsed());
        Climb::new(self.clone(), plan?, trail.clone(), request, asked).run().await
    }

    /// What `answer` would do.
    ///
    /// # Errors
    /// As `answer`, before any model is asked.
    pub fn explain(&self, request: &ChatRequest, asked: &Asked) -> Result<Explanation, RouteError> {
        let trail = Trail::default();
        let plan = self.plan(&trail, request, asked)?;
        let account = trail.account();
        let score = account.score.as_ref();
        let reasons = score.map(|score| {
            score.reasons.iter().map(|reason| Reasoned { feature: reason.feature, weight: reason.weight, text: reason.text() }).collect()
        });
        Ok(Explanation {
            route: plan.route.clone(),
            why: account.why,
            difficulty: score.map(|score| score.difficulty),
            p_local: score.map(|score| score.p_local),
            p_hosted: score.map(|score| score.p_hosted),
            reasons: reasons.unwrap_or_default(),
            ladder: plan.ladder.iter().map(|rung| rung.iter().map(|(name, _)| name.clone()).collect()).collect(),
            excluded: plan.excluded.clone(),
            otherwise: score.map(|score| self.otherwise(score, account.why)).unwrap_or_default(),
            hold: plan.hold,
            attempts: plan.attempts,
            deadline_ms: u64::try_from(plan.deadline.saturating_duration_since(tokio::time::Instant::now()).as_millis())
                .unwrap_or(u64::MAX),
        })
    }

    /// What would have changed the choice.
    fn otherwise(&self, score: &Score, why: &str) -> Vec<String> {
        let mut ways = vec![match why {
            "only_route" => "the other route's model being there and able to take the request".to_owned(),
            "queue" => "a shorter queue at the local model".to_owned(),
            "deadline" => "a later deadline, or a faster local model".to_owned(),
            "affinity" => "a new session: this one was escalated before".to_owned(),
            "exploration" => "asking again: it was sent the other way to learn from it".to_owned(),
            _ => self.policy.would_change(score),
        }];
        if score.seen < 20.0 {
            ways.push(format!("outcomes of its template {:016x}: {:.0} were seen so far", score.fingerprint, score.seen));
        }
        ways.push("model, or x-spectra-route, naming the route".to_owned());
        ways
    }

    /// Who takes in what becomes of this router's requests.
    #[must_use]
    pub fn lessons(&self) -> Lessons {
        Lessons::new(self.scorer.clone(), self.learns)
    }

    /// The scorer, whose learned state can be exported and imported.
    #[must_use]
    pub fn scorer(&self) -> &Arc<Scorer> {
        &self.scorer
    }

    /// True where a file says what was learned, and nothing is added to it.
    #[must_use]
    pub fn pinned(&self) -> bool {
        self.pinned
    }

    /// The two routes the policy chooses between.
    #[must_use]
    pub fn sides(&self) -> Sides {
        Sides { local: self.local.clone(), strong: self.strong.clone() }
    }

    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Names a caller may use as `model`: `auto`, routes, backends, aliases.
    #[must_use]
    pub fn models(&self) -> Vec<String> {
        let mut names: Vec<String> = std::iter::once("auto".to_owned())
            .chain(self.routes.keys().map(ToString::to_string))
            .chain(self.fleet.names().map(str::to_owned))
            .chain(self.aliases.keys().cloned())
            .collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    fn plan(&self, trail: &Trail, request: &ChatRequest, asked: &Asked) -> Result<Plan, RouteError> {
        let chosen = self.choose(request, asked)?;
        let checks = self.schemas.checks(request, &chosen.route.settings, asked.verify.as_deref())?;
        let mut plan = chosen.route.plan(&self.fleet, request, checks, asked.deadline);
        plan.cascade = self.cascade.filter(|cascade| chosen.score.as_ref().is_some_and(|score| cascade.doubts(score.p_local)));
        trail.write(|account| {
            account.route = Some(plan.route.clone());
            account.why = chosen.why;
            account.score = chosen.score;
            account.propensity = chosen.propensity;
        });
        if plan.ladder.is_empty() {
            let why: Vec<String> = plan.excluded.iter().map(|(name, why)| format!("{name} excluded by {why}")).collect();
            let context_length = plan.excluded.iter().any(|(_, why)| *why == "context_length");
            return Err(RouteError::NoRouteFits { route: plan.route.to_string(), why: why.join(", "), context_length });
        }
        Ok(plan)
    }

    fn choose<'a>(&'a self, request: &ChatRequest, asked: &Asked) -> Result<Chosen<'a>, RouteError> {
        let named = asked.route.as_deref().unwrap_or(&request.view().model);
        let named = self.aliases.get(named).map_or(named, String::as_str);
        let pinned = |route| Chosen { route, why: "pinned", score: None, propensity: 1.0 };
        if let Some(route) = self.routes.get(named) {
            return Ok(pinned(std::borrow::Cow::Borrowed(route)));
        }
        if self.fleet.facts(named).is_some() {
            return Ok(pinned(std::borrow::Cow::Owned(self.route(&self.strong)?.pinned(named))));
        }
        if named != "auto" {
            return Err(RouteError::UnknownModel { model: named.to_owned() });
        }
        self.by_score(request, asked)
    }

    fn by_score<'a>(&'a self, request: &ChatRequest, asked: &Asked) -> Result<Chosen<'a>, RouteError> {
        let (local, strong) = (self.route(&self.local)?, self.route(&self.strong)?);
        // A scorer that fails costs money, not answers: the strong route can take what the local one could.
        let Some(score) = sound(|| self.scorer.score(request)) else {
            return Ok(Chosen { route: std::borrow::Cow::Borrowed(strong), why: SCORER_FAILED, score: None, propensity: 1.0 });
        };
        let sticks = self.affinity.sticks(request, asked.session.as_deref());
        let situation = self.situation(request, asked, (local, strong));
        let choice = self.policy.choose(&score, &situation);
        let (route, why) = match choice.route {
            _ if sticks && situation.hosted => (strong, AFFINITY),
            score::Route::Local => (local, choice.why.as_str()),
            score::Route::Strong => (strong, choice.why.as_str()),
        };
        Ok(Chosen { route: std::borrow::Cow::Borrowed(route), why, score: Some(score), propensity: choice.propensity })
    }

    /// What the moment allows. The local route's own first rung must be able to take the request and be let through;
    /// its spare rungs are the strong route's business.
    fn situation(&self, request: &ChatRequest, asked: &Asked, (local, strong): (&Route, &Route)) -> Situation {
        let wants_schema = matches!(request.view().format, Format::JsonSchema { .. });
        let verifies =
            |route: &Route| !wants_schema || route.settings.with_header(asked.verify.as_deref()).is_ok_and(|settings| settings.schema);
        let verified = verifies(local) && verifies(strong);
        let able = |name: &str| {
            self.fleet.facts(name).is_some_and(|facts| constraints::unfit(request, facts, verified).is_none()) && self.fleet.admits(name)
        };
        let first = |route: &'_ Route| -> Vec<Arc<str>> {
            route.rungs.first().into_iter().flatten().map(|(name, _)| name.clone()).filter(|name| able(name)).collect()
        };
        let (first_local, first_strong) = (first(local), first(strong));
        // Of the backends that would be asked first: the shortest wait and time, and the lowest price.
        let least =
            |names: &[Arc<str>], of: &dyn Fn(&str) -> Option<f32>| names.iter().filter_map(|name| of(name)).reduce(f32::min).unwrap_or(0.0);
        let wait = |name: &str| Some(self.fleet.expected_wait(name)?.as_secs_f32() * 1000.0);
        let time = |name: &str| Some(self.fleet.held(name)?.as_secs_f32() * 1000.0);
        let tokens = expected_tokens(request);
        #[expect(clippy::cast_possible_truncation, reason = "a price needs no more than single precision")]
        let price = |name: &str| Some(self.fleet.facts(name)?.price.cost_usd(tokens.0, tokens.1) as f32);
        let here = !first_local.is_empty();
        Situation {
            // Where nobody else can take the request, a strong route that is shut for a while is still the one to ask.
            hosted: strong.has(&self.fleet, false) && (!here || strong.admits(&self.fleet)),
            local: here,
            local_wait_ms: least(&first_local, &wait),
            hosted_wait_ms: least(&first_strong, &wait),
            local_time_ms: least(&first_local, &time),
            local_usd: least(&first_local, &price),
            hosted_usd: least(&first_strong, &price),
            deadline_ms: asked.deadline.map(|deadline| deadline.as_secs_f32() * 1000.0),
            ..Situation::default()
        }
    }

    fn route(&self, name: &str) -> Result<&Route, RouteError> {
        self.routes.get(name).ok_or_else(|| RouteError::UnknownModel { model: name.to_owned() })
    }
}

/// Tokens of the prompt and of the answer, roughly, before any model counted them: enough to compare prices.
fn expected_tokens(request: &ChatRequest) -> (u64, u64) {
    const BYTES_PER_TOKEN: usize = 4;
    const ANSWER: u32 = 512;
    let bytes: usize = request.view().messages.iter().map(|message| message.text.len()).sum();
    let answer = request.view().max_tokens.map_or(ANSWER, |most| most.min(ANSWER));
    ((bytes / BYTES_PER_TOKEN) as u64, u64::from(answer))
}

fn read_weights(path: &str) -> Result<Weights, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Weights::read(&bytes).map_err(|error| error.to_string())
}

fn adopt(scorer: &Scorer, path: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let state = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    scorer.adopt(state).map_err(|error| error.to_string())
}

/// Why a request took the strong route whose conversation had been escalated.
pub const AFFINITY: &str = "affinity";
/// Why a request took the strong route that could not be scored.
pub const SCORER_FAILED: &str = "scorer_failed";

/// A score that means something; `None` where the scorer panicked, or gave numbers that are none.
fn sound(score: impl FnOnce() -> Score) -> Option<Score> {
    let scored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(score));
    let sound =
        scored.ok().filter(|score| [score.difficulty, score.p_local, score.p_hosted].iter().all(|share| (0.0..=1.0).contains(share)));
    if sound.is_none() {
        tracing::error!("a request could not be scored, and takes the strong route");
    }
    sound
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("head", &self.head).finish_non_exhaustive()
    }
}
