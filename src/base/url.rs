//! Addresses of brokers: `amqp://…`, `amqps://…` and `embedded:…`, the management API's `http(s)://…`,
//! and the percent-escapes in them.
//!
//! Passwords go into [`Secret`]s while reading, so that nothing made here shows one: neither the URL
//! printed nor the error about a URL that could not be read. For that errors never quote what might be
//! part of a password, such as the port of `amqp://user:secret`.
//!
//! Connecting is not known here.

use std::fmt::{self, Write};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::diagnostic::Findings;
use super::document::decode::{invalid_value, wrong_type};
use super::document::{Decode, Node, did_you_mean, quoted};
use super::id::VhostName;
use super::secret::Secret;
use super::time::HumanDuration;

/// Why a text is no URL of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UrlError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Whether the vhost is what is wrong: the rest would lead to a broker.
    pub is_about_vhost: bool,
}

fn wrong(message: impl Into<String>) -> UrlError {
    UrlError { message: message.into(), hint: None, is_about_vhost: false }
}

impl UrlError {
    fn about_vhost(mut self) -> Self {
        self.is_about_vhost = true;
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerUrl {
    /// A RabbitMQ, or another broker that speaks AMQP 0-9-1.
    Amqp(AmqpUrl),
    /// The broker inside this program.
    Embedded(EmbeddedUrl),
}

/// `amqp[s]://[user[:password]@]host[:port][/vhost][?heartbeat=s&connection_timeout=ms]`
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl {
    /// Whether the connection is encrypted: `amqps`.
    pub tls: bool,
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// 5672 when left out, 5671 with TLS.
    pub port: u16,
    /// `guest` when left out.
    pub username: String,
    /// `None` when there is a user without a password: it comes from elsewhere. When the user is left
    /// out too: `guest`.
    pub password: Option<Secret>,
    /// `/` when left out.
    pub vhost: VhostName,
    /// Seconds between heartbeats to ask for; 0 turns them off.
    pub heartbeat_s: Option<u16>,
    /// How long connecting may take; written in milliseconds or with a unit.
    pub connection_timeout: Option<Duration>,
}

/// `embedded:[PATH][?like=3.10|4.0]`
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EmbeddedUrl {
    /// The file with its state; the settings choose one when it is left out.
    pub path: Option<PathBuf>,
    /// Which RabbitMQ it behaves like.
    pub like: Imitated,
}

/// A RabbitMQ that the embedded broker can behave like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Imitated {
    /// 3.10, as long-term Linux distributions ship it.
    V3_10,
    /// 4.0.
    #[default]
    V4_0,
}

impl Imitated {
    /// The version as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Imitated::V3_10 => "3.10",
            Imitated::V4_0 => "4.0",
        }
    }
}

impl fmt::Display for Imitated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `http[s]://[user:password@]host[:port][/prefix]`: where the management API is, without its `/api`.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementUrl {
    /// Whether the connection is encrypted: `https`.
    pub tls: bool,
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// 80 when left out, 443 with TLS.
    pub port: u16,
    /// What stands before `/api`, as it is written: empty, or beginning and not ending with a slash.
    pub prefix: String,
    /// User and password, when they differ from those of AMQP.
    pub credentials: Option<(String, Secret)>,
}

impl AmqpUrl {
    /// Where RabbitMQ puts its management API unless it is told otherwise: same host, 15672, with TLS
    /// 15671.
    pub fn default_management_url(&self) -> ManagementUrl {
        ManagementUrl {
            tls: self.tls,
            host: self.host.clone(),
            port: if self.tls { 15671 } else { 15672 },
            prefix: String::new(),
            credentials: None,
        }
    }
}

impl ManagementUrl {
    /// The URL of what `segments` name below `/api`, each percent-escaped, without credentials.
    pub fn endpoint(&self, segments: &[&str]) -> String {
        let mut url = self.base();
        url.push_str("/api");
        for segment in segments {
            url.push('/');
            url.push_str(&encode_segment(segment));
        }
        url
    }

    /// The URL without credentials and without a slash at its end.
    pub fn base(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let default = if self.tls { 443 } else { 80 };
        let Self { host, port, prefix, .. } = self;
        let mut url = format!("{scheme}://");
        push_host(&mut url, host, *port, default);
        url.push_str(prefix);
        url
    }
}

fn push_host(url: &mut String, host: &str, port: u16, default: u16) {
    if host.contains(':') {
        let _ = write!(url, "[{host}]");
    } else {
        url.push_str(host);
    }
    if port != default {
        let _ = write!(url, ":{port}");
    }
}

/// As it is written, the password as `****`.
impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default) = if self.tls { ("amqps", 5671) } else { ("amqp", 5672) };
        let mut url = format!("{scheme}://{}", encode_segment(&self.username));
        if let Some(password) = &self.password {
            let _ = write!(url, ":{password}");
        }
        url.push('@');
        push_host(&mut url, &self.host, self.port, default);
        if self.vhost.as_str() != "/" {
            let _ = write!(url, "/{}", encode_segment(self.vhost.as_str()));
        }
        let mut separator = '?';
        if let Some(seconds) = self.heartbeat_s {
            let _ = write!(url, "{separator}heartbeat={seconds}");
            separator = '&';
        }
        if let Some(timeout) = self.connection_timeout {
            let _ = write!(url, "{separator}connection_timeout={}", timeout.as_millis());
        }
        f.pad(&url)
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EmbeddedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = "embedded:".to_owned();
        if let Some(path) = &self.path {
            url.push_str(&encode(&path.to_string_lossy(), b"/"));
        }
        if self.like != Imitated::default() {
            let _ = write!(url, "?like={}", self.like);
        }
        f.pad(&url)
    }
}

impl fmt::Debug for EmbeddedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerUrl::Amqp(url) => url.fmt(f),
            BrokerUrl::Embedded(url) => url.fmt(f),
        }
    }
}

/// As it is written, the password as `****`.
impl fmt::Display for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.base();
        match (&self.credentials, base.split_once("://")) {
            (Some((user, password)), Some((scheme, rest))) => {
                f.pad(&format!("{scheme}://{}:{password}@{rest}", encode_segment(user)))
            }
            _ => f.pad(&base),
        }
    }
}

impl fmt::Debug for ManagementUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BrokerUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        match scheme.as_str() {
            "amqp" => parse_amqp(false, rest).map(BrokerUrl::Amqp),
            "amqps" => parse_amqp(true, rest).map(BrokerUrl::Amqp),
            "embedded" => parse_embedded(rest).map(BrokerUrl::Embedded),
            "http" | "https" => {
                Err(wrong(format!("`{scheme}:` is the management URL, and a broker URL is needed"))
                    .hint("write amqp://HOST or amqps://HOST; AMQP listens on 5672 and 5671"))
            }
            _ => Err(unknown_scheme(&scheme, rest, &["amqp", "amqps", "embedded"])),
        }
    }
}

impl FromStr for AmqpUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text.parse()? {
            BrokerUrl::Amqp(url) => Ok(url),
            BrokerUrl::Embedded(_) => {
                Err(wrong("the URL of a RabbitMQ is needed")
                    .hint("write amqp://HOST or amqps://HOST"))
            }
        }
    }
}

impl FromStr for ManagementUrl {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = split_scheme(text)?;
        match scheme.as_str() {
            "http" => parse_management(false, rest),
            "https" => parse_management(true, rest),
            "amqp" | "amqps" => Err(wrong(format!(
                "`{scheme}:` is the broker URL, and the management URL is needed"
            ))
            .hint("write http://HOST:15672 or https://HOST:15671")),
            _ => Err(unknown_scheme(&scheme, rest, &["http", "https"])),
        }
    }
}

/// A URL in a document. An error about it names the place but does not show the line, which may hold a
/// password.
fn decode_url<T: FromStr<Err = UrlError>>(node: &Node, findings: &mut Findings) -> Option<T> {
    let Some(text) = node.as_text() else {
        findings.push(wrong_type(node, "text"));
        return None;
    };
    match text.parse() {
        Ok(url) => Some(url),
        Err(error) => {
            let mut finding = invalid_value(node, &error);
            finding.hint = error.hint;
            if text.contains(['@', ':']) {
                finding.message = format!("{}: {}", node.span, finding.message);
                finding.span = None;
            }
            findings.push(finding);
            None
        }
    }
}

impl Decode for BrokerUrl {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        decode_url(node, findings)
    }
}

impl Decode for ManagementUrl {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        decode_url(node, findings)
    }
}

/// The scheme in lower case, and what follows its colon.
fn split_scheme(text: &str) -> Result<(String, &str), UrlError> {
    if text.is_empty() {
        return Err(wrong("the URL is empty"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(wrong("the URL contains a space, a line break or a control character")
            .hint("a space is written %20"));
    }
    match text.split_once(':') {
        Some((scheme, rest)) => Ok((scheme.to_ascii_lowercase(), rest)),
        None => {
            Err(wrong("the URL has no scheme")
                .hint("write amqp://HOST, amqps://HOST or embedded:PATH"))
        }
    }
}

/// ` what was given`, unless it looks as if a password might be in it.
fn given(text: &str) -> String {
    if text.contains(['@', ':']) { String::new() } else { format!(" {}", quoted(text)) }
}

fn unknown_scheme(scheme: &str, rest: &str, known: &[&str]) -> UrlError {
    let listed = known.iter().map(|name| format!("{name}:")).collect::<Vec<_>>().join(", ");
    // Without slashes it is as likely `host:port` or `user:password@host`.
    if !rest.starts_with("//") {
        return wrong("the URL has no scheme").hint(format!("begin with one of {listed}"));
    }
    wrong(format!("unknown scheme {}", quoted(scheme))).hint(
        did_you_mean(scheme, known.iter().copied())
            .unwrap_or_else(|| format!("known schemes: {listed}")),
    )
}

/// What stands between `//` and the path.
struct Authority {
    user: Option<(String, Option<Secret>)>,
    host: String,
    port: Option<u16>,
}

/// Splits what follows the scheme into authority, path (with its slash) and query (without its `?`).
fn split_authority<'a>(
    rest: &'a str,
    example: &str,
) -> Result<(Authority, &'a str, Option<&'a str>), UrlError> {
    let rest = rest.strip_prefix("//").ok_or_else(|| {
        wrong("`//` is missing after the scheme").hint(format!("write {example}"))
    })?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if tail.contains('@') {
        return Err(wrong("an `@` stands after the host").hint(
            "in a user or password write / as %2F, ? as %3F, # as %23; elsewhere write @ as %40",
        ));
    }
    if tail.contains('#') {
        return Err(wrong("a `#` stands in the URL")
            .hint("leave off everything from the `#` on; where it is meant, write %23"));
    }
    let authority = parse_authority(authority, example)?;
    Ok(match tail.split_once('?') {
        Some((path, query)) => (authority, path, Some(query)),
        None => (authority, tail, None),
    })
}

fn parse_authority(text: &str, example: &str) -> Result<Authority, UrlError> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(parse_user(user)?), host),
        None => (None, text),
    };
    let (host, port) = if let Some(inside) = host.strip_prefix('[') {
        let Some((address, port)) = inside.split_once(']') else {
            return Err(wrong("the bracket of the IPv6 address is not closed"));
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(wrong("between the brackets stands no IPv6 address").hint("write [::1]"));
        }
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err(wrong("after the IPv6 address a `:` and the port is expected")),
        };
        (address, port)
    } else {
        match host.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(wrong("the host has more than one `:`")
                    .hint("an IPv6 address stands in brackets: [::1]"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        }
    };
    if host.is_empty() {
        return Err(wrong("the host is missing").hint(format!("write {example}")));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if let Some(c) = host.chars().find(|c| !is_name(*c)) {
        return Err(wrong(format!("a host name has no {} in it", quoted(&c.to_string()))));
    }
    let port = match port {
        None => None,
        Some("") => return Err(wrong("the port after the `:` is missing")),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => {
                return Err(wrong("the port is no number from 1 to 65535").hint(
                    "if user and password stand there, the host is missing: user:password@HOST",
                ));
            }
        },
    };
    Ok(Authority { user, host: host.to_ascii_lowercase(), port })
}

fn parse_user(text: &str) -> Result<(String, Option<Secret>), UrlError> {
    if text.contains('@') {
        return Err(wrong("the user or password contains an `@`").hint("write it %40"));
    }
    let (user, password) = match text.split_once(':') {
        Some((_, password)) if password.contains(':') => {
            return Err(wrong("the password contains a `:`").hint("write it %3A"));
        }
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    if user.is_empty() {
        return Err(wrong("the user before the `@` is empty"));
    }
    let bad = |what| {
        move |_| {
            wrong(format!("a bad percent-escape stands in the {what}"))
                .hint("a `%` is followed by two hexadecimal digits; the sign itself is written %25")
        }
    };
    let user = decode_percent(user).map_err(bad("user"))?;
    let password = password.map(decode_percent).transpose().map_err(bad("password"))?;
    Ok((user, password.map(Secret::new)))
}

fn parse_amqp(tls: bool, rest: &str) -> Result<AmqpUrl, UrlError> {
    const EXAMPLE: &str = "amqp://HOST/VHOST";
    let (Authority { user, host, port }, path, query) = split_authority(rest, EXAMPLE)?;
    let default_port = if tls { 5671 } else { 5672 };
    if let Some(port @ (15671 | 15672)) = port {
        return Err(wrong(format!("port {port} is the management API's, not AMQP's"))
            .hint(format!("AMQP listens on {default_port}; leave the port off for it")));
    }
    let (username, password) = match user {
        Some(user) => user,
        None => ("guest".to_owned(), Some(Secret::new("guest"))),
    };
    let mut url = AmqpUrl {
        tls,
        host,
        port: port.unwrap_or(default_port),
        username,
        password,
        vhost: parse_vhost(path).map_err(UrlError::about_vhost)?,
        heartbeat_s: None,
        connection_timeout: None,
    };
    each_parameter(query, &["heartbeat", "connection_timeout"], |name, value| {
        if name == "heartbeat" {
            let seconds = value.parse().map_err(|_| {
                wrong(format!("the heartbeat {} is no number of seconds", quoted(value)))
                    .hint("write 0 to turn it off, or up to 65535")
            })?;
            url.heartbeat_s = Some(seconds);
        } else {
            let timeout = match value.parse::<u64>() {
                Ok(ms) => Duration::from_millis(ms),
                Err(_) => value.parse::<HumanDuration>().map_err(wrong)?.0,
            };
            url.connection_timeout = Some(timeout);
        }
        Ok(())
    })?;
    Ok(url)
}

fn parse_vhost(path: &str) -> Result<VhostName, UrlError> {
    let name = match path.strip_prefix('/') {
        None => "%2F",
        Some("") => {
            return Err(wrong("the vhost is empty").hint("leave the slash off for /, or write %2F"));
        }
        Some(name) => name,
    };
    if let Some(whole) = name.strip_suffix('/')
        && !whole.contains('/')
    {
        return Err(wrong("the vhost ends with a slash").hint(if whole.is_empty() {
            "leave the slashes off for /, or write %2F".to_owned()
        } else {
            format!("leave it off, or write {whole}%2F if it is part of the name")
        }));
    }
    if name.contains('/') {
        return Err(wrong(format!("the vhost {} contains a slash", quoted(name)))
            .hint(format!("write it {}", name.replace('/', "%2F"))));
    }
    let decoded = decode_percent(name).map_err(|error| {
        wrong(format!("the vhost {} has a bad percent-escape: {error}", quoted(name)))
    })?;
    VhostName::new(decoded).map_err(|error| wrong(error.to_string()))
}

fn parse_embedded(rest: &str) -> Result<EmbeddedUrl, UrlError> {
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if path.starts_with("//") {
        return Err(
            wrong("an embedded broker has no host").hint("write embedded:PATH, without the `//`")
        );
    }
    let path = decode_percent(path)
        .map_err(|error| wrong(format!("the path has a bad percent-escape: {error}")))?;
    let mut url = EmbeddedUrl {
        path: (!path.is_empty()).then(|| PathBuf::from(path)),
        like: Imitated::default(),
    };
    each_parameter(query, &["like"], |_, value| {
        url.like = match value {
            "3.10" => Imitated::V3_10,
            "4.0" => Imitated::V4_0,
            _ => {
                return Err(wrong("the embedded broker imitates RabbitMQ 3.10 and 4.0 only")
                    .hint("write like=3.10 or like=4.0"));
            }
        };
        Ok(())
    })?;
    Ok(url)
}

fn parse_management(tls: bool, rest: &str) -> Result<ManagementUrl, UrlError> {
    const EXAMPLE: &str = "http://HOST:15672";
    let (Authority { user, host, port }, path, query) = split_authority(rest, EXAMPLE)?;
    if query.is_some() {
        return Err(wrong("a management URL has no `?`").hint(format!("write {EXAMPLE}")));
    }
    if let Some(port @ (5671 | 5672)) = port {
        return Err(wrong(format!("port {port} is AMQP's, not the management API's"))
            .hint("the management API listens on 15672, with TLS on 15671"));
    }
    let credentials = match user {
        Some((user, Some(password))) => Some((user, password)),
        Some((_, None)) => {
            return Err(wrong("the user has no password").hint("write user:password@"));
        }
        None => None,
    };
    let path = path.trim_end_matches('/');
    let prefix = path.strip_suffix("/api").unwrap_or(path).trim_end_matches('/');
    decode_percent(prefix)
        .map_err(|error| wrong(format!("the path has a bad percent-escape: {error}")))?;
    Ok(ManagementUrl {
        tls,
        host,
        port: port.unwrap_or(if tls { 443 } else { 80 }),
        prefix: prefix.to_owned(),
        credentials,
    })
}

/// Settings of TLS that RabbitMQ's own clients take from the URL, and what they are called here.
const TLS_PARAMETERS: [(&str, &str); 5] = [
    ("cacertfile", "tls.ca"),
    ("certfile", "tls.cert"),
    ("keyfile", "tls.key"),
    ("server_name_indication", "tls.server_name"),
    ("verify", "tls"),
];

fn each_parameter(
    query: Option<&str>,
    known: &[&str],
    mut take: impl FnMut(&str, &str) -> Result<(), UrlError>,
) -> Result<(), UrlError> {
    let mut seen = Vec::new();
    for parameter in query.unwrap_or_default().split('&').filter(|text| !text.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !known.contains(&name) {
            let hint = TLS_PARAMETERS
                .iter()
                .find(|(theirs, _)| *theirs == name)
                .map(|(_, ours)| format!("that is the setting {ours} of a context"))
                .or_else(|| did_you_mean(name, known.iter().copied()))
                .unwrap_or_else(|| format!("known parameters: {}", known.join(", ")));
            return Err(wrong(format!("unknown parameter{}", given(name))).hint(hint));
        }
        if seen.contains(&name) {
            return Err(wrong(format!("the parameter {} is there twice", quoted(name))));
        }
        seen.push(name);
        let value = decode_percent(value)
            .map_err(|error| wrong(format!("the {name} has a bad percent-escape: {error}")))?;
        take(name, &value)?;
    }
    Ok(())
}

/// `text` as one segment of a path: all but letters, digits and `-._~` escaped, so also `/`.
pub fn encode_segment(text: &str) -> String {
    encode(text, b"")
}

fn encode(text: &str, also_kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || also_kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Why percent-escapes could not be read. Does not quote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PercentError {
    /// A `%` without two digits.
    #[error("a `%` is not followed by two hexadecimal digits")]
    Digits,
    /// The bytes do not make text.
    #[error("the escaped bytes are not UTF-8")]
    Utf8,
}

/// `text` with its percent-escapes read.
pub fn decode_percent(text: &str) -> Result<String, PercentError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next().ok_or(PercentError::Digits)?).to_digit(16);
            digit.and_then(|digit| u8::try_from(digit).ok()).ok_or(PercentError::Digits)
        };
        bytes.push(digit()? * 16 + digit()?);
    }
    String::from_utf8(bytes).map_err(|_| PercentError::Utf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::diagnostic::Source;
    use crate::base::document::{decode, read_documents};

    fn amqp(text: &str) -> AmqpUrl {
        match text.parse() {
            Ok(BrokerUrl::Amqp(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_amqp_url_has_defaults_for_all_but_its_host() {
        let url = amqp("amqp://rabbit");
        assert_eq!((url.tls, url.host.as_str(), url.port), (false, "rabbit", 5672));
        assert_eq!(url.username, "guest");
        assert_eq!(url.password.as_ref().map(Secret::reveal), Some("guest"));
        assert_eq!(url.vhost.as_str(), "/");
        assert_eq!((url.heartbeat_s, url.connection_timeout), (None, None));

        let url = amqp(
            "AMQPS://a%40b:p%2F%3A%23@[::1]:5000/%2Fx%20y?heartbeat=0&connection_timeout=2500",
        );
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "::1", 5000));
        assert_eq!(url.username, "a@b");
        assert_eq!(url.password.as_ref().map(Secret::reveal), Some("p/:#"));
        assert_eq!(url.vhost.as_str(), "/x y");
        assert_eq!(url.heartbeat_s, Some(0));
        assert_eq!(url.connection_timeout, Some(Duration::from_millis(2500)));

        assert_eq!(amqp("amqps://h").port, 5671);
        assert_eq!(amqp("amqp://h/%2F"), amqp("amqp://h"));
        assert_eq!(amqp("amqp://h/%2f?"), amqp("amqp://H"));
        assert_eq!(amqp("amqp://me@h").password, None);
        assert_eq!(amqp("amqp://me:@h").password, Some(Secret::new("")));
        assert_eq!(
            amqp("amqp://h?connection_timeout=1m").connection_timeout,
            Some(Duration::from_secs(60))
        );
    }

    #[test]
    fn urls_show_themselves_without_their_password() {
        for (text, shown) in [
            ("amqp://h", "amqp://guest:****@h"),
            ("amqp://me@h:5672/%2F", "amqp://me@h"),
            (
                "amqps://me:x@[::1]:5672/a%2Fb?connection_timeout=1s&heartbeat=5",
                "amqps://me:****@[::1]:5672/a%2Fb?heartbeat=5&connection_timeout=1000",
            ),
            ("embedded:", "embedded:"),
            ("embedded:a b%3F/ü?like=4.0".replace(' ', "%20").as_str(), "embedded:a%20b%3F/%C3%BC"),
            ("embedded:/x.db?like=3.10", "embedded:/x.db?like=3.10"),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains(":x@"));
        }
        let url: ManagementUrl = "https://me:x@h:15671/rabbit/api/".parse().unwrap();
        assert_eq!(url.to_string(), "https://me:****@h:15671/rabbit");
        assert_eq!(format!("{url:?}"), url.to_string());
    }

    #[test]
    fn the_management_api_is_found() {
        assert_eq!(
            amqp("amqp://[::1]/x").default_management_url().endpoint(&["queues", "/", "a b%"]),
            "http://[::1]:15672/api/queues/%2F/a%20b%25"
        );
        assert_eq!(amqp("amqps://h").default_management_url().base(), "https://h:15671");
        let url: ManagementUrl = "http://h/".parse().unwrap();
        assert_eq!((url.port, url.base().as_str()), (80, "http://h"));
    }

    #[test]
    fn an_embedded_url_is_a_path_and_a_version() {
        let embedded = |text: &str| match text.parse() {
            Ok(BrokerUrl::Embedded(url)) => (url.path, url.like),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(embedded("embedded:"), (None, Imitated::V4_0));
        assert_eq!(embedded("embedded:?like=3.10"), (None, Imitated::V3_10));
        assert_eq!(embedded("embedded:a/b.db"), (Some("a/b.db".into()), Imitated::V4_0));
        assert_eq!(embedded("embedded:/a%3Fb?like=4.0"), (Some("/a?b".into()), Imitated::V4_0));
    }

    #[test]
    fn what_is_wrong_with_a_broker_url_is_said_with_what_to_write() {
        let table = [
            ("", "the URL is empty", ""),
            (
                "amqp://h /",
                "the URL contains a space, a line break or a control character",
                "a space is written %20",
            ),
            ("rabbit", "the URL has no scheme", "write amqp://HOST, amqps://HOST or embedded:PATH"),
            ("rabbit:5672", "the URL has no scheme", "begin with one of amqp:, amqps:, embedded:"),
            ("ampq://h", "unknown scheme `ampq`", "did you mean `amqp`?"),
            ("nats://h", "unknown scheme `nats`", "known schemes: amqp:, amqps:, embedded:"),
            (
                "http://h:15672",
                "`http:` is the management URL, and a broker URL is needed",
                "write amqp://HOST or amqps://HOST; AMQP listens on 5672 and 5671",
            ),
            ("amqp:h", "`//` is missing after the scheme", "write amqp://HOST/VHOST"),
            ("amqp://", "the host is missing", "write amqp://HOST/VHOST"),
            ("amqp:///v", "the host is missing", "write amqp://HOST/VHOST"),
            ("amqp://me:x@/v", "the host is missing", "write amqp://HOST/VHOST"),
            ("amqp://@h", "the user before the `@` is empty", ""),
            ("amqp://:x@h", "the user before the `@` is empty", ""),
            ("amqp://me:p@ss@h", "the user or password contains an `@`", "write it %40"),
            ("amqp://me:p:ss@h", "the password contains a `:`", "write it %3A"),
            (
                "amqp://me:12/3@h",
                "an `@` stands after the host",
                "in a user or password write / as %2F, ? as %3F, # as %23; elsewhere write @ as %40",
            ),
            (
                "amqp://me:p#ss@h",
                "an `@` stands after the host",
                "in a user or password write / as %2F, ? as %3F, # as %23; elsewhere write @ as %40",
            ),
            (
                "amqp://h/v#x",
                "a `#` stands in the URL",
                "leave off everything from the `#` on; where it is meant, write %23",
            ),
            (
                "amqp://me:50%@h",
                "a bad percent-escape stands in the password",
                "a `%` is followed by two hexadecimal digits; the sign itself is written %25",
            ),
            (
                "amqp://me%ff@h",
                "a bad percent-escape stands in the user",
                "a `%` is followed by two hexadecimal digits; the sign itself is written %25",
            ),
            (
                "amqp://me:secret",
                "the port is no number from 1 to 65535",
                "if user and password stand there, the host is missing: user:password@HOST",
            ),
            ("amqp://h:", "the port after the `:` is missing", ""),
            (
                "amqp://h:0",
                "the port is no number from 1 to 65535",
                "if user and password stand there, the host is missing: user:password@HOST",
            ),
            (
                "amqp://h:15672",
                "port 15672 is the management API's, not AMQP's",
                "AMQP listens on 5672; leave the port off for it",
            ),
            (
                "amqps://h:15671",
                "port 15671 is the management API's, not AMQP's",
                "AMQP listens on 5671; leave the port off for it",
            ),
            (
                "amqp://::1",
                "the host has more than one `:`",
                "an IPv6 address stands in brackets: [::1]",
            ),
            ("amqp://[::1", "the bracket of the IPv6 address is not closed", ""),
            ("amqp://[h]", "between the brackets stands no IPv6 address", "write [::1]"),
            ("amqp://[::1]5672", "after the IPv6 address a `:` and the port is expected", ""),
            ("amqp://h,i", "a host name has no `,` in it", ""),
            ("amqp://h/", "the vhost is empty", "leave the slash off for /, or write %2F"),
            (
                "amqp://h//",
                "the vhost ends with a slash",
                "leave the slashes off for /, or write %2F",
            ),
            (
                "amqp://h/v/",
                "the vhost ends with a slash",
                "leave it off, or write v%2F if it is part of the name",
            ),
            ("amqp://h/a/b", "the vhost `a/b` contains a slash", "write it a%2Fb"),
            ("amqp://h//a", "the vhost `/a` contains a slash", "write it %2Fa"),
            (
                "amqp://h/%zz",
                "the vhost `%zz` has a bad percent-escape: a `%` is not followed by two hexadecimal digits",
                "",
            ),
            (
                "amqp://h/%ff",
                "the vhost `%ff` has a bad percent-escape: the escaped bytes are not UTF-8",
                "",
            ),
            (
                "amqp://h/%0A",
                "vhost name contains a line break, which RabbitMQ would strip silently",
                "",
            ),
            (
                "amqp://h?heartbeats=1",
                "unknown parameter `heartbeats`",
                "did you mean `heartbeat`?",
            ),
            (
                "amqp://h?cacertfile=x",
                "unknown parameter `cacertfile`",
                "that is the setting tls.ca of a context",
            ),
            (
                "amqp://h?x",
                "unknown parameter `x`",
                "known parameters: heartbeat, connection_timeout",
            ),
            ("amqp://h?heartbeat=1&heartbeat=2", "the parameter `heartbeat` is there twice", ""),
            (
                "amqp://h?heartbeat=1s",
                "the heartbeat `1s` is no number of seconds",
                "write 0 to turn it off, or up to 65535",
            ),
            (
                "amqp://h?connection_timeout=x",
                "`x` is no duration; write it like 250ms, 10s, 1m30s, 2h or 7d",
                "",
            ),
            (
                "embedded://a/b",
                "an embedded broker has no host",
                "write embedded:PATH, without the `//`",
            ),
            (
                "embedded:?like=5.0",
                "the embedded broker imitates RabbitMQ 3.10 and 4.0 only",
                "write like=3.10 or like=4.0",
            ),
            ("embedded:?lik=4.0", "unknown parameter `lik`", "did you mean `like`?"),
        ];
        for (text, message, hint) in table {
            let error = text.parse::<BrokerUrl>().expect_err(text);
            assert_eq!(
                (error.message.as_str(), error.hint.as_deref().unwrap_or("")),
                (message, hint),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_management_url_is_said_with_what_to_write() {
        for (text, message) in [
            ("amqp://h", "`amqp:` is the broker URL, and the management URL is needed"),
            ("http://h:5672", "port 5672 is AMQP's, not the management API's"),
            ("http://h:15672/#/queues", "a `#` stands in the URL"),
            ("http://me@h", "the user has no password"),
            ("http://h?x=1", "a management URL has no `?`"),
            ("https:h", "`//` is missing after the scheme"),
        ] {
            let error = text.parse::<ManagementUrl>().expect_err(text);
            assert_eq!(error.message, message, "{text}");
        }
    }

    #[test]
    fn an_error_about_a_url_in_a_file_does_not_show_its_line() {
        let source = Source::new("config.yaml", "amqp_url: amqp://me:hunter2@h/\n");
        let node = read_documents(&source).unwrap().remove(0);
        let findings = decode::<BrokerUrl>(node.get("amqp_url").unwrap()).unwrap_err();
        let shown = findings.0[0].to_string();
        assert!(shown.contains("config.yaml:1:11: the vhost is empty"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn percent_escapes_read_back(text: String) {
            prop_assert_eq!(decode_percent(&encode_segment(&text)), Ok(text));
        }

        #[test]
        fn a_url_with_any_parts_reads_back(user in ".+", password: String, vhost in "[^\r\n]{1,60}") {
            let text = format!(
                "amqp://{}:{}@h/{}",
                encode_segment(&user), encode_segment(&password), encode_segment(&vhost)
            );
            let url = amqp(&text);
            prop_assert_eq!(url.username, user);
            prop_assert_eq!(url.password.as_ref().map(Secret::reveal), Some(password.as_str()));
            prop_assert_eq!(url.vhost.as_str(), vhost);
        }

        #[test]
        fn no_error_shows_a_password(
            before in "(amqps?|http|embedded|x)?:?/{0,2}[a-z@:/?#%]{0,4}",
            after in "[a-z0-9@:/?#%\\[\\]&=]{0,12}",
        ) {
            let text = format!("{before}user:Hunter2Secret{after}@host/v");
            if let Err(error) = text.parse::<BrokerUrl>() {
                prop_assert!(!format!("{error:?}").contains("Hunter2Secret"), "{}: {:?}", text, error);
            }
            if let Err(error) = text.parse::<ManagementUrl>() {
                prop_assert!(!format!("{error:?}").contains("Hunter2Secret"), "{}: {:?}", text, error);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String, tail in "[a-z0-9@:/?#%\\[\\]&=ä]{0,20}") {
            for text in [&text, &format!("amqp://{tail}"), &format!("embedded:{tail}")] {
                let _ = (text.parse::<BrokerUrl>(), text.parse::<ManagementUrl>());
            }
        }
    }
}
