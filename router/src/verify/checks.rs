//! What is wanted of one request's answers: the caller's format and tools, the route's settings, the request's own header.

use std::sync::Arc;

use regex::Regex;
use spectra_backends::ChatRequest;
use spectra_backends::chat::{BadRequest, Format, ToolChoice};

use super::schema::{Schema, SchemaCache};
use crate::outside::Outside;

/// Which checks a route makes of its answers, and what it may do to mend them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The answer is JSON where the caller's `response_format` says so.
    pub json: bool,
    /// It fits the caller's JSON Schema.
    pub schema: bool,
    /// Tool calls name a known tool and their arguments fit.
    pub tools: bool,
    /// Cut by a limit, or in the middle of JSON, a tool call or a fence.
    pub truncation: bool,
    pub empty: bool,
    /// A refusal where JSON or a tool call was asked for. Refusals in plain text are answers.
    pub refusal: bool,
    pub looping: bool,
    pub echo: bool,
    /// Placeholders in fields that carry a file.
    pub placeholder: bool,
    /// Code in fields that carry a file parses.
    pub code: bool,
    /// Fenced code in plain text parses.
    pub fenced_code: bool,
    /// Least mean natural-log probability of an answer's tokens. `None`: not asked.
    pub least_logprob: Option<f32>,
    /// Least mean lead over the runner-up, natural log. `None`: not asked.
    pub least_margin: Option<f32>,
    /// The operator's own.
    pub custom: Vec<Custom>,
    /// The operator's own that need more than the text.
    pub outside: Vec<Outside>,
    /// Mend syntax.
    pub repair: bool,
    /// Bend values to the schema.
    pub coerce: bool,
}

/// A check of the operator's own.
#[derive(Clone, Debug)]
pub struct Custom {
    pub name: Arc<str>,
    pub rule: Rule,
}

#[derive(Clone, Debug)]
pub enum Rule {
    /// The text must match.
    Matches(Regex),
    /// The text must not match.
    Lacks(Regex),
    /// The text must be JSON that fits.
    Schema(Arc<Schema>),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            json: true,
            schema: true,
            tools: true,
            truncation: true,
            empty: true,
            refusal: true,
            looping: true,
            echo: true,
            placeholder: true,
            code: true,
            fenced_code: true,
            least_logprob: None,
            least_margin: None,
            custom: Vec::new(),
            outside: Vec::new(),
            repair: true,
            coerce: false,
        }
    }
}

impl Settings {
    /// No check at all, and no repair.
    #[must_use]
    pub fn off() -> Self {
        Self {
            json: false,
            schema: false,
            tools: false,
            truncation: false,
            empty: false,
            refusal: false,
            looping: false,
            echo: false,
            placeholder: false,
            code: false,
            fenced_code: false,
            least_logprob: None,
            least_margin: None,
            custom: Vec::new(),
            outside: Vec::new(),
            repair: false,
            coerce: false,
        }
    }

    /// The names that `x-spectra-verify` takes.
    pub const NAMES: [&str; 13] = [
        "json",
        "schema",
        "tools",
        "truncation",
        "empty",
        "refusal",
        "looping",
        "echo",
        "placeholder",
        "code",
        "fenced_code",
        "repair",
        "coerce",
    ];

    /// The settings with a request's `x-spectra-verify` applied: `off`, `on` (the route's), or a list that replaces the route's checks.
    /// A list keeps the route's repair; the operator's own checks and thresholds stay, since a caller does not know them.
    ///
    /// # Errors
    /// `BadRequest` with code `invalid_value` for a name that is no check.
    pub fn with_header(&self, header: Option<&str>) -> Result<Self, BadRequest> {
        let words: Vec<&str> = header.unwrap_or("").split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] | ["on"] => return Ok(self.clone()),
            ["off"] => return Ok(Self::off()),
            _ => {}
        }
        let mut settings = Self {
            least_logprob: self.least_logprob,
            least_margin: self.least_margin,
            custom: self.custom.clone(),
            outside: self.outside.clone(),
            repair: self.repair,
            coerce: self.coerce,
            ..Self::off()
        };
        for word in words {
            let Some(switch) = settings.switch(word) else {
                let message = format!(
                    "Invalid value for 'x-spectra-verify': '{word}'. Expected 'off', 'on' or a list of: {}.",
                    Self::NAMES.join(", ")
                );
                return Err(BadRequest::new("invalid_value", "x-spectra-verify".to_owned(), message));
            };
            *switch = true;
        }
        Ok(settings)
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "json" => &mut self.json,
            "schema" => &mut self.schema,
            "tools" => &mut self.tools,
            "truncation" => &mut self.truncation,
            "empty" => &mut self.empty,
            "refusal" => &mut self.refusal,
            "looping" => &mut self.looping,
            "echo" => &mut self.echo,
            "placeholder" => &mut self.placeholder,
            "code" => &mut self.code,
            "fenced_code" => &mut self.fenced_code,
            "repair" => &mut self.repair,
            "coerce" => &mut self.coerce,
            _ => return None,
        })
    }

    /// True if nothing at all is checked: the answer is neither verified nor flawed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        let switches = [
            self.json,
            self.schema,
            self.tools,
            self.truncation,
            self.empty,
            self.refusal,
            self.looping,
            self.echo,
            self.placeholder,
            self.code,
            self.fenced_code,
        ];
        !switches.contains(&true)
            && self.least_logprob.is_none()
            && self.least_margin.is_none()
            && self.custom.is_empty()
            && self.outside.is_empty()
    }
}

/// What the caller wants to read.
#[derive(Clone, Debug)]
pub enum Wanted {
    Text,
    Json {
        schema: Option<Arc<Schema>>,
        /// The root must be an object, as `json_object` promises.
        object: bool,
    },
}

/// The checks of one request.
#[derive(Clone, Debug)]
pub struct Checks {
    pub(super) settings: Settings,
    pub(super) wanted: Wanted,
    pub(super) tools: Vec<ToolCheck>,
    pub(super) tool_choice: ToolChoice,
    /// The caller set a token limit: an answer in plain text that meets it is what was asked for.
    pub(super) limited: bool,
    /// The last message, to know it again.
    pub(super) asked: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(super) struct ToolCheck {
    pub name: String,
    pub schema: Option<Arc<Schema>>,
}

impl Checks {
    /// The checks of a request under a route's settings and the value of `x-spectra-verify`. Schemas are compiled afresh;
    /// a server that sees the same ones again calls [`SchemaCache::checks`].
    ///
    /// # Errors
    /// `BadRequest` with code `invalid_json_schema` for a schema that cannot be used, `invalid_value` for the header.
    pub fn of(request: &ChatRequest, settings: &Settings, header: Option<&str>) -> Result<Arc<Self>, BadRequest> {
        SchemaCache::new(16).checks(request, settings, header)
    }

    /// Checks that ask for JSON alone, without a request: for files of answers.
    #[must_use]
    pub fn of_json(settings: Settings, schema: Option<Arc<Schema>>) -> Self {
        Self {
            settings,
            wanted: Wanted::Json { schema, object: false },
            tools: Vec::new(),
            tool_choice: ToolChoice::None,
            limited: false,
            asked: None,
        }
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    #[must_use]
    pub fn wants_json(&self) -> bool {
        matches!(self.wanted, Wanted::Json { .. })
    }

    /// An answer that is not of the form the caller asked for is noticed.
    #[must_use]
    pub fn hold_the_form(&self) -> bool {
        match &self.wanted {
            Wanted::Json { schema: Some(_), .. } => self.settings.schema,
            Wanted::Json { schema: None, .. } => self.settings.json,
            Wanted::Text => self.settings.tools,
        }
    }

    /// The operator has checks of its own, which look at whole answers.
    #[must_use]
    pub fn has_own(&self) -> bool {
        !self.settings.custom.is_empty() || !self.settings.outside.is_empty()
    }

    /// True if nothing is checked: the answer goes out as `skipped`.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.settings.is_off()
    }
}

impl SchemaCache {
    /// As [`Checks::of`], with compiled schemas kept for the next request.
    ///
    /// # Errors
    /// As [`Checks::of`].
    pub fn checks(&self, request: &ChatRequest, settings: &Settings, header: Option<&str>) -> Result<Arc<Checks>, BadRequest> {
        let settings = settings.with_header(header)?;
        let view = request.view();
        let compiled = |text: &str, param: String| {
            self.get(text)
                .map_err(|why| BadRequest::new("invalid_json_schema", param.clone(), format!("Invalid schema for '{param}': {why}.")))
        };
        let wanted = match &view.format {
            Format::Text => Wanted::Text,
            Format::JsonObject => Wanted::Json { schema: None, object: true },
            Format::JsonSchema { schema, .. } => {
                let schema = schema.as_deref().map(|text| compiled(text, "response_format.json_schema.schema".into())).transpose()?;
                Wanted::Json { schema, object: false }
            }
        };
        let mut tools = Vec::with_capacity(view.tools.len());
        for (at, tool) in view.tools.iter().enumerate() {
            let schema = tool.parameters.as_deref().map(|text| compiled(text, format!("tools[{at}].function.parameters"))).transpose()?;
            tools.push(ToolCheck { name: tool.name.clone(), schema });
        }
        let asked = Some(request.last_user_text()).filter(|text| !text.is_empty()).map(Arc::from);
        let limited = view.max_tokens.is_some();
        Ok(Arc::new(Checks { settings, wanted, tools, tool_choice: view.tool_choice.clone(), limited, asked }))
    }
}
