//! The model as an author: one file asked for until an answer passes, a bound is reached, or it is plain that asking
//! again will not help.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{Build, Made, Task};
use crate::ask::{Answer, AskError};
use crate::check::{self, Flaw, Texts};
use crate::plan::File;
use crate::progress::Event;
use crate::prompt;
use crate::report::Outcome;
use crate::write::{Entry, Source};

/// Answers with the same fault, one after the other, before a file is given up.
const SAME_FAULT: usize = 5;
/// The same, and answers in all, where a template does all that is asked.
const SAME_CARRIED: usize = 2;
const CARRIED: usize = 3;
/// Files given up, none passed: from then on one answer a file, later none.
const DOUBT: u32 = 2;
const DISTRUST: u32 = 4;

/// What the model has shown in this build.
#[derive(Debug, Default)]
pub struct Author {
    passed: AtomicU32,
    given_up: AtomicU32,
    /// The request that each accepted file came from, for the word on it after the whole was checked.
    requests: Mutex<BTreeMap<String, String>>,
}

/// What is there if the model cannot write a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    Nothing,
    /// A template, which does less than is asked.
    StandIn,
    /// A template that does all that is asked, with its length: the answer need not be much longer.
    Whole {
        chars: usize,
    },
}

/// Why the model has not made a file.
#[derive(Debug)]
pub enum Unmade {
    /// It was asked as often as makes sense, in vain.
    Refused(String),
    /// A bound was reached, or the endpoint does not answer.
    Stopped(String),
}

impl Spare {
    /// Tokens an answer gets. A token of code has about three characters, and a small model that does not find its
    /// end should not take minutes to show it.
    fn room(self, most: u32) -> u32 {
        match self {
            Spare::Whole { chars } => u32::try_from(chars / 2).unwrap_or(most).clamp(256, most.max(256)),
            _ => most,
        }
    }
}

impl Author {
    /// How often a file may be asked for, given what the model has shown so far.
    fn attempts(&self, most: u32) -> u32 {
        match (self.passed.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed)) {
            (0, DISTRUST..) => 0,
            (0, DOUBT..) => most.min(1),
            _ => most,
        }
    }

    async fn passed(&self, path: &str, request_id: Option<&String>) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        if let Some(id) = request_id {
            self.requests.lock().await.insert(path.to_owned(), id.clone());
        }
    }

    pub async fn take_request(&self, path: &str) -> Option<String> {
        self.requests.lock().await.remove(path)
    }
}

impl Build<'_> {
    /// Asks for a file; every refusal goes into the next question.
    pub(super) async fn ask(&self, task: &Task<'_>, spare: Spare) -> (Result<Made, Unmade>, u32) {
        let (asked, attempts) = self.ask_again(task, spare).await;
        if matches!(asked, Err(Unmade::Refused(_))) && attempts > 0 {
            self.author.given_up.fetch_add(1, Ordering::Relaxed);
        }
        (asked, attempts)
    }

    async fn ask_again(&self, task: &Task<'_>, spare: Spare) -> (Result<Made, Unmade>, u32) {
        let (file, limits) = (task.file, &self.config.limits);
        let until = Instant::now() + Duration::from_secs(limits.seconds_per_file);
        let mut faults = task.faults.to_vec();
        let told = faults.len();
        let mut max_tokens = spare.room(limits.answer_tokens);
        let mut unmarked: Option<String> = None;
        let allowed = self.author.attempts(limits.attempts_per_file);
        if allowed == 0 && limits.attempts_per_file > 0 {
            let why = "not asked any more: the model has not written one usable file in this build".to_owned();
            return (Err(Unmade::Refused(why)), 0);
        }
        for attempt in 1..=allowed {
            if let Err(spent) = self.budget.take() {
                return (Err(Unmade::Stopped(spent)), attempt - 1);
            }
            if Instant::now() > until {
                let why = format!("{} s for one file are over", limits.seconds_per_file);
                return (Err(Unmade::Refused(why)), attempt - 1);
            }
            let question = prompt::file(self.request, self.plan, file, task.finished, &faults, max_tokens);
            let flaw = match self.upstream.ask(&question).await {
                Ok(answer) => {
                    self.budget.spent_on(&answer);
                    let judged = self.judge(file, &answer, task.finished, &mut unmarked).await;
                    self.tell(file, attempt, &answer, judged.as_ref().err()).await;
                    match judged {
                        Ok(text) => {
                            self.author.passed(&file.path, answer.request_id.as_ref()).await;
                            return (Ok(made(text, attempt, answer)), attempt);
                        }
                        Err(flaw) => {
                            if flaw == Flaw::Cut && answer.cut {
                                max_tokens = (max_tokens * 2).min(limits.answer_tokens * 4);
                            }
                            flaw
                        }
                    }
                }
                Err(AskError::Slow(limit)) => {
                    self.view.show(&Event::Note { text: &format!("{}: no answer within {limit:?}", file.path) });
                    max_tokens = (max_tokens / 2).max(256);
                    Flaw::Late
                }
                // The model's window is smaller than the question with room for the answer.
                Err(AskError::TooLong(_)) if max_tokens > 512 => {
                    max_tokens /= 2;
                    Flaw::Late
                }
                Err(err) => return (Err(Unmade::Stopped(err.to_string())), attempt),
            };
            faults.push(flaw);
            if hopeless(&faults[told..], spare) || attempt == allowed {
                return (Err(Unmade::Refused(refused(&faults[told..]))), attempt);
            }
        }
        (Err(Unmade::Refused("no attempts allowed".to_owned())), 0)
    }

    /// An answer as a file's text, or its flaw. A text without its end mark counts as cut, unless the model gives the
    /// very same text twice and says both times that it is done: then it just does not write marks.
    async fn judge(&self, file: &File, answer: &Answer, finished: &Texts, unmarked: &mut Option<String>) -> Result<String, Flaw> {
        if answer.cut {
            return Err(Flaw::Cut);
        }
        let text = match prompt::read_file(&file.path, &answer.text) {
            Err(Flaw::Cut) => {
                let end = prompt::marks(&file.path).map_or_else(String::new, |(_, last)| last);
                let text = prompt::read_file(&file.path, &format!("{}\n{end}", answer.text.trim_end()))?;
                let again = unmarked.replace(text.clone());
                if again.as_ref() != Some(&text) {
                    return Err(Flaw::Cut);
                }
                text
            }
            other => other?,
        };
        check::file(self.plan, file, &text, finished, self.compiler).await?;
        Ok(text)
    }

    /// The view and the gateway hear how an answer turned out.
    async fn tell(&self, file: &File, attempt: u32, answer: &Answer, flaw: Option<&Flaw>) {
        self.view.show(&Event::asked(&file.path, attempt, answer, flaw.map(Flaw::to_string)));
        if let Some(id) = &answer.request_id {
            self.upstream.feedback(id, flaw.is_none(), flaw.map(Flaw::kind)).await;
        }
    }

    /// An answer that was taken for good turned out not to work with the rest: the gateway hears that, too.
    pub(super) async fn take_back(&self, path: &str, flaw: &Flaw) {
        if let Some(id) = self.author.take_request(path).await {
            self.upstream.feedback(&id, false, Some(flaw.kind())).await;
        }
    }
}

fn made(text: String, attempts: u32, answer: Answer) -> Made {
    let entry = Entry { attempts, model: answer.model, ..Entry::new(Source::Model) };
    Made { text, entry, outcome: Outcome::Verified { by: Source::Model }, route: answer.route }
}

/// Whether asking again is in vain: the same fault over and over although it was told, or too slow twice.
fn hopeless(faults: &[Flaw], spare: Spare) -> bool {
    let Some(last) = faults.last() else {
        return false;
    };
    let same = faults.iter().rev().take_while(|flaw| flaw.kind() == last.kind()).count();
    match spare {
        // Where a template is at hand, one wait is enough.
        Spare::Whole { .. } if *last == Flaw::Late => true,
        _ if *last == Flaw::Late => same >= 2,
        Spare::Whole { .. } => same >= SAME_CARRIED || faults.len() >= CARRIED,
        Spare::Nothing | Spare::StandIn => same >= SAME_FAULT,
    }
}

fn refused(faults: &[Flaw]) -> String {
    let last = faults.last().map(Flaw::to_string).unwrap_or_default();
    match faults.len() {
        1 => format!("its answer was refused: {last}"),
        count => format!("{count} answers refused, the last because {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Spare = Spare::Whole { chars: 1200 };

    #[test]
    fn patience_ends_with_the_same_fault_again() {
        let check = |faults: &[Flaw], spare: Spare, want: bool| assert_eq!(hopeless(faults, spare), want, "{faults:?} {spare:?}");
        let syntax = || Flaw::Syntax("x".to_owned());
        check(&[], WHOLE, false);
        check(&[Flaw::Cut], WHOLE, false);
        check(&[Flaw::Cut, Flaw::Cut], WHOLE, true);
        check(&[Flaw::Cut, syntax(), Flaw::Empty], WHOLE, true);
        check(&[Flaw::Cut, syntax(), Flaw::Empty], Spare::StandIn, false);
        check(&[Flaw::Cut, Flaw::Cut, Flaw::Cut, Flaw::Cut], Spare::Nothing, false);
        check(&[Flaw::Cut, Flaw::Cut, Flaw::Cut, Flaw::Cut, Flaw::Cut], Spare::Nothing, true);
        check(&[Flaw::Late, Flaw::Late], Spare::Nothing, true);
        assert_eq!((WHOLE.room(2048), WHOLE.room(400), Spare::StandIn.room(2048)), (600, 400, 2048));
    }

    #[test]
    fn a_model_that_never_passes_is_asked_less_and_less() {
        let author = Author::default();
        let check = |given_up: u32, want: u32| {
            author.given_up.store(given_up, Ordering::Relaxed);
            assert_eq!(author.attempts(8), want, "{given_up} given up");
        };
        check(1, 8);
        check(2, 1);
        check(4, 0);
        author.passed.store(1, Ordering::Relaxed);
        check(4, 8);
    }
}
