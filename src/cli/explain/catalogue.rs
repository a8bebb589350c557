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
    [STATUSES, TABLES, REPLIES, FAILURES, FINDINGS].into_iter().flatten()
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
        "The request could not be routed to any queue with a consumer; the error says which it was: \
         returned by the broker, or a queue that nobody consumes.",
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
        "A NEXUSCTL_ variable, context or project file has an impossible value, or the settings lead \
         to a vhost that there is not.",
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

/// The entry that stands for the table of failures and what becomes of them.
pub const RETRY: &str = "retry";

/// What is explained by a table of its own.
const TABLES: &[Entry] = &[entry(
    RETRY,
    "which failures are tried again",
    "Every reply code, exit status, signal and HTTP status has a class that decides about the next \
     attempt.",
    "`nexusctl explain retry` prints the table.",
)];

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
        "cli/wrong-cluster",
        "another cluster than the one that is meant",
        "The context expects a cluster by its name, or the saved plan was made for one, and this is \
         another.",
        "Check the URL and `expected_cluster_name` of the context.",
    ),
    entry(
        "dlq/plan-edited",
        "the plan was changed after it was made",
        "The checksum of the plan file does not fit what it says, so nobody can tell what was agreed to.",
        "Make the plan again with the options that are meant: `nexusctl dlq plan QUEUE … --out FILE`.",
    ),
    entry(
        "dlq/plan-stale",
        "the queue or its targets changed since the plan was made",
        "Something that the plan was made on is different now, and each difference is named. Nothing was \
         touched.",
        "Make the plan again and read it.",
    ),
    entry(
        "request/timed-out",
        "no answer in time",
        "The broker has the request, and no answer, or not all of them, came before the time was up. \
         Unless `--no-expire` was given, a request that nobody had taken by then has expired.",
        "Look whether the other side is slow or stuck (`nexusctl queue show`), or allow more with \
         `--timeout`.",
    ),
    entry(
        "request/nobody",
        "nobody to answer",
        "No queue takes such a message, or nobody consumes from the queues that do; the error says \
         which. A queue of the default exchange is looked at before anything is sent.",
        "Start whoever answers, check exchange and key with `nexusctl topology route --live`, or ask \
         all the same with `--wait`.",
    ),
    entry(
        "request/error-answer",
        "answered with an error",
        "The answer carries the header `x-nexus-error`: the other side did its part and says that it \
         failed, and why.",
        "Read the answer on standard output; `x-nexus-error-code` may name the error.",
    ),
    entry(
        "request/refused",
        "the broker refused the request",
        "The broker nacked the request, mostly because a queue is full and refuses new messages. \
         Nobody will work on it.",
        "Look at the queue with `nexusctl queue show`, and ask again later.",
    ),
    entry(
        "request/unknown",
        "the request may have been delivered or not",
        "The connection was lost, or the broker did not confirm, before an answer came. Somebody may \
         be working on the request, or have done so.",
        "Ask again with the same `--message-id` where the other side tells repeats apart, or let \
         `--retry` do that; answers by `--via queue` outlive a lost connection.",
    ),
    entry(
        "tap/impossible",
        "this cannot be tapped",
        "A tap is one more binding. Nothing can be bound to the default exchange; a direct exchange \
         wants the keys to be named; types that give a message to one binding only would lose it to \
         the tap.",
        "Do what the hint says: name a key, use `--mirror`, tap another exchange, or look into a \
         queue with `nexusctl queue peek`.",
    ),
    entry(
        "play/unfinished",
        "an earlier play is not done",
        "Beside the recording stands the journal of a run that was stopped, killed, or had messages \
         refused. Playing from the start would send again what it has sent.",
        "`--resume` goes on where it was and repeats no more than its window; `--restart` forgets it \
         and begins anew.",
    ),
    entry(
        "play/journal",
        "the journal of a play cannot be used",
        "It belongs to another recording or to a run with other options, another run holds it, or it \
         cannot be read or written.",
        "Give the options of the first run, name another journal with `--journal`, or begin anew with \
         `--restart`.",
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
        "The queue or exchange does not exist.",
        "Check the name and `--vhost`; `nexusctl topology apply` makes what a topology declares.",
    ),
    entry(
        "broker/no-such-vhost",
        "no such vhost",
        "The broker has no vhost of this name, so there is nothing to work in.",
        "Name another one with `--vhost` or in the broker URL; `nexusctl context show --effective` \
         prints where it came from.",
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
        "state/failed",
        "the state file failed",
        "Circuits, limits and sequences are in the state file, which cannot be opened or written, or \
         which others hold for too long.",
        "Follow the hint; `--timeout` waits longer, NEXUSCTL_STATE names another file.",
    ),
    entry(
        "worker/failed",
        "the work on a queue ended before it should",
        "The command cannot be run, its output cannot be written, a dead letter has nowhere to go, or a \
         message failed and --stop-on-failure was given. Whatever was not done is still in the queue.",
        "Follow the hint; `nexusctl worker … --dry-run` shows where everything would go.",
    ),
    entry(
        "broker/refused",
        "the broker refused",
        "The broker's own words are in the message.",
        "`nexusctl explain` with the reply code says more.",
    ),
];

/// Findings in files, and reasons of plans.
const FINDINGS: &[Entry] = &[
    entry(
        "document/syntax",
        "the file is no YAML or JSON",
        "The text stops making sense at the place shown.",
        "Look at indentation, quotes and brackets there.",
    ),
    entry(
        "document/api-version",
        "unknown apiVersion",
        "Every document begins with the version of its format, and this program reads nexus/v1.",
        "Write `apiVersion: nexus/v1`.",
    ),
    entry(
        "document/kind",
        "unknown or other kind",
        "The document does not say what it is, or is something else than is needed here.",
        "Write `kind: Topology`, `kind: Project` or another of the kinds that the hint lists.",
    ),
    entry(
        "document/character",
        "a character that YAML forbids",
        "Control characters cannot stand in a file as they are.",
        "Remove it, or write it as an escape in double quotes.",
    ),
    entry("document/encoding", "not UTF-8", "The file has another encoding.", "Save it as UTF-8."),
    entry(
        "document/duplicate-key",
        "a key stands there twice",
        "One of the two values would be ignored silently.",
        "Remove one of them.",
    ),
    entry("document/invalid-key", "a key that is no text", "Keys are text.", "Put it into quotes."),
    entry(
        "document/merge-key",
        "merge keys are not read",
        "`<<` merges mappings in old YAML and hides where a value comes from.",
        "Write the keys out, or use an alias for the whole value.",
    ),
    entry(
        "document/number",
        "a number that cannot be read",
        "It is too large or not finite.",
        "Write a smaller number, or put it into quotes when it is text.",
    ),
    entry(
        "document/tag",
        "a tag is not read",
        "Tags (`!name`) have no meaning here.",
        "Leave the tag off.",
    ),
    entry(
        "document/too-deep",
        "nested too deeply",
        "The file nests lists and mappings deeper than any real one.",
        "Make it flatter; a hostile file ends here.",
    ),
    entry(
        "document/too-large",
        "the file is too large",
        "It is larger, or its aliases expand to more, than any real file.",
        "Split it; a hostile file ends here.",
    ),
    entry(
        "document/unknown-alias",
        "an alias without its anchor",
        "`*name` refers to `&name`, which is not there before it.",
        "Define the anchor, or write the value out.",
    ),
    entry(
        "document/unknown-key",
        "a key nobody reads",
        "It is most often a slip; ignoring it would do something else than the file says.",
        "Follow the hint, which names the nearest known key.",
    ),
    entry("document/missing-key", "a key is missing", "The value has no default.", "Add the key."),
    entry(
        "document/wrong-type",
        "a value of another type",
        "Text stands where a number is needed, or the like.",
        "Write the type that the message names.",
    ),
    entry(
        "document/invalid-value",
        "a value that cannot be",
        "It has the right type and is none of the possible values.",
        "Write one that the message names.",
    ),
    entry(
        "expression/invalid",
        "a CEL expression that cannot be read",
        "It has a wrong syntax, uses an unknown name, or is larger than the bounds.",
        "The message says where; names that exist are listed in the hint.",
    ),
    entry(
        "json/syntax",
        "this is no JSON",
        "The line stops being JSON at the place shown.",
        "Repair the line; `--on-error skip` or `file=PATH` goes on without it.",
    ),
    entry(
        "json/number",
        "a number is beyond every double",
        "JSON allows it, but most readers refuse it or turn it into infinity.",
        "Write a smaller number, or write it as a text.",
    ),
    entry(
        "record/duplicate-key",
        "a key stands in a record twice",
        "One of the two values would be ignored silently.",
        "Remove one of them.",
    ),
    entry(
        "record/type",
        "a value of another type in a record",
        "The key of the record takes another type.",
        "Write the type that the message names.",
    ),
    entry(
        "record/unknown-key",
        "a key that records do not have",
        "It is most often a slip.",
        "Compare with a line that `consume` writes.",
    ),
    entry(
        "record/unknown-tag",
        "an unknown type tag of a header",
        "Headers carry their AMQP type as a tag such as {\"$int32\": 5}.",
        "Use a tag that the message names.",
    ),
    entry(
        "record/utf8",
        "a record that is not UTF-8",
        "NDJSON is UTF-8.",
        "Write the body as base64 (`bodyBase64`).",
    ),
    entry(
        "record/value",
        "a value that does not fit its type",
        "It is out of range for the AMQP type it says.",
        "Write a value in range, or another type.",
    ),
    entry(
        "import/unreadable",
        "no definitions file",
        "The file is not what RabbitMQ exports, or it is not clear which vhost is meant.",
        "Export it with `rabbitmqctl export_definitions FILE`; pick one of several vhosts with `--vhost`.",
    ),
    entry(
        "import/bad-object",
        "an object that cannot be read",
        "One object in the definitions lacks something or has impossible values.",
        "Repair it in the file, or on the broker, and import again.",
    ),
    entry(
        "import/not-carried",
        "a topology has no word for it",
        "Users, permissions and the like are in the definitions and not in a topology.",
        "Keep them elsewhere.",
    ),
    entry(
        "import/dangling-binding",
        "a binding of something that is not there",
        "The definitions bind an exchange or queue that they do not contain.",
        "Remove the binding, or export the whole vhost.",
    ),
    entry(
        "dead-letters/no-exchange",
        "what a queue cannot keep is gone",
        "The queue has no dead-letter exchange: messages that are rejected, expire or do not fit are \
         dropped.",
        "Write `deadLetter: true` for the queue, unless that is what you want.",
    ),
    entry(
        "dead-letters/limit-without-exchange",
        "a message that came back too often is gone",
        "The quorum queue has a delivery limit, on RabbitMQ 4 even when it sets none, and no dead-letter \
         exchange.",
        "Write `deadLetter: true` for the queue.",
    ),
    entry(
        "dead-letters/limit-on-dead-letters",
        "looking at dead letters uses them up",
        "The queue that keeps dead letters has a delivery limit and no dead-letter exchange of its own: \
         each look costs each letter one of its lives, and without any it is gone.",
        "Keep dead letters in a classic queue, or on RabbitMQ 4 set `delivery-limit: -1`.",
    ),
    entry(
        "dead-letters/at-most-once",
        "a dead letter may be lost on its way",
        "By default a broker sends dead letters without waiting for a confirm.",
        "Quorum queues can do it at least once: `deadLetterStrategy: at-least-once` with `overflow: \
         reject-publish`. Letters may then come twice.",
    ),
    entry(
        "dead-letters/drops-head",
        "the oldest dead letters are dropped",
        "The queue that keeps dead letters is bounded and drops from its head when it is full.",
        "Take the bound off, or watch the depth.",
    ),
    entry(
        "dead-letters/vanish",
        "dead letters vanish after some time",
        "The queue that keeps dead letters has a time to live, or goes away when it is unused.",
        "Take the setting off, or export the letters in time.",
    ),
    entry(
        "labels/target",
        "a label for nothing, or for too much",
        "A label names one group, or all groups for which a condition is true.",
        "Write either `group` or `when`.",
    ),
    entry(
        "labels/group",
        "no name of a group",
        "Groups of dead letters are called `g-` and ten letters and digits.",
        "Copy the name from `nexusctl dlq groups`.",
    ),
    entry(
        "labels/twice",
        "two labels for one group",
        "Which of them counts would depend on their order.",
        "Keep one of them.",
    ),
    entry(
        "labels/name",
        "a label that cannot be shown",
        "A label is one line of at most 80 characters.",
        "Shorten it; `note` takes what else there is to say.",
    ),
    entry(
        "labels/not-one-document",
        "a file of labels is not one document",
        "All labels of a file are in one document.",
        "Remove what stands after `---`.",
    ),
    entry(
        "project/name",
        "a name that cannot name a project",
        "It becomes part of names on the broker and of locks.",
        "Use letters, digits, `-`, `_`, `.`, at most 64, a letter or digit first.",
    ),
    entry(
        "project/not-one-document",
        "nexus.yaml is not one document",
        "A project has one nexus.yaml with one document.",
        "Remove what stands after `---`.",
    ),
    entry(
        "project/path-outside",
        "a file outside the project",
        "A project can be moved and shared only when its files are in it.",
        "Move the file below the directory of nexus.yaml.",
    ),
    entry(
        "project/no-document",
        "an empty file",
        "A file that is named in the project says nothing.",
        "Fill it, or remove it from nexus.yaml.",
    ),
    entry(
        "project/other-kind",
        "a document of another kind",
        "The file is listed as topology and holds something else.",
        "List it where it belongs.",
    ),
    entry(
        "project/unreadable",
        "a file of the project cannot be read",
        "It is missing, or its permissions are wrong.",
        "Correct the path in nexus.yaml, or make the file.",
    ),
    entry(
        "project/limit",
        "a rate limit that cannot be",
        "Capacity, rate, reserve or shares of a limit in nexus.yaml are out of their bounds.",
        "Capacity is 1 or more; reserve rises from high to low; shares add up to 90 at most.",
    ),
    entry(
        "project/circuit",
        "a circuit breaker that cannot be",
        "Numbers of a circuit in nexus.yaml exclude each other or are out of their bounds.",
        "threshold, probes and recovery are above 0; percentages go with a window.",
    ),
    entry(
        "project/owner-differs",
        "the topology belongs to somebody else",
        "`metadata` names another owner than the project, so objects are recorded for that owner.",
        "Fine when it is meant; else give both the same name.",
    ),
    entry(
        "project/vhost-differs",
        "two vhosts",
        "The topology is bound to another vhost than the project uses, so applying it would be refused.",
        "Name the same vhost in both, or in one of them only.",
    ),
    entry(
        "topology/conflict",
        "two statements that exclude each other",
        "Two documents or keys say different things about the same.",
        "Keep one of them.",
    ),
    entry(
        "topology/duplicate",
        "an object is declared twice",
        "The same exchange, queue, policy or binding stands in the files twice.",
        "Remove one.",
    ),
    entry(
        "topology/incomplete",
        "a key is needed or does not go with another",
        "The combination of keys does not make a whole.",
        "The message names what is missing or too much.",
    ),
    entry(
        "topology/invalid-name",
        "a name that RabbitMQ would mangle",
        "Names have 1 to 255 bytes and no line breaks.",
        "Choose another name.",
    ),
    entry(
        "topology/variable",
        "a variable without a value",
        "`${ name }` is used, and nobody says what it is.",
        "Declare it under `variables`, or give `--set NAME=VALUE`.",
    ),
    entry(
        "topology/invalid-setting",
        "a setting its policy cannot take",
        "The value has another type than the policy key needs.",
        "Write the type that the message names.",
    ),
    entry(
        "topology/argument-of-other-type",
        "an argument that queues of this type refuse",
        "RabbitMQ refuses the declaration with 406.",
        "Change the type or leave the argument off.",
    ),
    entry(
        "topology/argument-type",
        "a value of the wrong type",
        "RabbitMQ refuses it with 406, or stores it and ignores it.",
        "Write the type that the message names.",
    ),
    entry(
        "topology/argument-range",
        "a value that is not allowed",
        "RabbitMQ refuses the declaration.",
        "Write a value in the range that the message names.",
    ),
    entry(
        "topology/removed",
        "the target version no longer takes it",
        "It worked on older versions and is gone.",
        "Follow the hint, or choose another `--target`.",
    ),
    entry(
        "topology/not-yet",
        "the target version does not know it yet",
        "It begins to work on a later version.",
        "Leave it off, or choose another `--target`.",
    ),
    entry(
        "topology/unknown-argument",
        "an argument nobody knows",
        "RabbitMQ stores unknown arguments and never looks at them: most often a slip.",
        "Correct the name; the hint names the nearest.",
    ),
    entry(
        "topology/needs-another",
        "something that needs another beside it",
        "Alone it is refused or does nothing.",
        "Add what the message names.",
    ),
    entry(
        "topology/property",
        "durable, exclusive or auto-delete does not go with the type",
        "Quorum queues and streams are always durable and never exclusive.",
        "Leave it off, or use a classic queue.",
    ),
    entry(
        "topology/no-effect",
        "taken, and does nothing",
        "The broker accepts it and never acts on it.",
        "Leave it off.",
    ),
    entry(
        "topology/treacherous",
        "taken, and does something else than it says",
        "The broker accepts it with a meaning nobody expects on this version.",
        "Follow the hint.",
    ),
    entry(
        "topology/pattern",
        "a regular expression that cannot be read",
        "The pattern is wrong, or uses what cannot be judged here.",
        "Repair the pattern.",
    ),
    entry(
        "topology/reserved-name",
        "a name the broker keeps for itself",
        "Names that begin with `amq.` cannot be declared.",
        "Choose another name.",
    ),
    entry(
        "topology/naming",
        "a name against the file's own rule",
        "`naming` in the file demands another form.",
        "Rename the object, or change the rule.",
    ),
    entry(
        "topology/unknown-exchange",
        "an exchange that is not there",
        "A binding refers to it, so applying would fail with 404.",
        "Declare it, mark it `external: true`, or correct the name.",
    ),
    entry(
        "topology/unknown-queue",
        "a queue that is not there",
        "A binding refers to it, so applying would fail with 404.",
        "Declare it, mark it `external: true`, or correct the name.",
    ),
    entry(
        "topology/default-exchange-binding",
        "the default exchange cannot be bound",
        "Every queue is bound to it by its own name, and nobody can change that.",
        "Use an exchange of your own.",
    ),
    entry(
        "topology/unknown-dead-letter-exchange",
        "dead letters go to an exchange that is not there",
        "RabbitMQ drops them without a word.",
        "Declare the exchange, or use `deadLetter: true`.",
    ),
    entry(
        "topology/lost-dead-letters",
        "dead letters reach nobody",
        "The dead-letter exchange has no binding that takes them, so they vanish.",
        "Bind a queue to it.",
    ),
    entry(
        "topology/unknown-alternate-exchange",
        "an alternate exchange that is not there",
        "What no binding takes would vanish without being returned.",
        "Declare the alternate exchange.",
    ),
    entry(
        "topology/alternate-cycle",
        "alternate exchanges lead back",
        "What nobody takes goes round and is dropped.",
        "Let the last alternate lead to a queue.",
    ),
    entry(
        "topology/ttl-loop-drops",
        "messages expire round a circle and are dropped",
        "RabbitMQ drops a message that expired its way back to a queue without being rejected.",
        "Let one step of the circle be a rejection, or break it.",
    ),
    entry(
        "topology/endless-loop",
        "rejected messages go round without end",
        "Every rejection leads back, so a message that nobody can work on costs forever.",
        "Count the attempts, or end in a queue that keeps them.",
    ),
    entry(
        "topology/dead-end",
        "an exchange that hands messages to nobody",
        "It has no binding and no alternate: publishing to it returns every message.",
        "Bind a queue, or remove the exchange.",
    ),
    entry(
        "topology/unreachable-exchange",
        "an internal exchange that nothing leads to",
        "Publishers may not use it, and no exchange is bound to it.",
        "Bind another exchange to it, or do not make it internal.",
    ),
    entry(
        "topology/unbound-queue",
        "only the default exchange leads to this queue",
        "Nothing binds it; messages come only by its own name.",
        "Fine when that is meant; else bind it.",
    ),
    entry(
        "topology/journal-blind",
        "the journal does not get everything",
        "No queue can be bound to the default exchange, and a direct exchange hands on only what goes by a \
         key that is bound. So the journal has no copy of what is published straight to a queue, nor of \
         keys of a direct exchange that this topology does not bind.",
        "Publish to a topic, fanout or headers exchange what may have to be sent again.",
    ),
    entry(
        "topology/journal-takes-unrouted",
        "nothing is unroutable where the journal listens",
        "The journal is a queue like others: a message that it takes was routed. A publisher is not told \
         any more that nobody else got it, and an alternate exchange does not get it either.",
        "Name the exchanges of the journal one by one (`journal: {exchanges: [...]}`), without those whose \
         publishers count on returned messages.",
    ),
    entry(
        "topology/stream-dead-letters",
        "a stream takes no dead letters on this version",
        "Before 3.12 dead letters do not arrive in streams.",
        "Use a queue, or RabbitMQ 3.12.",
    ),
    entry(
        "topology/at-least-once",
        "at-least-once dead-lettering falls back",
        "It needs `overflow: reject-publish` and a dead-letter exchange; otherwise it silently is at-most-once.",
        "Add what the message names.",
    ),
    entry(
        "topology/max-length-zero",
        "a queue that keeps nothing",
        "With a length of zero every message is dropped or dead-lettered at once.",
        "Write a length above zero.",
    ),
    entry(
        "topology/policy-overlap",
        "policies of equal priority match the same object",
        "Which of them applies is chance and changes with restarts.",
        "Give them different priorities.",
    ),
    entry(
        "topology/policy-skipped",
        "a policy is skipped for a queue",
        "One of its keys is unknown to the queue's type, and then RabbitMQ skips the whole policy.",
        "Split the policy by queue type (`applyTo`).",
    ),
    entry(
        "topology/policy-unused",
        "a policy that matches nothing here",
        "No object of this topology has such a name.",
        "Correct the pattern, or remove the policy.",
    ),
    entry(
        "topology/unanchored-pattern",
        "a pattern that matches more than it seems to",
        "Patterns match anywhere in a name.",
        "Anchor it with `^` and `$`.",
    ),
    entry(
        "topology/dead-letters-expire",
        "dead letters expire where they were collected",
        "They are kept for somebody to look at, and a time to live removes them.",
        "Take the time to live off the collecting queue.",
    ),
    entry(
        "topology/dead-letters-overflow",
        "dead letters push each other out",
        "The collecting queue has a length limit and drops the oldest.",
        "Raise the limit, or watch its depth.",
    ),
    entry(
        "topology/delivery-limit-drops",
        "messages are dropped when they came back too often",
        "A quorum queue drops a message after its delivery limit, 20 by default on 4.x; looking costs one.",
        "Add `deadLetter: true`, or raise `deliveryLimit`.",
    ),
    entry(
        "topology/vhost-limit",
        "more queues than the vhost may hold",
        "Declaring the last of them would be refused.",
        "Raise `vhost.limits.maxQueues`, or declare fewer.",
    ),
    entry(
        "topology/transient-exchange",
        "bindings of an exchange that does not survive a restart",
        "After a restart of the broker they are gone.",
        "Make the exchange durable.",
    ),
    entry(
        "topology/expiring-queue",
        "a queue that goes away with its messages",
        "`expires` removes an unused queue with all that is in it.",
        "Leave `expires` off queues whose messages matter.",
    ),
    entry(
        "topology/many-priorities",
        "more priorities than a queue handles well",
        "Each level costs memory and time.",
        "Use fewer than ten.",
    ),
    entry(
        "topology/permission",
        "the login may not do what the topology needs",
        "The user's permission does not match the name.",
        "Ask the administrator for the permission that the message names.",
    ),
    entry(
        "topology/blocked",
        "something stands in the way of the plan",
        "At least one change cannot be made as asked; nothing was changed.",
        "Each cause has its next step; `--skip-blocked` does the rest.",
    ),
    entry(
        "dlq/map-place",
        "a rule of a map has no one place",
        "Each rule of a ReplayMap, and its `otherwise`, names either a queue by `to`, or an `exchange` \
         with or without a `key`.",
        "Name one place in each rule.",
    ),
    entry(
        "topology/stale-plan",
        "the broker changed since the plan was made",
        "An object is not what the saved plan saw, so running it could destroy what nobody has looked at.",
        "Make the plan again and read it.",
    ),
    entry(
        "plan/wrong-cluster",
        "another cluster",
        "The topology or the context is bound to a cluster, and this is another.",
        "Check the URL; change `cluster.name` when the file is meant for this one.",
    ),
    entry(
        "plan/wrong-vhost",
        "another vhost",
        "The topology is bound to a vhost, and the connection is in another.",
        "Connect with `--vhost`, or change `cluster.vhost`.",
    ),
    entry(
        "plan/foreign-owner",
        "the object belongs to another owner",
        "Another topology declared it, and changing it could break what relies on it.",
        "Change it there, or let that owner give it up.",
    ),
    entry(
        "plan/protected",
        "the object is protected",
        "`protect: true` forbids deleting and replacing it.",
        "Take `protect` off in the file when the change is meant.",
    ),
    entry(
        "plan/unsupported",
        "this version cannot do it",
        "The broker lacks the feature.",
        "Leave it off, or upgrade the broker.",
    ),
    entry(
        "plan/exclusive",
        "an exclusive queue",
        "It belongs to one connection and cannot be touched by another.",
        "End that connection, or use another name.",
    ),
    entry(
        "plan/has-messages",
        "the queue holds messages",
        "Replacing or removing it would lose them.",
        "`--migrate` keeps them; `--lose-messages` gives them up.",
    ),
    entry(
        "plan/messages-unknown",
        "nobody knows whether the queue holds messages",
        "The broker has not counted them.",
        "Run again in a moment, or use `--migrate`.",
    ),
    entry(
        "plan/has-consumers",
        "consumers are attached",
        "They would be cut off.",
        "Stop them, or add `--while-consumed`.",
    ),
    entry(
        "plan/stream",
        "a stream cannot be replaced with its messages",
        "Its records cannot be moved in order.",
        "Make a new stream under another name.",
    ),
    entry(
        "plan/operator-policy",
        "an operator policy stands against it",
        "The administrator's limit is stricter.",
        "Ask the administrator, or stay within the limit.",
    ),
    entry(
        "plan/max-deletes",
        "more removals than allowed",
        "The plan would delete more objects than `--max-deletes`.",
        "Read the plan, then raise the number.",
    ),
    entry(
        "plan/quorum-recreated",
        "a quorum queue under an old name is not safe at once",
        "For about two seconds after it is declared again it can lose confirmed messages when the broker dies.",
        "Wait a moment before publishing.",
    ),
    entry(
        "plan/migration-rewrites",
        "moved messages are published again",
        "They keep body, properties and headers, and lose what the broker counts, such as deliveries.",
        "Nothing, when consumers do not read those counts.",
    ),
    entry(
        "plan/equal-priority",
        "policies of equal priority match one object",
        "Which of them applies is chance.",
        "Give them different priorities.",
    ),
];
