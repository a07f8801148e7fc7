//! The build: each planned file is kept, rendered or asked for, checked, written; then the whole is checked and its
//! faults go back to the files, until it stands or a bound is reached. Read this file first.

mod author;
mod budget;
mod planning;
mod whole;

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};

pub use author::Author;
use author::{Spare, Unmade};
pub use budget::Budget;
pub use planning::Planning;

use crate::ask::Upstream;
use crate::check::{self, Flaw, Texts};
use crate::compiler::Compiler;
use crate::config_file::Config;
use crate::plan::{File, Plan, Priority};
use crate::progress::{Event, View};
use crate::report::{FileReport, Outcome, Report};
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
    /// What the request asks for and no template carries.
    pub gaps: &'a [String],
    pub author: Author,
}

/// A file to make, with what is finished so far and what was wrong with it before.
#[derive(Debug, Clone, Copy)]
struct Task<'t> {
    file: &'t File,
    finished: &'t Texts,
    faults: &'t [Flaw],
}

/// A file's text and where it came from.
#[derive(Debug)]
struct Made {
    text: String,
    entry: Entry,
    outcome: Outcome,
    /// Of the gateway that answered, where it says so.
    route: String,
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
            gaps: self.gaps.to_vec(),
            ..Report::default()
        };
        let mut texts = Texts::new();
        self.first_pass(folder, &mut texts, &mut report).await?;
        self.repairs(folder, &mut texts, &mut report).await?;
        self.budget.account(&mut report);
        self.view.show(&Event::Summary(&report));
        Ok(report)
    }

    /// Every file once, wave by wave.
    async fn first_pass(&self, folder: &mut Folder, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        for wave in self.plan.waves()? {
            let mut open = Vec::new();
            for file in wave {
                let degraded = folder.manifest.files.get(&file.path).is_some_and(|entry| entry.degraded);
                match folder.state(&file.path)? {
                    // A stand-in is not what was asked for: the model gets another chance.
                    State::Finished if degraded => open.push(file),
                    State::Finished | State::Kept => self.take_over(folder, file, texts, report).await?,
                    State::Absent | State::Replaceable => open.push(file),
                }
            }
            let finished: &Texts = texts;
            let mut making = stream::iter(open)
                .map(|file| async move { (file, self.make(&Task { file, finished, faults: &[] }).await) })
                .buffer_unordered(self.config.limits.concurrency);
            let mut written = Vec::new();
            // Written as it comes, not at the end of the wave: what is finished survives a kill.
            while let Some((file, made)) = making.next().await {
                written.push((file.path.clone(), self.settle(folder, file, made?, report)?));
            }
            drop(making);
            texts.extend(written.into_iter().filter_map(|(path, text)| Some((path, text?))));
        }
        Ok(())
    }

    /// A file that is there already: ours from an earlier run, or somebody's.
    async fn take_over(&self, folder: &mut Folder, file: &File, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        let mut text = folder.text(&file.path)?.unwrap_or_default();
        let entry = folder.manifest.files.get(&file.path).cloned();
        let ours = folder.state(&file.path)? == State::Finished;
        let outcome = match entry.filter(|_| ours) {
            Some(entry) => {
                let by = entry.source;
                // Facts may have changed since; rendering is free, and the same facts give the same bytes.
                if by == Source::Template
                    && let Some(fresh) = self.set.render(self.plan, file, texts)?.filter(|fresh| *fresh != text)
                {
                    folder.write(&file.path, &fresh, entry)?;
                    text = fresh;
                }
                Outcome::Verified { by }
            }
            None => match check::file(self.plan, file, &text, texts, self.compiler).await {
                Ok(()) => Outcome::Kept,
                Err(flaw) => Outcome::Failed { why: format!("kept as somebody's work, but {flaw}") },
            },
        };
        texts.insert(file.path.clone(), text);
        self.done(file, FileReport::new(file.priority, outcome), report);
        Ok(())
    }

    /// By class: a template first where one fits and the class allows it, else the model first.
    async fn make(&self, task: &Task<'_>) -> anyhow::Result<Made> {
        let no_model = self.config.limits.attempts_per_file == 0;
        if (no_model || task.file.priority != Priority::Critical)
            && let Some(text) = self.set.render(self.plan, task.file, task.finished)?
            && self.check(task, &text).await.is_ok()
        {
            return Ok(match task.file.priority {
                Priority::Critical => self.stands_in(task.file, text, "no model was to be asked", 0),
                _ => Made::by_template(text),
            });
        }
        self.by_model_first(task).await
    }

    /// The model, else a template in its place.
    async fn by_model_first(&self, task: &Task<'_>) -> anyhow::Result<Made> {
        let rendered = self.set.render(self.plan, task.file, task.finished)?;
        let spare = match &rendered {
            None => Spare::Nothing,
            Some(text) if self.carried(task.file) => Spare::Whole { chars: text.len() },
            Some(_) => Spare::StandIn,
        };
        let (asked, attempts) = self.ask(task, spare).await;
        let why = match asked {
            Ok(made) => return Ok(made),
            Err(Unmade::Refused(why)) => why,
            // Nothing stands in for an answer that was not asked for: the next run asks.
            Err(Unmade::Stopped(why)) => return Ok(Made::nothing(why, attempts)),
        };
        let Some(text) = rendered else {
            return Ok(Made::nothing(why, attempts));
        };
        Ok(match self.check(task, &text).await {
            Ok(()) => self.stands_in(task.file, text, &format!("the model: {why}"), attempts),
            Err(flaw) => Made::nothing(format!("the model: {why}; the template: {flaw}"), attempts),
        })
    }

    /// A template in place of the model: as good as asked where it is known to do all that is asked, else less.
    fn stands_in(&self, file: &File, text: String, why: &str, attempts: u32) -> Made {
        let made = Made::by_template(text);
        if self.carried(file) {
            return Made { entry: Entry { attempts, ..made.entry }, ..made };
        }
        let why = why.to_owned();
        Made { entry: Entry { degraded: true, attempts, ..made.entry }, outcome: Outcome::Degraded { why }, ..made }
    }

    /// Whether the file's template does all that the request and the plan ask of it.
    fn carried(&self, file: &File) -> bool {
        self.gaps.is_empty() && self.set.serves_purpose(self.plan, file)
    }

    async fn check(&self, task: &Task<'_>, text: &str) -> Result<(), Flaw> {
        check::file(self.plan, task.file, text, task.finished, self.compiler).await
    }

    /// Writes what was made, if it passed, and says so.
    fn settle(&self, folder: &mut Folder, file: &File, made: Made, report: &mut Report) -> anyhow::Result<Option<String>> {
        let good = !matches!(made.outcome, Outcome::Failed { .. });
        let (attempts, model) = (made.entry.attempts, made.entry.model.clone());
        self.done(file, FileReport { attempts, model, route: made.route, ..FileReport::new(file.priority, made.outcome) }, report);
        if !good {
            return Ok(None);
        }
        folder.write(&file.path, &made.text, made.entry).with_context(|| format!("writing {}", file.path))?;
        Ok(Some(made.text))
    }

    fn done(&self, file: &File, done: FileReport, report: &mut Report) {
        self.view.show(&Event::Done { path: &file.path, file: &done });
        report.files.insert(file.path.clone(), done);
    }
}

impl Made {
    fn by_template(text: String) -> Self {
        Self { text, entry: Entry::new(Source::Template), outcome: Outcome::Verified { by: Source::Template }, route: String::new() }
    }

    fn nothing(why: String, attempts: u32) -> Self {
        let entry = Entry { attempts, ..Entry::new(Source::Model) };
        Self { text: String::new(), entry, outcome: Outcome::Failed { why }, route: String::new() }
    }
}
