//! Streams: one lane of records that reading does not take away. A consumer has a place in it and no
//! leases; what it acks is only room for more.
//!
//! A record's position in its lane is its offset plus one, and the column that says of other messages
//! when they expire says of a record when it came. Retention is exact: what is too old or too much goes
//! at once, where RabbitMQ waits for a whole segment of its files.

use std::sync::Arc;

use crate::base::time::Timestamp;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::message::FieldValue;

use super::super::mark::Mark;
use super::super::store::{Store, lane_end, lane_of, position_of, row_id};

use super::delivery::{BUFFERED_MAX, Parcel, RUN_MAX};
use super::lanes::NORMAL;
use super::publish::Arrival;
use super::topology::QueueInfo;
use super::{Engine, Fault, number};

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker::embedded) enum Beginning {
    First,
    Last,
    Next,
    Offset(i64),
    /// The first that came at this moment or later, in milliseconds since 1970.
    Since(i64),
}

impl Beginning {
    /// What `x-stream-offset` says; `next` when it is not there.
    pub(in crate::broker::embedded) fn parse(
        value: Option<&FieldValue>,
        now_ms: i64,
    ) -> Option<Beginning> {
        let Some(value) = value else { return Some(Beginning::Next) };
        if let FieldValue::Timestamp(seconds) = value {
            let seconds = i64::try_from(*seconds).ok()?;
            return Some(Beginning::Since(seconds.saturating_mul(1000)));
        }
        if let Some(offset) = value.as_i64() {
            return (offset >= 0).then_some(Beginning::Offset(offset));
        }
        match value.as_text()? {
            "first" => Some(Beginning::First),
            "last" => Some(Beginning::Last),
            "next" => Some(Beginning::Next),
            age => Some(Beginning::Since(now_ms.saturating_sub(age_ms(age)?))),
        }
    }
}

/// `7D`, `30m`: RabbitMQ's notation of an age, in milliseconds.
pub(super) fn age_ms(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds: i64 = match unit {
        'Y' => 365 * 86_400,
        'M' => 30 * 86_400,
        'D' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    let number: i64 = text.strip_suffix(unit)?.parse().ok().filter(|number| *number >= 0)?;
    Some(number.saturating_mul(seconds).saturating_mul(1000))
}

impl Engine {
    /// Puts a record at the end, and lets go of what is too much by then.
    pub(super) fn append_record(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        arrival: &Arrival<'_>,
    ) -> Result<(), Fault> {
        let size = number(arrival.body.len());
        let (row, _) = self.add_ready(store, info, NORMAL, size)?;
        let mark = Mark::default();
        store.insert_message(row, Some(self.now), mark, arrival.envelope, arrival.body)?;
        self.retain(store, info)
    }

    /// Lets go of the oldest records that are too old or too much; never of the last for its size.
    pub(super) fn retain(&mut self, store: Store<'_>, info: &Arc<QueueInfo>) -> Result<(), Fault> {
        const AT_ONCE: usize = 64;
        let oldest = info.max_age_ms.map(|age| self.now.saturating_sub(age));
        let Some(lane) = self.record_lane(store, info)? else { return Ok(()) };
        loop {
            let counters = self.counters(store, info.id)?;
            let (mut bytes, mut count) = (counters.bytes(), counters.ready());
            let is_too_much = |bytes: i64, count: i64| {
                count > 1
                    && info.max_bytes.is_some_and(|most| u64::try_from(bytes).unwrap_or(0) > most)
            };
            if oldest.is_none() && !is_too_much(bytes, count) {
                break;
            }
            let mut gone = 0;
            for row in store.record_outlines(row_id(lane, 0), lane_end(lane), AT_ONCE)? {
                let too_old = oldest.is_some_and(|oldest| row.came_at < oldest);
                if !too_old && !is_too_much(bytes, count) {
                    break;
                }
                self.remove_ready(store, info.id, row.id, row.size)?;
                bytes -= row.size;
                count -= 1;
                gone += 1;
            }
            if gone < AT_ONCE {
                break;
            }
        }
        self.refresh_due(store, info)
    }

    /// When the oldest record will be too old.
    pub(super) fn record_due(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<Option<i64>, Fault> {
        let (Some(age), Some(lane)) = (info.max_age_ms, self.record_lane(store, info)?) else {
            return Ok(None);
        };
        let first = store.first_message(row_id(lane, 0), lane_end(lane))?;
        // A record is kept through the whole of the last millisecond.
        Ok(first.and_then(|(_, came)| came).map(|came| came.saturating_add(age).saturating_add(1)))
    }

    fn record_lane(&mut self, store: Store<'_>, info: &QueueInfo) -> Result<Option<i64>, Fault> {
        Ok(self.counters(store, info.id)?.lanes.first().map(|lane| lane.row))
    }

    /// The row that a consumer begins with; it may not be there yet.
    pub(super) fn first_row(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        beginning: Beginning,
    ) -> Result<i64, Fault> {
        // The lane is there from the first reader on, so that `next` is a place.
        let index = self.lane_index(store, info, NORMAL)?;
        let lane = &self.counters(store, info.id)?.lanes[index];
        let (lane, next) = (lane.row, lane.next);
        let (first, end) = (row_id(lane, 0), lane_end(lane));
        Ok(match beginning {
            Beginning::First => first,
            Beginning::Next => row_id(lane, next),
            Beginning::Last => row_id(lane, (next - 1).max(0)),
            Beginning::Offset(offset) => {
                let position = offset.saturating_add(1).min(position_of(end));
                row_id(lane, position)
            }
            Beginning::Since(time) => {
                store.first_record_since(first, end, time)?.unwrap_or(row_id(lane, next))
            }
        })
    }

    /// Hands each reader in this process what comes next for it, as far as it has room.
    pub(super) fn serve_readers(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<(), Fault> {
        let Some(lane) = self.record_lane(store, info)? else { return Ok(()) };
        let readers: Vec<i64> = self
            .consumers
            .iter()
            .filter(|(_, local)| local.queue == info.id && local.room() > 0)
            .map(|(id, _)| *id)
            .collect();
        for id in readers {
            loop {
                let next = self.counters(store, info.id)?.lanes.first().map_or(0, |lane| lane.next);
                let Some(local) = self.consumers.get(&id) else { break };
                let (Some(from), room) = (local.next_record, local.room()) else { break };
                if room == 0 || position_of(from) >= next || lane_of(from) != lane {
                    break;
                }
                let most = room.min(RUN_MAX);
                let rows = store.messages(from, lane_end(lane), most, BUFFERED_MAX / 2)?;
                let Some(last) = rows.last().map(|row| row.id) else { break };
                self.touched_consumers = true;
                let Some(local) = self.consumers.get_mut(&id) else { break };
                local.next_record = Some(last + 1);
                let bytes: usize = rows.iter().map(|row| row.body.len()).sum();
                local.buffered.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                for row in rows {
                    let tag = local.next_tag;
                    local.next_tag += 1;
                    local.tags.insert(tag, row.id);
                    local.held.insert(row.id, tag);
                    self.outgoing.push((
                        id,
                        Ok(Parcel {
                            tag,
                            redelivered: false,
                            count: None,
                            offset: Some(position_of(row.id) - 1),
                            envelope: row.envelope,
                            body: row.body,
                        }),
                    ));
                }
            }
        }
        Ok(())
    }

    /// A reader has room again for as many as it settled.
    pub(super) fn record_read(&mut self, consumer: i64, rows: Vec<i64>) {
        let Some(local) = self.consumers.get_mut(&consumer) else { return };
        for row in rows {
            if let Some(tag) = local.held.remove(&row) {
                local.tags.remove(&tag);
            }
        }
    }
}

/// What `queue.purge` of a stream is answered with.
pub(in crate::broker::embedded) fn not_for_streams(
    attempted: &str,
    queue: &str,
    vhost: &str,
) -> Fault {
    let text =
        format!("queue.purge not supported by stream queues queue '{queue}' in vhost '{vhost}'");
    BrokerError::new(ErrorKind::Unsupported, attempted, "a stream keeps what it has")
        .reply(540, format!("NOT_IMPLEMENTED - {text}"))
        .hint("bound it by `max-age` or `max-length-bytes`, or delete it")
        .into()
}

/// What an offset that cannot be read is answered with.
pub(in crate::broker::embedded) fn bad_offset(attempted: &str) -> BrokerError {
    BrokerError::new(
        ErrorKind::Invalid,
        attempted,
        format!(
            "`x-stream-offset` is first, last, next, a number, a time such as {} or an age such as 7D",
            Timestamp::from_unix_ms(0)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_rabbitmq_reads_them() {
        let text = |text: &str| FieldValue::from(text);
        let now = 10_000_000;
        for (value, expected) in [
            (None, Some(Beginning::Next)),
            (Some(text("first")), Some(Beginning::First)),
            (Some(text("last")), Some(Beginning::Last)),
            (Some(FieldValue::Int64(5)), Some(Beginning::Offset(5))),
            (Some(FieldValue::Int32(0)), Some(Beginning::Offset(0))),
            (Some(FieldValue::Timestamp(7)), Some(Beginning::Since(7000))),
            (Some(text("1h")), Some(Beginning::Since(now - 3_600_000))),
            (Some(text("90s")), Some(Beginning::Since(now - 90_000))),
            (Some(text("middle")), None),
            (Some(text("-1s")), None),
            (Some(FieldValue::Int64(-1)), None),
            (Some(FieldValue::Bool(true)), None),
        ] {
            assert_eq!(Beginning::parse(value.as_ref(), now), expected, "{value:?}");
        }
    }
}
