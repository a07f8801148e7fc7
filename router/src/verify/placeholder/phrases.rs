//! What people and models write where content should be.

use std::sync::LazyLock;

use regex::Regex;

/// Said of code that was left out; enough by itself, whatever stands around it.
static ELISION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?ix)",
        // "the rest of the code remains the same", "... existing imports ..."
        r"^\W*(\w+\s+){0,2}(rest|remainder)\s+of\s+(the|your|this|my)\s+(\w+\s+){0,2}(code|file|implementation|class|module|functions?|methods?|logic|script|routes?|content|app|application|endpoints?|imports?|config(uration)?|document|fields?|models?|tests?)",
        r"\s*($|[.,:(…]|here|above|below|remains?|stays?|(is|are)\s+(here|the\s+same|unchanged|omitted|identical|as\b|left|below|above|similar)|goes|unchanged|continues|omitted|as\s+(before|is|above)|from\s+(above|before|the\s+(previous|original)))",
        r"|^\W*((your|the|all|keep|other|my|with|include)\s+){0,2}(existing|previous|original|remaining|unchanged)\s+(\w+\s+)?(code|implementation|imports?|methods?|functions?|routes?|endpoints?|content|logic|fields?|models?)",
        r"\s*($|[.:…]|here|(remains?|stays?|goes?)\b|(is|are)\s+(here|unchanged|the\s+same))",
        r"|\b(code|file|implementation|everything(\s+else)?|logic|rest|content|function|class)\s+(remains?|stays?)\s+(the\s+same|unchanged)",
        r"|\b(omitted|truncated|shortened|abbreviated|skipped|left\s+out)\s+for\s+(brevity|clarity|simplicity|space|length)",
        r"|^\W*((the|some|more|other|full)\s+)?(code|implementation|content|logic|rest|details?)\s+(is\s+|are\s+|has\s+been\s+)?(omitted|truncated|elided|unchanged)\b",
        r"|\byour\s+(own\s+)?(\w+\s+)?(code|implementation|logic|content)\s+(goes\s+|comes\s+|belongs\s+)?here\b",
        r"|^\W*((add|put|insert|write|place|the|main|actual|real|rest|more|business|application)\s+){0,3}(code|implementation|logic|content)\s+(goes\s+|comes\s+)here\b",
        r"|^\W*(implementation|code|logic|content)\s+here\W*$",
        r"|^\W*(same|unchanged)\s+(code\s+|content\s+)?(as\s+(in\s+)?(the\s+)?(previous|original|earlier)\s+(example|version|answer|response|file|code)|from\s+before)",
        r"|^\W*(continue|continues)\s+(as\s+before|with\s+the\s+rest)|^\W*(snip|snipped)\W*$",
    ))
    .ok()
});

/// Said of work that is still to do; enough where there is little else.
static PROMISE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?ix)",
        r"\b(todo|fixme|tbd|tbc|wip|xxx)\b",
        r"|\bplace\s?holders?\b|\bstub(bed)?\b|\blorem\s+ipsum\b|\bcoming\s+soon\b|\bwork\s+in\s+progress\b|\bboilerplate\b",
        r"|\b(add|put|write|insert|place|define|implement|import|include|initiali[sz]e|configure|register|create|fill\s+in|paste|enter|call|handle|do)\b.{0,60}\b(here|below|later)\b",
        r"|\b(go|goes|comes|belongs|added|defined|implemented|written|placed)\s+(in\s+)?here\b",
        r"|\bto\s+be\s+(implemented|added|done|written|defined|completed|filled|determined|decided|provided|generated)\b",
        r"|\b(not|never)\s+(yet\s+)?(been\s+)?implemented\b|\bunimplemented\b|\bnot\s+yet\s+(written|done|available|supported)\b",
        r"|\breplace\s+(this|it|me)?\s*(with|by)\b|\b(real|actual|proper|full|complete)\s+(implementation|code|logic|content|query|call|data)\b",
        r"|\bimplement(ation)?\s+(me|this|it|the|your|needed|required|pending|details|logic)\b|^\W*implement\b|\bneeds?\s+(to\s+be\s+)?implement",
        r"|\bin\s+a\s+(real|production|full)(-|\s)?(world)?\s*(app|application|implementation|system|scenario|service|project|environment)?\b",
        r"|^\W*(the\s+)?(contents?|code|source|text|body|logic|implementation)\s+(for|of)\b|\b(contents?|code|source)\s+(goes\s+)?here\b",
        r"|^\W*\(?same\s+as\s+(above|before|previous)|^\W*see\s+(above|previous)",
        r"|\bexample\s+(implementation|only|code|content)\b|\bmock(ed)?\s+(data|response|implementation|value)\b|\bdummy\b|\bfill\s+(this\s+)?in\b|\bfor\s+now\b|\byour\s+(\w+\s+){1,3}here\b",
    ))
    .ok()
});

/// An order to whoever comes next, at the start of a comment; enough where nothing follows it.
static ORDER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)^\W*(please\s+)?(add|write|implement|define|create|include|register|put|insert|configure|initiali[sz]e|set\s?up|start|handle|return|call|fetch|",
        r"load|fill|complete|continue|describe|document|provide|specify|replace|customi[sz]e|extend)\s+\w+",
        r"|^\W*(\w+\s+){0,3}(go|goes|will\s+go|will\s+be(\s+added)?|to\s+be\s+added)(\s+here)?\W*$",
    ))
    .ok()
});

/// What a program says that does nothing yet, as the whole of a text between quotes, tags or behind `echo`.
static NOTHING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r#"(["'`>]|\becho\s+)\s*(TODO\b(:[^"'`<{]{0,60})?|TBD|FIXME|(?i:placeholder|(this\s+)?(is\s+)?not\s+(yet\s+)?implemented(\s+yet)?|coming\s+soon|"#,
        r#"under\s+construction|work\s+in\s+progress|implement\s+me|to\s+be\s+implemented|your\s+(code|content|text)\s+here|lorem\s+ipsum[^"'`<]*))[.!…]*\s*(["'`<]|$)"#
    ))
    .ok()
});

/// Work on code that is there; it promises none.
static CHORE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let work = "remove|drop|delete|deprecate|rename|revisit|refactor|simplify|clean\\s?up|upgrade";
    Regex::new(&format!(r"(?i)^\W*(todo|fixme|xxx)\b(\([^)]*\))?\W*({work})\b")).ok()
});

fn found(regex: &LazyLock<Option<Regex>>, text: &str) -> bool {
    regex.as_ref().is_some_and(|regex| regex.is_match(text))
}

/// The words of a comment without its marks.
fn words(comment: &str) -> &str {
    comment.trim_matches(|c: char| c.is_whitespace() || "#/*-<!>;\"'%".contains(c))
}

/// A comment or line that stands for what was left out.
pub(super) fn elides(comment: &str) -> bool {
    comment.lines().any(|line| {
        let line = words(line);
        let dotted = line.starts_with("...") || line.starts_with('…');
        let bare = line.trim_matches(['.', '…', ' ', '(', ')', '[', ']', '{', '}']);
        if dotted && (line.ends_with("...") || line.ends_with('…')) {
            return true;
        }
        let said = [
            "code",
            "rest",
            "remaining",
            "other",
            "existing",
            "previous",
            "same",
            "method",
            "route",
            "function",
            "endpoint",
            "implementation",
        ];
        if dotted && bare.split_whitespace().count() <= 8 && said.iter().any(|word| bare.to_ascii_lowercase().contains(word)) {
            return true;
        }
        found(&ELISION, line)
    })
}

/// A comment, or a short text, that promises content.
pub(super) fn promises(comment: &str) -> bool {
    comment.lines().any(|line| found(&PROMISE, words(line)) && !found(&CHORE, words(line))) || elides(comment)
}

/// A comment that tells somebody to do something.
pub(super) fn orders(comment: &str) -> bool {
    comment.lines().any(|line| found(&ORDER, words(line)))
}

/// A line or a statement whose text is a stand-in for one.
pub(super) fn says_nothing(line: &str) -> bool {
    let Some(regex) = NOTHING.as_ref() else { return false };
    // A key of that name has a value.
    regex.find_iter(line).any(|found| !line[found.end()..].trim_start().starts_with(':'))
}

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
        && found(&PROMISE, bare)
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
const MORE_WORDS: &str = "...|…|true|false|0|see above|same|same as above|unchanged|full content|file|omitted";

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
