//! Carrying messages from a consumer to a publisher: each is settled only after its copy is confirmed.
//!
//! What is carried, where to, and what to do about a copy that is refused is the [`Carrier`]'s to decide.
//! This keeps the account: a message is acked when its copy and those of all before it are confirmed, so
//! that what a kill gives back is always the rest of the line, in order. What is not to go is held and
//! goes back to its place when the consumer closes; from the first one held on, acks are sent singly.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;

use crate::message::{FieldValue, Message};

use super::error::BrokerError;
use super::port::{
    Consumer, Delivery, DeliveryTag, Outcome, Publish, Publisher, Settlement, Ticket,
};

/// The login that published a message, when it is not ours: the broker refuses it as `user_id`.
pub const USER_ID: &str = "x-nexus-user-id";

/// Headers that a broker puts on a delivery: published, they would be taken for real.
const OF_THE_BROKER: [&str; 3] = ["x-delivery-count", "x-acquired-count", "x-stream-offset"];

/// Makes a message that was delivered fit to be published again by `login`.
pub fn make_fit(message: &mut Message, login: Option<&str>) {
    let properties = &mut message.properties;
    if let Some(headers) = &mut properties.headers {
        let mut removed = false;
        for name in OF_THE_BROKER {
            removed |= headers.remove(name).is_some();
        }
        if removed && headers.is_empty() {
            properties.headers = None;
        }
    }
    if let Some(user) = properties.user_id.take() {
        if login == Some(user.as_str()) {
            properties.user_id = Some(user);
        } else {
            properties.headers_mut().insert(USER_ID, user);
        }
    }
}

/// Where a message of a stream stands in it.
pub fn stream_offset(delivery: &Delivery) -> Option<u64> {
    let offset = delivery.message.properties.header("x-stream-offset");
    offset.and_then(FieldValue::as_i64).and_then(|offset| u64::try_from(offset).ok())
}

/// What becomes of a delivery.
#[derive(Debug)]
pub struct Load {
    /// Goes out; `None` leaves the message where it is.
    pub publish: Option<Publish>,
    /// Nothing more is taken.
    pub last: bool,
}

/// Decides.
#[async_trait]
pub trait Carrier: Send {
    /// What becomes of `delivery`.
    fn load(&mut self, delivery: Delivery) -> Load;

    /// A copy was not confirmed, so its message stays; whether to take more.
    fn refused(&mut self, outcome: Outcome) -> ControlFlow<()>;

    /// Hears how far it is; whether to take more. Called whenever messages were settled or some
    /// were looked at, and at every poll.
    async fn checkpoint(&mut self, so_far: &Carried) -> Result<ControlFlow<()>, BrokerError>;

    /// Nothing came for a poll, and nothing is in flight; whether to wait on.
    async fn quiet(&mut self) -> Result<ControlFlow<()>, BrokerError>;
}

/// What happens to a message whose copy is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It is acked; the others are held.
    Gone,
    /// It is held as well.
    Stays,
    /// The source is a stream: everything is acked, which only asks for more.
    Read,
}

/// How to carry.
#[derive(Clone, Copy, Debug)]
pub struct CarryOptions {
    /// The consumer's prefetch.
    pub prefetch: u16,
    /// Look at no more than so many. Where the prefetch is not above `unflushed`, not one more is
    /// handed out either.
    pub look: Option<u64>,
    /// What happens to carried messages.
    pub afterwards: Afterwards,
    /// How many settlements the broker may have left unanswered when messages are held.
    pub unflushed: u64,
    /// How long nothing may come before the carrier is asked.
    pub poll: Duration,
}

/// What was carried.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// Deliveries taken.
    pub looked: u64,
    /// Copies confirmed.
    pub confirmed: u64,
    /// Copies that no queue took.
    pub returned: u64,
    /// Copies that the broker refused.
    pub nacked: u64,
    /// Copies that may be there or not.
    pub unknown: u64,
    /// Copies that are certainly not there, because the publisher failed.
    pub failed: u64,
    /// Messages settled.
    pub settled: u64,
    /// Of these, those that the broker has not said it has taken; they may be in both places.
    pub unflushed: u64,
    /// Copies confirmed whose messages could not be settled; they are in both places.
    pub unsettled: u64,
    /// Messages held, to go back when the consumer closes.
    pub held: u64,
    /// Every place is taken by a message that is held.
    pub full: bool,
    /// Whether the last delivery had been handed out before.
    pub last_redelivered: bool,
    /// What failed.
    pub failure: Option<BrokerError>,
}

/// How many messages are looked at or confirmed between two checkpoints, when none is settled.
const TELL_EVERY: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    Confirmed,
    Held,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    tag: DeliveryTag,
    /// Its ticket; of one that was never sent, that of the last sent before it.
    ticket: Option<Ticket>,
    state: State,
}

/// What is unsettled, in the order of the queue, up to the first that has no outcome yet.
#[derive(Debug, Default)]
struct Line {
    places: VecDeque<Place>,
    /// Whether a message at the head has been left behind.
    left_behind: bool,
    last_sent: Option<Ticket>,
}

impl Line {
    /// Adds one at the end; without a ticket it stays.
    fn add(&mut self, tag: DeliveryTag, sent: Option<Ticket>) {
        let state = if sent.is_some() { State::Out } else { State::Held };
        self.last_sent = sent.or(self.last_sent);
        self.places.push_back(Place { tag, ticket: self.last_sent, state });
    }

    fn decide(&mut self, ticket: Ticket, state: State) {
        let first = self.places.partition_point(|place| place.ticket < Some(ticket));
        if let Some(place) = self.places.get_mut(first) {
            place.state = state;
        }
    }

    /// Whether one of them is to be left behind.
    fn stays(&self) -> bool {
        self.places.iter().any(|place| place.state == State::Held)
    }

    /// Takes what is decided off the head, at most `allowed` of what is settled: the settlements to be
    /// sent, each with how many messages it is for, and how many are held.
    fn advance(
        &mut self,
        afterwards: Afterwards,
        mut allowed: u64,
    ) -> (Vec<(DeliveryTag, Settlement, u64)>, u64) {
        let mut settle: Vec<(DeliveryTag, Settlement, u64)> = Vec::new();
        let mut held = 0;
        while let Some(place) = self.places.front().copied() {
            let goes = match (place.state, afterwards) {
                (State::Out, _) => break,
                (State::Confirmed, Afterwards::Gone) | (_, Afterwards::Read) => true,
                (State::Held, Afterwards::Gone) | (_, Afterwards::Stays) => false,
            };
            if goes && allowed == 0 {
                break;
            }
            self.places.pop_front();
            if !goes {
                held += 1;
                self.left_behind = true;
                continue;
            }
            allowed -= 1;
            match settle.last_mut() {
                Some((tag, Settlement::AckUpTo, number)) if !self.left_behind => {
                    *tag = place.tag;
                    *number += 1;
                }
                _ if self.left_behind => settle.push((place.tag, Settlement::Ack, 1)),
                _ => settle.push((place.tag, Settlement::AckUpTo, 1)),
            }
        }
        (settle, held)
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "lives for one turn of the loop, and a box would be one allocation per message"
)]
enum Event {
    Delivery(Delivery),
    Outcome(Ticket, Outcome),
    Quiet,
}

/// Carries until the carrier has enough, `look` is reached, or something fails; then waits for what is in
/// flight and settles it. The consumer stays open, because closing it gives back what is held.
pub async fn carry(
    consumer: &mut dyn Consumer,
    publisher: &mut dyn Publisher,
    options: CarryOptions,
    carrier: &mut dyn Carrier,
) -> Carried {
    let mut run = Run {
        consumer,
        publisher,
        options,
        line: Line::default(),
        so_far: Carried::default(),
        ending: false,
        consumer_is_gone: false,
    };
    if let Err(error) = run.take(carrier).await {
        run.so_far.failure.get_or_insert(error);
    }
    run.wind_up(carrier).await;
    run.so_far
}

struct Run<'a> {
    consumer: &'a mut dyn Consumer,
    publisher: &'a mut dyn Publisher,
    options: CarryOptions,
    line: Line,
    so_far: Carried,
    ending: bool,
    consumer_is_gone: bool,
}

impl Run<'_> {
    /// How many may be settled now. Each one fetches another, so the last ones wait for the end.
    fn allowed(&self) -> u64 {
        let prefetch = u64::from(self.options.prefetch);
        match self.options.look {
            // Behind a wide prefetch it would leave too much in both places if all is killed.
            Some(look) if !self.ending && prefetch <= self.options.unflushed => {
                look.saturating_sub(prefetch).saturating_sub(self.so_far.settled)
            }
            _ => u64::MAX,
        }
    }

    async fn settle(&mut self) -> Result<bool, BrokerError> {
        let (settle, held) = self.line.advance(self.options.afterwards, self.allowed());
        self.so_far.held += held;
        let any = !settle.is_empty();
        for (tag, how, number) in settle {
            if self.consumer_is_gone {
                self.so_far.unsettled += number;
                continue;
            }
            match self.consumer.settle(tag, how).await {
                Ok(super::port::Settled::Sent) => {
                    self.so_far.settled += number;
                    self.so_far.unflushed += number;
                }
                Ok(super::port::Settled::Void) => self.so_far.unsettled += number,
                Err(error) => {
                    self.consumer_is_gone = true;
                    self.so_far.unsettled += number;
                    self.so_far.failure.get_or_insert(error);
                }
            }
        }
        if self.line.left_behind && self.so_far.unflushed >= self.options.unflushed {
            self.flush().await?;
        }
        Ok(any)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        if self.consumer_is_gone {
            return Ok(());
        }
        match self.consumer.flush().await {
            Ok(()) => {
                self.so_far.unflushed = 0;
                Ok(())
            }
            Err(error) => {
                self.consumer_is_gone = true;
                Err(error)
            }
        }
    }

    async fn take(&mut self, carrier: &mut dyn Carrier) -> Result<(), BrokerError> {
        let mut told = 0;
        while !self.ending {
            let settled = self.settle().await?;
            let done = self.so_far.looked + self.so_far.confirmed;
            if settled || done >= told + TELL_EVERY {
                told = done;
                if carrier.checkpoint(&self.so_far).await?.is_break() {
                    return Ok(());
                }
            }
            if self.so_far.held >= u64::from(self.options.prefetch) && self.line.places.is_empty() {
                self.so_far.full = true;
                return Ok(());
            }
            match self.event().await? {
                Event::Delivery(delivery) => self.load(delivery, carrier).await?,
                Event::Outcome(ticket, outcome) => self.decided(ticket, outcome, carrier),
                Event::Quiet => {
                    self.flush().await?;
                    if carrier.checkpoint(&self.so_far).await?.is_break()
                        || self.publisher.in_flight() == 0 && carrier.quiet().await?.is_break()
                    {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    async fn event(&mut self) -> Result<Event, BrokerError> {
        loop {
            // Outcomes first: what is confirmed and not acked would be in both places after a kill.
            if let Some((ticket, outcome)) = self.publisher.ready_outcome() {
                return Ok(Event::Outcome(ticket, outcome));
            }
            if let Some(delivery) = self.consumer.ready() {
                return Ok(Event::Delivery(delivery));
            }
            let busy = self.publisher.in_flight() > 0;
            tokio::select! {
                biased;
                outcome = self.publisher.outcome(), if busy => {
                    if let Some((ticket, outcome)) = outcome {
                        return Ok(Event::Outcome(ticket, outcome));
                    }
                }
                delivery = self.consumer.next() => match delivery {
                    Ok(delivery) => return Ok(Event::Delivery(delivery)),
                    Err(error) => {
                        self.consumer_is_gone = true;
                        return Err(error);
                    }
                },
                () = tokio::time::sleep(self.options.poll) => return Ok(Event::Quiet),
            }
        }
    }

    async fn load(
        &mut self,
        delivery: Delivery,
        carrier: &mut dyn Carrier,
    ) -> Result<(), BrokerError> {
        let tag = delivery.tag;
        self.so_far.looked += 1;
        self.so_far.last_redelivered = delivery.redelivered;
        let Load { publish, last } = carrier.load(delivery);
        self.ending |= last || self.options.look.is_some_and(|look| self.so_far.looked >= look);
        let Some(publish) = publish else {
            self.line.add(tag, None);
            return Ok(());
        };
        match self.publisher.send(publish).await {
            Ok(ticket) => self.line.add(tag, Some(ticket)),
            Err(error) => {
                self.line.add(tag, None);
                self.so_far.failed += 1;
                return Err(error);
            }
        }
        Ok(())
    }

    fn decided(&mut self, ticket: Ticket, outcome: Outcome, carrier: &mut dyn Carrier) {
        let so_far = &mut self.so_far;
        match &outcome {
            Outcome::Confirmed => {
                so_far.confirmed += 1;
                self.line.decide(ticket, State::Confirmed);
                return;
            }
            Outcome::Returned { .. } => so_far.returned += 1,
            Outcome::Nacked => so_far.nacked += 1,
            Outcome::Unknown { .. } => so_far.unknown += 1,
            Outcome::Failed(error) => {
                so_far.failed += 1;
                so_far.failure.get_or_insert_with(|| (**error).clone());
                self.ending = true;
            }
        }
        self.line.decide(ticket, State::Held);
        self.ending |= carrier.refused(outcome).is_break();
    }

    async fn wind_up(&mut self, carrier: &mut dyn Carrier) {
        self.ending = true;
        while let Some((ticket, outcome)) = self.publisher.outcome().await {
            self.decided(ticket, outcome, carrier);
        }
        let settles = self.options.afterwards != Afterwards::Stays;
        // A consumer that cannot pause fetches a few more, which go back. And one that settles singly
        // must not: closing could not make sure then that all of its acks have been taken.
        let singly = self.line.left_behind || self.line.stays();
        if settles && !singly && !self.line.places.is_empty() && !self.consumer_is_gone {
            let _ = self.consumer.pause().await;
        }
        for settled in [self.settle().await.map(|_| ()), self.flush().await] {
            if let Err(error) = settled {
                self.so_far.failure.get_or_insert(error);
            }
        }
        // What was handed out beyond goes back with the rest, so it counts among what is held.
        while let Some(delivery) = self.consumer.ready() {
            self.so_far.held += 1;
            self.so_far.last_redelivered = delivery.redelivered;
        }
        if let Err(error) = carrier.checkpoint(&self.so_far).await {
            self.so_far.failure.get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FieldTable;

    fn tag(tag: u64) -> DeliveryTag {
        DeliveryTag { generation: 0, tag }
    }

    fn line(states: &[State]) -> Line {
        let mut line = Line::default();
        for (n, state) in (1..).zip(states) {
            line.add(tag(n), (*state != State::Held).then_some(Ticket(n)));
            if *state == State::Confirmed {
                line.decide(Ticket(n), State::Confirmed);
            }
        }
        line
    }

    #[test]
    fn acks_go_out_for_the_head_of_the_line_and_singly_behind_one_that_stays() {
        let (out, yes, no) = (State::Out, State::Confirmed, State::Held);
        let up_to = Settlement::AckUpTo;
        let one = Settlement::Ack;
        for (states, gone, left) in [
            (&[yes, yes, out, yes][..], vec![(2, up_to, 2)], 2),
            (&[out, yes], vec![], 2),
            (&[yes, no, yes, yes], vec![(1, up_to, 1), (3, one, 1), (4, one, 1)], 0),
            (&[no, yes, out, no], vec![(2, one, 1)], 2),
            (&[out, no, no, yes, no], vec![], 5),
        ] {
            let mut line = line(states);
            let (settle, _) = line.advance(Afterwards::Gone, u64::MAX);
            let gone: Vec<_> = gone.into_iter().map(|(n, how, of)| (tag(n), how, of)).collect();
            assert_eq!((settle, line.places.len()), (gone, left), "{states:?}");
        }
    }

    #[test]
    fn an_outcome_finds_its_message_among_those_that_stay() {
        let (out, no) = (State::Out, State::Held);
        let mut line = line(&[no, out, no, no, out, out, no]);
        for n in [5, 2, 6] {
            line.decide(Ticket(n), State::Confirmed);
        }
        let confirmed: Vec<u64> = line
            .places
            .iter()
            .filter(|place| place.state == State::Confirmed)
            .map(|place| place.tag.tag)
            .collect();
        assert_eq!(confirmed, [2, 5, 6]);
    }

    #[test]
    fn a_copy_settles_nothing_and_a_stream_everything() {
        let states = [State::Confirmed, State::Held, State::Confirmed];
        assert_eq!(line(&states).advance(Afterwards::Stays, u64::MAX), (vec![], 3));
        let read = line(&states).advance(Afterwards::Read, u64::MAX);
        assert_eq!(read, (vec![(tag(3), Settlement::AckUpTo, 3)], 0));
    }

    #[test]
    fn no_more_is_settled_than_is_allowed() {
        let mut line = line(&[State::Confirmed; 5]);
        let (settle, _) = line.advance(Afterwards::Gone, 2);
        assert_eq!(settle, [(tag(2), Settlement::AckUpTo, 2)]);
        assert_eq!(line.advance(Afterwards::Gone, 0), (vec![], 0));
        assert_eq!(line.places.len(), 3);
    }

    #[test]
    fn what_the_broker_added_goes_and_another_login_becomes_a_header() {
        let mut message = Message::default();
        message.properties.headers =
            Some(FieldTable::new().with("x-delivery-count", 3).with("x-stream-offset", 9));
        message.properties.user_id = Some("me".to_owned());
        let mut mine = message.clone();
        make_fit(&mut mine, Some("me"));
        assert_eq!(mine.properties.headers, None);
        assert_eq!(mine.properties.user_id.as_deref(), Some("me"));
        make_fit(&mut message, Some("somebody"));
        assert_eq!(message.properties.user_id, None);
        assert_eq!(message.properties.header(USER_ID).and_then(FieldValue::as_text), Some("me"));
    }
}
