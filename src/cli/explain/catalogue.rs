//! Every code and what to say about it. A test finds codes that are missing here.

/// What is known about one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number or name.
    pub code: &'static str,
    /// In a few words, without a full stop.
    pub title: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub action: &'static str,
}

/// Every entry: exit statuses, AMQP reply codes, then names.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    [STATUSES, REPLIES, FAILURES, FINDINGS].into_iter().flatten()
}

const fn entry(
    code: &'static str,
    title: &'static str,
    meaning: &'static str,
    action: &'static str,
) -> Entry {
    Entry { code, title, meaning, action }
}

/// What the process ends with.
const STATUSES: &[Entry] = &[
    entry(
        "0",
        "done",
        "Everything that was asked for is done; where there is a verdict, it is yes.",
        "Nothing.",
    ),
    entry(
        "1",
        "the operation failed",
        "The broker or the machine refused, and it is none of the cases with a status of its own.",
        "Read the error on stderr: it names the object, the cause and the next step.",
    ),
    entry(
        "2",
        "done, and the verdict is no",
        "The command did its work and the answer is negative: changes are pending \
         (`plan --exit-code`, `diff`), a file is invalid, fewer messages came than expected.",
        "In a script, tell it from 1: nothing is broken.",
    ),
    entry(
        "3",
        "partly done",
        "Some items succeeded and some failed; the report says which.",
        "Repair what the report names and run the same command again; what is done is not repeated.",
    ),
    entry(
        "4",
        "blocked: consent is missing",
        "The work would destroy something, or the context is protected, and nobody agreed. \
         Nothing was changed.",
        "Read what would be lost, then add `--yes`, or `--confirm CONTEXT` for a protected context.",
    ),
    entry(
        "5",
        "publish not accepted",
        "The broker returned a message because no queue takes it, or nacked it because a queue is \
         full. The summary lists the ids.",
        "`nexusctl topology route EXCHANGE KEY --live` shows where such a message would go.",
    ),
    entry(
        "6",
        "publish outcome unknown",
        "No confirm came in time, or the connection was lost while messages were in flight. They may \
         have arrived or not.",
        "Publish the listed ids again where the receiver tells duplicates apart by message id.",
    ),
    entry(
        "7",
        "request timed out",
        "The request was delivered and nobody answered in time.",
        "Look whether the responder is slow or stuck, or allow it longer.",
    ),
    entry(
        "8",
        "nobody to answer",
        "The request could not be routed to any queue with a consumer.",
        "Start the responder, or check the exchange and key.",
    ),
    entry(
        "9",
        "answered with an error",
        "The responder answered, and its answer says that it failed.",
        "Read the answer on stdout; the fault is on the responder's side.",
    ),
    entry(
        "10",
        "saga compensated",
        "A step failed for good, and every step before it was undone.",
        "The report names the failed step and why it failed.",
    ),
    entry(
        "11",
        "saga stuck",
        "A step failed and its compensation failed too: it can go neither forward nor back.",
        "A person has to look at the step that the report names, then resume the saga.",
    ),
    entry(
        "64",
        "wrong usage",
        "The command line has an unknown option, a missing or an impossible value.",
        "Add `--help` to the command: it shows its options and examples.",
    ),
    entry(
        "65",
        "bad input",
        "A file or a line of input is wrong; every finding names its line.",
        "Repair the file; `nexusctl check` finds everything at once.",
    ),
    entry(
        "69",
        "broker or store unreachable",
        "Nobody answered, the connection was lost, or the state file cannot be used.",
        "`nexusctl context validate --connect` tells which step of connecting fails.",
    ),
    entry(
        "70",
        "internal fault",
        "This program has a defect; it stopped rather than guess.",
        "Please report the message on stderr. Running with `-vv` adds what led there.",
    ),
    entry(
        "75",
        "try later",
        "Somebody holds the lock, the circuit breaker is open, or a rate limit is reached.",
        "Run the same command again in a while.",
    ),
    entry(
        "77",
        "access refused",
        "The login is wrong, the user may not do this, or the context is read-only.",
        "The error names the permission; `nexusctl context show --effective` names the login.",
    ),
    entry(
        "78",
        "bad settings",
        "A flag, NEXUSCTL_ variable, context or project file has an impossible value.",
        "`nexusctl context show --effective` prints each value with where it came from.",
    ),
    entry(
        "130",
        "stopped by SIGINT",
        "Ctrl-C ended the run after what was half done had been finished.",
        "Run the command again: it goes on where it stopped.",
    ),
    entry(
        "143",
        "stopped by SIGTERM",
        "The process was asked to end and did so after finishing what was half done.",
        "Run the command again: it goes on where it stopped.",
    ),
];

/// What AMQP 0-9-1 and RabbitMQ answer with.
const REPLIES: &[Entry] = &[
    entry(
        "200",
        "AMQP reply success",
        "The connection or channel was closed in good order.",
        "Nothing.",
    ),
    entry(
        "311",
        "AMQP content too large",
        "The message is larger than the broker allows: 128 MiB by default on 3.x, 16 MiB on 4.x.",
        "Send a reference to the data instead, or raise `max_message_size` on the broker.",
    ),
    entry(
        "312",
        "AMQP no route",
        "The exchange has no binding that takes this routing key, so the message came back.",
        "`nexusctl topology route EXCHANGE KEY --live` shows the bindings and why none fits.",
    ),
    entry(
        "313",
        "AMQP no consumers",
        "A message was published as immediate and nobody consumes. RabbitMQ does not support it.",
        "Publish without `immediate`.",
    ),
    entry(
        "320",
        "AMQP connection forced",
        "An operator closed the connection, or the broker is shutting down.",
        "Connect again once the broker is up; in-flight publishes are of unknown outcome.",
    ),
    entry(
        "402",
        "AMQP invalid path",
        "The virtual host in the connection does not exist.",
        "Check the vhost: a URL that ends in `/` means the vhost with the empty name.",
    ),
    entry(
        "403",
        "AMQP access refused",
        "The login is wrong, or lacks configure, write or read permission for this name. Names that \
         begin with `amq.` are reserved.",
        "`nexusctl topology validate --live` names each permission a topology needs.",
    ),
    entry(
        "404",
        "AMQP not found",
        "The queue, exchange or vhost does not exist. The channel is closed by it.",
        "Check the name and the vhost; `nexusctl topology plan` shows what is missing.",
    ),
    entry(
        "405",
        "AMQP resource locked",
        "The queue is exclusive to another connection.",
        "Use another queue, or end the connection that holds it.",
    ),
    entry(
        "406",
        "AMQP precondition failed",
        "The object exists with other properties, is not empty or in use, or an argument is \
         invalid for its type. Also: a delivery was not acked within the consumer timeout.",
        "`nexusctl topology plan` shows per field what differs and how it can be changed.",
    ),
    entry(
        "501",
        "AMQP frame error",
        "The peer sent a malformed frame.",
        "Check that the port speaks AMQP without TLS, or with it.",
    ),
    entry("502", "AMQP syntax error", "A field of a frame cannot be read.", "Please report it."),
    entry("503", "AMQP command invalid", "A method came in the wrong state.", "Please report it."),
    entry(
        "504",
        "AMQP channel error",
        "A frame came for a channel that is not open.",
        "Run again; please report it when it stays.",
    ),
    entry("505", "AMQP unexpected frame", "A content frame came out of turn.", "Please report it."),
    entry(
        "506",
        "AMQP resource error",
        "The broker lacks a resource, such as file handles or disk space.",
        "Look at the broker's alarms: memory, disk, file descriptors.",
    ),
    entry(
        "530",
        "AMQP not allowed",
        "The vhost does not exist, the user has no access to it, or a limit of connections is reached.",
        "Check the vhost in the URL: `amqp://host/` is the vhost with the empty name, \
         `amqp://host` or `amqp://host/%2f` is `/`.",
    ),
    entry(
        "540",
        "AMQP not implemented",
        "The broker cannot do this for this type of object. It closes the whole connection.",
        "Check whether the queue type supports the operation: quorum queues and streams lack some.",
    ),
    entry("541", "AMQP internal error", "The broker failed inside.", "Look into the broker's log."),
];

/// Failures of a run that are not about a place in a file.
const FAILURES: &[Entry] = &[
    entry(
        "cli/usage",
        "wrong usage",
        "The command line has an unknown option, a missing or an impossible value.",
        "Add `--help` to the command.",
    ),
    entry(
        "cli/settings",
        "bad settings",
        "A variable, a context or the project file has an impossible value.",
        "`nexusctl context show --effective` prints each value with where it came from.",
    ),
    entry(
        "cli/file",
        "a file could not be read or written",
        "The operating system refused; its words are in the message.",
        "Check the path, its permissions and the space on its disk.",
    ),
    entry(
        "cli/input",
        "bad input",
        "A file or a line of input is wrong.",
        "Repair what the findings name.",
    ),
    entry(
        "cli/consent",
        "consent is missing",
        "The work would destroy something or the context is protected, and nobody agreed.",
        "Add `--yes`, or `--confirm CONTEXT` for a protected context.",
    ),
    entry(
        "cli/output",
        "standard output did not take the output",
        "The disk behind it is full, or it failed otherwise. Nothing after the failure was acked.",
        "Free space and run again.",
    ),
    entry(
        "cli/stopped",
        "stopped by a signal",
        "A second signal ended the run at once; what was in flight may have arrived or not.",
        "Run the command again: unsettled deliveries are back in their queue.",
    ),
    entry(
        "cli/internal",
        "internal fault",
        "This program has a defect, or the machine denies it the basics.",
        "Please report the message on stderr.",
    ),
    entry(
        "cli/failed",
        "the operation failed",
        "The message names the object and the cause.",
        "Follow the hint below the message.",
    ),
    entry(
        "cli/unknown-name",
        "no such name",
        "There is no context, object or code of this name.",
        "The hint names the nearest one, or how to list all.",
    ),
    entry(
        "broker/locked",
        "somebody else holds the lock",
        "Another run is changing the same vhost, or an exclusive queue belongs to another connection.",
        "Wait for it; the message names the holder where the broker tells. A dead holder's lock goes \
         away with its connection.",
    ),
    entry(
        "broker/unreachable",
        "nobody answers",
        "Resolving the name, TCP, TLS or the AMQP handshake failed; the message names the step.",
        "Check host and port: AMQP is 5672, with TLS 5671; 15672 is the management API.",
    ),
    entry(
        "broker/timed-out",
        "no answer in time",
        "The broker did not answer within `--timeout`. What was asked may still happen.",
        "Look whether the broker is paused by an alarm, or allow longer.",
    ),
    entry(
        "broker/connection-lost",
        "the connection was lost",
        "The connection ended in the middle. Publishes in flight are of unknown outcome; unsettled \
         deliveries are back in their queue.",
        "Run the command again.",
    ),
    entry(
        "broker/access-refused",
        "access refused",
        "The login is wrong, or lacks a permission for this object.",
        "Check user and password; ask the administrator for the permission that the message names.",
    ),
    entry(
        "broker/not-found",
        "no such object",
        "The queue, exchange or vhost does not exist.",
        "Check the name and `--vhost`.",
    ),
    entry(
        "broker/precondition-failed",
        "the object differs or is in use",
        "An object of that name exists with other properties, or a condition such as if-empty does \
         not hold.",
        "`nexusctl topology plan` shows per field what differs.",
    ),
    entry(
        "broker/consumer-cancelled",
        "the broker ended the consumer",
        "The queue was deleted, or its leader moved away, while it was consumed.",
        "Check that the queue exists and run again.",
    ),
    entry(
        "broker/unsupported",
        "this broker cannot do it",
        "The version, the queue type or the embedded broker lacks it, or the management API is not \
         reachable.",
        "The message says what is lacking; set `--management-url` when that is it.",
    ),
    entry(
        "broker/circuit-open",
        "the circuit breaker is open",
        "The broker failed several times in a row, so requests are held back to let it recover.",
        "Run again in a while.",
    ),
    entry(
        "broker/read-only",
        "the context is read-only",
        "A context or `--read-only` forbids every change, and this would have been one.",
        "Use another context, or set `read_only: false` in it.",
    ),
    entry(
        "broker/invalid",
        "the request is wrong",
        "An argument is impossible, or the message is too large.",
        "Repair what the message names.",
    ),
    entry(
        "broker/storage",
        "the state file failed",
        "The disk is full, or the file is damaged or written by a newer program.",
        "Free space, or use a newer nexusctl; the file itself is left as it is.",
    ),
    entry(
        "broker/refused",
        "the broker refused",
        "The broker's own words are in the message.",
        "`nexusctl explain` with the reply code says more.",
    ),
];

/// Findings in files.
const FINDINGS: &[Entry] = &[];
