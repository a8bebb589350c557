//! Queues that lose what they hold.

use crate::base::diagnostic::Diagnostic;
use crate::broker::definition::QueueType;
use crate::broker::effective::{DeadLetterStrategy, Overflow, Source};
use crate::topology::expand::{LOOKS_WITHOUT_LOSS, queue_object};
use crate::topology::model::Desired;

use super::codes::{
    AT_LEAST_ONCE, DEAD_LETTERS_EXPIRE, DEAD_LETTERS_OVERFLOW, DELIVERY_LIMIT_DROPS,
    EXPIRING_QUEUE, MANY_PRIORITIES, MAX_LENGTH_ZERO,
};
use super::{Lint, at, quoted};

impl Lint<'_> {
    pub(super) fn queues(&mut self) {
        for queue in &self.topology.queues {
            let name = queue.definition.name.as_str();
            let Some(view) = self.queue(name) else { continue };
            let effective = view.effective.clone();
            let object = queue_object(name);
            let say = |lint: &mut Self, setting: &str, finding: Diagnostic| {
                let place = lint.topology.places.get(&object, setting);
                lint.push(at(&queue.origin, place, finding));
            };
            if effective.max_length() == Some(0) || effective.max_length_bytes() == Some(0) {
                say(
                    self,
                    "x-max-length",
                    Diagnostic::warning(
                        MAX_LENGTH_ZERO,
                        format!("{object} keeps nothing: its maximum length is 0"),
                    ),
                );
            }
            if effective.setting("dead-letter-strategy").and_then(|s| s.value.as_text())
                == Some("at-least-once")
                && effective.dead_letter_strategy() == DeadLetterStrategy::AtMostOnce
            {
                let needs = if effective.dead_letter_exchange().is_none() {
                    "a dead-letter exchange"
                } else {
                    "`overflow: reject-publish`"
                };
                say(
                    self,
                    "x-dead-letter-strategy",
                    Diagnostic::warning(
                        AT_LEAST_ONCE,
                        format!(
                            "{object}: at-least-once needs {needs}; without it the broker silently falls back to at-most-once"
                        ),
                    ),
                );
            }
            let collects = self.collects.get(name).cloned().unwrap_or_default();
            if !collects.is_empty() && effective.dead_letter_exchange().is_none() {
                let from = quoted(collects.iter().map(String::as_str));
                if effective.message_ttl_ms().is_some() {
                    say(
                        self,
                        "x-message-ttl",
                        Diagnostic::warning(
                            DEAD_LETTERS_EXPIRE,
                            format!(
                                "{object} collects the dead letters of {from} and lets them expire"
                            ),
                        )
                        .hint("take the time to live away, or somebody will look for them in vain"),
                    );
                }
                let bounded =
                    effective.max_length().is_some() || effective.max_length_bytes().is_some();
                if bounded && effective.overflow() == Overflow::DropHead {
                    say(
                        self,
                        "x-max-length",
                        Diagnostic::warning(
                            DEAD_LETTERS_OVERFLOW,
                            format!("{object} collects the dead letters of {from} and drops the oldest when it is full"),
                        )
                        .hint("holding its messages to look at them loses them when others arrive"),
                    );
                }
            }
            self.delivery_limit(name, &object, queue, &collects, &effective);
            if effective.expires_ms().is_some() && queue.definition.durable {
                say(
                    self,
                    "x-expires",
                    Diagnostic::note(
                        EXPIRING_QUEUE,
                        format!(
                            "{object} goes away with its messages when nobody uses it; they are not dead-lettered"
                        ),
                    ),
                );
            }
            if effective.max_priority().is_some_and(|max| max > 10) {
                say(
                    self,
                    "x-max-priority",
                    Diagnostic::note(
                        MANY_PRIORITIES,
                        format!(
                            "{object}: each priority is a queue of its own inside; up to 10 is wise"
                        ),
                    ),
                );
            }
        }
    }

    fn delivery_limit(
        &mut self,
        name: &str,
        object: &str,
        queue: &Desired<crate::broker::definition::QueueDefinition>,
        collects: &[String],
        effective: &crate::broker::effective::EffectiveQueue,
    ) {
        let Some(limit) = effective.delivery_limit() else { return };
        if effective.queue_type != QueueType::Quorum || effective.dead_letter_exchange().is_some() {
            return;
        }
        if i64::from(limit) >= LOOKS_WITHOUT_LOSS {
            return;
        }
        let said =
            effective.setting("delivery-limit").is_some_and(|s| s.source != Source::BrokerDefault);
        let finding = if !said && !collects.is_empty() {
            Diagnostic::note(
                DELIVERY_LIMIT_DROPS,
                format!("{object} collects dead letters and drops each after {limit} returns: looking at them without acknowledging costs one"),
            )
            .hint(format!("`deliveryLimit: {LOOKS_WITHOUT_LOSS}` keeps them on every version; -1 would lose them before 4.0"))
        } else if said {
            Diagnostic::warning(
                DELIVERY_LIMIT_DROPS,
                format!(
                    "{object} has no dead-letter exchange: a message is gone after {limit} returns"
                ),
            )
            .hint("add `deadLetter: true`")
        } else {
            Diagnostic::note(
                DELIVERY_LIMIT_DROPS,
                format!("{object} has no dead-letter exchange: a message is gone after {limit} returns, the broker's default"),
            )
            .hint("add `deadLetter: true`")
        };
        let place = self.topology.places.get(&queue_object(name), "x-delivery-limit");
        self.push(at(&queue.origin, place, finding));
    }
}
