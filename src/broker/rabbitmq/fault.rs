//! What the broker says when it refuses, in our words: the kind, the cause, the next step.
//!
//! RabbitMQ's texts are matched by the few words that have stayed the same over its versions; a text
//! that is not known is handed on as it is.

use lapin::{Error, ErrorKind as LapinKind};

use crate::broker::error::{BrokerError, ErrorKind};

/// A failed request as the client library tells it.
pub(super) fn fault(attempted: impl Into<String>, error: &Error) -> BrokerError {
    let attempted = attempted.into();
    match error.kind() {
        LapinKind::ProtocolError(reply) => {
            refusal(attempted, reply.get_id(), reply.get_message().as_str())
        }
        LapinKind::IOError(io) => {
            lost(attempted, format!("the connection to the broker was lost: {io}"))
        }
        LapinKind::MissingHeartbeatError => {
            lost(attempted, "the broker has sent no heartbeat for too long".to_owned())
        }
        LapinKind::InvalidChannelState(..)
        | LapinKind::InvalidConnectionState(_)
        | LapinKind::InvalidChannel(_)
        | LapinKind::RuntimeShutdownError(_) => {
            lost(attempted, "the connection to the broker is closed".to_owned())
        }
        LapinKind::ChannelsLimitReached => {
            BrokerError::new(ErrorKind::Refused, attempted, "the connection has no channel left")
        }
        _ => BrokerError::new(ErrorKind::Refused, attempted, error.to_string()),
    }
}

fn lost(attempted: String, cause: String) -> BrokerError {
    BrokerError::new(ErrorKind::ConnectionLost, attempted, cause)
}

/// The reply code and text that ended something, when the broker gave one.
pub(super) fn reply_of(error: &Error) -> Option<(u16, &str)> {
    match error.kind() {
        LapinKind::ProtocolError(reply) => Some((reply.get_id(), reply.get_message().as_str())),
        _ => None,
    }
}

/// A refusal with its AMQP reply code.
pub(super) fn refusal(attempted: impl Into<String>, code: u16, text: &str) -> BrokerError {
    let (kind, cause, hint) = explain(code, text);
    let error = BrokerError::new(kind, attempted, cause).reply(code, text);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The text in quotes after `before`: `no queue 'q' in` → `q`.
pub(super) fn quoted_after<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    let rest = rest.strip_prefix('\'')?;
    Some(&rest[..rest.find('\'')?])
}

type Explained = (ErrorKind, String, Option<String>);

fn explain(code: u16, text: &str) -> Explained {
    let said = text.split_once(" - ").map_or(text, |(_, said)| said);
    let plain = |kind, hint: Option<&str>| (kind, said.to_owned(), hint.map(str::to_owned));
    match code {
        320 => (
            ErrorKind::ConnectionLost,
            format!("the broker closed the connection: {said}"),
            Some("it is shutting down, or an operator closed the connection".to_owned()),
        ),
        402 | 530 => not_allowed(said),
        403 => access(said),
        404 => not_found(said),
        405 => (
            ErrorKind::Locked,
            match quoted_after(said, "locked queue ") {
                Some(queue) => format!("queue `{queue}` belongs to another connection"),
                None => said.to_owned(),
            },
            None,
        ),
        406 => precondition(said),
        503 if said.contains("unknown exchange type") => unknown_exchange_type(said),
        540 => (
            ErrorKind::Unsupported,
            said.to_owned(),
            Some("this kind of queue cannot do it; see `topology explain queue`".to_owned()),
        ),
        541 => plain(
            ErrorKind::Refused,
            Some("the queue may have no leader just now: try again, then look at the broker's log"),
        ),
        _ => plain(ErrorKind::Refused, None),
    }
}

fn not_allowed(said: &str) -> Explained {
    if said.starts_with("vhost ") && said.ends_with("not found") {
        let vhost = &said["vhost ".len()..said.len() - "not found".len()];
        return (
            ErrorKind::NoSuchVhost,
            format!("the vhost `{}` does not exist", vhost.trim().trim_matches('\'')),
            Some("check its name, or ask an administrator to make it".to_owned()),
        );
    }
    if said.contains("refused for user") {
        return access(said);
    }
    if said.contains("limit") {
        return (
            ErrorKind::Refused,
            said.to_owned(),
            Some("a limit of the vhost, the login or the node is reached".to_owned()),
        );
    }
    (ErrorKind::Refused, said.to_owned(), None)
}

fn access(said: &str) -> Explained {
    if said.contains("in exclusive use") {
        let cause = match quoted_after(said, "queue ") {
            Some(queue) => format!("queue `{queue}` has an exclusive consumer"),
            None => said.to_owned(),
        };
        return (ErrorKind::Locked, cause, Some("only one consumer may attach to it".to_owned()));
    }
    if said.contains("reserved prefix") || said.contains("operation not permitted on the default") {
        return (
            ErrorKind::Invalid,
            said.to_owned(),
            Some(
                "names beginning with `amq.` and the default exchange are the broker's own".into(),
            ),
        );
    }
    if said.contains("internal exchange") {
        return (
            ErrorKind::AccessRefused,
            said.to_owned(),
            Some("an internal exchange takes messages from other exchanges only".to_owned()),
        );
    }
    if said.contains("Login was refused") || said.contains("login refused") {
        return (
            ErrorKind::AccessRefused,
            "the broker refused the login".to_owned(),
            Some(
                "check user name and password; `guest` may log in from the broker's own machine \
                 only, unless it is told otherwise"
                    .to_owned(),
            ),
        );
    }
    let needs = ["configure", "write", "read"].into_iter().find(|needs| {
        // Newer versions say which permission is missing.
        said.contains(&format!("{needs} access")) || said.contains(&format!("{needs} permission"))
    });
    let hint = match needs {
        Some(needs) => format!("the login needs the `{needs}` permission on it"),
        None if said.contains("vhost") && !said.contains(" in vhost") => {
            "the login has no permissions in this vhost; an administrator grants them".to_owned()
        }
        None => "the login lacks a permission: configure to declare, write to publish, read to \
                 consume"
            .to_owned(),
    };
    (ErrorKind::AccessRefused, said.to_owned(), Some(hint))
}

fn not_found(said: &str) -> Explained {
    for what in ["queue", "exchange"] {
        if let Some(name) = quoted_after(said, &format!("no {what} ")) {
            let vhost = quoted_after(said, "in vhost ").unwrap_or("?");
            return (
                ErrorKind::NotFound,
                format!("{what} `{name}` does not exist in vhost `{vhost}`"),
                Some(format!("declare the {what} first, or check its name and the vhost")),
            );
        }
    }
    (ErrorKind::NotFound, said.to_owned(), None)
}

fn precondition(said: &str) -> Explained {
    if let Some(argument) = quoted_after(said, "inequivalent arg ") {
        return (ErrorKind::PreconditionFailed, inequivalent(said, argument), Some(
            "an existing object is never changed by declaring it: `topology plan` shows what it \
             takes"
                .to_owned(),
        ));
    }
    if said.contains("unknown exchange type") {
        return unknown_exchange_type(said);
    }
    if said.contains("larger than") && said.contains("message size") {
        return (
            ErrorKind::Invalid,
            said.to_owned(),
            Some("the broker's `max_message_size` decides; send a reference instead".to_owned()),
        );
    }
    if said.contains("limit in") || said.contains("limit") && said.contains("is reached") {
        return (
            ErrorKind::Refused,
            said.to_owned(),
            Some("raise the vhost's limit, or delete what is not needed".to_owned()),
        );
    }
    if said.contains("in use") || said.contains("not empty") {
        return (ErrorKind::PreconditionFailed, said.to_owned(), None);
    }
    if said.contains("unknown delivery tag") {
        return (
            ErrorKind::PreconditionFailed,
            said.to_owned(),
            Some("the delivery was settled before".to_owned()),
        );
    }
    if said.contains("invalid ")
        || said.contains("unacceptable_type")
        || said.contains("routing_key_but_no_dlx")
        || said.contains("user_id")
    {
        return (ErrorKind::Invalid, said.to_owned(), None);
    }
    if said.contains("timeout") && said.contains("delivery acknowledgement") {
        return (
            ErrorKind::Refused,
            said.to_owned(),
            Some("a delivery was held longer than the broker's `consumer_timeout`".to_owned()),
        );
    }
    (ErrorKind::PreconditionFailed, said.to_owned(), None)
}

fn unknown_exchange_type(said: &str) -> Explained {
    (
        ErrorKind::Unsupported,
        said.to_owned(),
        Some("the plugin that brings this exchange type is not enabled on the broker".to_owned()),
    )
}

/// `argument `x-max-length` differs: ours is 5, the broker's is 6`
fn inequivalent(said: &str, argument: &str) -> String {
    let object = ["queue", "exchange"]
        .into_iter()
        .find_map(|what| {
            Some(format!(" of {what} `{}`", quoted_after(said, &format!("for {what} "))?))
        })
        .unwrap_or_default();
    let side = |word: &str| {
        let rest = &said[said.rfind(word)? + word.len()..];
        let rest = rest.trim_start().trim_start_matches("is ").trim_start_matches("the value ");
        if rest.starts_with("none") {
            return Some("not set".to_owned());
        }
        let rest = rest.strip_prefix('\'')?;
        Some(rest[..rest.find('\'')?].to_owned())
    };
    let noun = if argument.starts_with("x-") || argument == "alternate-exchange" {
        "argument"
    } else {
        "property"
    };
    match (side("received"), side("but current")) {
        (Some(ours), Some(theirs)) => {
            format!("{noun} `{argument}`{object} differs: ours is {ours}, the broker's is {theirs}")
        }
        _ => format!("{noun} `{argument}`{object} differs: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_words_become_kind_and_cause() {
        use ErrorKind::*;
        let cases: &[(u16, &str, ErrorKind, &str)] = &[
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost 'v': \
                 received none but current is the value '100' of type 'signedint'",
                PreconditionFailed,
                "argument `x-max-length` of queue `q` differs: ours is not set, the broker's is 100",
            ),
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost 'v': \
                 received the value '10' of type 'signedint' but current is none",
                PreconditionFailed,
                "argument `x-max-length` of queue `q` differs: ours is 10, the broker's is not set",
            ),
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'e' in vhost 'v': \
                 received 'false' but current is 'true'",
                PreconditionFailed,
                "property `durable` of exchange `e` differs: ours is false, the broker's is true",
            ),
            (
                404,
                "NOT_FOUND - no queue 'q' in vhost 'v'",
                NotFound,
                "queue `q` does not exist in vhost `v`",
            ),
            (
                404,
                "NOT_FOUND - no exchange 'x' in vhost '/'",
                NotFound,
                "exchange `x` does not exist in vhost `/`",
            ),
            (530, "NOT_ALLOWED - vhost v not found", NoSuchVhost, "the vhost `v` does not exist"),
            (
                530,
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u'",
                AccessRefused,
                "access to vhost 'v' refused for user 'u'",
            ),
            (
                403,
                "ACCESS_REFUSED - queue 'q' in vhost 'v' in exclusive use",
                Locked,
                "queue `q` has an exclusive consumer",
            ),
            (
                403,
                "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
                Invalid,
                "queue name 'amq.x' contains reserved prefix 'amq.*'",
            ),
            (
                405,
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost 'v'. It could be",
                Locked,
                "queue `q` belongs to another connection",
            ),
            (
                503,
                "COMMAND_INVALID - unknown exchange type 'nonsense'",
                Unsupported,
                "unknown exchange type 'nonsense'",
            ),
            (
                406,
                "PRECONDITION_FAILED - unknown exchange type 'nonsense'",
                Unsupported,
                "unknown exchange type 'nonsense'",
            ),
            (
                540,
                "NOT_IMPLEMENTED - queue.purge not supported by stream queues",
                Unsupported,
                "queue.purge not supported by stream queues",
            ),
            (
                320,
                "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
                ConnectionLost,
                "the broker closed the connection: broker forced connection closure with reason 'shutdown'",
            ),
            (999, "no words of this kind", Refused, "no words of this kind"),
        ];
        for (code, text, kind, cause) in cases {
            let error = refusal("do it", *code, text);
            assert_eq!((error.kind, error.cause.as_str()), (*kind, *cause), "{text}");
            assert_eq!(error.reply.map(|reply| reply.text).as_deref(), Some(*text));
        }
    }

    #[test]
    fn no_text_breaks_the_reading() {
        for text in ["", " - ", "vhost not found", "inequivalent arg '", "no queue 'q", "ü - 'é"]
        {
            for code in [320, 402, 403, 404, 405, 406, 503, 530, 540, 541, 0] {
                let _ = refusal("do it", code, text).to_string();
            }
        }
    }
}
