//! What a failure says about the next attempt: one table for every place failures come from.
//!
//! The table is data. [`classify`] reads it and `nexusctl explain retry` prints it, so that what is
//! done and what is told cannot differ. Rows are read from the top and the first that fits decides;
//! each source ends in a row that takes every number left, except those that are no failure at all.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the next attempt can be expected to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The same again may succeed.
    Retriable,
    /// The same again may succeed later; now it would add to the load that caused the failure.
    Throttled,
    /// The same again fails for every message, until somebody changes settings or topology.
    Permanent,
    /// This message fails again; others are not concerned.
    Poison,
    /// Somebody ended the work; nothing was judged.
    Cancelled,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 5] =
        [Class::Retriable, Class::Throttled, Class::Permanent, Class::Poison, Class::Cancelled];

    /// The name as it is written in settings and headers.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Retriable => "retriable",
            Class::Throttled => "throttled",
            Class::Permanent => "permanent",
            Class::Poison => "poison",
            Class::Cancelled => "cancelled",
        }
    }

    /// Whether a circuit breaker counts it: a poisonous message or a wrong setting says nothing about
    /// the health of the other side.
    pub const fn speaks_against_the_other_side(self) -> bool {
        matches!(self, Class::Retriable | Class::Throttled)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that did not work, as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// AMQP closed the channel or the connection with this reply code.
    Reply(u16),
    /// The message came back with this reply code.
    Returned(u16),
    /// The broker did not take the message.
    Nacked,
    /// No confirm came in time.
    Unconfirmed,
    /// The broker takes no messages for now (`connection.blocked`).
    Blocked,
    /// Nobody answered, or the connection went away.
    ConnectionLost,
    /// A circuit breaker or rate limit of this program held it back.
    HeldBack,
    /// A command ended with this status.
    Exit(u8),
    /// A command was ended by this signal.
    Signal(u8),
    /// A command did not end in time.
    HandlerTimeout,
    /// A command ended or closed its output before it answered.
    HandlerLost,
    /// An HTTP answer with this status.
    Http(u16),
}

/// Where a failure was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Reply codes of AMQP.
    Reply,
    /// Reply codes of returned messages.
    Return,
    /// What can happen to a publish or a connection besides.
    Transport,
    /// Exit statuses of commands.
    Exit,
    /// Signals that ended commands.
    Signal,
    /// What can happen to a command besides.
    Handler,
    /// HTTP statuses.
    Http,
}

impl Source {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Reply => "AMQP reply",
            Source::Return => "returned message",
            Source::Transport => "publish",
            Source::Exit => "exit status",
            Source::Signal => "signal",
            Source::Handler => "command",
            Source::Http => "HTTP status",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where such a failure is seen.
    pub source: Source,
    /// First number it stands for.
    pub first: u16,
    /// Last number it stands for, itself included.
    pub last: u16,
    /// What happened, without a full stop.
    pub event: &'static str,
    /// What the next attempt can be expected to bring.
    pub class: Class,
    /// Why, as a sentence.
    pub reason: &'static str,
}

impl Row {
    /// The numbers as people write them; empty where the event has none.
    pub fn numbers(&self) -> String {
        match (self.source, self.first, self.last) {
            (Source::Transport | Source::Handler, ..) => String::new(),
            (_, first, last) if first == last => first.to_string(),
            (_, _, u16::MAX) => "other".into(),
            (Source::Exit | Source::Signal, _, 255) => "other".into(),
            (_, first, last) => format!("{first}-{last}"),
        }
    }
}

const NACKED: u16 = 0;
const UNCONFIRMED: u16 = 1;
const BLOCKED: u16 = 2;
const CONNECTION_LOST: u16 = 3;
const HELD_BACK: u16 = 4;
const TIMEOUT: u16 = 0;
const LOST: u16 = 1;

impl Failure {
    /// Where it belongs in the table.
    const fn place(self) -> (Source, u16) {
        match self {
            Failure::Reply(code) => (Source::Reply, code),
            Failure::Returned(code) => (Source::Return, code),
            Failure::Nacked => (Source::Transport, NACKED),
            Failure::Unconfirmed => (Source::Transport, UNCONFIRMED),
            Failure::Blocked => (Source::Transport, BLOCKED),
            Failure::ConnectionLost => (Source::Transport, CONNECTION_LOST),
            Failure::HeldBack => (Source::Transport, HELD_BACK),
            Failure::Exit(status) => (Source::Exit, status as u16),
            Failure::Signal(number) => (Source::Signal, number as u16),
            Failure::HandlerTimeout => (Source::Handler, TIMEOUT),
            Failure::HandlerLost => (Source::Handler, LOST),
            Failure::Http(status) => (Source::Http, status),
        }
    }
}

/// The row that decides about `failure`; `None` when it is none: exit status 0, AMQP reply 200, HTTP
/// 200 to 299.
pub fn classify(failure: Failure) -> Option<&'static Row> {
    let (source, number) = failure.place();
    TABLE.iter().find(|row| row.source == source && (row.first..=row.last).contains(&number))
}

const fn row(
    source: Source,
    (first, last): (u16, u16),
    event: &'static str,
    class: Class,
    reason: &'static str,
) -> Row {
    Row { source, first, last, event, class, reason }
}

const fn one(number: u16) -> (u16, u16) {
    (number, number)
}

/// The whole table.
pub const TABLE: &[Row] = {
    use Class::{Cancelled, Permanent, Poison, Retriable, Throttled};
    use Source::{Exit, Handler, Http, Reply, Return, Signal, Transport};
    &[
        row(Reply, one(311), "content too large", Poison, "The message is as large the next time."),
        row(Reply, one(312), "no route", Permanent, "Only another binding or key gives it a way."),
        row(Reply, one(313), "no consumers", Retriable, "A consumer may come."),
        row(
            Reply,
            one(320),
            "connection forced",
            Retriable,
            "The broker stops or restarts, or an operator closed the connection; it comes back.",
        ),
        row(
            Reply,
            one(402),
            "invalid path",
            Permanent,
            "The vhost has to be made or named rightly.",
        ),
        row(Reply, one(403), "access refused", Permanent, "A permission has to be given."),
        row(Reply, one(404), "not found", Permanent, "The queue or exchange has to be declared."),
        row(Reply, one(405), "resource locked", Retriable, "The connection that holds it may end."),
        row(
            Reply,
            one(406),
            "precondition failed",
            Permanent,
            "What exists differs from what is asked for, and stays so until somebody changes it.",
        ),
        row(
            Reply,
            one(504),
            "channel error",
            Retriable,
            "The channel was closed under the request; a new channel serves it.",
        ),
        row(
            Reply,
            (501, 505),
            "protocol error",
            Permanent,
            "One side breaks the protocol and does so again.",
        ),
        row(
            Reply,
            one(506),
            "resource error",
            Throttled,
            "The broker lacks memory, disk or file handles; less load lets it recover.",
        ),
        row(
            Reply,
            one(530),
            "not allowed",
            Permanent,
            "A vhost, a permission or a limit forbids it.",
        ),
        row(Reply, one(540), "not implemented", Permanent, "This broker cannot do it."),
        row(Reply, one(541), "internal error", Retriable, "The broker failed, not the request."),
        row(
            Reply,
            (0, 199),
            "an unknown reply",
            Retriable,
            "The code says nothing, and the number of attempts is limited.",
        ),
        row(
            Reply,
            (201, u16::MAX),
            "an unknown reply",
            Retriable,
            "The code says nothing, and the number of attempts is limited.",
        ),
        row(Return, one(313), "no consumers", Retriable, "A consumer may come."),
        row(
            Return,
            (0, u16::MAX),
            "returned as unroutable",
            Permanent,
            "No binding takes the key; only a change of topology or key helps.",
        ),
        row(
            Transport,
            one(NACKED),
            "nacked by the broker",
            Throttled,
            "A queue is full or has lost its majority; it needs time to drain or to elect.",
        ),
        row(
            Transport,
            one(UNCONFIRMED),
            "no confirm in time",
            Retriable,
            "It may have arrived or not; with the same message id a receiver tells the second from the \
         first.",
        ),
        row(
            Transport,
            one(BLOCKED),
            "connection blocked",
            Throttled,
            "An alarm of memory or disk stops publishers until it is over.",
        ),
        row(
            Transport,
            one(CONNECTION_LOST),
            "connection lost or refused",
            Retriable,
            "The network or the broker may come back.",
        ),
        row(
            Transport,
            one(HELD_BACK),
            "held back by the circuit breaker or a rate limit",
            Throttled,
            "It was never sent; its turn comes later.",
        ),
        row(
            Exit,
            one(64),
            "wrong usage",
            Permanent,
            "The command is called wrongly for every message.",
        ),
        row(Exit, one(65), "bad data", Poison, "The command says that the message is wrong."),
        row(Exit, one(66), "no input", Permanent, "A file the command needs is not there."),
        row(Exit, one(67), "no such user", Permanent, "A name has to be corrected."),
        row(
            Exit,
            one(68),
            "no such host",
            Retriable,
            "Name resolution may have failed for a moment.",
        ),
        row(
            Exit,
            one(69),
            "service unavailable",
            Retriable,
            "What the command needs may come back.",
        ),
        row(Exit, one(70), "internal fault", Permanent, "The command has a defect."),
        row(Exit, one(71), "system fault", Retriable, "The machine lacked something for a moment."),
        row(Exit, one(72), "system file missing", Permanent, "The machine has to be repaired."),
        row(
            Exit,
            one(73),
            "cannot create output",
            Permanent,
            "A path or permission has to change.",
        ),
        row(
            Exit,
            one(74),
            "input or output failed",
            Retriable,
            "A pipe, socket or disk may recover.",
        ),
        row(Exit, one(75), "try later", Retriable, "The command asks for another attempt."),
        row(
            Exit,
            one(76),
            "protocol fault",
            Retriable,
            "The other side answered with nonsense once.",
        ),
        row(Exit, one(77), "access refused", Permanent, "A permission has to be given."),
        row(
            Exit,
            one(78),
            "bad settings",
            Permanent,
            "The settings of the command have to change.",
        ),
        row(
            Exit,
            one(124),
            "timed out by timeout(1)",
            Retriable,
            "It may be quicker the next time.",
        ),
        row(Exit, one(125), "a wrapper failed", Permanent, "The command line around it is wrong."),
        row(Exit, one(126), "not executable", Permanent, "The command has to be made executable."),
        row(
            Exit,
            one(127),
            "command not found",
            Permanent,
            "The command has to be installed or named.",
        ),
        row(Exit, one(129), "ended by SIGHUP", Cancelled, "Its terminal or session ended."),
        row(Exit, one(130), "ended by SIGINT", Cancelled, "Somebody pressed Ctrl-C."),
        row(Exit, one(143), "ended by SIGTERM", Cancelled, "Somebody asked it to end."),
        row(
            Exit,
            (1, 255),
            "any other failure",
            Retriable,
            "The status says nothing, and the number of attempts is limited.",
        ),
        row(Signal, one(1), "SIGHUP", Cancelled, "Its terminal or session ended."),
        row(Signal, one(2), "SIGINT", Cancelled, "Somebody pressed Ctrl-C."),
        row(Signal, one(15), "SIGTERM", Cancelled, "Somebody asked it to end."),
        row(
            Signal,
            one(9),
            "SIGKILL",
            Retriable,
            "Killed by a person or for want of memory; the number of attempts is limited.",
        ),
        row(
            Signal,
            (0, 255),
            "any other signal",
            Retriable,
            "The command crashed; whether this message did it, the next attempts show.",
        ),
        row(
            Handler,
            one(TIMEOUT),
            "not done in time",
            Retriable,
            "It may be quicker the next time; the number of attempts is limited.",
        ),
        row(
            Handler,
            one(LOST),
            "ended without an answer",
            Retriable,
            "A new process may answer; the number of attempts is limited.",
        ),
        row(Http, (0, 199), "no final status", Permanent, "This is no answer of a working server."),
        row(Http, (300, 399), "a redirection", Permanent, "The address has to be corrected."),
        row(
            Http,
            one(400),
            "bad request",
            Poison,
            "The server cannot read what this message became.",
        ),
        row(Http, one(408), "request timeout", Retriable, "The server waited in vain once."),
        row(Http, one(409), "conflict", Retriable, "Another change was quicker; it may be over."),
        row(Http, one(413), "content too large", Poison, "The message is as large the next time."),
        row(
            Http,
            one(415),
            "wrong media type",
            Poison,
            "The message is of the same type next time.",
        ),
        row(
            Http,
            one(421),
            "misdirected",
            Retriable,
            "A new connection may lead to the right server.",
        ),
        row(
            Http,
            one(422),
            "content refused",
            Poison,
            "The server read the message and refuses it.",
        ),
        row(Http, one(423), "locked", Retriable, "Who holds it may let go."),
        row(Http, one(425), "too early", Retriable, "The server asks for it again."),
        row(Http, one(429), "too many requests", Throttled, "The server asks to be asked less."),
        row(Http, one(499), "closed by the client", Cancelled, "The asking side went away."),
        row(
            Http,
            (400, 499),
            "any other refusal",
            Permanent,
            "The request or a permission is wrong.",
        ),
        row(Http, one(501), "not implemented", Permanent, "This server cannot do it."),
        row(
            Http,
            one(503),
            "unavailable",
            Throttled,
            "The server is overloaded or in maintenance.",
        ),
        row(Http, one(505), "HTTP version", Permanent, "This server speaks another version."),
        row(Http, one(507), "insufficient storage", Throttled, "The server needs room first."),
        row(Http, one(511), "network login needed", Permanent, "Somebody has to log in first."),
        row(
            Http,
            (500, 599),
            "any other server fault",
            Retriable,
            "The server failed, not the request.",
        ),
        row(
            Http,
            (600, u16::MAX),
            "no HTTP status",
            Permanent,
            "This is no answer of a working server.",
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::Class::{Cancelled, Permanent, Poison, Retriable, Throttled};
    use super::*;

    fn class(failure: Failure) -> Option<Class> {
        classify(failure).map(|row| row.class)
    }

    #[test]
    fn every_number_of_every_source_has_a_class_unless_it_is_a_success() {
        for number in 0..=u16::MAX {
            assert_eq!(class(Failure::Reply(number)).is_none(), number == 200, "reply {number}");
            let success = (200..300).contains(&number);
            assert_eq!(class(Failure::Http(number)).is_none(), success, "HTTP {number}");
            assert!(class(Failure::Returned(number)).is_some(), "returned {number}");
        }
        for number in 0..=u8::MAX {
            assert_eq!(class(Failure::Exit(number)).is_none(), number == 0, "exit {number}");
            assert!(class(Failure::Signal(number)).is_some(), "signal {number}");
        }
        for failure in [
            Failure::Nacked,
            Failure::Unconfirmed,
            Failure::Blocked,
            Failure::ConnectionLost,
            Failure::HeldBack,
            Failure::HandlerTimeout,
            Failure::HandlerLost,
        ] {
            assert!(class(failure).is_some(), "{failure:?}");
        }
    }

    #[test]
    fn no_row_is_hidden_by_the_rows_above_it() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(row.first <= row.last, "{row:?}");
            let reached = (row.first..=row.last).any(|number| {
                TABLE[..index].iter().all(|above| {
                    above.source != row.source || !(above.first..=above.last).contains(&number)
                })
            });
            assert!(reached, "never reached: {row:?}");
        }
    }

    #[test]
    fn every_row_gives_its_reason_as_a_sentence() {
        for row in TABLE {
            assert!(row.reason.ends_with('.') && !row.event.ends_with('.'), "{row:?}");
        }
    }

    #[test]
    fn well_known_failures_are_where_people_expect_them() {
        for (failure, expected) in [
            (Failure::Reply(320), Retriable),
            (Failure::Reply(404), Permanent),
            (Failure::Reply(501), Permanent),
            (Failure::Reply(504), Retriable),
            (Failure::Returned(312), Permanent),
            (Failure::Nacked, Throttled),
            (Failure::Exit(1), Retriable),
            (Failure::Exit(65), Poison),
            (Failure::Exit(75), Retriable),
            (Failure::Exit(127), Permanent),
            (Failure::Exit(139), Retriable),
            (Failure::Exit(143), Cancelled),
            (Failure::Signal(11), Retriable),
            (Failure::Signal(15), Cancelled),
            (Failure::Http(422), Poison),
            (Failure::Http(429), Throttled),
            (Failure::Http(418), Permanent),
            (Failure::Http(502), Retriable),
        ] {
            assert_eq!(class(failure), Some(expected), "{failure:?}");
        }
    }

    #[test]
    fn a_single_row_is_shown_by_its_number_and_the_last_as_other() {
        let shown = |failure| classify(failure).map(Row::numbers);
        assert_eq!(shown(Failure::Reply(404)).as_deref(), Some("404"));
        assert_eq!(shown(Failure::Http(418)).as_deref(), Some("400-499"));
        assert_eq!(shown(Failure::Exit(3)).as_deref(), Some("other"));
        assert_eq!(shown(Failure::Nacked).as_deref(), Some(""));
    }
}
