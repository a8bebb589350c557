//! What the engine knows of its vhost (queues with their policies, the routing table), when that is read
//! again, and what goes along when a queue is deleted or purged.

use std::sync::Arc;

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::broker::effective::{
    DeadLetterStrategy, EffectiveQueue, Overflow, Policies, effective_exchange, effective_queue,
};
use crate::broker::routing::{RoutingExchange, RoutingTable};
use crate::message::FieldTable;
use crate::storage::rusqlite;

use super::super::codec::{Damaged, decode_table, encode_table};
use super::super::store::{BindingRow, ExchangeRow, PolicyRow, QueueRow, Store, lane_end, row_id};

use super::stream::age_ms;
use super::{Engine, Fault, damaged};

/// What a queue is and does.
#[derive(Debug)]
pub(in crate::broker::embedded) struct QueueInfo {
    pub(in crate::broker::embedded) id: i64,
    pub(in crate::broker::embedded) definition: QueueDefinition,
    pub(in crate::broker::embedded) queue_type: QueueType,
    pub(in crate::broker::embedded) effective: EffectiveQueue,
    pub(super) ttl_ms: Option<u64>,
    pub(super) expires_ms: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) overflow: Overflow,
    pub(super) dead_letter_exchange: Option<ExchangeName>,
    pub(super) dead_letter_key: Option<String>,
    pub(super) at_least_once: bool,
    pub(super) delivery_limit: Option<u32>,
    pub(super) max_priority: Option<u8>,
    pub(super) single_active: bool,
    /// How long a stream keeps a record.
    pub(super) max_age_ms: Option<i64>,
}

impl QueueInfo {
    pub(super) fn name(&self) -> &str {
        self.definition.name.as_str()
    }

    pub(super) fn is_quorum(&self) -> bool {
        self.queue_type == QueueType::Quorum
    }

    pub(in crate::broker::embedded) fn is_stream(&self) -> bool {
        self.queue_type == QueueType::Stream
    }
}

pub(super) struct Routing {
    pub(super) table: RoutingTable,
    pub(super) queues: Vec<i64>,
}

pub(in crate::broker::embedded) fn queue_of(row: QueueRow) -> Result<QueueDefinition, Fault> {
    Ok(QueueDefinition {
        name: QueueName::new(row.name).map_err(|_| damaged(Damaged))?,
        durable: row.durable,
        exclusive: row.owner.is_some(),
        auto_delete: row.auto_delete,
        arguments: decode_table(&row.arguments).map_err(damaged)?,
    })
}

pub(in crate::broker::embedded) fn exchange_of(
    row: ExchangeRow,
) -> Result<ExchangeDefinition, Fault> {
    Ok(ExchangeDefinition {
        name: ExchangeName::new(row.name).map_err(|_| damaged(Damaged))?,
        kind: ExchangeKind::from(row.kind.as_str()),
        durable: row.durable,
        auto_delete: row.auto_delete,
        internal: row.internal,
        arguments: decode_table(&row.arguments).map_err(damaged)?,
    })
}

pub(in crate::broker::embedded) fn binding_of(row: BindingRow) -> Result<BindingDefinition, Fault> {
    let wrong = || damaged(Damaged);
    Ok(BindingDefinition {
        source: ExchangeName::new(row.source).map_err(|_| wrong())?,
        destination: if row.to_queue {
            Destination::Queue(QueueName::new(row.destination).map_err(|_| wrong())?)
        } else {
            Destination::Exchange(ExchangeName::new(row.destination).map_err(|_| wrong())?)
        },
        routing_key: RoutingKey::new(row.key).map_err(|_| wrong())?,
        arguments: decode_table(&row.arguments).map_err(damaged)?,
    })
}

pub(in crate::broker::embedded) fn policy_of(row: PolicyRow) -> Result<PolicyDefinition, Fault> {
    let wrong = || damaged(Damaged);
    Ok(PolicyDefinition {
        name: crate::base::id::PolicyName::new(row.name).map_err(|_| wrong())?,
        pattern: row.pattern,
        apply_to: row.apply_to.parse().map_err(|_| wrong())?,
        priority: row.priority,
        definition: serde_json::from_str(&row.definition).map_err(|_| wrong())?,
    })
}

impl Engine {
    pub(super) fn refresh(&mut self, store: Store<'_>) -> Result<(), Fault> {
        let data_version = store.data_version()?;
        if data_version == self.data_version {
            return Ok(());
        }
        self.counters.clear();
        let vhost = match store.vhost(self.vhost.as_str())? {
            Some(vhost) => vhost,
            None => {
                self.make_vhost(store)?;
                store.vhost(self.vhost.as_str())?.ok_or(rusqlite::Error::QueryReturnedNoRows)?
            }
        };
        self.vhost_id = vhost.id;
        self.default_queue_type =
            vhost.default_queue_type.and_then(|name| name.parse::<QueueType>().ok());
        if vhost.topology != self.topology_version {
            self.routing = None;
            self.infos.clear();
            self.topology_version = vhost.topology;
        }
        if vhost.policies != self.policies_version {
            self.policies = None;
            self.routing = None;
            self.infos.clear();
            self.policies_version = vhost.policies;
        }
        let mut cancelled = Vec::new();
        for id in self.consumers.keys() {
            if !store.has_consumer(*id)? {
                cancelled.push(*id);
            }
        }
        for id in cancelled {
            self.cancel(id);
        }
        self.data_version = data_version;
        Ok(())
    }

    fn make_vhost(&mut self, store: Store<'_>) -> Result<(), Fault> {
        let id = store.insert_vhost(self.vhost.as_str())?;
        for (name, kind, internal) in [
            ("amq.direct", "direct", false),
            ("amq.fanout", "fanout", false),
            ("amq.headers", "headers", false),
            ("amq.match", "headers", false),
            ("amq.rabbitmq.trace", "topic", true),
            ("amq.topic", "topic", false),
        ] {
            store.insert_exchange(
                id,
                &ExchangeRow {
                    name: name.to_owned(),
                    kind: kind.to_owned(),
                    durable: true,
                    auto_delete: false,
                    internal,
                    arguments: encode_table(&FieldTable::new()),
                },
            )?;
        }
        Ok(())
    }

    /// Exchanges, queues or bindings have changed.
    pub(in crate::broker::embedded) fn topology_changed(
        &mut self,
        store: Store<'_>,
    ) -> Result<(), Fault> {
        store.bump_topology(self.vhost_id)?;
        self.topology_version += 1;
        self.routing = None;
        Ok(())
    }

    /// Policies have changed: every queue may do something else now.
    pub(in crate::broker::embedded) fn policies_changed(
        &mut self,
        store: Store<'_>,
    ) -> Result<(), Fault> {
        store.bump_policies(self.vhost_id)?;
        self.policies_version += 1;
        self.policies = None;
        self.routing = None;
        self.infos.clear();
        for (id, _) in store.queue_names(self.vhost_id)? {
            let Some(info) = self.info(store, id)? else { continue };
            self.enforce_limits(store, &info, self.now)?;
            self.refresh_due(store, &info)?;
        }
        Ok(())
    }

    pub(in crate::broker::embedded) fn policies(
        &mut self,
        store: Store<'_>,
    ) -> Result<&Policies, Fault> {
        if self.policies.is_none() {
            let (operator, plain): (Vec<PolicyRow>, Vec<PolicyRow>) =
                store.policies(self.vhost_id)?.into_iter().partition(|policy| policy.operator);
            let read = |rows: Vec<PolicyRow>| -> Result<Vec<PolicyDefinition>, Fault> {
                rows.into_iter().map(policy_of).collect()
            };
            self.policies = Some(Policies::compile(&read(plain)?, &read(operator)?));
        }
        self.policies.as_ref().ok_or(Fault::Sql(rusqlite::Error::InvalidQuery))
    }

    /// What the queue is and does; `None` when it is gone.
    pub(in crate::broker::embedded) fn info(
        &mut self,
        store: Store<'_>,
        queue: i64,
    ) -> Result<Option<Arc<QueueInfo>>, Fault> {
        if let Some(info) = self.infos.get(&queue) {
            return Ok(Some(Arc::clone(info)));
        }
        let Some(row) = store.queue(queue)? else { return Ok(None) };
        let info = self.info_of(store, row)?;
        self.infos.insert(queue, Arc::clone(&info));
        Ok(Some(info))
    }

    fn info_of(&mut self, store: Store<'_>, row: QueueRow) -> Result<Arc<QueueInfo>, Fault> {
        let id = row.id;
        let queue_type: QueueType = row.queue_type.parse().map_err(|_| damaged(Damaged))?;
        let definition = queue_of(row)?;
        let version = self.version;
        let effective = effective_queue(&definition, queue_type, self.policies(store)?, version);
        Ok(Arc::new(QueueInfo {
            id,
            queue_type,
            ttl_ms: effective.message_ttl_ms(),
            expires_ms: effective.expires_ms(),
            max_length: effective.max_length(),
            max_bytes: effective.max_length_bytes(),
            overflow: effective.overflow(),
            dead_letter_exchange: effective
                .dead_letter_exchange()
                .and_then(|name| ExchangeName::new(name).ok()),
            dead_letter_key: effective.dead_letter_routing_key().map(str::to_owned),
            at_least_once: effective.dead_letter_strategy() == DeadLetterStrategy::AtLeastOnce,
            delivery_limit: effective.delivery_limit(),
            max_priority: effective.max_priority(),
            single_active: effective.single_active_consumer(),
            max_age_ms: effective
                .setting("max-age")
                .and_then(|setting| setting.value.as_text())
                .and_then(age_ms),
            definition,
            effective,
        }))
    }

    pub(super) fn routing(&mut self, store: Store<'_>) -> Result<&Routing, Fault> {
        if self.routing.is_none() {
            let vhost = self.vhost_id;
            let policies = self.policies(store)?;
            let mut exchanges = Vec::new();
            for row in store.exchanges(vhost)? {
                let definition = exchange_of(row)?;
                let alternate = effective_exchange(&definition, policies)
                    .alternate()
                    .and_then(|name| ExchangeName::new(name).ok());
                exchanges.push(RoutingExchange { definition, alternate });
            }
            let mut queues = Vec::new();
            let mut names = Vec::new();
            for (id, name) in store.queue_names(vhost)? {
                queues.push(id);
                names.push(QueueName::new(name).map_err(|_| damaged(Damaged))?);
            }
            let bindings = store
                .bindings(vhost)?
                .into_iter()
                .map(binding_of)
                .collect::<Result<Vec<_>, Fault>>()?;
            self.routing =
                Some(Routing { table: RoutingTable::new(exchanges, names, bindings), queues });
        }
        self.routing.as_ref().ok_or(Fault::Sql(rusqlite::Error::InvalidQuery))
    }

    /// Deletes a queue with everything that belongs to it; returns how many messages it held.
    pub(in crate::broker::embedded) fn delete_queue(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<u64, Fault> {
        let (ready, unacked) = self.depth(store, info.id)?;
        for lane in store.lanes(info.id)? {
            store.delete_messages(row_id(lane.id, 0), lane_end(lane.id))?;
            store.delete_leases_in(lane.id)?;
        }
        store.delete_lanes(info.id)?;
        for consumer in store.delete_consumers_on(info.id)? {
            self.cancel(consumer);
        }
        let sources = store.delete_bindings_to(self.vhost_id, true, info.name())?;
        store.delete_queue(info.id)?;
        self.counters.remove(&info.id);
        self.infos.remove(&info.id);
        self.topology_changed(store)?;
        self.delete_unused_exchanges(store, sources)?;
        Ok(ready + unacked)
    }

    /// Deletes those of `sources` that are to go with their last binding and have none any more.
    pub(in crate::broker::embedded) fn delete_unused_exchanges(
        &mut self,
        store: Store<'_>,
        sources: Vec<String>,
    ) -> Result<(), Fault> {
        let mut waiting = sources;
        while let Some(name) = waiting.pop() {
            let Some(exchange) = store.exchange(self.vhost_id, &name)? else { continue };
            if exchange.auto_delete && !store.has_binding_from(self.vhost_id, &name)? {
                store.delete_exchange(self.vhost_id, &name)?;
                waiting.extend(store.delete_bindings_to(self.vhost_id, false, &name)?);
                self.topology_changed(store)?;
            }
        }
        Ok(())
    }

    /// Removes what is ready; returns how many there were.
    pub(in crate::broker::embedded) fn purge(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
    ) -> Result<u64, Fault> {
        let mut purged = 0;
        for lane in self.counters(store, info.id)?.served() {
            for (first, last, _) in Self::gaps(store, lane)? {
                purged += store.delete_messages(first, last)?;
            }
            let lane = self.lane_by_row(store, info.id, row_id(lane, 0))?;
            lane.ready = 0;
            lane.bytes = 0;
        }
        self.refresh_due(store, info)?;
        Ok(u64::try_from(purged).unwrap_or(0))
    }
}
