//! Reading a dead-letter queue once, in order and without harm, into the state file.
//!
//! The way of looking and its cost are those of [`peek`](crate::delivery::peek). Memory does not grow
//! with the queue: letters are written while the next are on their way.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;

use crate::base::id::QueueName;
use crate::broker::{Broker, BrokerError, Delivery};
use crate::delivery::peek::{Onlooker, Short, ThroughOptions, look_through};
use crate::delivery::stop::{Stop, Wish};
use crate::delivery::stream::{self, ReadEnd};
use crate::message::FieldValue;
use crate::storage::StorageError;

use super::sighting::Sighting;
use super::store::{Row, ScanId, Scans};

/// How much of bodies is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Of one body, bytes.
    pub each: usize,
    /// Of all bodies together, bytes; once they are used up, no more is kept.
    pub all: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { each: 64 << 10, all: 1 << 30 }
    }
}

/// Where to read.
#[derive(Clone, Debug)]
pub enum Reach {
    /// A queue, from its head.
    Queue(ThroughOptions),
    /// A stream.
    Stream {
        /// From here.
        from: FieldValue,
        /// Taken for read when it is silent for so long.
        wait: Duration,
    },
}

/// What a scan came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanReport {
    /// Letters that were seen and written.
    pub letters: u64,
    /// The most returns of any message held, this look included.
    pub returns: u64,
    /// Whether it is certain that all are back at their places.
    pub order_kept: bool,
    /// Why there may be more; `None` when all that waited were seen.
    pub short: Option<&'static str>,
}

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The state file failed; the messages are back in the queue.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Letters that are written in one transaction.
const BATCH: usize = 1000;

/// Writes what it sees.
struct Writer<'a> {
    scans: &'a Scans,
    scan: ScanId,
    vhost: &'a str,
    queue: &'a QueueName,
    keep: Keep,
    kept: u64,
    position: u64,
    progress: &'a mut (dyn FnMut(u64) + Send),
    stop: &'a Stop,
    failure: Option<StorageError>,
}

impl Writer<'_> {
    fn row(&mut self, delivery: Delivery) -> Row {
        self.position += 1;
        let each = if self.kept < self.keep.all { self.keep.each } else { 0 };
        let sighting = Sighting::of(self.vhost, self.queue, self.position, delivery);
        let row = Row::of(sighting, each);
        self.kept += row.kept() as u64;
        row
    }

    fn flow(&mut self, written: Result<(), StorageError>) -> ControlFlow<()> {
        match written {
            Ok(()) => (self.progress)(self.position),
            Err(error) => self.failure = Some(error),
        }
        if self.failure.is_some() || self.stop.wish() >= Wish::Finish {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

#[async_trait]
impl Onlooker for Writer<'_> {
    async fn see(&mut self, deliveries: Vec<Delivery>) -> ControlFlow<()> {
        let mut deliveries = deliveries.into_iter().peekable();
        let mut flow = ControlFlow::Continue(());
        while deliveries.peek().is_some() && self.failure.is_none() {
            let rows: Vec<Row> =
                deliveries.by_ref().take(BATCH).map(|delivery| self.row(delivery)).collect();
            let written = self.scans.append(self.scan, rows).await;
            flow = self.flow(written);
        }
        flow
    }
}

/// Reads a queue into scan `scan`.
///
/// # Errors
/// When the broker or the state file fails. What was read until then is in the scan.
#[expect(clippy::too_many_arguments, reason = "a room's one call, all of different types")]
pub async fn scan(
    broker: &dyn Broker,
    scans: &Scans,
    scan: ScanId,
    queue: &QueueName,
    reach: Reach,
    keep: Keep,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<ScanReport, ScanError> {
    let vhost = broker.identity().vhost.as_str().to_owned();
    let mut writer = Writer {
        scans,
        scan,
        vhost: &vhost,
        queue,
        keep,
        kept: 0,
        position: 0,
        progress,
        stop,
        failure: None,
    };
    let report = match reach {
        Reach::Queue(options) => {
            let through = look_through(broker, queue, &options, &mut writer).await?;
            ScanReport {
                letters: writer.position,
                returns: through.returns,
                order_kept: through.order_kept,
                short: through.short.map(why_short),
            }
        }
        Reach::Stream { from, wait } => {
            let end = read_stream(broker, queue, from, wait, &mut writer).await?;
            ScanReport {
                letters: writer.position,
                returns: 0,
                order_kept: true,
                short: why_end(end),
            }
        }
    };
    match writer.failure {
        Some(error) => Err(error.into()),
        None => Ok(report),
    }
}

async fn read_stream(
    broker: &dyn Broker,
    queue: &QueueName,
    from: FieldValue,
    wait: Duration,
    writer: &mut Writer<'_>,
) -> Result<ReadEnd, BrokerError> {
    let mut rows = Vec::new();
    let stop = writer.stop;
    let end = stream::read(broker, queue, from, wait, stop, &mut |delivery| {
        rows.push(writer.row(delivery));
        if rows.len() < BATCH {
            return ControlFlow::Continue(());
        }
        // The writer has a thread of its own: this waits a few milliseconds.
        let written = writer.scans.append_blocking(writer.scan, std::mem::take(&mut rows));
        writer.flow(written)
    })
    .await?;
    if writer.failure.is_none() {
        let written = writer.scans.append(writer.scan, rows).await;
        let _ = writer.flow(written);
    }
    Ok(end)
}

fn why_short(short: Short) -> &'static str {
    match short {
        Short::Enough => "it was read only as far as was asked for",
        Short::Silent => {
            "messages that the queue counts did not come: others hold them, or they expired"
        }
        Short::TooLong => "messages may not be held any longer, and what lies behind was not read",
        Short::Alone => {
            "a single active consumer gets every message and holds at most 65535; what lies behind was not read"
        }
        Short::Stopped => "it was stopped before the end of the queue",
    }
}

fn why_end(end: ReadEnd) -> Option<&'static str> {
    match end {
        ReadEnd::Complete => None,
        ReadEnd::Enough | ReadEnd::Stopped => Some("it was stopped before the end of the stream"),
        ReadEnd::Silent => {
            Some("the stream was silent before its end, so later messages were not read")
        }
    }
}
