//! Comments that announce what does not follow, and settings that hold nothing else.

use super::outline::Comment;
use super::{phrases, words};
use crate::verify::code::Language;

/// Lines of substance beside which an announcement is a remark.
const SUBSTANCE_LINES: usize = 3;

/// A promise that nothing keeps: what follows it is an empty line, a closing bracket or the end.
pub(super) fn is_open(comment: &Comment, content: &str) -> bool {
    if comment.trails(content) {
        return false;
    }
    let behind = content.get(comment.end..).unwrap_or("");
    let next = behind.strip_prefix(['\n', '\r']).unwrap_or(behind).lines().next().unwrap_or("").trim();
    let kept = !next.is_empty() && !next.starts_with(['}', ')', ']', '<']) && !is_comment(next);
    !kept && (phrases::promises(&comment.text) || phrases::orders(&comment.text))
}

/// The line before or behind is a comment too.
pub(super) fn has_comment_beside(comment: &Comment, content: &str) -> bool {
    let start = comment.end - comment.text.len();
    let before = content[..start].trim_end_matches([' ', '\t']).trim_end_matches('\n').lines().next_back().unwrap_or("");
    let behind = content.get(comment.end..).unwrap_or("").trim_start_matches('\n').lines().next().unwrap_or("");
    [before, behind].into_iter().any(|line| is_comment(line.trim()))
}

/// Settings, scripts, schemas and styles that are left open. `language`: where there is a grammar.
pub(super) fn of_settings(name: &str, language: Option<Language>, content: &str) -> Option<String> {
    let excerpt = |line: &str| crate::verify::text::excerpt(line.trim(), 80);
    let lines: Vec<&str> = content.lines().map(str::trim).collect();
    let substance = lines.iter().filter(|line| is_substance(line)).count();
    let yaml = language == Some(Language::Yaml);
    if language == Some(Language::Sql) && content.contains("(...)") {
        return Some("\"(...)\" stands for columns or values".into());
    }
    for (at, line) in lines.iter().enumerate() {
        // In YAML three dots may end a document.
        let gap = matches!(line.trim_end_matches(','), "..." | "…");
        if gap && !(yaml && substance > 1) && content.len() < 12_000 && language != Some(Language::Bash) {
            return Some("\"...\" stands for content".into());
        }
        let next = lines.get(at + 1).copied().unwrap_or("");
        let kept = !next.is_empty() && !next.starts_with(['}', ')', ']']) && !is_comment(next);
        let opened = is_comment(line) && is_left_open(&lines, at);
        if is_comment(line)
            && (!kept || substance == 0)
            && (substance <= SUBSTANCE_LINES || opened)
            && (phrases::promises(line) || phrases::orders(line))
            && (substance == 0 || opened || phrases::asks_for_content(line))
        {
            return Some(format!("little but a promise: {:?}", excerpt(line)));
        }
        if (says_so(line) && substance <= SUBSTANCE_LINES) || (substance == 1 && trailing(line).is_some_and(words::is_a_word_for_content)) {
            return Some(format!("a stand-in: {:?}", excerpt(line)));
        }
    }
    // Settings that are commented out are shown, and a sentence may say why there are none; a word or two say nothing, nor does
    // the file's own name.
    let own = name.to_ascii_lowercase();
    let tells = |word: &&str| !word.is_empty() && !words::is_filler(word) && (word.len() < 3 || !own.contains(&word.to_ascii_lowercase()));
    let words: usize = lines
        .iter()
        .filter(|line| !line.starts_with("#!"))
        .map(|line| line.split(|c: char| !c.is_alphanumeric()).filter(tells).count())
        .sum();
    let comments = lines.iter().copied().filter(|line| !line.starts_with("#!"));
    let announced = language == Some(Language::Yaml)
        && lines.iter().all(|line| line.is_empty() || is_comment(line))
        && phrases::only_announce(comments);
    let nothing = substance == 0
        && ((words <= 2 && !lines.iter().any(|line| phrases::excuses(line))) || announced)
        && !name.ends_with(".json")
        && !super::may_be_empty(name)
        && !name.ends_with(".md");
    nothing.then(|| "comments and no content".into())
}

/// `echo "TODO"`, `CMD ["echo", "TODO"]`
fn says_so(line: &str) -> bool {
    line.contains("echo") && phrases::says_nothing(line)
}

/// The comment behind a line's content, without its mark.
fn trailing(line: &str) -> Option<&str> {
    [" -- ", " # ", " // "].iter().find_map(|mark| line.split_once(mark)).map(|(_, comment)| comment.trim())
}

/// `steps:` and a note that nothing follows: whatever stands elsewhere, this is not written.
fn is_left_open(lines: &[&str], at: usize) -> bool {
    let opens = |line: &&&str| !is_comment(line) && line.ends_with([':', '{', '[', '(']);
    let is_head = lines[..at].iter().rev().find(|line| !line.is_empty()).filter(opens).is_some();
    let next = lines[at + 1..].iter().find(|line| !line.is_empty() && !is_comment(line));
    is_head && next.is_none_or(|next| next.starts_with(['}', ')', ']']))
}

/// A line that does something: not a comment, not a bracket, not the head of a script.
fn is_substance(line: &str) -> bool {
    let head = ["set -", "version:", "---", "<?", "@charset", "services:"];
    let idle = matches!(line, "exit" | "exit 0" | "true" | "BEGIN;" | "COMMIT;" | "END;");
    !line.is_empty()
        && !idle
        && !is_comment(line)
        && line.contains(char::is_alphanumeric)
        && !head.iter().any(|head| line.starts_with(head))
}

fn is_comment(line: &str) -> bool {
    if let Some((_, behind)) = line.strip_prefix("/*").and_then(|inner| inner.split_once("*/")) {
        return behind.trim().is_empty();
    }
    // In styles and attributes a star is what the rest applies to.
    let starred = line.starts_with('*') && !line.contains(['{', '=']);
    let marked = ["#", "//", "/*", "--", "<!--", ";", "{#", "%"].iter().any(|mark| line.starts_with(mark));
    (starred || marked) && !line.starts_with("---")
}
