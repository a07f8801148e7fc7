//! The service as a whole: faults between its files and of the running service go back to the files they come from.

use std::collections::BTreeMap;

use super::{Build, Made, Task};
use crate::check::{self, Flaw, Texts};
use crate::config_file::ServiceCheck;
use crate::plan::{Plan, Priority};
use crate::progress::Event;
use crate::report::{Outcome, Report};
use crate::service::{self, Shown};
use crate::write::{Folder, Source, State};

impl Build<'_> {
    /// Checks the whole and sends its faults back to the files, a bounded number of times; the last time, templates
    /// replace model-written files that still do not work together.
    pub(super) async fn repairs(&self, folder: &mut Folder, texts: &mut Texts, report: &mut Report) -> anyhow::Result<()> {
        for round in 0..=self.config.limits.repair_rounds {
            self.refresh_facts(folder, texts, report)?;
            let faults = self.faults(texts, report).await;
            let last = round == self.config.limits.repair_rounds;
            for (path, flaw) in &faults {
                let why = format!("after the whole check: {flaw}");
                self.view.show(&Event::Checked { step: path, passed: false, detail: &why });
                self.take_back(path, flaw).await;
            }
            let Some(open) = self.repairable(folder, faults, report)? else {
                return Ok(());
            };
            for (path, flaws) in open {
                let Some(file) = self.plan.file(&path) else {
                    continue;
                };
                let mut others = texts.clone();
                others.remove(&path);
                let task = Task { file, finished: &others, faults: &flaws };
                let made = if last { self.in_place(&task)? } else { self.by_model_first(&task).await? };
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
            report.becomes(&path, Outcome::Failed { why: flaw.to_string() });
            if ours {
                open.entry(path).or_default().push(flaw);
            }
        }
        Ok((!open.is_empty()).then_some(open))
    }

    /// The template's text, without asking again.
    fn in_place(&self, task: &Task<'_>) -> anyhow::Result<Made> {
        let why = task.faults.iter().map(Flaw::to_string).collect::<Vec<_>>().join("; ");
        Ok(match self.set.render(self.plan, task.file, task.finished)? {
            Some(text) => self.stands_in(task.file, text, &why, 0),
            None => Made::nothing(why, 0),
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
                report.becomes(&file.path, Outcome::Verified { by: Source::Template });
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
