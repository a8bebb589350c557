//! What becomes of messages that were handed out: acknowledged, rejected, given back, or left behind by a
//! consumer or a process that has ended.

use std::sync::Arc;

use crate::broker::effective::Overflow;
use crate::broker::port::Settlement;

use super::super::death::Reason;
use super::super::mark::Mark;
use super::super::store::{LeaseRow, Store};

use super::delivery::Local;
use super::lanes::{HIGH_LANE, NORMAL, RETURNED};
use super::topology::QueueInfo;
use super::{Engine, Fault};

impl Engine {
    pub(super) fn settle(
        &mut self,
        store: Store<'_>,
        consumer: i64,
        tag: u64,
        how: Settlement,
    ) -> Result<(), Fault> {
        let Some(local) = self.consumers.get(&consumer) else { return Ok(()) };
        let queue = local.queue;
        let rows: Vec<i64> = match how {
            Settlement::AckUpTo => local.tags.range(..=tag).map(|(_, row)| *row).collect(),
            Settlement::Ack | Settlement::Requeue | Settlement::Reject => {
                local.tags.get(&tag).copied().into_iter().collect()
            }
        };
        self.touched_consumers = true;
        let Some(info) = self.info(store, queue)? else { return Ok(()) };
        if info.is_stream() {
            self.record_read(consumer, rows);
            return Ok(());
        }
        for row in rows {
            match how {
                Settlement::Ack | Settlement::AckUpTo => {
                    store.delete_message(row)?;
                    self.lane_by_row(store, queue, row)?.unacked -= 1;
                    self.let_go(store, consumer, row, false)?;
                }
                Settlement::Reject => {
                    let message = if info.dead_letter_exchange.is_some() {
                        store.message(row)?
                    } else {
                        None
                    };
                    store.delete_message(row)?;
                    self.lane_by_row(store, queue, row)?.unacked -= 1;
                    self.let_go(store, consumer, row, false)?;
                    if let Some(message) = message {
                        self.die(
                            &info,
                            &message.envelope,
                            message.body,
                            message.mark,
                            Reason::Rejected,
                            self.now,
                        )?;
                    }
                }
                Settlement::Requeue => {
                    let Some((_, mark, size)) = store.outlines(row, row, 1)?.pop() else {
                        continue;
                    };
                    if info.is_quorum() {
                        self.let_go(store, consumer, row, false)?;
                        let to_tail = info.delivery_limit.is_none();
                        self.return_to_quorum(store, &info, row, mark.returned(), size, to_tail)?;
                    } else {
                        self.let_go(store, consumer, row, true)?;
                        store.set_mark(row, mark.redelivered())?;
                        let lane = self.lane_by_row(store, queue, row)?;
                        lane.unacked -= 1;
                        lane.ready += 1;
                        lane.bytes += size;
                    }
                }
            }
        }
        if how == Settlement::Requeue {
            self.returned(store, &info)?;
        }
        Ok(())
    }

    /// Messages have come back: they count again, and those that have expired meanwhile go.
    fn returned(&mut self, store: Store<'_>, info: &Arc<QueueInfo>) -> Result<(), Fault> {
        let now = self.now;
        self.expire_messages(store, info, now)?;
        if info.overflow == Overflow::DropHead {
            self.enforce_limits(store, info, now)?;
        }
        self.refresh_due(store, info)
    }

    /// A row is no longer the consumer's. With `stays_ready`, it stays where it is and must not be
    /// covered by the lease.
    fn let_go(
        &mut self,
        store: Store<'_>,
        consumer: i64,
        row: i64,
        stays_ready: bool,
    ) -> Result<(), Fault> {
        let Some(local) = self.consumers.get_mut(&consumer) else { return Ok(()) };
        if let Some(tag) = local.held.remove(&row) {
            local.tags.remove(&tag);
        }
        let Some((&first, &(last, turn))) = local.leases.range(..=row).next_back() else {
            return Ok(());
        };
        let holds = |local: &Local, from: i64, to: i64| {
            from <= to && local.held.range(from..=to).next().is_some()
        };
        if stays_ready {
            let left = holds(local, first, row - 1);
            let right = holds(local, row + 1, last);
            if left {
                store.extend_lease(first, row - 1)?;
                local.leases.insert(first, (row - 1, turn));
            } else {
                store.delete_lease(first)?;
                local.leases.remove(&first);
            }
            if right {
                store.insert_lease(&LeaseRow { first: row + 1, last, consumer }, turn)?;
                local.leases.insert(row + 1, (last, turn));
            }
            local.newest = None;
        } else if !holds(local, first, last) {
            store.delete_lease(first)?;
            local.leases.remove(&first);
            if local.newest == Some(first) {
                local.newest = None;
            }
        }
        Ok(())
    }

    /// A message comes back to a quorum queue, which costs it a life; `mark` counts that already.
    fn return_to_quorum(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        row: i64,
        mark: Mark,
        size: i64,
        to_tail: bool,
    ) -> Result<(), Fault> {
        self.lane_by_row(store, info.id, row)?.unacked -= 1;
        if info.delivery_limit.is_some_and(|limit| mark.returns() > i64::from(limit)) {
            let message = store.message(row)?;
            store.delete_message(row)?;
            if let Some(message) = message {
                self.die(
                    info,
                    &message.envelope,
                    message.body,
                    mark,
                    Reason::DeliveryLimit,
                    self.now,
                )?;
            }
            return Ok(());
        }
        let rank = match (to_tail, mark.is_high()) {
            (false, _) => RETURNED,
            (true, true) => HIGH_LANE,
            (true, false) => NORMAL,
        };
        let (to, _) = self.add_ready(store, info, rank, size)?;
        store.move_message(row, to, mark)?;
        Ok(())
    }

    /// Ends a consumer of any process: what it held goes back in order.
    pub(in crate::broker::embedded) fn detach(
        &mut self,
        store: Store<'_>,
        consumer: i64,
        queue: i64,
    ) -> Result<(), Fault> {
        self.consumers.remove(&consumer);
        if !store.has_consumer(consumer)? {
            return Ok(());
        }
        store.delete_consumer(consumer)?;
        let Some(info) = self.info(store, queue)? else { return Ok(()) };
        for (first, last) in store.leases_of(consumer)? {
            store.delete_lease(first)?;
            let mut from = first;
            loop {
                let rows = store.outlines(from, last, 1024)?;
                let Some((highest, ..)) = rows.last() else { break };
                from = highest + 1;
                for (row, mark, size) in rows {
                    if info.is_quorum() {
                        let mark = self.after_failure(true, mark.returned());
                        self.return_to_quorum(store, &info, row, mark, size, false)?;
                    } else {
                        store.set_mark(row, mark.redelivered())?;
                        let lane = self.lane_by_row(store, queue, row)?;
                        lane.unacked -= 1;
                        lane.ready += 1;
                        lane.bytes += size;
                    }
                }
            }
        }
        self.returned(store, &info)?;
        let (others, _, _) = store.consumers(queue)?;
        if others == 0 && info.definition.auto_delete {
            self.delete_queue(store, &info)?;
            return Ok(());
        }
        self.used(store, &info)
    }

    /// Gives back what processes held that have died since.
    pub(in crate::broker::embedded) fn reap(&mut self, store: Store<'_>) -> Result<(), Fault> {
        for session in self.file.dead_sessions(store.0)? {
            self.end_session(store, session)?;
        }
        Ok(())
    }

    /// Gives back everything that a session holds.
    pub(in crate::broker::embedded) fn end_session(
        &mut self,
        store: Store<'_>,
        session: i64,
    ) -> Result<(), Fault> {
        for (consumer, queue) in store.consumers_of(self.vhost_id, session)? {
            self.detach(store, consumer, queue)?;
        }
        for queue in store.queues_owned_by(self.vhost_id, session)? {
            if let Some(info) = self.info(store, queue)? {
                self.delete_queue(store, &info)?;
            }
        }
        store.delete_locks_of(session)?;
        // Another vhost's part is left to the next who works there.
        if !store.session_holds_anything(session)? {
            self.file.forget_session(store.0, session)?;
        }
        self.deliver_dead_letters(store)
    }
}
