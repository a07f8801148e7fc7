//! The plan of one request: which ladder, judged how, within which bounds. No model has been asked yet.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use spectra_backends::{ChatRequest, Fleet};
use spectra_config as config;
use tokio::time::Instant;

use crate::cascade::Cascade;
use crate::constraints::unfit;
use crate::outside::{Outside, Probe};
use crate::verify::{Checks, Custom, Rule, Schema, Settings};

/// What will be done for one request.
#[derive(Clone, Debug)]
pub struct Plan {
    pub route: Arc<str>,
    /// Backends by rung, those that cannot take the request left out.
    pub ladder: Vec<Vec<(Arc<str>, u32)>>,
    /// Backends left out, and the rule that did it.
    pub excluded: Vec<(Arc<str>, &'static str)>,
    pub checks: Arc<Checks>,
    pub hold: Held,
    pub hold_bytes: usize,
    pub attempts: usize,
    pub attempts_per_rung: usize,
    pub continuations: usize,
    pub deadline: Instant,
    pub budget_usd: Option<f64>,
    pub hedge: bool,
    pub exhausted: config::Exhausted,
    /// The first words of a local answer are looked at: the score was in the doubtful band.
    pub cascade: Option<Cascade>,
}

/// How much of an answer is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    Whole,
    /// So many chunks with content.
    First(u32),
}

/// A route of the config, ready to plan with.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub name: Arc<str>,
    pub rungs: Vec<Vec<(Arc<str>, u32)>>,
    pub settings: Settings,
    pub config: config::Route,
}

impl Route {
    pub fn new(
        name: &str,
        route: &config::Route,
        verify: &config::Verify,
        probe: &dyn Fn(&config::Own) -> Arc<dyn Probe>,
    ) -> Result<Self, String> {
        let rungs = route
            .rungs()
            .iter()
            .map(|rung| rung.backends().into_iter().map(|(name, weight)| (Arc::from(name), weight)).collect())
            .collect();
        let settings = settings(route.verify.as_ref().unwrap_or(verify), probe)?;
        Ok(Self { name: name.into(), rungs, settings, config: route.clone() })
    }

    /// The same route with one backend only: a caller named it.
    pub fn pinned(&self, backend: &str) -> Self {
        Self { name: backend.into(), rungs: vec![vec![(backend.into(), 1)]], ..self.clone() }
    }

    /// True if some backend of the ladder is on this machine, or not.
    pub fn has(&self, fleet: &Fleet, local: bool) -> bool {
        self.rungs.iter().flatten().any(|(name, _)| fleet.facts(name).is_some_and(|facts| facts.local == local))
    }

    /// True if a hosted backend of the ladder would be let through now: its breaker is not open.
    pub fn admits(&self, fleet: &Fleet) -> bool {
        let hosted = |name: &str| fleet.facts(name).is_some_and(|facts| !facts.local);
        self.rungs.iter().flatten().any(|(name, _)| hosted(name) && fleet.admits(name))
    }

    pub fn plan(&self, fleet: &Fleet, request: &ChatRequest, checks: Arc<Checks>, deadline: Option<Duration>) -> Plan {
        let mut excluded = Vec::new();
        let mut ladder = Vec::with_capacity(self.rungs.len());
        for rung in &self.rungs {
            let mut able = Vec::with_capacity(rung.len());
            for (name, weight) in rung {
                match fleet.facts(name).map_or(Some("absent"), |facts| unfit(request, facts, checks.hold_the_form())) {
                    Some(why) => excluded.push((name.clone(), why)),
                    None => able.push((name.clone(), *weight)),
                }
            }
            if !able.is_empty() {
                ladder.push(able);
            }
        }
        let own = Duration::from_millis(self.config.deadline_ms);
        Plan {
            route: self.name.clone(),
            ladder,
            excluded,
            hold: held(self.config.hold, request, &checks),
            hold_bytes: self.config.hold_bytes,
            attempts: self.config.attempts as usize,
            attempts_per_rung: self.config.attempts_per_rung as usize,
            continuations: self.config.continuations as usize,
            deadline: Instant::now() + deadline.map_or(own, |asked| asked.min(own)),
            budget_usd: self.config.budget_usd,
            hedge: self.config.hedge,
            exhausted: self.config.exhausted,
            cascade: None,
            checks,
        }
    }
}

/// A unary answer is read whole anyway. `auto` holds back what a contract is checked on.
fn held(hold: config::Hold, request: &ChatRequest, checks: &Checks) -> Held {
    let view = request.view();
    match hold {
        _ if !view.stream => Held::Whole,
        config::Hold::Whole => Held::Whole,
        config::Hold::First(chunks) => Held::First(chunks),
        config::Hold::Auto if checks.is_off() => Held::First(1),
        config::Hold::Auto if checks.has_own() => Held::Whole,
        config::Hold::Auto if checks.wants_json() || !view.tools.is_empty() || view.n > 1 => Held::Whole,
        config::Hold::Auto => Held::First(1),
    }
}

/// The operator's switches in the verifier's terms.
fn settings(verify: &config::Verify, probe: &dyn Fn(&config::Own) -> Arc<dyn Probe>) -> Result<Settings, String> {
    if !verify.enabled {
        return Ok(Settings::off());
    }
    let checks = &verify.checks;
    let custom = verify.own.iter().filter_map(|(name, own)| Some(rule(own)?.map(|rule| Custom { name: name.as_str().into(), rule })));
    Ok(Settings {
        json: checks.json,
        schema: checks.schema,
        tools: checks.tools,
        truncation: checks.truncated,
        empty: checks.empty,
        refusal: checks.refusal,
        looping: checks.looping,
        echo: checks.echo,
        placeholder: checks.placeholder,
        code: checks.code,
        fenced_code: checks.code,
        least_logprob: checks.min_mean_logprob,
        least_margin: checks.min_mean_margin,
        custom: custom.collect::<Result<_, _>>()?,
        outside: verify.own.iter().filter_map(|(name, own)| Outside::of(name, own, probe)).collect(),
        repair: verify.repair,
        coerce: verify.coerce,
    })
}

/// The operator's check as a rule for the text; `None` for one that needs more.
fn rule(own: &config::Own) -> Option<Result<Rule, String>> {
    let regex = |pattern: &str| regex::Regex::new(pattern).map_err(|error| error.to_string());
    if let Some(pattern) = &own.matches {
        return Some(regex(pattern).map(Rule::Matches));
    }
    if let Some(pattern) = &own.lacks {
        return Some(regex(pattern).map(Rule::Lacks));
    }
    own.schema.as_deref().map(|text| Schema::compile(text).map(|schema| Rule::Schema(Arc::new(schema))))
}
