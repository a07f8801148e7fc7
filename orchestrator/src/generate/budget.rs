//! What may still be spent, and what was.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::ask::Answer;
use crate::config_file::Limits;
use crate::report::Report;

/// Counted before an answer is asked for, so that a bound is never passed.
#[derive(Debug)]
pub struct Budget {
    spent: Mutex<Spent>,
    started: Instant,
    pub limits: Limits,
}

#[derive(Debug, Default)]
struct Spent {
    calls: u32,
    tokens: u64,
    cost_usd: f64,
    /// Answers by the route that gave them.
    routes: BTreeMap<String, u32>,
}

impl Budget {
    pub fn new(limits: &Limits) -> Self {
        Self { spent: Mutex::default(), started: Instant::now(), limits: limits.clone() }
    }

    /// Takes one call, or says which bound is reached.
    pub fn take(&self) -> Result<(), String> {
        if self.started.elapsed() > Duration::from_secs(self.limits.seconds) {
            return Err(format!("the build's {} s are over", self.limits.seconds));
        }
        let mut spent = self.spent();
        if spent.tokens >= self.limits.tokens {
            return Err(format!("the build's {} tokens are spent", self.limits.tokens));
        }
        if spent.calls >= self.limits.calls {
            return Err(format!("the build's {} calls are spent", self.limits.calls));
        }
        spent.calls += 1;
        Ok(())
    }

    pub fn spent_on(&self, answer: &Answer) {
        let mut spent = self.spent();
        spent.tokens += answer.tokens;
        spent.cost_usd += answer.cost_usd;
        if !answer.route.is_empty() {
            *spent.routes.entry(answer.route.clone()).or_default() += 1;
        }
    }

    pub fn account(&self, report: &mut Report) {
        let spent = self.spent();
        report.calls = spent.calls;
        report.tokens = spent.tokens;
        report.cost_usd = spent.cost_usd;
        report.routes.clone_from(&spent.routes);
        report.seconds = self.started.elapsed().as_secs_f64();
    }

    fn spent(&self) -> std::sync::MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
