//! Handing a document to somebody's web server. It has nothing to do with RabbitMQ: it stands here
//! because the HTTP client and its TLS are named in this room only, for the management API.

use std::time::Duration;

use reqwest::{Client, Url};
use tokio::time::timeout;

use crate::base::time::HumanDuration;
use crate::broker::error::{BrokerError, ErrorKind};

use super::tls::{self, TlsOptions};

/// A web server that takes JSON documents. Its URL may hold a secret, so only its host is ever shown.
#[derive(Clone)]
pub struct Webhook {
    url: Url,
    client: Client,
    limit: Duration,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.host()).finish_non_exhaustive()
    }
}

const ATTEMPTED: &str = "post to the webhook";

impl Webhook {
    /// Where to post, and how long one post may take. Trusts the authorities of this machine, uses no
    /// proxy and follows no redirection.
    ///
    /// # Errors
    /// When the URL is none of `http` or `https`.
    pub fn new(url: &str, limit: Duration) -> Result<Webhook, BrokerError> {
        let invalid = |cause: String| BrokerError::new(ErrorKind::Invalid, ATTEMPTED, cause);
        let url = Url::parse(url).map_err(|error| invalid(format!("it is no URL: {error}")))?;
        let config = match url.scheme() {
            "https" => tls::client_config(ATTEMPTED, &TlsOptions::default())?,
            "http" => tls::trusting_nobody(ATTEMPTED)?,
            other => return Err(invalid(format!("`{other}` is neither http nor https"))),
        };
        let client = Client::builder()
            .tls_backend_preconfigured(std::sync::Arc::unwrap_or_clone(config))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(limit)
            .build()
            .map_err(|error| invalid(format!("HTTP client: {error}")))?;
        Ok(Webhook { url, client, limit })
    }

    /// The server, without what may be secret.
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}", self.url.scheme())
    }

    /// Posts a JSON document; it has arrived when this returns.
    ///
    /// # Errors
    /// When it was not taken, or not in time.
    pub async fn post(&self, document: String) -> Result<(), BrokerError> {
        let failed = |kind, cause: String| BrokerError::new(kind, ATTEMPTED, cause);
        let exchange = async {
            self.client
                .post(self.url.clone())
                .header("content-type", "application/json")
                .body(document)
                .send()
                .await
        };
        let late = || {
            let limit = HumanDuration(self.limit);
            failed(ErrorKind::TimedOut, format!("{} did not answer within {limit}", self.host()))
        };
        let answer = timeout(self.limit, exchange).await.map_err(|_| late())?;
        let answer = answer.map_err(|error| {
            let error = error.without_url();
            let first: &dyn std::error::Error = &error;
            let innermost = std::iter::successors(Some(first), |error| error.source()).last();
            let cause = innermost.map(ToString::to_string).unwrap_or_default();
            failed(ErrorKind::Unreachable, format!("{} cannot be reached: {cause}", self.host()))
        })?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(failed(ErrorKind::Refused, format!("{} answers {}", self.host(), answer.status())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let limit = Duration::from_secs(1);
        let webhook = Webhook::new("http://me:pw@hooks.example:81/T0/s3cret?k=v", limit).unwrap();
        assert_eq!(webhook.host(), "http://hooks.example:81");
        assert!(!format!("{webhook:?}").contains("s3cret"));
        assert!(Webhook::new("ftp://x", limit).is_err());
        assert!(Webhook::new("nonsense", limit).is_err());
    }
}
