//! What people and models write where content should be.

use std::sync::LazyLock;

use regex::Regex;

/// Said of code that was left out; enough by itself, whatever stands around it.
static ELISION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?ix)",
        // "the rest of the code remains the same", "... existing imports ..."
        r"^\W*(\w+\s+){0,2}(rest|remainder)\s+of\s+(the|your|this|my)\s+(\w+\s+){0,2}(code|file|implementation|class|module|functions?|methods?|logic|script|routes?|content|app|application|endpoints?|imports?|config(uration)?|document|fields?|models?|tests?|",
        r"components?|elements?|markup|page|styles?|rules?|tables?|columns?|steps?|jobs?|services?|handlers?|commands?|settings|options|properties|classes|cases|types|schemas?)",
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
        r"|^\W*(the\s+)?(other|remaining|rest\s+of\s+the)\s+(\w+\s+){1,2}((follow|work|are|look)s?\s+(the\s+same|similar|analogous)|omitted|left\s+out|not\s+shown|go\s+here)\b",
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
        r"|\bto\s+be\s+(implemented|added|done|written|defined|completed|filled|determined|decided|provided|generated|documented|described|specified|continued)\b|\bto\s+follow\W*$",
        r"|\b(not|never)\s+(yet\s+)?(been\s+)?implemented\b|\bunimplemented\b|\bnot\s+yet\s+(written|done|available|supported)\b",
        r"|\breplace\s+(this|it|me)?\s*(with|by)\b|\b(real|actual|proper|full|complete)\s+(implementation|code|logic|content|query|call|data)\b",
        r"|\bimplement(ation)?\s+(me|this|it|the|your|needed|required|pending|details|logic)\b|^\W*implement\b|\bneeds?\s+(to\s+be\s+)?implement",
        r"|\bin\s+a\s+(real|production|full)(-|\s)?(world)?\s*(app|application|implementation|system|scenario|service|project|environment)?\b",
        r"|^\W*(the\s+)?(contents?|code|source|text|body|logic|implementation)\s+(for|of)\b|\b(contents?|code|source)\s+(goes\s+)?here\b",
        r"|^\W*\(?same\s+as\s+(above|before|previous)|^\W*see\s+(above|previous)",
        r"|\bexample\s+(implementation|only|code|content)\b|\bmock(ed)?\s+(data|response|implementation|value)\b|\bdummy\b|\bfill\s+(this\s+)?in\b|\bfor\s+now\b|\byour\s+(\w+\s+){1,3}here\b",
        r"|^\W*(the\s+|main\s+)?(implementation|logic)\W*$|^\W*(add|provide|complete|finish)\s+((the|your|an?)\s+)?(\w+\s+)?(implementation|logic|code)\W*$",
        r"|^\W*your\s+(own\s+|custom\s+)?(\w+\s+)?(styles?|rules|code|logic|implementation|content|config(uration)?|routes?|tests?|text)\W*$",
        r"|^\W*(\w+\s+)?(columns|fields|routes|styles|rules|tests|handlers|methods|endpoints|commands|steps|components|functions|tables|jobs|statements|",
        r"props|types|queries|messages|template|markup|page|html)\s+here\W*$",
        r"|^\W*(add|write|insert)\s+((your|the|more|unit)\s+)*(tests?|test\s+cases?|steps|routes|fields|columns|functionality)\W*$",
        r"|\b(goes|go|belongs|comes)\s+in(to)?\s+this\s+(file|module|class)\b",
    ))
    .ok()
});

/// An order to whoever comes next, at the start of a comment; enough where nothing follows it.
static ORDER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)^\W*(please\s+)?(add|write|implement|define|create|include|register|put|insert|configure|initiali[sz]e|set\s?up|start|handle|return|call|fetch|build|render|finish|copy|install|run|expose|",
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

/// Why nothing is done on purpose.
static EXCUSE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(nothing|no|no-?op|intentional(ly)?|deliberate(ly)?|ignored?|needed|no\s+need|empty|unused|overrid(e|es|den)|defaults?|already|never|none|",
        r"by\s+design|required|not|don't|doesn't|isn't|can't|won't|un\w*supported|cannot|subclass(es)?|only|always|handled|skip|optional|irrelevant)\b",
    ))
    .ok()
});

/// Work on code that is there; it promises none.
static CHORE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let work = "remove|drop|delete|deprecate|rename|revisit|refactor|simplify|clean\\s?up|upgrade";
    Regex::new(&format!(r"(?i)^\W*(todo|fixme|xxx)\b(\([^)]*\))?\W*({work})\b")).ok()
});

/// Code left out, as it is said in German, Spanish, French, Portuguese, Russian, Chinese and Japanese.
const LEFT_OUT_ELSEWHERE: &str = "rest des codes|restliche code|restlicher code|resto del código|resto del codigo|reste du code|restante do código|\
    остальной код|其余代码|剩余代码|其他代码保持不变|代码省略|残りのコード";

/// Work still to do, in the same languages.
const TO_DO_ELSEWHERE: &str = "code einfügen|code hier|zu implementieren|noch nicht implementiert|implementierung folgt|tu código|código aquí|\
    implementar aquí|por implementar|sin implementar|no implementado|votre code|code ici|à implémenter|à compléter|non implémenté|\
    seu código|implementar aqui|a ser implementado|ваш код|не реализовано|在此处添加|在这里添加|待实现|尚未实现|未实现|待完成|\
    未実装|実装予定|ここにコード";

fn says_elsewhere(list: &str, line: &str) -> bool {
    let lower = line.to_lowercase();
    list.split('|').any(|said| lower.contains(said))
}

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
            "component",
            "step",
            "field",
            "column",
            "table",
            "handler",
            "logic",
        ];
        if dotted && bare.split_whitespace().count() <= 8 && said.iter().any(|word| bare.to_ascii_lowercase().contains(word)) {
            return true;
        }
        found(&ELISION, line) || says_elsewhere(LEFT_OUT_ELSEWHERE, line)
    })
}

/// A comment, or a short text, that promises content.
pub(super) fn promises(comment: &str) -> bool {
    comment.lines().map(words).any(|line| (found(&PROMISE, line) && !found(&CHORE, line)) || says_elsewhere(TO_DO_ELSEWHERE, line))
        || elides(comment)
}

/// A promise that is more than a remark on what stands beside it: "TODO", "TODO: add the steps", and not "TODO: shorter lines".
pub(super) fn asks_for_content(comment: &str) -> bool {
    let line = words(comment);
    let after = ["todo", "fixme", "xxx"].iter().find_map(|mark| {
        let (lead, rest) = line.split_at_checked(mark.len())?;
        lead.eq_ignore_ascii_case(mark).then(|| words(rest.trim_start_matches([':', ' '])))
    });
    match after {
        Some(task) => task.is_empty() || promises(task) || orders(task),
        None => true,
    }
}

/// A note where members or statements should be, and no reason why there are none.
pub(super) fn notes<'a>(comments: impl Iterator<Item = &'a str>) -> bool {
    let lines: Vec<&str> = comments.map(words).filter(|line| line.contains(char::is_alphabetic)).collect();
    !lines.is_empty() && lines.len() <= 6 && !lines.iter().any(|line| found(&EXCUSE, line) || line.contains([';', '=']))
}

/// A comment that says why nothing is there.
pub(super) fn excuses(comment: &str) -> bool {
    found(&EXCUSE, words(comment))
}

/// Comments of which none shows a setting or says why there is none.
pub(super) fn only_announce<'a>(comments: impl Iterator<Item = &'a str>) -> bool {
    let lines: Vec<&str> = comments.map(words).filter(|line| !line.is_empty()).collect();
    let length: usize = lines.iter().map(|line| line.split_whitespace().count()).sum();
    length <= 12 && !lines.iter().any(|line| line.contains([':', '=', '/']) || found(&EXCUSE, line))
}

/// What a function without work of its own says of itself, before it begins.
pub(super) fn is_still_to_do(comment: &str) -> bool {
    let line = words(comment).to_ascii_lowercase();
    ["todo", "fixme", "implement me", "not implemented"].iter().any(|start| line.starts_with(start)) && !found(&CHORE, &line)
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
