//! How good an order of requests is: the measures of routing between a weak and a strong model.
//!
//! Definitions (`RouteLLM`, arXiv 2406.18665, 3.2): c is the share of requests sent to the strong model, q(c) the mean quality of what is
//! then answered, PGR(c) = (q(c) - q weak) / (q strong - q weak). Ties are broken at random in expectation: a block of equal
//! scores is a straight line, so a constant score has an APGR of exactly 0.5.

use std::fmt::Write as _;

/// One request with its score and what both models made of it (0 to 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub score: f64,
    pub weak: f64,
    pub strong: f64,
}

/// The measures of one set of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// Area under PGR over c in 0..1; 0.5 for a random order.
    pub apgr: f64,
    /// Percent of strong calls at which half, or 80 %, of the gap is closed.
    pub cpt50: f64,
    pub cpt80: f64,
    /// Percent of strong calls at which 95 % of the strong model's quality is reached.
    pub c95q: f64,
    /// ROC area of the score for "the strong answer is better".
    pub auc: f64,
    /// ROC area of the score for "the weak answer is worse than 0.5".
    pub auc_weak: f64,
}

/// Measures, their 95 % bootstrap intervals, and the set they are of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub name: String,
    pub rows: usize,
    pub weak: f64,
    pub strong: f64,
    pub at: Measures,
    /// 2.5 and 97.5 percentiles of the APGR and of CPT50; empty bootstrap: none.
    pub apgr_interval: Option<(f64, f64)>,
    pub cpt50_interval: Option<(f64, f64)>,
}

/// The measures of `rows`. A set without a gap between the models has no APGR (NaN).
#[must_use]
pub fn measure(rows: &[Scored]) -> Measures {
    let count = float(rows.len());
    let weak = rows.iter().map(|row| row.weak).sum::<f64>() / count;
    let strong = rows.iter().map(|row| row.strong).sum::<f64>() / count;
    let gap = strong - weak;
    let curve = curve(rows, weak);
    let area: f64 = curve.windows(2).map(|pair| (pair[1].1 + pair[0].1) / 2.0 * (pair[1].0 - pair[0].0)).sum();
    Measures {
        apgr: if gap.abs() < 1e-12 { f64::NAN } else { (area - weak) / gap },
        cpt50: 100.0 * first_reach(&curve, weak + 0.5 * gap),
        cpt80: 100.0 * first_reach(&curve, weak + 0.8 * gap),
        c95q: 100.0 * first_reach(&curve, 0.95 * strong),
        auc: auc(rows, |row| row.strong > row.weak),
        auc_weak: auc(rows, |row| row.weak < 0.5),
    }
}

/// `measure` with `draws` bootstrap samples from `seed`.
#[must_use]
pub fn report(name: &str, rows: &[Scored], draws: u32, seed: u64) -> Report {
    let mut random = Random(seed);
    let (mut apgr, mut cpt50) = (Vec::new(), Vec::new());
    let mut sample = rows.to_vec();
    for _ in 0..draws {
        for slot in &mut sample {
            *slot = rows[random.below(rows.len())];
        }
        let at = measure(&sample);
        apgr.push(at.apgr);
        cpt50.push(at.cpt50);
    }
    let count = float(rows.len());
    Report {
        name: name.to_owned(),
        rows: rows.len(),
        weak: rows.iter().map(|row| row.weak).sum::<f64>() / count,
        strong: rows.iter().map(|row| row.strong).sum::<f64>() / count,
        at: measure(rows),
        apgr_interval: interval(apgr),
        cpt50_interval: interval(cpt50),
    }
}

/// Expected calibration error of chances against what happened, over ten bins of equal count.
#[must_use]
pub fn calibration_error(pairs: &[(f64, f64)]) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let size = sorted.len().div_ceil(10).max(1);
    let off: f64 = sorted
        .chunks(size)
        .map(|bin| {
            let said: f64 = bin.iter().map(|pair| pair.0).sum();
            let was: f64 = bin.iter().map(|pair| pair.1).sum();
            (said - was).abs()
        })
        .sum();
    off / float(pairs.len().max(1))
}

/// The calibration error that a perfect forecast would show on so many outcomes: with outcomes drawn from these very chances, the
/// mean of 200 draws from `seed`. Bins of few outcomes are off by chance alone.
#[must_use]
pub fn calibration_floor(pairs: &[(f64, f64)], seed: u64) -> f64 {
    const DRAWS: u32 = 200;
    let mut random = Random(seed);
    let mut drawn = pairs.to_vec();
    let total: f64 = (0..DRAWS)
        .map(|_| {
            drawn.iter_mut().for_each(|pair| pair.1 = if random.unit() < pair.0 { 1.0 } else { 0.0 });
            calibration_error(&drawn)
        })
        .sum();
    total / f64::from(DRAWS)
}

/// The root mean square of the same bins' errors without the part that is chance (Kumar, Liang and Ma 2019): of a perfect forecast
/// about 0 on few outcomes, too.
#[must_use]
pub fn calibration_rms(pairs: &[(f64, f64)]) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let size = sorted.len().div_ceil(10).max(2);
    let off: f64 = sorted
        .chunks(size)
        .filter(|bin| bin.len() > 1)
        .map(|bin| {
            let count = float(bin.len());
            let said = bin.iter().map(|pair| pair.0).sum::<f64>() / count;
            let was = bin.iter().map(|pair| pair.1).sum::<f64>() / count;
            count * ((said - was).powi(2) - was * (1.0 - was) / (count - 1.0))
        })
        .sum();
    (off / float(pairs.len().max(1))).max(0.0).sqrt()
}

/// A table for people, one line a report.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut text = format!(
        "{:<20} {:>6} {:>6} {:>6}  {:<22} {:>6} {:>6} {:>6} {:>6} {:>6}\n",
        "set", "rows", "weak", "strong", "APGR", "CPT50", "CPT80", "C95q", "AUC", "AUCw"
    );
    for report in reports {
        let at = &report.at;
        let interval = report.apgr_interval.map_or(String::new(), |(low, high)| format!(" [{low:.3},{high:.3}]"));
        let apgr = format!("{:.3}{interval}", at.apgr);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<20} {:>6} {:>6.3} {:>6.3}  {:<22} {:>6.1} {:>6.1} {:>6.1} {:>6.3} {:>6.3}",
            report.name, report.rows, report.weak, report.strong, apgr, at.cpt50, at.cpt80, at.c95q, at.auc, at.auc_weak
        );
    }
    text
}

/// Numbers from a seed (`SplitMix64`): the same on every machine.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly in [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / 9_007_199_254_740_992.0
    }

    /// Evenly in 0..bound; 0 for an empty range.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a product below bound")]
    pub fn below(&mut self, bound: usize) -> usize {
        (self.unit() * float(bound)) as usize
    }

    /// From the normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Cost and quality at every distinct threshold, from none strong to all.
fn curve(rows: &[Scored], weak: f64) -> Vec<(f64, f64)> {
    let mut sorted: Vec<&Scored> = rows.iter().collect();
    sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
    let count = float(rows.len());
    let mut points = vec![(0.0, weak)];
    let mut gained = 0.0;
    for (at, row) in sorted.iter().enumerate() {
        gained += row.strong - row.weak;
        if sorted.get(at + 1).is_none_or(|next| next.score != row.score) {
            points.push((float(at + 1) / count, weak + gained / count));
        }
    }
    points
}

/// The smallest cost at which the curve reaches a quality.
fn first_reach(curve: &[(f64, f64)], target: f64) -> f64 {
    if curve.first().is_some_and(|point| point.1 >= target) {
        return 0.0;
    }
    for pair in curve.windows(2) {
        let ((c0, q0), (c1, q1)) = (pair[0], pair[1]);
        if q1 >= target {
            let rise = q1 - q0;
            return c0 + (c1 - c0) * if rise > 0.0 { (target - q0) / rise } else { 1.0 };
        }
    }
    1.0
}

/// Area under the ROC curve by ranks, ties at their mean rank; NaN where one class is empty.
fn auc(rows: &[Scored], positive: impl Fn(&Scored) -> bool) -> f64 {
    let mut sorted: Vec<&Scored> = rows.iter().collect();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
    let (mut ranks, mut hits, mut at) = (0.0, 0_usize, 0);
    while at < sorted.len() {
        let end = at + sorted[at..].iter().take_while(|row| row.score == sorted[at].score).count();
        let mean_rank = float(at + 1 + end) / 2.0;
        let here = sorted[at..end].iter().filter(|row| positive(row)).count();
        ranks += mean_rank * float(here);
        hits += here;
        at = end;
    }
    let (yes, no) = (float(hits), float(rows.len() - hits));
    if hits == 0 || hits == rows.len() { f64::NAN } else { (ranks - yes * (yes + 1.0) / 2.0) / (yes * no) }
}

fn interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let percentile = |share: f64| {
        let place = share * float(last);
        let below = values[floor(place)];
        let above = values[(floor(place) + 1).min(last)];
        below + (above - below) * place.fract()
    };
    Some((percentile(0.025), percentile(0.975)))
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows, far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
fn floor(place: f64) -> usize {
    place as usize
}
