//! One look at a queue: counts only, no message is touched.

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::broker::{Broker, BrokerError, ErrorKind};
use crate::deadletter::store::Scan;

use super::machine::Look;

/// How the oldest death is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgeFrom {
    /// The broker tells when the first message of the queue was published; it died later than that.
    Broker,
    /// The newest scan saw it; it may be gone since.
    Scan,
    /// The first message was looked at.
    Look,
}

/// What a look saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The counts.
    pub look: Look,
    /// Consumers attached.
    pub consumers: u64,
    /// How the oldest death is known; `None` when it is not.
    pub age_from: Option<AgeFrom>,
}

/// Looks at a queue; `None` when it does not exist. Works without the management API, with which less is
/// known. `scan` is the newest scan of the queue.
///
/// # Errors
/// When the broker cannot be asked.
pub async fn observe(
    broker: &dyn Broker,
    queue: &QueueName,
    scan: Option<&Scan>,
    now: Timestamp,
) -> Result<Option<Observed>, BrokerError> {
    let Some(depth) = broker.depth(queue).await? else { return Ok(None) };
    let details = match broker.queue_details(queue).await {
        Ok(details) => details,
        Err(error) if error.kind == ErrorKind::Unsupported => None,
        Err(error) => return Err(error),
    };
    let head = details
        .as_ref()
        .and_then(|details| details.head_timestamp)
        .and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000))
        .map(Timestamp::from_unix_ms);
    let scanned = scan.and_then(|scan| scan.oldest);
    let (oldest, age_from) = match (head, scanned) {
        (Some(at), _) => (Some(at), Some(AgeFrom::Broker)),
        (None, Some(at)) => (Some(at), Some(AgeFrom::Scan)),
        (None, None) => (None, None),
    };
    let all = details.and_then(|details| details.state.messages());
    Ok(Some(Observed {
        look: Look { at: now, ready: depth.ready, all, oldest },
        consumers: depth.consumers,
        age_from,
    }))
}
