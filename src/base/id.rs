//! Names of broker objects, each its own type, each checked when it is made.
//!
//! RabbitMQ strips CR and LF from names without a word and cuts nothing else, so a name that carries
//! them would come back as another name: they are refused here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// AMQP short strings hold 255 bytes.
    #[error("{what} is {bytes} bytes long; AMQP allows 255")]
    TooLong {
        /// What kind of name it was to be.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The broker would drop these characters and use another name.
    #[error("{what} contains a line break, which RabbitMQ would strip silently")]
    LineBreak {
        /// What kind of name it was to be.
        what: &'static str,
    },
    /// A name is needed here.
    #[error("{what} is empty")]
    Empty {
        /// What kind of name it was to be.
        what: &'static str,
    },
}

fn check(text: &str, what: &'static str, may_be_empty: bool) -> Result<(), NameError> {
    if text.is_empty() && !may_be_empty {
        return Err(NameError::Empty { what });
    }
    if text.len() > 255 {
        return Err(NameError::TooLong { what, bytes: text.len() });
    }
    if text.contains(['\r', '\n']) {
        return Err(NameError::LineBreak { what });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $may_be_empty:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and makes it a name.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text, $what, $may_be_empty)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// An exchange. The empty name is the default exchange.
    ExchangeName, "exchange name", true
);
name!(
    /// A queue.
    QueueName, "queue name", false
);
name!(
    /// A routing or binding key; may be empty.
    RoutingKey, "routing key", true
);
name!(
    /// A virtual host.
    VhostName, "vhost name", false
);
name!(
    /// A policy or operator policy.
    PolicyName, "policy name", false
);

/// `/`, which every RabbitMQ has.
impl Default for VhostName {
    fn default() -> Self {
        VhostName("/".to_owned())
    }
}

impl ExchangeName {
    /// The default exchange, to which every queue is bound by its own name.
    pub fn default_exchange() -> Self {
        ExchangeName(String::new())
    }

    /// Whether this is the default exchange.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the broker made it and nobody may change it: the default exchange and `amq.*`.
    pub fn is_predeclared(&self) -> bool {
        self.is_default() || self.0.starts_with("amq.")
    }
}

impl ExchangeName {
    /// How a message names it: ``exchange `orders` ``, or `the default exchange`, whose name is empty.
    pub fn in_words(&self) -> String {
        exchange_in_words(&self.0)
    }
}

/// [`ExchangeName::in_words`] of a name that is only text.
pub fn exchange_in_words(name: &str) -> String {
    if name.is_empty() { "the default exchange".to_owned() } else { format!("exchange `{name}`") }
}

impl ExchangeName {
    /// A name as the broker says it, not checked: what exists may be read whatever it is called.
    pub fn received(text: String) -> Self {
        ExchangeName(text)
    }
}

impl RoutingKey {
    /// A key as the broker delivers it, not checked: other publishers may put line breaks into it,
    /// and a delivery must not be refused for that.
    pub fn received(text: String) -> Self {
        RoutingKey(text)
    }
}

impl QueueName {
    /// The key under which the default exchange finds this queue.
    pub fn as_routing_key(&self) -> RoutingKey {
        RoutingKey(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_rabbitmq_would_mangle_are_refused() {
        assert_eq!(QueueName::new("we\nird"), Err(NameError::LineBreak { what: "queue name" }));
        assert_eq!(QueueName::new(""), Err(NameError::Empty { what: "queue name" }));
        assert!(QueueName::new("ü".repeat(127)).is_ok());
        assert_eq!(
            QueueName::new("ü".repeat(128)),
            Err(NameError::TooLong { what: "queue name", bytes: 256 })
        );
        assert!(ExchangeName::new("").is_ok_and(|name| name.is_default()));
    }
}
