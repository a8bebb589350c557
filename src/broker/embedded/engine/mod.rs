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
//!
//! Here is how a batch runs; what is done for a request lies in one file for each idea, from the way in
//! ([`publish`]) to the way out ([`delivery`], [`settlement`]).

mod topology;
mod lanes;
mod publish;
mod limits;
mod expiry;
mod dead_letter;
mod delivery;
mod settlement;
mod stream;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::base::id::VhostName;
use crate::base::time::Clock;
use crate::broker::definition::QueueType;
use crate::broker::effective::Policies;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::Settlement;
use crate::broker::version::{Capabilities, Version};
use crate::storage::{Durability, StateFile, StorageError, rusqlite};

use super::codec::Damaged;
use super::store::Store;
use dead_letter::DeadLetter;
use delivery::Local;
use lanes::Counters;
use topology::Routing;

pub(super) use delivery::{BUFFERED_MAX, NewConsumer, Parcel, show_place};
pub(super) use publish::Publication;
pub(super) use stream::{Beginning, bad_offset, not_for_streams};
pub(super) use topology::{QueueInfo, binding_of, exchange_of, policy_of, queue_of};

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// The broker's answer is no; nothing was changed.
    Broker(Box<BrokerError>),
    /// SQLite failed; the batch is lost.
    Sql(rusqlite::Error),
    /// The file failed; the batch is lost.
    Storage(StorageError),
    /// What lies in the file is not what this program writes; the batch is lost.
    Damaged(&'static str),
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
    Fault::Damaged("a message or a definition in it cannot be read")
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn delay(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
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
}
