//! Expressions that people write: conditions, filters, parameters. The language is CEL, bounded.
//!
//! ```text
//! headers.region == "eu" && message.items.exists(i, i.price > 100)
//! ```
//!
//! An expression is checked once, when it is read: its size, its names, its functions, its regular
//! expressions. It is then evaluated for many messages; only the variables that it names are converted.
//! CEL has no budget, so before every evaluation an upper bound of its cost is computed from the
//! expression and the sizes of what it is given (`cost`), and an evaluation beyond [`MAX_COST`] is
//! refused instead of begun.
//!
//! What is left out of CEL: message types, optional values, timestamps and durations, regular
//! expressions that are computed. What is not known here: what any variable means.

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::extractors::This;
use cel::{Env, ExecutionError, Program};
use serde::{Serialize, Serializer};

use super::document::quoted;

mod check;
mod context;
mod cost;
mod decode;
mod template;

pub use context::Context;
pub use template::{Template, TemplateTree};

use check::{Need, Pattern};

/// The longest source, in bytes.
pub const MAX_SOURCE: usize = 4096;
/// The most nodes of a syntax tree, macros expanded.
pub const MAX_NODES: usize = 500;
/// The deepest syntax tree, macros expanded.
pub const MAX_DEPTH: usize = 64;
/// How deep `all`, `exists`, `map` and `filter` may be nested in each other.
pub const MAX_LOOPS: usize = 2;
/// What one evaluation may cost. A step is visiting a node, or touching an element or 64 bytes of text.
pub const MAX_COST: u64 = 1_000_000;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Where, in characters from 0.
    pub offset: usize,
    /// Line of it, from 1.
    pub line: usize,
    /// Column of it in characters, from 1.
    pub column: usize,
}

impl ExpressionError {
    fn new(source: &str, offset: usize, message: impl Into<String>) -> Self {
        let (mut line, mut column) = (1, 1);
        for c in source.chars().take(offset) {
            if c == '\n' {
                (line, column) = (line + 1, 1);
            } else {
                column += 1;
            }
        }
        ExpressionError { message: message.into(), hint: None, offset, line, column }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Why an expression has no value for a message. None of them quotes what the variables hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// A key that is not there. `has(a.b)` asks first.
    #[error("there is no key {}", quoted(.key))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A variable that nobody gave.
    #[error("there is no variable {}", quoted(.name))]
    UnknownVariable {
        /// Its name.
        name: String,
    },
    /// A condition that is neither true nor false.
    #[error("the condition is {found}, neither true nor false")]
    NotBool {
        /// What it is.
        found: &'static str,
    },
    /// An operator or function that does not take what it was given.
    #[error("{message}")]
    WrongType {
        /// What was given to what.
        message: String,
    },
    /// It was not begun.
    #[error("evaluating it would cost up to {cost} steps; {MAX_COST} are allowed")]
    TooCostly {
        /// The upper bound of its cost.
        cost: u64,
    },
    /// Anything else, such as a division by zero.
    #[error("{message}")]
    Failed {
        /// What happened.
        message: String,
    },
}

/// A checked expression.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    tree: Arc<IdedExpr>,
    needs: Arc<[Need]>,
    patterns: Arc<[Pattern]>,
}

/// The functions and types of CEL without its optional values; `matches` is ours.
static ENV: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

impl Expression {
    /// Reads an expression whose variables are not known yet; [`Expression::check_variables`] can
    /// check them later.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        let error = |message: String| ExpressionError::new(source, 0, message);
        if source.len() > MAX_SOURCE {
            let bytes = source.len();
            return Err(error(format!(
                "the expression is {bytes} bytes long; {MAX_SOURCE} are allowed"
            )));
        }
        if source.trim().is_empty() {
            return Err(error("the expression is empty".to_owned()));
        }
        check::before_parsing(source)?;
        let program = Program::compile(source).map_err(|errors| check::syntax(source, errors))?;
        let checked = check::tree(source, &program)?;
        Ok(Expression {
            source: source.into(),
            tree: Arc::new(program.expression().clone()),
            needs: checked.needs.into(),
            patterns: checked.patterns.into(),
        })
    }

    /// Reads an expression that may use `variables` and no others.
    pub fn parse_with(source: &str, variables: &[&str]) -> Result<Self, ExpressionError> {
        let expression = Self::parse(source)?;
        expression.check_variables(variables)?;
        Ok(expression)
    }

    /// Refuses a variable that is not among `variables`, with the nearest that is.
    pub fn check_variables(&self, variables: &[&str]) -> Result<(), ExpressionError> {
        check::variables(&self.source, &self.needs, variables)
    }

    /// The variables that it uses.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.needs.iter().map(|need| need.variable.as_str())
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value, as JSON: bytes become Base64, keys of maps become text in alphabetical order.
    pub fn evaluate(&self, context: &Context<'_>) -> Result<serde_json::Value, EvaluationError> {
        let mut variables = cel::Context::with_env(Arc::clone(&ENV));
        let mut shapes = Vec::new();
        for need in self.needs.iter() {
            let value = context.convert(need, &mut shapes)?;
            variables.add_variable_from_value(need.variable.as_str(), value);
        }
        let cost = cost::bound(&self.tree, &mut shapes, &self.patterns);
        if cost > MAX_COST {
            return Err(EvaluationError::TooCostly { cost });
        }
        if !self.patterns.is_empty() {
            let patterns = Arc::clone(&self.patterns);
            let matches = move |This(text): This<cel::Value>, pattern: cel::Value| {
                check::matches(&patterns, &text, &pattern)
            };
            if let Err(error) = variables.add_function("matches", matches) {
                return Err(EvaluationError::Failed { message: error.to_string() });
            }
        }
        let value = cel::Value::resolve(&self.tree, &variables).map_err(failed)?;
        context::to_json(&value)
    }

    /// Its value, which must be true or false.
    pub fn evaluate_bool(&self, context: &Context<'_>) -> Result<bool, EvaluationError> {
        match self.evaluate(context)? {
            serde_json::Value::Bool(value) => Ok(value),
            other => Err(EvaluationError::NotBool { found: context::kind_name(&other) }),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.source)
    }
}

/// Two expressions are equal when they are written alike.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Expression {}

impl std::str::FromStr for Expression {
    type Err = ExpressionError;
    fn from_str(source: &str) -> Result<Self, ExpressionError> {
        Self::parse(source)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// An error of the interpreter without the values that it would quote: they may be of any size, and
/// nobody's business.
fn failed(error: ExecutionError) -> EvaluationError {
    let wrong_type = |message: String| EvaluationError::WrongType { message };
    let failed = |message: &str| EvaluationError::Failed { message: message.to_owned() };
    match error {
        ExecutionError::NoSuchKey(key) => EvaluationError::MissingKey { key: key.to_string() },
        ExecutionError::UndeclaredReference(name) => {
            EvaluationError::UnknownVariable { name: name.to_string() }
        }
        ExecutionError::NoSuchOverload(error) => wrong_type(format!(
            "`{}` does not take {}",
            operator(error.function()),
            error.argument_types().join(" and ")
        )),
        ExecutionError::UnsupportedBinaryOperator(name, left, right) => {
            let name = operator(name);
            wrong_type(format!("`{name}` does not take {} and {}", left.type_of(), right.type_of()))
        }
        ExecutionError::ValuesNotComparable(left, right) => {
            wrong_type(format!("{} cannot be compared to {}", left.type_of(), right.type_of()))
        }
        ExecutionError::UnsupportedIndex(index, value) => {
            wrong_type(format!("{} has no index of type {}", value.type_of(), index.type_of()))
        }
        ExecutionError::UnsupportedKeyType(key) => {
            wrong_type(format!("{} cannot be a key", key.type_of()))
        }
        ExecutionError::UnexpectedType { want, .. } => {
            wrong_type(format!("{want} is needed, and something else is there"))
        }
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            failed("division by zero")
        }
        ExecutionError::Overflow(name, ..) => {
            failed(&format!("the result of `{}` is too large a number", operator(name)))
        }
        ExecutionError::IndexOutOfBounds(_) => failed("the index lies outside of the list"),
        ExecutionError::DuplicateKey(_) => failed("a key of the map is there twice"),
        ExecutionError::FunctionError { function, .. } => {
            failed(&format!("`{}` cannot take this value", operator(&function)))
        }
        _ => failed("it cannot be evaluated"),
    }
}

/// What people write for what the interpreter calls `_<_`, `@in` or `add`.
fn operator(name: &str) -> &str {
    match name {
        "add" => "+",
        "sub" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        "_[_]" => "[]",
        "_._" => ".",
        "_?_:_" => "?:",
        _ => name.trim_start_matches('@').trim_matches('_'),
    }
}

#[cfg(test)]
mod tests;
