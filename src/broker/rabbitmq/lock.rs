//! The lock: an exclusive queue on a connection of its own. The broker deletes it with the connection,
//! so a holder that dies lets go.
//!
//! Who holds it stands in the queue's arguments, which the broker keeps without knowing them; whoever
//! comes second reads them over the management API when there is one.

use std::sync::Arc;

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable as AmqpTable;
use tokio::time::Instant;

use crate::base::id::QueueName;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Lock, LockError, LockHolder};
use crate::message::{FieldTable, FieldValue};

use super::convert::{name, table_out};
use super::core::Core;
use super::link::{Link, OpenChannel};
use super::management::Management;

const HOLDER: &str = "x-nexus-holder";
const SINCE: &str = "x-nexus-since";

/// A lock of [`super::RabbitBroker`].
pub(super) struct RabbitLock {
    link: Link,
    channel: OpenChannel,
    queue: QueueName,
    attempted: String,
}

impl std::fmt::Debug for RabbitLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitLock").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// Takes the lock `lock` for `holder`.
pub(super) async fn take(
    core: &Arc<Core>,
    management: Option<&Management>,
    lock: &str,
    holder: &LockHolder,
) -> Result<RabbitLock, LockError> {
    let attempted = format!("take the lock `{lock}`");
    let invalid = |cause: String| BrokerError::new(ErrorKind::Invalid, &attempted, cause);
    let queue = QueueName::new(format!("nexusctl.lock.{lock}"))
        .map_err(|error| invalid(error.to_string()))?;
    let arguments =
        FieldTable::new().with(HOLDER, holder.who.as_str()).with(SINCE, holder.since.to_string());
    let arguments =
        table_out(&arguments).map_err(|_| invalid("the holder does not fit".to_owned()))?;
    let link = core.open("lock", Instant::now() + core.timeout()).await?;
    let channel = link.channel(&attempted).await?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declared =
        link.ask(&attempted, channel.queue_declare(name(&queue), options, arguments)).await;
    match declared {
        Ok(_) => Ok(RabbitLock { link, channel, queue, attempted }),
        Err(error) if error.kind == ErrorKind::Locked => {
            link.close().await;
            let holder = match management {
                Some(management) => {
                    management.queue_arguments(&queue).await.as_ref().and_then(read_holder)
                }
                None => None,
            };
            Err(LockError::Held { holder })
        }
        Err(error) => Err(error.into()),
    }
}

fn read_holder(arguments: &FieldTable) -> Option<LockHolder> {
    let text = |key: &str| arguments.get(key).and_then(FieldValue::as_text).map(str::to_owned);
    Some(LockHolder { who: text(HOLDER)?, since: text(SINCE)?.parse().ok()? })
}

#[async_trait]
impl Lock for RabbitLock {
    async fn check(&self) -> Result<(), BrokerError> {
        let attempted = format!("keep the lock: {}", self.attempted);
        // A look at the queue goes to the broker and back on the very connection that holds it.
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let look = self.channel.queue_declare(name(&self.queue), passive, AmqpTable::default());
        self.link.ask(&attempted, look).await.map(|_| ())
    }

    async fn release(self: Box<Self>) -> Result<(), BrokerError> {
        let delete = self.channel.queue_delete(name(&self.queue), QueueDeleteOptions::default());
        let deleted = self.link.ask(&self.attempted, delete).await.map(|_| ());
        self.link.close().await;
        deleted
    }
}
