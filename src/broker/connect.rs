//! From a URL to a broker: the one place that chooses between RabbitMQ and the embedded broker.

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::VhostName;
use crate::base::time::Clock;
use crate::base::url::{BrokerUrl, EmbeddedUrl, Imitated, ManagementUrl};

use super::embedded::{EmbeddedBroker, EmbeddedOptions};
use super::rabbitmq::{ConnectOptions, RabbitBroker};
use super::{Broker, BrokerError, ErrorKind, Version};

pub use super::rabbitmq::{TlsOptions, Webhook};

/// Everything that decides how a broker is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is. An embedded URL names its state file here; settings have filled it in.
    pub url: BrokerUrl,
    /// The management API, when it is not where RabbitMQ puts it.
    pub management: Option<ManagementUrl>,
    /// The virtual host of the embedded broker, whose URL has none; `/` when left out.
    pub vhost: Option<VhostName>,
    /// Certificates for `amqps` and `https`.
    pub tls: TlsOptions,
    /// Limit of every single wait.
    pub timeout: Duration,
    /// How the connection is called in the broker's own lists.
    pub client_name: String,
}

/// Reaches the broker at `target`. `seed` feeds the jitter between attempts to connect again.
pub async fn connect(
    target: Target,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> Result<Arc<dyn Broker>, BrokerError> {
    let Target { url, management, vhost, tls, timeout, client_name } = target;
    match url {
        BrokerUrl::Amqp(url) => {
            let management = management.unwrap_or_else(|| url.default_management_url());
            let options = ConnectOptions {
                management: Some(management),
                tls,
                timeout,
                clock,
                seed,
                client_name,
                ..ConnectOptions::new(url)
            };
            RabbitBroker::connect(options).await
        }
        BrokerUrl::Embedded(EmbeddedUrl { path, like }) => {
            let Some(path) = path else {
                let attempted = "open the embedded broker";
                let cause = "its URL names no state file";
                return Err(BrokerError::new(ErrorKind::Invalid, attempted, cause)
                    .hint("write embedded:PATH"));
            };
            let like = match like {
                Imitated::V3_10 => Version::new(3, 10, 8),
                Imitated::V4_0 => Version::new(4, 0, 5),
            };
            let vhost = vhost.unwrap_or_default();
            let options = EmbeddedOptions { like, vhost, timeout };
            let broker: Arc<dyn Broker> = EmbeddedBroker::open(path, options, clock).await?;
            Ok(broker)
        }
    }
}
