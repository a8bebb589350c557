//! The one place that decides what a failure means to the person: its status, its words, its advice.

use std::fmt::Write as _;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::{Diagnostic, Findings};
use crate::broker::{BrokerError, ErrorKind, LockError, Reply};

use super::exit::ExitStatus;
use super::output::{Page, Style, View};

/// A failure as it is shown. In a box, because every result carries room for it.
#[derive(Clone, Debug)]
pub struct CliError(Box<Failure>);

impl Deref for CliError {
    type Target = Failure;
    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl DerefMut for CliError {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.0
    }
}

/// What there is to say about a failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// A stable name such as `broker/unreachable`; `nexusctl explain CODE` knows each.
    pub code: &'static str,
    /// What the run ends with.
    pub status: ExitStatus,
    /// What was attempted and why it failed: a sentence without a full stop.
    pub message: String,
    /// What lies behind it, outermost first.
    pub causes: Vec<String>,
    /// The object it is about, when there is one.
    pub object: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// The broker's own answer.
    pub reply: Option<Reply>,
    /// All findings, when a file is wrong.
    pub findings: Findings,
    /// The run ends with the status, and everything has been said already.
    pub silent: bool,
}

/// Names of the failures that are no findings in a file.
pub mod code {
    /// The command line is wrong.
    pub const USAGE: &str = "cli/usage";
    /// Settings are wrong.
    pub const SETTINGS: &str = "cli/settings";
    /// A file could not be read or written.
    pub const FILE: &str = "cli/file";
    /// A file that was read is wrong.
    pub const INPUT: &str = "cli/input";
    /// Consent is missing.
    pub const CONSENT: &str = "cli/consent";
    /// Stdout did not take the output.
    pub const OUTPUT: &str = "cli/output";
    /// Stopped by a signal.
    pub const STOPPED: &str = "cli/stopped";
    /// A fault inside this program.
    pub const INTERNAL: &str = "cli/internal";
    /// The operation failed.
    pub const FAILED: &str = "cli/failed";
    /// There is no such thing to explain, show or use.
    pub const UNKNOWN_NAME: &str = "cli/unknown-name";
    /// Something stands in the way of a plan; nothing was changed.
    pub const BLOCKED: &str = "topology/blocked";
    /// The broker is not what it was when the plan was made.
    pub const STALE: &str = "topology/stale-plan";
    /// A plan of dead letters was changed after it was made.
    pub const PLAN_EDITED: &str = "dlq/plan-edited";
    /// The queue or its targets are not what they were when the plan was made.
    pub const PLAN_STALE: &str = "dlq/plan-stale";
    /// This is another cluster than the one that is meant.
    pub const WRONG_CLUSTER: &str = "cli/wrong-cluster";
    /// The work on a queue ended before it should.
    pub const WORKER: &str = "worker/failed";
    /// The state file failed.
    pub const STATE: &str = "state/failed";
    /// No answer came in time.
    pub const REQUEST_TIMED_OUT: &str = "request/timed-out";
    /// Nobody can answer.
    pub const REQUEST_NOBODY: &str = "request/nobody";
    /// The answer is an error.
    pub const REQUEST_ERROR: &str = "request/error-answer";
    /// The broker refused the request.
    pub const REQUEST_REFUSED: &str = "request/refused";
    /// The request may have been delivered or not.
    pub const REQUEST_UNKNOWN: &str = "request/unknown";
    /// This cannot be tapped.
    pub const TAP_IMPOSSIBLE: &str = "tap/impossible";
    /// An earlier run of the same play is not done.
    pub const PLAY_UNFINISHED: &str = "play/unfinished";
    /// The journal of a play cannot be used.
    pub const PLAY_JOURNAL: &str = "play/journal";
    /// Somebody else holds the lock.
    pub const LOCKED: &str = "broker/locked";
}

impl CliError {
    /// A failure without advice yet.
    pub fn new(code: &'static str, status: ExitStatus, message: impl Into<String>) -> Self {
        CliError(Box::new(Failure {
            code,
            status,
            message: message.into(),
            causes: Vec::new(),
            object: None,
            hint: None,
            reply: None,
            findings: Findings::default(),
            silent: false,
        }))
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(code::USAGE, ExitStatus::Usage, message)
    }

    /// Environment, context or project are wrong.
    pub fn settings(message: impl Into<String>) -> Self {
        Self::new(code::SETTINGS, ExitStatus::BadSettings, message)
    }

    /// Something that was to be read is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(code::INPUT, ExitStatus::BadInput, message)
    }

    /// Consent is missing.
    pub fn consent(message: impl Into<String>) -> Self {
        Self::new(code::CONSENT, ExitStatus::Blocked, message)
    }

    /// The operation failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(code::FAILED, ExitStatus::Failed, message)
    }

    /// A file operation failed: `attempted` is like `read topology.yaml`.
    pub fn file(attempted: impl std::fmt::Display, error: &io::Error) -> Self {
        let status = match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::InvalidData
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => ExitStatus::BadInput,
            _ => ExitStatus::Failed,
        };
        Self::new(code::FILE, status, format!("cannot {attempted}: {error}"))
    }

    /// An output file could not be made or written.
    pub fn unwritable(path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot write {}: {error}", path.display());
        let failure = Self::new(code::FILE, ExitStatus::Failed, message);
        match (error.kind(), path.parent()) {
            (io::ErrorKind::NotFound, Some(dir)) if !dir.as_os_str().is_empty() => {
                failure.hint(format!("there is no directory {}", dir.display()))
            }
            _ => failure,
        }
    }

    /// Stdout did not take the output. A closed pipe is a graceful end.
    pub fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::quietly(ExitStatus::Done)
        } else {
            Self::new(
                code::OUTPUT,
                ExitStatus::Failed,
                format!("cannot write to standard output: {error}"),
            )
        }
    }

    /// Ends the run with `status`; everything has been said already.
    pub fn quietly(status: ExitStatus) -> Self {
        let mut error = Self::new(code::FAILED, status, "");
        error.silent = true;
        error
    }

    /// A file was read and is wrong: all findings.
    pub fn findings(message: impl Into<String>, findings: Findings) -> Self {
        let mut error = Self::input(message);
        error.findings = findings;
        error
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the object it is about.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// With what lies behind it.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// With another status.
    #[must_use]
    pub fn with_status(mut self, status: ExitStatus) -> Self {
        self.status = status;
        self
    }

    /// The text for people, without a line break at the end.
    pub fn text(&self, style: Style) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let _ = writeln!(text, "{finding}\n");
        }
        let _ = write!(text, "{} {}", style.bad("error:"), self.message);
        for cause in &self.causes {
            let _ = write!(text, "\n  caused by: {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n\n{} {hint}", style.strong("hint:"));
        }
        text
    }

    /// The document for programs.
    pub fn view(&self) -> ErrorView {
        ErrorView {
            code: self.code.to_owned(),
            status: self.status.number(),
            message: self.message.clone(),
            causes: self.causes.clone(),
            object: self.object.clone(),
            hint: self.hint.clone(),
            broker_reply: self
                .reply
                .as_ref()
                .map(|reply| ReplyView { code: reply.code, text: reply.text.clone() }),
            findings: self.findings.iter().map(FindingView::from).collect(),
        }
    }
}

/// A failure, as a document on stderr.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorView {
    /// Stable name of the failure; `nexusctl explain CODE` knows it.
    code: String,
    /// The exit status.
    status: u8,
    /// What was attempted and why it failed.
    message: String,
    /// What lies behind it, outermost first.
    causes: Vec<String>,
    /// The object it is about.
    object: Option<String>,
    /// What to do next.
    hint: Option<String>,
    /// The broker's own answer.
    broker_reply: Option<ReplyView>,
    /// All findings, when a file is wrong.
    findings: Vec<FindingView>,
}

/// AMQP's reply code and text, or HTTP's.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ReplyView {
    code: u16,
    text: String,
}

/// One finding in a file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    /// Stable name of the rule; `nexusctl explain CODE` knows it.
    pub code: String,
    /// `error`, `warning` or `note`.
    pub severity: String,
    /// What is wrong, on which object.
    pub message: String,
    /// The file.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// What to do next.
    pub hint: Option<String>,
}

impl From<&Diagnostic> for FindingView {
    fn from(finding: &Diagnostic) -> Self {
        let span = finding.span.as_ref();
        FindingView {
            code: finding.code.to_string(),
            severity: finding.severity.to_string(),
            message: finding.message.clone(),
            file: span.map(|span| span.source.name.clone()),
            line: span.map(|span| span.line),
            column: span.map(|span| span.column),
            hint: finding.hint.clone(),
        }
    }
}

impl View for ErrorView {
    const KIND: &'static str = "Error";
    fn text(&self, page: &mut Page) {
        page.line(format!("error: {}", self.message));
    }
}

/// Name, status and advice of each kind of broker failure.
const fn of_kind(kind: ErrorKind) -> (&'static str, ExitStatus, Option<&'static str>) {
    use ExitStatus as S;
    match kind {
        ErrorKind::Unreachable => (
            "broker/unreachable",
            S::Unavailable,
            Some("check the address with `nexusctl context validate --connect`"),
        ),
        ErrorKind::TimedOut => (
            "broker/timed-out",
            S::Unavailable,
            Some("the broker may be overloaded or stopped; allow more with `--timeout`"),
        ),
        ErrorKind::ConnectionLost => ("broker/connection-lost", S::Unavailable, None),
        ErrorKind::AccessRefused => ("broker/access-refused", S::AccessRefused, None),
        ErrorKind::NotFound => ("broker/not-found", S::Failed, None),
        ErrorKind::NoSuchVhost => (
            "broker/no-such-vhost",
            S::BadSettings,
            Some("name another one with `--vhost`, or in the broker URL"),
        ),
        ErrorKind::PreconditionFailed => ("broker/precondition-failed", S::Failed, None),
        ErrorKind::Locked => (code::LOCKED, S::TryLater, None),
        ErrorKind::ConsumerCancelled => ("broker/consumer-cancelled", S::Failed, None),
        ErrorKind::Unsupported => ("broker/unsupported", S::Failed, None),
        ErrorKind::CircuitOpen => (
            "broker/circuit-open",
            S::TryLater,
            Some("the broker failed several times in a row; try again in a while"),
        ),
        ErrorKind::ReadOnly => (
            "broker/read-only",
            S::AccessRefused,
            Some("the context or `--read-only` forbids every change; use another context"),
        ),
        ErrorKind::Invalid => ("broker/invalid", S::Failed, None),
        ErrorKind::Storage => ("broker/storage", S::Unavailable, None),
        ErrorKind::Refused => ("broker/refused", S::Failed, None),
    }
}

impl From<&BrokerError> for CliError {
    fn from(error: &BrokerError) -> Self {
        let BrokerError { attempted, kind, cause, reply, hint } = error;
        let (code, status, advice) = of_kind(*kind);
        let mut error = CliError::new(code, status, format!("cannot {attempted}: {cause}"));
        error.causes = reply
            .iter()
            .map(|reply| format!("the broker says: {}", words_of(reply, *kind, cause)))
            .collect();
        error.object = object_of(attempted);
        error.hint = hint.clone().or_else(|| advice.map(str::to_owned));
        error.reply.clone_from(reply);
        error
    }
}

/// The broker's answer without what the cause has said already; `brokerReply` has all of it.
fn words_of(reply: &Reply, kind: ErrorKind, cause: &str) -> String {
    match reply.text.split_once(" - ") {
        Some((name, said)) if said == cause || kind == ErrorKind::NotFound => {
            format!("{} {name}", reply.code)
        }
        None if reply.text == cause => format!("status {}", reply.code),
        _ => reply.to_string(),
    }
}

impl From<BrokerError> for CliError {
    fn from(error: BrokerError) -> Self {
        CliError::from(&error)
    }
}

impl From<LockError> for CliError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Broker(error) => error.into(),
            held @ LockError::Held { .. } => {
                CliError::new(code::LOCKED, ExitStatus::TryLater, held.to_string())
                    .hint("wait for it to finish, or allow longer with `--lock-timeout`")
            }
        }
    }
}

/// The first name between backticks or quotes: `declare queue "orders"` is about `orders`.
fn object_of(attempted: &str) -> Option<String> {
    let quote = attempted.find(['`', '"'])?;
    let mark = attempted[quote..].chars().next()?;
    let rest = &attempted[quote + 1..];
    Some(rest[..rest.find(mark)?].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_error_says_what_was_attempted_why_and_what_next() {
        let error = CliError::from(
            BrokerError::new(ErrorKind::AccessRefused, "declare queue `orders`", "no permission")
                .reply(403, "ACCESS_REFUSED - configure access")
                .hint("ask for configure on `orders`"),
        );
        assert_eq!(
            error.text(Style::default()),
            "error: cannot declare queue `orders`: no permission\n  \
             caused by: the broker says: 403 ACCESS_REFUSED - configure access\n\n\
             hint: ask for configure on `orders`"
        );
        assert_eq!(error.status, ExitStatus::AccessRefused);
        let view = serde_json::to_value(error.view()).unwrap();
        assert_eq!(view["object"], "orders");
        assert_eq!(view["brokerReply"]["code"], 403);
    }

    #[test]
    fn a_closed_pipe_is_a_graceful_end_and_a_full_disk_is_not() {
        let closed = CliError::stdout(&io::ErrorKind::BrokenPipe.into());
        assert!(closed.silent && closed.status == ExitStatus::Done);
        let full = CliError::stdout(&io::ErrorKind::StorageFull.into());
        assert!(!full.silent && full.status == ExitStatus::Failed);
    }
}
