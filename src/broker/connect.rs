//! From a URL to a broker: the one place that chooses between RabbitMQ and the embedded broker.

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::VhostName;
use crate::base::time::Clock;
use crate::base::url::{BrokerUrl, Imitated, ManagementUrl};
use crate::resilience::CircuitSettings;

use super::embedded::{EmbeddedBroker, EmbeddedOptions};
use super::rabbitmq::{ConnectOptions, RabbitBroker};
use super::{Broker, BrokerError, ErrorKind, Version};

pub use super::rabbitmq::TlsOptions;

/// Everything that decides how a broker is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it is. An embedded URL has to name its state file here.
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
///
/// # Errors
/// `Unreachable`, `TimedOut`, `AccessRefused` or `NotFound` naming the step that failed; `Storage` when
/// the state file cannot be used.
pub async fn connect(
    target: Target,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> Result<Arc<dyn Broker>, BrokerError> {
    let Target { url, management, tls, timeout, client_name } = target;
    match url {
        BrokerUrl::Amqp(url) => {
            let management = management.unwrap_or_else(|| url.default_management_url());
            RabbitBroker::connect(ConnectOptions {
                url,
                management: Some(management),
                tls,
                timeout,
                clock,
                seed,
                circuit: CircuitSettings::default(),
                client_name,
            })
            .await
        }
        BrokerUrl::Embedded(url) => {
            let attempted = "open the embedded broker";
            let Some(path) = url.path else {
                let cause = "no state file is named";
                return Err(BrokerError::new(ErrorKind::Invalid, attempted, cause)
                    .hint("write embedded:PATH"));
            };
            let like = match url.like {
                Imitated::V3_10 => Version::new(3, 10, 8),
                Imitated::V4_0 => Version::new(4, 0, 5),
            };
            let vhost = VhostName::new("/").map_err(|error| {
                BrokerError::new(ErrorKind::Invalid, attempted, error.to_string())
            })?;
            let options = EmbeddedOptions { like, vhost, timeout };
            Ok(EmbeddedBroker::open(path, options, clock).await?)
        }
    }
}
