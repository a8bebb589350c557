//! Publishing with confirms, many messages in flight at once.
//!
//! What keeps the outcomes true:
//! - Outcomes are taken in the order of sending. The client library gives a returned message to the
//!   first confirm that completes after it, and when the broker confirms several at once that can be
//!   an earlier message than the returned one, never a later one. So a return is compared with what
//!   was sent, and when it does not fit, it is kept for the message that it belongs to, which is
//!   still in flight.
//! - Nothing is ever sent again from here. Whatever has no answer when the channel ends is unknown,
//!   except the one message that the broker names as the reason: that one was not accepted.
//! - What the broker would answer by closing the channel is refused before it is sent.
//!
//! A message is handed to the client library without waiting until it is written: waiting for each
//! would cost two changes of thread per message.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation};
use tokio::time::{Instant, timeout_at};

use crate::base::id::ExchangeName;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Consumer, Outcome, Publish, Publisher, PublisherOptions, Ticket};
use crate::message::{FieldValue, Properties};

use super::answers::DirectAnswers;
use super::convert::{endless_number, name, properties_out, table_bytes};
use super::core::{Core, Leave, Purpose};
use super::fault::{fault, quoted_after, reply_of};
use super::link::{Link, OpenChannel};

/// Bytes of bodies in flight at once, whatever the window says: the client library keeps a copy of
/// each until it is written.
const FLIGHT_BYTES: usize = 32 << 20;

/// Room for the frame's own fields and the other properties beside the headers.
const HEADER_FRAME_REST: usize = 4096;

/// RabbitMQ's longest time to live in milliseconds.
const LONGEST_EXPIRATION: u64 = u32::MAX as u64;

type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// A publisher of [`super::RabbitBroker`].
pub(super) struct RabbitPublisher {
    core: Arc<Core>,
    options: PublisherOptions,
    max_message_bytes: u64,
    wire: Option<Wire>,
    connected_before: bool,
    flight: VecDeque<InFlight>,
    flight_bytes: usize,
    kept: VecDeque<(Ticket, Outcome)>,
    next_ticket: u64,
}

struct Wire {
    link: Arc<Link>,
    channel: Arc<OpenChannel>,
}

struct InFlight {
    ticket: Ticket,
    confirm: Confirm,
    deadline: Instant,
    print: Print,
    bytes: usize,
    exchange: ExchangeName,
    returned: Option<(u16, String)>,
    leave: Option<Leave>,
}

/// Enough of a message to recognise it when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    exact: u64,
    rough: u64,
}

impl std::fmt::Debug for RabbitPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitPublisher")
            .field("in_flight", &self.flight.len())
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

impl RabbitPublisher {
    /// A publisher that opens its channel now, so that a refusal is seen before the first message.
    pub(super) async fn open(
        core: Arc<Core>,
        options: PublisherOptions,
        max_message_bytes: u64,
    ) -> Result<RabbitPublisher, BrokerError> {
        let options = PublisherOptions { window: options.window.max(1), ..options };
        let mut publisher = RabbitPublisher {
            core,
            options,
            max_message_bytes,
            wire: None,
            connected_before: false,
            flight: VecDeque::with_capacity(options.window.min(4096)),
            flight_bytes: 0,
            kept: VecDeque::new(),
            next_ticket: 0,
        };
        publisher.connect().await?;
        Ok(publisher)
    }

    async fn connect(&mut self) -> Result<(), BrokerError> {
        let link = if self.connected_before {
            self.core.link_again(Purpose::Publish).await?
        } else {
            self.core.link(Purpose::Publish).await?
        };
        let channel = link.channel("open a channel to publish").await?;
        // The library counts messages from the answer on, so there is no way around waiting for it.
        let select = channel.confirm_select(ConfirmSelectOptions { nowait: false });
        link.ask("turn on publisher confirms", select).await?;
        self.wire = Some(Wire { link, channel: Arc::new(channel) });
        self.connected_before = true;
        Ok(())
    }

    /// A channel that works, or why there is none.
    async fn ensure_wire(&mut self) -> Result<(), BrokerError> {
        if let Some(wire) = &self.wire
            && wire.channel.status().connected()
        {
            return Ok(());
        }
        while !self.flight.is_empty() {
            self.settle_front().await;
        }
        self.wire = None;
        if self.connected_before && !self.options.reconnect {
            return Err(BrokerError::new(
                ErrorKind::ConnectionLost,
                "publish",
                "the connection to the broker was lost, and this publisher does not connect again",
            ));
        }
        self.connect().await
    }

    /// Leave of the circuit breaker, when there is reason to ask for it. While a probe is out, waits
    /// for its outcome.
    async fn leave(&mut self, publish: &Publish) -> Result<Option<Leave>, BrokerError> {
        while self.core.is_suspicious() {
            match self.core.permit(&attempted(publish)) {
                Ok(leave) => return Ok(Some(leave)),
                Err(error) if self.flight.is_empty() => return Err(error),
                Err(_) => self.settle_front().await,
            }
        }
        Ok(None)
    }

    fn full_for(&self, bytes: usize) -> bool {
        self.flight.len() >= self.options.window
            || (!self.flight.is_empty() && self.flight_bytes + bytes > FLIGHT_BYTES)
    }

    /// Waits for the oldest message in flight and keeps its outcome, and those behind it that are
    /// here too. Cancel-safe.
    async fn settle_front(&mut self) {
        let Some(front) = self.flight.front_mut() else { return };
        match timeout_at(front.deadline, &mut front.confirm).await {
            Ok(Ok(confirmation)) => self.settle(confirmation),
            Ok(Err(error)) => {
                // A future must not be polled after its end; this one is looked at again below.
                front.confirm = Box::pin(std::future::ready(Err(error)));
                return self.settle_ended().await;
            }
            Err(_) => {
                let why = self.wire.as_ref().map_or_else(
                    || "no confirm in time".to_owned(),
                    |wire| {
                        wire.link.note_silence();
                        wire.link.silence("confirm")
                    },
                );
                if let Some(front) = self.take_front() {
                    match front.leave {
                        Some(leave) => leave.failed(),
                        None => self.core.note_failure(),
                    }
                    self.kept.push_back((front.ticket, Outcome::Unknown { why }));
                }
            }
        }
        self.settle_ready();
    }

    /// Keeps the outcomes that are here already, in order, up to the first that is not.
    fn settle_ready(&mut self) {
        while let Some(front) = self.flight.front_mut() {
            match poll_now(&mut front.confirm) {
                Poll::Ready(Ok(confirmation)) => self.settle(confirmation),
                Poll::Ready(Err(error)) => {
                    // Seen again by whoever waits next; a future must not be polled after its end.
                    front.confirm = Box::pin(std::future::ready(Err(error)));
                    return;
                }
                Poll::Pending => return,
            }
        }
    }

    fn take_front(&mut self) -> Option<InFlight> {
        let front = self.flight.pop_front()?;
        self.flight_bytes -= front.bytes;
        Some(front)
    }

    /// The oldest message in flight has got its confirm.
    fn settle(&mut self, confirmation: Confirmation) {
        let Some(mut front) = self.take_front() else { return };
        let (acked, returned) = match confirmation {
            Confirmation::Ack(returned) => (true, returned),
            Confirmation::Nack(returned) => (false, returned),
            Confirmation::NotRequested => {
                let why = "the channel was not in confirm mode".to_owned();
                self.kept.push_back((front.ticket, Outcome::Unknown { why }));
                return;
            }
        };
        if let Some(returned) = returned {
            let said = (returned.reply_code, returned.reply_text.to_string());
            let came = Print::of_return(&returned);
            match self.owner(&front, came) {
                Owner::Front => front.returned = Some(said),
                Owner::Behind(index) => self.flight[index].returned = Some(said),
                Owner::Nobody => {}
            }
        }
        if let Some(leave) = front.leave {
            leave.succeeded();
        }
        let outcome = match (front.returned, acked) {
            (Some((code, text)), _) => Outcome::Returned { code, text },
            (None, true) => Outcome::Confirmed,
            (None, false) => Outcome::Nacked,
        };
        self.kept.push_back((front.ticket, outcome));
    }

    /// Whose message came back. An exact likeness decides, then a rough one: the broker may have
    /// taken something out, such as `BCC`.
    fn owner(&self, front: &InFlight, came: Print) -> Owner {
        let likenesses: [fn(Print) -> u64; 2] = [|print| print.exact, |print| print.rough];
        for likeness in likenesses {
            if front.returned.is_none() && likeness(front.print) == likeness(came) {
                return Owner::Front;
            }
            let behind = self.flight.iter().position(|message| {
                message.returned.is_none() && likeness(message.print) == likeness(came)
            });
            if let Some(index) = behind {
                return Owner::Behind(index);
            }
        }
        Owner::Nobody
    }

    /// The channel has ended: every message in flight gets the outcome it already has, or unknown.
    async fn settle_ended(&mut self) {
        if let Some(link) = self.give_up_flight() {
            self.core.discard(Purpose::Publish, &link).await;
        }
    }

    /// Returns the connection when it had better not be used again.
    fn give_up_flight(&mut self) -> Option<Arc<Link>> {
        let wire = self.wire.take();
        let mut reason: Option<lapin::Error> = None;
        let mut unknown = Vec::new();
        while let Some(front) = self.flight.front_mut() {
            match poll_now(&mut front.confirm) {
                Poll::Ready(Ok(confirmation)) => self.settle(confirmation),
                other => {
                    if let Poll::Ready(Err(error)) = other
                        && reason.as_ref().is_none_or(|known| reply_of(known).is_none())
                    {
                        reason = Some(error);
                    }
                    unknown.extend(self.take_front());
                }
            }
        }
        let error = match &reason {
            Some(error) => fault("publish", error),
            None => {
                BrokerError::new(ErrorKind::ConnectionLost, "publish", "the channel was closed")
            }
        };
        let culprit = reason.as_ref().and_then(|reason| culprit(reason, &unknown));
        let link_lost = wire.as_ref().is_some_and(|wire| !wire.link.is_alive());
        let many = unknown.len() > 1;
        let mut counted = false;
        for (index, message) in unknown.into_iter().enumerate() {
            let outcome = match &error.reply {
                Some(reply) if culprit == Some(index) => {
                    Outcome::Returned { code: reply.code, text: reply.text.clone() }
                }
                _ => Outcome::Unknown { why: error.cause.clone() },
            };
            if link_lost && !counted {
                counted = true;
                match message.leave {
                    Some(leave) => leave.failed(),
                    None => self.core.note_failure(),
                }
            }
            self.kept.push_back((message.ticket, outcome));
        }
        // Messages behind the one that ended the channel may be written after the library has agreed
        // to the end, which makes the broker close the connection a moment later. Better now, with
        // nothing in flight.
        wire.filter(|_| !link_lost && many).map(|wire| wire.link)
    }

    /// Refuses what the broker would answer by closing the channel.
    fn check(&self, publish: &Publish) -> Result<(), BrokerError> {
        let invalid =
            |cause: String| BrokerError::new(ErrorKind::Invalid, attempted(publish), cause);
        let bytes = publish.message.body.len() as u64;
        if bytes > self.max_message_bytes {
            let max = self.max_message_bytes;
            return Err(invalid(format!("the body has {bytes} bytes; the broker takes {max}"))
                .hint("its `max_message_size` decides; send a reference instead"));
        }
        let ours = &publish.message.properties;
        if let Some(expiration) = &ours.expiration {
            let digits = !expiration.is_empty() && expiration.bytes().all(|b| b.is_ascii_digit());
            if !digits
                || expiration.parse().is_ok_and(|ms: u64| ms > LONGEST_EXPIRATION)
                || expiration.len() > 20
            {
                return Err(invalid(format!("the expiration `{expiration}` is no time to live"))
                    .hint(format!("milliseconds as digits, from 0 to {LONGEST_EXPIRATION}")));
            }
        }
        if let Some(user) = &ours.user_id
            && *user != self.core.options.url.username
            && !self.core.options.tls.external_login
        {
            let login = &self.core.options.url.username;
            return Err(invalid(format!("user_id is `{user}`, and the login is `{login}`"))
                .hint("the broker takes only the publisher's own login there; leave it out"));
        }
        if let Some(headers) = &ours.headers {
            if let Some(name) = endless_number(headers) {
                return Err(invalid(format!(
                    "the header `{name}` holds a number without end or none"
                ))
                .hint("RabbitMQ has no NaN and no infinity; send it as a text"));
            }
            for key in ["CC", "BCC"] {
                if !matches!(headers.get(key), None | Some(FieldValue::Array(_))) {
                    return Err(invalid(format!("the header `{key}` is no list"))
                        .hint("it holds more routing keys, as a list of texts"));
                }
            }
            let room = self.frame_max().saturating_sub(HEADER_FRAME_REST);
            let bytes = table_bytes(headers);
            if bytes > room {
                return Err(invalid(format!("the headers have {bytes} bytes; {room} fit"))
                    .hint("they have to fit into one frame: put large data into the body"));
            }
        }
        Ok(())
    }

    fn frame_max(&self) -> usize {
        self.wire.as_ref().map_or(131_072, |wire| wire.link.frame_max())
    }

    fn start(
        &mut self,
        publish: Publish,
        properties: BasicProperties,
        leave: Option<Leave>,
    ) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let Publish { exchange, routing_key, message } = publish;
        let print = Print::of(
            exchange.as_str(),
            routing_key.as_str(),
            &message.body,
            message.properties.message_id.as_deref(),
            message.properties.correlation_id.as_deref(),
        );
        let bytes = message.body.len();
        let confirm: Confirm = match &self.wire {
            Some(wire) => {
                let channel = Arc::clone(&wire.channel);
                let (to, key) = (name(&exchange), name(&routing_key));
                let body = message.body;
                Box::pin(async move {
                    let options = BasicPublishOptions { mandatory: true, immediate: false };
                    channel.basic_publish(to, key, options, &body, properties).await?.await
                })
            }
            // Only reached when the channel ended between two steps of `send`.
            None => Box::pin(std::future::pending()),
        };
        let deadline = Instant::now() + self.core.timeout();
        let mut message =
            InFlight { ticket, confirm, deadline, print, bytes, exchange, returned: None, leave };
        // The first poll hands the frames over; nobody waits for this yet.
        if let Poll::Ready(result) = poll_now(&mut message.confirm) {
            message.confirm = Box::pin(std::future::ready(result));
        }
        self.flight_bytes += bytes;
        self.flight.push_back(message);
        ticket
    }
}

/// Polls without asking to be woken.
fn poll_now(confirm: &mut Confirm) -> Poll<lapin::Result<Confirmation>> {
    confirm.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

enum Owner {
    Front,
    Behind(usize),
    Nobody,
}

/// Which of the messages in flight the broker names as the reason for closing the channel.
fn culprit(reason: &lapin::Error, unknown: &[InFlight]) -> Option<usize> {
    let (code, text) = reply_of(reason)?;
    if !matches!(code, 311 | 313 | 403 | 404 | 406) {
        return None;
    }
    if unknown.len() == 1 {
        return Some(0);
    }
    let exchange = quoted_after(text, "exchange ")?;
    unknown.iter().position(|message| message.exchange.as_str() == exchange)
}

fn attempted(publish: &Publish) -> String {
    let Publish { exchange, routing_key, .. } = publish;
    if exchange.is_default() {
        return format!("publish to queue `{routing_key}`");
    }
    format!("publish to exchange `{exchange}` with key `{routing_key}`")
}

impl Print {
    fn of(
        exchange: &str,
        key: &str,
        body: &[u8],
        message_id: Option<&str>,
        correlation_id: Option<&str>,
    ) -> Print {
        let mut hasher = DefaultHasher::new();
        (exchange, key, body.len()).hash(&mut hasher);
        let rough = hasher.finish();
        (message_id, correlation_id).hash(&mut hasher);
        // Both ends of a long body: hashing all of it would cost more than sending it.
        const END: usize = 256;
        body[..body.len().min(END)].hash(&mut hasher);
        body[body.len().saturating_sub(END)..].hash(&mut hasher);
        Print { exact: hasher.finish(), rough }
    }

    fn of_return(returned: &BasicReturnMessage) -> Print {
        let properties = &returned.delivery.properties;
        Print::of(
            returned.delivery.exchange.as_str(),
            returned.delivery.routing_key.as_str(),
            &returned.delivery.data,
            properties.message_id().as_ref().map(ShortString::as_str),
            properties.correlation_id().as_ref().map(ShortString::as_str),
        )
    }
}

#[async_trait]
impl Publisher for RabbitPublisher {
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError> {
        let properties = out(&publish)?;
        self.check(&publish)?;
        while self.full_for(publish.message.body.len()) {
            self.settle_front().await;
        }
        self.ensure_wire().await?;
        let leave = self.leave(&publish).await?;
        Ok(self.start(publish, properties, leave))
    }

    async fn outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        while self.kept.is_empty() && !self.flight.is_empty() {
            self.settle_front().await;
        }
        self.kept.pop_front()
    }

    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if self.kept.is_empty() {
            self.settle_ready();
        }
        self.kept.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.flight.len()
    }

    async fn direct_answers(&mut self) -> Result<Box<dyn Consumer>, BrokerError> {
        self.ensure_wire().await?;
        match &self.wire {
            Some(wire) => {
                let (link, channel) = (Arc::clone(&wire.link), Arc::clone(&wire.channel));
                Ok(Box::new(DirectAnswers::subscribe(link, channel).await?))
            }
            None => Err(BrokerError::new(
                ErrorKind::ConnectionLost,
                "subscribe to direct answers",
                "the channel was closed",
            )),
        }
    }

    async fn close(mut self: Box<Self>) -> Result<(), BrokerError> {
        while !self.flight.is_empty() {
            self.settle_front().await;
        }
        // Dropping the channel closes it; with nothing in flight there is no answer to wait for.
        Ok(())
    }
}

fn out(publish: &Publish) -> Result<BasicProperties, BrokerError> {
    let properties: &Properties = &publish.message.properties;
    properties_out(properties).map_err(|long| {
        let cause = format!("{} has {} bytes; AMQP allows 255", long.what, long.bytes);
        BrokerError::new(ErrorKind::Invalid, attempted(publish), cause)
    })
}
