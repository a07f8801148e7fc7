//! Checks that need more than the text: a program, an endpoint, another model. They are made of whole answers that pass all others.
//!
//! Programs and endpoints are reached through a `Probe`, which whoever builds the router brings; models through the fleet.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;
use spectra_backends::{Alarm, ChatRequest, Fleet};
use spectra_config::{ITSELF, OnFailure, Own};
use tokio::time::{Instant, timeout_at};

use crate::Asked;
use crate::climb::cost_usd;
use crate::hedge::Opening;
use crate::plan::Plan;
use crate::trail::{Checked, Said, Trail};
use crate::verify::{Flaw, Judged, JudgedChoice, Verdict, excerpt};

/// Bytes of the request, and of the answer, that a model is shown.
const SHOWN_BYTES: usize = 6000;
/// Characters of a check's reason that are kept.
const REASON_CHARS: usize = 400;

/// Reaches a program or an endpoint. `subject` is one JSON object; see [`Subject`].
pub trait Probe: Send + Sync + std::fmt::Debug {
    /// `Ok(None)`: usable; `Ok(Some(why))`: not. `Err`: the check could not be made. Dropping the future ends it.
    fn ask<'a>(&'a self, subject: &'a str) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>>;
}

/// Reaches nothing.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Probe for Nobody {
    fn ask<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Result<Option<String>, String>> + Send + 'a>> {
        Box::pin(std::future::ready(Err("nobody is there to make it".into())))
    }
}

/// What a probe is told.
#[derive(Debug, Serialize)]
pub struct Subject<'a> {
    pub check: &'a str,
    pub request_id: &'a str,
    /// Name of the backend that answered.
    pub model: &'a str,
    /// The last message of the user.
    pub asked: &'a str,
    /// The answer as it would be delivered.
    pub text: &'a str,
    pub tool_calls: Vec<SubjectCall<'a>>,
}

#[derive(Debug, Serialize)]
pub struct SubjectCall<'a> {
    pub name: &'a str,
    pub arguments: &'a str,
}

/// One check of the operator's.
#[derive(Clone, Debug)]
pub struct Outside {
    name: Arc<str>,
    within: Duration,
    on_failure: OnFailure,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Probe(Arc<dyn Probe>),
    Backend(Arc<str>),
    /// The backend that answered, if it runs on this machine.
    Itself,
}

/// Whose answer is checked, by which plan, and where it is written down.
pub(crate) struct About<'a> {
    pub fleet: &'a Fleet,
    pub plan: &'a Plan,
    pub trail: &'a Trail,
    pub request: &'a ChatRequest,
    pub asked: &'a Arc<Asked>,
    pub backend: &'a Arc<str>,
}

impl About<'_> {
    /// The judgement after the operator's checks that need more than the text.
    pub async fn checked(&self, judged: Judged) -> Judged {
        let (judged, made) = asked_outside(&self.plan.checks.settings().outside, judged, self).await;
        if !made.is_empty() {
            self.trail.write(|account| account.checked.extend(made));
        }
        judged
    }
}

impl Outside {
    /// The check that `own` describes; `None` for one that is a matter of the text alone.
    pub(crate) fn of(name: &str, own: &Own, probe: &dyn Fn(&Own) -> Arc<dyn Probe>) -> Option<Self> {
        let how = match own.ask.as_deref() {
            Some(ITSELF) => How::Itself,
            Some(backend) => How::Backend(backend.into()),
            None if own.command.is_some() || own.url.is_some() => How::Probe(probe(own)),
            None => return None,
        };
        Some(Self { name: name.into(), within: own.within(), on_failure: own.on_failure, how })
    }

    /// What it says of one choice; `None` where it has nothing to say.
    async fn ask(&self, choice: &JudgedChoice, about: &About<'_>) -> Option<(Checked, Option<String>)> {
        let began = Instant::now();
        let until = about.plan.deadline.min(began + self.within);
        let mut cost_usd = 0.0;
        let said = match &self.how {
            How::Probe(probe) => {
                let subject = serde_json::to_string(&self.subject(choice, about)).ok()?;
                timeout_at(until, probe.ask(&subject)).await.unwrap_or_else(|_| Err("it took too long".into()))
            }
            How::Itself if !about.fleet.facts(about.backend).is_some_and(|facts| facts.local) => return None,
            How::Itself | How::Backend(_) if !choice.tool_calls.is_empty() => return None,
            How::Itself => second_look(about.backend, choice, about, until, &mut cost_usd).await,
            How::Backend(backend) => second_look(backend, choice, about, until, &mut cost_usd).await,
        };
        let (said, why) = match said {
            Ok(None) => (Said::Usable, None),
            Ok(Some(why)) => (Said::Unusable, Some(excerpt(why.trim(), REASON_CHARS))),
            Err(why) => {
                tracing::warn!(check = &*self.name, why, "a check could not be made");
                let refused = format!("the check could not be made: {}", excerpt(&why, REASON_CHARS));
                (Said::Failed, (self.on_failure == OnFailure::Refuse).then_some(refused))
            }
        };
        Some((Checked { name: self.name.clone(), said, total: began.elapsed(), cost_usd }, why))
    }

    fn subject<'a>(&'a self, choice: &'a JudgedChoice, about: &'a About<'_>) -> Subject<'a> {
        let calls = choice.tool_calls.iter();
        Subject {
            check: &self.name,
            request_id: &about.asked.request_id,
            model: about.backend,
            asked: about.request.last_user_text(),
            text: choice.said(),
            tool_calls: calls
                .map(|call| SubjectCall { name: &call.name, arguments: call.mended.as_deref().unwrap_or(&call.arguments) })
                .collect(),
        }
    }
}

/// Puts an answer that is usable so far to the checks, in their order; the first no counts.
async fn asked_outside(checks: &[Outside], mut judged: Judged, about: &About<'_>) -> (Judged, Vec<Checked>) {
    let mut made = Vec::new();
    if checks.is_empty() || !judged.verdict.is_usable() {
        return (judged, made);
    }
    for choice in &judged.choices {
        for check in checks {
            let Some((checked, why)) = check.ask(choice, about).await else { continue };
            made.push(checked);
            if let Some(why) = why {
                judged.verdict = Verdict::Flawed(Flaw::Custom { check: check.name.to_string(), why });
                return (judged, made);
            }
        }
    }
    (judged, made)
}

/// Asks a model in one word whether an answer will do.
async fn second_look(
    backend: &Arc<str>,
    choice: &JudgedChoice,
    about: &About<'_>,
    until: Instant,
    cost: &mut f64,
) -> Result<Option<String>, String> {
    let constrained = about.fleet.facts(backend).is_some_and(|facts| facts.json_schema);
    let request =
        ChatRequest::parse(question(about.request.last_user_text(), choice.said(), constrained).into()).map_err(|error| error.message)?;
    let opening = Opening {
        fleet: about.fleet.clone(),
        backend: backend.clone(),
        asked: about.asked.clone(),
        began: Instant::now(),
        deadline: until,
        stops_loops: true,
    };
    let mut alarm = Alarm::at(until);
    let mut reply = opening.ask_within(&mut alarm, request).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    while let Some(chunk) = alarm.before(reply.chunks.next()).await.ok_or("it took too long")? {
        let chunk = chunk.map_err(|error| error.to_string())?;
        *cost += cost_usd(about.fleet, backend, chunk.view.usage);
        text.extend(chunk.view.choices.into_iter().filter_map(|choice| choice.content));
    }
    match word(&text) {
        Some("yes") => Ok(None),
        Some(_) => Ok(Some(format!("{backend} thinks that it does not do what was asked"))),
        None => Err(format!("{backend} said neither yes nor no")),
    }
}

fn question(asked: &str, answer: &str, constrained: bool) -> String {
    let cut = |text: &'_ str| text[..text.floor_char_boundary(SHOWN_BYTES)].to_owned();
    let content = format!(
        "A request:\n<request>\n{}\n</request>\n\nAn answer to it:\n<answer>\n{}\n</answer>\n\nDoes the answer do what the request asks, in full? Say yes or no.",
        cut(asked),
        cut(answer)
    );
    let mut body = json!({ "model": "self", "messages": [{ "role": "user", "content": content }], "max_tokens": 16, "temperature": 0 });
    if constrained {
        let schema = json!({
            "type": "object",
            "properties": { "usable": { "type": "string", "enum": ["yes", "no"] } },
            "required": ["usable"],
            "additionalProperties": false,
        });
        body["response_format"] = json!({ "type": "json_schema", "json_schema": { "name": "verdict", "strict": true, "schema": schema } });
    }
    body.to_string()
}

/// The first yes or no of a text.
fn word(text: &str) -> Option<&'static str> {
    let words = text.split(|c: char| !c.is_alphabetic());
    words.filter_map(|word| ["yes", "no"].into_iter().find(|known| word.eq_ignore_ascii_case(known))).next()
}
