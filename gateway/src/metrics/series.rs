//! Handles resolved once a config, and the counting itself.

use std::collections::{BTreeMap, HashMap};

use prometheus::{Counter, Histogram, IntCounter};
use spectra_backends::BackendError;
use spectra_config::{BackendKind, Config};
use spectra_router::repair::Stage;
use spectra_router::score::{self, FEATURES};
use spectra_router::verify::Flaw;
use spectra_router::{Verified, Why};

use super::families::Families;
use crate::record::{AttemptData, Outcome, RecordData};
use crate::tally::{ENDED, FIRST, VERDICT, ended, first_try, verdict};

/// The label for a request that took no route.
const NONE: &str = "none";
/// The label for a name that is not in the config.
const OTHER: &str = "other";

const VERIFIED: [&str; 4] = ["ok", "repaired", "failed", "skipped"];
const TENTHS: [&str; 10] = ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"];
/// Reasons of a route that was not chosen by score.
const UNSCORED: [&str; 3] = ["pinned", spectra_router::AFFINITY, spectra_router::SCORER_FAILED];
const OPERATION: &str = "chat";

/// Handles by the config's names.
#[derive(Debug)]
pub(super) struct Series {
    routes: BTreeMap<String, Route>,
    /// Requests without a route.
    none: Route,
    models: BTreeMap<String, Model>,
    other: Model,
    parse: Histogram,
    plan: Histogram,
    verify: Histogram,
}

#[derive(Debug)]
struct Route {
    name: String,
    ended: [IntCounter; 7],
    first: [IntCounter; 5],
    verified: [IntCounter; 4],
    difficulty: Histogram,
    seconds: Histogram,
    first_token: Histogram,
    output_token: Histogram,
    /// By reason, for those that are seeded.
    decisions: HashMap<&'static str, IntCounter>,
    compared: Counter,
    saved: Counter,
    extra: Counter,
    /// By tenth of the predicted chance: usable, unusable.
    predictions: Vec<[IntCounter; 2]>,
    /// By backend and rung of the ladder.
    rungs: Vec<Rung>,
}

#[derive(Debug)]
struct Rung {
    model: String,
    rung: u32,
    verdicts: [IntCounter; 5],
    cost: Counter,
}

#[derive(Debug)]
struct Model {
    name: String,
    provider: &'static str,
    seconds: Histogram,
    first_chunk: Histogram,
    input: Histogram,
    output: Histogram,
    usage_missing: IntCounter,
    /// In the order of `Why::ALL`.
    asks: [IntCounter; Why::ALL.len()],
}

impl Series {
    pub(super) fn seed(families: &Families, config: &Config) -> Self {
        let models = config.backends.iter().map(|(name, backend)| {
            let provider = match backend.kind() {
                Some(BackendKind::Llama(_)) => "llama_cpp",
                Some(BackendKind::Openai(_)) => "openai",
                Some(BackendKind::Script(_)) => "script",
                None => OTHER,
            };
            (name.clone(), Model::seed(families, name, provider))
        });
        let routes = config.routes.iter().map(|(name, route)| {
            let rungs = (0..)
                .zip(route.rungs())
                .flat_map(|(rung, step)| step.backends().into_iter().map(move |(model, _)| (rung, model.to_owned())).collect::<Vec<_>>());
            (name.clone(), Route::seed(families, name, rungs))
        });
        let direct = config.backends.keys().map(|model| (0, model.clone()));
        for (route, steps) in config.routes.iter().map(|(name, route)| (name, route.ladder_names())) {
            families.requests.feedback.with_label_values(&[route.as_str(), "true"]);
            families.requests.feedback.with_label_values(&[route.as_str(), "false"]);
            for pair in steps.windows(2) {
                for reason in Flaw::KINDS.into_iter().chain(BackendError::KINDS) {
                    families.attempts.escalations.with_label_values(&[pair[0].as_str(), pair[1].as_str(), reason]);
                }
            }
        }
        let own = config.routes.values().filter_map(|route| route.verify.as_ref()).chain([&config.verify]).flat_map(|verify| &verify.own);
        for (name, _) in own.filter(|(_, own)| own.needs_more_than_text()) {
            for said in spectra_router::Said::ALL {
                families.attempts.checks.with_label_values(&[name.as_str(), said.as_str()]);
            }
        }
        seed_rest(families);
        let phase = |name: &str| families.routing.overhead.with_label_values(&[name]);
        Self {
            routes: routes.collect(),
            none: Route::seed(families, NONE, direct),
            models: models.collect(),
            other: Model::seed(families, OTHER, OTHER),
            parse: phase("parse"),
            plan: phase("plan"),
            verify: phase("verify"),
        }
    }

    pub(super) fn provider(&self, model: &str) -> &'static str {
        self.models.get(model).unwrap_or(&self.other).provider
    }

    /// Backends of the config.
    pub(super) fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// The label for a route's name; `none` for what the config does not know.
    pub(super) fn route_name(&self, route: Option<&str>) -> &str {
        &self.route(route).name
    }

    pub(super) fn request(&self, families: &Families, record: &RecordData) {
        let route = self.route(record.route.as_deref());
        route.ended[ended(record)].inc();
        if let Some(worth) = first_try(record) {
            route.first[worth].inc();
            if let (Some(chance), Some(observed @ (0 | 1))) = (record.decision.predicted, Some(worth)) {
                route.predictions[tenth(chance)][observed].inc();
            }
        }
        if record.outcome == Outcome::Delivered {
            route.verified[verified(record.verified)].inc();
        }
        if let Some(code) = record.error_code {
            families.requests.errors.with_label_values(&[status(record.status), code]).inc();
        }
        if record.route.is_some() {
            match route.decisions.get(record.reason) {
                Some(decisions) => decisions.inc(),
                None => families.routing.decisions.with_label_values(&[route.name.as_str(), record.reason]).inc(),
            }
        }
        if let Some(difficulty) = record.score {
            route.difficulty.observe(f64::from(difficulty));
        }
        self.times(families, route, record);
        money(route, record);
    }

    fn times(&self, families: &Families, route: &Route, record: &RecordData) {
        let timings = &record.timings;
        self.parse.observe(timings.parse.as_secs_f64());
        if record.outcome == Outcome::Rejected {
            return;
        }
        self.plan.observe(timings.plan.as_secs_f64());
        self.verify.observe(timings.verify.as_secs_f64());
        let operation = record.entrance.operation();
        if operation == OPERATION {
            route.seconds.observe(timings.total.as_secs_f64());
        } else {
            families.requests.seconds.with_label_values(&[operation, &route.name]).observe(timings.total.as_secs_f64());
        }
        let Some(first_byte) = timings.first_byte else { return };
        route.first_token.observe(first_byte.as_secs_f64());
        let tokens = record.usage.map_or(0, |usage| usage.completion_tokens);
        if record.streamed && record.outcome == Outcome::Delivered && tokens > 1 {
            #[expect(clippy::cast_precision_loss, reason = "token counts stay far below 2^52")]
            let per_token = timings.total.saturating_sub(first_byte).as_secs_f64() / (tokens - 1) as f64;
            route.output_token.observe(per_token);
        }
    }

    pub(super) fn attempt(&self, families: &Families, record: &RecordData, attempt: &AttemptData, before: Option<&AttemptData>) {
        let model = self.models.get(&*attempt.model).unwrap_or(&self.other);
        let route = self.route(record.route.as_deref());
        let verdict = verdict(attempt);
        if let Some(rung) = route.rungs.iter().find(|rung| rung.rung == attempt.rung && rung.model == *attempt.model) {
            rung.verdicts[verdict].inc();
            rung.cost.inc_by(attempt.cost_usd.max(0.0));
        } else {
            let rung = attempt.rung.min(99).to_string();
            let labels = [route.name.as_str(), model.name.as_str(), rung.as_str(), VERDICT[verdict]];
            families.attempts.total.with_label_values(&labels).inc();
            families.money.cost.with_label_values(&labels[..2]).inc_by(attempt.cost_usd.max(0.0));
        }
        match Why::ALL.iter().position(|why| why.as_str() == attempt.why) {
            Some(why) => model.asks[why].inc(),
            None => families.attempts.asks.with_label_values(&[model.name.as_str(), attempt.why]).inc(),
        }
        if let Some(flaw) = attempt.flaw {
            families.attempts.flaws.with_label_values(&[model.name.as_str(), flaw]).inc();
        }
        let mended = if verdict <= 1 { "mended" } else { "insufficient" };
        for stage in &attempt.repairs {
            families.attempts.repairs.with_label_values(&[*stage, mended]).inc();
        }
        if let Some(before) = before.filter(|before| before.model != attempt.model) {
            let from = self.models.get(&*before.model).unwrap_or(&self.other);
            let reason = before.flaw.unwrap_or(before.verdict);
            families.attempts.escalations.with_label_values(&[from.name.as_str(), model.name.as_str(), reason]).inc();
        }
        model.count(families, record, attempt, verdict);
    }

    fn route(&self, name: Option<&str>) -> &Route {
        name.and_then(|name| self.routes.get(name)).unwrap_or(&self.none)
    }
}

impl Route {
    fn seed(families: &Families, name: &str, rungs: impl Iterator<Item = (u32, String)>) -> Self {
        let requests = &families.requests;
        let server = [OPERATION, name];
        let rungs = rungs.map(|(rung, model)| Rung {
            verdicts: VERDICT
                .map(|verdict| families.attempts.total.with_label_values(&[name, model.as_str(), rung.to_string().as_str(), verdict])),
            cost: families.money.cost.with_label_values(&[name, model.as_str()]),
            rung,
            model,
        });
        let chosen = score::Why::ALL.iter().map(|why| why.as_str());
        let reasons = FEATURES.iter().map(|feature| feature.name).chain(chosen).chain(UNSCORED);
        // Requests without a route took no decision.
        let reasons = reasons.filter(|_| name != NONE);
        let decisions = reasons.map(|reason| (reason, families.routing.decisions.with_label_values(&[name, reason])));
        let predicted =
            |tenth: &str| ["usable", "unusable"].map(|observed| families.routing.predictions.with_label_values(&[name, tenth, observed]));
        Self {
            ended: ENDED.map(|outcome| requests.total.with_label_values(&[name, outcome])),
            first: FIRST.map(|result| requests.first_tries.with_label_values(&[name, result])),
            verified: VERIFIED.map(|verified| requests.verified.with_label_values(&[name, verified])),
            difficulty: families.routing.difficulty.with_label_values(&[name]),
            seconds: requests.seconds.with_label_values(&server),
            first_token: requests.first_token_seconds.with_label_values(&server),
            output_token: requests.output_token_seconds.with_label_values(&server),
            decisions: decisions.collect(),
            compared: families.money.compared.with_label_values(&[name]),
            saved: families.money.saved.with_label_values(&[name]),
            extra: families.money.extra.with_label_values(&[name]),
            predictions: TENTHS.iter().map(|tenth| predicted(tenth)).collect(),
            rungs: rungs.collect(),
            name: name.to_owned(),
        }
    }
}

impl Model {
    fn seed(families: &Families, name: &str, provider: &'static str) -> Self {
        let attempts = &families.attempts;
        for flaw in Flaw::KINDS {
            attempts.flaws.with_label_values(&[name, flaw]);
        }
        for error in BackendError::KINDS {
            attempts.errors.with_label_values(&[name, error]);
        }
        families.state.breaker.with_label_values(&[name]);
        let tokens = |kind: &str| attempts.tokens.with_label_values(&[OPERATION, provider, name, kind]);
        Self {
            name: name.to_owned(),
            provider,
            seconds: attempts.seconds.with_label_values(&[OPERATION, provider, name, ""]),
            first_chunk: attempts.first_chunk_seconds.with_label_values(&[OPERATION, provider, name]),
            input: tokens("input"),
            output: tokens("output"),
            asks: Why::ALL.map(|why| attempts.asks.with_label_values(&[name, why.as_str()])),
            usage_missing: attempts.usage_missing.with_label_values(&[name]),
        }
    }

    fn count(&self, families: &Families, record: &RecordData, attempt: &AttemptData, verdict: usize) {
        let attempts = &families.attempts;
        let operation = record.entrance.operation();
        if VERDICT[verdict] == "error" {
            attempts.errors.with_label_values(&[self.name.as_str(), attempt.verdict]).inc();
            let labels = [operation, self.provider, self.name.as_str(), attempt.verdict];
            attempts.seconds.with_label_values(&labels).observe(attempt.total.as_secs_f64());
        } else if operation == OPERATION {
            self.seconds.observe(attempt.total.as_secs_f64());
        } else {
            let labels = [operation, self.provider, self.name.as_str(), ""];
            attempts.seconds.with_label_values(&labels).observe(attempt.total.as_secs_f64());
        }
        if let Some(first) = attempt.first_chunk {
            self.first_chunk.observe(first.as_secs_f64());
        }
        #[expect(clippy::cast_precision_loss, reason = "token counts stay far below 2^52")]
        if let Some(usage) = attempt.usage {
            self.input.observe(usage.prompt_tokens as f64);
            self.output.observe(usage.completion_tokens as f64);
        } else if verdict <= 2 {
            self.usage_missing.inc();
        }
    }
}

/// Series whose names do not come from the config.
fn seed_rest(families: &Families) {
    for result in ["applied", "rejected"] {
        families.state.reloads.with_label_values(&[result]);
    }
    for result in ["mended", "insufficient"] {
        for stage in Stage::ALL {
            families.attempts.repairs.with_label_values(&[stage.as_str(), result]);
        }
    }
    families.state.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    for (code, label) in crate::error::known() {
        families.requests.errors.with_label_values(&[status(code), label]);
    }
    families.money.machine.with_label_values::<&str>(&[]);
    families.requests.in_flight.with_label_values::<&str>(&[]);
    families.state.ledger_rows.with_label_values::<&str>(&[]);
    families.state.ledger_dropped.with_label_values::<&str>(&[]);
    families.state.ledger_errors.with_label_values::<&str>(&[]);
    families.state.ledger_queue.with_label_values::<&str>(&[]);
    families.state.ledger_bytes.with_label_values::<&str>(&[]);
    families.state.traces_dropped.with_label_values::<&str>(&[]);
    families.state.reload_good.with_label_values::<&str>(&[]).set(1);
}

fn verified(verified: Verified) -> usize {
    match verified {
        Verified::Ok => 0,
        Verified::Repaired => 1,
        Verified::Failed => 2,
        Verified::Skipped => 3,
    }
}

/// Index into `TENTHS`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0 to 9 first")]
fn tenth(chance: f32) -> usize {
    (chance * 10.0).ceil().clamp(1.0, 10.0) as usize - 1
}

/// The status as a label, without allocating for those we send.
fn status(status: u16) -> &'static str {
    match status {
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        415 => "415",
        422 => "422",
        429 => "429",
        499 => "499",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        200 => "200",
        _ => OTHER,
    }
}

fn money(route: &Route, record: &RecordData) {
    if record.attempts.is_empty() {
        return;
    }
    route.compared.inc_by(record.compared_usd.max(0.0));
    let saved = record.compared_usd - record.cost_usd;
    if saved >= 0.0 { route.saved.inc_by(saved) } else { route.extra.inc_by(-saved) }
}
