//! The way out of a worker: every parcel is published until the broker has it, or has said that it
//! never will.
//!
//! A nack or a doubt is no answer: the parcel goes out again, with the same message id. So a parcel may
//! arrive twice, and is never lost while its message is here.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::broker::{Broker, BrokerError, Outcome, Publish, Publisher, PublisherOptions, Ticket};
use crate::resilience::backoff::Backoff;

use super::lanes::JobId;

/// What a parcel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The answer to who asked.
    Answer,
    /// The result.
    Result,
    /// The copy that waits.
    Delay,
    /// The dead letter.
    DeadLetter,
}

/// One publish on behalf of a job.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub job: JobId,
    pub purpose: Purpose,
    pub publish: Publish,
}

/// What became of a parcel.
#[derive(Debug)]
pub(super) enum Posted {
    /// The broker has it.
    Confirmed,
    /// No queue takes it.
    Returned { code: u16, text: String },
}

/// Unconfirmed at once.
const WINDOW: usize = 512;

type Opening<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn Publisher>, BrokerError>> + Send + 'a>>;

pub(super) struct Outbox<'a> {
    broker: &'a dyn Broker,
    publisher: Option<Box<dyn Publisher>>,
    /// A publisher on its way. Nobody waits for it where other work would wait too.
    opening: Option<Opening<'a>>,
    waiting: VecDeque<Parcel>,
    sent: HashMap<Ticket, Parcel>,
    backoff: Backoff,
    again_at: Option<Instant>,
    /// Why nothing goes out at the moment.
    pub trouble: Option<String>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(broker: &'a dyn Broker) -> Self {
        Outbox {
            broker,
            publisher: None,
            opening: None,
            waiting: VecDeque::new(),
            sent: HashMap::new(),
            backoff: Outbox::first_backoff(),
            again_at: None,
            trouble: None,
        }
    }

    fn first_backoff() -> Backoff {
        Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
    }

    pub(super) fn post(&mut self, parcel: Parcel) {
        self.waiting.push_back(parcel);
    }

    /// Whether every parcel has found its end.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    fn wait(&mut self, why: String, dice: u64) {
        self.trouble = Some(why);
        self.again_at.get_or_insert(Instant::now() + self.backoff.next_wait(dice));
    }

    /// Sends what may be sent now. An error is one that trying again does not change.
    pub(super) async fn send(&mut self, dice: u64) -> Result<(), BrokerError> {
        if self.waiting.is_empty() || self.again_at.is_some_and(|again| Instant::now() < again) {
            return Ok(());
        }
        self.again_at = None;
        while self.sent.len() < WINDOW
            && let Some(parcel) = self.waiting.pop_front()
        {
            let Some(publisher) = &mut self.publisher else {
                self.waiting.push_front(parcel);
                self.open();
                return Ok(());
            };
            match publisher.send(parcel.publish.clone()).await {
                Ok(ticket) => {
                    self.sent.insert(ticket, parcel);
                }
                Err(error) => {
                    self.waiting.push_front(parcel);
                    if !error.is_transient() {
                        return Err(error);
                    }
                    self.abandon();
                    self.wait(error.to_string(), dice);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn open(&mut self) {
        let broker = self.broker;
        self.opening.get_or_insert_with(|| {
            // It would wait in `send` until it is connected again; a new one is opened beside.
            let options = PublisherOptions { window: WINDOW, reconnect: false };
            broker.publisher(options)
        });
    }

    fn opened(
        &mut self,
        result: Result<Box<dyn Publisher>, BrokerError>,
        dice: u64,
    ) -> Result<(), BrokerError> {
        self.opening = None;
        match result {
            Ok(publisher) => self.publisher = Some(publisher),
            Err(error) if error.is_transient() => self.wait(error.to_string(), dice),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is out with this publisher goes out again with the next.
    fn abandon(&mut self) {
        self.publisher = None;
        let mut sent: Vec<_> = self.sent.drain().collect();
        sent.sort_by_key(|(ticket, _)| *ticket);
        for (_, parcel) in sent.into_iter().rev() {
            self.waiting.push_front(parcel);
        }
    }

    fn heard(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        dice: u64,
    ) -> Result<Option<(Parcel, Posted)>, BrokerError> {
        let Some(parcel) = self.sent.remove(&ticket) else { return Ok(None) };
        let why = match outcome {
            Outcome::Confirmed => {
                self.backoff = Outbox::first_backoff();
                self.trouble = None;
                return Ok(Some((parcel, Posted::Confirmed)));
            }
            Outcome::Returned { code, text } => {
                return Ok(Some((parcel, Posted::Returned { code, text })));
            }
            Outcome::Nacked => "the broker refused a publish".to_owned(),
            Outcome::Unknown { why } => why,
            Outcome::Failed(error) => {
                self.waiting.push_front(parcel);
                self.abandon();
                if !error.is_transient() {
                    return Err(*error);
                }
                self.wait(error.to_string(), dice);
                return Ok(None);
            }
        };
        self.waiting.push_front(parcel);
        self.wait(why, dice);
        Ok(None)
    }

    /// Outcomes that are here.
    pub(super) fn ready(
        &mut self,
        dice: u64,
        into: &mut Vec<(Parcel, Posted)>,
    ) -> Result<(), BrokerError> {
        while let Some((ticket, outcome)) =
            self.publisher.as_mut().and_then(|publisher| publisher.ready_outcome())
        {
            into.extend(self.heard(ticket, outcome, dice)?);
        }
        Ok(())
    }

    /// Returns when there is something to do. Cancel-safe.
    pub(super) async fn next(
        &mut self,
        dice: u64,
        into: &mut Vec<(Parcel, Posted)>,
    ) -> Result<(), BrokerError> {
        if let Some(opening) = &mut self.opening {
            let result = opening.await;
            return self.opened(result, dice);
        }
        let outcome = match (&mut self.publisher, self.sent.is_empty()) {
            (Some(publisher), false) => match self.again_at {
                Some(again) => tokio::select! {
                    outcome = publisher.outcome() => outcome,
                    () = sleep_until(again) => return Ok(()),
                },
                None => publisher.outcome().await,
            },
            _ => match self.again_at {
                Some(again) if !self.waiting.is_empty() => {
                    sleep_until(again).await;
                    return Ok(());
                }
                _ => std::future::pending().await,
            },
        };
        match outcome {
            Some((ticket, outcome)) => into.extend(self.heard(ticket, outcome, dice)?),
            // It has nothing of ours any more: what we think is out goes again.
            None => self.abandon(),
        }
        Ok(())
    }

    pub(super) async fn close(&mut self) {
        if let Some(publisher) = self.publisher.take() {
            // Whatever matters is confirmed.
            let _ = publisher.close().await;
        }
    }
}
