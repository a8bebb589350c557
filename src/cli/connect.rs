//! From settings to a broker that has been reached.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::VhostName;
use crate::base::time::Clock;
use crate::base::url::{AmqpUrl, BrokerUrl, EmbeddedUrl, ManagementUrl};
use crate::broker::connect::{self, TlsOptions};
use crate::broker::{Broker, ErrorKind, ReadOnly};

use super::credentials::complete_url;
use super::error::CliError;
use super::exit::ExitStatus;
use super::runtime::unless_stopped;
use super::session::Session;
use super::settings::{Origin, Settings, Sourced};
use super::signals::Stop;

/// Leads to the broker that the settings mean: everything that is needed to connect, passwords
/// included.
#[derive(Clone, Debug)]
pub struct Connector {
    url: BrokerUrl,
    management: Option<ManagementUrl>,
    settings: Arc<Settings>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    seed: u64,
    stop: Stop,
}

impl Connector {
    /// The broker that the settings mean.
    ///
    /// # Errors
    /// When a password is needed and cannot be had.
    pub fn of(session: &mut Session) -> Result<Connector, CliError> {
        let settings = session.settings()?;
        let url = complete_url(session, &settings)?;
        let management = settings.management_url.as_ref().map(|url| url.value.clone());
        let (clock, seed) = (Arc::clone(&session.clock), session.seed);
        let timeout = settings.timeout();
        Ok(Connector {
            url,
            management,
            settings,
            timeout,
            clock,
            seed,
            stop: session.stop.clone(),
        })
    }

    /// The same broker, another vhost of it.
    #[must_use]
    pub fn in_vhost(mut self, vhost: VhostName) -> Connector {
        if let BrokerUrl::Amqp(url) = &mut self.url {
            url.vhost = vhost.clone();
        }
        let mut settings = (*self.settings).clone();
        settings.vhost = Some(Sourced::new(vhost, Origin::Flag("--to-vhost")));
        self.settings = Arc::new(settings);
        self
    }

    /// The broker that these settings mean, for the same run.
    ///
    /// # Errors
    /// When a password is needed and cannot be had.
    pub fn with_settings(
        &self,
        settings: Settings,
        session: &mut Session,
    ) -> Result<Connector, CliError> {
        let url = complete_url(session, &settings)?;
        let management = settings.management_url.as_ref().map(|url| url.value.clone());
        Ok(Connector { url, management, settings: Arc::new(settings), ..self.clone() })
    }

    /// What the connector was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same with another embedded broker: a temporary one, whose directory is there.
    #[must_use]
    pub fn with_state(mut self, url: BrokerUrl) -> Connector {
        self.url = url;
        self
    }

    /// The broker's URL, its password included.
    pub fn url(&self) -> &BrokerUrl {
        &self.url
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
        self.timeout
    }

    /// The same, with at least so long for each answer of the broker: for a command whose time-out is
    /// about somebody else's answer.
    #[must_use]
    pub fn with_patience(mut self, least: Duration) -> Connector {
        self.timeout = self.timeout.max(least);
        self
    }

    /// Connects. A read-only context gives a broker that refuses every change.
    ///
    /// # Errors
    /// When the broker cannot be reached, is not the cluster that is meant, or a stop is asked for.
    pub async fn connect(&self) -> Result<Arc<dyn Broker>, CliError> {
        let broker = unless_stopped(&self.stop, self.reach()).await?;
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
        let path = |path: &Option<Sourced<PathBuf>>| path.as_ref().map(|p| p.value.clone());
        let tls = TlsOptions {
            ca: path(&settings.tls_ca),
            cert: path(&settings.tls_cert),
            key: path(&settings.tls_key),
            server_name: settings.tls_server_name.as_ref().map(|name| name.value.clone()),
            // A certificate without a password is itself the login.
            external_login: matches!(&self.url, BrokerUrl::Amqp(url) if url.password.is_none()),
        };
        let target = connect::Target {
            url: self.url.clone(),
            management: self.management.clone(),
            vhost: settings.vhost.as_ref().map(|vhost| vhost.value.clone()),
            tls,
            timeout: self.timeout,
            client_name: concat!("nexusctl ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        if let BrokerUrl::Embedded(EmbeddedUrl { path: Some(path), .. }) = &self.url {
            make_home(path, &settings.state.value)?;
        }
        connect::connect(target, Arc::clone(&self.clock), self.seed).await.map_err(|error| {
            let is_vhost = error.kind == ErrorKind::NoSuchVhost;
            let error = CliError::from(error);
            match error.hint.clone().filter(|_| is_vhost) {
                Some(next) => error.hint(format!("{}; {next}", vhost_origin(settings))),
                None => error,
            }
        })
    }
}

/// Where the vhost was said.
fn vhost_origin(settings: &Settings) -> String {
    match &settings.vhost {
        Some(vhost) => format!("the vhost comes from {}", vhost.origin),
        None => format!(
            "the vhost comes from the URL of {}, where `/` is written %2f and no path means `/`",
            settings.broker.origin
        ),
    }
}

/// Makes the directory of our own state file, readable by its owner only. A path that somebody wrote
/// out has to be there: a slip must not make directories.
fn make_home(path: &Path, own: &Path) -> Result<(), CliError> {
    let Some(dir) = path.parent().filter(|dir| path == own && !dir.exists()) else {
        return Ok(());
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        CliError::file(format!("create {}", dir.display()), &error)
            .with_status(ExitStatus::Unavailable)
    })
}
