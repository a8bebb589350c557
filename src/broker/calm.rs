//! Waiting until a queue is itself again after its broker, or whoever consumed from it, was killed.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::base::id::QueueName;

use super::error::BrokerError;
use super::port::Broker;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks that have to agree. A quorum queue that is being recovered counts for a moment what was true
/// some time before its leader was lost.
const LOOKS_ALIKE: u32 = 5;
/// How long a queue that counts nothing is looked at: one without a leader counts nothing either.
const EMPTY_PATIENCE: Duration = Duration::from_secs(3);

/// Waits until `queue` has no consumer and its count stands still, at most for `patience`; whether it
/// came to that. What a consumer that was killed had not settled is then back in its place, and who
/// subscribes now gets all of it in order. A queue that does not exist is calm.
///
/// # Errors
/// When the broker cannot be asked.
pub async fn await_calm(
    broker: &dyn Broker,
    queue: &QueueName,
    patience: Duration,
) -> Result<bool, BrokerError> {
    let started = Instant::now();
    let (mut alike, mut ready) = (0, 0);
    loop {
        let Some(depth) = broker.depth(queue).await? else { return Ok(true) };
        alike = match depth.consumers {
            0 if depth.ready == ready => alike + 1,
            0 => 1,
            _ => 0,
        };
        ready = depth.ready;
        let is_sure = ready > 0 || started.elapsed() >= EMPTY_PATIENCE;
        if alike >= LOOKS_ALIKE && is_sure {
            return Ok(true);
        }
        if started.elapsed() >= patience {
            return Ok(false);
        }
        sleep(LOOK_EVERY).await;
    }
}
