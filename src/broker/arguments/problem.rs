//! One thing that is wrong with a definition.

use std::fmt;

use crate::base::diagnostic::Severity;

/// What is wrong with an argument, a property or a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Queues of this type do not know the argument, others do.
    OtherType,
    /// The value is of the wrong type, such as text for a number.
    WrongType,
    /// The value is of the right type and not allowed.
    OutOfRange,
    /// This version no longer takes it.
    Removed,
    /// This version does not know it yet.
    NotYet,
    /// No version knows it.
    Unknown,
    /// It needs another argument beside it.
    Incomplete,
    /// Durable, exclusive or auto-delete does not go with the type.
    Property,
    /// Accepted, and does nothing.
    NoEffect,
    /// Accepted, and does something else than it says.
    Treacherous,
    /// A regular expression that cannot be read.
    Pattern,
}

/// One thing that is wrong with a definition, as RabbitMQ of one version sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentProblem {
    /// The argument, property or policy key: `x-max-length`, `durable`, `pattern`.
    pub argument: String,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// Whether the broker refuses the declaration. When not, it takes it without a word.
    pub refused: bool,
    /// How bad it is. What is refused is always an error.
    pub severity: Severity,
    /// What is wrong: a lower-case sentence without a full stop.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl ArgumentProblem {
    pub(super) fn refused(argument: &str, kind: ProblemKind, message: String) -> Self {
        ArgumentProblem {
            argument: argument.to_owned(),
            kind,
            refused: true,
            severity: Severity::Error,
            message,
            hint: None,
        }
    }

    pub(super) fn taken(
        argument: &str,
        kind: ProblemKind,
        severity: Severity,
        message: String,
    ) -> Self {
        ArgumentProblem {
            argument: argument.to_owned(),
            kind,
            refused: false,
            severity,
            message,
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ArgumentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
