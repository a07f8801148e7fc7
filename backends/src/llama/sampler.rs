//! Picks the next token from the logits: pure arithmetic, one per sequence, the same choice for the same seed.
//!
//! Order, as in llama.cpp: penalties, bias, constraint, `top_k`, `top_p`, `min_p`, temperature.

use std::collections::{HashMap, VecDeque};

use super::model::Token;
use crate::chat;

/// Tokens that `repeat_penalty` looks back over.
const PENALTY_WINDOW: usize = 64;
/// Logits looked at together.
const BLOCK: usize = 64;
/// Without `top_k`, logits further than this below the best (times the temperature, if above 1) are left out.
/// All of them together weigh less than 1e-5 in any known vocabulary.
const NEGLIGIBLE: f32 = 25.0;

/// How tokens are picked. Defaults for fields a request leaves out are llama-server's, which suit small models:
/// temperature 0.8, `top_k` 40, `top_p` 0.95, `min_p` 0.05.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the most likely token always.
    pub temperature: f32,
    /// 0: off.
    pub top_k: u32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// 1: off. Over the last 64 tokens, prompt included.
    pub repeat_penalty: f32,
    /// 0: off. Once for each token that the answer already has.
    pub presence_penalty: f32,
    /// 0: off. For each time that the answer already has the token.
    pub frequency_penalty: f32,
    /// Added to the logits; -100 bans, 100 forces.
    pub logit_bias: Vec<(Token, f32)>,
    pub seed: u64,
    /// Report log probabilities, with so many of the most likely tokens. At most 20.
    pub logprobs: Option<usize>,
}

/// A picked token. Log probabilities are natural and of the model itself, before any of the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenChoice {
    pub token: Token,
    pub logprob: Option<f32>,
    /// The most likely tokens, best first.
    pub top: Vec<(Token, f32)>,
}

/// The state of one sequence's picking.
#[derive(Debug)]
pub(crate) struct Sampler {
    settings: Sampling,
    random: Random,
    recent: VecDeque<Token>,
    answered: HashMap<Token, u32>,
    work: Vec<f32>,
    best: Vec<(f32, Token)>,
}

impl Sampling {
    /// From a request; `defaults` and `fallback_seed` where it says nothing, and `choice` makes the choices of `n` differ.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the ranges were checked when the request was read; logits are f32")]
    pub fn of(request: &chat::View, defaults: &spectra_config::Sampling, fallback_seed: u64, choice: u32) -> Self {
        let or = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
        let seed = request.seed.map_or(fallback_seed, i64::cast_unsigned);
        Self {
            temperature: or(request.temperature.or(defaults.temperature), 0.8),
            top_k: request.top_k.unwrap_or(40),
            top_p: or(request.top_p, 0.95),
            min_p: or(request.min_p, 0.05),
            repeat_penalty: or(request.repeat_penalty, 1.0),
            presence_penalty: or(request.presence_penalty, 0.0),
            frequency_penalty: or(request.frequency_penalty, 0.0),
            logit_bias: request.logit_bias.iter().filter_map(|(token, bias)| Some((Token::try_from(*token).ok()?, *bias as f32))).collect(),
            seed: seed.wrapping_add(u64::from(choice).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            logprobs: request.logprobs.then(|| request.top_logprobs.unwrap_or(0).min(20) as usize),
        }
    }
}

impl Sampling {
    /// Whether a logit may be changed before the draw.
    fn adjusts(&self) -> bool {
        self.repeats() || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 || !self.logit_bias.is_empty()
    }

    #[expect(clippy::float_cmp, reason = "compared with the value that stands for off")]
    fn repeats(&self) -> bool {
        self.repeat_penalty != 1.0 && self.repeat_penalty > 0.0
    }
}

impl Sampler {
    pub(crate) fn new(settings: Sampling, prompt: &[Token]) -> Self {
        let recent = prompt[prompt.len().saturating_sub(PENALTY_WINDOW)..].iter().copied().collect();
        let random = Random::new(settings.seed);
        Self { settings, random, recent, answered: HashMap::new(), work: Vec::new(), best: Vec::new() }
    }

    /// The next token; `None` if the constraint (a bit per token) allows none.
    pub(crate) fn choose(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> Option<TokenChoice> {
        let token = if allowed.is_none() && !self.settings.adjusts() {
            self.pick(logits)
        } else {
            let mut work = std::mem::take(&mut self.work);
            work.clear();
            work.extend_from_slice(logits);
            self.penalise(&mut work);
            if let Some(bits) = allowed {
                forbid(&mut work, bits);
            }
            let token = self.pick(&work);
            self.work = work;
            token
        }?;
        let (logprob, top) = match self.settings.logprobs {
            None => (None, Vec::new()),
            Some(count) => {
                let (logprob, top) = logprobs(logits, token, count, &mut self.best);
                (Some(logprob), top)
            }
        };
        Some(TokenChoice { token, logprob, top })
    }

    /// Takes note of a token that was put into the sequence.
    pub(crate) fn accept(&mut self, token: Token) {
        *self.answered.entry(token).or_default() += 1;
        self.recent.push_back(token);
        if self.recent.len() > PENALTY_WINDOW {
            self.recent.pop_front();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of tokens in one answer")]
    fn penalise(&self, logits: &mut [f32]) {
        let set = &self.settings;
        let at = |token: Token| usize::try_from(token).unwrap_or(usize::MAX);
        if set.repeats() {
            let mut seen: Vec<Token> = self.recent.iter().copied().collect();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                if let Some(logit) = logits.get_mut(at(token)) {
                    *logit = if *logit > 0.0 { *logit / set.repeat_penalty } else { *logit * set.repeat_penalty };
                }
            }
        }
        if set.presence_penalty != 0.0 || set.frequency_penalty != 0.0 {
            for (token, count) in &self.answered {
                if let Some(logit) = logits.get_mut(at(*token)) {
                    *logit -= set.presence_penalty + set.frequency_penalty * *count as f32;
                }
            }
        }
        for (token, bias) in &set.logit_bias {
            if let Some(logit) = logits.get_mut(at(*token)) {
                *logit = if *bias <= -100.0 { f32::NEG_INFINITY } else { *logit + bias };
            }
        }
    }

    fn pick(&mut self, logits: &[f32]) -> Option<Token> {
        if self.settings.temperature <= 0.0 { greedy(logits) } else { self.draw(logits) }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<Token> {
        let set = &self.settings;
        let count = if set.top_k == 0 { usize::MAX } else { set.top_k as usize };
        let floor = if set.top_k == 0 { highest_of(logits) - NEGLIGIBLE * set.temperature.max(1.0) } else { f32::NEG_INFINITY };
        highest(logits, count, floor, &mut self.best);
        let &(top, first) = self.best.first()?;
        let weights: Vec<f32> = self.best.iter().map(|(logit, _)| (logit - top).exp()).collect();
        let mass = weights.iter().sum::<f32>() * set.top_p;
        let mut sum = 0.0;
        let nucleus = weights.iter().position(|weight| {
            sum += weight;
            sum >= mass
        });
        let kept = nucleus.map_or(weights.len(), |at| at + 1);
        // The best has weight 1, so min_p compares with the weight itself.
        let kept = weights[..kept].iter().position(|weight| *weight < set.min_p).unwrap_or(kept).max(1);
        let hot: Vec<f32> = self.best[..kept].iter().map(|(logit, _)| ((logit - top) / set.temperature).exp()).collect();
        let mut point = self.random.unit() * hot.iter().sum::<f32>();
        for (weight, (_, token)) in hot.iter().zip(&self.best) {
            point -= weight;
            if point < 0.0 {
                return Some(*token);
            }
        }
        Some(first)
    }
}

fn forbid(logits: &mut [f32], allowed: &[u32]) {
    for (at, logit) in logits.iter_mut().enumerate() {
        if allowed.get(at / 32).is_none_or(|word| word >> (at % 32) & 1 == 0) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn highest_of(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn greedy(logits: &[f32]) -> Option<Token> {
    let mut best = (f32::NEG_INFINITY, None);
    for (at, logit) in logits.iter().enumerate() {
        if *logit > best.0 {
            best = (*logit, Some(at));
        }
    }
    best.1.and_then(|at| Token::try_from(at).ok())
}

/// The `count` highest logits above `floor`, best first; ties go to the lower token.
fn highest(logits: &[f32], count: usize, mut floor: f32, out: &mut Vec<(f32, Token)>) {
    let order = |a: &(f32, Token), b: &(f32, Token)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    let full = count.saturating_mul(4).max(256);
    out.clear();
    for (block, first) in logits.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        // Most blocks have nothing, and that is seen many numbers at a time.
        if !block.iter().fold(false, |any, logit| any | (*logit > floor)) {
            continue;
        }
        for (logit, token) in block.iter().zip(first..) {
            if *logit > floor {
                out.push((*logit, token));
            }
        }
        if count != usize::MAX && out.len() >= full {
            out.select_nth_unstable_by(count - 1, order);
            out.truncate(count);
            // Later tokens with the same logit lose the tie, so "above" is right.
            floor = out[count - 1].0;
        }
    }
    out.sort_unstable_by(order);
    out.truncate(count);
}

fn logprobs(logits: &[f32], token: Token, count: usize, scratch: &mut Vec<(f32, Token)>) -> (f32, Vec<(Token, f32)>) {
    let top = highest_of(logits);
    let total = top + logits.iter().map(|logit| (logit - top).exp()).sum::<f32>().ln();
    if count > 0 {
        highest(logits, count, f32::NEG_INFINITY, scratch);
    } else {
        scratch.clear();
    }
    let own = usize::try_from(token).ok().and_then(|at| logits.get(at)).copied().unwrap_or(f32::NEG_INFINITY);
    (own - total, scratch.iter().map(|(logit, token)| (*token, logit - total)).collect())
}

/// `SplitMix64`: small, seedable, good enough to draw tokens.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// In [0, 1), 24 bits.
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit a float's mantissa")]
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Sampling {
        let view = chat::View { temperature: Some(1.0), top_p: Some(1.0), top_k: Some(0), min_p: Some(0.0), ..chat::View::default() };
        Sampling::of(&view, &spectra_config::Sampling::default(), 7, 0)
    }

    /// How often each token is drawn in 4,000 draws, in permille.
    fn shares(settings: Sampling, logits: &[f32], allowed: Option<&[u32]>) -> Vec<u32> {
        let mut sampler = Sampler::new(settings, &[]);
        let mut counts = vec![0; logits.len()];
        for _ in 0..4000 {
            counts[usize::try_from(sampler.choose(logits, allowed).unwrap().token).unwrap()] += 1;
        }
        counts.into_iter().map(|count: u32| count / 4).collect()
    }

    /// ln of 1/2, 1/4, 1/8, 1/8.
    const HALVES: [f32; 4] = [-std::f32::consts::LN_2, -1.386_294_4, -2.079_441_5, -2.079_441_5];

    #[test]
    fn draws_follow_the_probabilities_and_the_cuts() {
        let check = |change: &dyn Fn(&mut Sampling), expected: [u32; 4]| {
            let mut set = settings();
            change(&mut set);
            let got = shares(set, &HALVES, None);
            assert!(got.iter().zip(expected).all(|(got, want)| got.abs_diff(want) < 30), "{got:?} for {expected:?}");
        };
        check(&|_| {}, [500, 250, 125, 125]);
        check(&|set| set.top_k = 2, [667, 333, 0, 0]);
        check(&|set| set.top_p = 0.7, [667, 333, 0, 0]);
        check(&|set| set.min_p = 0.4, [667, 333, 0, 0]);
        check(&|set| set.temperature = 0.0, [1000, 0, 0, 0]);
        check(&|set| set.temperature = 0.5, [727, 182, 45, 45]);
        check(&|set| set.logit_bias = vec![(0, -100.0)], [0, 500, 250, 250]);
        check(&|set| set.logit_bias = vec![(3, 100.0), (9, 5.0), (-1, 5.0)], [0, 0, 0, 1000]);
    }

    #[test]
    fn penalties_push_down_what_was_said() {
        let mut set = settings();
        set.temperature = 0.0;
        set.presence_penalty = 1.0;
        let mut sampler = Sampler::new(set, &[]);
        sampler.accept(0);
        assert_eq!(sampler.choose(&HALVES, None).unwrap().token, 1);

        let mut set = settings();
        set.temperature = 0.0;
        set.repeat_penalty = 3.0;
        assert_eq!(Sampler::new(set, &[0]).choose(&HALVES, None).unwrap().token, 1, "the prompt counts for repeat_penalty");
    }

    #[test]
    fn a_constraint_is_a_wall() {
        assert_eq!(shares(settings(), &HALVES, Some(&[0b1000])), [0, 0, 0, 1000]);
        assert_eq!(Sampler::new(settings(), &[]).choose(&HALVES, Some(&[0])), None);
        assert_eq!(Sampler::new(settings(), &[]).choose(&HALVES, Some(&[])), None, "a short mask forbids the rest");
    }

    #[test]
    fn logprobs_are_the_models_own() {
        let mut set = settings();
        set.temperature = 0.0;
        set.logprobs = Some(2);
        set.logit_bias = vec![(0, -100.0)];
        let choice = Sampler::new(set, &[]).choose(&HALVES, None).unwrap();
        assert_eq!(choice.token, 1);
        assert!((choice.logprob.unwrap() - HALVES[1]).abs() < 1e-5);
        assert_eq!(choice.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn the_highest_are_the_highest() {
        let logits: Vec<f32> = (0..5000_u32).map(|i| f32::from(u16::try_from(i.wrapping_mul(7919) % 4999).unwrap())).collect();
        let mut out = Vec::new();
        highest(&logits, 40, f32::NEG_INFINITY, &mut out);
        let mut all: Vec<f32> = logits.clone();
        all.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(out.iter().map(|(logit, _)| *logit).collect::<Vec<_>>(), all[..40]);
    }

    #[test]
    fn the_seed_decides() {
        let run = |seed| {
            let mut set = settings();
            set.seed = seed;
            let mut sampler = Sampler::new(set, &[]);
            (0..64).map(|_| sampler.choose(&HALVES, None).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
