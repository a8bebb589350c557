//! The four brokers that the contract is checked on, each fresh for one test.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nexus::base::time::SystemClock;
use nexus::broker::connect::{Target, TlsOptions, connect};
use nexus::broker::{Broker, Product};

use super::{Node, Vhost};

/// One of the brokers that must keep the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The embedded broker, imitating RabbitMQ 3.10.
    EmbeddedLike310,
    /// The embedded broker, imitating RabbitMQ 4.0.
    EmbeddedLike40,
    /// RabbitMQ 3.10.8.
    RabbitMq310,
    /// RabbitMQ 4.0.5.
    RabbitMq40,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] =
        [Kind::EmbeddedLike310, Kind::EmbeddedLike40, Kind::RabbitMq310, Kind::RabbitMq40];

    /// Product, and the first two numbers of its version.
    pub fn expected(self) -> (Product, (u16, u16)) {
        match self {
            Kind::EmbeddedLike310 => (Product::Embedded, (3, 10)),
            Kind::EmbeddedLike40 => (Product::Embedded, (4, 0)),
            Kind::RabbitMq310 => (Product::RabbitMq, (3, 10)),
            Kind::RabbitMq40 => (Product::RabbitMq, (4, 0)),
        }
    }
}

/// A broker with nothing in it, and what goes away with it.
#[derive(Debug)]
pub struct Fixture {
    broker: Arc<dyn Broker>,
    /// Where to reach it, with management URL and password.
    pub target: Target,
    vhost: Option<Vhost>,
    _folder: Option<tempfile::TempDir>,
}

impl Fixture {
    /// Starts one, or says that it is skipped.
    pub async fn start(kind: Kind) -> Option<Fixture> {
        let (url, management, vhost, folder) = match kind {
            Kind::EmbeddedLike310 | Kind::EmbeddedLike40 => {
                let folder = tempfile::tempdir().unwrap();
                let (_, (major, minor)) = kind.expected();
                let path = folder.path().join("state.db");
                let url = format!("embedded:{}?like={major}.{minor}", path.display());
                (url, None, None, Some(folder))
            }
            Kind::RabbitMq310 | Kind::RabbitMq40 => {
                let node = Node::from_env(if kind == Kind::RabbitMq310 { "3_10" } else { "4_0" })?;
                // Its HTTP calls block; the other tests of this thread have to wait for it anyway.
                let vhost = node.vhost("contract");
                let management = vhost.management_url().parse().unwrap();
                (vhost.amqp_url(), Some(management), Some(vhost), None)
            }
        };
        let target = Target {
            url: url.parse().unwrap(),
            management,
            vhost: None,
            tls: TlsOptions::default(),
            timeout: Duration::from_secs(20),
            client_name: "nexusctl tests".to_owned(),
        };
        let broker = connect(target.clone(), Arc::new(SystemClock), 1).await.unwrap();
        Some(Fixture { broker, target, vhost, _folder: folder })
    }

    /// The broker.
    pub fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.broker)
    }

    /// The vhost, when it is a RabbitMQ's.
    pub fn vhost(&self) -> Option<&Vhost> {
        self.vhost.as_ref()
    }

    /// Closes the connections, so that the vhost goes away without them.
    pub async fn stop(self) {
        self.broker.close().await.unwrap();
    }
}

/// Asks again until the answer is `Ok`, for at most `limit`.
#[track_caller]
pub fn within<T, F, Fut>(limit: Duration, mut look: F) -> impl Future<Output = T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let place = std::panic::Location::caller();
    async move {
        let end = tokio::time::Instant::now() + limit;
        loop {
            match look().await {
                Ok(seen) => return seen,
                Err(seen) => {
                    assert!(tokio::time::Instant::now() < end, "{place}: still {seen}");
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        }
    }
}

/// Asks a broker a question without the program, from a test that is not asynchronous.
pub fn ask<T>(
    url: &str,
    management: Option<&str>,
    question: impl AsyncFnOnce(&dyn Broker) -> T,
) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let target = Target {
            url: url.parse().unwrap(),
            management: management.map(|url| url.parse().unwrap()),
            vhost: None,
            tls: TlsOptions::default(),
            timeout: Duration::from_secs(30),
            client_name: "nexusctl tests".to_owned(),
        };
        let broker = connect(target, Arc::new(SystemClock), 1).await.unwrap();
        let answer = question(broker.as_ref()).await;
        broker.close().await.unwrap();
        answer
    })
}
