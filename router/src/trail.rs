//! The account of one request, as plain data: filled along the way, read once at the end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use spectra_backends::chunk::Usage;
use tokio::time::Instant;

use crate::score::Score;
use crate::verify::Verdict;

/// A shared handle: the router writes, whoever records the request reads when it has ended, however it ended.
#[derive(Clone, Debug, Default)]
pub struct Trail(Arc<Mutex<Account>>);

impl Trail {
    /// A copy of the account as it stands.
    #[must_use]
    pub fn account(&self) -> Account {
        self.0.lock().clone()
    }

    /// Looks at the account without a copy. `read` must not call into the router.
    pub fn read<T>(&self, read: impl FnOnce(&Account) -> T) -> T {
        read(&self.0.lock())
    }

    /// Takes down the one attempt of a request that is passed on past the router, unread: as it begins, and as it ended.
    pub fn passed(&self, attempt: Attempt) {
        self.write(|account| {
            account.why = "pinned";
            account.usage = attempt.usage;
            account.delivered = matches!(attempt.verdict, Some(Verdict::Pass)).then_some(0);
            account.attempts = vec![attempt];
        });
    }

    /// Writes down that a backend is being asked; answers the attempt's index.
    pub(crate) fn begin_attempt(&self, backend: Arc<str>, rung: usize, why: Why, local: bool, began: Instant) -> usize {
        let attempt = Attempt {
            backend,
            rung,
            why,
            verdict: None,
            usage: None,
            cost_usd: 0.0,
            local,
            began,
            first_chunk: None,
            total: Duration::ZERO,
        };
        self.write(|account| {
            account.attempts.push(attempt);
            account.attempts.len() - 1
        })
    }

    /// Writes down what an attempt used, as far as its model said.
    pub(crate) fn used(&self, index: usize, usage: Option<Usage>, cost_usd: f64) {
        self.write(|account| {
            let attempt = &mut account.attempts[index];
            (attempt.usage, attempt.cost_usd) = (usage, cost_usd);
            attempt.total = attempt.began.elapsed();
        });
    }

    /// Writes down how an attempt ended.
    pub(crate) fn end_attempt(&self, index: usize, verdict: Verdict) {
        self.write(|account| {
            let attempt = &mut account.attempts[index];
            attempt.verdict = Some(verdict);
            attempt.total = attempt.began.elapsed();
        });
    }

    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut Account) -> T) -> T {
        write(&mut self.0.lock())
    }
}

/// What happened to one request on its way through the models.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub route: Option<Arc<str>>,
    /// Why this route: `score`, `pinned`, `affinity`, … A bounded set.
    pub why: &'static str,
    /// `None` where the caller named the route.
    pub score: Option<Score>,
    /// Chance with which the route was taken, given the score.
    pub propensity: f32,
    pub attempts: Vec<Attempt>,
    /// Index of the attempt whose answer was committed.
    pub delivered: Option<usize>,
    pub verified: Verified,
    /// Constraints, score and plan together.
    pub plan_time: Duration,
    /// Judging and mending, summed.
    pub verify_time: Duration,
    /// A committed stream was cut and continued so many times.
    pub rescues: u32,
    /// Usage of the delivered answer, summed over what it was joined from.
    pub usage: Option<Usage>,
    /// Checks of the operator's that need more than the text, as they were made.
    pub checked: Vec<Checked>,
}

/// One such check.
#[derive(Clone, Debug)]
pub struct Checked {
    pub name: Arc<str>,
    pub said: Said,
    pub total: Duration,
    pub cost_usd: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    Usable,
    Unusable,
    /// The check could not be made.
    Failed,
}

impl Said {
    pub const ALL: [Self; 3] = [Self::Usable, Self::Unusable, Self::Failed];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Unusable => "unusable",
            Self::Failed => "failed",
        }
    }
}

impl Account {
    /// USD of all attempts, and of the models that checked them.
    #[must_use]
    pub fn cost_usd(&self) -> f64 {
        let checked: f64 = self.checked.iter().map(|checked| checked.cost_usd).sum();
        self.attempts.iter().map(|attempt| attempt.cost_usd).sum::<f64>() + checked
    }
}

/// One question to one backend.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub backend: Arc<str>,
    /// Place in the ladder, from 0.
    pub rung: usize,
    pub why: Why,
    /// `None`: still running, or the client left.
    pub verdict: Option<Verdict>,
    pub usage: Option<Usage>,
    pub cost_usd: f64,
    /// The backend runs on this machine.
    pub local: bool,
    pub began: Instant,
    /// From `began`.
    pub first_chunk: Option<Duration>,
    pub total: Duration,
}

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    First,
    /// The same model, told what was wrong.
    Reask,
    /// The same model, which cannot be held to the wanted form while it writes: told in words, and verified.
    Unbound,
    /// The same model, with more room for the answer.
    MoreTokens,
    /// Goes on from the text that was there.
    Continue,
    /// The same model after a fault of the exchange.
    Retry,
    /// The next rung.
    Escalate,
    /// The next rung beside a slow one.
    Hedge,
}

impl Why {
    pub const ALL: [Self; 8] =
        [Self::First, Self::Reask, Self::Unbound, Self::MoreTokens, Self::Continue, Self::Retry, Self::Escalate, Self::Hedge];

    /// Stable name for metric labels and ledger rows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Reask => "reask",
            Self::Unbound => "unbound",
            Self::MoreTokens => "more_tokens",
            Self::Continue => "continue",
            Self::Retry => "retry",
            Self::Escalate => "escalate",
            Self::Hedge => "hedge",
        }
    }
}

/// What verification says of the delivered answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verified {
    Ok,
    Repaired,
    /// Delivered although flawed, since nothing better could be had.
    Failed,
    /// Not judged: switched off, or not delivered (yet).
    #[default]
    Skipped,
}

impl Verified {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Repaired => "repaired",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// How the request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    Delivered,
    /// Broken off after commit.
    Broken,
    Cancelled,
    Failed,
}
