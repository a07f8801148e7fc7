//! The build: each planned file is kept, rendered or asked for, checked, written; then the whole is checked and its
//! faults go back to the files, until it stands or a bound is reached. Read this file first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;

use crate::ask::{Answer, AskError, Upstream};
use crate::check::{self, Flaw, Texts};
use crate::compiler::Compiler;
use crate::config_file::{Config, Limits, ServiceCheck};
use crate::plan::{File, Plan, Priority};
use crate::progress::{Event, View};
use crate::prompt;
use crate::report::{Outcome, Report};
use crate::service::{self, Shown};
use crate::template::Set;
use crate::write::{Entry, Folder, Source, State};

/// One build, and all it needs.
#[derive(Debug)]
pub struct Build<'a> {
    pub request: &'a str,
    pub plan: &'a Plan,
    pub set: &'a Set,
    pub upstream: &'a Upstream,
    pub config: &'a Config,
    pub view: &'a View,
    pub budget: &'a Budget,
    pub compiler: &'a Compiler,
}

/// What may still be spent. Counted before an answer is asked for, so that a bound is never passed.
#[derive(Debug)]
pub struct Budget {
    calls: AtomicU32,
    tokens: AtomicU64,
    cost_usd: Mutex<f64>,
    started: Instant,
    limits: Limits,
}

/// A file's text and where it came from.
#[derive(Debug)]
struct Made {
    text: String,
    entry: Entry,
    outcome: Outcome,
}

/// Why the model has not made a file.
#[derive(Debug)]
enum Unmade {
    /// It was asked as often as allowed, in vain.
    Refused(String),
    /// A bound was reached, or the endpoint does not answer.
    Stopped(String),
}

impl Build<'_> {
    /// Builds into the folder and tells the truth about it.
    ///
    /// # Errors
    /// The disk's, or a broken template set. What a model does wrong is no error: it is in the report.
    pub async fn run(&self, folder: &mut Folder, plan_from: &str) -> anyhow::Result<Report> {
        let mut report = Report {
            service_name: self.plan.service_name.clone(),
            folder: folder.root().display().to_string(),
            plan_from: plan_from.to_owned(),
            ..Report::default()
        };
        let mut texts = Texts::new();
        self.first_pass(folder, &mut texts, &mut report).await?;
        self.repairs(folder, &mut texts, &mut report).await?;
        self.budget.account(&mut report).await;
        self.view.show(&Event::Summary(&report));
        Ok(report)
    }

    /// Every file once, wave by wave.
    async fn first_pass(&self, folder: &mut Folder, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        for wave in self.plan.waves()? {
            let mut open = Vec::new();
            for file in wave {
                match folder.state(&file.path)? {
                    State::Finished | State::Kept => self.take_over(folder, file, texts, report).await?,
                    State::Absent | State::Replaceable => open.push(file),
                }
            }
            let (finished, sink): (&Texts, &mut Vec<_>) = (texts, &mut Vec::new());
            let mut making = stream::iter(open)
                .map(|file| async move { (file, self.make(file, finished, &[], true).await) })
                .buffer_unordered(self.config.limits.concurrency);
            // Written as it comes, not at the end of the wave: what is finished survives a kill.
            while let Some((file, made)) = making.next().await {
                sink.push((file, self.settle(folder, file, made?, report)?));
            }
            drop(making);
            let written = std::mem::take(sink);
            texts.extend(written.into_iter().filter_map(|(file, text)| Some((file.path.clone(), text?))));
        }
        Ok(())
    }

    /// A file that is there already: ours from an earlier run, or somebody's.
    async fn take_over(&self, folder: &mut Folder, file: &File, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        let mut text = folder.text(&file.path)?.unwrap_or_default();
        let entry = folder.manifest.files.get(&file.path).cloned();
        let ours = folder.state(&file.path)? == State::Finished;
        let outcome = match entry.filter(|_| ours) {
            Some(entry) if entry.degraded => Outcome::Degraded("in an earlier run".to_owned()),
            Some(entry) if entry.source == Source::Template => {
                // Facts may have changed since; rendering is free, and the same facts give the same bytes.
                if let Some(fresh) = self.set.render(self.plan, file, texts)?.filter(|fresh| *fresh != text) {
                    folder.write(&file.path, &fresh, entry)?;
                    text = fresh;
                }
                Outcome::Template
            }
            Some(_) => Outcome::Verified,
            None => match check::file(self.plan, file, &text, texts, self.compiler).await {
                Ok(()) => Outcome::Kept,
                Err(flaw) => Outcome::Failed(format!("kept as somebody's work, but {flaw}")),
            },
        };
        texts.insert(file.path.clone(), text);
        self.done(file, &outcome, 0);
        report.files.insert(file.path.clone(), outcome);
        Ok(())
    }

    /// By class: a template where one fits and the class allows it, else the model, else a template in its place.
    async fn make(&self, file: &File, finished: &Texts, faults: &[Flaw], template_first: bool) -> anyhow::Result<Made> {
        let rendered = self.set.render(self.plan, file, finished)?;
        let no_model = self.config.limits.attempts_per_file == 0;
        let by_template = no_model || (template_first && file.priority != Priority::Critical);
        if let Some(text) = rendered.as_ref().filter(|_| by_template)
            && check::file(self.plan, file, text, finished, self.compiler).await.is_ok()
        {
            let entry = Entry::new(Source::Template);
            return Ok(Made { text: text.clone(), entry, outcome: Outcome::Template });
        }
        let (asked, attempts) = self.ask(file, finished, faults).await;
        let why = match asked {
            Ok(made) => return Ok(made),
            Err(Unmade::Refused(why)) => why,
            // Nothing stands in for an answer that was not asked for: the next run asks.
            Err(Unmade::Stopped(why)) => {
                let entry = Entry { attempts, ..Entry::new(Source::Model) };
                return Ok(Made { text: String::new(), entry, outcome: Outcome::Failed(why) });
            }
        };
        if let Some(text) = rendered {
            let outcome = match check::file(self.plan, file, &text, finished, self.compiler).await {
                Ok(()) => Outcome::Degraded(format!("the model: {why}")),
                Err(flaw) => Outcome::Failed(format!("the model: {why}; the template: {flaw}")),
            };
            let entry = Entry { degraded: true, attempts, ..Entry::new(Source::Template) };
            return Ok(Made { text, entry, outcome });
        }
        let entry = Entry { attempts, ..Entry::new(Source::Model) };
        Ok(Made { text: String::new(), entry, outcome: Outcome::Failed(why) })
    }

    /// Asks until an answer passes or a bound is reached; every refusal goes into the next question.
    async fn ask(&self, file: &File, finished: &Texts, faults: &[Flaw]) -> (Result<Made, Unmade>, u32) {
        let limits = &self.config.limits;
        let until = Instant::now() + Duration::from_secs(limits.seconds_per_file);
        let mut faults = faults.to_vec();
        let mut max_tokens = limits.answer_tokens;
        let mut unmarked: Option<String> = None;
        for attempt in 1..=limits.attempts_per_file {
            if let Err(spent) = self.budget.take() {
                return (Err(Unmade::Stopped(spent)), attempt - 1);
            }
            if Instant::now() > until {
                let why = format!("{} s for one file are over", limits.seconds_per_file);
                return (Err(Unmade::Refused(why)), attempt - 1);
            }
            let question = prompt::file(self.request, self.plan, file, finished, &faults, max_tokens);
            let answer = match self.upstream.ask(&question).await {
                Ok(answer) => answer,
                Err(AskError::Slow(limit)) => {
                    self.view.show(&Event::Note { text: &format!("{}: no answer within {limit:?}", file.path) });
                    faults.push(Flaw::Late);
                    continue;
                }
                Err(err) => return (Err(Unmade::Stopped(err.to_string())), attempt),
            };
            self.budget.spent(&answer).await;
            let judged = self.judge(file, &answer, finished, &mut unmarked).await;
            self.tell(file, attempt, &answer, judged.as_ref().err()).await;
            match judged {
                Ok(text) => {
                    let entry = Entry { attempts: attempt, model: answer.model, ..Entry::new(Source::Model) };
                    return (Ok(Made { text, entry, outcome: Outcome::Verified }), attempt);
                }
                Err(flaw) => {
                    if flaw == Flaw::Cut && answer.cut {
                        max_tokens = (max_tokens * 2).min(limits.answer_tokens * 4);
                    }
                    faults.push(flaw);
                }
            }
        }
        let last = faults.last().map_or_else(|| "no attempts allowed".to_owned(), Flaw::to_string);
        let why = format!("{} answers refused, the last because {last}", limits.attempts_per_file);
        (Err(Unmade::Refused(why)), limits.attempts_per_file)
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
        self.view.show(&Event::Asked {
            path: &file.path,
            attempt,
            route: &answer.route,
            model: &answer.model,
            tokens: answer.tokens,
            cost_usd: answer.cost_usd,
            flaw: flaw.map(Flaw::to_string),
        });
        if let Some(id) = &answer.request_id {
            self.upstream.feedback(id, flaw.is_none(), flaw.map(Flaw::kind)).await;
        }
    }

    /// Writes what was made, if it passed, and says so.
    fn settle(&self, folder: &mut Folder, file: &File, made: Made, report: &mut Report) -> anyhow::Result<Option<String>> {
        let attempts = made.entry.attempts;
        self.done(file, &made.outcome, attempts);
        let good = !matches!(made.outcome, Outcome::Failed(_));
        report.files.insert(file.path.clone(), made.outcome);
        if !good {
            return Ok(None);
        }
        folder.write(&file.path, &made.text, made.entry).with_context(|| format!("writing {}", file.path))?;
        Ok(Some(made.text))
    }

    fn done(&self, file: &File, outcome: &Outcome, attempts: u32) {
        let (outcome, detail) = (outcome.name(), outcome.why());
        self.view.show(&Event::Done { path: &file.path, outcome, attempts, detail });
    }

    // === the whole ===

    /// Checks the whole and sends its faults back to the files, a bounded number of times; the last time, templates
    /// replace model-written files that still do not work together.
    async fn repairs(&self, folder: &mut Folder, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        for round in 0..=self.config.limits.repair_rounds {
            self.refresh_facts(folder, texts, report)?;
            let faults = self.faults(texts, report).await;
            let last = round == self.config.limits.repair_rounds;
            for (path, flaw) in &faults {
                let why = format!("after the whole check: {flaw}");
                self.view.show(&Event::Checked { step: path, passed: false, detail: &why });
            }
            let Some(open) = self.repairable(folder, faults, report)? else {
                return Ok(());
            };
            for (path, flaws) in open {
                let Some(file) = self.plan.file(&path) else {
                    continue;
                };
                let made = if last {
                    self.stand_in(file, texts, &flaws)?
                } else {
                    let mut others = texts.clone();
                    others.remove(&path);
                    self.make(file, &others, &flaws, false).await?
                };
                if let Some(text) = self.settle(folder, file, made, report)? {
                    texts.insert(path, text);
                }
            }
            if last {
                self.refresh_facts(folder, texts, report)?;
                let left = self.faults(texts, report).await;
                self.repairable(folder, left, report)?;
            }
        }
        Ok(())
    }

    /// Faults by file that we wrote; faults of files that are not ours, or of no file, end in the report. None: all
    /// is well, or nothing can be done.
    fn repairable(
        &self,
        folder: &Folder,
        faults: Vec<(String, Flaw)>,
        report: &mut Report,
    ) -> anyhow::Result<Option<BTreeMap<String, Vec<Flaw>>>> {
        let mut open: BTreeMap<String, Vec<Flaw>> = BTreeMap::new();
        for (path, flaw) in faults {
            let ours = self.plan.file(&path).is_some() && folder.state(&path)? == State::Finished;
            report.files.insert(path.clone(), Outcome::Failed(flaw.to_string()));
            if ours {
                open.entry(path).or_default().push(flaw);
            }
        }
        Ok((!open.is_empty()).then_some(open))
    }

    fn stand_in(&self, file: &File, texts: &Texts, flaws: &[Flaw]) -> anyhow::Result<Made> {
        let why = flaws.iter().map(Flaw::to_string).collect::<Vec<_>>().join("; ");
        let entry = Entry { degraded: true, ..Entry::new(Source::Template) };
        Ok(match self.set.render(self.plan, file, texts)? {
            Some(text) => Made { text, entry, outcome: Outcome::Degraded(why) },
            None => Made { text: String::new(), entry, outcome: Outcome::Failed(why) },
        })
    }

    /// Low files state facts about the others: rendered again when those changed.
    fn refresh_facts(&self, folder: &mut Folder, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        for file in self.plan.files_to_create.iter().filter(|file| file.priority == Priority::Low) {
            let entry = folder.manifest.files.get(&file.path).filter(|entry| entry.source == Source::Template);
            let Some(entry) = entry.cloned() else {
                continue;
            };
            if folder.state(&file.path)? != State::Finished {
                continue;
            }
            if let Some(fresh) = self.set.render(self.plan, file, texts)?
                && texts.get(&file.path) != Some(&fresh)
            {
                folder.write(&file.path, &fresh, entry)?;
                report.files.insert(file.path.clone(), Outcome::Template);
                texts.insert(file.path.clone(), fresh);
            }
        }
        Ok(())
    }

    /// Faults between files, and only when there are none, those of the running service.
    async fn faults(&self, texts: &Texts, report: &mut Report) -> Vec<(String, Flaw)> {
        let faults = check::whole(self.plan, texts);
        let missing = self.plan.paths().any(|path| !texts.contains_key(path));
        let check = self.config.check.service;
        if !faults.is_empty() || missing || check == ServiceCheck::Off {
            if missing && check != ServiceCheck::Off {
                let why = Some("files are missing".to_owned());
                report.service = Some(Shown { not_tried: why, ..Shown::default() });
            }
            return faults;
        }
        let environment = self.config.check.environment.as_deref();
        let mut shown = service::show(self.plan, texts, &self.set.service, environment).await;
        if check == ServiceCheck::Require
            && let Some(why) = shown.not_tried.take()
        {
            shown.start = Some(Err(why));
        }
        self.view.show(&Event::Checked { step: "service", passed: shown.fault().is_none(), detail: &shown.to_string() });
        let fault = shown.fault().map(str::to_owned);
        let tests = shown.tests.as_ref().is_some_and(Result::is_err);
        report.service = Some(shown);
        fault.map(|why| (culprit(self.plan, &why, tests), Flaw::Service(why))).into_iter().collect()
    }
}

/// The planned file that an error text names last (a traceback's innermost frame), else the entry point.
fn culprit(plan: &Plan, why: &str, tests: bool) -> String {
    let named = plan.paths().filter_map(|path| Some((why.rfind(path)?, path)));
    let code = named.filter(|(_, path)| tests || !path.contains("test"));
    let entry = || {
        let critical = plan.files_to_create.iter().filter(|file| file.priority == Priority::Critical);
        let main = critical.clone().find(|file| file.path.contains("main") || file.path.contains("index"));
        main.or_else(|| critical.clone().next_back()).map_or("", |file| file.path.as_str())
    };
    code.max().map_or_else(entry, |(_, path)| path).to_owned()
}

// === impl Budget ===

impl Budget {
    pub fn new(limits: &Limits) -> Self {
        Self {
            calls: AtomicU32::new(0),
            tokens: AtomicU64::new(0),
            cost_usd: Mutex::new(0.0),
            started: Instant::now(),
            limits: limits.clone(),
        }
    }

    /// Takes one call, or says which bound is reached.
    pub fn take(&self) -> Result<(), String> {
        if self.started.elapsed() > Duration::from_secs(self.limits.seconds) {
            return Err(format!("the build's {} s are over", self.limits.seconds));
        }
        if self.tokens.load(Ordering::Relaxed) >= self.limits.tokens {
            return Err(format!("the build's {} tokens are spent", self.limits.tokens));
        }
        let within = |calls: u32| (calls < self.limits.calls).then_some(calls + 1);
        match self.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("the build's {} calls are spent", self.limits.calls)),
        }
    }

    pub async fn spent(&self, answer: &Answer) {
        self.tokens.fetch_add(answer.tokens, Ordering::Relaxed);
        *self.cost_usd.lock().await += answer.cost_usd;
    }

    async fn account(&self, report: &mut Report) {
        report.calls = self.calls.load(Ordering::Relaxed);
        report.tokens = self.tokens.load(Ordering::Relaxed);
        report.cost_usd = *self.cost_usd.lock().await;
        report.seconds = self.started.elapsed().as_secs_f64();
    }
}

// === the plan ===

/// Asks for a plan until one holds; none when the model cannot plan within its attempts.
///
/// # Errors
/// An endpoint that refuses every question (wrong key, unknown model), and the reason.
pub async fn plan(
    request: &str,
    name: &str,
    set: &Set,
    upstream: &Upstream,
    view: &View,
    budget: &Budget,
) -> Result<Result<Plan, String>, AskError> {
    let mut fault: Option<String> = None;
    let mut failures = 0;
    for attempt in 1..=budget.limits.attempts_for_plan {
        if let Err(spent) = budget.take() {
            return Ok(Err(spent));
        }
        let question = prompt::plan(request, name, &set.name, fault.as_deref(), budget.limits.answer_tokens);
        let answer = match upstream.ask(&question).await {
            Ok(answer) => answer,
            Err(err) if err.is_final() => return Err(err),
            Err(err) => {
                view.show(&Event::Note { text: &format!("plan, question {attempt}: {err}") });
                failures += 1;
                if failures == 2 {
                    return Ok(Err(err.to_string()));
                }
                fault = Some(err.to_string());
                continue;
            }
        };
        budget.spent(&answer).await;
        let read = if answer.cut { Err("it was cut off".to_owned()) } else { read_plan(&answer.text, name, set) };
        view.show(&Event::Asked {
            path: "(plan)",
            attempt,
            route: &answer.route,
            model: &answer.model,
            tokens: answer.tokens,
            cost_usd: answer.cost_usd,
            flaw: read.as_ref().err().cloned(),
        });
        if let Some(id) = &answer.request_id {
            upstream.feedback(id, read.is_ok(), read.as_ref().err().map(|_| "plan")).await;
        }
        match read {
            Ok(plan) => return Ok(Ok(plan)),
            Err(why) => fault = Some(why),
        }
    }
    Ok(Err(fault.unwrap_or_else(|| "no attempts allowed".to_owned())))
}

/// The request's name wins over the model's; what every service of the set has is added.
fn read_plan(text: &str, name: &str, set: &Set) -> Result<Plan, String> {
    let mut plan: Plan =
        serde_json::from_str(prompt::unfence(text).unwrap_or(text).trim()).map_err(|err| format!("it is not the JSON asked for: {err}"))?;
    name.clone_into(&mut plan.service_name);
    set.complete(&mut plan);
    plan.check().map_err(|err| err.to_string())?;
    if !plan.files_to_create.iter().any(|file| file.priority == Priority::Critical) {
        return Err("no file is critical: where is the entry point?".to_owned());
    }
    Ok(plan)
}
