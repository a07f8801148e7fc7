//! Every metric family: name, kind, labels and help in one table, which is also what the docs and the dashboard check read.

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// One declared family, for people and for checks.
#[derive(Clone, Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Prometheus's kinds, of which we use three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug)]
pub(super) struct Families {
    pub rows: Vec<Family>,
    pub requests: Requests,
    pub attempts: Attempts,
    pub routing: Routing,
    pub money: Money,
    pub engine: Engine,
    pub state: State,
}

/// What clients see.
#[derive(Debug)]
pub(super) struct Requests {
    pub total: IntCounterVec,
    pub first_tries: IntCounterVec,
    pub verified: IntCounterVec,
    pub errors: IntCounterVec,
    pub feedback: IntCounterVec,
    pub in_flight: IntGaugeVec,
    pub seconds: HistogramVec,
    pub first_token_seconds: HistogramVec,
    pub output_token_seconds: HistogramVec,
}

/// What models see.
#[derive(Debug)]
pub(super) struct Attempts {
    pub total: IntCounterVec,
    pub asks: IntCounterVec,
    pub flaws: IntCounterVec,
    pub repairs: IntCounterVec,
    pub checks: IntCounterVec,
    pub escalations: IntCounterVec,
    pub errors: IntCounterVec,
    pub usage_missing: IntCounterVec,
    pub seconds: HistogramVec,
    pub first_chunk_seconds: HistogramVec,
    pub tokens: HistogramVec,
}

#[derive(Debug)]
pub(super) struct Routing {
    pub decisions: IntCounterVec,
    pub difficulty: HistogramVec,
    pub predictions: IntCounterVec,
    pub overhead: HistogramVec,
}

#[derive(Debug)]
pub(super) struct Money {
    pub cost: CounterVec,
    pub compared: CounterVec,
    pub saved: CounterVec,
    pub extra: CounterVec,
    pub machine: CounterVec,
}

#[derive(Debug)]
pub(super) struct Engine {
    pub up: IntGaugeVec,
    pub slots: IntGaugeVec,
    pub slots_busy: IntGaugeVec,
    pub queue: IntGaugeVec,
    pub kv_used: GaugeVec,
    pub prompt_tokens: IntCounterVec,
    pub generated_tokens: IntCounterVec,
    pub restarts: IntCounterVec,
    pub exits: IntCounterVec,
    pub memory: IntGaugeVec,
    pub gpu_free: IntGaugeVec,
    pub gpu_memory: IntGaugeVec,
}

#[derive(Debug)]
pub(super) struct State {
    pub breaker: IntGaugeVec,
    pub ledger_rows: IntCounterVec,
    pub ledger_dropped: IntCounterVec,
    pub ledger_errors: IntCounterVec,
    pub ledger_queue: IntGaugeVec,
    pub ledger_bytes: IntGaugeVec,
    pub traces_dropped: IntCounterVec,
    pub build: IntGaugeVec,
    pub config: IntGaugeVec,
    pub reloads: IntCounterVec,
    pub reload_good: IntGaugeVec,
    pub reload_at: GaugeVec,
    pub process_start: GaugeVec,
    pub process_memory: IntGaugeVec,
    pub process_files: IntGaugeVec,
}

impl Families {
    pub(super) fn declare(registry: &Registry) -> Result<Self, prometheus::Error> {
        let mut declare = Declare { registry, rows: Vec::new() };
        let requests = Requests::declare(&mut declare)?;
        let attempts = Attempts::declare(&mut declare)?;
        let routing = Routing::declare(&mut declare)?;
        let money = Money::declare(&mut declare)?;
        let engine = Engine::declare(&mut declare)?;
        let state = State::declare(&mut declare)?;
        Ok(Self { rows: declare.rows, requests, attempts, routing, money, engine, state })
    }
}

/// OpenTelemetry's advice for `gen_ai.*.duration`, with a finer start: a scripted or cached answer takes less than 10 ms.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// OpenTelemetry's advice for time to first token.
const FIRST_TOKEN: &[f64] = &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0];
/// OpenTelemetry's advice for time per output token, with a finer start.
const OUTPUT_TOKEN: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// OpenTelemetry's advice for token counts, up to a million.
const TOKENS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];
/// Twentieths: fine enough to see where a threshold cuts.
const DIFFICULTY: &[f64] = &[0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];
/// One microsecond to 50 ms.
const OVERHEAD: &[f64] =
    &[0.000_001, 0.000_002_5, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05];

const SERVER: &[&str] = &["gen_ai_operation_name", "route"];
const CLIENT: &[&str] = &["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"];

impl Requests {
    #[rustfmt::skip] // a table: one family a row reads better than four lines each
    fn declare(declare: &mut Declare<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            total: declare.counters("spectra_requests_total", &["route", "outcome"],
                "Client requests by how they ended, each exactly once. outcome: usable (verified, perhaps repaired), unusable (delivered although flawed), unjudged (verification off), rejected (before any model), failed (error instead of an answer), broken (cut after it began), cancelled (client left). route: none where none was chosen.")?,
            first_tries: declare.counters("spectra_first_tries_total", &["route", "result"],
                "Requests by what their first attempt was worth. result: usable, unusable, error, unjudged, cancelled.")?,
            verified: declare.counters("spectra_verified_total", &["route", "verified"],
                "Delivered answers by what verification said. verified: ok, repaired, failed, skipped.")?,
            errors: declare.counters("spectra_errors_total", &["status", "code"],
                "Errors sent to clients, by HTTP status and the stable code of the error body.")?,
            feedback: declare.counters("spectra_feedback_total", &["route", "usable"],
                "Callers' reports on answers they got (POST /v1/feedback). usable: true, false.")?,
            in_flight: declare.gauges("spectra_in_flight_requests", &[], "Client requests being answered now.")?,
            seconds: declare.histogram("gen_ai_server_request_duration_seconds", SERVER, SECONDS,
                "Seconds from a client's request to the last byte of its answer.")?,
            first_token_seconds: declare.histogram("gen_ai_server_time_to_first_token_seconds", SERVER, FIRST_TOKEN,
                "Seconds from a client's request to the first content byte sent to it; under a whole hold this is when the answer has been judged.")?,
            output_token_seconds: declare.histogram("gen_ai_server_time_per_output_token_seconds", SERVER, OUTPUT_TOKEN,
                "Seconds per token after the first, of streamed answers whose model counted its tokens.")?,
        })
    }
}

impl Attempts {
    #[rustfmt::skip] // a table
    fn declare(declare: &mut Declare<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            total: declare.counters("spectra_attempts_total", &["route", "model", "rung", "verdict"],
                "Attempts at a model, each with one verdict. rung: place in the ladder, from 0. verdict: pass, mended (usable after repair), flawed, error (of the backend), cancelled.")?,
            asks: declare.counters("spectra_asks_total", &["model", "why"],
                "Attempts by why they were made. why: first, reask, continue, escalate, hedge, more_tokens and the like.")?,
            flaws: declare.counters("spectra_flaws_total", &["model", "flaw"],
                "Answers found unusable, by flaw: empty, refused, truncated, looping, not_json, off_schema, bad_tool_call, bad_code, placeholder, echo, unsure, custom.")?,
            repairs: declare.counters("spectra_repairs_total", &["stage", "result"],
                "Repairs without asking a model again, by stage. result: mended (the answer then passed), insufficient.")?,
            checks: declare.counters("spectra_checks_total", &["check", "said"],
                "Checks of the operator's that need a program, an endpoint or a model. said: usable, unusable, failed (it could not be made).")?,
            escalations: declare.counters("spectra_escalations_total", &["from", "to", "reason"],
                "Moves from one model to the next rung's. reason: the flaw or backend error that caused it.")?,
            errors: declare.counters("spectra_backend_errors_total", &["model", "error"],
                "Attempts that ended without an answer, by cause: overloaded, timeout, rate_limited, upstream_4xx, upstream_5xx, broken, unavailable.")?,
            usage_missing: declare.counters("spectra_usage_missing_total", &["model"],
                "Finished answers whose model did not count its tokens; they add nothing to the token metrics.")?,
            seconds: declare.histogram("gen_ai_client_operation_duration_seconds", &["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"], SECONDS,
                "Seconds of one attempt at a model. error_type: empty where an answer came, else the backend error.")?,
            first_chunk_seconds: declare.histogram("gen_ai_client_operation_time_to_first_chunk_seconds", CLIENT, FIRST_TOKEN,
                "Seconds from asking a model to its first chunk.")?,
            tokens: declare.histogram("gen_ai_client_token_usage", &["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"], TOKENS,
                "Tokens of one attempt as the model counted them. gen_ai_token_type: input, output.")?,
        })
    }
}

impl Routing {
    #[rustfmt::skip] // a table
    fn declare(declare: &mut Declare<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            decisions: declare.counters("spectra_router_decisions_total", &["route", "reason"],
                "Requests by chosen route and its strongest reason.")?,
            difficulty: declare.histogram("spectra_router_difficulty", &["route"], DIFFICULTY,
                "Difficulty of scored requests, 0 to 1, by the route they took.")?,
            predictions: declare.counters("spectra_router_predictions_total", &["route", "predicted", "observed"],
                "First attempts by the predicted chance that they would be usable (upper end of a tenth: 0.1 to 1.0) and what was observed: usable, unusable.")?,
            overhead: declare.histogram("spectra_overhead_seconds", &["phase"], OVERHEAD,
                "The gateway's own time per request. phase: parse, plan (constraints, score, plan), verify (with repair, summed over attempts).")?,
        })
    }
}

impl Money {
    #[rustfmt::skip] // a table
    fn declare(declare: &mut Declare<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            cost: declare.dollars("spectra_cost_usd_total", &["route", "model"],
                "USD of all attempts by the configured token prices.")?,
            compared: declare.dollars("spectra_compared_usd_total", &["route"],
                "USD the delivered answers would have cost with accounting.compare_with.")?,
            saved: declare.dollars("spectra_saved_usd_total", &["route"],
                "USD saved against accounting.compare_with, over the requests that were cheaper; before the machine's cost.")?,
            extra: declare.dollars("spectra_extra_usd_total", &["route"],
                "USD spent beyond accounting.compare_with, over the requests that were dearer, such as escalated ones. Net savings: saved less extra less machine.")?,
            machine: declare.dollars("spectra_machine_usd_total", &[],
                "USD of running this machine since start: uptime times accounting.local_usd_per_hour, idle or not.")?,
        })
    }
}

impl Engine {
    #[rustfmt::skip] // a table
    fn declare(declare: &mut Declare<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            up: declare.gauges("spectra_engine_up", &["model"], "1 while the local worker has its model loaded and answers, else 0.")?,
            slots: declare.gauges("spectra_engine_slots", &["model"], "Requests the local worker can decode at once.")?,
            slots_busy: declare.gauges("spectra_engine_slots_busy", &["model"], "Requests being decoded now.")?,
            queue: declare.gauges("spectra_engine_queue", &["model"], "Requests waiting for a slot.")?,
            kv_used: declare.ratio("spectra_engine_kv_used_ratio", &["model"], "Share of the KV cache in use, 0 to 1.")?,
            prompt_tokens: declare.counters("spectra_engine_prompt_tokens_total", &["model"], "Prompt tokens the local worker has evaluated.")?,
            generated_tokens: declare.counters("spectra_engine_generated_tokens_total", &["model"], "Tokens the local worker has generated.")?,
            restarts: declare.counters("spectra_engine_restarts_total", &["model"], "Times the local worker was started again after it ended or hung.")?,
            exits: declare.counters("spectra_engine_exits_total", &["model", "reason"], "Ends of local workers: abort, killed, crash, hung, model, memory, not_started, not_ready, exit, or idle (unloaded).")?,
            memory: declare.gauges("spectra_engine_memory_bytes", &["model"], "Resident memory of the local worker.")?,
            gpu_free: declare.gauges("spectra_engine_gpu_memory_free_bytes", &["model", "gpu"], "Free memory of a GPU that the local worker can use.")?,
            gpu_memory: declare.gauges("spectra_engine_gpu_memory_bytes", &["model", "gpu"], "Memory of a GPU that the local worker can use.")?,
        })
    }
}

impl State {
    #[rustfmt::skip] // a table
    fn declare(declare: &mut Declare<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            breaker: declare.gauges("spectra_breaker_state", &["model"], "Circuit breaker of a backend: 0 closed, 1 probing, 2 open.")?,
            ledger_rows: declare.counters("spectra_ledger_rows_total", &[], "Requests written to the ledger.")?,
            ledger_dropped: declare.counters("spectra_ledger_dropped_total", &[], "Requests not written since the ledger's queue was full; the requests themselves were served.")?,
            ledger_errors: declare.counters("spectra_ledger_errors_total", &[], "Batches the ledger could not write.")?,
            ledger_queue: declare.gauges("spectra_ledger_queue", &[], "Requests waiting to be written.")?,
            ledger_bytes: declare.gauges("spectra_ledger_bytes", &[], "Size of the ledger's database.")?,
            traces_dropped: declare.counters("spectra_traces_dropped_total", &[], "Requests whose spans did not reach the collector: too many waited, or it took none. The requests themselves were served.")?,
            build: declare.gauges("spectra_build_info", &["version"], "Always 1; the version is in the label.")?,
            config: declare.gauges("spectra_config_info", &["hash"], "1 for the config in force, by the start of its SHA-256; 0 for earlier ones.")?,
            reloads: declare.counters("spectra_config_reloads_total", &["result"], "Reloads of the config. result: applied, rejected.")?,
            reload_good: declare.gauges("spectra_config_last_reload_successful", &[], "1 if the config in the file is the one in force, 0 if the last reload was rejected.")?,
            reload_at: declare.ratio("spectra_config_last_applied_timestamp_seconds", &[], "When the config in force was applied, in seconds since 1970.")?,
            process_start: declare.ratio("process_start_time_seconds", &[], "When the process started, in seconds since 1970.")?,
            process_memory: declare.gauges("process_resident_memory_bytes", &[], "Resident memory of the gateway process, without its workers (Linux).")?,
            process_files: declare.gauges("process_open_fds", &[], "Open file descriptors (Linux).")?,
        })
    }
}

/// Makes, registers and remembers families.
struct Declare<'a> {
    registry: &'a Registry,
    rows: Vec<Family>,
}

impl Declare<'_> {
    fn counters(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Made<IntCounterVec> {
        self.keep(Kind::Counter, name, labels, help, IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn dollars(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Made<CounterVec> {
        self.keep(Kind::Counter, name, labels, help, CounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Made<IntGaugeVec> {
        self.keep(Kind::Gauge, name, labels, help, IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn ratio(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Made<GaugeVec> {
        self.keep(Kind::Gauge, name, labels, help, GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        buckets: &[f64],
        help: &'static str,
    ) -> Made<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(Kind::Histogram, name, labels, help, HistogramVec::new(options, labels)?)
    }

    fn keep<C: Collector + Clone + 'static>(
        &mut self,
        kind: Kind,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        made: C,
    ) -> Made<C> {
        self.registry.register(Box::new(made.clone()))?;
        self.rows.push(Family { name, kind, labels, help });
        Ok(made)
    }
}

type Made<C> = Result<C, prometheus::Error>;
