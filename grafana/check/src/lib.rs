//! Which labels the result of a PromQL query has, given the labels that each metric has; a name that is not there is an error.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::label::Matchers;
use promql_parser::parser::{Expr, LabelModifier, VectorMatchCardinality, VectorSelector, parse, token};

pub type Labels = BTreeSet<String>;

/// Labels by series name.
#[derive(Debug, Default)]
pub struct Known(pub BTreeMap<String, Labels>);

impl Known {
    /// The labels of the query's result; none for a number.
    pub fn labels(&self, query: &str) -> Result<Labels, String> {
        self.of(&parse(query)?)
    }

    fn of(&self, expr: &Expr) -> Result<Labels, String> {
        match expr {
            Expr::VectorSelector(selector) => self.selected(selector),
            Expr::MatrixSelector(selector) => self.selected(&selector.vs),
            Expr::Paren(paren) => self.of(&paren.expr),
            Expr::Unary(unary) => self.of(&unary.expr),
            Expr::Subquery(subquery) => self.of(&subquery.expr),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(Labels::new()),
            Expr::Aggregate(aggregate) => {
                let inner = self.of(&aggregate.expr)?;
                match &aggregate.modifier {
                    None => Ok(Labels::new()),
                    Some(modifier) => kept(&inner, modifier),
                }
            }
            Expr::Call(call) => {
                let mut labels = Labels::new();
                for argument in &call.args.args {
                    labels.extend(self.of(argument)?);
                }
                match call.func.name {
                    "scalar" => labels.clear(),
                    "histogram_quantile" if !labels.remove("le") => return Err("histogram_quantile without le".into()),
                    _ => {}
                }
                Ok(labels)
            }
            Expr::Binary(binary) => {
                let (left, right) = (self.of(&binary.lhs)?, self.of(&binary.rhs)?);
                let number = |side: &Expr| side.value_type() == promql_parser::parser::value::ValueType::Scalar;
                if number(&binary.lhs) || number(&binary.rhs) {
                    return Ok(left.into_iter().chain(right).collect());
                }
                if [token::T_LOR, token::T_LAND, token::T_LUNLESS].contains(&binary.op.id()) {
                    return Ok(left);
                }
                let modifier = binary.modifier.as_ref();
                if modifier.is_some_and(|modifier| modifier.card != VectorMatchCardinality::OneToOne) {
                    return Ok(left);
                }
                match modifier.and_then(|modifier| modifier.matching.as_ref()) {
                    Some(matching) => {
                        kept(&right, matching)?;
                        kept(&left, matching)
                    }
                    None if left == right => Ok(left),
                    None => Err(format!("its sides cannot meet: {left:?} and {right:?}")),
                }
            }
            Expr::Extension(_) => Err("an extension".into()),
        }
    }

    fn selected(&self, selector: &VectorSelector) -> Result<Labels, String> {
        let name = selector.name.as_deref().ok_or("a selector without a metric")?;
        let labels = self.0.get(name).ok_or_else(|| format!("no metric {name}"))?;
        let Matchers { matchers, or_matchers } = &selector.matchers;
        for matcher in matchers.iter().chain(or_matchers.iter().flatten()) {
            if !labels.contains(&matcher.name) {
                return Err(format!("{name} has no label {}", matcher.name));
            }
        }
        Ok(labels.clone())
    }
}

fn kept(labels: &Labels, modifier: &LabelModifier) -> Result<Labels, String> {
    let named: Labels = modifier.labels().labels.iter().cloned().collect();
    if let Some(stranger) = named.iter().find(|label| !labels.contains(*label)) {
        return Err(format!("no label {stranger} there, only {labels:?}"));
    }
    Ok(match modifier {
        LabelModifier::Include(_) => named,
        LabelModifier::Exclude(_) => labels.difference(&named).cloned().collect(),
    })
}

#[cfg(test)]
#[test]
fn a_wrong_name_is_found() {
    let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Labels>();
    let known = Known(BTreeMap::from([
        ("asked_total".to_owned(), labels(&["route", "outcome"])),
        ("seconds_bucket".to_owned(), labels(&["route", "le"])),
        ("up".to_owned(), labels(&["job"])),
    ]));
    for (query, expected) in [
        ("sum by (route) (rate(asked_total{outcome=\"usable\"}[5m])) > 0", Ok("route")),
        ("sum(asked_total) / sum(asked_total)", Ok("")),
        ("histogram_quantile(0.9, sum by (le, route) (rate(seconds_bucket[5m])))", Ok("route")),
        ("3600 * scalar(sum(asked_total))", Ok("")),
        ("asked_total * on (route) seconds_bucket", Ok("route")),
        ("ask_total", Err("no metric ask_total")),
        ("sum by (model) (asked_total)", Err("no label model")),
        ("asked_total{result=\"usable\"}", Err("no label result")),
        ("asked_total / up", Err("cannot meet")),
        ("asked_total * on (job) up", Err("no label job")),
        ("histogram_quantile(0.9, sum by (route) (seconds_bucket))", Err("without le")),
        ("sum by (route (asked_total)", Err("")),
    ] {
        match (known.labels(query), expected) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted.split_terminator(',').map(str::to_owned).collect(), "{query}"),
            (Err(found), Err(wanted)) => assert!(found.contains(wanted), "{query}: {found}"),
            (found, _) => panic!("{query}: {found:?}, expected {expected:?}"),
        }
    }
}
