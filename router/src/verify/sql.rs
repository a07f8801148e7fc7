//! SQL by its bones, for what the one dialect of the grammar does not know.

/// Words that statements begin with, in one dialect or another.
const VERBS: &str = "select insert update delete create alter drop with begin commit rollback set grant revoke comment use truncate \
    explain analyze vacuum pragma merge replace call do declare exec execute copy lock start savepoint release \
    refresh reindex show describe desc values table if else end go load import attach detach reset security \
    cluster listen notify prepare deallocate fetch close open return raise while for loop delimiter";

/// A string, a comment or a parenthesis that does not end.
pub(super) fn is_cut(code: &str) -> bool {
    let Some(bare) = without_strings(code) else { return true };
    bare.matches('(').count() > bare.matches(')').count()
}

/// Balanced quotes and parentheses, and every statement begins with a word that statements begin with.
pub(super) fn is_some_sql(code: &str) -> bool {
    let Some(bare) = without_strings(code) else { return false };
    let mut depth = 0_i32;
    for c in bare.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth < 0 {
            return false;
        }
    }
    let mut statements = bare.split(';').map(str::trim).filter(|statement| !statement.is_empty()).peekable();
    let first_word = |statement: &str| statement.split(|c: char| !c.is_alphabetic()).next().unwrap_or("").to_ascii_lowercase();
    depth == 0
        && statements.peek().is_some()
        && statements.all(|statement| VERBS.split(' ').any(|verb| verb == first_word(statement.trim_start_matches('('))))
}

/// SQL without comments, strings and the client's own commands; `None` where one of them does not end.
fn without_strings(code: &str) -> Option<String> {
    let mut bare = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let line_start = bare.is_empty() || bare.ends_with('\n');
        let skip = if rest.starts_with("--") || (line_start && first == '\\') {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/")? + 2
        } else if matches!(first, '\'' | '"' | '`') {
            rest[1..].find(first)? + 2
        } else if let Some(tag) = rest
            .strip_prefix('$')
            .and_then(|more| more.find('$').map(|end| &rest[..end + 2]))
            .filter(|tag| !tag.contains(char::is_whitespace))
        {
            rest[tag.len()..].find(tag)? + 2 * tag.len()
        } else {
            bare.push(first);
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    Some(bare)
}
