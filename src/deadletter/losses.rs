//! Where a topology loses dead letters, and what surprises on this broker's version. Pure.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Code, Diagnostic, Findings};
use crate::base::id::QueueName;
use crate::broker::definition::{ExchangeKind, QueueType};
use crate::broker::effective::{DeadLetterStrategy, Overflow};
use crate::broker::version::Version;
use crate::delivery::peek::MANY_LIVES;
use crate::topology::lint::{
    ENDLESS_LOOP, LOST_DEAD_LETTERS, STREAM_DEAD_LETTERS, TTL_LOOP_DROPS,
    UNKNOWN_DEAD_LETTER_EXCHANGE, validate,
};
use crate::topology::model::Topology;
use crate::topology::view::{TopologyView, ViewQueue};

use super::places::{Purpose, places, ways};

/// A queue drops what it cannot keep.
pub const NO_EXCHANGE: Code = Code("dead-letters/no-exchange");
/// A queue drops what came back too often.
pub const LIMIT_WITHOUT_EXCHANGE: Code = Code("dead-letters/limit-without-exchange");
/// Dead letters are dropped when they are looked at too often.
pub const LIMIT_ON_DEAD_LETTERS: Code = Code("dead-letters/limit-on-dead-letters");
/// Dead letters may be lost on their way.
pub const AT_MOST_ONCE: Code = Code("dead-letters/at-most-once");
/// The oldest dead letters are dropped for new ones.
pub const DROPS_HEAD: Code = Code("dead-letters/drops-head");
/// Dead letters vanish after some time.
pub const VANISH: Code = Code("dead-letters/vanish");

/// Every place where `topology` loses dead letters on RabbitMQ `version`. `whole` says that nothing
/// exists beside it, as when it was read from a broker.
pub fn losses(topology: &Topology, version: Version, whole: bool) -> Findings {
    const OF_LINT: [Code; 5] = [
        UNKNOWN_DEAD_LETTER_EXCHANGE,
        LOST_DEAD_LETTERS,
        STREAM_DEAD_LETTERS,
        TTL_LOOP_DROPS,
        ENDLESS_LOOP,
    ];
    let mut findings = Findings::default();
    let known = validate(topology, version);
    findings.0.extend(known.0.into_iter().filter(|finding| OF_LINT.contains(&finding.code)));
    let view = TopologyView::of_topology(topology, version);
    let places = places(&view);
    let gathers: BTreeMap<&str, Purpose> =
        places.iter().map(|place| (place.queue.as_str(), place.purpose)).collect();
    let ways = ways(&view);
    for (name, queue) in view.queues.iter().filter(|(_, queue)| !queue.external) {
        let targets = ways.get(name.as_str()).map(Vec::as_slice);
        if let (true, Some([])) = (whole, targets) {
            no_way(name, queue, &view, &mut findings);
        }
        if queue.queue_type == QueueType::Stream {
            continue;
        }
        if gathers.get(name.as_str()) == Some(&Purpose::DeadLetters) {
            resting_place(name, queue, &mut findings);
        } else {
            source(name, queue, targets, &mut findings);
        }
    }
    findings
}

/// The dead letters of a queue arrive nowhere, by an exchange that the rules for files leave alone
/// because somebody else may bind to it.
fn no_way(name: &str, queue: &ViewQueue, view: &TopologyView, findings: &mut Findings) {
    let Some(exchange) = queue.effective.dead_letter_exchange() else { return };
    let Some(known) = view.exchanges.get(exchange).filter(|known| known.external) else { return };
    let by_key = matches!(
        known.definition.kind,
        ExchangeKind::Direct | ExchangeKind::Fanout | ExchangeKind::Topic
    );
    let alternate = known.effective.alternate().is_some();
    let bound = view.bindings.iter().any(|binding| binding.source.as_str() == exchange);
    let key = queue.effective.dead_letter_routing_key();
    if !by_key && (bound || alternate) {
        return;
    }
    let certain = key.is_some() || !bound && !alternate;
    let by = key.map(|key| format!(" by the key `{key}`")).unwrap_or_default();
    let message = format!(
        "queue `{name}`: no queue takes its dead letters from exchange `{exchange}`{by}: they vanish"
    );
    let finding = if certain {
        Diagnostic::error(LOST_DEAD_LETTERS, message)
    } else {
        Diagnostic::warning(LOST_DEAD_LETTERS, format!("{message} unless their own key is bound"))
    };
    findings.push(finding.hint("bind a queue to it by that key, or write `deadLetter: true`"));
}

fn source(name: &str, queue: &ViewQueue, targets: Option<&[QueueName]>, findings: &mut Findings) {
    let effective = &queue.effective;
    match (targets, effective.delivery_limit()) {
        (None, Some(limit)) if queue.queue_type == QueueType::Quorum => findings.push(
            Diagnostic::warning(
                LIMIT_WITHOUT_EXCHANGE,
                format!(
                    "queue `{name}` drops a message that came back {limit} times, and has no dead-letter \
                     exchange: it is gone"
                ),
            )
            .hint("write `deadLetter: true` for it, or set a dead-letter exchange by policy"),
        ),
        (None, _) => findings.push(
            Diagnostic::note(
                NO_EXCHANGE,
                format!(
                    "queue `{name}` has no dead-letter exchange: what is rejected, expires or does not \
                     fit is gone"
                ),
            )
            .hint("write `deadLetter: true` for it, or set a dead-letter exchange by policy"),
        ),
        (Some(_), _) => {}
    }
    let certain = effective.dead_letter_strategy() == DeadLetterStrategy::AtLeastOnce;
    if targets.is_some() && queue.queue_type == QueueType::Quorum && !certain {
        findings.push(
            Diagnostic::note(
                AT_MOST_ONCE,
                format!(
                    "queue `{name}` dead-letters at most once: a letter may be lost when a node stops \
                     on its way"
                ),
            )
            .hint(
                "dead-letter-strategy: at-least-once, which needs overflow: reject-publish and may double \
                 letters",
            ),
        );
    }
}

fn resting_place(name: &str, queue: &ViewQueue, findings: &mut Findings) {
    let effective = &queue.effective;
    let goes_on = effective.dead_letter_exchange().is_some();
    if let (false, Some(limit)) = (goes_on, effective.delivery_limit())
        && u64::from(limit) < MANY_LIVES
    {
        findings.push(
            Diagnostic::warning(
                LIMIT_ON_DEAD_LETTERS,
                format!(
                    "`{name}` keeps dead letters and has a delivery limit of {limit}: after {limit} returns, \
                     looks included, a letter is gone"
                ),
            )
            .hint(
                "make it a classic queue, or on RabbitMQ 4 set `delivery-limit: -1`; `dlq scan` counts \
                 what it costs and refuses in time",
            ),
        );
    }
    let bounded = effective.max_length().is_some() || effective.max_length_bytes().is_some();
    if bounded && effective.overflow() == Overflow::DropHead && !goes_on {
        findings.push(
            Diagnostic::warning(
                DROPS_HEAD,
                format!(
                    "`{name}` keeps dead letters and drops the oldest when it is full, silently"
                ),
            )
            .hint("take the bound off, or let it be watched: `dlq list` shows its depth"),
        );
    }
    let time = [
        ("message-ttl", effective.message_ttl_ms().filter(|_| !goes_on)),
        ("expires", effective.expires_ms()),
    ];
    for (setting, ms) in time {
        if let Some(ms) = ms {
            findings.push(
                Diagnostic::warning(
                    VANISH,
                    format!(
                        "`{name}` keeps dead letters, and {setting} of {ms} ms makes them vanish"
                    ),
                )
                .hint("take the setting off, or export the letters in time"),
            );
        }
    }
}

/// How a statement about a version is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// Measured on 3.10.8 or 4.0.5.
    Measured,
    /// Read in RabbitMQ's documentation.
    Documented,
    /// Nobody has looked.
    Unknown,
}

/// A trap, as it is on one version.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trap {
    /// What may surprise.
    pub trap: &'static str,
    /// How it is on this version.
    pub here: &'static str,
    /// How that is known.
    pub known: Known,
}

type Cell = (&'static str, Known);

const fn measured(text: &'static str) -> Cell {
    (text, Known::Measured)
}

const fn documented(text: &'static str) -> Cell {
    (text, Known::Documented)
}

const NOT_KNOWN: Cell = ("not known", Known::Unknown);

/// On 3.10 and before, 3.11 to 3.13, 4.0 to 4.2, and 4.3 on.
const TRAPS: [(&str, [Cell; 4]); 12] = [
    (
        "delivery limit of a quorum queue that sets none",
        [measured("none"), documented("none"), measured("20"), documented("20, of failures only")],
    ),
    (
        "a look that ends by closing the channel costs a life of a quorum queue's message",
        [measured("yes"), documented("yes"), measured("yes"), documented("yes")],
    ),
    (
        "nack with requeue costs a life",
        [
            measured("yes, where a limit is set"),
            documented("yes, where a limit is set"),
            measured("yes"),
            documented("no"),
        ],
    ),
    (
        "order after the channel of one consumer is closed",
        [measured("kept"), NOT_KNOWN, measured("kept"), NOT_KNOWN],
    ),
    (
        "order after nack with requeue on a quorum queue",
        [
            measured("to the tail; with a limit to the front, scrambled"),
            documented("with a limit to the front"),
            measured("to the front; without a limit to the tail"),
            documented("to the front"),
        ],
    ),
    (
        "basic.get and requeue on a quorum queue",
        [measured("scrambles the order"), NOT_KNOWN, measured("scrambles the order"), NOT_KNOWN],
    ),
    (
        "x-death in a message that is published again",
        [
            measured("is believed, and counts on"),
            documented("is believed, and counts on"),
            measured("is not believed: counts from 1"),
            documented("is not believed"),
        ],
    ),
    (
        "x-last-death headers",
        [measured("absent"), NOT_KNOWN, measured("present"), documented("present")],
    ),
    (
        "dead letters to a stream, at most once",
        [measured("lost"), NOT_KNOWN, measured("arrive"), NOT_KNOWN],
    ),
    (
        "prefetch 0 on a quorum queue",
        [measured("means 2000"), NOT_KNOWN, measured("means 2000"), NOT_KNOWN],
    ),
    (
        "a consumer that holds a message for 30 minutes",
        [
            documented("is cut off"),
            documented("is cut off"),
            documented("is cut off"),
            documented("of a quorum queue gives it back and keeps its life"),
        ],
    ),
    (
        "an exclusive consumer of a quorum queue",
        [
            measured("is not alone"),
            documented("is not alone"),
            measured("is not alone"),
            documented("is not alone"),
        ],
    ),
];

/// What may surprise whoever handles dead letters on this version.
pub fn traps(version: Version) -> Vec<Trap> {
    let column = match (version.major, version.minor) {
        (..=3, ..=10) => 0,
        (..=3, _) => 1,
        (4, ..=2) => 2,
        _ => 3,
    };
    TRAPS
        .iter()
        .map(|(trap, cells)| Trap { trap, here: cells[column].0, known: cells[column].1 })
        .collect()
}
