//! The way in: checks a message as RabbitMQ's channel would, packs it, and waits for its outcome.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Outcome, Publish, Publisher, PublisherOptions, Ticket};
use crate::broker::routing::sender_keys;
use crate::broker::version::{BrokerIdentity, Capabilities};

use super::codec::{Envelope, is_storable};
use super::engine::{Publication, Request, storage_error};
use super::shared::Shared;

/// See [`Publisher`].
#[derive(Debug)]
pub(super) struct EmbeddedPublisher {
    shared: Arc<Shared>,
    max_message_bytes: u64,
    window: usize,
    next: u64,
    /// Tickets without an outcome yet and until when they may wait, oldest first. An outcome may
    /// have been taken for any of them but the first.
    waiting: VecDeque<(Ticket, Instant, bool)>,
    open: usize,
    kept: VecDeque<(Ticket, Outcome)>,
    failed: Arc<OnceLock<BrokerError>>,
    outcomes: UnboundedReceiver<(Ticket, Outcome)>,
    reply: UnboundedSender<(Ticket, Outcome)>,
}

impl EmbeddedPublisher {
    pub(super) fn new(
        shared: Arc<Shared>,
        identity: &BrokerIdentity,
        options: PublisherOptions,
    ) -> Self {
        let (reply, outcomes) = unbounded_channel();
        EmbeddedPublisher {
            shared,
            max_message_bytes: Capabilities::of(identity.version).max_message_bytes,
            window: options.window.max(1),
            next: 0,
            waiting: VecDeque::new(),
            open: 0,
            kept: VecDeque::new(),
            failed: Arc::default(),
            outcomes,
            reply,
        }
    }

    /// Marks a ticket as answered; `false` when it was answered (or given up) before.
    fn answered(&mut self, ticket: Ticket) -> bool {
        let Some((first, ..)) = self.waiting.front() else { return false };
        let Some(index) = ticket.0.checked_sub(first.0).and_then(|n| usize::try_from(n).ok())
        else {
            return false;
        };
        match self.waiting.get_mut(index) {
            Some((_, _, done)) if !*done => *done = true,
            _ => return false,
        }
        self.open -= 1;
        while matches!(self.waiting.front(), Some((_, _, true))) {
            self.waiting.pop_front();
        }
        true
    }

    fn take_ready(&mut self) -> Option<(Ticket, Outcome)> {
        while let Ok((ticket, outcome)) = self.outcomes.try_recv() {
            if self.answered(ticket) {
                return Some((ticket, outcome));
            }
        }
        None
    }

    /// Waits for an outcome of what is in flight; there is something in flight.
    async fn wait(&mut self) -> Option<(Ticket, Outcome)> {
        loop {
            let (oldest, deadline, _) = *self.waiting.front()?;
            match tokio::time::timeout_at(deadline, self.outcomes.recv()).await {
                Ok(Some((ticket, outcome))) => {
                    if self.answered(ticket) {
                        return Some((ticket, outcome));
                    }
                }
                Ok(None) | Err(_) => {
                    self.answered(oldest);
                    let why = format!(
                        "no answer from the state file within {} ms",
                        self.shared.timeout.as_millis()
                    );
                    return Some((oldest, Outcome::Unknown { why }));
                }
            }
        }
    }

    fn pack(&self, publish: Publish) -> Result<Publication, BrokerError> {
        let attempted =
            || format!("publish to {} by `{}`", publish.exchange.in_words(), publish.routing_key);
        let refuse = |text: String| {
            BrokerError::new(ErrorKind::Invalid, attempted(), text.clone())
                .reply(406, format!("PRECONDITION_FAILED - {text}"))
        };
        let size = u64::try_from(publish.message.body.len()).unwrap_or(u64::MAX);
        if size > self.max_message_bytes {
            return Err(refuse(format!(
                "message size {size} is larger than configured max size {}",
                self.max_message_bytes
            )));
        }
        let mut properties = publish.message.properties;
        let ttl_ms = match &properties.expiration {
            Some(text) => Some(
                read_expiration(text)
                    .map_err(|why| refuse(format!("invalid expiration '{text}': {why}")))?,
            ),
            None => None,
        };
        let keys = sender_keys(properties.headers.as_ref()).map_err(|(name, kind)| {
            refuse(format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"))
        })?;
        if properties.headers.as_ref().is_some_and(|headers| !is_storable(headers)) {
            return Err(BrokerError::new(
                ErrorKind::Invalid,
                attempted(),
                "its headers nest too deep",
            ));
        }
        if let Some(headers) = &mut properties.headers {
            headers.remove("BCC");
        }
        let priority = properties.priority.unwrap_or(0);
        let persistent = properties.delivery_mode == Some(2);
        let copies = keys.all();
        let mut envelope = Envelope {
            exchange: publish.exchange.as_str().to_owned(),
            routing_key: publish.routing_key.as_str().to_owned(),
            hidden_keys: keys.bcc,
            properties,
        };
        let packed = envelope.encode();
        Ok(Publication {
            exchange: publish.exchange,
            routing_key: publish.routing_key,
            copies,
            headers: envelope.properties.headers.take().unwrap_or_default(),
            envelope: packed,
            body: publish.message.body,
            priority,
            ttl_ms,
            persistent,
            ticket: Ticket(self.next),
            failed: Arc::clone(&self.failed),
            reply: self.reply.clone(),
            outcome: None,
        })
    }
}

/// Reads `expiration` as RabbitMQ does: decimal digits, at most ten years.
fn read_expiration(text: &str) -> Result<u64, String> {
    const MAX: i128 = 315_360_000_000;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    let Ok(value) = number.parse::<i128>() else { return Err("no_integer".to_owned()) };
    if !rest.is_empty() {
        return Err(format!("{{leftover_string,\"{rest}\"}}"));
    }
    if text.starts_with('-') && value > 0 {
        return Err(format!("{{value_negative,-{value}}}"));
    }
    if value > MAX {
        return Err(format!("{{value_too_large,{value}}}"));
    }
    u64::try_from(value).map_err(|_| "no_integer".to_owned())
}

#[async_trait]
impl Publisher for EmbeddedPublisher {
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError> {
        while self.open >= self.window {
            match self.wait().await {
                Some(outcome) => self.kept.push_back(outcome),
                None => break,
            }
        }
        if self.shared.is_closed() {
            return Err(super::closed("publish"));
        }
        if let Some(error) = self.shared.broken() {
            return Err(storage_error("publish", error));
        }
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let publication = self.pack(publish)?;
        let ticket = publication.ticket;
        self.next += 1;
        self.open += 1;
        self.waiting.push_back((ticket, Instant::now() + self.shared.timeout, false));
        self.shared.submit(Request::Publish(Box::new(publication)));
        Ok(ticket)
    }

    async fn outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        if self.open == 0 {
            return None;
        }
        self.wait().await
    }

    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        self.kept.pop_front().or_else(|| self.take_ready())
    }

    fn in_flight(&self) -> usize {
        self.open
    }

    async fn close(mut self: Box<Self>) -> Result<(), BrokerError> {
        while self.open > 0 && self.wait().await.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_read_as_measured() {
        assert_eq!(read_expiration("0"), Ok(0));
        assert_eq!(read_expiration("60000"), Ok(60_000));
        for (text, why) in [
            ("-1", "{value_negative,-1}"),
            ("abc", "no_integer"),
            ("", "no_integer"),
            (" 5", "no_integer"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("99999999999999", "{value_too_large,99999999999999}"),
        ] {
            assert_eq!(read_expiration(text), Err(why.to_owned()), "{text}");
        }
    }
}
