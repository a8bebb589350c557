//! Where dead letters go: nowhere, in circles, or where they are lost.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::diagnostic::{Diagnostic, Span};
use crate::base::id::exchange_in_words;
use crate::base::suggest::nearest;
use crate::broker::definition::{ExchangeKind, QueueType};
use crate::broker::effective::{DeadLetterStrategy, Source};
use crate::broker::version::Capabilities;
use crate::topology::expand::queue_object;
use crate::topology::model::Desired;

use super::codes::{
    ENDLESS_LOOP, LOST_DEAD_LETTERS, STREAM_DEAD_LETTERS, TTL_LOOP_DROPS,
    UNKNOWN_DEAD_LETTER_EXCHANGE,
};
use super::{Lint, at, quoted};

impl Lint<'_> {
    pub(super) fn dead_letter_places(&mut self) {
        let topology = self.topology;
        for queue in &topology.queues {
            let name = queue.definition.name.as_str();
            let object = queue_object(name);
            let Some(view) = self.queue(name) else { continue };
            let Some(setting) = view.effective.setting("dead-letter-exchange").cloned() else {
                continue;
            };
            let Some(exchange) = view.effective.dead_letter_exchange().map(str::to_owned) else {
                continue;
            };
            let key = view.effective.dead_letter_routing_key().map(str::to_owned);
            let strategy = view.effective.dead_letter_strategy();
            let by = match &setting.source {
                Source::Argument => String::new(),
                other => format!(" (by {other})"),
            };
            let place = topology.places.get(&object, "x-dead-letter-exchange").cloned();
            if !self.view.has_exchange(&exchange) {
                let hint = nearest(&exchange, self.view.exchanges.keys().map(String::as_str))
                    .map_or_else(
                        || {
                            "declare it; with `external: true` when it is somebody else's"
                                .to_owned()
                        },
                        |meant| format!("did you mean `{meant}`?"),
                    );
                self.push(at(
                    &queue.origin,
                    place.as_ref(),
                    Diagnostic::error(
                        UNKNOWN_DEAD_LETTER_EXCHANGE,
                        format!(
                            "{object} dead-letters to exchange `{exchange}`{by}, which is not \
                             declared: its dead letters vanish"
                        ),
                    )
                    .hint(hint),
                ));
                continue;
            }
            self.lost_dead_letters(queue, &exchange, key.as_deref(), place.as_ref());
            let targets = self.dead_letters.get(name).cloned().unwrap_or_default();
            let streams: Vec<&str> = targets
                .iter()
                .filter(|target| {
                    self.queue(target).is_some_and(|q| q.queue_type == QueueType::Stream)
                })
                .map(String::as_str)
                .collect();
            if !streams.is_empty()
                && !Capabilities::of(self.target).stream_takes_dead_letters
                && strategy == DeadLetterStrategy::AtMostOnce
            {
                let finding = Diagnostic::error(
                    STREAM_DEAD_LETTERS,
                    format!(
                        "{object} dead-letters to the stream {}; {} loses such dead letters",
                        quoted(streams),
                        self.target
                    ),
                )
                .hint("collect them in a queue, or use deadLetterStrategy: at-least-once");
                self.push(at(&queue.origin, place.as_ref(), finding));
            }
        }
    }

    fn lost_dead_letters(
        &mut self,
        queue: &Desired<crate::broker::definition::QueueDefinition>,
        exchange: &str,
        key: Option<&str>,
        place: Option<&Span>,
    ) {
        let name = queue.definition.name.as_str();
        let object = queue_object(name);
        let kind =
            self.view.exchanges.get(exchange).map(|e| (e.definition.kind.clone(), e.external));
        // What headers a dead letter carries, and what somebody else bound, is not known here.
        if matches!(kind, Some((ExchangeKind::Other(_), _) | (_, true))) {
            return;
        }
        let bound = self.leads.contains(exchange);
        let has_alternate =
            self.view.exchanges.get(exchange).is_some_and(|e| e.effective.alternate().is_some());
        if matches!(kind, Some((ExchangeKind::Headers, _))) && (bound || has_alternate) {
            return;
        }
        if self.dead_letters.get(name).is_some_and(|targets| !targets.is_empty()) {
            return;
        }
        let certain = key.is_some() || (!bound && !has_alternate);
        // Keys that come through wildcards are not known: only a warning then.
        let message = match key {
            Some(key) => format!(
                "{object}: no queue takes its dead letters from {} by the key `{key}`: they vanish",
                exchange_in_words(exchange)
            ),
            None if !bound && !has_alternate && !exchange.is_empty() => format!(
                "{object}: nothing is bound to its dead-letter exchange `{exchange}`: its dead \
                 letters vanish"
            ),
            None => format!(
                "{object}: dead letters keep their own key, and {} takes none of the keys known here: {}",
                exchange_in_words(exchange),
                quoted(self.keys_of(name).iter().map(String::as_str))
            ),
        };
        let finding = if certain {
            Diagnostic::error(LOST_DEAD_LETTERS, message)
        } else {
            Diagnostic::warning(LOST_DEAD_LETTERS, message)
        };
        self.push(at(
            &queue.origin,
            place,
            finding.hint("bind a queue to it by that key, or write `deadLetter: true`"),
        ));
    }

    /// Circles among dead-letter paths.
    pub(super) fn loops(&mut self) {
        let topology = self.topology;
        let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
        let candidates = self.may_be_in_circles();
        for queue in &topology.queues {
            let name = queue.definition.name.as_str();
            if !candidates.contains(name) {
                continue;
            }
            let Some(circle) = self.circle_through(name) else { continue };
            let mut members = circle.clone();
            members.sort();
            if !seen.insert(members) {
                continue;
            }
            let expires = |name: &String| {
                self.queue(name).is_some_and(|q| q.effective.message_ttl_ms().is_some())
            };
            let shown =
                circle.iter().chain(circle.first()).cloned().collect::<Vec<_>>().join(" → ");
            let object = queue_object(name);
            let place = topology.places.get(&object, "x-dead-letter-exchange");
            let finding = if circle.iter().all(expires) {
                Diagnostic::error(
                    TTL_LOOP_DROPS,
                    format!("messages expire in a circle, {shown}: the broker drops them when they come back"),
                )
                .hint("a circle goes on only when a consumer rejects on the way; end it in a queue without TTL")
            } else {
                Diagnostic::warning(
                    ENDLESS_LOOP,
                    format!("a message that is always rejected goes round without end: {shown}"),
                )
                .hint("count its returns in the worker, or use `retry`, whose last resort are the dead letters")
            };
            self.push(at(&queue.origin, place, finding));
        }
    }

    /// Queues that remain when those are left out, again and again, whose dead letters go nowhere
    /// more: most often none, and what is not among them need not be followed.
    fn may_be_in_circles(&self) -> BTreeSet<String> {
        let mut ways: BTreeMap<&str, usize> = BTreeMap::new();
        let mut sources: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (from, targets) in &self.dead_letters {
            ways.insert(from, targets.len());
            for target in targets {
                sources.entry(target).or_default().push(from);
                // What dead-letters nothing is an end, and is not a key of its own.
                if !self.dead_letters.contains_key(target) {
                    ways.insert(target, 0);
                }
            }
        }
        let mut ends: Vec<&str> =
            ways.iter().filter(|(_, ways)| **ways == 0).map(|(name, _)| *name).collect();
        while let Some(end) = ends.pop() {
            ways.remove(end);
            for source in sources.get(end).into_iter().flatten() {
                if let Some(left) = ways.get_mut(source) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        ends.push(source);
                    }
                }
            }
        }
        ways.into_keys().map(str::to_owned).collect()
    }

    /// The shortest way along dead letters from `name` back to it.
    fn circle_through(&self, name: &str) -> Option<Vec<String>> {
        let mut reached: BTreeMap<&str, &str> = BTreeMap::new();
        let mut waiting = std::collections::VecDeque::from([name]);
        while let Some(current) = waiting.pop_front() {
            for target in self.dead_letters.get(current).into_iter().flatten() {
                if target == name {
                    let mut path = vec![current.to_owned()];
                    let mut step = current;
                    while step != name {
                        step = reached.get(step)?;
                        path.push(step.to_owned());
                    }
                    path.reverse();
                    return Some(path);
                }
                if !reached.contains_key(target.as_str()) {
                    reached.insert(target, current);
                    waiting.push_back(target);
                }
            }
        }
        None
    }
}
