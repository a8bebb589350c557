//! The embedded broker: RabbitMQ's semantics on the state file, shared by processes.
//!
//! Works with nothing installed. Requests of all tasks of this process meet in an inbox; the state
//! file's writer takes what is there, carries it out in one transaction ([`engine`]) and answers
//! after the commit. Other processes do the same on the same file.
//!
//! What it promises:
//! - A confirmed persistent message is on the disk; a kill at any point loses none of them.
//! - A message is with one living consumer at most. What a consumer held when its process died is
//!   back in the queue, in order, as soon as anybody looks.
//! - Settlements survive the death of the process at once, and a power cut after
//!   [`Consumer::flush`](crate::broker::Consumer::flush).
//!
//! How it differs from RabbitMQ, beyond what it refuses (plugins' exchange types):
//! - There is no restart of the broker, so transient queues and messages stay; a transient message
//!   is confirmed before it is on the disk.
//! - What the time does (TTL, expiry) is seen at the next request, but as if it had happened when it
//!   was due.
//! - On equal terms, in equal order: where RabbitMQ decides one way in one run and another way in the
//!   next (what two queues do at the same moment), it always decides the same way.
//! - Streams let go of what is too old or too much at once, not by segments; a chunk is one message,
//!   and a record keeps all its properties.
//! - Limits of quorum queues are kept exactly as their leader would with one message at a time, and
//!   consumer priorities count within one process.

mod codec;
mod consumer;
mod death;
mod declare;
mod engine;
mod lock;
mod mark;
mod publisher;
mod shared;
mod store;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::base::id::{ExchangeName, QueueName, VhostName};
use crate::base::time::Clock;
use crate::broker::change::{Change, Changed};
use crate::broker::definition::QueueType;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{
    Broker, Consumer, ConsumerOptions, Lock, LockError, LockHolder, Publisher, PublisherOptions,
    QueueDepth,
};
use crate::broker::snapshot::{QueueDetails, QueueState, Snapshot, VhostState};
use crate::broker::version::{BrokerIdentity, Product, Version};
use crate::storage::{Durability, Options, StateFile, StorageError};

use engine::{Engine, Fault, binding_of, exchange_of, policy_of, storage_error};
use shared::Shared;
use store::Store;

pub use store::ROOM;

/// How to open the embedded broker.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The RabbitMQ version it behaves like.
    pub like: Version,
    /// The virtual host; made when it is not there.
    pub vhost: VhostName,
    /// How long a request may wait for other processes or the disk.
    pub timeout: Duration,
}

/// The broker inside this process.
pub struct EmbeddedBroker {
    identity: BrokerIdentity,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedBroker").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl EmbeddedBroker {
    /// Opens the broker on the state file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// `Storage` when the file cannot be used, `TimedOut` when others hold it for too long.
    pub async fn open(
        path: impl Into<PathBuf>,
        options: EmbeddedOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<EmbeddedBroker>, BrokerError> {
        let path = path.into();
        let timeout = options.timeout;
        let file = blocking("open the embedded broker", move || {
            StateFile::open(&path, &[ROOM], Options { timeout, ..Options::default() })
                .map_err(|error| storage_error("open the embedded broker", &error))
        })
        .await?;
        Self::on(file, options, clock).await
    }

    /// Opens the broker on a state file that is open already, with [`ROOM`] among its rooms. At most
    /// one broker may be open on one [`StateFile`] at a time.
    ///
    /// # Errors
    /// `Storage` when the file fails, `TimedOut` when others hold it for too long.
    pub async fn on(
        file: Arc<StateFile>,
        options: EmbeddedOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<EmbeddedBroker>, BrokerError> {
        const ATTEMPTED: &str = "open the embedded broker";
        let identity = BrokerIdentity {
            product: Product::Embedded,
            version: options.like,
            cluster_name: file.id().to_owned(),
            vhost: options.vhost.clone(),
        };
        let session = {
            let file = Arc::clone(&file);
            blocking(ATTEMPTED, move || {
                file.begin_session().map_err(|error| storage_error(ATTEMPTED, &error))
            })
            .await?
        };
        let engine =
            Engine::new(Arc::clone(&file), clock, options.like, options.vhost, session.id());
        let shared = Shared::start(file, engine, session, options.timeout)
            .map_err(|error| storage_error(ATTEMPTED, &error))?;
        let broker = EmbeddedBroker { identity, shared };
        broker.shared.call(ATTEMPTED, Durability::Process, Engine::reap).await?;
        Ok(Arc::new(broker))
    }

    /// The state file, for other parts of the product that keep something in it.
    pub fn file(&self) -> &Arc<StateFile> {
        &self.shared.file
    }
}

async fn blocking<T: Send + 'static>(
    attempted: &str,
    work: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> Result<T, BrokerError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(BrokerError::new(ErrorKind::Storage, attempted, error.to_string()))
    })
}

#[async_trait]
impl Broker for EmbeddedBroker {
    fn identity(&self) -> &BrokerIdentity {
        &self.identity
    }

    async fn publisher(
        &self,
        options: PublisherOptions,
    ) -> Result<Box<dyn Publisher>, BrokerError> {
        Ok(Box::new(publisher::EmbeddedPublisher::new(
            Arc::clone(&self.shared),
            &self.identity,
            options,
        )))
    }

    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        let consumer =
            consumer::EmbeddedConsumer::attach(Arc::clone(&self.shared), queue, options).await?;
        Ok(Box::new(consumer))
    }

    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        let identity = self.identity.clone();
        self.shared
            .call("list the embedded broker", Durability::Process, move |engine, store| {
                engine.reap(store)?;
                snapshot(engine, store, identity)
            })
            .await
    }

    async fn list_queues(&self, _statistics: bool) -> Result<Vec<QueueDetails>, BrokerError> {
        self.shared
            .call("list the queues of the embedded broker", Durability::Process, |engine, store| {
                engine.reap(store)?;
                details(engine, store, None)
            })
            .await
    }

    async fn queue_details(&self, queue: &QueueName) -> Result<Option<QueueDetails>, BrokerError> {
        let name = queue.clone();
        self.shared
            .call(&format!("look at queue `{queue}`"), Durability::Process, move |engine, store| {
                engine.reap(store)?;
                Ok(details(engine, store, Some(&name))?.pop())
            })
            .await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        let name = queue.clone();
        let attempted = format!("look at queue `{queue}`");
        self.shared
            .call(&attempted.clone(), Durability::Process, move |engine, store| {
                engine.reap(store)?;
                let Some(row) = store.queue_named(engine.vhost_id, name.as_str())? else {
                    return Ok(None);
                };
                engine.check_owner(&attempted, name.as_str(), row.owner)?;
                let (ready, _) = engine.depth(store, row.id)?;
                let (consumers, _, _) = store.consumers(row.id)?;
                Ok(Some(QueueDepth { ready, consumers: u64::try_from(consumers).unwrap_or(0) }))
            })
            .await
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        let name = exchange.clone();
        self.shared
            .call(
                &format!("look for {}", exchange.in_words()),
                Durability::Process,
                move |engine, store| {
                    Ok(name.is_default()
                        || store.exchange(engine.vhost_id, name.as_str())?.is_some())
                },
            )
            .await
    }

    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        let wanted = change.clone();
        self.shared
            .call(&change.to_string(), Durability::Disk, move |engine, store| {
                engine.reap(store)?;
                engine.change(store, &wanted)
            })
            .await
    }

    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        lock::EmbeddedLock::take(Arc::clone(&self.shared), name, holder).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.shared.close().await
    }
}

/// The queues of the vhost, or the one called `only`.
fn details(
    engine: &mut Engine,
    store: Store<'_>,
    only: Option<&QueueName>,
) -> Result<Vec<QueueDetails>, Fault> {
    let rows = match only {
        Some(name) => store.queue_named(engine.vhost_id, name.as_str())?.into_iter().collect(),
        None => store.queues(engine.vhost_id)?,
    };
    let mut queues = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(info) = engine.info(store, row.id)? else { continue };
        let (ready, unacked) = engine.depth(store, row.id)?;
        let (consumers, _, _) = store.consumers(row.id)?;
        let state = QueueState {
            definition: info.definition.clone(),
            ready: Some(ready),
            unacked: Some(unacked),
            consumers: u64::try_from(consumers).ok(),
            policy: info.effective.policy.as_ref().map(ToString::to_string),
            operator_policy: info.effective.operator_policy.as_ref().map(ToString::to_string),
        };
        let bytes = Some(engine.waiting_bytes(store, row.id)?);
        queues.push(QueueDetails { bytes, ..QueueDetails::of(state) });
    }
    Ok(queues)
}

fn snapshot(
    engine: &mut Engine,
    store: Store<'_>,
    identity: BrokerIdentity,
) -> Result<Snapshot, Fault> {
    let vhost = engine.vhost_id;
    let queues = details(engine, store, None)?.into_iter().map(|queue| queue.state).collect();
    let mut policies = Vec::new();
    let mut operator_policies = Vec::new();
    for row in store.policies(vhost)? {
        let operator = row.operator;
        let policy = policy_of(row)?;
        if operator { operator_policies.push(policy) } else { policies.push(policy) }
    }
    let default_queue_type = if engine.capabilities.default_queue_type {
        engine
            .default_queue_type
            .or(engine.capabilities.reads_back_classic.then_some(QueueType::Classic))
    } else {
        None
    };
    Ok(Snapshot {
        identity,
        vhost: VhostState {
            default_queue_type,
            limits: store.limits(vhost)?.into_iter().collect(),
        },
        exchanges: store
            .exchanges(vhost)?
            .into_iter()
            .map(exchange_of)
            .collect::<Result<_, _>>()?,
        queues,
        bindings: store.bindings(vhost)?.into_iter().map(binding_of).collect::<Result<_, _>>()?,
        policies,
        operator_policies,
        permissions: None,
    })
}

/// The file was closed under a request.
fn closed(attempted: &str) -> BrokerError {
    BrokerError::new(ErrorKind::Storage, attempted, "the embedded broker has been closed")
}

/// What a failed batch is to the state file's writer.
fn storage_fault(file: &StateFile, fault: Fault) -> StorageError {
    match fault {
        Fault::Storage(error) => error,
        Fault::Sql(error) => file.fault(&error),
        Fault::Damaged(cause) => {
            StorageError::Damaged { path: file.path().to_owned(), cause: cause.to_owned() }
        }
        Fault::Broker(error) => {
            StorageError::Statement { path: file.path().to_owned(), cause: error.to_string() }
        }
    }
}
