//! What a new policy would do to the requests of the ledger, before a reload puts it into force.

use anyhow::bail;
use spectra_config::Config;
use spectra_router::score::{Forecast, Policy, Rule, Situation};

use crate::ledger::Ledger;

/// Requests looked at; and fewer than this many are no ground to refuse anything.
const MOST: u32 = 5000;
const FEWEST: f64 = 100.0;

/// What the next config's policy is estimated to change, in words; `None` where it is the same.
///
/// # Errors
/// For a policy that loses more usable answers than `router.guard_usable_drop` allows by the whole of the estimate's interval.
pub(crate) fn guard(now: &Config, next: &Config, ledger: Option<&Ledger>) -> anyhow::Result<Option<String>> {
    if now.router.policy == next.router.policy {
        return Ok(None);
    }
    let unknown = |why: &str| Ok(Some(format!("what the new router.policy will do could not be estimated: {why}")));
    let Some(ledger) = ledger else { return unknown("no ledger is kept") };
    let forecast = match estimated(ledger, next.router.policy.into()) {
        Ok(forecast) => forecast,
        Err(error) => return unknown(&format!("{error:#}")),
    };
    if forecast.count < FEWEST {
        return unknown(&format!("the ledger holds {} requests that were routed and judged, and {FEWEST} are needed", forecast.count));
    }
    let Some(most) = next.router.guard_usable_drop else { return Ok(Some(format!("the new router.policy: {forecast}"))) };
    // By the interval: a handful of explored requests, each weighing many, must not refuse a change that may well be harmless.
    let change = forecast.change();
    let [at, low, high, allowed] = [change.at, change.low, change.high, most].map(|share| 100.0 * share);
    if change.high < -most {
        bail!(
            "router.policy is not taken over: {forecast}; that is {at:+.1} points [{low:+.1}, {high:+.1}], surely more than the loss of {allowed:.1} that router.guard_usable_drop allows: raise it, or leave it out, to have this policy all the same"
        );
    }
    let open = if change.low < -most {
        format!(
            "; that is {at:+.1} points [{low:+.1}, {high:+.1}]: these records cannot rule out a loss of more than the {allowed:.1} that router.guard_usable_drop allows"
        )
    } else {
        String::new()
    };
    Ok(Some(format!("the new router.policy: {forecast}{open}")))
}

fn estimated(ledger: &Ledger, rule: Rule) -> anyhow::Result<Forecast> {
    let policy = Policy::new(rule, 0.0);
    let mut forecast = Forecast::default();
    for decided in ledger.decided(MOST)? {
        let now = policy.choose(&decided.score, &Situation::default()).route;
        forecast.take([decided.score.p_local, decided.score.p_hosted], decided.taken, now);
    }
    Ok(forecast)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Gateway;
    use crate::record::Decision;
    use crate::sample::{attempt, record};

    /// A gateway whose ledger holds 200 requests, written as requests are: every other one is hard, of which the scorer gives the local
    /// model the chance `p_local`, and went to the strong route, which answers well; of each twenty hard ones one was tried locally, and of
    /// these five the first `failed` failed.
    fn filled(folder: &tempfile::TempDir, p_local: f32, failed: u16) -> Gateway {
        let gateway = Gateway::build(config(folder, "policy = { threshold = 0.5 }"), None).unwrap();
        let ledger = gateway.books.views.ledger.as_deref().unwrap();
        for at in 0_u16..200 {
            let (hard, tried) = (at % 2 == 1, at % 40 == 1);
            let local = !hard || tried;
            let verdict = if tried && at / 40 < failed { "not_json" } else { "pass" };
            let mut one = record(vec![attempt(if local { "small" } else { "big" }, 0, "first", verdict)]);
            one.request_id = format!("req-{at}").into();
            one.side = Some(if local { "local" } else { "strong" });
            one.score = Some(if hard { 0.8 } else { 0.2 });
            let p_local = if hard { p_local } else { 0.9 };
            let propensity = Some(if tried { 0.05 } else { 0.95 });
            one.decision = Decision { chances: Some([p_local, 0.95]), need: Some(0.95 - p_local), propensity, ..Decision::default() };
            ledger.keep(Arc::new(one));
        }
        gateway
    }

    fn config(folder: &tempfile::TempDir, router: &str) -> Config {
        let ledger = folder.path().join("ledger.sqlite").display().to_string();
        let text = format!(
            "[accounting]\nledger = '{ledger}'\n[backends.small.script]\nanswers = [{{ text = 'a' }}]\n[backends.big.script]\n\
             answers = [{{ text = 'a' }}]\n[routes.local]\nladder = ['small', 'big']\n[routes.strong]\nladder = ['big']\n[router]\n{router}"
        );
        Config::parse(&text, "test", &|_| None).unwrap()
    }

    /// What the next config says, or why it is not taken over.
    fn next(gateway: &Gateway, folder: &tempfile::TempDir, router: &str) -> Result<String, String> {
        let next = gateway.next(config(folder, router), None);
        next.map(|next| next.config.notices.join("\n")).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_reload_that_would_lose_usable_answers_is_refused_with_the_figures() {
        let folder = tempfile::tempdir().unwrap();
        let few = Gateway::build(config(&folder, "policy = { threshold = 0.5 }"), None).unwrap();
        let few = next(&few, &folder, "policy = { threshold = 1.0 }\nguard_usable_drop = 0.02").unwrap();
        assert!(few.contains("0 requests"), "{few}");
        let gateway = filled(&folder, 0.3, 5);
        let refused = next(&gateway, &folder, "policy = { threshold = 1.0 }\nguard_usable_drop = 0.02").unwrap_err();
        for part in ["not taken over", "by 200 requests", "from 97.5 % to 5", "hosted share from 47.5 % to 0.0 %", "loss of 2.0"] {
            assert!(refused.contains(part), "{part:?} in {refused}");
        }
        for taken in ["policy = { threshold = 1.0 }", "policy = { threshold = 1.0 }\nguard_usable_drop = 0.9"] {
            let said = next(&gateway, &folder, taken).unwrap();
            assert!(said.contains("hosted share from 47.5 % to 0.0 %") && !said.contains("rule out"), "{said}");
        }
        // The rule that was in force: nothing is lost.
        assert!(next(&gateway, &folder, "policy = { target = { usable = 0.85 } }\nguard_usable_drop = 0.02").is_ok());
        assert!(!next(&gateway, &folder, "policy = { threshold = 0.5 }\nguard_usable_drop = 0.0").unwrap().contains("policy"));
    }

    #[test]
    fn a_few_explored_requests_refuse_nothing_but_say_what_they_cannot_rule_out() {
        let folder = tempfile::tempdir().unwrap();
        // One of five trials failed: as likely under the chance of 0.9 that the scorer gives as not.
        let gateway = filled(&folder, 0.9, 1);
        let said = next(&gateway, &folder, "policy = { threshold = 1.0 }\nguard_usable_drop = 0.02").unwrap();
        let loss = said.split("that is -").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|loss| loss.parse::<f64>().ok());
        assert!(loss.is_some_and(|loss| loss > 2.0) && said.contains("cannot rule out a loss of more than the 2.0"), "{said}");
    }
}
