//! The service's name, read from the request: explicit names win, doubt is told, "unknown" never comes out.

use std::sync::LazyLock;

use regex::Regex;

/// The longest name taken: the limit of a DNS label, which a service's name becomes sooner or later.
const MAX_LEN: usize = 63;
/// The name when the request has none.
pub const DEFAULT: &str = "service";

/// What the request says about the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The request says it: a safe slug.
    Explicit(String),
    /// The request hints at it ("Build todo-api with FastAPI"): a safe slug.
    Hinted(String),
    /// The request has no name: [`DEFAULT`].
    Default,
    /// The request asks for several services: the user has to choose.
    Several(Vec<String>),
    /// The request names something that must not become a folder.
    Rejected(String),
}

impl Named {
    /// The slug to use, or why there is none and what to write instead.
    pub fn slug(&self) -> Result<&str, String> {
        match self {
            Named::Explicit(slug) | Named::Hinted(slug) => Ok(slug),
            Named::Default => Ok(DEFAULT),
            Named::Several(names) => {
                Err(format!("the request names several services ({}): build one at a time, choose with --name", names.join(", ")))
            }
            Named::Rejected(raw) => Err(format!("{raw:?} is a path, not a service name: choose one with --name")),
        }
    }
}

/// Reads the name from a request in plain words (English, with the usual German, French and Spanish phrases).
pub fn extract(request: &str) -> Named {
    if let Some(names) = several(request) {
        return Named::Several(names);
    }
    if let Some(raw) = explicit(request) {
        return match slug(&raw) {
            _ if raw.contains('/') || raw.contains('\\') || raw.contains("..") => Named::Rejected(raw),
            Some(name) => Named::Explicit(name),
            None => Named::Default,
        };
    }
    match hinted(request).as_deref().and_then(slug) {
        Some(name) => Named::Hinted(name),
        None => Named::Default,
    }
}

/// A safe slug (`^[a-z][a-z0-9-]{1,62}$`), or none: `OrderTracker` is `order-tracker`, `CON` is `con-service`.
pub fn slug(raw: &str) -> Option<String> {
    let mut out = String::new();
    let mut before: Option<char> = None;
    let mut letters = raw.trim().chars().peekable();
    while let Some(c) = letters.next() {
        let next_is_lower = letters.peek().is_some_and(|n| n.is_lowercase());
        let hump =
            c.is_uppercase() && before.is_some_and(|b| b.is_lowercase() || b.is_ascii_digit() || (b.is_uppercase() && next_is_lower));
        let folded = fold(c);
        if (hump || folded.is_none()) && !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
        out.push_str(folded.as_deref().unwrap_or(""));
        before = Some(c);
    }
    let name = out.trim_matches('-').trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    let name: String = name.chars().take(MAX_LEN).collect();
    let name = name.trim_end_matches('-');
    match name {
        _ if name.len() < 2 || name == "unknown" => None,
        // Names Windows keeps for devices: a checkout there would fail.
        _ if reserved(name) => Some(format!("{name}-service")),
        _ => Some(name.to_owned()),
    }
}

/// Whether Windows keeps this file stem (lower case) for a device.
pub fn reserved(stem: &str) -> bool {
    matches!(stem, "con" | "prn" | "aux" | "nul")
        || (stem.len() == 4
            && (stem.starts_with("com") || stem.starts_with("lpt"))
            && stem.ends_with(|c: char| c.is_ascii_digit() && c != '0'))
}

fn fold(c: char) -> Option<String> {
    let folded = match c {
        'ä' | 'Ä' => "ae",
        'ö' | 'Ö' => "oe",
        'ü' | 'Ü' => "ue",
        'ß' => "ss",
        'à' | 'â' | 'á' | 'ã' => "a",
        'é' | 'è' | 'ê' | 'ë' | 'É' => "e",
        'î' | 'ï' | 'í' => "i",
        'ô' | 'ó' => "o",
        'û' | 'ù' | 'ú' => "u",
        'ç' => "c",
        'ñ' => "n",
        _ if c.is_ascii_alphanumeric() => return Some(c.to_ascii_lowercase().to_string()),
        _ => return None,
    };
    Some(folded.to_owned())
}

// === phrases ===

fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the patterns are constants and every one runs in the tests")]
    Regex::new(text).expect("a valid pattern")
}

/// "called X", "name it X", "service name: X" and the like: what follows, quoted or up to the end of the phrase.
fn explicit(request: &str) -> Option<String> {
    static INTRO: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)\b(?:called|named|name it|call it|(?:service|project|app)(?:'s)? name(?: is|:)|named it|",
            r"mit (?:dem )?namen|namens|genannt|appelée?|nommée?|llamad[oa])\b:?\s*",
            r#"(?:["'`“”«‘]\s*([^"'`“”»’]+?)\s*["'`“”»’](\*\d+)?|([^\s,;]+(?-i:\s+[A-Z][\w!.-]*)*))"#
        ))
    });
    let found = INTRO.captures(request)?;
    if found.get(2).is_some() {
        return Some(String::new()); // 'a'*300 is an expression, not a name
    }
    let raw = found.get(1).or_else(|| found.get(3))?.as_str();
    Some(raw.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '…']).to_owned())
}

/// "two services: auth-api and user-api".
fn several(request: &str) -> Option<Vec<String>> {
    static PLURAL: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)\b(?:two|three|four|five|several|[2-9]|both)\b[^.:]{0,40}\b(?:services|apis|microservices|apps)\b[^a-z]*(?:called|named)?\s*([^.]+)",
        )
    });
    let listed = PLURAL.captures(request)?.get(1)?.as_str();
    let names: Vec<String> = SLUG.find_iter(listed).filter_map(|found| slug(found.as_str())).collect();
    (names.len() > 1).then_some(names)
}

static SLUG: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+\b"));

/// Adjectives and terms with a hyphen that say how a service is, not what it is called.
const NOT_NAMES: &[&str] = &[
    "production-ready",
    "production-grade",
    "multi-stage",
    "in-memory",
    "real-time",
    "single-file",
    "rate-limited",
    "full-text",
    "role-based",
    "open-source",
    "command-line",
    "easy-to-use",
    "well-tested",
    "high-performance",
    "s3-compatible",
    "pre-commit",
    "docker-compose",
    "time-series",
    "event-driven",
    "e-mail",
    "json-based",
    "read-only",
    "multi-tenant",
    "up-to-date",
    "type-safe",
];

/// A name without a phrase that says so: a slug in ticks or brackets, a slug in the text, a title.
fn hinted(request: &str) -> Option<String> {
    static TICKED: LazyLock<Regex> = LazyLock::new(|| pattern(r#"[`(“"']([a-z][a-z0-9]*(?:[-_][a-z0-9]+)+)[`)”"']"#));
    static TITLE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"\b(?:Enhance|Extend|Improve|Rebuild|Modernise|Modernize|Build|Create|Implement)\s+(?:the |a |an )?((?:[A-Z][A-Za-z]+\s+){1,6}?)(?:with|using|so|to|by|for|in|as)\b",
        )
    });
    static MAKERS: LazyLock<Regex> =
        LazyLock::new(|| pattern(r"^(?:Power (?:Apps|Platform|Automate)|Microsoft|Azure|AWS|Amazon|Google|Python|FastAPI)\s+"));
    if let Some(found) = TICKED.captures(request) {
        return Some(found[1].to_owned());
    }
    let first_lines = request.get(..400).unwrap_or(request);
    let plain =
        SLUG.find_iter(first_lines).map(|found| found.as_str()).find(|found| !NOT_NAMES.contains(&found.to_ascii_lowercase().as_str()));
    if let Some(found) = plain {
        return Some(found.to_owned());
    }
    let title = TITLE.captures(request)?[1].to_owned();
    Some(MAKERS.replace(&title, "").into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        expected: String,
    }

    /// The twenty cases of the data set, and the names of the thirty requests.
    #[test]
    fn names_of_the_data() {
        for line in include_str!("../tests/data/service_names.jsonl").lines() {
            let case: Case = serde_json::from_str(line).unwrap();
            let got = extract(&case.text);
            let fits = match case.expected.as_str() {
                "reject" => matches!(got, Named::Rejected(_)),
                "default" => got == Named::Default,
                "multiple" => matches!(&got, Named::Several(names) if names.len() == 2),
                "reject-or-suffix" => got.slug() == Ok("con-service"),
                name => got.slug() == Ok(name),
            };
            assert!(fits, "{:?}: wanted {}, got {got:?}", case.text, case.expected);
        }
    }

    #[test]
    fn names_of_the_requests() {
        for line in include_str!("../tests/data/requests.jsonl").lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let got = extract(row["request"].as_str().unwrap());
            let slug = got.slug().unwrap();
            assert_ne!(slug, "unknown");
            if let Some(name) = row["expect"]["service_name"].as_str() {
                assert_eq!(slug, name, "{}", row["title"]);
            }
        }
    }

    #[test]
    fn slugs_are_safe() {
        let check = |raw: &str, want: Option<&str>| assert_eq!(slug(raw).as_deref(), want, "{raw:?}");
        check("HTTPServer", Some("http-server"));
        check("  Größe  ", Some("groesse"));
        check("42nd street", Some("nd-street"));
        check("COM1", Some("com1-service"));
        check("unknown", None);
        check("日本", None);
        check(&"a".repeat(300), Some(&"a".repeat(63)));
    }
}
