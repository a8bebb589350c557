//! How a message's envelope and argument tables lie in the state file. Compact, self-describing by
//! position, and never changed without a migration.

use crate::message::{FieldTable, FieldValue, Properties};

/// Everything of a message but its body.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Envelope {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    /// Keys of `BCC`, which the broker keeps but does not show.
    pub(super) hidden_keys: Vec<String>,
    pub(super) properties: Properties,
}

/// The bytes in the file are not what this program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

const VERSION: u8 = 1;
/// Tables within tables; AMQP itself knows no bound, a stack does.
const DEPTH_MAX: usize = 64;

fn put_len(out: &mut Vec<u8>, len: usize) {
    let mut rest = len as u64;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap_or(0));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &FieldValue) {
    match value {
        FieldValue::Void => out.push(b'V'),
        FieldValue::Bool(flag) => out.extend([b't', u8::from(*flag)]),
        FieldValue::Int8(n) => out.extend([b'b', n.to_le_bytes()[0]]),
        FieldValue::UInt8(n) => out.extend([b'B', *n]),
        FieldValue::Int16(n) => put_number(out, b's', &n.to_le_bytes()),
        FieldValue::UInt16(n) => put_number(out, b'u', &n.to_le_bytes()),
        FieldValue::Int32(n) => put_number(out, b'I', &n.to_le_bytes()),
        FieldValue::UInt32(n) => put_number(out, b'i', &n.to_le_bytes()),
        FieldValue::Int64(n) => put_number(out, b'l', &n.to_le_bytes()),
        FieldValue::Float(n) => put_number(out, b'f', &n.to_le_bytes()),
        FieldValue::Double(n) => put_number(out, b'd', &n.to_le_bytes()),
        FieldValue::Decimal { scale, unscaled } => {
            out.extend([b'D', *scale]);
            out.extend(unscaled.to_le_bytes());
        }
        FieldValue::Text(bytes) => {
            out.push(b'S');
            put_bytes(out, bytes);
        }
        FieldValue::Bytes(bytes) => {
            out.push(b'x');
            put_bytes(out, bytes);
        }
        FieldValue::Timestamp(n) => put_number(out, b'T', &n.to_le_bytes()),
        FieldValue::Array(values) => {
            out.push(b'A');
            put_len(out, values.len());
            for value in values {
                put_value(out, value);
            }
        }
        FieldValue::Table(table) => {
            out.push(b'F');
            put_table(out, table);
        }
    }
}

fn put_number(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

fn put_table(out: &mut Vec<u8>, table: &FieldTable) {
    put_len(out, table.len());
    for (name, value) in table.iter() {
        put_bytes(out, name.as_bytes());
        put_value(out, value);
    }
}

/// A table as bytes; equal tables give equal bytes.
pub(super) fn encode_table(table: &FieldTable) -> Vec<u8> {
    let mut out = Vec::new();
    put_table(&mut out, table);
    out
}

/// The table that [`encode_table`] wrote.
pub(super) fn decode_table(bytes: &[u8]) -> Result<FieldTable, Damaged> {
    Reader { bytes }.table(0)
}

fn depth(value: &FieldValue) -> usize {
    match value {
        FieldValue::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        FieldValue::Table(table) => table_depth(table),
        _ => 0,
    }
}

fn table_depth(table: &FieldTable) -> usize {
    1 + table.iter().map(|(_, value)| depth(value)).max().unwrap_or(0)
}

/// Whether the table nests no deeper than can be read back.
pub(super) fn is_storable(table: &FieldTable) -> bool {
    table_depth(table) < DEPTH_MAX / 2
}

impl Envelope {
    pub(super) fn encode(&self) -> Vec<u8> {
        let p = &self.properties;
        let mut out = Vec::with_capacity(128);
        out.push(VERSION);
        put_bytes(&mut out, self.exchange.as_bytes());
        put_bytes(&mut out, self.routing_key.as_bytes());
        put_len(&mut out, self.hidden_keys.len());
        for key in &self.hidden_keys {
            put_bytes(&mut out, key.as_bytes());
        }
        let texts = [
            &p.content_type,
            &p.content_encoding,
            &p.correlation_id,
            &p.reply_to,
            &p.expiration,
            &p.message_id,
            &p.kind,
            &p.user_id,
            &p.app_id,
            &p.cluster_id,
        ];
        let mut flags: u16 = 0;
        for (bit, text) in texts.iter().enumerate() {
            flags |= u16::from(text.is_some()) << bit;
        }
        flags |= u16::from(p.headers.is_some()) << 10;
        flags |= u16::from(p.delivery_mode.is_some()) << 11;
        flags |= u16::from(p.priority.is_some()) << 12;
        flags |= u16::from(p.timestamp.is_some()) << 13;
        out.extend(flags.to_le_bytes());
        for text in texts.into_iter().flatten() {
            put_bytes(&mut out, text.as_bytes());
        }
        if let Some(headers) = &p.headers {
            put_table(&mut out, headers);
        }
        out.extend(p.delivery_mode);
        out.extend(p.priority);
        if let Some(timestamp) = p.timestamp {
            out.extend(timestamp.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Envelope, Damaged> {
        let mut reader = Reader { bytes };
        if reader.byte()? != VERSION {
            return Err(Damaged);
        }
        let exchange = reader.text()?;
        let routing_key = reader.text()?;
        let keys = reader.len()?;
        let mut hidden_keys = Vec::new();
        for _ in 0..keys {
            hidden_keys.push(reader.text()?);
        }
        let flags = u16::from_le_bytes(reader.array()?);
        let mut texts: [Option<String>; 10] = Default::default();
        for (bit, text) in texts.iter_mut().enumerate() {
            if flags & (1 << bit) != 0 {
                *text = Some(reader.text()?);
            }
        }
        let headers = if flags & (1 << 10) != 0 { Some(reader.table(0)?) } else { None };
        let delivery_mode = if flags & (1 << 11) != 0 { Some(reader.byte()?) } else { None };
        let priority = if flags & (1 << 12) != 0 { Some(reader.byte()?) } else { None };
        let timestamp =
            if flags & (1 << 13) != 0 { Some(u64::from_le_bytes(reader.array()?)) } else { None };
        let [
            content_type,
            content_encoding,
            correlation_id,
            reply_to,
            expiration,
            message_id,
            kind,
            user_id,
            app_id,
            cluster_id,
        ] = texts;
        Ok(Envelope {
            exchange,
            routing_key,
            hidden_keys,
            properties: Properties {
                content_type,
                content_encoding,
                headers,
                delivery_mode,
                priority,
                correlation_id,
                reply_to,
                expiration,
                message_id,
                timestamp,
                kind,
                user_id,
                app_id,
                cluster_id,
            },
        })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(Damaged)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.take(N)?.try_into().map_err(|_| Damaged)
    }

    fn len(&mut self) -> Result<usize, Damaged> {
        let mut value: u64 = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| Damaged);
            }
        }
        Err(Damaged)
    }

    fn slice(&mut self) -> Result<&'a [u8], Damaged> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<String, Damaged> {
        String::from_utf8(self.slice()?.to_vec()).map_err(|_| Damaged)
    }

    fn table(&mut self, depth: usize) -> Result<FieldTable, Damaged> {
        if depth > DEPTH_MAX {
            return Err(Damaged);
        }
        let mut table = FieldTable::new();
        for _ in 0..self.len()? {
            let name = self.text()?;
            let value = self.value(depth + 1)?;
            table.0.insert(name, value);
        }
        Ok(table)
    }

    fn value(&mut self, depth: usize) -> Result<FieldValue, Damaged> {
        if depth > DEPTH_MAX {
            return Err(Damaged);
        }
        Ok(match self.byte()? {
            b'V' => FieldValue::Void,
            b't' => FieldValue::Bool(self.byte()? != 0),
            b'b' => FieldValue::Int8(i8::from_le_bytes(self.array()?)),
            b'B' => FieldValue::UInt8(self.byte()?),
            b's' => FieldValue::Int16(i16::from_le_bytes(self.array()?)),
            b'u' => FieldValue::UInt16(u16::from_le_bytes(self.array()?)),
            b'I' => FieldValue::Int32(i32::from_le_bytes(self.array()?)),
            b'i' => FieldValue::UInt32(u32::from_le_bytes(self.array()?)),
            b'l' => FieldValue::Int64(i64::from_le_bytes(self.array()?)),
            b'f' => FieldValue::Float(f32::from_le_bytes(self.array()?)),
            b'd' => FieldValue::Double(f64::from_le_bytes(self.array()?)),
            b'D' => {
                let scale = self.byte()?;
                FieldValue::Decimal { scale, unscaled: u32::from_le_bytes(self.array()?) }
            }
            b'S' => FieldValue::Text(self.slice()?.to_vec()),
            b'x' => FieldValue::Bytes(self.slice()?.to_vec()),
            b'T' => FieldValue::Timestamp(u64::from_le_bytes(self.array()?)),
            b'A' => {
                let mut values = Vec::new();
                for _ in 0..self.len()? {
                    values.push(self.value(depth + 1)?);
                }
                FieldValue::Array(values)
            }
            b'F' => FieldValue::Table(self.table(depth + 1)?),
            _ => return Err(Damaged),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, arbitrary};

    proptest! {
        #[test]
        fn any_envelope_comes_back_as_it_went_in(message in arbitrary::message()) {
            let envelope = Envelope { properties: message.properties, ..Envelope::default() };
            let back = Envelope::decode(&envelope.encode());
            let with = |envelope: Envelope| Message {
                properties: envelope.properties,
                body: Vec::new(),
            };
            prop_assert!(back.is_ok_and(|back| arbitrary::same(&with(back), &with(envelope))));
        }
    }

    #[test]
    fn an_envelope_comes_back_as_it_went_in() {
        let headers = FieldTable::new()
            .with("a", FieldValue::Int8(-3))
            .with("b", FieldValue::Decimal { scale: 2, unscaled: 314 })
            .with("c", FieldValue::Array(vec![FieldValue::Void, FieldValue::Double(1.5)]))
            .with("d", FieldTable::new().with("e", FieldValue::Bytes(vec![0, 255])))
            .with("f", FieldValue::Text(vec![0xff, 0xfe]));
        let envelope = Envelope {
            exchange: "x".into(),
            routing_key: String::new(),
            hidden_keys: vec!["k".into()],
            properties: Properties {
                headers: Some(headers),
                content_type: Some(String::new()),
                priority: Some(9),
                timestamp: Some(u64::MAX),
                cluster_id: Some("c".repeat(300)),
                ..Properties::default()
            },
        };
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope.clone()));
        let empty = Envelope::default();
        assert_eq!(Envelope::decode(&empty.encode()), Ok(empty));
        let bytes = envelope.encode();
        for end in 0..bytes.len() {
            assert_eq!(Envelope::decode(&bytes[..end]), Err(Damaged), "cut at {end}");
        }
    }
}
