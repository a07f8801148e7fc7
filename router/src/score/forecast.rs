//! What another rule would make of requests whose choices were logged: an estimate before it is in force.

use std::fmt;

use super::policy::Route;

/// What became of a request on the route that was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    pub route: Route,
    /// The route's first answer was usable.
    pub usable: bool,
    /// Chance with which the route was taken, given the score.
    pub propensity: f32,
}

/// Sums for a doubly robust estimate (Dudík, Langford and Li 2011): what the scorer expects of the candidate's choices, corrected
/// by what happened where the same choice had been made, the rarer the heavier.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forecast {
    pub count: f64,
    strong_then: f64,
    strong_now: f64,
    usable_then: f64,
    expected: f64,
    changed: f64,
    /// Changed, and the candidate's choice could not have been seen: nothing was explored there.
    blind: f64,
    /// Of the terms whose mean is the estimate, and of their distance to what happened: sums, and sums of squares.
    now: [f64; 2],
    change: [f64; 2],
    /// Weights of the outcomes that count, and their squares.
    weights: [f64; 2],
}

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub at: f64,
    pub low: f64,
    pub high: f64,
}

/// Least chance that an outcome is divided by.
const LEAST: f32 = 0.01;

impl Forecast {
    /// Takes a logged request in: the chances (local, hosted) it was given before its outcome was known, what was done then, and
    /// what the candidate does.
    pub fn take(&mut self, chances: [f32; 2], then: Taken, now: Route) {
        let one = |on: bool| f64::from(u8::from(on));
        let happened = one(then.usable);
        let expected = f64::from(chances[usize::from(now == Route::Strong)]);
        let same = now == then.route;
        let weight = if same { 1.0 / f64::from(then.propensity.clamp(LEAST, 1.0)) } else { 0.0 };
        let term = expected + weight * (happened - expected);
        self.count += 1.0;
        self.strong_then += one(then.route == Route::Strong);
        self.strong_now += one(now == Route::Strong);
        self.usable_then += happened;
        self.expected += expected;
        self.changed += one(!same);
        self.blind += one(!same && then.propensity >= 1.0);
        for (sums, value) in [(&mut self.now, term), (&mut self.change, term - happened), (&mut self.weights, weight)] {
            *sums = [sums[0] + value, sums[1] + value * value];
        }
    }

    /// Shares of requests on the strong route, then and with the candidate.
    #[must_use]
    pub fn strong(&self) -> (f64, f64) {
        (self.share(self.strong_then), self.share(self.strong_now))
    }

    /// Share of usable first answers then.
    #[must_use]
    pub fn usable_then(&self) -> f64 {
        self.share(self.usable_then)
    }

    /// The same with the candidate.
    #[must_use]
    pub fn usable(&self) -> Estimate {
        let Estimate { at, low, high } = self.estimate(self.now);
        // A heavily weighted outcome can carry the sum beyond what a share can be.
        let [at, low, high] = [at, low, high].map(|share| share.clamp(0.0, 1.0));
        Estimate { at, low, high }
    }

    /// By how much the candidate raises the share of usable first answers; below 0: lowers it.
    #[must_use]
    pub fn change(&self) -> Estimate {
        self.estimate(self.change)
    }

    /// What the scorer alone expects of the candidate.
    #[must_use]
    pub fn expected(&self) -> f64 {
        self.share(self.expected)
    }

    /// Share of requests that the candidate sends another way.
    #[must_use]
    pub fn changed(&self) -> f64 {
        self.share(self.changed)
    }

    /// Of these, the share for which the records hold no trial: there the estimate is the scorer's word alone.
    #[must_use]
    pub fn blind(&self) -> f64 {
        if self.changed > 0.0 { self.blind / self.changed } else { 0.0 }
    }

    /// How many evenly weighted outcomes the correction is worth.
    #[must_use]
    pub fn effective(&self) -> f64 {
        if self.weights[1] > 0.0 { self.weights[0] * self.weights[0] / self.weights[1] } else { 0.0 }
    }

    fn share(&self, part: f64) -> f64 {
        part / self.count.max(1.0)
    }

    fn estimate(&self, [sum, squares]: [f64; 2]) -> Estimate {
        let at = self.share(sum);
        let spread = (self.share(squares) - at * at).max(0.0).sqrt() / self.count.max(1.0).sqrt();
        Estimate { at, low: at - 1.96 * spread, high: at + 1.96 * spread }
    }
}

/// In one line, for a log.
impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (usable, (then, now)) = (self.usable(), self.strong());
        write!(
            f,
            "by {} requests of the ledger, usable first answers go from {:.1} % to {:.1} % [{:.1}, {:.1}] and the hosted share from {:.1} % to {:.1} %",
            self.count,
            100.0 * self.usable_then(),
            100.0 * usable.at,
            100.0 * usable.low,
            100.0 * usable.high,
            100.0 * then,
            100.0 * now
        )?;
        if self.blind() > 0.5 {
            f.write_str(
                "; nothing was explored where the choice changes, so this is the scorer's word and not a trial: set router.explore",
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Random;
    use super::*;

    /// Requests of two kinds: the local model answers easy ones at 0.9 and hard ones at 0.2, the strong one all at 0.95. The scorer
    /// believes 0.6 of every local answer. Logged with `explore`; the candidate sends everything to the local model.
    fn logged(explore: f32) -> Forecast {
        let (mut random, mut forecast) = (Random(7), Forecast::default());
        for _ in 0..20_000 {
            let hard = random.unit() < 0.5;
            let by_rule = if hard { Route::Strong } else { Route::Local };
            let explored = random.unit() < f64::from(explore);
            let route = if hard == explored { Route::Local } else { Route::Strong };
            let chance = match (route, hard) {
                (Route::Strong, _) => 0.95,
                (Route::Local, true) => 0.2,
                (Route::Local, false) => 0.9,
            };
            let propensity = if route == by_rule { 1.0 - explore } else { explore };
            let taken = Taken { route, usable: random.unit() < chance, propensity };
            forecast.take([0.6, 0.95], taken, Route::Local);
        }
        forecast
    }

    #[test]
    fn exploration_tells_the_truth_where_the_scorer_is_wrong() {
        let forecast = logged(0.05);
        let usable = forecast.usable();
        // All local: (0.9 + 0.2) / 2.
        assert!(usable.low < 0.55 && 0.55 < usable.high && usable.high - usable.low < 0.1, "{usable:?}");
        assert!(forecast.blind() == 0.0 && forecast.strong().1 == 0.0 && forecast.effective() > 500.0, "{forecast:?}");
        assert!((forecast.change().at - (usable.at - forecast.usable_then())).abs() < 1e-9);
        // Without a trial it is the scorer's word, and says so.
        let blind = logged(0.0);
        assert!(blind.usable().at > 0.7 && blind.blind() == 1.0 && blind.to_string().contains("router.explore"), "{blind}");
        assert!(!forecast.to_string().contains("router.explore"));
    }
}
