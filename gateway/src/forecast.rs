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
/// For a policy that loses more usable answers than `router.guard_usable_drop` allows.
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
    match next.router.guard_usable_drop {
        Some(most) if forecast.change().at < -most => bail!(
            "router.policy is not taken over: {forecast}; router.guard_usable_drop allows a loss of {:.1} points: raise it, or leave it out, to have this policy all the same",
            100.0 * most
        ),
        _ => Ok(Some(format!("the new router.policy: {forecast}"))),
    }
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

    /// 200 requests through the ledger's writer: every other one is hard and went to the strong route, which answers well; of each
    /// twenty hard ones one was tried locally, and failed.
    fn fill(ledger: &Ledger) {
        for at in 0_u16..200 {
            let (hard, tried) = (at % 2 == 1, at % 40 == 1);
            let local = !hard || tried;
            let verdict = if hard && tried { "not_json" } else { "pass" };
            let mut one = record(vec![attempt(if local { "small" } else { "big" }, 0, "first", verdict)]);
            one.request_id = format!("req-{at}").into();
            one.side = Some(if local { "local" } else { "strong" });
            one.score = Some(if hard { 0.8 } else { 0.2 });
            let p_local = if hard { 0.3 } else { 0.9 };
            let propensity = Some(if hard && tried { 0.05 } else { 0.95 });
            one.decision = Decision { chances: Some([p_local, 0.95]), need: Some(0.95 - p_local), propensity, ..Decision::default() };
            ledger.keep(Arc::new(one));
        }
    }

    #[test]
    fn a_reload_that_would_lose_usable_answers_is_refused_with_the_figures() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger.sqlite").display().to_string();
        let config = |router: &str| {
            let text = format!(
                "[accounting]\nledger = '{ledger}'\n[backends.small.script]\nanswers = [{{ text = 'a' }}]\n[backends.big.script]\n\
                 answers = [{{ text = 'a' }}]\n[routes.local]\nladder = ['small', 'big']\n[routes.strong]\nladder = ['big']\n[router]\n{router}"
            );
            Config::parse(&text, "test", &|_| None).unwrap()
        };
        let gateway = Gateway::build(config("policy = { threshold = 0.5 }"), None).unwrap();
        let next = |router: &str| gateway.next(config(router), None).map(|next| next.config.notices);
        let few = next("policy = { threshold = 1.0 }\nguard_usable_drop = 0.02").unwrap();
        assert!(few.iter().any(|notice| notice.contains("0 requests")), "{few:?}");
        fill(gateway.books.views.ledger.as_deref().unwrap());
        let refused = format!("{:#}", next("policy = { threshold = 1.0 }\nguard_usable_drop = 0.02").unwrap_err());
        for part in ["not taken over", "by 200 requests", "from 97.5 % to 5", "hosted share from 47.5 % to 0.0 %", "2.0 points"] {
            assert!(refused.contains(part), "{part:?} in {refused}");
        }
        for taken in ["policy = { threshold = 1.0 }", "policy = { threshold = 1.0 }\nguard_usable_drop = 0.9"] {
            let notices = next(taken).unwrap();
            assert!(notices.iter().any(|notice| notice.contains("hosted share from 47.5 % to 0.0 %")), "{notices:?}");
        }
        // The rule that was in force: nothing is lost.
        assert!(next("policy = { target = { usable = 0.85 } }\nguard_usable_drop = 0.02").is_ok());
        assert!(next("policy = { threshold = 0.5 }\nguard_usable_drop = 0.0").unwrap().iter().all(|notice| !notice.contains("policy")));
    }
}
