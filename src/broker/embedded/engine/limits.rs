//! Maximum lengths: what a full queue refuses, and what it drops from its head.

use std::sync::Arc;

use crate::broker::effective::Overflow;

use super::super::death::Reason;
use super::super::store::Store;

use super::topology::QueueInfo;
use super::{Engine, Fault};

fn exceeds(value: i64, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| u64::try_from(value).unwrap_or(0) > limit)
}

impl Engine {
    pub(super) fn would_refuse(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        size: i64,
    ) -> Result<bool, Fault> {
        if info.overflow == Overflow::DropHead || info.is_stream() {
            return Ok(false);
        }
        let quorum = info.is_quorum();
        let counters = self.counters(store, info.id)?;
        // A quorum queue notices that it is full when it is over the limit; a classic one before.
        let (count, bytes) = if quorum {
            (counters.ready(), counters.bytes())
        } else {
            (counters.ready() + 1, counters.bytes() + size)
        };
        Ok(exceeds(count, info.max_length) || exceeds(bytes, info.max_bytes))
    }

    fn is_over_limit(&mut self, store: Store<'_>, info: &QueueInfo) -> Result<bool, Fault> {
        if info.max_length.is_none() && info.max_bytes.is_none() {
            return Ok(false);
        }
        let counters = self.counters(store, info.id)?;
        Ok(counters.ready() > 0
            && (exceeds(counters.ready(), info.max_length)
                || exceeds(counters.bytes(), info.max_bytes)))
    }

    /// Drops from the head what is too much; whether there was anything.
    pub(super) fn enforce_limits(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        at: i64,
    ) -> Result<bool, Fault> {
        if info.is_stream() {
            self.retain(store, info)?;
            return Ok(false);
        }
        if info.overflow != Overflow::DropHead || !self.is_over_limit(store, info)? {
            return Ok(false);
        }
        self.dispatch(store, info, false)?;
        let mut dropped = false;
        while self.is_over_limit(store, info)? {
            let Some(row) = self.take_head(store, info)? else { break };
            self.die(info, &row.envelope, row.body, row.mark, Reason::MaxLength, at)?;
            dropped = true;
        }
        self.refresh_due(store, info)?;
        Ok(dropped)
    }
}
