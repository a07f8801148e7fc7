//! Holds an answer to a JSON schema: llguidance says before each token which ones keep the answer valid.
//!
//! Schemas come from callers: they are bounded in size and depth before they are read, compiling has a budget of steps,
//! and a schema that cannot be honoured is refused. An answer is never left unconstrained in silence.

mod numbers;
mod schema;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use parking_lot::Mutex;

use self::numbers::Numbers;
pub(super) use self::schema::{options as with_options, read as read_schema};
use super::model::{Model, Token};

/// Compiled grammars kept for the next request that asks for the same.
const KEPT: usize = 64;
/// Longest schema or grammar, in bytes.
pub const MOST_SCHEMA_BYTES: usize = 256 << 10;
/// Deepest nesting of brackets in a schema.
pub const MOST_SCHEMA_DEPTH: usize = 64;

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Any JSON object.
    Object,
    /// What a JSON Schema says; its text.
    Schema(Arc<str>),
    /// A grammar in llguidance's Lark.
    Grammar(Arc<str>),
}

/// How much of a schema is enforced while the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// All of it.
    Strict,
    /// All but the keywords named in the log: the answer has the right shape and still has to be verified.
    Lenient,
}

/// The form cannot be enforced. Never a reason to answer freely: another model may do it, or the caller asks for less.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// Compiles forms for one model.
pub struct Grammars {
    environment: TokEnv,
    /// Slow to make for a large vocabulary, so made with the first use.
    factory: OnceLock<Result<ParserFactory, String>>,
    kept: Mutex<VecDeque<(Form, Result<Kept, Unsupported>)>>,
    numbers: Arc<Numbers>,
}

#[derive(Clone)]
struct Kept {
    start: Matcher,
    strength: Strength,
}

/// The vocabulary as llguidance wants it. Text that a grammar forces is cut into tokens as the model's own tokenizer does it:
/// other cuts spell the same, but the model has not learned from them.
struct Words {
    trie: TokTrie,
    model: Arc<Model>,
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, text: &[u8]) -> Vec<u32> {
        let own = self.model.tokenize_inside(text);
        own.map_or_else(|| self.trie.greedy_tokenize(text), |tokens| tokens.into_iter().map(Token::cast_unsigned).collect())
    }
}

/// One answer's way through a grammar.
pub struct Constraint {
    matcher: Matcher,
    numbers: numbers::Watch,
    pub strength: Strength,
}

impl Grammars {
    /// Reads the vocabulary; cheap beside loading the model.
    #[must_use]
    pub fn of(model: &Arc<Model>) -> Self {
        let words: Vec<Vec<u8>> = (0..model.vocabulary()).map(|at| word(model, at)).collect();
        let ends: Vec<u32> = (0_u32..).take(words.len()).filter(|token| model.ends(token.cast_signed())).collect();
        let end = model.end_token().unwrap_or_else(|| ends.first().copied().unwrap_or(0));
        let mut all = vec![end];
        all.extend(ends.into_iter().filter(|token| *token != end));
        let info = TokRxInfo::new(u32::try_from(words.len()).unwrap_or(u32::MAX), end);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&all);
        let numbers = Arc::new(Numbers::of(&words));
        let environment: TokEnv = Arc::new(Words { trie, model: Arc::clone(model) });
        Self { environment, factory: OnceLock::new(), kept: Mutex::default(), numbers }
    }

    /// Compiles a form, or finds it compiled. Takes milliseconds, for a large schema up to a second: not for the decode thread.
    ///
    /// # Errors
    /// If llguidance cannot enforce it, or its bounds are exceeded.
    pub fn compile(&self, form: &Form) -> Result<Constraint, Unsupported> {
        let found = {
            let mut kept = self.kept.lock();
            let at = kept.iter().position(|(known, _)| known == form);
            at.and_then(|at| kept.remove(at)).inspect(|entry| kept.push_front(entry.clone())).map(|(_, result)| result)
        };
        let result = found.unwrap_or_else(|| {
            let result = self.build(form);
            let mut kept = self.kept.lock();
            kept.push_front((form.clone(), result.clone()));
            kept.truncate(KEPT);
            result
        });
        let Kept { start, strength } = result?;
        Ok(Constraint { matcher: start, numbers: numbers::Watch::new(Arc::clone(&self.numbers)), strength })
    }

    fn build(&self, form: &Form) -> Result<Kept, Unsupported> {
        let text = match form {
            Form::Object => {
                return self.parser(GrammarWithLexer::from_json_schema(schema::options(schema::object(), false)), Strength::Strict);
            }
            Form::Grammar(text) if text.len() > MOST_SCHEMA_BYTES => return Err(Unsupported("the grammar is too long".into())),
            // Ours hold a schema and a few groups around it.
            Form::Grammar(text) if schema::depth(text) > MOST_SCHEMA_DEPTH + 8 => {
                return Err(Unsupported("the grammar is nested too deep".into()));
            }
            Form::Grammar(text) => return self.parser(GrammarWithLexer::from_lark(text.to_string()), Strength::Strict),
            Form::Schema(text) => text,
        };
        let schema = schema::read(text).map_err(Unsupported)?;
        let strict = GrammarWithLexer::from_json_schema(schema::options(schema.clone(), false));
        let refused = match self.parser(strict, Strength::Strict) {
            Ok(kept) => return Ok(kept),
            Err(refused) => refused,
        };
        let lenient = GrammarWithLexer::from_json_schema(schema::options(schema, true));
        // The first refusal is the one that says what to change.
        let kept = self.parser(lenient, Strength::Lenient).map_err(|_| refused.clone())?;
        tracing::warn!(%refused, "schema is enforced in part");
        Ok(kept)
    }

    fn parser(&self, grammar: GrammarWithLexer, strength: Strength) -> Result<Kept, Unsupported> {
        let factory = self.factory.get_or_init(|| {
            let slices = llguidance::earley::SlicedBiasComputer::json_slices();
            let made = ParserFactory::new(&self.environment, InferenceCapabilities::default(), &slices);
            made.map_err(|error| error.to_string()).map(|mut factory| {
                factory.quiet();
                factory.limits_mut().verbose_errors = false;
                factory
            })
        });
        let factory = factory.as_ref().map_err(|why| Unsupported(why.clone()))?;
        let mut start = Matcher::new(factory.create_parser(TopLevelGrammar::from_grammar(grammar)));
        // The first mask shows what compiling does not: a grammar that allows nothing at all.
        match start.compute_mask() {
            Ok(mask) if !mask.is_zero() => Ok(Kept { start, strength }),
            Ok(_) => Err(Unsupported("the schema allows no answer".into())),
            Err(error) => Err(Unsupported(short(&error.to_string()))),
        }
    }
}

impl Constraint {
    /// Whether this token may come next: much cheaper to say than which ones may.
    pub(crate) fn allows(&mut self, token: Token) -> bool {
        self.numbers.permits(token) && self.matcher.validate_tokens(&[token.cast_unsigned()]).is_ok_and(|valid| valid == 1)
    }

    /// One bit per token that may come next.
    pub(crate) fn allowed(&mut self) -> Result<Vec<u32>, Unsupported> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| Unsupported(short(&error.to_string())))?;
        let mut bits = mask.as_slice().to_vec();
        self.numbers.restrict(&mut bits);
        Ok(bits)
    }

    /// The tokens that come next in any case. Nothing has to be computed to know them.
    pub(crate) fn forced(&mut self) -> Vec<Token> {
        if self.matcher.is_stopped() {
            return Vec::new();
        }
        self.matcher.compute_ff_tokens().into_iter().map(u32::cast_signed).collect()
    }

    /// Takes note of the token that was chosen.
    pub(crate) fn accept(&mut self, token: Token, bytes: &[u8]) -> Result<(), Unsupported> {
        self.numbers.follow(bytes);
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(token.cast_unsigned()).map_err(|error| Unsupported(short(&error.to_string())))
    }

    /// Nothing can follow but the end.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

/// A token's bytes as llguidance wants them: control tokens by name behind a byte that text cannot have.
fn word(model: &Model, at: usize) -> Vec<u8> {
    let token = Token::try_from(at).unwrap_or(-1);
    let piece = model.piece(token);
    if !piece.is_empty() {
        return piece.to_vec();
    }
    let name = model.control(token);
    if name.is_empty() { Vec::new() } else { [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat() }
}

fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").field("kept", &self.kept.lock().len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("strength", &self.strength).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
