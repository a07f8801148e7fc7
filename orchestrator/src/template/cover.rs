//! What a text asks for, held against what templates are known to carry. Words, not meaning, and on the safe side: a
//! word that nobody vouches for counts as missing, so that a template never passes for what it is not.

use std::collections::BTreeSet;

use super::Set;
use super::spelling::{plural, snake};
use crate::plan::{File, Plan};

/// Words that ask for nothing by themselves.
const GLUE: &str = include_str!("glue.txt");
/// A word after one of these is not asked for.
const NOT: &[&str] = &["no", "not", "without"];

impl Set {
    /// The words of a text that no template of this plan makes true, in their order, each once.
    pub fn gaps(&self, plan: &Plan, text: &str) -> Vec<String> {
        let carried = self.carried(plan);
        let mut gaps = Vec::new();
        for word in words_of(text) {
            let known = word.len() < 2 || is_glue(&word) || carried.contains(&singular(&word));
            if !known && !gaps.contains(&word) {
                gaps.push(word);
            }
        }
        gaps
    }

    /// Whether the template of a file does all that the plan says the file is for.
    pub fn serves_purpose(&self, plan: &Plan, file: &File) -> bool {
        let own = self.rule(plan, &file.path).is_some_and(|rule| rule.purpose == file.purpose);
        own || self.gaps(plan, &file.purpose).is_empty()
    }

    fn carried(&self, plan: &Plan) -> BTreeSet<String> {
        let mut words: Vec<String> = [&self.words, &self.hints].into_iter().flatten().cloned().collect();
        words.extend(self.base.iter().flat_map(|base| base.words.iter().chain(&base.hints).cloned()));
        for rule in plan.paths().filter_map(|path| self.rule(plan, path)) {
            words.extend(rule.carries.iter().chain(&rule.asked_by).cloned());
            if rule.entities {
                words.extend(plan.entities.iter().flat_map(|entity| {
                    let name = snake(&entity.name);
                    let fields = entity.fields.iter().map(|field| field.name.clone());
                    fields.chain([plural(&name), name]).flat_map(|name| words_of(&name)).collect::<Vec<_>>()
                }));
            }
        }
        words.iter().map(|word| singular(word)).collect()
    }
}

/// Lower-case words, split at everything but letters and digits.
pub fn words_of(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Whether a text's words ask for one of these, and do not rule it out.
pub fn asks(words: &[String], wanted: &[String]) -> bool {
    words.iter().enumerate().any(|(at, word)| {
        let ruled_out = at > 0 && NOT.contains(&words[at - 1].as_str());
        !ruled_out && wanted.iter().any(|wanted| singular(wanted) == singular(word))
    })
}

fn is_glue(word: &str) -> bool {
    GLUE.split_whitespace().any(|glue| glue == word || singular(word) == glue)
}

/// Good enough to compare: `categories` and `category`, `numbers` and `number`, `adds` and `add` are one word.
fn singular(word: &str) -> String {
    match word {
        _ if word.len() > 4 && word.ends_with("ies") => format!("{}y", &word[..word.len() - 3]),
        _ if word.len() > 3 && word.ends_with('s') && !word.ends_with("ss") => word[..word.len() - 1].to_owned(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_templates_do_not_carry_is_named() {
        let check = |request: &str, want: &[&str]| {
            let set = Set::choose(request, &[]).unwrap();
            let plan = set.default_plan("demo", request);
            assert_eq!(set.gaps(&plan, request), want, "{request}");
        };
        check("Create a simple hello-world Python service", &[]);
        check("Build a FastAPI service called demo-fastapi with GET /health, tests and a Dockerfile", &[]);
        check("Create a calculator service in Python that can add, subtract, multiply and divide two numbers", &[]);
        check("Build a calculator service with add, subtract, multiply, divide and a history", &["history"]);
        check("Build a FastAPI service named echo-service with POST /echo", &["echo", "post"]);
        check("uuid-service: FastAPI, GET /v4, GET /v7, GET /health. Nothing else.", &["uuid", "v4", "v7", "nothing", "else"]);
        check("a service with CRUD for owners", &["crud", "owners"]);
        check("Hello world, without logging", &["without"]);
    }

    /// Of the thirty requests, the templates alone do all of one.
    #[test]
    fn of_the_requests_only_hello_world_is_carried() {
        for line in include_str!("../../tests/data/requests.jsonl").lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let request = row["request"].as_str().unwrap();
            let set = Set::choose(request, &[]).unwrap();
            let gaps = set.gaps(&set.default_plan("demo", request), request);
            assert_eq!(gaps.is_empty(), row["expect"]["service_name"] == "hello-world", "{request}: {gaps:?}");
        }
    }

    #[test]
    fn planned_entities_are_carried() {
        let set = Set::load("fastapi", &[]).unwrap();
        let entity = r#"{"name": "OrderItem", "fields": [{"name": "price", "type": "number"}]}"#;
        let file = r#"{"path": "app/routers/order_items.py", "priority": "critical", "purpose": "x"}"#;
        let text = format!(r#"{{"service_name": "a-b", "entities": [{entity}], "files_to_create": [{file}]}}"#);
        let plan = Plan::parse(&text).unwrap();
        assert_eq!(set.gaps(&plan, "CRUD for order items with a price and a colour"), ["colour"]);
    }

    #[test]
    fn glue_has_no_word_twice() {
        let words: Vec<&str> = GLUE.split_whitespace().collect();
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len());
    }
}
