//! From a URL to a broker: the one place that chooses between RabbitMQ and the embedded broker.

use std::sync::Arc;
use std::time::Duration;

use crate::base::time::Clock;
use crate::base::url::{BrokerUrl, ManagementUrl};

use super::rabbitmq::{ConnectOptions, RabbitBroker};
use super::{Broker, BrokerError, ErrorKind};

pub use super::rabbitmq::TlsOptions;

/// Everything that decides how a broker is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is. An embedded URL names its state file here; settings have filled it in.
    pub url: BrokerUrl,
    /// The management API, when it is not where RabbitMQ puts it.
    pub management: Option<ManagementUrl>,
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
    let Target { url, management, tls, timeout, client_name } = target;
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
        BrokerUrl::Embedded(_) => {
            Err(BrokerError::new(ErrorKind::Unsupported, "open the embedded broker", "x"))
        }
    }
}
