//! From labelled rows to weights, reproducible from a seed: the embedding table and one pair of heads for each known form.

mod svd;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use spectra_backends::ChatRequest;

use super::embed::{EMBED, ROWS, Table, rows};
use super::features::{DIM, Facts, Kind};
use super::fingerprint::Hash;
use super::lexicon::Lexicon;
use super::metrics::{Scored, measure};
use super::ridge::{Input, Sums, WIDTH};
use super::weights::{Form, Weights};

/// A prompt with the measured outcome of a weak and of a strong model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Row {
    pub id: String,
    pub source: String,
    pub family: String,
    pub prompt: String,
    pub system: Option<String>,
    /// A whole chat completion body instead of `prompt` and `system`.
    pub request: Option<serde_json::Value>,
    /// How good either model's answer was, 0 to 1; `null` (NaN here) where it was not asked.
    #[serde(deserialize_with = "known")]
    pub weak_score: f32,
    #[serde(deserialize_with = "known")]
    pub strong_score: f32,
    /// Rows of one group ask the same question.
    pub group: String,
    pub licence: String,
    /// `permissive` for rows whose licence lets weights trained on them be given away.
    pub reuse: String,
    /// Left out of published numbers because the prompt stood in the training data of their routers.
    pub routellm_contaminated: bool,
}

/// How to train.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// Families whose rows are not used at all, for an honest number on them.
    pub without: Vec<String>,
    /// The embedding still reads the prompts of left-out families (no outcomes).
    pub keep_text: bool,
    /// Also use rows that are not `permissive`. Such weights must not be given away.
    pub any_licence: bool,
}

const FOLDS: u64 = 5;
/// Shares of the chances that heads may give.
const SHARES: [f32; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Fewest rows for a form to have heads of its own.
const FORM_ROWS: usize = 150;
/// Penalty on a weight (per standard deviation of its reading), in rows.
const LAMBDA: f64 = 800.0;

fn known<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::NAN))
}

impl Row {
    fn both(&self) -> bool {
        !self.weak_score.is_nan() && !self.strong_score.is_nan()
    }

    /// True for rows whose weights may be given away, and for the operator's own.
    fn free(&self) -> bool {
        self.reuse == "permissive" || self.reuse == "own"
    }

    /// The chat request that this row stands for.
    ///
    /// # Errors
    /// Where `request` is not a chat completion body.
    pub fn request(&self) -> Result<ChatRequest, spectra_backends::chat::BadRequest> {
        let mut body = self.request.clone().unwrap_or_else(|| {
            let user = serde_json::json!({"role": "user", "content": self.prompt});
            let messages = match &self.system {
                Some(system) => vec![serde_json::json!({"role": "system", "content": system}), user],
                None => vec![user],
            };
            serde_json::json!({"model": "auto", "messages": messages})
        });
        if let Some(fields) = body.as_object_mut() {
            fields.entry("model").or_insert_with(|| "auto".into());
        }
        ChatRequest::parse(Bytes::from(body.to_string()))
    }
}

/// Rows that no form was learned from, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Not to be used: their licence, or their family is left out.
    pub barred: usize,
    /// Of forms with fewer than `FORM_ROWS` rows.
    pub few: usize,
    /// Of forms all of whose outcomes are alike: there is nothing to tell apart.
    pub alike: usize,
    /// Of forms whose outcomes length and cues foretell as well as heads do.
    pub no_gain: usize,
}

/// Trains on the rows that the options allow.
#[must_use]
pub fn train(rows: &[Row], options: &Options) -> (Weights, Left) {
    let lexicon = Lexicon::new();
    let used: Vec<(&Row, Facts)> = rows
        .iter()
        .filter(|row| (options.any_licence || row.free()) && !row.routellm_contaminated)
        .filter(|row| options.keep_text || !options.without.contains(&row.family))
        .filter_map(|row| Some((row, Facts::of(row.request().ok()?.view(), &lexicon))))
        .collect();
    let table = table(&used, options.seed);
    let used: Vec<_> = used.into_iter().filter(|(row, _)| !options.without.contains(&row.family)).collect();
    let mut left = Left { barred: rows.len() - used.len(), ..Left::default() };
    let forms = forms(&used, &table, &mut left);
    (Weights { forms, provenance: provenance(&used, options), table }, left)
}

/// The embedding: leading singular vectors of the prompts' weighted words.
fn table(used: &[(&Row, Facts)], seed: u64) -> Table {
    let documents: Vec<Vec<u32>> = used.iter().map(|(_, facts)| rows(&facts.scan.words).into_iter().map(u32::from).collect()).collect();
    let mut seen_in = vec![0_u32; ROWS];
    for row in documents.iter().flatten() {
        seen_in[*row as usize] += 1;
    }
    let idf: Vec<u8> = seen_in.iter().map(|count| inverse_frequency(*count, documents.len())).collect();
    if documents.len() < 4 * EMBED {
        return Table::default();
    }
    let vectors = svd::leading(&documents, &idf, seed);
    // A column's scale: bytes reach twelve times its root mean square; what lies beyond is cut.
    let reach: Vec<f32> = (0..EMBED).map(|at| rms(vectors.rows.iter().skip(at).step_by(EMBED)) * 12.0 / 127.0).collect();
    let rows = vectors
        .rows
        .iter()
        .enumerate()
        .map(|(at, value)| {
            let steps = value / reach[at % EMBED].max(1e-12);
            #[expect(clippy::cast_possible_truncation, reason = "clamped to a byte")]
            {
                steps.round().clamp(-127.0, 127.0) as i8
            }
        })
        .collect();
    // Columns leave the table with a spread of one over the training prompts.
    let scale = reach.iter().zip(&vectors.spread).map(|(reach, spread)| reach / spread.max(1e-9)).collect();
    Table { idf, rows, scale }
}

/// Inverse document frequency in twentieths; 0 for what stands in one document only.
fn inverse_frequency(count: u32, documents: usize) -> u8 {
    if count < 2 {
        return 0;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
    let idf = (documents as f32 / (1.0 + count as f32)).ln();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
    {
        (idf * 20.0).round().clamp(0.0, 255.0) as u8
    }
}

/// One pair of heads for every form that the rows know well.
fn forms(used: &[(&Row, Facts)], table: &Table, left: &mut Left) -> Vec<Form> {
    let mut by_line: HashMap<u64, usize> = HashMap::new();
    for (_, facts) in used {
        *by_line.entry(facts.form(true)).or_default() += 1;
    }
    let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, (_, facts)) in used.iter().enumerate() {
        if by_line[&facts.form(true)] >= FORM_ROWS {
            groups.entry(facts.form(true)).or_default().push(at);
        } else if facts.kind == Kind::Sum && facts.keys.frame == 0 {
            // A word problem is one by its form even without a fixed line. Other kinds without one are too mixed to be learned.
            groups.entry(facts.form(false)).or_default().push(at);
        } else {
            left.few += 1;
        }
    }
    let mut forms = Vec::new();
    for (key, members) in groups {
        let rows = members.iter().map(|at| used[*at].0);
        if members.len() < FORM_ROWS {
            left.few += members.len();
        } else if alike(rows.clone().map(|row| row.weak_score)) && alike(rows.map(|row| row.strong_score)) {
            left.alike += members.len();
        } else if let Some(form) = form(key, &members, used, table, share(&members, used, table)) {
            forms.push(form);
        } else {
            left.no_gain += members.len();
        }
    }
    forms
}

/// No two known outcomes differ.
fn alike(outcomes: impl Iterator<Item = f32>) -> bool {
    let mut known = outcomes.filter(|outcome| !outcome.is_nan());
    let first = known.next();
    known.all(|outcome| Some(outcome) == first)
}

/// How much of a form's chances its own heads should give, the rest coming from length and cues: what ranks its prompts best over
/// five folds that keep groups together, each source by itself so that telling sources apart earns nothing, sources weighted by
/// their rows. Where most rows know the outcome of one route only (a ledger's), each route's chances are ranked by themselves.
/// 0: the heads are not worth having.
fn share(members: &[usize], used: &[(&Row, Facts)], table: &Table) -> f32 {
    // Rows without a group are one where they ask the same.
    let fold = |at: usize| match (used[at].0.group.as_bytes(), &used[at].1) {
        (b"", facts) => facts.scan.words.iter().fold(Hash::new(7), |hash, word| hash.add(&word.to_le_bytes())).0 % FOLDS,
        (group, _) => Hash::new(7).add(group).0 % FOLDS,
    };
    let inputs: Vec<Input> = members.iter().map(|at| input(&used[*at].1, table)).collect();
    let paired = members.iter().filter(|at| used[**at].0.both()).count() * 2 > members.len();
    let mut by_source: BTreeMap<(&str, usize), [Vec<Scored>; SHARES.len()]> = BTreeMap::new();
    for held_out in 0..FOLDS {
        let (mut local, mut hosted) = (Sums::new(), Sums::new());
        for (at, x) in members.iter().zip(&inputs).filter(|(at, _)| fold(**at) != held_out) {
            add(&mut local, &mut hosted, x, used[*at].0);
        }
        let (Some(local), Some(hosted)) = (local.fit(LAMBDA, 0.0), hosted.fit(LAMBDA, 0.0)) else { return 0.0 };
        for (at, x) in members.iter().zip(&inputs).filter(|(at, _)| fold(**at) == held_out) {
            let (row, facts) = &used[*at];
            let plain = super::cold(facts.cold(&facts.values()));
            let (weak, strong) = (f64::from(row.weak_score), f64::from(row.strong_score));
            let mut put = |route: usize, score: &dyn Fn([f32; 2]) -> f32, weak: f64, strong: f64| {
                let lists = by_source.entry((&row.source, route)).or_default();
                for (list, share) in lists.iter_mut().zip(SHARES) {
                    let chances = [local.at(x), hosted.at(x)];
                    let chances = [0, 1].map(|at| share * chances[at] + (1.0 - share) * plain[at]);
                    list.push(Scored { score: f64::from(score(chances)), weak, strong });
                }
            };
            if paired && row.both() {
                put(0, &|chances| chances[1] - chances[0], weak, strong);
            } else if !paired && !weak.is_nan() {
                put(0, &|chances| -chances[0], weak, 1.0);
            }
            if !paired && !strong.is_nan() {
                put(1, &|chances| -chances[1], strong, 1.0);
            }
        }
    }
    let mean = |share: usize| -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
        let weighted = by_source.values().map(|lists| (measure(&lists[share]).apgr, lists[share].len() as f64));
        weighted.filter(|(apgr, _)| apgr.is_finite()).map(|(apgr, rows)| apgr.clamp(0.0, 1.0) * rows).sum()
    };
    // Of equals the smallest.
    let best = (0..SHARES.len()).rev().max_by(|a, b| mean(*a).total_cmp(&mean(*b))).unwrap_or(0);
    SHARES[best]
}

/// Takes in the outcomes that are known.
fn add(local: &mut Sums, hosted: &mut Sums, x: &Input, row: &Row) {
    for (sums, quality) in [(local, row.weak_score), (hosted, row.strong_score)] {
        if !quality.is_nan() {
            sums.add(x, quality);
        }
    }
}

fn form(key: u64, members: &[usize], used: &[(&Row, Facts)], table: &Table, share: f32) -> Option<Form> {
    if share <= 0.0 {
        return None;
    }
    let (mut local, mut hosted) = (Sums::new(), Sums::new());
    let mut sources: BTreeMap<&str, usize> = BTreeMap::new();
    for (row, facts) in members.iter().map(|at| &used[*at]) {
        let x = input(facts, table);
        add(&mut local, &mut hosted, &x, row);
        *sources.entry(&row.source).or_default() += 1;
    }
    let mut names: Vec<_> = sources.into_iter().collect();
    names.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let name = names.iter().take(3).map(|(name, _)| *name).collect::<Vec<_>>().join("+");
    let rows = u32::try_from(members.len()).ok()?;
    Some(Form { key, name, rows, share, local: local.fit(LAMBDA, 0.0)?, hosted: hosted.fit(LAMBDA, 0.0)? })
}

pub(super) fn input(facts: &Facts, table: &Table) -> Input {
    let mut x = [0.0; WIDTH];
    x[..DIM].copy_from_slice(&facts.values());
    x[DIM..].copy_from_slice(&table.embed(&rows(&facts.scan.words)));
    x
}

fn provenance(used: &[(&Row, Facts)], options: &Options) -> String {
    let mut sources: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (row, _) in used {
        *sources.entry((&row.source, &row.licence)).or_default() += 1;
    }
    let list: Vec<String> = sources.iter().map(|((source, licence), count)| format!("{source} {count} ({licence})")).collect();
    format!("seed {}; rows {}; without [{}]; {}", options.seed, used.len(), options.without.join(","), list.join(", "))
}

fn rms<'a>(values: impl Iterator<Item = &'a f32>) -> f32 {
    let (mut sum, mut count) = (0.0_f64, 0.0_f64);
    for value in values {
        sum += f64::from(*value) * f64::from(*value);
        count += 1.0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a scale needs no more than single precision")]
    {
        (sum / count.max(1.0)).sqrt() as f32
    }
}
