//! Renders a chat through the GGUF's own Jinja template.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::json;

use super::model::Model;
use super::tools::{self, Style};
use crate::chat::{Message, Role, Tool, ToolChoice, View};

/// A model's compiled template.
pub struct Prompt {
    /// How its family writes calls; `None`: the template knows no tools.
    style: Option<Style>,
    jinja: Environment<'static>,
    bos: String,
    eos: String,
}

/// Why a chat cannot be rendered. The template's own complaints (roles that do not alternate) are the caller's business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    #[error("this model has no chat template; it is a base model, not one to chat with")]
    NoTemplate,
    #[error("the model's chat template is not valid: {0}")]
    BadTemplate(String),
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
}

const NAME: &str = "chat";

impl Prompt {
    /// Compiles the model's template.
    ///
    /// # Errors
    /// For a model without one, or with one that is not Jinja.
    pub fn of(model: &Model) -> Result<Self, PromptError> {
        let template = model.template().ok_or(PromptError::NoTemplate)?;
        let specials = model.specials();
        Self::compile(template, &specials.bos, &specials.eos)
    }

    /// Compiles any template.
    ///
    /// # Errors
    /// `BadTemplate` with the place of the fault.
    pub fn compile(template: &str, bos: &str, eos: &str) -> Result<Self, PromptError> {
        let mut jinja = Environment::new();
        // As `apply_chat_template` of transformers sets Jinja up, which is what template authors test with.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        jinja.set_syntax(syntax.map_err(|error| PromptError::BadTemplate(words(&error)))?);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_function("raise_exception", raise_exception);
        jinja.add_function("strftime_now", strftime_now);
        jinja.add_filter("tojson", to_json);
        jinja.add_template_owned(NAME, template.to_owned()).map_err(|error| PromptError::BadTemplate(words(&error)))?;
        Ok(Self { style: Style::of(template), jinja, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// How the model is expected to write tool calls.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style.unwrap_or(Style::Tagged)
    }

    /// The text a request becomes. A last message of role assistant is taken as the beginning of the answer.
    ///
    /// Templates differ in what they accept, so a refusal is tried again with the system message moved into the first
    /// user message, and then with neighbours of one role joined.
    ///
    /// # Errors
    /// `Refused` with the template's words for the chat as it was sent.
    pub fn render(&self, request: &View) -> Result<String, PromptError> {
        let tools: &[Tool] = if request.tool_choice == ToolChoice::None { &[] } else { &request.tools };
        let (messages, prefill) = match request.messages.split_last() {
            Some((last, rest)) if last.role == Role::Assistant && last.tool_calls.is_empty() && !rest.is_empty() => {
                (rest, last.text.as_str())
            }
            _ => (request.messages.as_slice(), ""),
        };
        let explained = if self.style.is_none() { tools::explain(messages, tools) } else { Vec::new() };
        let (messages, tools) = if self.style.is_none() { (explained.as_slice(), &[][..]) } else { (messages, tools) };
        let first = match self.apply(messages, tools) {
            Ok(text) => return Ok(text + prefill),
            Err(error) => error,
        };
        let mut moved = system_into_user(messages);
        if let Ok(text) = self.apply(&moved, tools) {
            return Ok(text + prefill);
        }
        join_neighbours(&mut moved);
        self.apply(&moved, tools).map(|text| text + prefill).map_err(|_| first)
    }

    fn apply(&self, messages: &[Message], tools: &[Tool]) -> Result<String, PromptError> {
        let short_ids = self.style == Some(Style::Listed);
        let messages: Vec<serde_json::Value> = messages.iter().map(|one| message(one, short_ids)).collect();
        let tools = (!tools.is_empty()).then(|| tools.iter().map(tools::described).collect::<Vec<_>>());
        let template = self.jinja.get_template(NAME).map_err(|error| PromptError::BadTemplate(words(&error)))?;
        template
            .render(context! {
                messages => Value::from(Serde(&messages)),
                tools => tools.map(|tools| Value::from(Serde(&tools))),
                add_generation_prompt => true,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
            })
            .map_err(|error| PromptError::Refused(words(&error)))
    }
}

/// The error with its cause, in one line.
fn words(error: &Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if let Some(line) = error.line()
        && error.kind() != ErrorKind::InvalidOperation
    {
        text = format!("{text} (line {line} of the template)");
    }
    text
}

/// A message as templates expect it: `content` always a string, arguments of calls as an object.
fn message(message: &Message, short_ids: bool) -> serde_json::Value {
    let id = |id: &str| if short_ids { tools::nine_letters(id) } else { id.to_owned() };
    let role = match message.role {
        Role::Developer => "system",
        Role::Function => "tool",
        role => role.as_str(),
    };
    let mut out = json!({ "role": role, "content": message.text });
    if let Some(name) = &message.name {
        out["name"] = json!(name);
    }
    if let Some(call) = &message.tool_call_id {
        out["tool_call_id"] = json!(id(call));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let text = call.arguments.as_deref().unwrap_or("{}");
            let arguments = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
            json!({ "id": id(call.id.as_deref().unwrap_or_default()), "type": "function", "function": { "name": call.name, "arguments": arguments } })
        });
        out["tool_calls"] = calls.collect();
    }
    out
}

/// For templates without a system role: its text goes before the first user message.
fn system_into_user(messages: &[Message]) -> Vec<Message> {
    let is_system = |message: &&Message| matches!(message.role, Role::System | Role::Developer);
    let system: Vec<&str> = messages.iter().filter(is_system).map(|message| message.text.as_str()).collect();
    let mut rest: Vec<Message> = messages.iter().filter(|message| !is_system(message)).cloned().collect();
    if system.is_empty() {
        return rest;
    }
    let system = system.join("\n\n");
    match rest.iter_mut().find(|message| message.role == Role::User) {
        Some(user) => user.text = format!("{system}\n\n{}", user.text),
        None => rest.insert(0, plain(Role::User, system)),
    }
    rest
}

/// For templates that insist on turns: neighbours of one role become one message.
fn join_neighbours(messages: &mut Vec<Message>) {
    if messages.first().is_some_and(|first| first.role == Role::Assistant) {
        messages.insert(0, plain(Role::User, String::new()));
    }
    messages.dedup_by(|next, kept| {
        let joins = next.role == kept.role && matches!(kept.role, Role::User | Role::Assistant);
        if joins {
            kept.text = format!("{}\n\n{}", kept.text, next.text);
            kept.tool_calls.append(&mut next.tool_calls);
        }
        joins
    });
}

fn plain(role: Role, text: String) -> Message {
    Message { role, text, name: None, tool_calls: Vec::new(), tool_call_id: None, media: Vec::new() }
}

fn raise_exception(text: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, text.to_owned()))
}

/// Today, in the few formats that templates use (`%d %b %Y`, `%Y-%m-%d`, …), in UTC.
fn strftime_now(format: &str) -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    strftime(format, seconds)
}

fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] =
        ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let name = MONTHS[(month as usize).saturating_sub(1) % 12];
    let weekday = DAYS[usize::try_from(days % 7).unwrap_or(0)];
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let piece = match letters.next() {
            Some('Y') => year.to_string(),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => name.to_owned(),
            Some('b') => name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{:02}", rest / 3600),
            Some('M') => format!("{:02}", rest / 60 % 60),
            Some('S') => format!("{:02}", rest % 60),
            Some('%') | None => "%".to_owned(),
            Some(other) => format!("%{other}"),
        };
        out.push_str(&piece);
    }
    out
}

/// Year, month, day of a count of days since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// As Python's `json.dumps(value, ensure_ascii=False, indent=…)` writes it: models were trained on exactly those spaces.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let json = serde_json::to_value(value).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = String::new();
    write_json(&json, indent, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { comma } else { "" });
                line(depth + 1, out);
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (at, (key, item)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { comma } else { "" });
                line(depth + 1, out);
                out.push_str(&json!(key).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompt").field("bos", &self.bos).field("eos", &self.eos).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n\
                          {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    /// The turns of Mistral-7B-Instruct-v0.2's template, in its own words.
    const TURNS: &str = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
        {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}\
        {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
        {% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

    fn request(messages: &str) -> View {
        let body = format!(r#"{{"model":"m","messages":{messages}}}"#);
        crate::ChatRequest::parse(body.into()).unwrap().view().clone()
    }

    fn check(template: &str, messages: &str, expected: &str) {
        let prompt = Prompt::compile(template, "<s>", "</s>").unwrap();
        assert_eq!(prompt.render(&request(messages)).unwrap_or_else(|error| error.to_string()), expected, "{messages}");
    }

    #[test]
    fn chats_become_text() {
        check(CHATML, r#"[{"role":"user","content":"hi"}]"#, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
        check(
            CHATML,
            r#"[{"role":"user","content":"hi"},{"role":"assistant","content":"We"}]"#,
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWe",
        );
        check(
            TURNS,
            r#"[{"role":"user","content":" a "},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]"#,
            "<s>[INST] a [/INST]b</s>[INST] c [/INST]",
        );
    }

    #[test]
    fn what_a_template_refuses_is_reshaped() {
        check(TURNS, r#"[{"role":"system","content":"be"},{"role":"user","content":"a"}]"#, "<s>[INST] be\n\na [/INST]");
        check(TURNS, r#"[{"role":"user","content":"a"},{"role":"user","content":"b"}]"#, "<s>[INST] a\n\nb [/INST]");
        check(
            TURNS,
            r#"[{"role":"user","content":"a"},{"role":"tool","content":"x","tool_call_id":"1"}]"#,
            "<s>[INST] a\n\n<tool_response>\nx\n</tool_response> [/INST]",
        );
        check(
            "{{ raise_exception('Never.') }}",
            r#"[{"role":"user","content":"x"}]"#,
            "the model's chat template refuses these messages: Never.",
        );
    }

    #[test]
    fn json_is_written_as_python_does() {
        let template = "{{ messages[0]['content'] | length }} {{ [1, 'é\"', none, {'a': true}] | tojson }}";
        check(template, r#"[{"role":"user","content":"abc"}]"#, "3 [1, \"é\\\"\", null, {\"a\": true}]");
        check(
            "{{ {'a': [1, 2], 'b': {}} | tojson(indent=2) }}",
            r#"[{"role":"user","content":"x"}]"#,
            "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {}\n}",
        );
    }

    #[test]
    fn dates_are_dates() {
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S %%", 951_782_399), "28 Feb 2000, Monday 23:59:59 %");
        assert_eq!(strftime("%Y-%m-%d %B", 951_782_400), "2000-02-29 February");
    }

    #[test]
    fn a_broken_template_says_where() {
        let error = Prompt::compile("{% for x in %}", "", "").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
