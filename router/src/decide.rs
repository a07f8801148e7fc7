//! What to do next, as a pure function of the limits and the attempts so far. Tested over every history.

use std::time::Duration;

use crate::trail::Why;
use crate::verify::Hint;

/// The bounds of one request's climb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub rungs: usize,
    pub attempts: usize,
    pub attempts_per_rung: usize,
    pub continuations: usize,
    /// Time is left before the deadline, and money in the budget.
    pub affordable: bool,
    /// Longest pause worth making before a retry.
    pub patience: Duration,
}

/// One attempt, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Past {
    pub rung: usize,
    pub why: Why,
    pub seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Seen {
    Usable,
    /// An answer, but not a usable one.
    Flawed(Hint),
    /// The model was not to be had; another may be. `after`: earliest time the same one is worth asking again.
    Fault {
        after: Duration,
    },
    /// This model cannot take the request (too long, constraint not supported, key refused); another may.
    Unfit,
    /// This model cannot be held to the wanted form while it writes; nothing was generated.
    Unbound,
    /// The request itself is at fault: every model would refuse it.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Deliver,
    Ask { rung: usize, why: Why, hint: Option<Hint>, after: Duration },
    GiveUp,
}

/// The next step. Rungs never go down; at most `limits.attempts` steps are `Ask`.
pub(crate) fn next(limits: &Limits, past: &[Past]) -> Step {
    let Some(last) = past.last() else { return first(limits) };
    if last.seen == Seen::Usable {
        return Step::Deliver;
    }
    if last.seen == Seen::Refused || past.len() >= limits.attempts || !limits.affordable {
        return Step::GiveUp;
    }
    let here = past.iter().filter(|attempt| attempt.rung == last.rung).count();
    let again = here < limits.attempts_per_rung;
    match last.seen {
        Seen::Flawed(Hint::Continue) if may_continue(limits, past) => ask(last.rung, Why::Continue, Some(Hint::Continue)),
        Seen::Unbound if !past.iter().any(|attempt| attempt.rung == last.rung && attempt.why == Why::Unbound) => {
            ask(last.rung, Why::Unbound, None)
        }
        Seen::Flawed(hint) if again => match reask(hint, past) {
            Some(why) => ask(last.rung, why, Some(hint)),
            None => climb(limits, last.rung),
        },
        Seen::Fault { after } if last.rung + 1 >= limits.rungs && again && after <= limits.patience => {
            Step::Ask { rung: last.rung, why: Why::Retry, hint: None, after }
        }
        _ => climb(limits, last.rung),
    }
}

fn first(limits: &Limits) -> Step {
    if limits.rungs == 0 || limits.attempts == 0 || !limits.affordable { Step::GiveUp } else { ask(0, Why::First, None) }
}

fn climb(limits: &Limits, rung: usize) -> Step {
    if rung + 1 < limits.rungs { ask(rung + 1, Why::Escalate, None) } else { Step::GiveUp }
}

fn ask(rung: usize, why: Why, hint: Option<Hint>) -> Step {
    Step::Ask { rung, why, hint, after: Duration::ZERO }
}

/// Continuations have a bound of their own, beside that on attempts, and leave one attempt to the next rung.
fn may_continue(limits: &Limits, past: &[Past]) -> bool {
    let spare = usize::from(past.last().is_some_and(|last| last.rung + 1 < limits.rungs));
    past.len() + spare < limits.attempts && past.iter().filter(|attempt| attempt.why == Why::Continue).count() < limits.continuations
}

/// How the same model is asked again; `None` where it has already failed in the same way after the same change.
fn reask(hint: Hint, past: &[Past]) -> Option<Why> {
    let why = match hint {
        Hint::Escalate | Hint::Elsewhere => return None,
        Hint::MoreTokens | Hint::Continue => Why::MoreTokens,
        Hint::Constrain | Hint::Tell | Hint::Reheat => Why::Reask,
    };
    let repeated = past.iter().any(|attempt| attempt.rung == past[past.len() - 1].rung && attempt.why == why && why == Why::MoreTokens);
    (!repeated).then_some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: [Seen; 10] = [
        Seen::Usable,
        Seen::Flawed(Hint::Continue),
        Seen::Flawed(Hint::Constrain),
        Seen::Flawed(Hint::MoreTokens),
        Seen::Flawed(Hint::Escalate),
        Seen::Fault { after: Duration::ZERO },
        Seen::Fault { after: Duration::from_secs(3600) },
        Seen::Unfit,
        Seen::Unbound,
        Seen::Refused,
    ];

    /// Every history of every length: it ends, within the bounds, and rungs never go down.
    #[test]
    fn every_history_ends_within_its_bounds() {
        let mut histories = 0;
        for rungs in 0..=3 {
            for attempts in 0..=4 {
                for attempts_per_rung in 1..=3 {
                    for continuations in 0..=2 {
                        let limits = Limits {
                            rungs,
                            attempts,
                            attempts_per_rung,
                            continuations,
                            affordable: true,
                            patience: Duration::from_secs(2),
                        };
                        walk(&limits, &mut Vec::new(), &mut histories);
                    }
                }
            }
        }
        assert!(histories > 10_000, "{histories}");
    }

    fn walk(limits: &Limits, past: &mut Vec<Past>, histories: &mut usize) {
        match next(limits, past) {
            Step::Deliver => assert_eq!(past.last().map(|attempt| attempt.seen), Some(Seen::Usable)),
            Step::GiveUp => *histories += 1,
            Step::Ask { rung, why, after, .. } => {
                assert!(past.len() < limits.attempts && rung < limits.rungs && after <= limits.patience);
                if let Some(last) = past.last() {
                    assert!(rung == last.rung || rung == last.rung + 1, "{past:?} -> {rung}");
                    assert_ne!(last.seen, Seen::Refused);
                    assert_eq!(rung != last.rung, why == Why::Escalate);
                    // Behaviour 21: the same model is asked again after an unusable answer only with a change.
                    if let Seen::Flawed(_) = last.seen
                        && rung == last.rung
                    {
                        assert!(matches!(why, Why::Reask | Why::MoreTokens | Why::Continue));
                    }
                }
                for seen in SEEN {
                    past.push(Past { rung, why, seen });
                    walk(limits, past, histories);
                    past.pop();
                }
            }
        }
    }

    #[test]
    fn nothing_is_asked_without_time_or_money() {
        let limits =
            Limits { rungs: 2, attempts: 4, attempts_per_rung: 2, continuations: 3, affordable: false, patience: Duration::from_secs(2) };
        assert_eq!(next(&limits, &[]), Step::GiveUp);
        let flawed = Past { rung: 0, why: Why::First, seen: Seen::Flawed(Hint::Tell) };
        assert_eq!(next(&limits, &[flawed]), Step::GiveUp);
        let usable = Past { seen: Seen::Usable, ..flawed };
        assert_eq!(next(&limits, &[usable]), Step::Deliver);
    }
}
