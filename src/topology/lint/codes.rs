//! Every rule by its code; `nexusctl explain CODE` tells more of each.

use crate::base::diagnostic::Code;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)*) => {
        $($(#[doc = $doc])+ pub const $name: Code = Code($code);)*

        /// Every rule of this file with what it finds.
        pub const RULES: &[(Code, &str)] = &[$(($name, concat!($($doc),+))),*];
    };
}

codes! {
    /// An argument that queues of this type refuse.
    ARGUMENT_OF_OTHER_TYPE = "topology/argument-of-other-type";
    /// A value of the wrong type.
    ARGUMENT_TYPE = "topology/argument-type";
    /// A value that is not allowed.
    ARGUMENT_RANGE = "topology/argument-range";
    /// Something the target version no longer takes.
    REMOVED = "topology/removed";
    /// Something the target version does not know yet.
    NOT_YET = "topology/not-yet";
    /// An argument, key or type that nobody knows; most often a slip.
    UNKNOWN = "topology/unknown-argument";
    /// Something that needs another beside it.
    NEEDS_ANOTHER = "topology/needs-another";
    /// Durable, exclusive or auto-delete does not go with the queue's type.
    PROPERTY = "topology/property";
    /// Something that is taken and does nothing.
    NO_EFFECT = "topology/no-effect";
    /// Something that is taken and does something else than it says.
    TREACHEROUS = "topology/treacherous";
    /// A regular expression that cannot be read.
    PATTERN = "topology/pattern";
    /// A name the broker keeps for itself.
    RESERVED_NAME = "topology/reserved-name";
    /// A name that the file's own rule forbids.
    NAMING = "topology/naming";
    /// A binding refers to an exchange that is not there.
    UNKNOWN_EXCHANGE = "topology/unknown-exchange";
    /// A binding refers to a queue that is not there.
    UNKNOWN_QUEUE = "topology/unknown-queue";
    /// The default exchange cannot be bound.
    DEFAULT_EXCHANGE_BINDING = "topology/default-exchange-binding";
    /// Dead letters go to an exchange that is not there: they vanish.
    UNKNOWN_DEAD_LETTER_EXCHANGE = "topology/unknown-dead-letter-exchange";
    /// Dead letters reach an exchange that hands them to nobody: they vanish.
    LOST_DEAD_LETTERS = "topology/lost-dead-letters";
    /// An alternate exchange that is not there.
    UNKNOWN_ALTERNATE = "topology/unknown-alternate-exchange";
    /// Alternate exchanges lead back to where they began.
    ALTERNATE_CYCLE = "topology/alternate-cycle";
    /// Messages expire round a circle of queues; the broker drops them when they come back.
    TTL_LOOP_DROPS = "topology/ttl-loop-drops";
    /// Rejected messages go round a circle of queues without end.
    ENDLESS_LOOP = "topology/endless-loop";
    /// An exchange that hands messages to nobody.
    DEAD_END = "topology/dead-end";
    /// An internal exchange that nothing leads to.
    UNREACHABLE_EXCHANGE = "topology/unreachable-exchange";
    /// A queue that only the default exchange leads to.
    UNBOUND_QUEUE = "topology/unbound-queue";
    /// Dead letters go to a stream, which loses them before 3.12.
    STREAM_DEAD_LETTERS = "topology/stream-dead-letters";
    /// At-least-once dead-lettering that falls back to at-most-once.
    AT_LEAST_ONCE = "topology/at-least-once";
    /// A queue that keeps nothing.
    MAX_LENGTH_ZERO = "topology/max-length-zero";
    /// Policies of equal priority match the same object: which one applies is chance.
    POLICY_OVERLAP = "topology/policy-overlap";
    /// A policy is skipped for a queue because of a key that its type does not know.
    POLICY_SKIPPED = "topology/policy-skipped";
    /// A policy that matches nothing of this topology.
    POLICY_UNUSED = "topology/policy-unused";
    /// A policy's pattern matches more names than it seems to.
    UNANCHORED_PATTERN = "topology/unanchored-pattern";
    /// Dead letters expire where they were collected.
    DEAD_LETTERS_EXPIRE = "topology/dead-letters-expire";
    /// Dead letters push each other out of the queue that collects them.
    DEAD_LETTERS_OVERFLOW = "topology/dead-letters-overflow";
    /// Messages are dropped when they came back too often.
    DELIVERY_LIMIT_DROPS = "topology/delivery-limit-drops";
    /// Messages that the journal does not get.
    JOURNAL_BLIND = "topology/journal-blind";
    /// Messages that no queue takes end in the journal, and are not returned.
    JOURNAL_TAKES_UNROUTED = "topology/journal-takes-unrouted";
    /// More queues than the vhost may hold.
    VHOST_LIMIT = "topology/vhost-limit";
    /// Bindings of an exchange that does not survive a restart.
    TRANSIENT_EXCHANGE = "topology/transient-exchange";
    /// A queue that goes away with its messages.
    EXPIRING_QUEUE = "topology/expiring-queue";
    /// More priorities than a queue handles well.
    MANY_PRIORITIES = "topology/many-priorities";
    /// The login may not do what the topology needs.
    PERMISSION = "topology/permission";
}
