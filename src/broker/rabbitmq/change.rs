//! Declaring, binding, purging and deleting over AMQP.
//!
//! Each request has a channel to itself, so that a refusal takes nothing with it. `if-empty` and
//! `if-unused` are sent to the broker for classic queues only: for a quorum queue they end the
//! connection, and for a stream they are ignored and the stream is deleted all the same.

use std::sync::Arc;
use std::time::Duration;

use lapin::ExchangeKind as LapinExchange;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable as AmqpTable;
use tokio::time::Instant;

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::change::{Change, Changed};
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, QueueDefinition, QueueType,
};
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::QueueDepth;
use crate::broker::snapshot::QueueState;
use crate::broker::version::Capabilities;
use crate::message::FieldTable;

use super::convert::{endless_number, name, table_out};
use super::core::{Core, Purpose};
use super::management::Management;

/// Arguments as the client library wants them.
fn arguments(attempted: &str, table: &FieldTable) -> Result<AmqpTable, BrokerError> {
    if let Some(name) = endless_number(table) {
        let cause = format!("the argument `{name}` holds a number without end or none");
        return Err(BrokerError::new(ErrorKind::Invalid, attempted, cause));
    }
    table_out(table).map_err(|long| {
        let cause = format!("{} has {} bytes; AMQP allows 255", long.what, long.bytes);
        BrokerError::new(ErrorKind::Invalid, attempted, cause)
    })
}

/// Takes "does not exist" for an answer.
fn absent<T>(answer: Result<T, BrokerError>) -> Result<Option<T>, BrokerError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How full a queue is; `None` when it does not exist.
pub(super) async fn depth(
    core: &Arc<Core>,
    queue: &QueueName,
) -> Result<Option<QueueDepth>, BrokerError> {
    let attempted = format!("look at queue `{queue}`");
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let answer = core
        .request(Purpose::Publish, &attempted, async |channel| {
            channel.queue_declare(name(queue), passive, AmqpTable::default()).await
        })
        .await;
    Ok(absent(answer)?.map(|queue| QueueDepth {
        ready: u64::from(queue.message_count()),
        consumers: u64::from(queue.consumer_count()),
    }))
}

/// Whether an exchange exists.
pub(super) async fn has_exchange(
    core: &Arc<Core>,
    exchange: &ExchangeName,
) -> Result<bool, BrokerError> {
    if exchange.is_default() {
        return Ok(true);
    }
    let attempted = format!("look at exchange `{exchange}`");
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let answer = core
        .request(Purpose::Publish, &attempted, async |channel| {
            let kind = LapinExchange::Direct;
            channel.exchange_declare(name(exchange), kind, passive, AmqpTable::default()).await
        })
        .await;
    Ok(absent(answer)?.is_some())
}

/// Carries out one change.
pub(super) async fn change(
    core: &Arc<Core>,
    management: Option<&Management>,
    change: &Change,
    capabilities: Capabilities,
) -> Result<Changed, BrokerError> {
    let attempted = change.to_string();
    match change {
        Change::DeclareExchange(exchange) => declare_exchange(core, &attempted, exchange).await,
        Change::DeleteExchange { name: exchange, if_unused } => {
            let options = ExchangeDeleteOptions { if_unused: *if_unused, nowait: false };
            let answer = core
                .request(Purpose::Publish, &attempted, async |channel| {
                    channel.exchange_delete(name(exchange), options).await
                })
                .await;
            absent(answer).map(|_| Changed::Done)
        }
        Change::DeclareQueue(queue) => declare_queue(core, &attempted, queue).await,
        Change::DeleteQueue { name: queue, if_empty, if_unused } => {
            delete_queue(core, management, &attempted, queue, *if_empty, *if_unused).await
        }
        Change::PurgeQueue(queue) => {
            // A stream answers 540, which ends the connection.
            let purged = core
                .request(Purpose::Risk, &attempted, async |channel| {
                    channel.queue_purge(name(queue), QueuePurgeOptions::default()).await
                })
                .await?;
            Ok(Changed::WithMessages(u64::from(purged)))
        }
        Change::Bind(binding) => bind(core, &attempted, binding).await,
        Change::Unbind(binding) => unbind(core, &attempted, binding).await,
        Change::PutPolicy(_)
        | Change::DeletePolicy(_)
        | Change::PutOperatorPolicy(_)
        | Change::DeleteOperatorPolicy(_)
        | Change::SetVhostLimit { .. }
        | Change::SetDefaultQueueType(_) => {
            let management = management.ok_or_else(|| Management::missing(&attempted))?;
            management.change(&attempted, change, capabilities).await
        }
    }
}

async fn declare_exchange(
    core: &Arc<Core>,
    attempted: &str,
    exchange: &ExchangeDefinition,
) -> Result<Changed, BrokerError> {
    let arguments = arguments(attempted, &exchange.arguments)?;
    let (kind, purpose) = match &exchange.kind {
        ExchangeKind::Direct => (LapinExchange::Direct, Purpose::Publish),
        ExchangeKind::Fanout => (LapinExchange::Fanout, Purpose::Publish),
        ExchangeKind::Topic => (LapinExchange::Topic, Purpose::Publish),
        ExchangeKind::Headers => (LapinExchange::Headers, Purpose::Publish),
        // A type that the broker does not know ends the connection before 4.0.
        ExchangeKind::Other(kind) => (LapinExchange::Custom(kind.clone()), Purpose::Risk),
    };
    let options = ExchangeDeclareOptions {
        passive: false,
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        nowait: false,
    };
    core.request(purpose, attempted, async |channel| {
        channel.exchange_declare(name(&exchange.name), kind, options, arguments).await
    })
    .await?;
    Ok(Changed::Done)
}

async fn declare_queue(
    core: &Arc<Core>,
    attempted: &str,
    queue: &QueueDefinition,
) -> Result<Changed, BrokerError> {
    let arguments = arguments(attempted, &queue.arguments)?;
    let options = QueueDeclareOptions {
        passive: false,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
    };
    core.request(Purpose::Publish, attempted, async |channel| {
        channel.queue_declare(name(&queue.name), options, arguments).await
    })
    .await?;
    Ok(Changed::Done)
}

async fn delete_queue(
    core: &Arc<Core>,
    management: Option<&Management>,
    attempted: &str,
    queue: &QueueName,
    if_empty: bool,
    if_unused: bool,
) -> Result<Changed, BrokerError> {
    let mut options = QueueDeleteOptions::default();
    if if_empty || if_unused {
        let Some(depth) = depth(core, queue).await? else {
            return Ok(Changed::WithMessages(0));
        };
        let QueueDepth { mut ready, mut consumers } = depth;
        let mut unacked = 0;
        // The management API tells the type, and what AMQP does not count: deliveries that are not
        // settled, and the consumers of a stream.
        if let Some(management) = management
            && let Ok(Some(seen)) = counted(core, management, queue, ready).await
        {
            unacked = seen.unacked.unwrap_or(0);
            match seen.definition.queue_type().unwrap_or(QueueType::Classic) {
                QueueType::Classic => {
                    options.if_empty = if_empty;
                    options.if_unused = if_unused;
                }
                QueueType::Quorum => {}
                QueueType::Stream => {
                    ready = ready.max(seen.ready.unwrap_or(0));
                    consumers = consumers.max(seen.consumers.unwrap_or(0));
                }
            }
        }
        let refuse =
            |cause: String| Err(BrokerError::new(ErrorKind::PreconditionFailed, attempted, cause));
        if if_empty && ready + unacked > 0 {
            return refuse(format!("it holds messages: {ready} ready, {unacked} unsettled"));
        }
        if if_unused && consumers > 0 {
            return refuse(format!("it has consumers: {consumers}"));
        }
    }
    let answer = core
        .request(Purpose::Publish, attempted, async |channel| {
            channel.queue_delete(name(queue), options).await
        })
        .await;
    Ok(Changed::WithMessages(absent(answer)?.map_or(0, u64::from)))
}

/// The queue as the management API counts it. Its counts are some seconds old: unsettled deliveries of
/// a queue that has nothing ready may be settled already, so they are looked at until the counts must
/// have caught up.
async fn counted(
    core: &Core,
    management: &Management,
    queue: &QueueName,
    ready: u64,
) -> Result<Option<QueueState>, BrokerError> {
    const PAUSE: Duration = Duration::from_millis(250);
    // The interval of the statistics, five seconds by default, and something on top.
    const CAUGHT_UP: Duration = Duration::from_secs(6);
    let end = Instant::now() + CAUGHT_UP.min(core.timeout());
    loop {
        let seen = management.queue(queue).await?;
        let unacked = seen.as_ref().and_then(|queue| queue.unacked).unwrap_or(0);
        if ready > 0 || unacked == 0 || Instant::now() + PAUSE > end {
            return Ok(seen);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn bind(
    core: &Arc<Core>,
    attempted: &str,
    binding: &BindingDefinition,
) -> Result<Changed, BrokerError> {
    let arguments = arguments(attempted, &binding.arguments)?;
    let (source, key) = (name(&binding.source), name(&binding.routing_key));
    core.request(Purpose::Publish, attempted, async |channel| match &binding.destination {
        Destination::Queue(queue) => {
            channel
                .queue_bind(name(queue), source, key, QueueBindOptions::default(), arguments)
                .await
        }
        Destination::Exchange(exchange) => {
            let options = ExchangeBindOptions::default();
            channel.exchange_bind(name(exchange), source, key, options, arguments).await
        }
    })
    .await?;
    Ok(Changed::Done)
}

async fn unbind(
    core: &Arc<Core>,
    attempted: &str,
    binding: &BindingDefinition,
) -> Result<Changed, BrokerError> {
    let arguments = arguments(attempted, &binding.arguments)?;
    let (source, key) = (name(&binding.source), name(&binding.routing_key));
    let answer = core
        .request(Purpose::Publish, attempted, async |channel| match &binding.destination {
            Destination::Queue(queue) => {
                channel.queue_unbind(name(queue), source, key, arguments).await
            }
            Destination::Exchange(exchange) => {
                let options = ExchangeUnbindOptions::default();
                channel.exchange_unbind(name(exchange), source, key, options, arguments).await
            }
        })
        .await;
    // Either end is gone, and the binding with it.
    absent(answer).map(|_| Changed::Done)
}
