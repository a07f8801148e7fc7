//! Simulated traffic, seeded: templates whose success on a weak and a strong scripted model depends on the template and on the size.
//! Nothing here is measured on a real model; it shows what learning from verified outcomes does on repeating templates.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use spectra_router::score::metrics::Random;
use spectra_router::score::train::Row;
use spectra_router::score::{Outcome, Policy, Route, Rule, Scorer, Settings, Situation, Weights};

use super::float;
use crate::cli::rows;

/// Requests that are learned from, and requests that are judged.
const SHOWN: usize = 500;
const JUDGED: usize = 3000;

/// A template: its frame, its words around a variable, how often the weak model answers usably, and what a longer text costs it.
struct Template {
    system: &'static str,
    before: &'static str,
    after: &'static str,
    /// Chance at a short and at a long text, weak model.
    weak: (f64, f64),
    strong: f64,
    /// Share of the traffic.
    weight: f64,
}

#[rustfmt::skip]
const TEMPLATES: &[Template] = &[
    Template { system: "You label support tickets.", before: "Ticket: ", after: "\nLabel: one word of billing, bug, question.", weak: (0.99, 0.95), strong: 0.995, weight: 4.0 },
    Template { system: "You extract fields as JSON.", before: "Invoice: ", after: "\nReturn JSON with keys number, date, total.", weak: (0.95, 0.80), strong: 0.99, weight: 3.0 },
    Template { system: "You extract fields as JSON.", before: "Contract: ", after: "\nReturn JSON with nested parties, clauses and dates.", weak: (0.35, 0.15), strong: 0.97, weight: 1.5 },
    Template { system: "", before: "Translate to German: ", after: "", weak: (0.97, 0.93), strong: 0.99, weight: 3.0 },
    Template { system: "", before: "Summarize in two sentences: ", after: "", weak: (0.97, 0.90), strong: 0.99, weight: 3.0 },
    Template { system: "You write FastAPI services.", before: "Write models.py for this service: ", after: "\nAnswer with one code block.", weak: (0.85, 0.60), strong: 0.97, weight: 2.0 },
    Template { system: "You write FastAPI services.", before: "Write the endpoints for this service: ", after: "\nAnswer with one code block.", weak: (0.45, 0.15), strong: 0.95, weight: 2.0 },
    Template { system: "You write FastAPI services.", before: "Write a README for this service: ", after: "\nAnswer in Markdown.", weak: (0.98, 0.95), strong: 0.99, weight: 1.5 },
    Template { system: "You write tests.", before: "Write pytest tests for: ", after: "\nOnly code.", weak: (0.50, 0.25), strong: 0.93, weight: 1.5 },
    Template { system: "", before: "Prove or refute: ", after: "", weak: (0.10, 0.10), strong: 0.75, weight: 1.0 },
    Template { system: "You are a legal assistant.", before: "Assess this case: ", after: "\nCite the statute.", weak: (0.25, 0.15), strong: 0.90, weight: 1.0 },
    Template { system: "You answer from the context.", before: "Context: ", after: "\nQuestion: what follows?\nReturn JSON with key answer.", weak: (0.92, 0.75), strong: 0.99, weight: 3.0 },
];

pub(super) const WORDS: &[&str] = &[
    "order", "customer", "delivery", "service", "account", "window", "summer", "report", "number", "house", "answer", "table", "server",
    "garden", "letter", "price", "station", "paper", "doctor", "market", "value", "morning", "river", "engine", "record",
];

/// One simulated request with what both models would make of it.
struct Case {
    row: Row,
    weak: bool,
    strong: bool,
}

/// A way to decide, as the usable rate at every share of strong calls from 0 to 100 % in steps of 5.
struct Curve {
    name: &'static str,
    colour: &'static str,
    usable: Vec<f64>,
}

/// Writes the plot and gives the table.
///
/// # Errors
/// Where the weights cannot be read or the plot not written.
pub(super) fn run(path: &Path, seed: u64, weights: Option<&Path>) -> anyhow::Result<String> {
    let mut random = Random(seed);
    let shown: Vec<Case> = (0..SHOWN).map(|_| case(&mut random)).collect();
    let judged: Vec<Case> = (0..JUDGED).map(|_| case(&mut random)).collect();
    let scorer = rows::scorer(weights, &[])?;
    let v0 = Scorer::new(Weights::v0(), Settings::default());
    let difficulty =
        judged.iter().map(|case| Ok(f64::from(v0.score(&case.row.request()?).difficulty))).collect::<anyhow::Result<Vec<f64>>>()?;
    let cold = needs(&scorer, &judged)?;
    learn(&scorer, &shown)?;
    let learned = needs(&scorer, &judged)?;
    let length: Vec<f64> = judged.iter().map(|case| float(case.row.prompt.len())).collect();
    let oracle: Vec<f64> = judged.iter().map(|case| if case.strong && !case.weak { 1.0 } else { 0.0 }).collect();
    let curves = [
        Curve { name: "length threshold", colour: "#999999", usable: usable(&judged, &length) },
        Curve { name: "v0 difficulty", colour: "#e69f00", usable: usable(&judged, &difficulty) },
        Curve { name: "this router, cold", colour: "#56b4e9", usable: usable(&judged, &cold) },
        Curve { name: "this router, after 500", colour: "#0072b2", usable: usable(&judged, &learned) },
        Curve { name: "oracle", colour: "#009e73", usable: usable(&judged, &oracle) },
    ];
    std::fs::write(path, plot(&curves)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(table(&curves, seed))
}

fn case(random: &mut Random) -> Case {
    let total: f64 = TEMPLATES.iter().map(|template| template.weight).sum();
    let mut at = random.unit() * total;
    let template = TEMPLATES
        .iter()
        .find(|template| {
            at -= template.weight;
            at < 0.0
        })
        .unwrap_or(&TEMPLATES[0]);
    let size = random.unit();
    let words = 8 + random.below(1 + whole(size * 240.0));
    let text: Vec<&str> = (0..words).map(|_| WORDS[random.below(WORDS.len())]).collect();
    let long = (float(words) / 248.0).min(1.0);
    let weak = template.weak.0 + (template.weak.1 - template.weak.0) * long;
    let system = (!template.system.is_empty()).then(|| template.system.to_owned());
    let prompt = format!("{}{}.{}", template.before, text.join(" "), template.after);
    Case { row: Row { prompt, system, ..Row::default() }, weak: random.unit() < weak, strong: random.unit() < template.strong }
}

/// Bandit feedback: only the outcome of the route that was taken.
fn learn(scorer: &Scorer, cases: &[Case]) -> anyhow::Result<()> {
    let policy = Policy::new(Rule::HostedShare(0.3), 0.05);
    for case in cases {
        let score = scorer.score(&case.row.request()?);
        let choice = policy.choose(&score, &Situation::default());
        let local = choice.route == Route::Local;
        scorer.teach(&score, Outcome { local, usable: if local { case.weak } else { case.strong }, propensity: choice.propensity });
    }
    scorer.settle(true);
    Ok(())
}

fn needs(scorer: &Scorer, cases: &[Case]) -> anyhow::Result<Vec<f64>> {
    cases.iter().map(|case| Ok(f64::from(scorer.score(&case.row.request()?).need))).collect()
}

fn usable(cases: &[Case], scores: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    (0..=20)
        .map(|step| {
            let strong = cases.len() * step / 20;
            let good =
                order.iter().enumerate().filter(|(rank, at)| if *rank < strong { cases[**at].strong } else { cases[**at].weak }).count();
            float(good) / float(cases.len())
        })
        .collect()
}

fn table(curves: &[Curve], seed: u64) -> String {
    let mut text = format!(
        "Simulated traffic, seed {seed}: usable answers (%) by the share of requests sent to the strong model.\n\n| | 0 % | 10 % | 20 % | 30 % | 50 % | 100 % | share for 95 % usable |\n|---|---|---|---|---|---|---|---|\n"
    );
    for curve in curves {
        let cells: Vec<String> = [0, 2, 4, 6, 10, 20].iter().map(|at| format!("{:.1}", 100.0 * curve.usable[*at])).collect();
        let reach = curve.usable.iter().position(|usable| *usable >= 0.95).map_or("-".to_owned(), |at| format!("{} %", at * 5));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | {} | {reach} |", curve.name, cells.join(" | "));
    }
    text.push_str("\n0 % is always local, 100 % always hosted.\n");
    text
}

fn plot(curves: &[Curve]) -> String {
    let (x, y) = (|share: f64| 60.0 + share * 500.0, |usable: f64| 340.0 - (usable - 0.6) / 0.4 * 300.0);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 400\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"760\" height=\"400\" fill=\"white\"/>\n<text x=\"60\" y=\"22\" font-weight=\"bold\">Simulated: usable answers against cost (share of strong calls)</text>\n",
    );
    for step in 0..=4 {
        let level = 0.6 + 0.1 * f64::from(step);
        let _ = writeln!(
            svg,
            "<line x1=\"60\" x2=\"560\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"20\" y=\"{1:.1}\">{2:.0} %</text>",
            y(level),
            y(level) + 4.0,
            level * 100.0
        );
        let share = 0.25 * f64::from(step);
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"362\" text-anchor=\"middle\">{:.0} %</text>", x(share), share * 100.0);
    }
    for (at, curve) in curves.iter().enumerate() {
        let points: Vec<String> =
            curve.usable.iter().enumerate().map(|(step, usable)| format!("{:.1},{:.1}", x(float(step) / 20.0), y(*usable))).collect();
        let legend = 60.0 + 24.0 * float(at);
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{1}\" stroke-width=\"2\"/><line x1=\"575\" x2=\"600\" y1=\"{2}\" y2=\"{2}\" stroke=\"{1}\" stroke-width=\"3\"/><text x=\"606\" y=\"{3}\">{4}</text>",
            points.join(" "),
            curve.colour,
            legend,
            legend + 4.0,
            curve.name
        );
    }
    svg.push_str("<text x=\"310\" y=\"388\" text-anchor=\"middle\">share of requests sent to the strong model</text>\n</svg>\n");
    svg
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of words")]
fn whole(value: f64) -> usize {
    value as usize
}
