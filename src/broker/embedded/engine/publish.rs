//! The way of a message into its queues: routed, refused or returned, put at the end of a lane.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc::UnboundedSender;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::effective::Overflow;
use crate::broker::error::BrokerError;
use crate::broker::port::{Outcome, Ticket};
use crate::broker::routing::Refusal;
use crate::message::FieldTable;

use super::super::death::Reason;
use super::super::mark::Mark;
use super::super::store::Store;

use super::lanes::{CLASSIC_LOWEST, HIGH_LANE, NORMAL, set_clock};
use super::topology::QueueInfo;
use super::{Engine, Fault, delay, number};

/// A message on its way in, everything that can be done before it reaches the writer being done.
#[derive(Debug)]
pub(in crate::broker::embedded) struct Publication {
    pub(in crate::broker::embedded) exchange: ExchangeName,
    pub(in crate::broker::embedded) routing_key: RoutingKey,
    pub(in crate::broker::embedded) copies: Vec<String>,
    pub(in crate::broker::embedded) headers: FieldTable,
    pub(in crate::broker::embedded) envelope: Vec<u8>,
    pub(in crate::broker::embedded) body: Vec<u8>,
    pub(in crate::broker::embedded) priority: u8,
    pub(in crate::broker::embedded) ttl_ms: Option<u64>,
    pub(in crate::broker::embedded) persistent: bool,
    pub(in crate::broker::embedded) ticket: Ticket,
    /// Why its publisher's messages are not taken any more, so that none overtakes one that failed.
    pub(in crate::broker::embedded) failed: Arc<OnceLock<BrokerError>>,
    pub(in crate::broker::embedded) reply: UnboundedSender<(Ticket, Outcome)>,
    pub(in crate::broker::embedded) outcome: Option<Outcome>,
}

/// A message about to enter a queue.
pub(super) struct Arrival<'a> {
    pub(super) envelope: &'a [u8],
    pub(super) body: &'a [u8],
    pub(super) priority: u8,
    pub(super) ttl_ms: Option<u64>,
    pub(super) mark: Mark,
    pub(super) at: i64,
}

impl Engine {
    pub(super) fn publish(
        &mut self,
        store: Store<'_>,
        publication: &mut Publication,
    ) -> Result<(), Fault> {
        if let Some(error) = publication.failed.get() {
            publication.outcome = Some(Outcome::Failed(Box::new(error.clone())));
            return Ok(());
        }
        let vhost = self.vhost.clone();
        let routing = self.routing(store)?;
        let refused = match routing.table.check_publish(&publication.exchange) {
            Ok(()) => None,
            Err(Refusal::MissingExchange) => Some((
                404,
                format!("NOT_FOUND - no exchange '{}' in vhost '{vhost}'", publication.exchange),
            )),
            Err(Refusal::InternalExchange) => Some((
                403,
                format!(
                    "ACCESS_REFUSED - cannot publish to internal exchange '{}' in vhost '{vhost}'",
                    publication.exchange
                ),
            )),
        };
        if let Some((code, text)) = refused {
            publication.outcome = Some(Outcome::Returned { code, text });
            return Ok(());
        }
        let targets: Vec<i64> = routing
            .table
            .targets(
                &publication.exchange,
                publication.routing_key.as_str(),
                &publication.headers,
                &publication.copies,
            )
            .into_iter()
            .filter_map(|index| routing.queues.get(index).copied())
            .collect();
        if targets.is_empty() {
            publication.outcome =
                Some(Outcome::Returned { code: 312, text: "NO_ROUTE".to_owned() });
            return Ok(());
        }
        let mut accepted = true;
        for queue in targets {
            let arrival = Arrival {
                envelope: &publication.envelope,
                body: &publication.body,
                priority: publication.priority,
                ttl_ms: publication.ttl_ms,
                mark: Mark::default(),
                at: self.now,
            };
            accepted &= self.arrive(store, queue, &arrival)?;
        }
        publication.outcome = Some(if accepted { Outcome::Confirmed } else { Outcome::Nacked });
        Ok(())
    }

    /// Puts a message into a queue; `false` when the queue refuses it.
    pub(super) fn arrive(
        &mut self,
        store: Store<'_>,
        queue: i64,
        arrival: &Arrival<'_>,
    ) -> Result<bool, Fault> {
        let Some(info) = self.info(store, queue)? else { return Ok(true) };
        if info.is_stream() {
            self.append_record(store, &info, arrival)?;
            return Ok(true);
        }
        let size = number(arrival.body.len());
        if self.would_refuse(store, &info, size)? {
            // A waiting consumer would have had the earlier ones by now.
            self.dispatch(store, &info, false)?;
            if self.would_refuse(store, &info, size)? {
                if info.overflow == Overflow::RejectPublishDlx {
                    self.die(
                        &info,
                        arrival.envelope,
                        arrival.body.to_vec(),
                        arrival.mark,
                        Reason::MaxLength,
                        arrival.at,
                    )?;
                }
                return Ok(false);
            }
        }
        let mut mark = arrival.mark;
        let rank = if info.is_quorum() {
            if self.capabilities.quorum_priorities && arrival.priority >= 5 {
                mark = mark.high();
                HIGH_LANE
            } else {
                NORMAL
            }
        } else {
            let priority = info.max_priority.map_or(0, |max| arrival.priority.min(max));
            CLASSIC_LOWEST - i64::from(priority)
        };
        let ttl = match (arrival.ttl_ms, info.ttl_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let expires_at = ttl.map(|ms| arrival.at.saturating_add(delay(ms)));
        self.append(store, &info, rank, arrival, mark, expires_at)?;
        if ttl == Some(0) {
            self.dispatch(store, &info, true)?;
        }
        if info.is_quorum() {
            if ttl == Some(0) {
                self.expire_messages(store, &info, arrival.at)?;
            }
            self.enforce_limits(store, &info, arrival.at)?;
        } else {
            let dropped = self.enforce_limits(store, &info, arrival.at)?;
            // A classic queue does not look at the head that a message of higher priority becomes.
            if dropped || self.counters(store, info.id)?.ready() == 1 {
                self.expire_messages(store, &info, arrival.at)?;
                self.refresh_due(store, &info)?;
            }
        }
        Ok(true)
    }

    pub(super) fn append(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        rank: i64,
        arrival: &Arrival<'_>,
        mark: Mark,
        expires_at: Option<i64>,
    ) -> Result<(), Fault> {
        let size = number(arrival.body.len());
        let (row, index) = self.add_ready(store, info, rank, size)?;
        store.insert_message(row, expires_at, mark, arrival.envelope, arrival.body)?;
        let counters = self.counters(store, info.id)?;
        let lane = &counters.lanes[index];
        if let Some(expires_at) = expires_at {
            // When a classic queue looks is decided once it has taken the message.
            let head = lane.ready == 1 && info.is_quorum();
            counters.dirty |= !counters.may_expire;
            counters.may_expire = true;
            if head && counters.due_at.is_none_or(|due| due > expires_at) {
                counters.due_at = Some(expires_at);
                // The index on it is asked before this batch ends.
                set_clock(store, info.id, counters)?;
            }
        }
        Ok(())
    }
}
