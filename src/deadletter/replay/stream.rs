//! Where a run through a stream begins and ends. A stream keeps what it has: an offset names a letter
//! for good, so the journal tells of each letter exactly whether it went, and nothing is removed.

use std::time::Duration;

use crate::broker::Broker;
use crate::delivery::stream::last_offset;

use super::run::{ReplayError, ReplayOptions};
use super::store::Journal;

/// How a stream is read.
#[derive(Clone, Copy, Debug)]
pub struct FromStream {
    /// From this offset on; from the first there is when nothing is said.
    pub from: Option<u64>,
    /// How long it may be silent before its last letter counts as seen.
    pub wait: Duration,
}

/// Deliveries that may be here at once.
pub(super) const PREFETCH: u16 = 1000;

/// The part of a stream that a run is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Its first offset; `None` is the first there is.
    pub(super) start: Option<u64>,
    /// The offset behind its last.
    pub(super) end: u64,
    /// The last offset that the journal knows.
    pub(super) known: Option<u64>,
    /// Letters before the start that were looked at already.
    pub(super) looked: u64,
}

/// What is left of the stream for a run. The end is noted when it is found: what comes later, such as
/// what this run sent and what died again, is not the run's.
pub(super) async fn reach(
    broker: &dyn Broker,
    journal: &Journal,
    options: &ReplayOptions,
    stream: FromStream,
) -> Result<Reach, ReplayError> {
    let place = journal.stream_place(&options.run)?;
    let end = match place.end {
        Some(end) => end,
        None => {
            let last = last_offset(broker, &options.queue, stream.wait).await?;
            let end = last.map_or(0, |last| last + 1);
            journal.stream_ends(&options.run, end).await?;
            end
        }
    };
    let behind = place.last.map(|last| last + 1);
    let start = place.first_open.or(behind).or(stream.from);
    Ok(Reach { start, end, known: place.last, looked: place.before })
}
