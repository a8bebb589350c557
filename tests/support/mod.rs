//! What tests against a real RabbitMQ share: finding the nodes that `tests/run.sh` started, a vhost
//! of one's own that goes away with its test, and the management API in one blocking call.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test file compiles this module for itself and uses another part of it; \
              a helper that fails should fail its test, and a skipped one should say so"
)]

pub mod certificate;
pub mod fixture;
pub mod letters;
pub mod program;
pub mod responder;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running RabbitMQ node.
#[derive(Clone, Debug)]
pub struct Node {
    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`
    pub amqp_url: String,
    /// The same over TLS.
    pub amqps_url: String,
    /// `http://127.0.0.1:PORT`
    pub management_url: String,
    /// The Erlang machine.
    pub pid: u32,
    /// `3.10.8`
    pub version: String,
    /// The authority that signed the node's certificate, PEM.
    pub ca: String,
    /// A client certificate that the node accepts, PEM.
    pub client_cert: String,
    /// Its key, PEM.
    pub client_key: String,
    /// The node's directory.
    pub dir: String,
}

/// An answer of the management API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON, `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The answer, when it says that it is done.
    #[track_caller]
    pub fn ok(self) -> Answer {
        assert!((200..300).contains(&self.status), "{self:?}");
        self
    }
}

impl Node {
    /// The node of `version` (`3_10`, `4_0`); prints why and gives `None` when there is none.
    pub fn from_env(version: &str) -> Option<Node> {
        let variable = format!("NEXUSCTL_TEST_RABBITMQ_{version}");
        #[expect(clippy::disallowed_methods, reason = "tests/run.sh hands the nodes over this way")]
        let directory = std::env::var(&variable).ok();
        let Some(directory) = directory else {
            println!("skipped: {variable} is not set (tests/run.sh sets it)");
            return None;
        };
        Some(Node::in_directory(&directory))
    }

    /// The node that `tests/broker.sh` keeps in this directory.
    pub fn in_directory(directory: &str) -> Node {
        let text = std::fs::read_to_string(format!("{directory}/env"))
            .unwrap_or_else(|error| panic!("{directory}/env: {error}"));
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(&format!("NODE_{name}=")))
                .unwrap_or_else(|| panic!("{directory}/env has no NODE_{name}"))
                .replace('\\', "")
        };
        Node {
            amqp_url: value("AMQP_URL"),
            amqps_url: value("AMQPS_URL"),
            management_url: value("MANAGEMENT_URL"),
            pid: value("PID").parse().unwrap(),
            version: value("VERSION"),
            ca: value("CA"),
            client_cert: value("CLIENT_CERT"),
            client_key: value("CLIENT_KEY"),
            dir: value("DIR"),
        }
    }

    /// Every node there is, 3.10 first.
    pub fn all() -> Vec<Node> {
        ["3_10", "4_0"].into_iter().filter_map(Node::from_env).collect()
    }

    /// A new empty vhost; `purpose` becomes part of its name.
    pub fn vhost(&self, purpose: &str) -> Vhost {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{purpose}-{}-{number}", std::process::id());
        self.http("PUT", &format!("/api/vhosts/{name}"), Some("{}")).ok();
        let permissions = r#"{"configure":".*","write":".*","read":".*"}"#;
        self.http("PUT", &format!("/api/permissions/{name}/guest"), Some(permissions)).ok();
        Vhost { node: self.clone(), name }
    }

    /// Asks the management API as guest. The path starts with `/api/`.
    pub fn http(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        self.http_as("guest:guest", method, path, body)
    }

    /// Asks the management API as `login`, which is `user:password`.
    pub fn http_as(&self, login: &str, method: &str, path: &str, body: Option<&str>) -> Answer {
        let address = self.management_url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let login = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, login);
        let body = body.unwrap_or("");
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Basic {login}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, body: body.to_owned() }
    }
}

/// A vhost of one test; deleted with everything in it when it is dropped.
#[derive(Debug)]
pub struct Vhost {
    /// Where it is.
    pub node: Node,
    /// Its name; nothing in it needs escaping.
    pub name: String,
}

impl Vhost {
    /// AMQP URL of this vhost, as guest.
    pub fn amqp_url(&self) -> String {
        self.node.amqp_url.replace("/%2f", &format!("/{}", self.name))
    }

    /// AMQPS URL of this vhost, as guest.
    pub fn amqps_url(&self) -> String {
        self.node.amqps_url.replace("/%2f", &format!("/{}", self.name))
    }

    /// Management URL with guest's login in it.
    pub fn management_url(&self) -> String {
        self.node.management_url.replace("http://", "http://guest:guest@")
    }

    /// Asks `/api/KIND/VHOST/REST` as guest.
    pub fn api(&self, method: &str, kind: &str, rest: &str, body: Option<&str>) -> Answer {
        let slash = if rest.is_empty() { "" } else { "/" };
        self.node.http(method, &format!("/api/{kind}/{}{slash}{rest}", self.name), body)
    }

    /// Names of the connections into this vhost, as far as the management API knows them yet.
    pub fn connections(&self) -> Vec<String> {
        let path = format!("/api/vhosts/{}/connections", self.name);
        let list = self.node.http("GET", &path, None).ok().json();
        let names = list.as_array().into_iter().flatten();
        names.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    }

    /// Cuts every connection into this vhost from the broker's side, waiting first until the
    /// management API knows at least `expected` of them. Returns how many it cut.
    pub fn cut_connections(&self, expected: usize) -> usize {
        let names = eventually("connections in the management API", || {
            Some(self.connections()).filter(|names| names.len() >= expected)
        });
        names
            .iter()
            .filter(|name| {
                let path =
                    format!("/api/connections/{}", name.replace(' ', "%20").replace('>', "%3E"));
                (200..300).contains(&self.node.http("DELETE", &path, None).status)
            })
            .count()
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.node.http("DELETE", &format!("/api/vhosts/{}", self.name), None);
            return;
        }
        // A second panic would abort the run and hide the first one.
        let (node, name) = (self.node.clone(), self.name.clone());
        let _ =
            std::thread::spawn(move || node.http("DELETE", &format!("/api/vhosts/{name}"), None))
                .join();
    }
}

/// Waits until `look` sees something, at most 30 seconds.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "never seen: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
