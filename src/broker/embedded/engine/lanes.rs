//! The messages of one queue in order: its lanes, how many lie in each, and which comes next.

use std::collections::hash_map::Entry;

use crate::broker::error::{BrokerError, ErrorKind};
use crate::storage::rusqlite;

use super::super::store::{
    ClockRow, LaneRow, MessageRow, POSITION_MAX, Store, lane_end, lane_of, position_of, row_id,
};

use super::topology::QueueInfo;
use super::{Engine, Fault, number};

/// Lanes of a quorum queue, in the order in which they are served; a classic queue's lanes are
/// numbered from 0 for priority 255 to 255 for none.
pub(super) const RETURNED: i64 = 0;

pub(super) const HIGH_LANE: i64 = 1;

pub(super) const NORMAL: i64 = 2;

/// Dead letters that have to arrive and cannot yet; never served.
pub(super) const UNDELIVERED: i64 = 1000;

pub(super) const CLASSIC_LOWEST: i64 = 255;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) row: i64,
    pub(super) rank: i64,
    pub(super) next: i64,
    pub(super) ready: i64,
    pub(super) unacked: i64,
    pub(super) bytes: i64,
    pub(super) dirty: bool,
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) lanes: Vec<Lane>,
    pub(super) due_at: Option<i64>,
    pub(super) may_expire: bool,
    pub(super) unused_since: i64,
    pub(super) turn: i64,
    pub(super) dirty: bool,
}

impl Counters {
    pub(super) fn ready(&self) -> i64 {
        self.lanes.iter().filter(|lane| lane.rank != UNDELIVERED).map(|lane| lane.ready).sum()
    }

    /// The rows of the lanes that are served, in the order in which they are.
    pub(super) fn served(&self) -> Vec<i64> {
        let served = self.lanes.iter().filter(|lane| lane.rank != UNDELIVERED);
        served.map(|lane| lane.row).collect()
    }

    fn unacked(&self) -> i64 {
        self.lanes.iter().map(|lane| lane.unacked).sum()
    }

    pub(super) fn bytes(&self) -> i64 {
        self.lanes.iter().filter(|lane| lane.rank != UNDELIVERED).map(|lane| lane.bytes).sum()
    }
}

pub(super) fn set_clock(store: Store<'_>, queue: i64, counters: &Counters) -> Result<(), Fault> {
    store.set_clock(
        queue,
        &ClockRow {
            due_at: counters.due_at,
            may_expire: counters.may_expire,
            unused_since: counters.unused_since,
            turn: counters.turn,
        },
    )?;
    Ok(())
}

impl Engine {
    pub(super) fn counters(
        &mut self,
        store: Store<'_>,
        queue: i64,
    ) -> Result<&mut Counters, Fault> {
        let entry = match self.counters.entry(queue) {
            Entry::Occupied(entry) => return Ok(entry.into_mut()),
            Entry::Vacant(entry) => entry,
        };
        let clock = store.clock(queue)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let lanes = store
            .lanes(queue)?
            .into_iter()
            .map(|lane| Lane {
                row: lane.id,
                rank: lane.rank,
                next: lane.next,
                ready: lane.ready,
                unacked: lane.unacked,
                bytes: lane.bytes,
                dirty: false,
            })
            .collect();
        Ok(entry.insert(Counters {
            lanes,
            due_at: clock.due_at,
            may_expire: clock.may_expire,
            unused_since: clock.unused_since,
            turn: clock.turn,
            dirty: false,
        }))
    }

    /// Ready and unacknowledged messages.
    pub(in crate::broker::embedded) fn depth(
        &mut self,
        store: Store<'_>,
        queue: i64,
    ) -> Result<(u64, u64), Fault> {
        let counters = self.counters(store, queue)?;
        let natural = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok((natural(counters.ready()), natural(counters.unacked())))
    }

    /// Bytes of the messages that wait in a queue.
    pub(in crate::broker::embedded) fn waiting_bytes(
        &mut self,
        store: Store<'_>,
        queue: i64,
    ) -> Result<u64, Fault> {
        Ok(u64::try_from(self.counters(store, queue)?.bytes()).unwrap_or(0))
    }

    pub(super) fn lane_index(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        rank: i64,
    ) -> Result<usize, Fault> {
        let counters = self.counters(store, info.id)?;
        if let Some(index) = counters.lanes.iter().position(|lane| lane.rank == rank) {
            return Ok(index);
        }
        let row = store.insert_lane(info.id, rank)?.ok_or_else(|| {
            BrokerError::new(
                ErrorKind::Storage,
                format!("store a message in queue `{}`", info.name()),
                "the state file has no lane left for another queue",
            )
            .hint("delete queues that are not needed")
        })?;
        let index = counters.lanes.partition_point(|lane| lane.rank < rank);
        counters.lanes.insert(
            index,
            Lane { row, rank, next: 1, ready: 0, unacked: 0, bytes: 0, dirty: false },
        );
        Ok(index)
    }

    pub(super) fn lane_by_row(
        &mut self,
        store: Store<'_>,
        queue: i64,
        row: i64,
    ) -> Result<&mut Lane, Fault> {
        let lane = self
            .counters(store, queue)?
            .lanes
            .iter_mut()
            .find(|lane| lane.row == lane_of(row))
            .ok_or(Fault::Damaged("it holds a message of no queue"))?;
        lane.dirty = true;
        Ok(lane)
    }

    pub(super) fn flush(&mut self, store: Store<'_>) -> Result<(), Fault> {
        for (queue, counters) in &mut self.counters {
            for lane in counters.lanes.iter_mut().filter(|lane| lane.dirty) {
                lane.dirty = false;
                store.set_lane(&LaneRow {
                    id: lane.row,
                    rank: lane.rank,
                    next: lane.next,
                    ready: lane.ready,
                    unacked: lane.unacked,
                    bytes: lane.bytes,
                })?;
            }
            if counters.dirty {
                counters.dirty = false;
                set_clock(store, *queue, counters)?;
            }
        }
        Ok(())
    }

    /// Counts a message at the end of a lane; returns the row it is to have there, and the lane.
    pub(super) fn add_ready(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        rank: i64,
        size: i64,
    ) -> Result<(i64, usize), Fault> {
        let index = self.lane_index(store, info, rank)?;
        let lanes = &mut self.counters(store, info.id)?.lanes;
        let mut position = lanes[index].next;
        if info.is_quorum() && matches!(rank, HIGH_LANE | NORMAL) {
            // Which of the two heads came first decides about turns, so they count together.
            let both = lanes.iter().filter(|lane| matches!(lane.rank, HIGH_LANE | NORMAL));
            position = both.map(|lane| lane.next).max().unwrap_or(position);
        }
        if position >= POSITION_MAX {
            return Err(Fault::Sql(rusqlite::Error::IntegralValueOutOfRange(0, position)));
        }
        let lane = &mut lanes[index];
        lane.next = position + 1;
        lane.ready += 1;
        lane.bytes += size;
        lane.dirty = true;
        Ok((row_id(lane.row, position), index))
    }

    /// The lane that is served next and how many messages in a row come from it.
    pub(super) fn next_run(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<Option<(usize, i64)>, Fault> {
        let quorum = info.is_quorum();
        let counters = self.counters(store, info.id)?;
        let turn = counters.turn;
        let mut ready =
            counters.lanes.iter().enumerate().filter(|(_, l)| l.ready > 0 && l.rank != UNDELIVERED);
        let Some((first, lane)) = ready.next() else { return Ok(None) };
        let Some((normal, other)) = ready.next().filter(|_| quorum && lane.rank == HIGH_LANE)
        else {
            return Ok(Some((first, lane.ready)));
        };
        // Two of high priority, then one of normal, unless that came later than the next of high.
        if turn < 2 {
            return Ok(Some((first, 2 - turn)));
        }
        let (high_lane, normal_lane) = (lane.row, other.row);
        let high = Self::head(store, high_lane)?;
        let came_first = Self::head(store, normal_lane)?.is_some_and(|(normal, _)| {
            high.is_none_or(|(high, _)| position_of(normal) < position_of(high))
        });
        Ok(Some((if came_first { normal } else { first }, 1)))
    }

    /// The first row of a lane that nobody holds, and when it expires.
    pub(super) fn head(store: Store<'_>, lane: i64) -> Result<Option<(i64, Option<i64>)>, Fault> {
        for (first, last, _) in Self::gaps(store, lane)? {
            let head = store.first_message(first, last)?;
            if head.is_some() {
                return Ok(head);
            }
        }
        Ok(None)
    }

    pub(super) fn advance_turn(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        rank: i64,
        by: i64,
    ) -> Result<(), Fault> {
        if info.is_quorum() && rank != RETURNED && self.capabilities.quorum_priorities {
            let counters = self.counters(store, info.id)?;
            counters.turn = (counters.turn + by) % 3;
            counters.dirty = true;
        }
        Ok(())
    }

    /// The ranges of a lane that no lease covers, each with the lease before it.
    pub(super) fn gaps(store: Store<'_>, lane: i64) -> Result<Vec<(i64, i64, Option<i64>)>, Fault> {
        let mut gaps = Vec::new();
        let mut from = row_id(lane, 0);
        let mut before = None;
        for lease in store.leases(lane)? {
            if from < lease.first {
                gaps.push((from, lease.first - 1, before));
            }
            from = lease.last + 1;
            before = Some(lease.first);
        }
        gaps.push((from, lane_end(lane), before));
        Ok(gaps)
    }

    /// Takes the message that would be delivered next out of the queue.
    pub(super) fn take_head(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<Option<MessageRow>, Fault> {
        let Some((index, _)) = self.next_run(store, info)? else { return Ok(None) };
        let (lane, rank) = {
            let lane = &self.counters(store, info.id)?.lanes[index];
            (lane.row, lane.rank)
        };
        for (first, last, _) in Self::gaps(store, lane)? {
            if let Some(row) = store.messages(first, last, 1, usize::MAX)?.pop() {
                self.remove_ready(store, info.id, row.id, number(row.body.len()))?;
                self.advance_turn(store, info, rank, 1)?;
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    pub(super) fn remove_ready(
        &mut self,
        store: Store<'_>,
        queue: i64,
        row: i64,
        size: i64,
    ) -> Result<(), Fault> {
        store.delete_message(row)?;
        let lane = self.lane_by_row(store, queue, row)?;
        lane.ready -= 1;
        lane.bytes -= size;
        Ok(())
    }
}
