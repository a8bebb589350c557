//! What happens to a message's headers when it dies, and whether it may go where it is sent.
//! Pure; the rules are RabbitMQ's, by version.

use crate::broker::version::Capabilities;
use crate::message::{FieldTable, FieldValue};

use super::codec::Envelope;
use super::mark::Mark;

/// Why a message left its queue without being acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// One death.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death<'a> {
    pub(super) queue: &'a str,
    pub(super) reason: Reason,
    /// Whole seconds since 1970.
    pub(super) time_s: u64,
    /// Where dead letters go.
    pub(super) exchange: &'a str,
    /// The key they go by, when the queue names one.
    pub(super) routing_key: Option<&'a str>,
}

fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    table.get(name).and_then(FieldValue::as_text)
}

fn texts(headers: Option<&FieldTable>, name: &str) -> Vec<String> {
    match headers.and_then(|headers| headers.get(name)) {
        Some(FieldValue::Array(values)) => {
            values.iter().filter_map(FieldValue::as_text).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// How a dead message goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Burial {
    /// The keys beside the first by which it is routed.
    pub(super) copies: Vec<String>,
    /// Whether `CC` and `BCC` are no keys any more, whatever the headers say.
    pub(super) keys_spent: bool,
}

/// The keys that a death shows: 4.0 leaves out as many as `BCC` has, the first that are equal.
fn shown_keys(envelope: &Envelope, copies: &[String], leaves_out: bool) -> FieldValue {
    let mut keys: Vec<&String> = std::iter::once(&envelope.routing_key).chain(copies).collect();
    for hidden in envelope.hidden_keys.iter().filter(|_| leaves_out) {
        if let Some(index) = keys.iter().position(|key| *key == hidden) {
            keys.remove(index);
        }
    }
    FieldValue::Array(keys.into_iter().map(|key| FieldValue::from(key.as_str())).collect())
}

/// Writes the death into the envelope, which is then addressed to the dead-letter exchange. `mark`
/// says whether an `x-death` in the headers is the broker's own rather than the publisher's, and
/// whether the keys in the headers are spent.
pub(super) fn bury(
    envelope: &mut Envelope,
    death: Death<'_>,
    mark: Mark,
    capabilities: Capabilities,
) -> Burial {
    let counts_in_properties = !capabilities.honours_published_x_death;
    let cc = texts(envelope.properties.headers.as_ref(), "CC");
    let mut copies = if mark.keys_are_spent() {
        Vec::new()
    } else {
        cc.iter().chain(&envelope.hidden_keys).cloned().collect()
    };
    let shown = if counts_in_properties { &copies } else { &cc };
    let shown_keys = shown_keys(envelope, shown, counts_in_properties);
    let mut entry = FieldTable::new()
        .with("count", 1)
        .with("reason", death.reason.as_str())
        .with("queue", death.queue)
        .with("time", FieldValue::Timestamp(death.time_s))
        .with("exchange", envelope.exchange.as_str())
        .with("routing-keys", shown_keys);
    if let Some(expiration) = envelope.properties.expiration.take() {
        entry.insert("original-expiration", expiration);
    }
    let from = envelope.exchange.clone();
    let headers = envelope.properties.headers_mut();
    if counts_in_properties && !mark.has_died() {
        // What the publisher wrote there is not a history.
        for name in
            ["x-death", "x-first-death-queue", "x-first-death-reason", "x-first-death-exchange"]
        {
            headers.remove(name);
        }
    }
    let same = |value: &FieldValue| match value {
        FieldValue::Table(known) => {
            text(known, "queue") == Some(death.queue)
                && text(known, "reason") == Some(death.reason.as_str())
        }
        _ => false,
    };
    let (first, entries) = match headers.remove("x-death") {
        Some(FieldValue::Array(mut entries)) => {
            if !counts_in_properties {
                // Before 4.0 every death turns the earlier ones around.
                entries.reverse();
            }
            let (mut known, mut others): (Vec<_>, Vec<_>) = entries.into_iter().partition(same);
            if let Some(FieldValue::Table(known)) = known.first_mut() {
                let count = known.get("count").and_then(FieldValue::as_i64).unwrap_or(0);
                known.insert("count", count.saturating_add(1));
                entry = known.clone();
            }
            others.insert(0, FieldValue::Table(entry));
            (false, others)
        }
        Some(_) => (counts_in_properties, vec![FieldValue::Table(entry)]),
        None => (true, vec![FieldValue::Table(entry)]),
    };
    headers.insert("x-death", FieldValue::Array(entries));
    let mut note = |prefix: &str| {
        headers.insert(format!("{prefix}-queue"), death.queue);
        headers.insert(format!("{prefix}-reason"), death.reason.as_str());
        headers.insert(format!("{prefix}-exchange"), from.as_str());
    };
    if first {
        note("x-first-death");
    }
    if counts_in_properties {
        note("x-last-death");
    }
    envelope.exchange = death.exchange.to_owned();
    if let Some(key) = death.routing_key {
        envelope.routing_key = key.to_owned();
        copies.clear();
        if !counts_in_properties {
            envelope.hidden_keys.clear();
            envelope.properties.headers_mut().remove("CC");
        }
    }
    let keys_spent = mark.keys_are_spent() || death.routing_key.is_some();
    Burial { copies, keys_spent }
}

/// Whether a message that died without being rejected has been in `target` before and has not been
/// rejected since: it would go round for ever, and is dropped.
pub(super) fn is_cycle(headers: Option<&FieldTable>, target: &str) -> bool {
    let Some(FieldValue::Array(entries)) = headers.and_then(|headers| headers.get("x-death"))
    else {
        return false;
    };
    for entry in entries {
        let FieldValue::Table(entry) = entry else { continue };
        if text(entry, "reason") == Some("rejected") {
            return false;
        }
        if text(entry, "queue") == Some(target) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::version::Version;

    const V3: Capabilities = Capabilities::of(Version::new(3, 10, 8));
    const V4: Capabilities = Capabilities::of(Version::new(4, 0, 5));

    const NEW: Mark = Mark::from_stored(0);
    const DEAD: Mark = NEW.dead(false);

    fn death(queue: &str, reason: Reason) -> Death<'_> {
        Death { queue, reason, time_s: 7, exchange: "dlx", routing_key: None }
    }

    fn first_entry(envelope: &Envelope) -> FieldTable {
        match envelope.properties.header("x-death") {
            Some(FieldValue::Array(entries)) => match &entries[0] {
                FieldValue::Table(entry) => entry.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_death_is_written_with_the_types_of_rabbitmq() {
        let mut envelope =
            Envelope { exchange: "x".into(), routing_key: "k".into(), ..Envelope::default() };
        envelope.properties.expiration = Some("500".into());
        let copies = bury(&mut envelope, death("q", Reason::Expired), NEW, V4);
        assert_eq!(copies, Burial { copies: vec![], keys_spent: false });
        let entry = first_entry(&envelope);
        assert_eq!(entry.get("count"), Some(&FieldValue::Int64(1)));
        assert_eq!(entry.get("time"), Some(&FieldValue::Timestamp(7)));
        assert_eq!(entry.get("routing-keys"), Some(&FieldValue::Array(vec!["k".into()])));
        assert_eq!(entry.get("original-expiration"), Some(&"500".into()));
        assert_eq!(entry.get("exchange"), Some(&"x".into()));
        assert_eq!(envelope.properties.expiration, None);
        assert_eq!(envelope.exchange, "dlx");
        assert_eq!(envelope.properties.header("x-first-death-reason"), Some(&"expired".into()));
        assert_eq!(envelope.properties.header("x-last-death-queue"), Some(&"q".into()));
    }

    #[test]
    fn the_same_death_again_counts_and_comes_first() {
        for (version, last) in [(V3, false), (V4, true)] {
            let mut envelope = Envelope::default();
            bury(&mut envelope, death("q", Reason::Rejected), NEW, version);
            bury(&mut envelope, death("r", Reason::Expired), DEAD, version);
            bury(&mut envelope, death("q", Reason::Rejected), DEAD, version);
            let entry = first_entry(&envelope);
            assert_eq!(text(&entry, "queue"), Some("q"));
            assert_eq!(entry.get("count"), Some(&FieldValue::Int64(2)));
            assert_eq!(envelope.properties.header("x-first-death-queue"), Some(&"q".into()));
            assert_eq!(envelope.properties.header("x-last-death-queue").is_some(), last);
        }
    }

    #[test]
    fn before_4_every_death_turns_the_earlier_ones_around() {
        for (version, order) in [(V3, ["d", "b", "a", "c"]), (V4, ["d", "c", "b", "a"])] {
            let mut envelope = Envelope::default();
            for (queue, mark) in [("a", NEW), ("b", DEAD), ("c", DEAD), ("d", DEAD)] {
                bury(&mut envelope, death(queue, Reason::Expired), mark, version);
            }
            let Some(FieldValue::Array(entries)) = envelope.properties.header("x-death") else {
                panic!("no x-death");
            };
            let queues = entries.iter().map(|entry| match entry {
                FieldValue::Table(entry) => text(entry, "queue").unwrap(),
                other => panic!("{other:?}"),
            });
            assert_eq!(queues.collect::<Vec<_>>(), order);
        }
    }

    #[test]
    fn a_published_history_counts_before_4_and_not_after() {
        let forged = FieldValue::Array(vec![FieldValue::Table(
            FieldTable::new().with("queue", "q").with("reason", "rejected").with("count", 41),
        )]);
        for (version, count, first) in [(V3, 42, "forged"), (V4, 1, "q")] {
            let mut envelope = Envelope::default();
            envelope.properties.headers = Some(
                FieldTable::new()
                    .with("x-death", forged.clone())
                    .with("x-first-death-queue", "forged"),
            );
            bury(&mut envelope, death("q", Reason::Rejected), NEW, version);
            assert_eq!(first_entry(&envelope).get("count"), Some(&FieldValue::Int64(count)));
            assert_eq!(envelope.properties.header("x-first-death-queue"), Some(&first.into()));
        }
        for (version, first) in [(V3, None), (V4, Some(FieldValue::from("q")))] {
            let mut envelope = Envelope::default();
            envelope.properties.headers = Some(FieldTable::new().with("x-death", "garbage"));
            bury(&mut envelope, death("q", Reason::Rejected), NEW, version);
            assert_eq!(envelope.properties.header("x-first-death-queue"), first.as_ref());
        }
    }

    #[test]
    fn copies_follow_unless_the_queue_names_a_key() {
        let headers = FieldTable::new().with("CC", FieldValue::Array(vec!["c".into()]));
        for (version, kept) in [(V3, false), (V4, true)] {
            let mut envelope = Envelope { hidden_keys: vec!["b".into()], ..Envelope::default() };
            envelope.properties.headers = Some(headers.clone());
            let mut again = envelope.clone();
            assert_eq!(
                bury(&mut envelope, death("q", Reason::Rejected), NEW, version),
                Burial { copies: vec!["c".into(), "b".into()], keys_spent: false }
            );
            assert!(envelope.properties.header("CC").is_some());
            let named = Death { routing_key: Some("dead"), ..death("q", Reason::Rejected) };
            assert_eq!(
                bury(&mut again, named, NEW, version),
                Burial { copies: vec![], keys_spent: true }
            );
            assert_eq!(again.routing_key, "dead");
            assert_eq!(again.properties.header("CC").is_some(), kept);
        }
    }

    fn keys_of(entry: &FieldTable) -> Vec<&str> {
        match entry.get("routing-keys") {
            Some(FieldValue::Array(keys)) => keys.iter().filter_map(FieldValue::as_text).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn with_keys(key: &str, cc: &[&str], bcc: &[&str]) -> Envelope {
        let copies = cc.iter().map(|key| FieldValue::from(*key)).collect();
        let mut envelope = Envelope {
            routing_key: key.into(),
            hidden_keys: bcc.iter().map(|key| (*key).to_owned()).collect(),
            ..Envelope::default()
        };
        envelope.properties.headers = Some(FieldTable::new().with("CC", FieldValue::Array(copies)));
        envelope
    }

    #[test]
    fn keys_that_a_queue_has_replaced_are_spent_for_good() {
        for version in [V3, V4] {
            let mut envelope = with_keys("q0", &["c"], &["b"]);
            let named = Death { routing_key: Some("q1"), ..death("q0", Reason::Rejected) };
            let burial = bury(&mut envelope, named, NEW, version);
            assert_eq!(keys_of(&first_entry(&envelope)), ["q0", "c"]);
            let mark = NEW.dead(burial.keys_spent);
            let burial = bury(&mut envelope, death("q1", Reason::Rejected), mark, version);
            assert_eq!(burial, Burial { copies: vec![], keys_spent: true });
            assert_eq!(keys_of(&first_entry(&envelope)), ["q1"]);
        }
    }

    #[test]
    fn hidden_keys_are_taken_from_those_shown_one_for_one() {
        // As measured on 4.0.5.
        let mut envelope = with_keys("q0", &["c", "q1"], &["q0"]);
        bury(&mut envelope, death("q0", Reason::Rejected), NEW, V4);
        assert_eq!(keys_of(&first_entry(&envelope)), ["c", "q1", "q0"]);
        let mut envelope = with_keys("q0", &["c"], &["q1"]);
        let named = Death { routing_key: Some("q1"), ..death("q0", Reason::Rejected) };
        let burial = bury(&mut envelope, named, NEW, V4);
        bury(&mut envelope, death("q1", Reason::Rejected), NEW.dead(burial.keys_spent), V4);
        assert!(keys_of(&first_entry(&envelope)).is_empty());
    }

    #[test]
    fn a_cycle_needs_a_rejection_to_go_on() {
        let mut envelope = Envelope::default();
        bury(&mut envelope, death("a", Reason::Expired), NEW, V4);
        bury(&mut envelope, death("b", Reason::MaxLength), DEAD, V4);
        assert!(is_cycle(envelope.properties.headers.as_ref(), "a"));
        assert!(is_cycle(envelope.properties.headers.as_ref(), "b"));
        assert!(!is_cycle(envelope.properties.headers.as_ref(), "c"));
        bury(&mut envelope, death("c", Reason::Rejected), DEAD, V4);
        assert!(!is_cycle(envelope.properties.headers.as_ref(), "a"));
    }
}
