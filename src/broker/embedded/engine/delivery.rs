//! The way of messages out: the consumers of this process, whose turn it is, and the leases on what they
//! are handed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use crate::broker::definition::QueueType;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::message::FieldValue;

use super::super::codec::Envelope;
use super::super::death::Reason;
use super::super::store::{LeaseRow, MessageRow, Store};

use super::stream::Beginning;
use super::topology::QueueInfo;
use super::{Engine, Fault, number};

/// Rows handed out at once, so that several consumers get their turns and batches stay small.
pub(super) const RUN_MAX: usize = 512;

/// Bytes that lie with a consumer and have not been taken by it.
pub(in crate::broker::embedded) const BUFFERED_MAX: usize = 16 << 20;

/// A message on its way out.
#[derive(Debug)]
pub(in crate::broker::embedded) struct Parcel {
    pub(in crate::broker::embedded) tag: u64,
    pub(in crate::broker::embedded) redelivered: bool,
    /// What `x-delivery-count` has to say, when it has to say something.
    pub(in crate::broker::embedded) count: Option<i64>,
    /// Where it stands in a stream.
    pub(in crate::broker::embedded) offset: Option<i64>,
    pub(in crate::broker::embedded) envelope: Vec<u8>,
    pub(in crate::broker::embedded) body: Vec<u8>,
}

/// A consumer of this process.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) queue: i64,
    pub(super) prefetch: usize,
    pub(super) priority: i64,
    pub(super) served: u64,
    pub(super) next_tag: u64,
    pub(super) next_turn: i64,
    pub(super) tags: BTreeMap<u64, i64>,
    pub(super) held: BTreeMap<i64, u64>,
    /// First row to last row and turn.
    pub(super) leases: BTreeMap<i64, (i64, i64)>,
    pub(super) newest: Option<i64>,
    /// The row that a reader of a stream gets next, or the first behind it.
    pub(super) next_record: Option<i64>,
    pub(super) buffered: Arc<AtomicUsize>,
    pub(super) sender: UnboundedSender<Result<Parcel, BrokerError>>,
}

impl Local {
    pub(super) fn room(&self) -> usize {
        if self.buffered.load(Ordering::Relaxed) >= BUFFERED_MAX {
            return 0;
        }
        self.prefetch.saturating_sub(self.held.len())
    }
}

/// What a consumer brings along.
pub(in crate::broker::embedded) struct NewConsumer {
    pub(in crate::broker::embedded) prefetch: usize,
    pub(in crate::broker::embedded) exclusive: bool,
    pub(in crate::broker::embedded) priority: i64,
    /// Where in a stream it begins.
    pub(in crate::broker::embedded) beginning: Option<Beginning>,
    pub(in crate::broker::embedded) buffered: Arc<AtomicUsize>,
    pub(in crate::broker::embedded) sender: UnboundedSender<Result<Parcel, BrokerError>>,
}

/// The headers that say how often a quorum queue got a message back, and where in a stream it stands.
pub(in crate::broker::embedded) fn show_place(
    envelope: &mut Envelope,
    count: Option<i64>,
    offset: Option<i64>,
) {
    for (name, value) in [("x-delivery-count", count), ("x-stream-offset", offset)] {
        if let Some(value) = value {
            envelope.properties.headers_mut().insert(name, FieldValue::Int64(value));
        }
    }
}

impl Engine {
    pub(super) fn dispatch_all(&mut self, store: Store<'_>) -> Result<(), Fault> {
        let mut queues: Vec<i64> =
            self.consumers.values().filter(|l| l.room() > 0).map(|l| l.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        for queue in queues {
            if let Some(info) = self.info(store, queue)? {
                self.dispatch(store, &info, false)?;
                self.deliver_dead_letters(store)?;
            }
        }
        Ok(())
    }

    /// Hands what is ready to the consumers of this process that have room. With `fresh`, messages
    /// that expire at this very moment still count.
    pub(super) fn dispatch(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        fresh: bool,
    ) -> Result<(), Fault> {
        if !self.consumers.values().any(|local| local.queue == info.id && local.room() > 0) {
            return Ok(());
        }
        if info.is_stream() {
            return self.serve_readers(store, info);
        }
        let active = if info.single_active { store.consumers(info.id)?.2 } else { None };
        let mut dispatched = false;
        loop {
            let ready = self.counters(store, info.id)?.ready();
            if ready <= 0 {
                break;
            }
            let willing: Vec<(i64, i64, u64, usize)> = self
                .consumers
                .iter()
                .filter(|(id, local)| {
                    local.queue == info.id
                        && local.room() > 0
                        && (!info.single_active || active == Some(**id))
                })
                .map(|(id, local)| (*id, local.priority, local.served, local.room()))
                .collect();
            let Some(best) = willing.iter().map(|(_, priority, ..)| *priority).max() else { break };
            let equal: Vec<_> = willing.iter().filter(|(_, p, ..)| *p == best).collect();
            let share = if equal.len() == 1 {
                RUN_MAX
            } else {
                usize::try_from(ready).unwrap_or(1) / (equal.len() * 4)
            };
            let Some((id, _, _, room)) =
                equal.iter().min_by_key(|(id, _, served, _)| (*served, *id))
            else {
                break;
            };
            let most = (*room).min(share.clamp(1, RUN_MAX));
            if !self.hand_out(store, info, *id, most, fresh)? {
                break;
            }
            dispatched = true;
        }
        if dispatched {
            self.refresh_due(store, info)?;
        }
        Ok(())
    }

    /// Hands up to `most` messages in a row to a consumer; `false` when there was nothing to do.
    fn hand_out(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        consumer: i64,
        most: usize,
        fresh: bool,
    ) -> Result<bool, Fault> {
        let Some((index, run)) = self.next_run(store, info)? else { return Ok(false) };
        let (lane, rank) = {
            let lane = &self.counters(store, info.id)?.lanes[index];
            (lane.row, lane.rank)
        };
        let most = most.min(usize::try_from(run).unwrap_or(1));
        for (first, last, before) in Self::gaps(store, lane)? {
            let rows = store.messages(first, last, most, BUFFERED_MAX / 2)?;
            if rows.is_empty() {
                continue;
            }
            let now = self.now;
            let quorum = info.is_quorum();
            let turns = number(rows.len());
            let mut live = Vec::with_capacity(rows.len());
            for row in rows {
                // A classic queue looks at the next only after it has handed out one.
                let unseen = live.is_empty() && !quorum;
                match row.expires_at {
                    Some(time) if time <= now && !fresh && !unseen => {
                        self.remove_ready(store, info.id, row.id, number(row.body.len()))?;
                        self.die(info, &row.envelope, row.body, row.mark, Reason::Expired, now)?;
                    }
                    _ => live.push(row),
                }
            }
            self.advance_turn(store, info, rank, turns)?;
            self.claim(store, info, consumer, live, before)?;
            if !quorum && !fresh {
                self.expire_messages(store, info, now)?;
            }
            return Ok(true);
        }
        // The counters say ready and there is nothing: another look at the file will tell.
        Ok(false)
    }

    /// Writes the lease on rows that lie next to each other and puts them on their way.
    fn claim(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        consumer: i64,
        rows: Vec<MessageRow>,
        before: Option<i64>,
    ) -> Result<(), Fault> {
        let (Some(first), Some(last)) =
            (rows.first().map(|row| row.id), rows.last().map(|row| row.id))
        else {
            return Ok(());
        };
        let bytes: usize = rows.iter().map(|row| row.body.len()).sum();
        let count = number(rows.len());
        let lane = self.lane_by_row(store, info.id, first)?;
        lane.ready -= count;
        lane.unacked += count;
        lane.bytes -= number(bytes);
        self.touched_consumers = true;
        self.serves += 1;
        let serves = self.serves;
        let quorum = info.is_quorum();
        let Some(local) = self.consumers.get_mut(&consumer) else { return Ok(()) };
        local.served = serves;
        local.buffered.fetch_add(bytes, Ordering::Relaxed);
        // The newest lease grows as long as nothing lies between.
        match local.newest.filter(|newest| Some(*newest) == before) {
            Some(newest) if local.leases.contains_key(&newest) => {
                store.extend_lease(newest, last)?;
                if let Some(lease) = local.leases.get_mut(&newest) {
                    lease.0 = last;
                }
            }
            _ => {
                let turn = local.next_turn;
                local.next_turn += 1;
                store.insert_lease(&LeaseRow { first, last, consumer }, turn)?;
                local.leases.insert(first, (last, turn));
                local.newest = Some(first);
            }
        }
        for row in rows {
            let tag = local.next_tag;
            local.next_tag += 1;
            local.tags.insert(tag, row.id);
            local.held.insert(row.id, tag);
            let count = if quorum { row.mark.delivery_count() } else { None };
            self.outgoing.push((
                consumer,
                Ok(Parcel {
                    tag,
                    redelivered: row.mark.is_redelivered() || count.is_some(),
                    count,
                    offset: None,
                    envelope: row.envelope,
                    body: row.body,
                }),
            ));
        }
        Ok(())
    }

    pub(in crate::broker::embedded) fn attach(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        consumer: NewConsumer,
    ) -> Result<i64, Fault> {
        let next_record = match consumer.beginning {
            Some(beginning) => Some(self.first_row(store, info, beginning)?),
            None => None,
        };
        let id = store.insert_consumer(
            self.session,
            info.id,
            consumer.exclusive && info.queue_type == QueueType::Classic,
        )?;
        self.used(store, info)?;
        self.touched_consumers = true;
        self.consumers.insert(
            id,
            Local {
                queue: info.id,
                prefetch: consumer.prefetch,
                priority: consumer.priority,
                served: 0,
                next_tag: 1,
                next_turn: 0,
                tags: BTreeMap::new(),
                held: BTreeMap::new(),
                leases: BTreeMap::new(),
                newest: None,
                next_record,
                buffered: consumer.buffered,
                sender: consumer.sender,
            },
        );
        Ok(id)
    }

    /// As after `basic.cancel`: what the consumer holds stays its own, more does not come.
    pub(in crate::broker::embedded) fn pause(&mut self, consumer: i64) {
        if let Some(local) = self.consumers.get_mut(&consumer) {
            local.prefetch = 0;
        }
    }

    /// The same for all of them.
    #[cfg(test)]
    pub(in crate::broker::embedded) fn take_no_more(&mut self) {
        for local in self.consumers.values_mut() {
            local.prefetch = 0;
        }
    }

    /// Whether the consumer is one of this process and has not been ended.
    pub(in crate::broker::embedded) fn has_consumer(&self, id: i64) -> bool {
        self.consumers.contains_key(&id)
    }

    /// The consumer's queue is gone.
    pub(super) fn cancel(&mut self, consumer: i64) {
        if self.consumers.contains_key(&consumer) {
            self.touched_consumers = true;
            self.outgoing.retain(|(id, _)| *id != consumer);
            self.outgoing.push((
                consumer,
                Err(BrokerError::new(
                    ErrorKind::ConsumerCancelled,
                    "go on consuming",
                    "the broker has ended the consumer: its queue was deleted",
                )),
            ));
        }
    }
}
