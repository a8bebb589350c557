//! Why a broker did not do what was asked: what was attempted, the cause, the next step.

use std::fmt;

/// The answer of the broker that ended something: AMQP's reply code and text, or HTTP's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// AMQP reply code such as 406, or HTTP status.
    pub code: u16,
    /// The broker's own words.
    pub text: String,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// What kind of failure it was; decides the exit status and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nobody answers: name resolution, TCP, TLS or AMQP handshake.
    Unreachable,
    /// An answer did not come within the time allowed.
    TimedOut,
    /// The connection went away in the middle.
    ConnectionLost,
    /// Wrong login, or a right one that may not do this.
    AccessRefused,
    /// The object does not exist.
    NotFound,
    /// The virtual host itself does not exist: where to work was said wrongly.
    NoSuchVhost,
    /// The object exists and differs, or a condition does not hold.
    PreconditionFailed,
    /// Somebody else holds the object.
    Locked,
    /// The broker ended the consumer: its queue was deleted or moved.
    ConsumerCancelled,
    /// This broker or version cannot do it.
    Unsupported,
    /// The circuit breaker does not let the request out.
    CircuitOpen,
    /// The context is read-only.
    ReadOnly,
    /// The request itself is wrong (bad argument, message too large, bad expiration).
    Invalid,
    /// The state file failed: disk full, damaged, newer than this program.
    Storage,
    /// Anything else the broker said.
    Refused,
}

/// A failed request to a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct BrokerError {
    /// What was being done on which object: `declare queue "orders"`.
    pub attempted: String,
    /// What kind of failure.
    pub kind: ErrorKind,
    /// Why, in our words; a sentence fragment without a full stop.
    pub cause: String,
    /// The broker's own answer, when there was one.
    pub reply: Option<Reply>,
    /// What to do next.
    pub hint: Option<String>,
}

impl BrokerError {
    /// A failure of `kind` while `attempted`.
    pub fn new(
        kind: ErrorKind,
        attempted: impl Into<String>,
        cause: impl Into<String>,
    ) -> BrokerError {
        BrokerError {
            attempted: attempted.into(),
            kind,
            cause: cause.into(),
            reply: None,
            hint: None,
        }
    }

    /// With the broker's own answer.
    #[must_use]
    pub fn reply(mut self, code: u16, text: impl Into<String>) -> Self {
        self.reply = Some(Reply { code, text: text.into() });
        self
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unreachable
                | ErrorKind::TimedOut
                | ErrorKind::ConnectionLost
                | ErrorKind::CircuitOpen
                | ErrorKind::Locked
        )
    }
}

/// One line: `cannot declare queue "orders": …`; the hint is shown by the caller.
impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.attempted, self.cause)?;
        if let Some(reply) = &self.reply {
            write!(f, " ({reply})")?;
        }
        Ok(())
    }
}
