//! What people and programs see while a service is built: a live view, plain lines, or JSON events.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::ask::Answer;
use crate::plan::Priority;
use crate::report::{FileReport, Report};

/// One thing that happened; with `--json`, one line each.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    Planned {
        service_name: &'a str,
        stack: &'a str,
        from: &'a str,
        files: BTreeMap<Priority, usize>,
    },
    Note {
        text: &'a str,
    },
    Asked {
        path: &'a str,
        attempt: u32,
        route: &'a str,
        model: &'a str,
        tokens: u64,
        cost_usd: f64,
        flaw: Option<String>,
    },
    Done {
        path: &'a str,
        #[serde(flatten)]
        file: &'a FileReport,
    },
    /// With `--dry-run`: what would be done.
    Would {
        path: &'a str,
        outcome: &'a str,
        detail: &'a str,
    },
    Checked {
        step: &'a str,
        passed: bool,
        detail: &'a str,
    },
    Summary(&'a Report),
}

impl<'a> Event<'a> {
    pub fn asked(path: &'a str, attempt: u32, answer: &'a Answer, flaw: Option<String>) -> Self {
        let (route, model) = (answer.route.as_str(), answer.model.as_str());
        Self::Asked { path, attempt, route, model, tokens: answer.tokens, cost_usd: answer.cost_usd, flaw }
    }
}

/// How events are shown.
#[derive(Debug)]
pub struct View {
    kind: Kind,
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
enum Kind {
    Live(ProgressBar),
    Plain,
    Json,
    /// Standard output belongs to something else.
    Aside,
}

#[derive(Debug, Default)]
struct Counts {
    files: usize,
    done: usize,
    calls: u32,
    tokens: u64,
    cost_usd: f64,
}

impl View {
    /// JSON if asked for, else live on a terminal, else plain lines; `aside`: plain lines on standard error.
    pub fn new(json: bool, aside: bool) -> Self {
        let kind = if aside {
            Kind::Aside
        } else if json {
            Kind::Json
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:24} {pos}/{len} files  {elapsed} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            Kind::Live(bar)
        } else {
            Kind::Plain
        };
        Self { kind, started: Instant::now(), counts: Mutex::default() }
    }

    pub fn show(&self, event: &Event<'_>) {
        let Ok(mut counts) = self.counts.lock() else {
            return;
        };
        counts.add(event);
        match &self.kind {
            Kind::Json => line(&serde_json::to_string(event).unwrap_or_default()),
            Kind::Plain => words(event).iter().for_each(|text| line(text)),
            Kind::Aside => words(event).iter().for_each(|text| {
                let _ = writeln!(std::io::stderr().lock(), "{text}");
            }),
            Kind::Live(bar) => {
                bar.set_length(counts.files as u64);
                bar.set_position(counts.done as u64);
                bar.set_message(counts.tail(self.started.elapsed()));
                words(event).into_iter().for_each(|text| bar.println(text));
                if matches!(event, Event::Summary(_)) {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

impl Counts {
    fn add(&mut self, event: &Event<'_>) {
        match event {
            Event::Planned { files, .. } => self.files = files.values().sum(),
            Event::Asked { tokens, cost_usd, .. } => {
                self.calls += 1;
                self.tokens += tokens;
                self.cost_usd += cost_usd;
            }
            Event::Done { .. } => self.done = (self.done + 1).min(self.files),
            _ => {}
        }
    }

    /// Calls, tokens, cost, and the time left if the rest goes like the files so far.
    fn tail(&self, elapsed: Duration) -> String {
        let mut text = format!("{} calls, {} tokens, ${:.4}", self.calls, self.tokens, self.cost_usd);
        if let (Ok(done @ 1..), Ok(left @ 1..)) = (u32::try_from(self.done), u32::try_from(self.files - self.done)) {
            text.push_str(&format!(", about {} s left", (elapsed / done * left).as_secs()));
        }
        text
    }
}

fn words(event: &Event<'_>) -> Vec<String> {
    let one = |text: String| vec![text];
    match event {
        Event::Planned { service_name, stack, from, files } => {
            let classes: Vec<String> = files.iter().map(|(class, n)| format!("{n} {class}")).collect();
            one(format!("plan    {service_name} ({stack}, {from}): {}", classes.join(", ")))
        }
        Event::Note { text } => one(format!("note    {text}")),
        Event::Asked { path, attempt, route, model, flaw: Some(flaw), .. } => {
            let by = [*route, *model].join(" ");
            one(format!("again   {path}: answer {attempt} ({}) refused: {flaw}", by.trim()))
        }
        Event::Asked { .. } => Vec::new(),
        Event::Done { path, file } => {
            let (outcome, why) = (file.outcome.name(), file.outcome.why());
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            let by = [file.route.as_str(), file.model.as_str()].join(" ");
            let by = if by == " " { String::new() } else { format!(" ({})", by.trim()) };
            let answers = match file.attempts {
                0 => String::new(),
                1 => ", 1 answer".to_owned(),
                count => format!(", {count} answers"),
            };
            one(format!("{outcome:<9}{path} [{}]{answers}{by}{why}", file.priority))
        }
        Event::Would { path, outcome, detail } => {
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            one(format!("{outcome:<9}{path}{detail}"))
        }
        Event::Checked { step, passed, detail } => one(format!("check   {step}: {}{detail}", if *passed { "" } else { "FAILED " })),
        Event::Summary(report) => report.lines(),
    }
}

/// Progress goes to standard output, where `--json` is read; a closed pipe is no reason to stop building.
fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
