//! `[routes.NAME]`, `[router]`: who is asked, in which order.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::backend::Backend;
use crate::error::Fault;
use crate::verify::Verify;

/// One way through the models.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Backends in the order they are asked; the next one is asked when an answer is not usable.
    #[schemars(with = "Vec<Rung>")]
    pub ladder: Spanned<Vec<Rung>>,
    #[serde(default)]
    pub hold: Hold,
    /// Most attempts for one request, over all rungs.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// Most attempts at one rung before the next is asked.
    #[serde(default = "attempts_per_rung")]
    pub attempts_per_rung: u32,
    /// Everything a request may take, in milliseconds: score, attempts, verification, repair.
    #[serde(default = "deadline_ms")]
    pub deadline_ms: u64,
    /// Most USD all attempts of one request may cost; unset: no bound but attempts.
    pub budget_usd: Option<f64>,
    /// Most bytes held before commit. Over it a `first` hold commits and a `whole` hold is flawed.
    #[serde(default = "hold_bytes")]
    pub hold_bytes: usize,
    /// Most continuations of one cut or truncated answer.
    #[serde(default = "continuations")]
    pub continuations: u32,
    /// Ask the next rung too when this one's first chunk is later than its own 95th percentile; the loser is cancelled.
    #[serde(default)]
    pub hedge: bool,
    /// What a caller gets when no attempt was usable.
    #[serde(default)]
    pub exhausted: Exhausted,
    /// This route's own checks; unset: `[verify]`.
    pub verify: Option<Verify>,
    /// True after loading where none of its own backends was left.
    #[serde(skip)]
    pub degraded: bool,
}

fn attempts() -> u32 {
    4
}
fn attempts_per_rung() -> u32 {
    2
}
fn deadline_ms() -> u64 {
    300_000
}
fn hold_bytes() -> usize {
    8 << 20
}
fn continuations() -> u32 {
    3
}

/// What a caller gets when every attempt was made and none was usable.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Exhausted {
    /// An error where the caller's contract (JSON, schema, tools) is broken, a check of the operator's own says no, or nothing was
    /// said; else the last answer, flagged.
    #[default]
    Auto,
    /// Always an error.
    Error,
    /// The last answer, flagged `x-spectra-verified: failed`.
    Deliver,
}

/// One step of a ladder: a backend, or several among which the least loaded is taken, by weight.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Rung {
    One(String),
    Any { any: BTreeMap<String, u32> },
}

impl Rung {
    /// Backends of this rung with their weights.
    #[must_use]
    pub fn backends(&self) -> Vec<(&str, u32)> {
        match self {
            Self::One(name) if name.is_empty() => Vec::new(),
            Self::One(name) => vec![(name, 1)],
            Self::Any { any } => any.iter().map(|(name, weight)| (name.as_str(), *weight)).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.backends().is_empty()
    }

    pub(crate) fn remove(&mut self, gone: &str) {
        match self {
            Self::One(name) if name == gone => name.clear(),
            Self::One(_) => {}
            Self::Any { any } => {
                any.remove(gone);
            }
        }
    }
}

/// How much of a streamed answer is kept back until it is judged.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// All of it where the caller asked for JSON or tools, else the first chunk.
    #[default]
    Auto,
    /// All of it.
    Whole,
    /// So many chunks with content.
    First(u32),
}

/// `[router]`: how a route is chosen for the model `auto`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Router {
    /// Route of requests that the local model will probably answer well.
    #[schemars(with = "String")]
    pub local: Spanned<String>,
    /// Route of the others.
    #[schemars(with = "String")]
    pub strong: Spanned<String>,
    pub policy: Policy,
    /// Share of requests sent against the policy's advice, to learn; 0 to 0.1.
    pub explore: f64,
    /// A reload whose `policy` would lower the share of usable first answers by more than this (0 to 1), by the whole 95 % interval of
    /// an estimate from the ledger, is refused; unset: the estimate is logged and the policy taken.
    pub guard_usable_drop: Option<f64>,
    /// Learn from verified outcomes. False: scores stay as they are.
    pub learn: bool,
    /// A conversation that was escalated stays on the strong route for so long.
    pub affinity_ms: u64,
    /// Weights made by `spectra train`; unset: the built-in ones.
    pub weights: Option<String>,
    /// What was learned elsewhere (`spectra router export`). With `learn = false` the scores are these and no others;
    /// else they are where learning starts as long as the ledger holds nothing.
    pub state: Option<String>,
    /// Ask the next model after the first words of a local answer that its own model doubts; unset: only whole answers are judged.
    pub cascade: Option<Cascade>,
}

/// `[router.cascade]`: when the log probabilities of a local answer's first tokens send the request on.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Cascade {
    /// Only requests whose chance of a usable local answer lies within these bounds are watched, 0 to 1.
    pub band: (f64, f64),
    /// Tokens that are looked at before the answer is let through; a shorter answer is looked at as it is.
    pub tokens: u32,
    /// Least mean log probability of these tokens; unset: not looked at.
    pub min_mean_logprob: Option<f64>,
    /// Least mean distance to the second likeliest token; unset: not looked at.
    pub min_mean_margin: Option<f64>,
}

impl Default for Cascade {
    fn default() -> Self {
        Self { band: (0.2, 0.9), tokens: 16, min_mean_logprob: Some(-0.7), min_mean_margin: None }
    }
}

impl Default for Router {
    fn default() -> Self {
        let name = |text: &str| Spanned::new(0..0, text.to_owned());
        Self {
            local: name("local"),
            strong: name("strong"),
            policy: Policy::default(),
            explore: 0.0,
            guard_usable_drop: None,
            learn: true,
            affinity_ms: 600_000,
            weights: None,
            state: None,
            cascade: None,
        }
    }
}

/// What the operator wants of the choice.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Policy {
    /// The strong route above this difficulty, 0 to 1.
    Threshold(f64),
    /// The cheapest route whose chance of a usable answer clears `usable`, 0 to 1.
    Target { usable: f64 },
    /// The hardest requests go to the strong route, as many as this share, 0 to 1.
    Budget { hosted_share: f64 },
}

impl Default for Policy {
    fn default() -> Self {
        Self::Threshold(0.5)
    }
}

impl Route {
    #[must_use]
    pub fn rungs(&self) -> &[Rung] {
        self.ladder.get_ref()
    }

    /// Every backend of the ladder, in order.
    #[must_use]
    pub fn ladder_names(&self) -> Vec<String> {
        self.rungs().iter().flat_map(Rung::backends).map(|(name, _)| name.to_owned()).collect()
    }

    pub(crate) fn check(&self, name: &str, backends: &BTreeMap<String, Backend>) -> Result<(), Fault> {
        let known = || format!("write one of: {}", backends.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
        for rung in self.rungs() {
            for (backend, weight) in rung.backends() {
                if !backends.contains_key(backend) {
                    return Err(Fault::within(
                        self.ladder.span(),
                        backend,
                        format!("route {name} names the backend {backend}, which is not defined"),
                        known(),
                    ));
                }
                if weight == 0 {
                    return Err(Fault::within(
                        self.ladder.span(),
                        backend,
                        format!("route {name} gives {backend} the weight 0"),
                        "write 1 or more, or leave the backend out",
                    ));
                }
            }
        }
        if self.rungs().is_empty() {
            return Err(Fault::new(None, format!("routes.{name}.ladder is empty"), known()));
        }
        if self.attempts == 0 || self.attempts_per_rung == 0 || self.attempts > 16 {
            return Err(Fault::new(
                None,
                format!("routes.{name}: attempts must be 1 to 16 and attempts_per_rung at least 1"),
                "leave them out for 4 and 2",
            ));
        }
        if self.deadline_ms == 0 {
            return Err(Fault::new(None, format!("routes.{name}.deadline_ms is 0"), "write milliseconds, for example 300000"));
        }
        if self.hold == Hold::First(0) {
            return Err(Fault::new(None, format!("routes.{name}.hold keeps 0 chunks"), "write hold = { first = 1 } or more"));
        }
        Ok(())
    }
}

impl Router {
    pub(crate) fn check(&self, routes: &BTreeMap<String, Route>) -> Result<(), Fault> {
        for (key, name) in [("local", &self.local), ("strong", &self.strong)] {
            if !routes.contains_key(name.get_ref()) {
                let known = routes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let span = Some(name.span()).filter(|span| !span.is_empty());
                return Err(Fault::new(
                    span,
                    format!("router.{key} is {}, which is not a route", name.get_ref()),
                    format!("set router.{key} to one of: {known}"),
                ));
            }
        }
        let share = match self.policy {
            Policy::Threshold(share) | Policy::Target { usable: share } | Policy::Budget { hosted_share: share } => share,
        };
        if !(0.0..=1.0).contains(&share) {
            return Err(Fault::new(None, format!("router.policy has {share}, which is not within 0 to 1"), "write a share such as 0.5"));
        }
        if let Some(cascade) = &self.cascade {
            let (low, high) = cascade.band;
            let sound = 0.0 <= low && low <= high && high <= 1.0 && (1..=256).contains(&cascade.tokens);
            if !sound {
                return Err(Fault::new(
                    None,
                    format!("router.cascade: the band {low} to {high} or the {} tokens cannot be", cascade.tokens),
                    "write a band within 0 to 1, such as [0.2, 0.9], and 1 to 256 tokens",
                ));
            }
        }
        if let Some(drop) = self.guard_usable_drop.filter(|drop| !(0.0..=1.0).contains(drop)) {
            return Err(Fault::new(
                None,
                format!("router.guard_usable_drop is {drop}, which is not within 0 to 1"),
                "write a share such as 0.02, or leave it out for none",
            ));
        }
        if !(0.0..=0.1).contains(&self.explore) {
            return Err(Fault::new(
                None,
                format!("router.explore is {}, which is not within 0 to 0.1", self.explore),
                "write a share such as 0.02, or 0 for none",
            ));
        }
        Ok(())
    }
}
