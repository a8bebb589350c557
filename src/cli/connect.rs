//! From settings to a broker that has been reached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::time::Clock;
use crate::base::url::{AmqpUrl, BrokerUrl, ManagementUrl};
use crate::broker::Broker;
use crate::broker::rabbitmq::{ConnectOptions, RabbitBroker, TlsOptions};
use crate::broker::read_only::ReadOnly;
use crate::resilience::CircuitSettings;

use super::credentials::complete_url;
use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;
use super::settings::{Settings, Sourced};

/// Everything that is needed to connect, passwords included.
#[derive(Clone, Debug)]
pub struct Target {
    url: BrokerUrl,
    management: Option<ManagementUrl>,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    seed: u64,
}

impl Target {
    /// The broker that the settings mean.
    ///
    /// # Errors
    /// When a password is needed and cannot be had.
    pub fn of(session: &mut Session) -> Result<Target, CliError> {
        let settings = session.settings()?;
        let url = complete_url(session, &settings)?;
        let management = match (&settings.management_url, &url) {
            (Some(url), _) => Some(url.value.clone()),
            (None, BrokerUrl::Amqp(url)) => Some(url.default_management_url()),
            (None, BrokerUrl::Embedded(_)) => None,
        };
        let (clock, seed) = (Arc::clone(&session.clock), session.seed);
        Ok(Target { url, management, settings, clock, seed })
    }

    /// The same with another broker: a temporary one.
    #[must_use]
    pub fn with_url(mut self, url: BrokerUrl) -> Target {
        self.url = url;
        self
    }

    /// The login, when there is one.
    pub fn login(&self) -> Option<&str> {
        match &self.url {
            BrokerUrl::Amqp(AmqpUrl { username, .. }) => Some(username),
            BrokerUrl::Embedded(_) => None,
        }
    }

    /// The broker's URL without its password.
    pub fn shown(&self) -> String {
        self.url.to_string()
    }

    /// The longest wait for any answer.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout()
    }

    /// Connects. A read-only context gives a broker that refuses every change.
    ///
    /// # Errors
    /// When the broker cannot be reached, or is not the cluster that is meant.
    pub async fn connect(&self) -> Result<Arc<dyn Broker>, CliError> {
        let broker = self.reach().await?;
        let actual = &broker.identity().cluster_name;
        if let Some(expected) = &self.settings.expected_cluster_name
            && expected.value != *actual
        {
            return Err(CliError::new(
                super::error::code::WRONG_CLUSTER,
                ExitStatus::BadSettings,
                format!("this is the cluster `{actual}`, and `{}` is expected", expected.value),
            )
            .object(actual)
            .hint("check the URL and expected_cluster_name of the context"));
        }
        Ok(if self.settings.read_only.value { Arc::new(ReadOnly(broker)) } else { broker })
    }

    async fn reach(&self) -> Result<Arc<dyn Broker>, CliError> {
        let settings = &self.settings;
        match &self.url {
            BrokerUrl::Amqp(url) => {
                let path = |path: &Option<Sourced<PathBuf>>| path.as_ref().map(|p| p.value.clone());
                let tls = TlsOptions {
                    ca: path(&settings.tls_ca),
                    cert: path(&settings.tls_cert),
                    key: path(&settings.tls_key),
                    server_name: settings.tls_server_name.as_ref().map(|name| name.value.clone()),
                    // A certificate without a password is itself the login.
                    external_login: url.password.is_none(),
                };
                let broker = RabbitBroker::connect(ConnectOptions {
                    url: url.clone(),
                    management: self.management.clone(),
                    tls,
                    timeout: settings.timeout(),
                    clock: Arc::clone(&self.clock),
                    seed: self.seed,
                    circuit: CircuitSettings::default(),
                    client_name: concat!("nexusctl ", env!("CARGO_PKG_VERSION")).to_owned(),
                });
                Ok(broker.await?)
            }
            BrokerUrl::Embedded(_) => Err(CliError::failed("the embedded broker is not wired yet")),
        }
    }
}
