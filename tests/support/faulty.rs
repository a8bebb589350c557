//! A broker in front of another: it counts what passes, and the n-th request, and all after it, fail
//! as if the process had died there.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test file compiles this module for itself and uses another part of it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use nexus::base::id::{ExchangeName, QueueName};
use nexus::broker::{
    Broker, BrokerError, BrokerIdentity, Capabilities, Change, Changed, Consumer, ConsumerOptions,
    Delivery, DeliveryTag, ErrorKind, Lock, LockError, LockHolder, Outcome, Publish, Publisher,
    PublisherOptions, QueueDepth, Settled, Settlement, Snapshot, Ticket,
};

/// What has passed, and where it ends.
#[derive(Debug)]
pub struct Counter {
    /// Requests of any kind.
    pub requests: AtomicUsize,
    /// Changes, publishes, settlements and locks: what leaves a trace.
    pub mutations: AtomicUsize,
    /// Locks taken.
    pub locks: AtomicUsize,
    fail_at: usize,
    /// Whether the failing request has its effect before it fails.
    after: bool,
}

impl Counter {
    /// Whether the request may pass, and whether it shall fail afterwards.
    fn pass(&self, mutation: bool) -> Result<bool, BrokerError> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if number > self.fail_at || (number == self.fail_at && !self.after) {
            return Err(dead());
        }
        if mutation {
            self.mutations.fetch_add(1, Ordering::SeqCst);
        }
        Ok(number == self.fail_at)
    }
}

fn dead() -> BrokerError {
    BrokerError::new(ErrorKind::ConnectionLost, "go on", "the process was killed here")
}

/// The broker in front.
#[derive(Clone, Debug)]
pub struct Faulty {
    inner: Arc<dyn Broker>,
    /// What has passed.
    pub counter: Arc<Counter>,
}

impl Faulty {
    /// Counts only.
    pub fn counting(inner: Arc<dyn Broker>) -> Self {
        Self::fail_at(inner, usize::MAX, false)
    }

    /// Fails at request `n` (from 1) and ever after; with `after`, request `n` takes effect first.
    pub fn fail_at(inner: Arc<dyn Broker>, n: usize, after: bool) -> Self {
        let counter = Counter {
            requests: AtomicUsize::new(0),
            mutations: AtomicUsize::new(0),
            locks: AtomicUsize::new(0),
            fail_at: n,
            after,
        };
        Faulty { inner, counter: Arc::new(counter) }
    }

    /// Changes, publishes, settlements and locks so far.
    pub fn mutations(&self) -> usize {
        self.counter.mutations.load(Ordering::SeqCst)
    }

    /// Whether the failing request has come.
    pub fn has_failed(&self) -> bool {
        self.counter.requests.load(Ordering::SeqCst) >= self.counter.fail_at
    }
}

#[async_trait]
impl Broker for Faulty {
    fn identity(&self) -> &BrokerIdentity {
        self.inner.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn publisher(
        &self,
        options: PublisherOptions,
    ) -> Result<Box<dyn Publisher>, BrokerError> {
        let inner = self.inner.publisher(options).await?;
        Ok(Box::new(FaultyPublisher { inner, counter: Arc::clone(&self.counter) }))
    }

    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        self.counter.pass(false)?;
        let inner = self.inner.consumer(queue, options).await?;
        Ok(Box::new(FaultyConsumer { inner, counter: Arc::clone(&self.counter) }))
    }

    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        self.counter.pass(false)?;
        self.inner.inspect().await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        self.counter.pass(false)?;
        self.inner.depth(queue).await
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        self.counter.pass(false)?;
        self.inner.has_exchange(exchange).await
    }

    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        let fail = self.counter.pass(true)?;
        let changed = self.inner.change(change).await?;
        if fail { Err(dead()) } else { Ok(changed) }
    }

    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        let fail = self.counter.pass(true)?;
        self.counter.locks.fetch_add(1, Ordering::SeqCst);
        let inner = self.inner.lock(name, holder).await?;
        if fail {
            return Err(dead().into());
        }
        Ok(Box::new(FaultyLock { inner, counter: Arc::clone(&self.counter) }))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct FaultyLock {
    inner: Box<dyn Lock>,
    counter: Arc<Counter>,
}

#[async_trait]
impl Lock for FaultyLock {
    async fn check(&self) -> Result<(), BrokerError> {
        self.counter.pass(false)?;
        self.inner.check().await
    }

    async fn release(self: Box<Self>) -> Result<(), BrokerError> {
        self.counter.pass(false)?;
        self.inner.release().await
    }
}

#[derive(Debug)]
struct FaultyPublisher {
    inner: Box<dyn Publisher>,
    counter: Arc<Counter>,
}

#[async_trait]
impl Publisher for FaultyPublisher {
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError> {
        let fail = self.counter.pass(true)?;
        let ticket = self.inner.send(publish).await?;
        if fail { Err(dead()) } else { Ok(ticket) }
    }

    async fn outcome(&mut self) -> Option<(Ticket, Outcome)> {
        self.inner.outcome().await
    }

    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        self.inner.ready_outcome()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct FaultyConsumer {
    inner: Box<dyn Consumer>,
    counter: Arc<Counter>,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        self.inner.next().await
    }

    fn ready(&mut self) -> Option<Delivery> {
        self.inner.ready()
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        let fail = self.counter.pass(true)?;
        let settled = self.inner.settle(tag, how).await?;
        if fail { Err(dead()) } else { Ok(settled) }
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        self.counter.pass(false)?;
        self.inner.flush().await
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}
