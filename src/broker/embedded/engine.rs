//! What the embedded broker does: requests in, rows and deliveries out. Runs on the state file's
//! writer, a batch of requests in one transaction; nobody outside sees a batch before its commit.
//!
//! Invariants:
//! - A row of `broker_message` is ready unless a lease covers it. A lease belongs to one consumer, a
//!   consumer to one session, a session to one living process.
//! - Counters in memory are those of the file plus what this batch did; they are dropped whenever
//!   another process has written or a batch has failed.
//! - What the time does (expiry) is done before a request is looked at, in the order in which it
//!   would have happened, by the clock that was handed in.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc::UnboundedSender;

use crate::base::id::{ExchangeName, QueueName, RoutingKey, VhostName};
use crate::base::time::Clock;
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::broker::effective::{
    DeadLetterStrategy, EffectiveQueue, Overflow, Policies, effective_exchange, effective_queue,
};
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Outcome, Settlement, Ticket};
use crate::broker::routing::{Refusal, RoutingExchange, RoutingTable};
use crate::broker::version::{Capabilities, Version};
use crate::message::{FieldTable, FieldValue};
use crate::storage::{Durability, StateFile, StorageError, rusqlite};

use super::codec::{Damaged, Envelope, decode_table};
use super::death::{Death, Reason, bury, is_cycle};
use super::mark::Mark;
use super::store::{
    BindingRow, ClockRow, ExchangeRow, LaneRow, LeaseRow, MessageRow, POSITION_MAX, PolicyRow,
    QueueRow, Store, lane_end, lane_of, position_of, row_id,
};

/// Rows handed out at once, so that several consumers get their turns and batches stay small.
const RUN_MAX: usize = 512;
/// Bytes that lie with a consumer and have not been taken by it.
pub(super) const BUFFERED_MAX: usize = 16 << 20;

/// Lanes of a quorum queue, in the order in which they are served; a classic queue's lanes are
/// numbered from 0 for priority 255 to 255 for none.
const RETURNED: i64 = 0;
const HIGH_LANE: i64 = 1;
const NORMAL: i64 = 2;
/// Dead letters that have to arrive and cannot yet; never served.
const UNDELIVERED: i64 = 1000;
const CLASSIC_LOWEST: i64 = 255;

/// How long a dead letter that has to arrive waits before it is tried again.
const RETRY_MS: i64 = 1000;

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// The broker's answer is no; nothing was changed.
    Broker(Box<BrokerError>),
    /// SQLite failed; the batch is lost.
    Sql(rusqlite::Error),
    /// The file failed; the batch is lost.
    Storage(StorageError),
}

impl From<BrokerError> for Fault {
    fn from(error: BrokerError) -> Self {
        Fault::Broker(Box::new(error))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sql(error)
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Fault::Storage(error)
    }
}

/// A message on its way in, everything that can be done before it reaches the writer being done.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) exchange: ExchangeName,
    pub(super) routing_key: RoutingKey,
    pub(super) copies: Vec<String>,
    pub(super) headers: FieldTable,
    pub(super) envelope: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) priority: u8,
    pub(super) ttl_ms: Option<u64>,
    pub(super) persistent: bool,
    pub(super) ticket: Ticket,
    /// Why its publisher's messages are not taken any more, so that none overtakes one that failed.
    pub(super) failed: Arc<OnceLock<BrokerError>>,
    pub(super) reply: UnboundedSender<(Ticket, Outcome)>,
    pub(super) outcome: Option<Outcome>,
}

/// Anything else that is asked of the engine.
pub(super) trait Call: Send {
    fn run(&mut self, engine: &mut Engine, store: Store<'_>) -> Result<(), Fault>;
    fn done(self: Box<Self>, result: Result<(), StorageError>);
}

/// What is asked of the engine.
pub(super) enum Request {
    Publish(Box<Publication>),
    Settle {
        consumer: i64,
        tag: u64,
        how: Settlement,
    },
    Call(Durability, Box<dyn Call>),
    /// Look whether something is to be done.
    Tick,
}

impl Request {
    pub(super) fn durability(&self) -> Durability {
        match self {
            Request::Publish(publication) if publication.persistent => Durability::Disk,
            Request::Publish(_) | Request::Settle { .. } | Request::Tick => Durability::Process,
            Request::Call(durability, _) => *durability,
        }
    }
}

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    /// What `x-delivery-count` has to say, when it has to say something.
    pub(super) count: Option<i64>,
    pub(super) envelope: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// A consumer of this process.
#[derive(Debug)]
struct Local {
    queue: i64,
    prefetch: usize,
    priority: i64,
    served: u64,
    next_tag: u64,
    next_turn: i64,
    tags: BTreeMap<u64, i64>,
    held: BTreeMap<i64, u64>,
    /// First row to last row and turn.
    leases: BTreeMap<i64, (i64, i64)>,
    newest: Option<i64>,
    buffered: Arc<AtomicUsize>,
    sender: UnboundedSender<Result<Parcel, BrokerError>>,
}

impl Local {
    fn room(&self) -> usize {
        if self.buffered.load(Ordering::Relaxed) >= BUFFERED_MAX {
            return 0;
        }
        self.prefetch.saturating_sub(self.held.len())
    }
}

/// What a queue is and does.
#[derive(Debug)]
pub(super) struct QueueInfo {
    pub(super) id: i64,
    pub(super) definition: QueueDefinition,
    pub(super) queue_type: QueueType,
    pub(super) effective: EffectiveQueue,
    ttl_ms: Option<u64>,
    expires_ms: Option<u64>,
    max_length: Option<u64>,
    max_bytes: Option<u64>,
    overflow: Overflow,
    dead_letter_exchange: Option<ExchangeName>,
    dead_letter_key: Option<String>,
    at_least_once: bool,
    delivery_limit: Option<u32>,
    max_priority: Option<u8>,
    single_active: bool,
}

impl QueueInfo {
    fn name(&self) -> &str {
        self.definition.name.as_str()
    }

    fn is_quorum(&self) -> bool {
        self.queue_type == QueueType::Quorum
    }
}

#[derive(Debug)]
struct Lane {
    row: i64,
    rank: i64,
    next: i64,
    ready: i64,
    unacked: i64,
    bytes: i64,
    dirty: bool,
}

#[derive(Debug)]
struct Counters {
    lanes: Vec<Lane>,
    due_at: Option<i64>,
    may_expire: bool,
    unused_since: i64,
    turn: i64,
    dirty: bool,
}

impl Counters {
    fn ready(&self) -> i64 {
        self.lanes.iter().filter(|lane| lane.rank != UNDELIVERED).map(|lane| lane.ready).sum()
    }

    fn unacked(&self) -> i64 {
        self.lanes.iter().map(|lane| lane.unacked).sum()
    }

    fn bytes(&self) -> i64 {
        self.lanes.iter().filter(|lane| lane.rank != UNDELIVERED).map(|lane| lane.bytes).sum()
    }
}

struct Routing {
    table: RoutingTable,
    queues: Vec<i64>,
}

/// A message between two queues.
struct DeadLetter {
    source: i64,
    envelope: Envelope,
    copies: Vec<String>,
    body: Vec<u8>,
    mark: Mark,
    reason: Reason,
    at: i64,
}

/// A message about to enter a queue.
struct Arrival<'a> {
    envelope: &'a [u8],
    body: &'a [u8],
    priority: u8,
    ttl_ms: Option<u64>,
    mark: Mark,
    at: i64,
}

pub(super) struct Engine {
    pub(super) file: Arc<StateFile>,
    clock: Arc<dyn Clock>,
    pub(super) version: Version,
    pub(super) capabilities: Capabilities,
    pub(super) vhost: VhostName,
    pub(super) vhost_id: i64,
    pub(super) session: i64,
    /// The moment of this batch in milliseconds since 1970.
    pub(super) now: i64,
    data_version: i64,
    topology_version: i64,
    policies_version: i64,
    pub(super) default_queue_type: Option<QueueType>,
    policies: Option<Policies>,
    infos: HashMap<i64, Arc<QueueInfo>>,
    routing: Option<Routing>,
    counters: HashMap<i64, Counters>,
    consumers: BTreeMap<i64, Local>,
    serves: u64,
    dead: VecDeque<DeadLetter>,
    outgoing: Vec<(i64, Result<Parcel, BrokerError>)>,
    /// Consumers of which this batch has changed something that a failure would leave wrong.
    touched_consumers: bool,
    /// When the next queue is due, for whoever waits.
    pub(super) next_due: Option<i64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("vhost", &self.vhost).finish_non_exhaustive()
    }
}

fn damaged(_: Damaged) -> Fault {
    Fault::Sql(rusqlite::Error::InvalidQuery)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn delay(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

impl Engine {
    pub(super) fn new(
        file: Arc<StateFile>,
        clock: Arc<dyn Clock>,
        version: Version,
        vhost: VhostName,
        session: i64,
    ) -> Engine {
        let now = clock.now().unix_ms();
        Engine {
            file,
            clock,
            version,
            capabilities: Capabilities::of(version),
            vhost,
            vhost_id: 0,
            session,
            now,
            data_version: -1,
            topology_version: 0,
            policies_version: 0,
            default_queue_type: None,
            policies: None,
            infos: HashMap::new(),
            routing: None,
            counters: HashMap::new(),
            consumers: BTreeMap::new(),
            serves: 0,
            dead: VecDeque::new(),
            outgoing: Vec::new(),
            touched_consumers: false,
            next_due: None,
        }
    }

    /// Carries out a batch. After an error nothing of it counts and [`Engine::failed`] is called.
    pub(super) fn batch(
        &mut self,
        store: Store<'_>,
        requests: &mut [Request],
    ) -> Result<(), Fault> {
        self.now = self.clock.now().unix_ms();
        self.refresh(store)?;
        self.advance(store)?;
        for request in requests {
            match request {
                Request::Publish(publication) => self.publish(store, publication)?,
                Request::Settle { consumer, tag, how } => {
                    self.settle(store, *consumer, *tag, *how)?;
                }
                Request::Call(_, call) => call.run(self, store)?,
                Request::Tick => {}
            }
            self.deliver_dead_letters(store)?;
        }
        self.dispatch_all(store)?;
        self.flush(store)?;
        self.next_due = store.first_due(self.vhost_id)?;
        Ok(())
    }

    /// After the commit: what was claimed goes out.
    pub(super) fn committed(&mut self) {
        self.touched_consumers = false;
        for (id, parcel) in self.outgoing.drain(..) {
            let gone = parcel.is_err();
            if let Some(local) = self.consumers.get(&id) {
                // A receiver that was dropped has its detachment on the way.
                let _ = local.sender.send(parcel);
            }
            if gone {
                self.consumers.remove(&id);
            }
        }
    }

    /// After a failed batch: nothing in memory is believed any more, and consumers whose state may
    /// be wrong are ended with the cause.
    pub(super) fn failed(&mut self, settled: bool, error: &StorageError) {
        let affected = settled || self.touched_consumers || !self.outgoing.is_empty();
        self.forget();
        self.policies = None;
        self.routing = None;
        self.infos.clear();
        self.topology_version = 0;
        self.policies_version = 0;
        self.dead.clear();
        self.outgoing.clear();
        self.touched_consumers = false;
        if affected {
            for (_, local) in std::mem::take(&mut self.consumers) {
                let _ = local.sender.send(Err(storage_error("consume", error)));
            }
        }
    }

    fn forget(&mut self) {
        self.counters.clear();
        self.data_version = -1;
    }

    /// Whether the moment `due` has come.
    pub(super) fn is_due(&self, due: i64) -> bool {
        self.clock.now().unix_ms() >= due
    }

    /// Whether somebody in this process waits for messages.
    pub(super) fn has_waiting_consumers(&self) -> bool {
        self.consumers.values().any(|local| local.room() > 0)
    }

    // --- what is known ---

    fn refresh(&mut self, store: Store<'_>) -> Result<(), Fault> {
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
                    arguments: super::codec::encode_table(&FieldTable::new()),
                },
            )?;
        }
        Ok(())
    }

    /// Exchanges, queues or bindings have changed.
    pub(super) fn topology_changed(&mut self, store: Store<'_>) -> Result<(), Fault> {
        store.bump_topology(self.vhost_id)?;
        self.topology_version += 1;
        self.routing = None;
        Ok(())
    }

    /// Policies have changed: every queue may do something else now.
    pub(super) fn policies_changed(&mut self, store: Store<'_>) -> Result<(), Fault> {
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

    pub(super) fn policies(&mut self, store: Store<'_>) -> Result<&Policies, Fault> {
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
    pub(super) fn info(
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
            definition,
            effective,
        }))
    }

    fn routing(&mut self, store: Store<'_>) -> Result<&Routing, Fault> {
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

    fn counters(&mut self, store: Store<'_>, queue: i64) -> Result<&mut Counters, Fault> {
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
    pub(super) fn depth(&mut self, store: Store<'_>, queue: i64) -> Result<(u64, u64), Fault> {
        let counters = self.counters(store, queue)?;
        let natural = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok((natural(counters.ready()), natural(counters.unacked())))
    }

    fn lane_index(
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

    fn lane_by_row(&mut self, store: Store<'_>, queue: i64, row: i64) -> Result<&mut Lane, Fault> {
        let lane = self
            .counters(store, queue)?
            .lanes
            .iter_mut()
            .find(|lane| lane.row == lane_of(row))
            .ok_or(Fault::Sql(rusqlite::Error::InvalidQuery))?;
        lane.dirty = true;
        Ok(lane)
    }

    fn flush(&mut self, store: Store<'_>) -> Result<(), Fault> {
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

    // --- messages in ---

    fn publish(&mut self, store: Store<'_>, publication: &mut Publication) -> Result<(), Fault> {
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

    fn would_refuse(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        size: i64,
    ) -> Result<bool, Fault> {
        if info.overflow == Overflow::DropHead {
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

    /// Puts a message into a queue; `false` when the queue refuses it.
    fn arrive(
        &mut self,
        store: Store<'_>,
        queue: i64,
        arrival: &Arrival<'_>,
    ) -> Result<bool, Fault> {
        let Some(info) = self.info(store, queue)? else { return Ok(true) };
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

    fn append(
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

    /// Counts a message at the end of a lane; returns the row it is to have there, and the lane.
    fn add_ready(
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

    /// Drops from the head what is too much; whether there was anything.
    fn enforce_limits(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        at: i64,
    ) -> Result<bool, Fault> {
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

    // --- order ---

    /// The lane that is served next and how many messages in a row come from it.
    fn next_run(
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
    fn head(store: Store<'_>, lane: i64) -> Result<Option<(i64, Option<i64>)>, Fault> {
        for (first, last, _) in Self::gaps(store, lane)? {
            let head = store.first_message(first, last)?;
            if head.is_some() {
                return Ok(head);
            }
        }
        Ok(None)
    }

    fn advance_turn(
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
    fn gaps(store: Store<'_>, lane: i64) -> Result<Vec<(i64, i64, Option<i64>)>, Fault> {
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
    fn take_head(
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

    fn remove_ready(
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

    // --- time ---

    /// Does what the time has done since the last request, in the order in which it was due.
    fn advance(&mut self, store: Store<'_>) -> Result<(), Fault> {
        while let Some((queue, due)) = store.next_due(self.vhost_id, self.now)? {
            let Some(info) = self.info(store, queue)? else { break };
            if self.is_queue_expired(store, &info, due)? {
                self.delete_queue(store, &info)?;
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
    fn expire_messages(
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
        let lanes: Vec<i64> = self
            .counters(store, info.id)?
            .lanes
            .iter()
            .filter(|lane| lane.rank != UNDELIVERED)
            .map(|lane| lane.row)
            .collect();
        for lane in lanes {
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
    pub(super) fn refresh_due(&mut self, store: Store<'_>, info: &QueueInfo) -> Result<(), Fault> {
        let head = if self.counters(store, info.id)?.may_expire {
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
    pub(super) fn used(&mut self, store: Store<'_>, info: &QueueInfo) -> Result<(), Fault> {
        let now = self.now;
        let counters = self.counters(store, info.id)?;
        counters.unused_since = now;
        counters.dirty = true;
        self.refresh_due(store, info)
    }

    // --- death ---

    /// A message has left its queue and goes where the queue sends its dead.
    fn die(
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
    fn after_failure(&self, failed: bool, mark: Mark) -> Mark {
        if failed && self.capabilities.carries_delivery_count { mark.failed() } else { mark }
    }

    fn deliver_dead_letters(&mut self, store: Store<'_>) -> Result<(), Fault> {
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
    fn retry_undelivered(&mut self, store: Store<'_>, info: &Arc<QueueInfo>) -> Result<(), Fault> {
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

    // --- messages out ---

    fn dispatch_all(&mut self, store: Store<'_>) -> Result<(), Fault> {
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
    fn dispatch(
        &mut self,
        store: Store<'_>,
        info: &Arc<QueueInfo>,
        fresh: bool,
    ) -> Result<(), Fault> {
        if !self.consumers.values().any(|local| local.queue == info.id && local.room() > 0) {
            return Ok(());
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
                    envelope: row.envelope,
                    body: row.body,
                }),
            ));
        }
        Ok(())
    }

    fn settle(
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

    // --- consumers ---

    pub(super) fn attach(
        &mut self,
        store: Store<'_>,
        info: &QueueInfo,
        consumer: NewConsumer,
    ) -> Result<i64, Fault> {
        let id = store.insert_consumer(
            self.session,
            info.id,
            consumer.exclusive && !info.is_quorum(),
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
                buffered: consumer.buffered,
                sender: consumer.sender,
            },
        );
        Ok(id)
    }

    /// As after `basic.cancel`: what consumers hold stays theirs, more does not come.
    #[cfg(test)]
    pub(super) fn take_no_more(&mut self) {
        for local in self.consumers.values_mut() {
            local.prefetch = 0;
        }
    }

    /// Whether the consumer is one of this process and has not been ended.
    pub(super) fn has_consumer(&self, id: i64) -> bool {
        self.consumers.contains_key(&id)
    }

    /// Ends a consumer of any process: what it held goes back in order.
    pub(super) fn detach(
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

    /// The consumer's queue is gone.
    fn cancel(&mut self, consumer: i64) {
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

    /// Gives back what processes held that have died since.
    pub(super) fn reap(&mut self, store: Store<'_>) -> Result<(), Fault> {
        for session in self.file.dead_sessions(store.0)? {
            self.end_session(store, session)?;
        }
        Ok(())
    }

    /// Gives back everything that a session holds.
    pub(super) fn end_session(&mut self, store: Store<'_>, session: i64) -> Result<(), Fault> {
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

    // --- whole queues ---

    /// Deletes a queue with everything that belongs to it; returns how many messages it held.
    pub(super) fn delete_queue(
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
    pub(super) fn delete_unused_exchanges(
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
    pub(super) fn purge(&mut self, store: Store<'_>, info: &QueueInfo) -> Result<u64, Fault> {
        let lanes: Vec<i64> = self
            .counters(store, info.id)?
            .lanes
            .iter()
            .filter(|lane| lane.rank != UNDELIVERED)
            .map(|lane| lane.row)
            .collect();
        let mut purged = 0;
        for lane in lanes {
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

/// What a consumer brings along.
pub(super) struct NewConsumer {
    pub(super) prefetch: usize,
    pub(super) exclusive: bool,
    pub(super) priority: i64,
    pub(super) buffered: Arc<AtomicUsize>,
    pub(super) sender: UnboundedSender<Result<Parcel, BrokerError>>,
}

fn exceeds(value: i64, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| u64::try_from(value).unwrap_or(0) > limit)
}

fn set_clock(store: Store<'_>, queue: i64, counters: &Counters) -> Result<(), Fault> {
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

/// What a failure of the file means to whoever asked.
pub(super) fn storage_error(attempted: &str, error: &StorageError) -> BrokerError {
    let kind = match error {
        StorageError::Busy { .. } => ErrorKind::TimedOut,
        _ => ErrorKind::Storage,
    };
    let answer = BrokerError::new(kind, attempted, error.to_string());
    match error.hint() {
        Some(hint) => answer.hint(hint),
        None => answer,
    }
}

pub(super) fn queue_of(row: QueueRow) -> Result<QueueDefinition, Fault> {
    Ok(QueueDefinition {
        name: QueueName::new(row.name).map_err(|_| damaged(Damaged))?,
        durable: row.durable,
        exclusive: row.owner.is_some(),
        auto_delete: row.auto_delete,
        arguments: decode_table(&row.arguments).map_err(damaged)?,
    })
}

pub(super) fn exchange_of(row: ExchangeRow) -> Result<ExchangeDefinition, Fault> {
    Ok(ExchangeDefinition {
        name: ExchangeName::new(row.name).map_err(|_| damaged(Damaged))?,
        kind: ExchangeKind::from(row.kind.as_str()),
        durable: row.durable,
        auto_delete: row.auto_delete,
        internal: row.internal,
        arguments: decode_table(&row.arguments).map_err(damaged)?,
    })
}

pub(super) fn binding_of(row: BindingRow) -> Result<BindingDefinition, Fault> {
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

pub(super) fn policy_of(row: PolicyRow) -> Result<PolicyDefinition, Fault> {
    let wrong = || damaged(Damaged);
    Ok(PolicyDefinition {
        name: crate::base::id::PolicyName::new(row.name).map_err(|_| wrong())?,
        pattern: row.pattern,
        apply_to: row.apply_to.parse().map_err(|_| wrong())?,
        priority: row.priority,
        definition: serde_json::from_str(&row.definition).map_err(|_| wrong())?,
    })
}

/// The header that says how often a quorum queue got a message back.
pub(super) fn show_count(envelope: &mut Envelope, count: Option<i64>) {
    if let Some(count) = count {
        envelope.properties.headers_mut().insert("x-delivery-count", FieldValue::Int64(count));
    }
}
