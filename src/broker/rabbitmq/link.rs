//! One AMQP connection: opened step by step under one deadline, with an error that names the step,
//! and closed or given up in bounded time whatever the broker does.
//!
//! The client library's own recovery stays off: who publishes has to know which connection a message
//! went out on. Its `connect` and `close` can wait for ever, so each is bounded and, when time is up,
//! the stream is cut under it, which ends its thread.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use lapin::types::{AMQPValue, FieldTable as AmqpTable};
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::base::url::AmqpUrl;
use crate::broker::error::{BrokerError, ErrorKind};

use super::fault::{fault, refusal, reply_of};
use super::tls::{self, TlsOptions};
use super::transport::{Tap, Transport, engine};

/// What one connection needs to know.
#[derive(Clone, Debug)]
pub(super) struct LinkOptions {
    pub(super) url: AmqpUrl,
    pub(super) tls: TlsOptions,
    pub(super) timeout: Duration,
    pub(super) client_name: String,
}

/// The broker's own words about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerProperties {
    pub(super) product: String,
    pub(super) version: String,
    pub(super) cluster_name: String,
}

/// An open connection.
pub(super) struct Link {
    connection: Connection,
    tap: Arc<Tap>,
    server: ServerProperties,
    timeout: Duration,
    alarm: Mutex<Alarm>,
    silent: AtomicBool,
}

struct Alarm {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    reason: Option<String>,
}

/// The largest frame we ask for, in bytes: what RabbitMQ offers by default. Asking for it at once
/// lets the client library make its buffers (32 frames each way) before it connects, untouched;
/// it would otherwise grow them, and write all over them, when the broker has said its number.
const FRAME_MAX: u32 = 128 << 10;

/// How long a request may take while the one before it has no answer yet.
const LITTLE_PATIENCE: Duration = Duration::from_millis(300);

/// How long the answer to a goodbye is waited for. Nothing depends on it: what was sent before has its
/// own answers. The client library does not hear it at all when the broker says goodbye at that moment.
const FAREWELL: Duration = Duration::from_secs(2);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("status", self.connection.status()).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects, for `purpose`, until `deadline` at the latest.
    pub(super) async fn open(
        options: &LinkOptions,
        purpose: &str,
        deadline: Instant,
    ) -> Result<Link, BrokerError> {
        let attempted = format!("connect to {}", shown(&options.url));
        let transport = transport(options, &attempted, deadline).await?;
        let tap = transport.tap();
        let slot = Arc::new(Mutex::new(Some(transport)));
        let connecting = Connection::connector(
            uri(options),
            engine(),
            async move |_, _| {
                let transport = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                // Asked for a second time only if the library tried again by itself.
                transport
                    .map(AsyncTcpStream::Plain)
                    .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
            },
            properties(options, purpose),
        );
        let connection = match timeout_at(deadline, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tap.cut();
                let heard = tap.take();
                if heard.is_empty() && !options.url.tls && speaks_http(options, deadline).await {
                    return Err(handshake_error(&attempted, options, &error, b"HTTP/"));
                }
                return Err(handshake_error(&attempted, options, &error, &heard));
            }
            Err(_) => {
                tap.cut();
                return Err(handshake_timeout(&attempted, options, &tap.take()));
            }
        };
        let server = server_properties(&tap.take());
        let events: Pin<Box<dyn Stream<Item = Event> + Send>> =
            Box::pin(connection.events_listener());
        let alarm = Mutex::new(Alarm { events, reason: None });
        let silent = AtomicBool::new(false);
        Ok(Link { connection, tap, server, timeout: options.timeout, alarm, silent })
    }

    pub(super) fn server(&self) -> &ServerProperties {
        &self.server
    }

    pub(super) fn is_alive(&self) -> bool {
        self.connection.status().connected()
    }

    /// Whether the last request ran out of time. Waiting as long once more for each step of an end
    /// would take a multiple of the time-out.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Something that is no request, such as a confirm, did not come in time.
    pub(super) fn note_silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// The largest frame that may be sent, in bytes.
    pub(super) fn frame_max(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// Why the broker takes nothing from this connection just now, if so.
    pub(super) fn blocked(&self) -> Option<String> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(event)) = alarm.events.poll_next_unpin(&mut cx) {
            if let Event::ConnectionBlocked(reason) = event {
                alarm.reason = Some(reason);
            }
        }
        self.connection
            .status()
            .blocked()
            .then(|| alarm.reason.clone().unwrap_or_else(|| "it does not say why".to_owned()))
    }

    /// What to say when no answer came in time.
    pub(super) fn silence(&self, what: &str) -> String {
        let time = crate::base::time::HumanDuration(self.timeout);
        match self.blocked() {
            Some(reason) => format!(
                "no {what} within {time}: the broker blocks publishers because of an alarm \
                 ({reason})"
            ),
            None => format!("no {what} within {time}"),
        }
    }

    /// Runs one request to its answer, at most for the time-out.
    pub(super) async fn ask<T>(
        &self,
        attempted: &str,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let patience =
            if self.is_silent() { self.timeout.min(LITTLE_PATIENCE) } else { self.timeout };
        let answer = timeout(patience, request).await;
        self.silent.store(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(fault(attempted, &error)),
            Err(_) => Err(self.timed_out(attempted)),
        }
    }

    /// No answer came in time.
    pub(super) fn timed_out(&self, attempted: &str) -> BrokerError {
        let error = BrokerError::new(ErrorKind::TimedOut, attempted, self.silence("answer"));
        match self.blocked() {
            Some(_) => error.hint("free memory or disk on the broker; it goes on by itself then"),
            None => {
                error.hint("the broker may hang or be overloaded; raise --timeout if it is slow")
            }
        }
    }

    /// A new channel.
    pub(super) async fn channel(&self, attempted: &str) -> Result<OpenChannel, BrokerError> {
        self.ask(attempted, self.connection.create_channel()).await.map(OpenChannel)
    }

    /// Says goodbye, waits for the answer a moment and at most for the time-out, and ends the connection either way.
    pub(super) async fn close(&self) {
        if self.is_alive() {
            let farewell = self.connection.close(200, "OK".into());
            if self.is_silent() {
                let _ = start(farewell);
            } else {
                let _ = timeout(self.timeout.min(FAREWELL), farewell).await;
            }
        }
        self.tap.cut();
    }
}

/// A channel that ends when it is dropped.
///
/// The client library ends a dropped channel a moment later, from another thread. When its
/// connection is closed in that moment, the connection breaks off without a goodbye, or the goodbye
/// is waited for in vain. So the channel's own goodbye is handed over right here.
pub(super) struct OpenChannel(Channel);

impl std::ops::Deref for OpenChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.0
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        if self.0.status().connected() {
            let _ = start(self.0.close(200, "OK".into()));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A thread of the library would otherwise wait for the broker's goodbye for ever.
        self.tap.cut();
    }
}

/// Scheme, host, port and vhost: what a person needs to recognise the broker. No login.
pub(super) fn shown(url: &AmqpUrl) -> String {
    let scheme = if url.tls { "amqps" } else { "amqp" };
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    format!("{scheme}://{host}:{}", url.port)
}

fn unreachable(attempted: &str, cause: impl Into<String>) -> BrokerError {
    BrokerError::new(ErrorKind::Unreachable, attempted, cause)
}

async fn transport(
    options: &LinkOptions,
    attempted: &str,
    deadline: Instant,
) -> Result<Transport, BrokerError> {
    let AmqpUrl { host, port, tls, .. } = &options.url;
    let late = |step: &str| {
        let time = crate::base::time::HumanDuration(options.timeout);
        unreachable(attempted, format!("{step} took longer than {time}"))
    };
    // The files first: a mistake in them needs no network to be seen.
    let tls = if *tls {
        let config = tls::client_config(attempted, &options.tls)?;
        Some((config, tls::server_name(attempted, &options.tls, host)?))
    } else {
        None
    };
    let addresses = timeout_at(deadline, tokio::net::lookup_host((host.as_str(), *port)))
        .await
        .map_err(|_| late("looking up the host's address"))?
        .map_err(|error| {
            unreachable(attempted, format!("the host name `{host}` cannot be resolved: {error}"))
                .hint("check the host in the broker URL")
        })?;
    let mut last = None;
    let mut stream = None;
    for address in addresses {
        match timeout_at(deadline, TcpStream::connect(address)).await {
            Err(_) => {
                return Err(late("opening the TCP connection")
                    .hint("nothing answers: the host is down, or a firewall drops the packets"));
            }
            Ok(Ok(connected)) => {
                stream = Some(connected);
                break;
            }
            Ok(Err(error)) => last = Some((address, error)),
        }
    }
    let Some(stream) = stream else {
        return Err(match last {
            Some((address, error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                unreachable(attempted, format!("nobody listens on {address}")).hint(
                    "is the broker running, and is the port right? AMQP: 5672, with TLS: 5671",
                )
            }
            Some((address, error)) => {
                unreachable(attempted, format!("TCP connection to {address}: {error}"))
            }
            None => unreachable(attempted, format!("the host name `{host}` has no address")),
        });
    };
    let _ = stream.set_nodelay(true);
    let Some((config, name)) = tls else { return Ok(Transport::plain(stream)) };
    let shown = options.tls.server_name.as_deref().unwrap_or(host);
    let connector = tokio_rustls::TlsConnector::from(config);
    match timeout_at(deadline, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Transport::tls(stream)),
        Ok(Err(error)) => {
            let (cause, hint) = tls::explain(&error, shown);
            let error = unreachable(attempted, cause);
            Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
        Err(_) => Err(late("the TLS handshake")
            .hint("the port may not speak TLS: then the URL begins with amqp://")),
    }
}

fn uri(options: &LinkOptions) -> AMQPUri {
    let url = &options.url;
    let password = url.password.as_ref().map(|password| password.reveal().to_owned());
    let external = options.tls.external_login;
    AMQPUri {
        scheme: if url.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: url.username.clone(),
                password: password.unwrap_or_default(),
            },
            host: url.host.clone(),
            port: url.port,
        },
        vhost: url.vhost.as_str().to_owned(),
        query: AMQPQueryString {
            // Without a word of ours the broker's own interval holds, 60 seconds by default.
            heartbeat: url.heartbeat_s,
            frame_max: Some(FRAME_MAX),
            auth_mechanism: external.then_some(SASLMechanism::External),
            ..AMQPQueryString::default()
        },
    }
}

fn properties(options: &LinkOptions, purpose: &str) -> ConnectionProperties {
    ConnectionProperties::default()
        .with_connection_name(format!("{} {purpose}", options.client_name).into())
        .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
}

/// Whether a port that did not say a word to AMQP answers to HTTP.
async fn speaks_http(options: &LinkOptions, deadline: Instant) -> bool {
    const PATIENCE: Duration = Duration::from_millis(500);
    let ask = async {
        let mut stream = TcpStream::connect((options.url.host.as_str(), options.url.port)).await?;
        stream.write_all(b"HEAD / HTTP/1.0\r\n\r\n").await?;
        let mut start = [0; 5];
        stream.read_exact(&mut start).await?;
        std::io::Result::Ok(&start == b"HTTP/")
    };
    matches!(timeout_at(deadline.min(Instant::now() + PATIENCE), ask).await, Ok(Ok(true)))
}

/// What the first bytes of the other side give away.
fn stranger(heard: &[u8]) -> Option<(&'static str, &'static str)> {
    if heard.starts_with(b"HTTP/") {
        return Some((
            "the port speaks HTTP, not AMQP",
            "this may be the management port (15672); AMQP listens on 5672, with TLS on 5671",
        ));
    }
    // A TLS record: alert or handshake, version 3.x.
    if heard.len() >= 2 && matches!(heard[0], 0x15 | 0x16) && heard[1] == 3 {
        return Some(("the port speaks TLS", "write amqps:// instead of amqp://"));
    }
    if heard.starts_with(b"AMQP") {
        return Some((
            "the broker speaks another version of AMQP than 0-9-1",
            "RabbitMQ speaks 0-9-1; is this another broker?",
        ));
    }
    if !heard.is_empty() && heard[0] != 1 {
        return Some(("what answers does not speak AMQP", "check the host and the port"));
    }
    None
}

fn handshake_error(
    attempted: &str,
    options: &LinkOptions,
    error: &lapin::Error,
    heard: &[u8],
) -> BrokerError {
    if let Some((code, text)) = reply_of(error) {
        return refusal(attempted, code, text);
    }
    if let Some((cause, hint)) = stranger(heard) {
        return unreachable(attempted, cause).hint(hint);
    }
    if heard.is_empty() {
        let hint = if options.url.tls {
            "the port may belong to another service"
        } else {
            "the port may want TLS: then the URL begins with amqps://"
        };
        return unreachable(attempted, "the other side closed the connection without a word")
            .hint(hint);
    }
    // It spoke AMQP and then hung up, which brokers without the capability
    // `authentication_failure_close` do at a wrong password.
    unreachable(attempted, format!("the connection was lost during the AMQP handshake: {error}"))
}

fn handshake_timeout(attempted: &str, options: &LinkOptions, heard: &[u8]) -> BrokerError {
    if let Some((cause, hint)) = stranger(heard) {
        return unreachable(attempted, cause).hint(hint);
    }
    let time = crate::base::time::HumanDuration(options.timeout);
    let cause = match last_method(heard) {
        None => format!("the connection is open, but no AMQP greeting came within {time}"),
        Some((10, 10)) => format!("the broker did not answer the login within {time}"),
        Some(_) => {
            format!("the broker did not open vhost `{}` within {time}", options.url.vhost)
        }
    };
    BrokerError::new(ErrorKind::TimedOut, attempted, cause)
        .hint("the broker may hang or be starting; raise --timeout if it is slow")
}

/// Class and method of the last whole method frame in `heard`.
fn last_method(heard: &[u8]) -> Option<(u16, u16)> {
    let mut last = None;
    let mut rest = heard;
    while let Some((payload, after)) = frame(rest) {
        if let [class_high, class_low, method_high, method_low, ..] = payload {
            last = Some((
                u16::from_be_bytes([*class_high, *class_low]),
                u16::from_be_bytes([*method_high, *method_low]),
            ));
        }
        rest = after;
    }
    last
}

/// The first frame's payload and what follows it.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_, _, _, a, b, c, d, rest @ ..] = bytes else { return None };
    let size = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    // The payload is followed by one end octet.
    (rest.len() > size).then(|| (&rest[..size], &rest[size + 1..]))
}

/// Reads the server properties out of connection.start, the first thing a broker says.
fn server_properties(heard: &[u8]) -> ServerProperties {
    let parse = || {
        let (payload, _) = frame(heard)?;
        // Class 10, method 10, then two version octets.
        let table = payload.strip_prefix(&[0, 10, 0, 10])?.get(2..)?;
        lapin::types::parsing::parse_field_table(table).ok().map(|(_, table)| table)
    };
    let Some(table) = parse() else { return ServerProperties::default() };
    let text = |key: &str| match AmqpTable::inner(&table).get(key) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    };
    ServerProperties {
        product: text("product"),
        version: text("version"),
        cluster_name: text("cluster_name"),
    }
}

/// Polls `future` once without waiting for it. What it has sent is sent; its answer is not awaited.
pub(super) fn start<T>(future: impl Future<Output = T>) -> Option<T> {
    future.now_or_never()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method_frame(class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
        let size = u32::try_from(4 + arguments.len()).unwrap();
        let mut frame = vec![1, 0, 0];
        frame.extend(size.to_be_bytes());
        frame.extend(class.to_be_bytes());
        frame.extend(method.to_be_bytes());
        frame.extend(arguments);
        frame.push(0xCE);
        frame
    }

    #[test]
    fn the_brokers_own_words_are_found_in_the_greeting() {
        // Version 0-9, then a table with one long string.
        let mut arguments = vec![0, 9];
        let entry = b"\x07versionS\x00\x00\x00\x064.0.5x";
        arguments.extend(u32::try_from(entry.len()).unwrap().to_be_bytes());
        arguments.extend(entry);
        arguments.extend(b"\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US");
        let heard = method_frame(10, 10, &arguments);
        assert_eq!(server_properties(&heard).version, "4.0.5x");
        for cut in 0..heard.len() {
            assert_eq!(server_properties(&heard[..cut]), ServerProperties::default(), "{cut}");
        }
    }

    #[test]
    fn the_last_whole_method_tells_the_step() {
        let mut heard = method_frame(10, 10, b"...");
        assert_eq!(last_method(&heard), Some((10, 10)));
        let tune = method_frame(10, 30, b"....");
        heard.extend(&tune[..tune.len() - 1]);
        assert_eq!(last_method(&heard), Some((10, 10)));
        heard.push(0xCE);
        assert_eq!(last_method(&heard), Some((10, 30)));
        assert_eq!(last_method(&[1, 0, 0, 255, 255, 255, 255, 0]), None);
    }

    #[test]
    fn a_stranger_is_recognised_by_its_first_words() {
        let named = |heard: &[u8]| stranger(heard).map(|(cause, _)| cause);
        assert!(named(b"HTTP/1.1 400 Bad Request").is_some_and(|cause| cause.contains("HTTP")));
        assert!(named(&[0x15, 3, 3, 0, 2, 2, 70]).is_some_and(|cause| cause.contains("TLS")));
        assert!(named(b"AMQP\x03\x01\x00\x00").is_some_and(|cause| cause.contains("version")));
        assert!(named(b"SSH-2.0-OpenSSH").is_some());
        assert!(named(&method_frame(10, 10, b"")).is_none());
        assert!(named(b"").is_none());
    }
}
