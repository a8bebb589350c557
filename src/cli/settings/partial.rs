//! One layer of settings: every field may be absent, every value knows where it was said.

use std::fmt;
use std::path::PathBuf;

use crate::base::id::VhostName;
use crate::base::secret::Secret;
use crate::base::time::HumanDuration;
use crate::base::url::{BrokerUrl, ManagementUrl};

use crate::cli::output::Format;

/// Where a value was said, the strongest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// On the command line.
    Flag(&'static str),
    /// In the environment.
    Environment(&'static str),
    /// In the context of this name.
    Context(String),
    /// In the file of contexts, as the current one.
    Current,
    /// In the project file.
    Project,
    /// Nowhere.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Context(name) => write!(f, "context {name}"),
            Origin::Current => f.write_str("current context"),
            Origin::Project => f.write_str("project nexus.yaml"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A value and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// `value` as said at `origin`.
    pub fn new(value: T, origin: Origin) -> Self {
        Sourced { value, origin }
    }
}

/// Where a password comes from when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// The first line of a file.
    File(PathBuf),
    /// The first line that a command prints.
    Command(String),
    /// A value that is here already.
    Given(Secret),
    /// The first line of standard input.
    Stdin,
}

/// What may be shown: never the password itself.
impl fmt::Display for PasswordSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordSource::File(path) => write!(f, "the file {}", path.display()),
            PasswordSource::Command(command) => write!(f, "the command `{command}`"),
            PasswordSource::Given(_) => f.write_str("****"),
            PasswordSource::Stdin => f.write_str("standard input"),
        }
    }
}

macro_rules! layer {
    ($($(#[doc = $doc:literal])* $field:ident: $type:ty,)*) => {
        /// One layer.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct PartialSettings {
            $($(#[doc = $doc])* pub $field: Option<Sourced<$type>>,)*
        }

        impl PartialSettings {
            /// This layer on top of a weaker one.
            #[must_use]
            pub fn combine(self, weaker: PartialSettings) -> PartialSettings {
                PartialSettings { $($field: self.$field.or(weaker.$field),)* }
            }
        }
    };
}

layer! {
    /// The broker.
    broker: BrokerUrl,
    /// The management API.
    management_url: ManagementUrl,
    /// The virtual host.
    vhost: VhostName,
    /// The longest wait for any answer.
    timeout: HumanDuration,
    /// The certificate authority to trust.
    tls_ca: PathBuf,
    /// The client certificate.
    tls_cert: PathBuf,
    /// Its key.
    tls_key: PathBuf,
    /// The name in the server's certificate.
    tls_server_name: String,
    /// The password.
    password: PasswordSource,
    /// Whether every change wants the context's name.
    protected: bool,
    /// Whether every change is refused.
    read_only: bool,
    /// The cluster that is meant.
    expected_cluster_name: String,
    /// How reports are printed.
    output: Format,
    /// The state file.
    state: PathBuf,
}

impl PartialSettings {
    /// This layer without what belongs to its own broker: another layer named another broker, and
    /// must not be sent this one's password, certificate or vhost.
    #[must_use]
    pub fn without_connection(self) -> PartialSettings {
        PartialSettings {
            broker: None,
            management_url: None,
            vhost: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            tls_server_name: None,
            password: None,
            expected_cluster_name: None,
            timeout: self.timeout,
            protected: self.protected,
            read_only: self.read_only,
            output: self.output,
            state: self.state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stronger_layer_wins_field_by_field_and_origins_stay() {
        let layer =
            |timeout: Option<u64>, read_only: Option<bool>, origin: Origin| PartialSettings {
                timeout: timeout.map(|ms| Sourced::new(HumanDuration::from_ms(ms), origin.clone())),
                read_only: read_only.map(|flag| Sourced::new(flag, origin.clone())),
                ..PartialSettings::default()
            };
        let strong = layer(Some(1), None, Origin::Flag("--timeout"));
        let weak = layer(Some(2), Some(true), Origin::Project);
        let folded = strong.combine(weak);
        assert_eq!(
            folded.timeout,
            Some(Sourced::new(HumanDuration::from_ms(1), Origin::Flag("--timeout")))
        );
        assert_eq!(folded.read_only, Some(Sourced::new(true, Origin::Project)));
    }
}
