//! All backends by the name the operator gave them, and the choice among several of one rung.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::forward::{Forward, Forwarded, Forwarder};
use crate::guard::{Gate, Load};
use crate::{Ask, BackendError, Facts, Member, Reply};

/// Cheap to clone; a reload builds another.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Inner>);

/// Asked for by name a dozen times a request: with few names comparing them is a fraction of hashing one.
#[derive(Default)]
struct Inner {
    members: BTreeMap<String, Member>,
    gates: BTreeMap<String, Arc<Gate>>,
    forwarders: BTreeMap<String, Forwarder>,
}

/// A backend of one fleet that goes into the next.
#[derive(Clone, Debug)]
pub struct Part {
    pub(crate) member: Member,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) forwarder: Option<Forwarder>,
}

impl Fleet {
    /// Backends without guards, for tests.
    #[must_use]
    pub fn new(members: HashMap<String, Member>) -> Self {
        Self::guarded(members, HashMap::new(), HashMap::new())
    }

    /// Backends whose calls pass the gates of the same name, which the fleet asks for loads and reports to.
    #[must_use]
    pub fn guarded(members: HashMap<String, Member>, gates: HashMap<String, Arc<Gate>>, forwarders: HashMap<String, Forwarder>) -> Self {
        Self(Arc::new(Inner {
            members: members.into_iter().collect(),
            gates: gates.into_iter().collect(),
            forwarders: forwarders.into_iter().collect(),
        }))
    }

    /// A backend with its gate and what that counts, for another fleet.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<Part> {
        let member = self.0.members.get(name)?.clone();
        Some(Part { member, gate: self.0.gates.get(name).cloned(), forwarder: self.0.forwarders.get(name).cloned() })
    }

    /// Asks one backend by name.
    ///
    /// # Errors
    /// `Unavailable` for a name that is not in the fleet; otherwise what the backend says.
    pub async fn call(&self, name: &str, ask: Ask) -> Result<Reply, BackendError> {
        let member = self.0.members.get(name).ok_or_else(|| BackendError::Unavailable { why: format!("no backend named {name}") })?;
        member.backend.ask(ask).await
    }

    /// Asks one backend for another endpoint, its answer unread.
    ///
    /// # Errors
    /// `Unavailable` where the backend has no such endpoint; otherwise what the backend says.
    pub async fn forward(&self, name: &str, forward: Forward) -> Result<Forwarded, BackendError> {
        let forwarder = self.0.forwarders.get(name);
        let forwarder = forwarder.ok_or_else(|| BackendError::Unavailable { why: format!("{name} serves chat completions only") })?;
        forwarder.ask(forward).await
    }

    /// Whether `forward` can reach it.
    #[must_use]
    pub fn forwards(&self, name: &str) -> bool {
        self.0.forwarders.contains_key(name)
    }

    #[must_use]
    pub fn facts(&self, name: &str) -> Option<&Facts> {
        self.0.members.get(name).map(|member| &*member.facts)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.members.keys().map(String::as_str)
    }

    /// Which backend of a rung to ask: of those whose breaker lets attempts through, the least loaded by weight; of
    /// equals, the one chosen least often by weight. Where none is let through, the one that will be soonest.
    #[must_use]
    pub fn pick(&self, rung: &[(Arc<str>, u32)]) -> Arc<str> {
        if let [(only, _)] = rung {
            return Arc::clone(only);
        }
        let best = rung.iter().min_by(|(a, a_weight), (b, b_weight)| {
            let (a, b) = (self.standing(a, *a_weight), self.standing(b, *b_weight));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2))
        });
        let Some((name, _)) = best else { return "".into() };
        if let Some(gate) = self.0.gates.get(&**name) {
            gate.picked.fetch_add(1, Relaxed);
        }
        Arc::clone(name)
    }

    /// How little a backend is to be asked: wait before it may be, load by weight, turns taken by weight.
    fn standing(&self, name: &str, weight: u32) -> (Duration, f64, f64) {
        let weight = f64::from(weight.max(1));
        let Some(gate) = self.0.gates.get(name) else { return (Duration::ZERO, 0.0, 0.0) };
        let load = gate.load();
        #[expect(clippy::cast_precision_loss, reason = "a count of picks only breaks ties")]
        let turns = gate.picked.load(Relaxed) as f64;
        let busy = f64::from(load.in_flight) + f64::from(load.queued);
        (load.retry_after.unwrap_or_default(), busy / weight, (turns + 1.0) / weight)
    }

    /// The verifier's word on a backend's answer, once an attempt; it feeds the breaker.
    pub fn report(&self, name: &str, usable: bool) {
        if let Some(gate) = self.0.gates.get(name) {
            gate.report(usable);
        }
    }

    /// What a backend is doing; `None` if it stands behind no guard.
    #[must_use]
    pub fn load(&self, name: &str) -> Option<Load> {
        self.0.gates.get(name).map(|gate| gate.load())
    }

    /// True where an attempt would be let through now.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        self.0.gates.get(name).is_none_or(|gate| gate.admits())
    }

    /// 95th percentile of the time to the first chunk of its recent streams: later than that is worth a hedge.
    #[must_use]
    pub fn first_chunk_p95(&self, name: &str) -> Option<Duration> {
        self.0.gates.get(name)?.first_chunk_p95()
    }

    /// How long a request takes there, as far as is known.
    #[must_use]
    pub fn held(&self, name: &str) -> Option<Duration> {
        Some(self.0.gates.get(name)?.held())
    }

    /// How long a request will probably wait for a place; none where the backend stands behind no guard.
    #[must_use]
    pub fn expected_wait(&self, name: &str) -> Option<Duration> {
        Some(self.0.gates.get(name)?.expected_wait())
    }
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.members.keys()).finish()
    }
}
