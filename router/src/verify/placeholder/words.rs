//! Files that are one word, or that name themselves, where content should be.

use super::phrases;
use crate::verify::code::Language;

/// Words that stand for a file whatever is beside them, such as an example's "string".
pub(in crate::verify) fn is_a_word_for_content(trimmed: &str) -> bool {
    is_among(WORDS, trimmed.to_lowercase().trim_matches(['"', '\'', '<', '>', '.']))
}

/// A whole file that is one of the words models put where a file should be.
pub(super) fn is_junk(name: &str, trimmed: &str) -> Option<&'static str> {
    if trimmed.len() > 400 {
        return None;
    }
    let lower = trimmed.to_lowercase();
    let bare = lower.trim_matches(|c: char| c.is_whitespace() || "\"'`.<>[](){}*_#/-!…".contains(c));
    if bare.is_empty() && (trimmed.contains("...") || trimmed.contains('…')) {
        return Some("dots instead of content");
    }
    let ends_in = |ending: &str| std::path::Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
    // A manifest without a key describes nothing; other JSON may well be empty.
    if trimmed.chars().all(|c| c.is_whitespace() || "{}".contains(c)) && ["package.json", "composer.json", "manifest.json"].contains(&name)
    {
        return Some("an empty manifest");
    }
    if ["json", "lock", "version", "ini", "cfg"].iter().any(|ending| ends_in(ending)) && !is_among(WORDS, bare) {
        return None;
    }
    if name.to_ascii_uppercase().starts_with("VERSION") || (bare.is_empty() && !trimmed.contains("...") && !trimmed.contains('…')) {
        return None;
    }
    // A list that says that it has no entries.
    if has_comment_mark(trimmed) && matches!(bare, "none" | "empty" | "n/a") && Language::of_path(name).is_none() {
        return None;
    }
    if bare.is_empty() || is_among(WORDS, bare) || is_among(MORE_WORDS, bare) {
        return Some("one word instead of content");
    }
    let single = !trimmed.contains('\n');
    let stem = name.to_lowercase();
    let of_name = |text: &str| {
        let whole = text.replace(&stem, "");
        let short = stem.split('.').next().filter(|short| short.len() > 3).unwrap_or(&stem);
        let rest = if whole.len() < text.len() { whole } else { text.replacen(short, "", 1) };
        rest.len() < text.len()
            && rest
                .split_whitespace()
                .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
                .all(|word| word.is_empty() || is_among(FILLERS, word))
    };
    let boxed = ["<>", "[]", "()", "{}"].iter().any(|pair| trimmed.starts_with(&pair[..1]) && trimmed.ends_with(&pair[1..]));
    let words_only = |text: &str| text.chars().all(|c| c.is_alphanumeric() || " ._/'-,".contains(c));
    if single && of_name(&lower) {
        return Some("names the file instead of giving it");
    }
    if single && boxed && words_only(bare) && !ends_in("html") && !ends_in("json") && !ends_in("toml") && !ends_in("ini") && !ends_in("xml")
    {
        return Some("a bracketed note instead of content");
    }
    if single
        && trimmed.len() < 200
        && !trimmed.contains(['=', '{', ';', '('])
        && !has_comment_mark(trimmed)
        && phrases::promises(bare)
        && ends_in("py")
    {
        return Some("a promise instead of content");
    }
    None
}

/// Words that stand for a file of any kind, even one of data.
const WORDS: &str = "null|none|undefined|nil|nan|n/a|na|content|contents|file content|file contents|code|source|source code|text|\
    string|todo|tbd|fixme|placeholder|empty|pass";

/// Further words that stand for a file of text.
const MORE_WORDS: &str = "...|…|true|false|0|see above|see below|same|same as above|unchanged|full content|file|\
    omitted|not available|not applicable|coming soon|tba|no content|your code here|your content here";

/// A word of those that announce a file's content.
pub(super) fn is_filler(word: &str) -> bool {
    is_among(FILLERS, &word.to_ascii_lowercase())
}

/// Words that say "the content of" and nothing else.
const FILLERS: &str = "config|configuration|settings|content|contents|code|source|file|of|for|the|here|goes|in|this|is|placeholder|text|full|complete|\
    implementation|insert|your|and|from|a|python|app|see";

fn is_among(list: &str, word: &str) -> bool {
    list.split('|').any(|known| known == word)
}

fn has_comment_mark(text: &str) -> bool {
    text.starts_with('#') || text.starts_with("//") || text.starts_with("/*") || text.starts_with("--") || text.starts_with("<!--")
}
