//! A strict broker in memory for the tests of this room. It knows one queue, gives outcomes when told,
//! fails at call n, and refuses what a broker would refuse (unknown tags, too many unsettled).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::{
    BrokerError, Consumer, Delivery, DeliveryTag, ErrorKind, Outcome, Publish, Publisher, Settled,
    Settlement, Ticket,
};
use crate::message::{Message, Properties};

/// A delivery with this tag and body.
pub(crate) fn delivery(tag: u64, body: &str) -> Delivery {
    Delivery {
        tag: DeliveryTag { generation: 0, tag },
        exchange: ExchangeName::default_exchange(),
        routing_key: RoutingKey::new("key").unwrap(),
        redelivered: false,
        message: Message { properties: Properties::default(), body: body.as_bytes().to_vec() },
    }
}

/// What a fake publisher does with the message at a place.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Confirm,
    Return,
    Nack,
    Unknown,
    /// Not taken, and nothing after it would be.
    Fail(ErrorKind),
    /// Never answers.
    Silence,
    /// `send` fails.
    Refuse(ErrorKind),
}

#[derive(Debug, Default)]
pub(crate) struct Published {
    pub messages: Vec<Publish>,
    pub closed: bool,
    pub most_in_flight: usize,
}

#[derive(Debug)]
pub(crate) struct FakePublisher {
    window: usize,
    answers: BTreeMap<u64, Answer>,
    calls: u64,
    next: u64,
    waiting: VecDeque<(Ticket, Option<Outcome>)>,
    pub log: Arc<Mutex<Published>>,
}

impl FakePublisher {
    /// Confirms everything but the calls of `send` (from 0) in `answers`.
    pub(crate) fn new(window: usize, answers: impl IntoIterator<Item = (u64, Answer)>) -> Self {
        FakePublisher {
            window,
            answers: answers.into_iter().collect(),
            calls: 0,
            next: 0,
            waiting: VecDeque::new(),
            log: Arc::default(),
        }
    }
}

#[async_trait]
impl Publisher for FakePublisher {
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError> {
        let call = self.calls;
        self.calls += 1;
        let outcome = match self.answers.get(&call).cloned().unwrap_or(Answer::Confirm) {
            Answer::Refuse(kind) => return Err(BrokerError::new(kind, "publish", "told so")),
            Answer::Confirm => Some(Outcome::Confirmed),
            Answer::Return => Some(Outcome::Returned { code: 312, text: "NO_ROUTE".into() }),
            Answer::Nack => Some(Outcome::Nacked),
            Answer::Unknown => Some(Outcome::Unknown { why: "connection lost".into() }),
            Answer::Fail(kind) => {
                Some(Outcome::Failed(Box::new(BrokerError::new(kind, "publish", "told so"))))
            }
            Answer::Silence => None,
        };
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.push_back((ticket, outcome));
        let mut log = self.log.lock().unwrap();
        log.messages.push(publish);
        log.most_in_flight = log.most_in_flight.max(self.waiting.len());
        Ok(ticket)
    }

    async fn outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if let Some(ready) = self.take_last() {
            return Some(ready);
        }
        if self.waiting.is_empty() { None } else { std::future::pending().await }
    }

    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if self.waiting.len() < self.window { None } else { self.take_last() }
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.log.lock().unwrap().closed = true;
        Ok(())
    }
}

impl FakePublisher {
    /// Answers the youngest first: nobody may rely on an order.
    fn take_last(&mut self) -> Option<(Ticket, Outcome)> {
        let index = self.waiting.iter().rposition(|(_, outcome)| outcome.is_some())?;
        let (ticket, outcome) = self.waiting.remove(index)?;
        Some((ticket, outcome?))
    }
}

/// One queue with everything a test wants to know of it.
#[derive(Debug, Default)]
pub(crate) struct QueueInner {
    pub ready: VecDeque<Delivery>,
    pub unacked: BTreeMap<u64, Delivery>,
    pub acked: Vec<String>,
    pub rejected: Vec<String>,
    pub most_unacked: usize,
    pub delivered: u64,
    next_tag: u64,
    generation: u32,
    credit: usize,
    subscribed: bool,
    here: VecDeque<Delivery>,
    settlements: u64,
    pub fail_settlement: Option<u64>,
    pub cancelled: bool,
    pub closed: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeQueue(pub Arc<Mutex<QueueInner>>, Arc<Notify>);

pub(crate) fn body_of(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

impl QueueInner {
    fn push_out(&mut self) {
        while self.subscribed && self.unacked.len() < self.credit {
            let Some(mut delivery) = self.ready.pop_front() else { break };
            self.next_tag += 1;
            delivery.tag = DeliveryTag { generation: self.generation, tag: self.next_tag };
            self.unacked.insert(self.next_tag, delivery.clone());
            self.here.push_back(delivery);
            self.delivered += 1;
            self.most_unacked = self.most_unacked.max(self.unacked.len());
        }
    }

    fn give_back(&mut self) {
        for (_, mut delivery) in std::mem::take(&mut self.unacked).into_iter().rev() {
            delivery.redelivered = true;
            self.ready.push_front(delivery);
        }
        self.here.clear();
    }
}

impl FakeQueue {
    pub(crate) fn with(bodies: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let queue = FakeQueue::default();
        queue.0.lock().unwrap().ready =
            bodies.into_iter().map(|body| delivery(0, &body.into())).collect();
        queue
    }

    /// A subscription with room for `prefetch` unsettled deliveries.
    pub(crate) fn subscribe(&self, prefetch: u16) -> Box<dyn Consumer> {
        let mut inner = self.0.lock().unwrap();
        inner.credit = usize::from(prefetch);
        inner.subscribed = true;
        inner.closed = false;
        inner.push_out();
        Box::new(FakeConsumer(self.clone()))
    }

    pub(crate) fn add(&self, body: &str) {
        let mut inner = self.0.lock().unwrap();
        inner.ready.push_back(delivery(0, body));
        inner.push_out();
        self.1.notify_one();
    }

    /// The connection is lost and made again: what was unsettled comes again.
    pub(crate) fn reconnect(&self) {
        let mut inner = self.0.lock().unwrap();
        inner.give_back();
        inner.generation += 1;
        inner.next_tag = 0;
        inner.push_out();
        self.1.notify_one();
    }

    /// The queue is deleted under its consumer.
    pub(crate) fn cancel(&self) {
        self.0.lock().unwrap().cancelled = true;
        self.1.notify_one();
    }

    /// What is in the queue after the process has died.
    pub(crate) fn after_kill(&self) -> Vec<String> {
        let mut inner = self.0.lock().unwrap();
        inner.give_back();
        inner.ready.iter().map(body_of).collect()
    }

    pub(crate) fn depth(&self) -> u64 {
        self.0.lock().unwrap().ready.len() as u64
    }
}

#[derive(Debug)]
struct FakeConsumer(FakeQueue);

#[async_trait]
impl Consumer for FakeConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            if let Some(delivery) = self.ready() {
                return Ok(delivery);
            }
            if self.0.0.lock().unwrap().cancelled {
                let kind = ErrorKind::ConsumerCancelled;
                return Err(BrokerError::new(
                    kind,
                    "consume from queue `q`",
                    "the queue was deleted",
                ));
            }
            self.0.1.notified().await;
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        self.0.0.lock().unwrap().here.pop_front()
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        let mut inner = self.0.0.lock().unwrap();
        if tag.generation != inner.generation {
            return Ok(Settled::Void);
        }
        inner.settlements += 1;
        if inner.fail_settlement == Some(inner.settlements) {
            return Err(BrokerError::new(ErrorKind::ConnectionLost, "ack", "told so"));
        }
        assert!(
            inner.unacked.contains_key(&tag.tag),
            "tag {tag:?} is settled twice or was never given"
        );
        let tags: Vec<u64> = match how {
            Settlement::AckUpTo => inner.unacked.range(..=tag.tag).map(|(tag, _)| *tag).collect(),
            _ => vec![tag.tag],
        };
        for tag in tags {
            let Some(mut delivery) = inner.unacked.remove(&tag) else { continue };
            let body = body_of(&delivery);
            match how {
                Settlement::Ack | Settlement::AckUpTo => inner.acked.push(body),
                Settlement::Reject => inner.rejected.push(body),
                Settlement::Requeue => {
                    delivery.redelivered = true;
                    inner.ready.push_front(delivery);
                }
            }
        }
        inner.push_out();
        self.0.1.notify_one();
        Ok(Settled::Sent)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), BrokerError> {
        self.0.0.lock().unwrap().subscribed = false;
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        let mut inner = self.0.0.lock().unwrap();
        inner.subscribed = false;
        inner.closed = true;
        inner.give_back();
        Ok(())
    }
}
