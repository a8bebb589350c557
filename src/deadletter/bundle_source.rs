//! A bundle as what letters come from: it hands them out as a queue does, in their order, so that an import
//! is a run as any other.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::{
    Broker, BrokerError, BrokerIdentity, Change, Changed, Consumer, ConsumerOptions, Delivery,
    DeliveryTag, ErrorKind, Lock, LockError, LockHolder, Publisher, PublisherOptions, QueueDepth,
    Settled, Settlement, Snapshot,
};

use super::bundle::{Head, Item, Seal};
use super::bundle_file::{BundleFileError, BundleReader};
use super::select::{SelectError, Selection, Selector};

/// Bytes of letters that may be here at once, about.
pub const AT_HAND: u64 = 128 << 20;

/// What is in a bundle, from a look at all of it.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The file.
    pub path: PathBuf,
    /// Whose letters these are.
    pub head: Head,
    /// How many there are.
    pub letters: u64,
    /// Of these, how many are selected.
    pub wanted: u64,
    /// Letters for which the condition failed.
    pub filter_errors: u64,
    /// What the first of these failures was.
    pub first_filter_error: Option<String>,
    /// Bytes of the longest line.
    pub largest: u64,
    /// The seal of the last letter: no other bundle has it.
    pub seal: Seal,
    /// Whether the end is there, so that nothing can be missing.
    pub is_whole: bool,
    selection: Selection,
    /// Letters that match when neither first nor last limits them.
    matching: u64,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// The file, or a line in it.
    #[error(transparent)]
    File(#[from] BundleFileError),
    /// The selection.
    #[error(transparent)]
    Select(#[from] SelectError),
}

/// Looks at all of a bundle: whether it is good, and what is in it.
///
/// # Errors
/// The first line that is wrong, or what is wrong with the selection.
pub fn examine(path: &Path, selection: &Selection) -> Result<Contents, ExamineError> {
    let mut reader = BundleReader::open(path)?;
    let Some(head) = reader.head().cloned() else {
        return Err(BundleFileError::Empty { path: path.to_owned() }.into());
    };
    let mut selector = Selector::new(selection, &head.vhost, &head.queue)?;
    let (mut matching, mut filter_errors, mut first_filter_error) = (0, 0, None);
    let mut largest = 0;
    while let Some((item, bytes)) = reader.next_letter()? {
        largest = largest.max(bytes);
        let number = item.number;
        match selector.matches(number, &delivery(item, &head, number)) {
            Ok(matches) => matching += u64::from(matches),
            Err(error @ SelectError::Undecided(_)) => {
                filter_errors += 1;
                first_filter_error.get_or_insert_with(|| error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let most = selection.first.into_iter().chain(selection.last).fold(matching, u64::min);
    Ok(Contents {
        path: path.to_owned(),
        letters: reader.letters(),
        wanted: most,
        filter_errors,
        first_filter_error,
        largest,
        seal: reader.seal(),
        is_whole: reader.is_whole(),
        head,
        selection: selection.clone(),
        matching,
    })
}

impl Contents {
    /// How many letters may be out at once, of the `window` that is asked for: large ones, fewer.
    pub fn window(&self, window: u64) -> u64 {
        window.min((AT_HAND / 2).checked_div(self.largest).unwrap_or(window)).max(1)
    }

    /// How many may be unsettled at once, when `intents` are needed.
    pub fn prefetch(&self, intents: u64) -> u64 {
        let room = AT_HAND.checked_div(self.largest).unwrap_or(intents);
        room.clamp(intents, u64::from(u16::MAX))
    }
}

fn delivery(item: Item, head: &Head, tag: u64) -> Delivery {
    let Item { record, .. } = item;
    Delivery {
        tag: DeliveryTag { generation: 0, tag },
        exchange: record.exchange.unwrap_or_else(ExchangeName::default_exchange),
        routing_key: record.routing_key.unwrap_or_else(|| head.queue.as_routing_key()),
        redelivered: false,
        message: record.message,
    }
}

/// A broker whose every queue is the bundle; whatever else is asked, the broker behind it answers.
#[derive(Debug)]
pub struct BundleSource<'a> {
    broker: &'a dyn Broker,
    contents: Contents,
    settled: Arc<AtomicU64>,
}

impl<'a> BundleSource<'a> {
    /// Hands out what is selected of a bundle.
    pub fn new(broker: &'a dyn Broker, contents: Contents) -> BundleSource<'a> {
        BundleSource { broker, contents, settled: Arc::new(AtomicU64::new(0)) }
    }
}

#[async_trait]
impl Broker for BundleSource<'_> {
    fn identity(&self) -> &BrokerIdentity {
        self.broker.identity()
    }

    async fn publisher(
        &self,
        options: PublisherOptions,
    ) -> Result<Box<dyn Publisher>, BrokerError> {
        self.broker.publisher(options).await
    }

    async fn consumer(
        &self,
        _: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        let (letters, to_come) = mpsc::channel(4);
        let contents = self.contents.clone();
        tokio::task::spawn_blocking(move || hand_out(&contents, &letters));
        Ok(Box::new(FromFile {
            to_come,
            failure: None,
            prefetch: usize::from(options.prefetch),
            unsettled: BTreeSet::new(),
            settled: Arc::clone(&self.settled),
        }))
    }

    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        self.broker.inspect().await
    }

    async fn depth(&self, _: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        let ready = self.contents.wanted.saturating_sub(self.settled.load(Ordering::Relaxed));
        Ok(Some(QueueDepth { ready, consumers: 0 }))
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        self.broker.has_exchange(exchange).await
    }

    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        self.broker.change(change).await
    }

    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        self.broker.lock(name, holder).await
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

type Letters = mpsc::Sender<Result<Delivery, BrokerError>>;

fn unreadable(error: &dyn fmt::Display) -> BrokerError {
    BrokerError::new(ErrorKind::Storage, "read the bundle", error.to_string())
}

/// Sends the selected letters until nobody takes them any more.
fn hand_out(contents: &Contents, letters: &Letters) {
    let mut handed = 0;
    let mut work = || -> Result<(), BrokerError> {
        let mut reader = BundleReader::open(&contents.path).map_err(|error| unreadable(&error))?;
        let Head { vhost, queue, .. } = &contents.head;
        let mut selector =
            Selector::new(&contents.selection, vhost, queue).map_err(|error| unreadable(&error))?;
        selector.set_total(contents.matching);
        while handed < contents.wanted {
            let next = reader.next_letter().map_err(|error| unreadable(&error))?;
            let Some((item, _)) = next else {
                return Err(unreadable(&"it is shorter than before"));
            };
            let number = item.number;
            let delivery = delivery(item, &contents.head, handed + 1);
            if !selector.wants(number, &delivery).unwrap_or(false) {
                continue;
            }
            handed += 1;
            if letters.blocking_send(Ok(delivery)).is_err() {
                break;
            }
        }
        Ok(())
    };
    if let Err(error) = work() {
        // Whoever does not listen has what it wanted.
        let _ = letters.blocking_send(Err(error));
    }
}

#[derive(Debug)]
struct FromFile {
    to_come: mpsc::Receiver<Result<Delivery, BrokerError>>,
    /// What [`Consumer::ready`] met.
    failure: Option<BrokerError>,
    prefetch: usize,
    unsettled: BTreeSet<u64>,
    settled: Arc<AtomicU64>,
}

#[async_trait]
impl Consumer for FromFile {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if self.unsettled.len() < self.prefetch
            && let Some(next) = self.to_come.recv().await
        {
            let delivery = next?;
            self.unsettled.insert(delivery.tag.tag);
            return Ok(delivery);
        }
        // As an empty queue: nothing comes.
        std::future::pending().await
    }

    fn ready(&mut self) -> Option<Delivery> {
        if self.unsettled.len() >= self.prefetch {
            return None;
        }
        match self.to_come.try_recv().ok()? {
            Ok(delivery) => {
                self.unsettled.insert(delivery.tag.tag);
                Some(delivery)
            }
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        let before = self.unsettled.len();
        match how {
            Settlement::AckUpTo => self.unsettled = self.unsettled.split_off(&(tag.tag + 1)),
            Settlement::Ack | Settlement::Requeue | Settlement::Reject => {
                self.unsettled.remove(&tag.tag);
            }
        }
        let gone = (before - self.unsettled.len()) as u64;
        self.settled.fetch_add(gone, Ordering::Relaxed);
        Ok(Settled::Sent)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}
