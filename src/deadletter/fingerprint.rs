//! What dead letters have in common: the same failure gives the same fingerprint, whatever ids, numbers,
//! hosts and times stand in it. Pure.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::broker::Delivery;
use crate::message::{FieldValue, Message, Properties};

use super::death::{DeathReason, Origin, WorkerVerdict, deaths, origin, worker_verdict};

/// Characters that a normalised text has at most.
pub const LONGEST_TEXT: usize = 200;
/// Bytes of a text that are looked at: what makes it differ stands at its beginning.
const READ_TEXT: usize = 4096;
/// Bodies beyond this many bytes are told apart by size alone.
const READ_BODY: usize = 256 * 1024;
/// How deep the shape of a JSON body goes.
const SHAPE_DEPTH: usize = 3;
/// Keys of one object that its shape names.
const SHAPE_KEYS: usize = 24;
/// Characters that a shape has at most.
const LONGEST_SHAPE: usize = 400;
/// Hexadecimal digits in a row that are no word any more.
const HEX_RUN: usize = 8;
/// Letters and digits in a row that are no word any more.
const ID_RUN: usize = 16;

/// The name of a group of letters: `g-` and ten letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const DIGITS: u32 = 10;

impl Fingerprint {
    /// Reads a name; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<Fingerprint> {
        let digits = text.strip_prefix("g-")?;
        if digits.len() != DIGITS as usize {
            return None;
        }
        let mut bits = 0;
        for digit in digits.bytes() {
            let value = ALPHABET.iter().position(|known| *known == digit)?;
            bits = bits << 5 | value as u64;
        }
        Some(Fingerprint(bits))
    }

    /// The name as a number below 2^50.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The name that is this number.
    pub fn from_bits(bits: u64) -> Fingerprint {
        Fingerprint(bits & ((1 << (5 * DIGITS)) - 1))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("g-")?;
        for place in (0..DIGITS).rev() {
            let digit = usize::try_from(self.0 >> (place * 5) & 31).unwrap_or(0);
            write!(f, "{}", char::from(ALPHABET[digit]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// What a group of letters has in common.
#[derive(
    Clone,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Traits {
    /// Why they died: the class of a worker's verdict, else the broker's reason; empty when nothing tells.
    pub reason: String,
    /// What ended the work, as a worker says: `exit 65`.
    pub code: Option<String>,
    /// Where they belong; empty when nothing tells.
    pub queue: String,
    /// By which key they came there, without ids.
    pub routing_key: String,
    /// The kind of exception that their headers name.
    pub exception: Option<String>,
    /// The error text without ids, numbers, hosts and times.
    pub error: Option<String>,
    /// What their bodies look like.
    pub shape: String,
}

/// Headers that name the kind of an exception, and those that have its words.
const EXCEPTIONS: [&str; 3] = ["x-exception", "x-exception-type", "x-exception-fqcn"];
const MESSAGES: [&str; 3] = ["x-exception-message", "x-error", "x-error-message"];

impl Traits {
    /// The traits of a letter, of whose deaths all is known that its headers say.
    pub fn of(
        delivery: &Delivery,
        origin: Option<&Origin>,
        newest: Option<&DeathReason>,
        verdict: Option<&WorkerVerdict>,
    ) -> Traits {
        let properties = &delivery.message.properties;
        let said = |names: &[&str]| names.iter().find_map(|name| header_text(properties, name));
        let reason = verdict.map(|verdict| verdict.reason.clone());
        let error = verdict.and_then(|verdict| verdict.error.clone()).or_else(|| said(&MESSAGES));
        let key = origin
            .map_or_else(|| delivery.routing_key.as_str(), |origin| origin.routing_key.as_str());
        Traits {
            reason: reason
                .or_else(|| newest.map(|reason| reason.as_str().to_owned()))
                .unwrap_or_default(),
            code: verdict.and_then(|verdict| verdict.code.clone()),
            queue: origin.map(|origin| origin.queue.as_str().to_owned()).unwrap_or_default(),
            routing_key: normalise(key),
            exception: said(&EXCEPTIONS).map(|text| normalise(&text)),
            error: error.map(|text| normalise(&text)).filter(|text| !text.is_empty()),
            shape: shape(&delivery.message),
        }
    }

    /// The name of the group of all letters with these traits.
    pub fn fingerprint(&self) -> Fingerprint {
        let Traits { reason, code, queue, routing_key, exception, error, shape } = self;
        let mut hash = Sha256::new();
        let parts = [
            Some(reason),
            code.as_ref(),
            Some(queue),
            Some(routing_key),
            exception.as_ref(),
            error.as_ref(),
            Some(shape),
        ];
        for part in parts {
            // Each part with its length, so that no two lists of parts read the same.
            let length = part.map_or(u64::MAX, |text| text.len() as u64);
            hash.update(length.to_le_bytes());
            hash.update(part.map_or("", String::as_str).as_bytes());
        }
        let digest = hash.finalize();
        let bits = digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        Fingerprint::from_bits(bits)
    }
}

/// The group of a letter as it lies in a queue.
pub fn traits(delivery: &Delivery) -> Traits {
    let properties = &delivery.message.properties;
    let newest = deaths(properties).into_iter().next().map(|death| death.reason);
    let verdict = worker_verdict(properties);
    Traits::of(delivery, origin(properties).as_ref(), newest.as_ref(), verdict.as_ref())
}

fn header_text(properties: &Properties, name: &str) -> Option<String> {
    match properties.header(name)? {
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => {
            let end = bytes.len().min(READ_TEXT);
            Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
        }
        _ => None,
    }
}

/// The text without what differs from one letter to the next: ids and numbers become `#`, hosts
/// `<host>`, times `<time>`. A text that is normalised stays as it is.
pub fn normalise(text: &str) -> String {
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= READ_TEXT);
    let mut text = text[..end.unwrap_or(text.len())].to_owned();
    // What one pass leaves may look like an id to the next. Each pass that changes anything leaves
    // fewer letters and digits, so this ends.
    loop {
        let next: String = pass(&text).chars().take(LONGEST_TEXT).collect();
        let next = next.trim_end().to_owned();
        if next == text {
            return text;
        }
        text = next;
    }
}

/// Characters between words.
fn separates(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "()[]{}<>,;='\"`|#".contains(c)
}

fn pass(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() || first.is_control() {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
            rest = &rest[first.len_utf8()..];
        } else if let Some(length) = quoted_id(rest, before) {
            out.push(first);
            push_id(&mut out);
            out.push(first);
            rest = &rest[length..];
            before = Some(first);
            continue;
        } else if separates(first) {
            if first == '#' {
                push_id(&mut out);
            } else {
                out.push(first);
            }
            rest = &rest[first.len_utf8()..];
        } else {
            let end = rest.find(separates).unwrap_or(rest.len());
            word(&rest[..end], &mut out);
            before = rest[..end].chars().next_back();
            rest = &rest[end..];
            continue;
        }
        before = Some(first);
    }
    out
}

/// One mark for an id, however many pieces it had.
fn push_id(out: &mut String) {
    for joint in ["#-", "#.", "#_", "#:", "#,"] {
        if out.ends_with(joint) {
            out.pop();
            return;
        }
    }
    if !out.ends_with('#') {
        out.push('#');
    }
}

/// The bytes of a quoted word that is an id, quotes included, when `text` begins with one.
fn quoted_id(text: &str, before: Option<char>) -> Option<usize> {
    let quote = text.chars().next().filter(|c| ['\'', '"', '`'].contains(c))?;
    if before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let inside = &text[1..];
    let end = inside.find(quote)?;
    let (word, after) = (&inside[..end], inside[end + 1..].chars().next());
    let is_word = !word.is_empty()
        && !word.contains(char::is_whitespace)
        && !after.is_some_and(char::is_alphanumeric);
    let is_id = word.len() > 40 || word.contains('@') || word.bytes().any(|b| b.is_ascii_digit());
    (is_word && is_id && word != "#").then_some(end + 2)
}

/// Endings of names that are hosts.
const HOST_ENDINGS: [&str; 14] = [
    "com",
    "net",
    "org",
    "io",
    "local",
    "internal",
    "svc",
    "lan",
    "dev",
    "cloud",
    "test",
    "example",
    "localdomain",
    "corp",
];
/// Endings of file names, which are followed by a line's number and not by a port.
const FILE_ENDINGS: [&str; 19] = [
    "rs", "py", "js", "ts", "java", "go", "rb", "c", "cc", "cpp", "h", "php", "kt", "cs", "scala",
    "ex", "exs", "erl", "sh",
];

fn is_host_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    text.chars().all(fits)
        && text.split('.').all(|label| !label.is_empty())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
}

fn is_host(word: &str) -> bool {
    if word.parse::<SocketAddr>().is_ok() {
        return true;
    }
    if let Ok(address) = word.parse::<IpAddr>() {
        // `a::b` is a path of names.
        return address.is_ipv4() || word.bytes().any(|b| b.is_ascii_digit());
    }
    let (name, port) = match word.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (word, None),
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let dotted = name.contains('.');
    match port {
        Some(port) => {
            !port.is_empty()
                && port.len() <= 5
                && port.bytes().all(|b| b.is_ascii_digit())
                && is_host_name(name)
                && (name == "localhost" || dotted && !FILE_ENDINGS.contains(&last))
        }
        None => dotted && is_host_name(name) && HOST_ENDINGS.contains(&last),
    }
}

fn is_time(word: &str) -> bool {
    let digits = |text: &str, least: usize, most: usize| {
        (least..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
    };
    let date: Vec<&str> = word.get(..10).map(|d| d.split('-').collect()).unwrap_or_default();
    if let [year, month, day] = date[..]
        && digits(year, 4, 4)
        && digits(month, 2, 2)
        && digits(day, 2, 2)
    {
        let rest = &word[10..];
        return rest.is_empty() || rest.starts_with(['T', 't', '_']);
    }
    let parts: Vec<&str> = word.split(':').collect();
    match parts[..] {
        [hour, minute, second] => {
            let whole = second.split(['.', 'Z', '+']).next().unwrap_or_default();
            digits(hour, 1, 2) && digits(minute, 2, 2) && digits(whole, 2, 2)
        }
        _ => false,
    }
}

/// Writes a word without whitespace.
fn word(text: &str, out: &mut String) {
    let bare = text.trim_end_matches(['.', ':', '!', '?']);
    let tail = &text[bare.len()..];
    if let Some((scheme, rest)) = bare.split_once("://")
        && !scheme.is_empty()
        && !rest.is_empty()
    {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        out.push_str(scheme);
        out.push_str("://");
        if end > 0 {
            out.push_str("<host>");
        }
        pieces(&rest[end..], out);
    } else if is_time(bare) {
        out.push_str("<time>");
    } else if is_host(bare) {
        out.push_str("<host>");
    } else if bare.split_once('@').is_some_and(|(who, at)| !who.is_empty() && !at.is_empty()) {
        push_id(out);
    } else {
        pieces(bare, out);
    }
    out.push_str(tail);
}

/// Writes the runs of letters and digits in a word, and what stands between them.
fn pieces(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if !first.is_alphanumeric() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        if let Some(after) = after_uuid(rest) {
            push_id(out);
            rest = after;
            continue;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        run(&rest[..end], out);
        rest = &rest[end..];
    }
}

/// What follows the UUID that `text` begins with.
fn after_uuid(text: &str) -> Option<&str> {
    const LENGTH: usize = 36;
    let (uuid, after) = text.split_at_checked(LENGTH)?;
    let fits = uuid.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    (fits && !after.starts_with(char::is_alphanumeric)).then_some(after)
}

fn run(text: &str, out: &mut String) {
    let hex = text.strip_prefix("0x").unwrap_or(text);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let has_digit = text.bytes().any(|b| b.is_ascii_digit());
    if is_hex && (hex.len() >= HEX_RUN || hex.len() < text.len())
        || has_digit && text.len() >= ID_RUN
    {
        push_id(out);
        return;
    }
    let mut digits = false;
    for c in text.chars() {
        if c.is_numeric() {
            if !digits {
                push_id(out);
            }
            digits = true;
        } else {
            out.push(c);
            digits = false;
        }
    }
}

/// What a body looks like: the keys and types of JSON, else its kind and how large it is about.
pub fn shape(message: &Message) -> String {
    let body = &message.body;
    if body.is_empty() {
        return "empty".to_owned();
    }
    let size = size_class(body.len());
    let encoding = message.properties.content_encoding.as_deref();
    if let Some(encoding) = encoding.filter(|name| !["", "identity", "utf-8"].contains(name)) {
        return format!("{} {size}", normalise(&encoding.to_ascii_lowercase()));
    }
    let looks_like_json = body.iter().find(|b| !b.is_ascii_whitespace());
    if body.len() <= READ_BODY
        && looks_like_json.is_some_and(|first| b"{[\"tfn-0123456789".contains(first))
        && let Ok(value) = serde_json::from_slice::<Value>(body)
    {
        let mut out = String::new();
        outline(&value, SHAPE_DEPTH, &mut out);
        return out.chars().take(LONGEST_SHAPE).collect();
    }
    match std::str::from_utf8(body) {
        Ok(_) => format!("text {size}"),
        Err(_) => format!("binary {size}"),
    }
}

/// Powers of four: small differences are none.
fn size_class(bytes: usize) -> String {
    let mut most = 256;
    while most < bytes {
        most *= 4;
    }
    match most {
        256 => "to 256 B".to_owned(),
        _ if most < 1 << 20 => format!("to {} KiB", most >> 10),
        _ => format!("to {} MiB", most >> 20),
    }
}

fn outline(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(_) => out.push_str("bool"),
        Value::Number(_) => out.push_str("number"),
        Value::String(_) => out.push_str("string"),
        Value::Array(_) | Value::Object(_) if depth == 0 => out.push('…'),
        Value::Array(items) => {
            // Of which kinds, not how many.
            let kinds: BTreeSet<String> = items
                .iter()
                .take(SHAPE_KEYS)
                .map(|item| {
                    let mut kind = String::new();
                    outline(item, depth - 1, &mut kind);
                    kind
                })
                .collect();
            out.push('[');
            out.push_str(&kinds.into_iter().collect::<Vec<_>>().join("|"));
            out.push(']');
        }
        Value::Object(fields) => {
            let known: BTreeSet<String> = fields
                .iter()
                .map(|(key, value)| {
                    let mut field = normalise(key);
                    field.push(':');
                    outline(value, depth - 1, &mut field);
                    field
                })
                .collect();
            out.push('{');
            let shown: Vec<&str> = known.iter().take(SHAPE_KEYS).map(String::as_str).collect();
            out.push_str(&shown.join(","));
            if known.len() > SHAPE_KEYS {
                out.push_str(",…");
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::id::{ExchangeName, RoutingKey};
    use crate::broker::DeliveryTag;
    use crate::delivery::worker::letter::{DEATH_CODE, DEATH_ERROR, DEATH_REASON, ORIGIN_QUEUE};
    use crate::message::FieldTable;

    #[test]
    fn what_differs_from_letter_to_letter_is_taken_out() {
        for (text, normal) in [
            ("order 17 not found", "order # not found"),
            ("order 550e8400-e29b-41d4-a716-446655440000 is gone", "order # is gone"),
            ("connect to 10.0.3.17:5432: refused", "connect to <host>: refused"),
            ("connect to db-3.eu.internal:5432 failed", "connect to <host> failed"),
            (
                "GET https://api.example.com/orders/991?x=2 gave 503",
                "GET https://<host>/orders/#?x=# gave #",
            ),
            ("2026-11-23T10:00:01.5Z took 1.5s", "<time> took #s"),
            ("at 10:15:02 in main.rs:42", "at <time> in main.rs:#"),
            ("no such user 'alice42'", "no such user '#'"),
            ("KeyError: 'region'", "KeyError: 'region'"),
            ("can't open /var/spool/job-77/in.json", "can't open /var/spool/job-#/in.json"),
            ("at 0x7ffee4 deadbeefcafe", "at # #"),
            ("  two\n\tlines ", "two lines"),
            ("std::fmt failed in a::b", "std::fmt failed in a::b"),
            ("com.acme.NullPointerException", "com.acme.NullPointerException"),
            ("mail to a.b@example.org bounced", "mail to # bounced"),
            ("[::1]:80 refused", "[<host>]:# refused"),
        ] {
            assert_eq!(normalise(text), normal, "{text}");
        }
        assert!(normalise(&"wörter ".repeat(5000)).chars().count() <= LONGEST_TEXT);
    }

    #[test]
    fn the_shape_of_a_body_is_its_keys_and_types() {
        let of =
            |body: &[u8]| shape(&Message { properties: Properties::default(), body: body.into() });
        assert_eq!(of(b"{\"b\":[1,2],\"a\":{\"c\":{\"d\":{}}}}"), "{a:{c:{d:…}},b:[number]}");
        assert_eq!(of(b"{\"a\":1,\"b\":2}"), of(b"{\"b\":7, \"a\":0}"));
        assert_eq!(of(b"{\"17\":1,\"18\":2}"), "{#:number}");
        assert_eq!(of(b"[]"), "[]");
        assert_eq!(of(b"hello"), "text to 256 B");
        assert_eq!(of(&[0xff; 300]), "binary to 1 KiB");
        assert_eq!(of(b""), "empty");
        assert!(of(format!("{{{}\"z\":1}}", "\"key\":1,".repeat(9)).as_bytes()).len() < 60);
    }

    fn letter(id: u32, error: &str) -> Delivery {
        let headers = FieldTable::new()
            .with(DEATH_REASON, "poison")
            .with(DEATH_CODE, "exit 65")
            .with(DEATH_ERROR, error)
            .with(ORIGIN_QUEUE, "jobs");
        let properties = Properties {
            message_id: Some(id.to_string()),
            headers: Some(headers),
            ..Properties::default()
        };
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new("k").unwrap(),
            redelivered: false,
            message: Message { properties, body: format!("{{\"id\":{id}}}").into_bytes() },
        }
    }

    #[test]
    fn a_group_is_named_by_its_traits_and_its_name_reads_back() {
        let one = traits(&letter(1, "no order 1"));
        assert_eq!((one.reason.as_str(), one.code.as_deref()), ("poison", Some("exit 65")));
        assert_eq!((one.queue.as_str(), one.shape.as_str()), ("jobs", "{id:number}"));
        let name = one.fingerprint();
        assert_eq!(name, traits(&letter(2, "no order 2345678")).fingerprint());
        assert_ne!(name, traits(&letter(1, "no customer 1")).fingerprint());
        assert_eq!(Fingerprint::parse(&name.to_string()), Some(name));
        for wrong in ["g-", "g-abc", "abcdefghij", "g-abcdefghi1", "g-ABCDEFGHIJ"] {
            assert_eq!(Fingerprint::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_normalised_text_stays_as_it_is(text in "\\PC{0,300}") {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once.clone());
            prop_assert!(once.chars().count() <= LONGEST_TEXT);
        }

        #[test]
        fn hostile_pieces_too(words in proptest::collection::vec(
            "[a-f0-9]{1,12}|[a-z]{1,4}[0-9]{1,4}|['\"#.:@/,_-]{1,3}|<host>|<time>|\
             [0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}(:[0-9]{1,5})?| ", 0..20)
        ) {
            let text = words.concat();
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once.clone(), "{}", text);
        }

        #[test]
        fn other_ids_and_numbers_are_the_same_failure(
            a in any::<u128>(), b in any::<u128>(), n in any::<u64>(), m in any::<u64>(),
            h in any::<[u8; 5]>(), k in any::<[u8; 5]>(),
        ) {
            let say = |id: u128, number: u64, host: [u8; 5]| {
                let id = uuid::Builder::from_u128(id).into_uuid();
                let [a, b, c, d, job] = host;
                normalise(&format!(
                    "order {id} of '{number}' failed on {a}.{b}.{c}.{d}:5672 after {number} ms, job-{job}"
                ))
            };
            prop_assert_eq!(say(a, n, h), say(b, m, k));
        }
    }
}
