//! RabbitMQ: AMQP 0-9-1 for messages and declarations, the management API for reading.
//!
//! Connections are opened when they are first needed, one for each direction; without a management
//! URL everything works that AMQP alone can do. Nothing waits longer than the time-out, and closing
//! ends in bounded time even when the broker hangs.
//!
//! This is the only place that names the AMQP and HTTP client libraries. The former logs whole
//! messages that the broker returned, so its own log lines are not for printing.

mod answers;
mod change;
mod consumer;
mod convert;
mod core;
mod fault;
mod link;
mod listing;
mod lock;
mod management;
mod publisher;
mod tls;
mod transport;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use crate::base::id::{ExchangeName, QueueName};
use crate::base::suggest::nearest;
use crate::base::time::{Clock, SystemClock};
use crate::base::url::{AmqpUrl, ManagementUrl};
use crate::resilience::CircuitSettings;

use super::change::{Change, Changed};
use super::error::{BrokerError, ErrorKind};
use super::port::{
    Broker, Consumer, ConsumerOptions, Lock, LockError, LockHolder, Publisher, PublisherOptions,
    QueueDepth,
};
use super::snapshot::{QueueDetails, Snapshot};
use super::version::{BrokerIdentity, Product};

use self::consumer::RabbitConsumer;
use self::core::{Core, Purpose};
use self::link::{LinkOptions, shown};
use self::management::Management;
use self::publisher::RabbitPublisher;

pub use self::tls::TlsOptions;
pub use self::webhook::Webhook;

/// How to reach a RabbitMQ.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Where it is, and as whom in which vhost.
    pub url: AmqpUrl,
    /// Where its management API is; without it, `inspect` and policies are not supported.
    pub management: Option<ManagementUrl>,
    /// TLS for `amqps` and `https`.
    pub tls: TlsOptions,
    /// The longest that any wait may take: connecting, a request, a confirm.
    pub timeout: Duration,
    /// Tells the circuit breaker the time.
    pub clock: Arc<dyn Clock>,
    /// Where the randomness of the waits between attempts comes from.
    pub seed: u64,
    /// When to leave a broker alone that keeps failing.
    pub circuit: CircuitSettings,
    /// Shown in the broker's list of connections, followed by what the connection is for.
    pub client_name: String,
}

impl ConnectOptions {
    /// Ten seconds of patience, no management API, this machine's clock.
    pub fn new(url: AmqpUrl) -> Self {
        ConnectOptions {
            url,
            management: None,
            tls: TlsOptions::default(),
            timeout: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            seed: 0,
            // One probe every two seconds costs a broker nothing, and people wait for it.
            circuit: CircuitSettings {
                longest_recovery: Duration::from_secs(2),
                ..CircuitSettings::default()
            },
            client_name: "nexusctl".to_owned(),
        }
    }
}

/// A RabbitMQ that has been reached.
#[derive(Debug)]
pub struct RabbitBroker {
    core: Arc<Core>,
    management: Option<Management>,
    identity: BrokerIdentity,
}

impl RabbitBroker {
    /// Connects, and learns from the broker's greeting which it is. Needs a running tokio runtime.
    ///
    /// Fails with `Unreachable` or `TimedOut` naming the step, `AccessRefused` for a wrong login,
    /// `NoSuchVhost` for a vhost that does not exist, `Invalid` for TLS files that cannot be used.
    pub async fn connect(options: ConnectOptions) -> Result<Arc<dyn Broker>, BrokerError> {
        let ConnectOptions { url, management, tls, timeout, clock, seed, circuit, client_name } =
            options;
        let vhost = url.vhost.clone();
        let management = management.map(|management| {
            let password = url.password.clone().unwrap_or_default();
            let tls = tls.clone();
            Management::new(management, &url.username, &password, vhost.clone(), tls, timeout)
        });
        let attempted = format!("connect to {}", shown(&url));
        let links = LinkOptions { url, tls, timeout, client_name };
        let core = Arc::new(Core::new(links, clock, seed, circuit));
        let deadline = Instant::now() + timeout;
        let link = match core.open("publish", deadline).await {
            Ok(link) => Arc::new(link),
            Err(error) if error.kind == ErrorKind::NoSuchVhost => {
                let vhosts = match &management {
                    Some(management) => timeout_at(deadline, management.vhosts()).await,
                    None => Ok(None),
                };
                return Err(match vhosts {
                    Ok(Some(vhosts)) => error.hint(advise_vhost(vhost.as_str(), &vhosts)),
                    _ => error,
                });
            }
            Err(error) => return Err(error),
        };
        let server = link.server().clone();
        core.adopt(Purpose::Publish, link).await;
        if !server.product.is_empty() && server.product != "RabbitMQ" && server.version.is_empty() {
            let cause = format!("the broker calls itself `{}`", server.product);
            return Err(BrokerError::new(ErrorKind::Unsupported, attempted, cause)
                .hint("RabbitMQ 3.10 and later are supported"));
        }
        let identity = match server.version.parse() {
            Ok(version) => BrokerIdentity {
                product: Product::RabbitMq,
                version,
                cluster_name: server.cluster_name,
                vhost,
            },
            // A broker that hides its version from clients may still tell the management API.
            Err(_) => match &management {
                Some(management) => management.identity().await?,
                None => {
                    return Err(BrokerError::new(
                        ErrorKind::Unsupported,
                        attempted,
                        "the broker does not tell its version",
                    )
                    .hint("set management_url: the management API tells it, too"));
                }
            },
        };
        Ok(Arc::new(RabbitBroker { core, management, identity }))
    }
}

/// What to write instead of a vhost that does not exist, when the login may see `known`.
fn advise_vhost(missing: &str, known: &[String]) -> String {
    const SHOWN: usize = 8;
    if let Some(meant) = nearest(missing, known.iter().map(String::as_str)) {
        return format!("did you mean `{meant}`?");
    }
    let listed: Vec<String> = known.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match known.len().checked_sub(SHOWN) {
        _ if known.is_empty() => "the login may see no vhost at all".to_owned(),
        None | Some(0) => format!("the login may see {}", listed.join(", ")),
        Some(more) => format!("the login may see {} and {more} more", listed.join(", ")),
    }
}

#[async_trait]
impl Broker for RabbitBroker {
    fn identity(&self) -> &BrokerIdentity {
        &self.identity
    }

    async fn publisher(
        &self,
        options: PublisherOptions,
    ) -> Result<Box<dyn Publisher>, BrokerError> {
        let max = self.capabilities().max_message_bytes;
        let publisher = RabbitPublisher::open(Arc::clone(&self.core), options, max).await?;
        Ok(Box::new(publisher))
    }

    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        Ok(Box::new(RabbitConsumer::open(Arc::clone(&self.core), queue, options).await?))
    }

    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        match &self.management {
            Some(management) => management.inspect(self.identity.clone()).await,
            None => Err(Management::missing(&format!("list vhost `{}`", self.identity.vhost))),
        }
    }

    async fn list_queues(&self, statistics: bool) -> Result<Vec<QueueDetails>, BrokerError> {
        match &self.management {
            Some(management) => management.list_queues(statistics).await,
            None => {
                Err(Management::missing(&format!("list the queues of `{}`", self.identity.vhost)))
            }
        }
    }

    async fn queue_details(&self, queue: &QueueName) -> Result<Option<QueueDetails>, BrokerError> {
        match &self.management {
            Some(management) => management.queue_details(queue).await,
            None => Err(Management::missing(&format!("look at queue `{queue}`"))),
        }
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        change::depth(&self.core, queue).await
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        change::has_exchange(&self.core, exchange).await
    }

    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        let capabilities = self.capabilities();
        change::change(&self.core, self.management.as_ref(), change, capabilities).await
    }

    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        let management = self.management.as_ref();
        Ok(Box::new(lock::take(&self.core, management, name, holder).await?))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.core.close().await;
        Ok(())
    }
}
