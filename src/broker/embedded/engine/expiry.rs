//! What the time does: messages and queues expire, dead letters are tried again. Queues carry the moment
//! at which they are due.

use std::sync::Arc;

use super::super::death::Reason;
use super::super::store::Store;

use super::lanes::{UNDELIVERED, set_clock};
use super::topology::QueueInfo;
use super::{Engine, Fault, delay, number};

/// How long a dead letter that has to arrive waits before it is tried again.
const RETRY_MS: i64 = 1000;

impl Engine {
    /// Does what the time has done since the last request, in the order in which it was due.
    pub(super) fn advance(&mut self, store: Store<'_>) -> Result<(), Fault> {
        while let Some((queue, due)) = store.next_due(self.vhost_id, self.now)? {
            let Some(info) = self.info(store, queue)? else { break };
            if self.is_queue_expired(store, &info, due)? {
                self.delete_queue(store, &info)?;
                continue;
            }
            if info.is_stream() {
                self.retain(store, &info)?;
                continue;
            }
            self.expire_messages(store, &info, due)?;
            self.retry_undelivered(store, &info)?;
            self.refresh_due(store, &info)?;
            self.deliver_dead_letters(store)?;
        }
        Ok(())
    }

    fn is_queue_expired(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        at: i64,
    ) -> Result<bool, Fault> {
        let Some(expires) = info.expires_ms else { return Ok(false) };
        let (consumers, _, _) = store.consumers(info.id)?;
        let unused_since = self.counters(store, info.id)?.unused_since;
        Ok(consumers == 0 && unused_since.saturating_add(delay(expires)) <= at)
    }

    /// Ends what has expired at `at`, from the head on until something has not.
    pub(super) fn expire_messages(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        at: i64,
    ) -> Result<(), Fault> {
        if !self.counters(store, info.id)?.may_expire {
            return Ok(());
        }
        if info.is_quorum() {
            return self.expire_in_turn(store, info, at);
        }
        for lane in self.counters(store, info.id)?.served() {
            for (first, last, _) in Self::gaps(store, lane)? {
                loop {
                    let rows = store.messages(first, last, 64, 1 << 20)?;
                    if rows.is_empty() {
                        break;
                    }
                    for row in rows {
                        let Some(expires_at) = row.expires_at.filter(|time| *time <= at) else {
                            return Ok(());
                        };
                        self.remove_ready(store, info.id, row.id, number(row.body.len()))?;
                        let time = expires_at.max(at.min(self.now));
                        self.die(info, &row.envelope, row.body, row.mark, Reason::Expired, time)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A quorum queue has one head, the message whose turn it is; one that expires there has had its
    /// turn.
    fn expire_in_turn(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        at: i64,
    ) -> Result<(), Fault> {
        while let Some(expires_at) = self.head_expires_at(store, info)?.filter(|time| *time <= at) {
            let Some(row) = self.take_head(store, info)? else { break };
            let time = expires_at.max(at.min(self.now));
            self.die(info, &row.envelope, row.body, row.mark, Reason::Expired, time)?;
        }
        Ok(())
    }

    /// When the message expires whose turn it is.
    fn head_expires_at(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<Option<i64>, Fault> {
        let Some((index, _)) = self.next_run(store, info)? else { return Ok(None) };
        let lane = self.counters(store, info.id)?.lanes[index].row;
        Ok(Self::head(store, lane)?.and_then(|(_, expires_at)| expires_at))
    }

    /// Works out when the time will do something to the queue.
    pub(in crate::broker::embedded) fn refresh_due(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<(), Fault> {
        let head = if info.is_stream() {
            self.record_due(store, info)?
        } else if self.counters(store, info.id)?.may_expire {
            self.head_expires_at(store, info)?
        } else {
            None
        };
        let counters = self.counters(store, info.id)?;
        let undelivered =
            counters.lanes.iter().any(|lane| lane.rank == UNDELIVERED && lane.ready > 0);
        if !counters.may_expire
            && counters.due_at.is_none()
            && info.expires_ms.is_none()
            && info.max_age_ms.is_none()
            && !undelivered
        {
            return Ok(());
        }
        let mut due: Option<i64> = None;
        let mut sooner = |time: i64| due = Some(due.map_or(time, |due| due.min(time)));
        if let Some(time) = head {
            sooner(time);
        }
        if let Some(expires) = info.expires_ms
            && store.consumers(info.id)?.0 == 0
        {
            sooner(counters.unused_since.saturating_add(delay(expires)));
        }
        if undelivered {
            sooner(self.now.saturating_add(RETRY_MS));
        }
        let counters = self.counters(store, info.id)?;
        if counters.due_at != due {
            counters.due_at = due;
            set_clock(store, info.id, counters)?;
            counters.dirty = false;
        }
        Ok(())
    }

    /// The queue is in use now: its own expiry begins again.
    pub(in crate::broker::embedded) fn used(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<(), Fault> {
        let now = self.now;
        let counters = self.counters(store, info.id)?;
        counters.unused_since = now;
        counters.dirty = true;
        self.refresh_due(store, info)
    }
}
