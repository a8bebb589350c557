//! Messages between two queues: they died in one and are sent on to where it sends its dead.

use std::sync::Arc;

use crate::base::id::ExchangeName;
use crate::message::FieldTable;

use super::super::codec::Envelope;
use super::super::death::{Death, Reason, bury, is_cycle};
use super::super::mark::Mark;
use super::super::store::{Store, lane_end, row_id};

use super::delivery::{BUFFERED_MAX, RUN_MAX};
use super::lanes::UNDELIVERED;
use super::publish::Arrival;
use super::topology::QueueInfo;
use super::{Engine, Fault, damaged, number};

/// A message between two queues.
pub(super) struct DeadLetter {
    pub(super) source: i64,
    pub(super) envelope: Envelope,
    pub(super) copies: Vec<String>,
    pub(super) body: Vec<u8>,
    pub(super) mark: Mark,
    pub(super) reason: Reason,
    pub(super) at: i64,
}

impl Engine {
    /// A message has left its queue and goes where the queue sends its dead.
    pub(super) fn die(
        &mut self,
        info: &QueueInfo,
        envelope: &[u8],
        body: Vec<u8>,
        mark: Mark,
        reason: Reason,
        at: i64,
    ) -> Result<(), Fault> {
        let Some(exchange) = &info.dead_letter_exchange else { return Ok(()) };
        let mut envelope = Envelope::decode(envelope).map_err(damaged)?;
        let burial = bury(
            &mut envelope,
            Death {
                queue: info.name(),
                reason,
                time_s: u64::try_from(at.div_euclid(1000)).unwrap_or(0),
                exchange: exchange.as_str(),
                routing_key: info.dead_letter_key.as_deref(),
            },
            mark,
            self.capabilities,
        );
        let failed = info.is_quorum() && reason == Reason::Rejected;
        let mark = self.after_failure(failed, mark).dead(burial.keys_spent);
        self.dead.push_back(DeadLetter {
            source: info.id,
            envelope,
            copies: burial.copies,
            body,
            mark,
            reason,
            at,
        });
        Ok(())
    }

    /// The mark of a message whose consumer `failed` on it, as quorum queues count that.
    pub(super) fn after_failure(&self, failed: bool, mark: Mark) -> Mark {
        if failed && self.capabilities.carries_delivery_count { mark.failed() } else { mark }
    }

    pub(super) fn deliver_dead_letters(&mut self, store: Store<'_>) -> Result<(), Fault> {
        while let Some(letter) = self.dead.pop_front() {
            if self.deliver_dead_letter(store, &letter)? {
                continue;
            }
            let Some(info) = self.info(store, letter.source)? else { continue };
            if info.at_least_once {
                let envelope = letter.envelope.encode();
                let arrival = Arrival {
                    envelope: &envelope,
                    body: &letter.body,
                    priority: 0,
                    ttl_ms: None,
                    mark: letter.mark,
                    at: letter.at,
                };
                self.append(store, &info, UNDELIVERED, &arrival, letter.mark, None)?;
                self.refresh_due(store, &info)?;
            }
        }
        Ok(())
    }

    /// Whether it has arrived, or may be dropped.
    fn deliver_dead_letter(
        &mut self,
        store: Store<'_>,
        letter: &DeadLetter,
    ) -> Result<bool, Fault> {
        let Ok(exchange) = ExchangeName::new(letter.envelope.exchange.clone()) else {
            return Ok(false);
        };
        let none = FieldTable::new();
        let headers = letter.envelope.properties.headers.as_ref().unwrap_or(&none);
        let routing = self.routing(store)?;
        let mut targets: Vec<i64> = routing
            .table
            .targets(&exchange, &letter.envelope.routing_key, headers, &letter.copies)
            .into_iter()
            .filter_map(|index| routing.queues.get(index).copied())
            .collect();
        let routed = !targets.is_empty();
        if letter.reason != Reason::Rejected {
            let mut kept = Vec::new();
            for queue in targets {
                if let Some(info) = self.info(store, queue)?
                    && !is_cycle(Some(headers), info.name())
                {
                    kept.push(queue);
                }
            }
            targets = kept;
        }
        let at_least_once =
            self.info(store, letter.source)?.is_some_and(|source| source.at_least_once);
        if at_least_once {
            if !routed {
                return Ok(false);
            }
            for queue in &targets {
                if let Some(info) = self.info(store, *queue)?
                    && self.would_refuse(store, &info, number(letter.body.len()))?
                {
                    return Ok(false);
                }
            }
        }
        let envelope = letter.envelope.encode();
        for queue in targets {
            let is_lost = !at_least_once && !self.capabilities.stream_takes_dead_letters;
            if is_lost && self.info(store, queue)?.is_some_and(|info| info.is_stream()) {
                continue;
            }
            let arrival = Arrival {
                envelope: &envelope,
                body: &letter.body,
                priority: letter.envelope.properties.priority.unwrap_or(0),
                ttl_ms: None,
                mark: letter.mark,
                at: letter.at,
            };
            self.arrive(store, queue, &arrival)?;
        }
        Ok(true)
    }

    /// Tries dead letters again that have to arrive and could not.
    pub(super) fn retry_undelivered(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
    ) -> Result<(), Fault> {
        let Some(lane) = self
            .counters(store, info.id)?
            .lanes
            .iter()
            .find(|lane| lane.rank == UNDELIVERED && lane.ready > 0)
            .map(|lane| lane.row)
        else {
            return Ok(());
        };
        let rows = store.messages(row_id(lane, 0), lane_end(lane), RUN_MAX, BUFFERED_MAX)?;
        for row in rows {
            let envelope = Envelope::decode(&row.envelope).map_err(damaged)?;
            let copies = if row.mark.keys_are_spent() {
                Vec::new()
            } else {
                crate::broker::routing::sender_keys(envelope.properties.headers.as_ref())
                    .map(|keys| keys.all())
                    .unwrap_or_default()
                    .into_iter()
                    .chain(envelope.hidden_keys.iter().cloned())
                    .collect()
            };
            let size = number(row.body.len());
            let letter = DeadLetter {
                source: info.id,
                envelope,
                copies,
                body: row.body,
                mark: row.mark,
                // Cycles were sorted out when it died.
                reason: Reason::Rejected,
                at: self.now,
            };
            if !self.deliver_dead_letter(store, &letter)? {
                break;
            }
            self.remove_ready(store, info.id, row.id, size)?;
        }
        Ok(())
    }
}
