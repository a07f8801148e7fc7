//! Reads one answer as it comes and judges it when it ends.
//!
//! Looks that cost more than a glance happen at fixed offsets of the text, so that every chunking of an answer gets the same verdict.

use std::sync::Arc;

use spectra_backends::Chunk;
use spectra_backends::chunk::{Choice, Finish};

use super::checks::{Checks, Rule, Wanted};
use super::json::{Progress, Scan};
use super::schema::Schema;
use super::{Doubt, Flaw, Judged, JudgedCall, JudgedChoice, Verdict, files, text, tools};
use crate::repair::{self, Given, Repaired, Stage, Why};

/// Blanks outside strings, in bytes, after which JSON will not go on.
const BLANK_MAX: usize = 1024;
/// Text that must follow a fault before it is taken for final: what is looked ahead for may still be on its way.
const MARGIN: usize = 512;
/// First offset at which broken JSON is tried for repair; each further try is at double the length.
const FIRST_TRY: usize = 2048;

/// One answer being read.
#[derive(Debug)]
pub struct Verifier {
    checks: Arc<Checks>,
    choices: Vec<Track>,
}

/// What is known of one choice.
#[derive(Debug, Default)]
struct Track {
    index: u32,
    text: String,
    refusal: String,
    calls: Vec<JudgedCall>,
    finish: Option<Finish>,
    scan: Option<Scan>,
    scanned: usize,
    next_look: usize,
    next_try: usize,
    doubtful: bool,
    hopeless: Option<Flaw>,
    logprobs: Sum,
    margins: Sum,
}

/// A running mean.
#[derive(Debug, Default)]
struct Sum {
    total: f64,
    count: u32,
}

impl Sum {
    fn add(&mut self, value: f32) {
        // Servers send -9999 or -inf for tokens they do not list; one of them must not drown the rest.
        if value.is_finite() {
            self.total += f64::from(value.max(-20.0));
            self.count += 1;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 values")]
    fn mean(&self) -> Option<f32> {
        (self.count > 0).then(|| (self.total / f64::from(self.count)) as f32)
    }
}

impl Verifier {
    #[must_use]
    pub fn new(checks: Arc<Checks>) -> Self {
        Self { checks, choices: Vec::with_capacity(1) }
    }

    /// Reads one chunk. After `Hopeless` nothing need follow.
    pub fn push(&mut self, chunk: &Chunk) -> Doubt {
        let mut doubt = Doubt::None;
        for choice in &chunk.view.choices {
            let at = self.track(choice.index);
            let track = &mut self.choices[at];
            track.take(choice, &self.checks);
            if let Some(flaw) = &track.hopeless {
                return Doubt::Hopeless(flaw.clone());
            }
            if track.doubtful {
                doubt = Doubt::Mendable;
            }
        }
        doubt
    }

    /// How sure the model is of what it said so far, where it says so: tokens, mean log probability, mean margin. Of its first choice.
    #[must_use]
    pub fn sureness(&self) -> Option<(u32, f32, Option<f32>)> {
        let track = self.choices.first()?;
        Some((track.logprobs.count, track.logprobs.mean()?, track.margins.mean()))
    }

    /// The answer is over, by its own end or by a broken stream.
    #[must_use]
    pub fn finish(self) -> Judged {
        let checks = &*self.checks;
        let mut stages: Vec<Stage> = Vec::new();
        let mut flaw = None;
        let mut choices = Vec::with_capacity(self.choices.len());
        for track in self.choices {
            let hopeless = track.hopeless.clone();
            let margin = track.margins.mean();
            let mut choice = track.judged();
            let found = match hopeless {
                Some(hopeless) => Err(hopeless),
                None => judge(checks, &mut choice, margin),
            };
            match found {
                Ok(more) => stages.extend(more),
                Err(found) => flaw = flaw.or(Some(found)),
            }
            choices.push(choice);
        }
        choices.sort_by_key(|choice| choice.index);
        stages.sort_unstable();
        stages.dedup();
        let verdict = match flaw {
            Some(flaw) => Verdict::Flawed(flaw),
            None if choices.is_empty() && checks.settings.empty => Verdict::Flawed(Flaw::Empty),
            None if stages.is_empty() => Verdict::Pass,
            None => Verdict::Mended(stages),
        };
        Judged { verdict, choices }
    }

    fn track(&mut self, index: u32) -> usize {
        if let Some(at) = self.choices.iter().position(|track| track.index == index) {
            return at;
        }
        let scan = (self.checks.settings.json && self.checks.wants_json()).then(Scan::default);
        self.choices.push(Track { index, scan, next_look: text::STEP, next_try: FIRST_TRY, ..Track::default() });
        self.choices.len() - 1
    }
}

impl Track {
    fn take(&mut self, choice: &Choice, checks: &Checks) {
        if let Some(content) = &choice.content {
            self.text.push_str(content);
        }
        if let Some(refusal) = &choice.refusal {
            self.refusal.push_str(refusal);
        }
        for delta in &choice.tool_calls {
            tools::merge(&mut self.calls, delta);
        }
        if choice.finish.is_some() {
            self.finish.clone_from(&choice.finish);
        }
        for token in &choice.logprobs {
            self.logprobs.add(token.logprob);
            if let Some(runner_up) = token.runner_up {
                self.margins.add(token.logprob - runner_up);
            }
        }
        if choice.content.is_some() && self.hopeless.is_none() {
            self.look(checks);
        }
    }

    /// Goes over the new text; at fixed offsets it looks harder.
    fn look(&mut self, checks: &Checks) {
        while self.text.len() >= self.next_look {
            let upto = text::floor(&self.text, self.next_look);
            self.scan_to(upto);
            self.hopeless = self.given_up(upto, checks);
            if self.hopeless.is_some() {
                return;
            }
            self.next_look += text::STEP;
        }
        self.scan_to(self.text.len());
    }

    fn scan_to(&mut self, upto: usize) {
        if let Some(scan) = &mut self.scan {
            let progress = scan.push(&self.text[self.scanned..upto]);
            self.doubtful |= matches!(progress, Progress::Broken { .. });
            self.scanned = upto;
        }
    }

    /// What speaks for stopping at `upto`, a fixed offset.
    fn given_up(&mut self, upto: usize, checks: &Checks) -> Option<Flaw> {
        let seen = &self.text[..upto];
        if checks.settings.looping {
            if let Some(found) = text::loop_at_end(seen.as_bytes(), 2 * text::HOPELESS_BYTES).filter(text::Loop::is_hopeless) {
                return Some(Flaw::Looping { period_bytes: found.period, excerpt: found.excerpt(seen) });
            }
            if self.scan.as_ref().is_some_and(|scan| scan.blank_run() >= BLANK_MAX && scan.end() == Progress::Open) {
                return Some(Flaw::Looping { period_bytes: 1, excerpt: "blanks".into() });
            }
        }
        if !self.doubtful || upto < self.next_try {
            return None;
        }
        self.next_try = upto * 2;
        if !checks.settings.repair {
            return self.scan.as_ref().and_then(|scan| match scan.end() {
                Progress::Broken { at, why } => Some(Flaw::NotJson { at, why: why.into() }),
                _ => None,
            });
        }
        // Only where JSON stands at the very start: elsewhere more text may change what is meant.
        let bare = seen.trim_start();
        if !bare.starts_with(['{', '[']) || bare.trim_start_matches(['{', '[', ' ', '\n']).starts_with('\\') {
            return None;
        }
        match repair::json(seen, &Given { cut_by_length: true, fits: None, string_wanted: false }) {
            Repaired::Declined { at, why } if at + MARGIN < upto && why != Why::Several => Some(Flaw::NotJson { at, why: why.to_string() }),
            _ => None,
        }
    }

    fn judged(self) -> JudgedChoice {
        JudgedChoice {
            index: self.index,
            mean_logprob: self.logprobs.mean(),
            text: self.text,
            refusal: Some(self.refusal).filter(|refusal| !refusal.is_empty()),
            tool_calls: self.calls,
            finish: self.finish,
            mended: None,
        }
    }
}

/// The verdict on one finished choice: the stages that mended it, or its flaw.
fn judge(checks: &Checks, choice: &mut JudgedChoice, margin: Option<f32>) -> Result<Vec<Stage>, Flaw> {
    let settings = &checks.settings;
    let by_length = choice.finish == Some(Finish::Length);
    if let Some(refusal) = choice.refusal.as_deref().filter(|_| settings.refusal) {
        return Err(Flaw::Refused { excerpt: text::excerpt(refusal, 160) });
    }
    if choice.finish == Some(Finish::ContentFilter) && settings.refusal {
        return Err(Flaw::Refused { excerpt: "the upstream's content filter stopped it".into() });
    }
    let mut stages = Vec::new();
    if choice.tool_calls.is_empty() {
        if settings.tools {
            tools::required(checks)?;
        }
        if text::after_thought(&choice.text).trim().is_empty() && (settings.empty || (by_length && settings.truncation)) {
            return Err(if by_length { Flaw::Truncated { by_length, bytes: choice.text.len() } } else { Flaw::Empty });
        }
        match &checks.wanted {
            Wanted::Json { schema, .. } if settings.json => stages = structured(checks, choice, schema.as_deref(), by_length)?,
            _ => plain(checks, choice, by_length)?,
        }
        for custom in &settings.custom {
            own(custom, choice.mended.as_deref().unwrap_or(&choice.text))?;
        }
    } else if settings.tools {
        stages = tools::judge(checks, &mut choice.tool_calls, by_length)?;
    }
    if choice.finish.is_none() && settings.truncation && stages.is_empty() && !checks.wants_json() {
        return Err(Flaw::Truncated { by_length: false, bytes: choice.text.len() });
    }
    unsure(checks, choice, margin)?;
    Ok(stages)
}

/// An answer that must be JSON.
fn structured(checks: &Checks, choice: &mut JudgedChoice, schema: Option<&Schema>, by_length: bool) -> Result<Vec<Stage>, Flaw> {
    let settings = &checks.settings;
    let schema = schema.filter(|_| settings.schema);
    let said = choice.text.as_str();
    let fits = |text: &str| serde_json::from_str(text).is_ok_and(|value| schema.is_none_or(|schema| schema.fits(&value)));
    let given = Given {
        cut_by_length: by_length || choice.finish.is_none(),
        fits: schema.map(|_| &fits as &dyn Fn(&str) -> bool),
        string_wanted: schema.is_some_and(Schema::takes_string),
    };
    let repaired = match (settings.repair, Scan::whole(said)) {
        (true, _) => repair::json(said, &given),
        (false, Ok(())) => Repaired::Clean,
        (false, Err((at, _))) if at == said.len() => Repaired::Cut { at },
        (false, Err((at, why))) => Repaired::Declined { at, why: Why::Ambiguous(why) },
    };
    let (mut mended, mut stages) = match repaired {
        Repaired::Clean => (None, Vec::new()),
        Repaired::Mended { text, stages } => (Some(text), stages),
        Repaired::Cut { .. } => return Err(broken(checks, said, by_length, None)),
        Repaired::Declined { at, why } => return Err(broken(checks, said, by_length, Some((at, why)))),
    };
    let value: Result<serde_json::Value, _> = serde_json::from_str(mended.as_deref().unwrap_or(said));
    let mut value = match value {
        Ok(value) => value,
        // Deeper than anything can read, or half a surrogate pair: legal, but no schema can be held against it.
        Err(error) if schema.is_some() => return Err(Flaw::NotJson { at: 0, why: error.to_string() }),
        Err(_) => {
            choice.mended = mended;
            return Ok(stages);
        }
    };
    match schema {
        None if settings.schema && matches!(checks.wanted, Wanted::Json { object: true, .. }) && !value.is_object() => {
            return Err(Flaw::OffSchema { errors: vec!["(root): expected an object".into()] });
        }
        None => {}
        Some(schema) => {
            let errors = schema.errors(&value);
            if !errors.is_empty() {
                let bent = settings
                    .coerce
                    .then(|| repair::coerce::coerce(mended.as_deref().unwrap_or(said), schema.value(), &|value| schema.fits(value)))
                    .flatten();
                let Some((text, more)) = bent else {
                    return Err(if settings.echo && value == *schema.value() { Flaw::Echo } else { Flaw::OffSchema { errors } });
                };
                value = serde_json::from_str(&text).map_err(|error| Flaw::NotJson { at: 0, why: error.to_string() })?;
                stages.extend(more);
                mended = Some(text);
            }
        }
    }
    files::judge(&value, settings)?;
    choice.mended = mended;
    Ok(stages)
}

/// What to call JSON that cannot be mended.
fn broken(checks: &Checks, said: &str, by_length: bool, declined: Option<(usize, Why)>) -> Flaw {
    let settings = &checks.settings;
    let found = text::loop_at_end(said.as_bytes(), usize::MAX).filter(|found| found.is_flaw(said, true));
    if let Some(found) = found.filter(|_| settings.looping && (by_length || declined.is_none())) {
        return Flaw::Looping { period_bytes: found.period, excerpt: found.excerpt(said) };
    }
    if settings.refusal && !said.contains(['{', '[']) && text::is_refusal(said) {
        return Flaw::Refused { excerpt: text::excerpt(said, 160) };
    }
    if settings.echo && checks.asked.as_deref().is_some_and(|asked| text::same_words(said, asked)) {
        return Flaw::Echo;
    }
    match declined {
        None => Flaw::Truncated { by_length, bytes: said.len() },
        Some((at, why)) => Flaw::NotJson { at, why: why.to_string() },
    }
}

/// An answer in plain text.
fn plain(checks: &Checks, choice: &JudgedChoice, by_length: bool) -> Result<(), Flaw> {
    let settings = &checks.settings;
    let said = choice.text.as_str();
    if settings.looping
        && let Some(found) = text::loop_at_end(said.as_bytes(), usize::MAX)
        && found.is_flaw(said, by_length)
    {
        return Err(Flaw::Looping { period_bytes: found.period, excerpt: found.excerpt(said) });
    }
    let fences = if memchr::memmem::find(said.as_bytes(), b"```").is_some() { text::fences(said) } else { Vec::new() };
    let open = fences.last().is_some_and(|fence| !fence.closed);
    if settings.truncation && ((by_length && !checks.limited) || (open && !by_length && files::ends_abruptly(&fences))) {
        return Err(Flaw::Truncated { by_length, bytes: said.len() });
    }
    if settings.echo && checks.asked.as_deref().is_some_and(|asked| text::same_words(said, asked)) {
        return Err(Flaw::Echo);
    }
    if settings.fenced_code {
        files::judge_fences(&fences, by_length)?;
    }
    Ok(())
}

/// The operator's own check.
fn own(custom: &super::Custom, said: &str) -> Result<(), Flaw> {
    let why = match &custom.rule {
        Rule::Matches(regex) if !regex.is_match(said) => "the answer does not match".to_owned(),
        Rule::Lacks(regex) => match regex.find(said) {
            Some(found) => format!("the answer contains {:?}", text::excerpt(found.as_str(), 60)),
            None => return Ok(()),
        },
        Rule::Schema(schema) => match serde_json::from_str(said) {
            Err(error) => error.to_string(),
            Ok(value) => match schema.errors(&value) {
                errors if errors.is_empty() => return Ok(()),
                errors => errors.join("; "),
            },
        },
        Rule::Matches(_) => return Ok(()),
    };
    Err(Flaw::Custom { check: custom.name.to_string(), why })
}

fn unsure(checks: &Checks, choice: &JudgedChoice, margin: Option<f32>) -> Result<(), Flaw> {
    let settings = &checks.settings;
    let Some(mean_logprob) = choice.mean_logprob else { return Ok(()) };
    let low = settings.least_logprob.is_some_and(|least| mean_logprob < least);
    let close = settings.least_margin.is_some_and(|least| margin.is_some_and(|margin| margin < least));
    if low || close { Err(Flaw::Unsure { mean_logprob, mean_margin: margin }) } else { Ok(()) }
}
