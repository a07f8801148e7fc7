//! The fault injector: which answer is spoilt, and how. Every draw is a hash of seed, request, file and attempt, so
//! that a run gives the same table in any order of arrival.

use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Malformed,
    Truncated,
    Placeholder,
    WrongName,
    Empty,
    Prose,
}

const FAULTS: [Fault; 6] = [Fault::Malformed, Fault::Truncated, Fault::Placeholder, Fault::WrongName, Fault::Empty, Fault::Prose];

/// A spoilt or whole answer.
#[derive(Debug, Clone)]
pub struct Spoilt {
    pub text: String,
    pub finish: &'static str,
}

/// A number drawn for a key: FNV-1a, then a mixing step.
pub fn draw(key: &str) -> u64 {
    let mut hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash ^= hash >> 30;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The fault of this answer, if it gets one.
pub fn fault(key: &str, percent: u64) -> Option<Fault> {
    (draw(key) % 100 < percent).then(|| FAULTS[usize::try_from(draw(&format!("{key} kind")) % 6).unwrap()])
}

/// A file's answer with a fault. `other` is another file's answer; `defines` a name the file must define.
pub fn spoil_file(fault: Fault, key: &str, whole: &str, other: &str, defines: Option<&str>) -> Spoilt {
    let number = draw(&format!("{key} how"));
    let even = number.is_multiple_of(2);
    let stop = |text: String| Spoilt { text, finish: "stop" };
    match fault {
        Fault::Malformed => stop(malformed(whole)),
        Fault::Truncated => {
            let part = 20 + usize::try_from(number % 70).unwrap();
            let cut: String = whole.chars().take(whole.chars().count() * part / 100).collect();
            Spoilt { text: cut, finish: if even { "length" } else { "stop" } }
        }
        Fault::Placeholder => stop(placeholder(whole, number)),
        Fault::WrongName => match defines {
            Some(name) if even => stop(rename(whole, name)),
            _ => stop(other.to_owned()),
        },
        Fault::Empty => stop(if even { String::new() } else { "\n\n".to_owned() }),
        Fault::Prose if even => stop(format!("Sure! Here is the file you asked for:\n\n{whole}\n\nLet me know if you need more.")),
        Fault::Prose => stop("I would structure this module in three layers and keep the endpoints thin.".to_owned()),
    }
}

/// Without its last bracket.
fn malformed(whole: &str) -> String {
    match whole.rfind([')', ']', '}']) {
        Some(at) => format!("{}{}", &whole[..at], &whole[at + 1..]),
        None => format!("({whole}"),
    }
}

fn placeholder(whole: &str, number: u64) -> String {
    let lines: Vec<&str> = whole.lines().collect();
    let (first, last) = (lines.first().unwrap_or(&""), lines.last().unwrap_or(&""));
    match number % 3 {
        0 => format!("{first}\n# TODO: implement this module\n{last}"),
        1 => {
            let half = lines[..lines.len() / 2].join("\n");
            format!("{half}\n# ... rest of the code remains the same ...\n{last}")
        }
        _ => hollow(&lines).unwrap_or_else(|| format!("{first}\n...\n{last}")),
    }
}

/// The last function's body becomes `pass`.
fn hollow(lines: &[&str]) -> Option<String> {
    let at = lines.iter().rposition(|line| line.trim_start().starts_with("def ") && line.trim_end().ends_with(':'))?;
    let indent = lines[at].len() - lines[at].trim_start().len();
    let inside = |line: &&&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indent;
    let body = lines[at + 1..].iter().take_while(inside).count();
    let mut out: Vec<String> = lines[..=at].iter().map(|line| (*line).to_owned()).collect();
    out.push(format!("{}pass", " ".repeat(indent + 4)));
    out.extend(lines[at + 1 + body..].iter().map(|line| (*line).to_owned()));
    Some(out.join("\n"))
}

fn rename(whole: &str, name: &str) -> String {
    let mut out = String::new();
    let mut rest = whole;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(at) = rest.find(name) {
        let (before, after) = (rest[..at].chars().next_back(), rest[at + name.len()..].chars().next());
        out.push_str(&rest[..at + name.len()]);
        if !before.is_some_and(is_word) && !after.is_some_and(is_word) {
            out.push_str("_v2");
        }
        rest = &rest[at + name.len()..];
    }
    out + rest
}

/// A JSON answer (a plan, or the old way's whole service) with a fault.
pub fn spoil_json(fault: Fault, key: &str, whole: &Value) -> Spoilt {
    let text = whole.to_string();
    let number = draw(&format!("{key} how"));
    let even = number.is_multiple_of(2);
    let stop = |text: String| Spoilt { text, finish: "stop" };
    match fault {
        Fault::Malformed if even => stop(text.replacen("\":", "\"", 1)),
        Fault::Malformed => stop(text.replacen("},{", "} {", 1).trim_end_matches('}').to_owned()),
        Fault::Truncated => {
            let part = 20 + usize::try_from(number % 70).unwrap();
            let cut: String = text.chars().take(text.chars().count() * part / 100).collect();
            Spoilt { text: cut, finish: if even { "length" } else { "stop" } }
        }
        Fault::Placeholder => stop(r#"{"service_name": "...", "files_to_create": []}"#.to_owned()),
        Fault::WrongName => stop(text.replace("service_name", "serviceName").replace("files_to_create", "filesToCreate")),
        Fault::Empty => stop(String::new()),
        Fault::Prose => stop("First I would settle the data model, then the endpoints, then the tests.".to_owned()),
    }
}
