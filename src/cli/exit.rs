//! The statuses that `nexusctl` ends with. Scripts depend on them: they are an interface.

use std::process::{ExitCode, Termination};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done; where there is a verdict, it is yes.
    Done = 0,
    /// The operation failed.
    Failed = 1,
    /// Done, and the verdict is no: changes pending, invalid, denied, unhealthy, empty.
    Negative = 2,
    /// Partly done; the report says which items were not.
    Partly = 3,
    /// Consent is missing; nothing was changed.
    Blocked = 4,
    /// A published message was returned as unroutable, or nacked.
    NotAccepted = 5,
    /// Whether a published message arrived is unknown: no confirm in time, or the connection was lost.
    OutcomeUnknown = 6,
    /// A request got no answer in time.
    RequestTimedOut = 7,
    /// A request found nobody who could answer.
    NoResponder = 8,
    /// A request was answered with an error.
    AnsweredWithError = 9,
    /// A saga failed and was compensated.
    SagaCompensated = 10,
    /// A saga is stuck; a person is needed.
    SagaStuck = 11,
    /// The command line is wrong.
    Usage = 64,
    /// A file that was read is wrong.
    BadInput = 65,
    /// The broker or the store cannot be reached.
    Unavailable = 69,
    /// A fault inside this program.
    Internal = 70,
    /// Not now: circuit open, rate limited or locked. Trying later can help.
    TryLater = 75,
    /// Login refused, or a permission is missing.
    AccessRefused = 77,
    /// Settings are wrong: environment, context or project file, or they lead to a vhost that there is
    /// not.
    BadSettings = 78,
    /// Stopped cleanly by SIGINT.
    Interrupted = 130,
    /// Stopped cleanly by SIGTERM.
    Terminated = 143,
}

impl ExitStatus {
    /// Every status, in the order of its number.
    pub const ALL: [ExitStatus; 21] = [
        ExitStatus::Done,
        ExitStatus::Failed,
        ExitStatus::Negative,
        ExitStatus::Partly,
        ExitStatus::Blocked,
        ExitStatus::NotAccepted,
        ExitStatus::OutcomeUnknown,
        ExitStatus::RequestTimedOut,
        ExitStatus::NoResponder,
        ExitStatus::AnsweredWithError,
        ExitStatus::SagaCompensated,
        ExitStatus::SagaStuck,
        ExitStatus::Usage,
        ExitStatus::BadInput,
        ExitStatus::Unavailable,
        ExitStatus::Internal,
        ExitStatus::TryLater,
        ExitStatus::AccessRefused,
        ExitStatus::BadSettings,
        ExitStatus::Interrupted,
        ExitStatus::Terminated,
    ];

    /// The number that the shell sees.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        ExitCode::from(self.number())
    }
}
