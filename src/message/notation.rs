//! Header values written in JSON without losing their AMQP type.
//!
//! What JSON has stands for itself: a string is a long string, an integer an `l` (64 bit), a number
//! with a point or an exponent a `d`, `true`/`false` a `t`, `null` a `V`, an array an `A`, an object
//! an `F`. Everything else is an object with one tag: `{"$int32": 5}`. A table with a key that begins
//! with `$` is itself wrapped in `{"$table": …}`, so that nothing is ever mistaken for a tag.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::base::diagnostic::Code;
use crate::base::suggest::nearest;

use super::json::{Broken, DEPTH, Problems, Reader, write_string};
use super::value::{FieldTable, FieldValue};

/// Every tag, and what its value looks like.
const TAGS: [(&str, &str); 14] = [
    ("$int8", "an integer from -128 to 127"),
    ("$uint8", "an integer from 0 to 255"),
    ("$int16", "an integer from -32768 to 32767"),
    ("$uint16", "an integer from 0 to 65535"),
    ("$int32", "an integer from -2147483648 to 2147483647"),
    ("$uint32", "an integer from 0 to 4294967295"),
    ("$int64", "an integer from -9223372036854775808 to 9223372036854775807"),
    ("$float", "a number, or \"NaN\", \"Infinity\", \"-Infinity\" or the bits as \"0x7fc00001\""),
    (
        "$double",
        "a number, or \"NaN\", \"Infinity\", \"-Infinity\" or the bits as \"0x7ff8000000000001\"",
    ),
    ("$decimal", "digits with a point in quotes, such as \"12.50\""),
    ("$timestamp", "a time such as \"2026-01-31T12:00:00Z\", or whole seconds since 1970"),
    ("$bytes", "base64 in quotes"),
    ("$text", "base64 in quotes, of a long string that is not UTF-8"),
    ("$table", "an object"),
];

/// The last second that RFC 3339 can write in every time zone: 9999-12-30T22:00:00Z.
const LAST_WRITTEN_SECOND: u64 = 253_402_207_200;

/// Appends `table` as a JSON object.
pub(crate) fn write_table(out: &mut Vec<u8>, table: &FieldTable) {
    out.push(b'{');
    for (index, (name, value)) in table.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

/// Appends one value.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &FieldValue) {
    match value {
        FieldValue::Void => out.extend_from_slice(b"null"),
        FieldValue::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
        FieldValue::Int8(n) => write_tagged(out, "$int8", format_args!("{n}")),
        FieldValue::UInt8(n) => write_tagged(out, "$uint8", format_args!("{n}")),
        FieldValue::Int16(n) => write_tagged(out, "$int16", format_args!("{n}")),
        FieldValue::UInt16(n) => write_tagged(out, "$uint16", format_args!("{n}")),
        FieldValue::Int32(n) => write_tagged(out, "$int32", format_args!("{n}")),
        FieldValue::UInt32(n) => write_tagged(out, "$uint32", format_args!("{n}")),
        FieldValue::Int64(n) => put(out, format_args!("{n}")),
        FieldValue::Float(n) if n.is_finite() => {
            write_tagged(out, "$float", format_args!("{n:?}"));
        }
        FieldValue::Float(n) if n.is_infinite() || n.to_bits() == f32::NAN.to_bits() => {
            write_tagged(out, "$float", format_args!("\"{}\"", unusual(f64::from(*n))));
        }
        FieldValue::Float(n) => {
            write_tagged(out, "$float", format_args!("\"0x{:08x}\"", n.to_bits()));
        }
        FieldValue::Double(n) if n.is_finite() => put(out, format_args!("{n:?}")),
        FieldValue::Double(n) if n.is_infinite() || n.to_bits() == f64::NAN.to_bits() => {
            write_tagged(out, "$double", format_args!("\"{}\"", unusual(*n)));
        }
        FieldValue::Double(n) => {
            write_tagged(out, "$double", format_args!("\"0x{:016x}\"", n.to_bits()));
        }
        FieldValue::Decimal { scale, unscaled } => {
            let width = usize::from(*scale) + 1;
            let digits = format!("{unscaled:0width$}");
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(*scale));
            let point = if fraction.is_empty() { "" } else { "." };
            write_tagged(out, "$decimal", format_args!("\"{whole}{point}{fraction}\""));
        }
        FieldValue::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => write_string(out, text),
            Err(_) => write_bytes(out, "$text", bytes),
        },
        FieldValue::Bytes(bytes) => write_bytes(out, "$bytes", bytes),
        FieldValue::Timestamp(seconds) => {
            out.extend_from_slice(b"{\"$timestamp\":");
            write_time(out, *seconds);
            out.push(b'}');
        }
        FieldValue::Array(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, value);
            }
            out.push(b']');
        }
        FieldValue::Table(table) if table.iter().any(|(name, _)| name.starts_with('$')) => {
            out.extend_from_slice(b"{\"$table\":");
            write_table(out, table);
            out.push(b'}');
        }
        FieldValue::Table(table) => write_table(out, table),
    }
}

fn unusual(number: f64) -> &'static str {
    match number {
        n if n.is_nan() => "NaN",
        n if n > 0.0 => "Infinity",
        _ => "-Infinity",
    }
}

fn write_tagged(out: &mut Vec<u8>, tag: &str, value: std::fmt::Arguments<'_>) {
    put(out, format_args!("{{\"{tag}\":{value}}}"));
}

fn write_bytes(out: &mut Vec<u8>, tag: &str, bytes: &[u8]) {
    put(out, format_args!("{{\"{tag}\":"));
    write_base64(out, bytes);
    out.push(b'}');
}

/// Appends formatted text; a vector takes everything.
pub(crate) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "a vector takes everything");
}

/// Appends `bytes` as base64 in quotes.
pub(crate) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Appends seconds since 1970 as RFC 3339 in quotes, or as a number when no calendar goes that far.
pub(crate) fn write_time(out: &mut Vec<u8>, seconds: u64) {
    let calendar = i64::try_from(seconds)
        .ok()
        .filter(|_| seconds <= LAST_WRITTEN_SECOND)
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    match calendar {
        Some(time) => put(out, format_args!("\"{time}\"")),
        None => put(out, format_args!("{seconds}")),
    }
}

/// Reads whole seconds since 1970 from RFC 3339 or digits.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| format!("`{text}` is more seconds than AMQP can hold"));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        format!("`{text}` is neither RFC 3339 (2026-01-31T12:00:00Z) nor whole seconds since 1970")
    })?;
    if time.subsec_nanosecond() != 0 {
        return Err(format!("`{text}` has a fraction of a second, which AMQP cannot hold"));
    }
    u64::try_from(time.as_second()).map_err(|_| format!("`{text}` lies before 1970"))
}

/// Reads one value in the notation, as `-H name:=VALUE` has it.
pub fn parse_value(text: &str) -> Result<FieldValue, Problems> {
    let mut reader = Reader::new(text);
    let value = read_value(&mut reader, 0).and_then(|value| reader.end().map(|()| value));
    reader.finish(value)
}

/// The notation of one value.
pub fn format_value(value: &FieldValue) -> String {
    let mut out = Vec::new();
    write_value(&mut out, value);
    String::from_utf8_lossy(&out).into_owned()
}

const VALUE: Code = Code("record/value");

/// Reads an object as a table.
pub(crate) fn read_table(reader: &mut Reader<'_>, depth: usize) -> Result<FieldTable, Broken> {
    let mut table = BTreeMap::new();
    reader.object(|reader, key, at| read_entry(reader, &mut table, key, at, depth))?;
    Ok(FieldTable(table))
}

fn read_entry(
    reader: &mut Reader<'_>,
    table: &mut BTreeMap<String, FieldValue>,
    key: Cow<'_, str>,
    at: usize,
    depth: usize,
) -> Result<(), Broken> {
    if key.len() > 255 {
        reader.note(VALUE, at, format!("this name is {} bytes long; AMQP allows 255", key.len()));
    }
    let value = read_value(reader, depth + 1)?;
    if table.contains_key(key.as_ref()) {
        reader.note(Code("record/duplicate-key"), at, format!("`{key}` is there twice"));
    }
    table.insert(key.into_owned(), value);
    Ok(())
}

/// Reads one value. What cannot be a value is noted, and stands in as void until the line is refused.
pub(crate) fn read_value(reader: &mut Reader<'_>, depth: usize) -> Result<FieldValue, Broken> {
    let at = reader.offset();
    if depth > DEPTH {
        return Err(reader.broken(at, format!("nested deeper than {DEPTH}")));
    }
    Ok(match reader.peek() {
        Some(b'"') => FieldValue::Text(reader.string()?.into_owned().into_bytes()),
        Some(b'[') => {
            let mut values = Vec::new();
            reader.array(|reader| {
                values.push(read_value(reader, depth + 1)?);
                Ok(())
            })?;
            FieldValue::Array(values)
        }
        Some(b'{') => read_object(reader, depth)?,
        Some(b'-' | b'0'..=b'9') => {
            let token = reader.number()?;
            if token.contains(['.', 'e', 'E']) {
                // What is too large the reader has noted.
                FieldValue::Double(token.parse().unwrap_or(f64::INFINITY))
            } else if let Ok(number) = token.parse() {
                FieldValue::Int64(number)
            } else {
                reader.note_with(
                    VALUE,
                    at,
                    format!("`{token}` does not fit 64 bits"),
                    Some(format!("write it as \"{token}\" or {{\"$double\": {token}.0}}")),
                );
                FieldValue::Void
            }
        }
        _ => reader.literal()?.map_or(FieldValue::Void, FieldValue::Bool),
    })
}

fn read_object(reader: &mut Reader<'_>, depth: usize) -> Result<FieldValue, Broken> {
    let mut table = BTreeMap::new();
    let mut tagged: Option<(FieldValue, String, usize)> = None;
    reader.object(|reader, key, at| {
        if !key.starts_with('$') {
            return read_entry(reader, &mut table, key, at, depth);
        }
        let value = read_tagged(reader, &key, at, depth)?;
        if let Some((_, other, _)) = &tagged {
            reader.note(VALUE, at, format!("a value has one tag, and `{other}` is there already"));
        } else {
            tagged = Some((value, key.into_owned(), at));
        }
        Ok(())
    })?;
    let Some((value, tag, at)) = tagged else { return Ok(FieldValue::Table(FieldTable(table))) };
    if !table.is_empty() {
        reader.note_with(
            VALUE,
            at,
            format!("the tag `{tag}` stands beside other keys"),
            Some(
                "a table with a name that begins with `$` is written {\"$table\": {…}}".to_owned(),
            ),
        );
    }
    Ok(value)
}

fn read_tagged(
    reader: &mut Reader<'_>,
    tag: &str,
    at: usize,
    depth: usize,
) -> Result<FieldValue, Broken> {
    let Some((_, wanted)) = TAGS.iter().find(|(name, _)| *name == tag) else {
        let hint = match nearest(tag, TAGS.iter().map(|(name, _)| *name)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "a table with such a name is written {\"$table\": {…}}".to_owned(),
        };
        reader.note_with(
            Code("record/unknown-tag"),
            at,
            format!("unknown tag `{tag}`"),
            Some(hint),
        );
        reader.raw()?;
        return Ok(FieldValue::Void);
    };
    let at = reader.offset();
    if tag == "$table" && reader.peek() == Some(b'{') {
        return Ok(FieldValue::Table(read_table(reader, depth + 1)?));
    }
    let value = match reader.peek() {
        Some(b'"') => {
            let text = reader.string()?;
            text_of(tag, &text)
        }
        Some(b'-' | b'0'..=b'9') => {
            let token = reader.number()?;
            number_of(tag, token)
        }
        _ => {
            reader.raw()?;
            None
        }
    };
    Ok(value.unwrap_or_else(|| {
        reader.note(VALUE, at, format!("`{tag}` takes {wanted}"));
        FieldValue::Void
    }))
}

fn number_of(tag: &str, token: &str) -> Option<FieldValue> {
    Some(match tag {
        "$int8" => FieldValue::Int8(token.parse().ok()?),
        "$uint8" => FieldValue::UInt8(token.parse().ok()?),
        "$int16" => FieldValue::Int16(token.parse().ok()?),
        "$uint16" => FieldValue::UInt16(token.parse().ok()?),
        "$int32" => FieldValue::Int32(token.parse().ok()?),
        "$uint32" => FieldValue::UInt32(token.parse().ok()?),
        "$int64" => FieldValue::Int64(token.parse().ok()?),
        "$float" => FieldValue::Float(token.parse().ok().filter(|n: &f32| n.is_finite())?),
        "$double" => FieldValue::Double(token.parse().ok().filter(|n: &f64| n.is_finite())?),
        "$timestamp" => FieldValue::Timestamp(token.parse().ok()?),
        _ => return None,
    })
}

fn text_of(tag: &str, text: &str) -> Option<FieldValue> {
    Some(match tag {
        "$float" => FieldValue::Float(match text {
            "NaN" => f32::NAN,
            "Infinity" => f32::INFINITY,
            "-Infinity" => f32::NEG_INFINITY,
            bits => f32::from_bits(u32::from_str_radix(bits.strip_prefix("0x")?, 16).ok()?),
        }),
        "$double" => FieldValue::Double(match text {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            bits => f64::from_bits(u64::from_str_radix(bits.strip_prefix("0x")?, 16).ok()?),
        }),
        "$decimal" => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let digits = format!("{whole}{fraction}");
            if whole.is_empty()
                || text.ends_with('.')
                || !digits.bytes().all(|b| b.is_ascii_digit())
            {
                return None;
            }
            FieldValue::Decimal {
                scale: u8::try_from(fraction.len()).ok()?,
                unscaled: digits.parse().ok()?,
            }
        }
        "$timestamp" => FieldValue::Timestamp(parse_time(text).ok()?),
        "$bytes" => FieldValue::Bytes(BASE64.decode(text).ok()?),
        "$text" => FieldValue::Text(BASE64.decode(text).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        parse_value(text).expect_err("refused").to_string()
    }

    #[test]
    fn each_type_has_its_notation() {
        let table = |name: &str, value: FieldValue| FieldTable::new().with(name, value);
        for (value, text) in [
            (FieldValue::Void, "null"),
            (FieldValue::Bool(true), "true"),
            (FieldValue::Int8(-5), r#"{"$int8":-5}"#),
            (FieldValue::UInt8(200), r#"{"$uint8":200}"#),
            (FieldValue::Int16(-300), r#"{"$int16":-300}"#),
            (FieldValue::UInt16(60000), r#"{"$uint16":60000}"#),
            (FieldValue::Int32(5), r#"{"$int32":5}"#),
            (FieldValue::UInt32(u32::MAX), r#"{"$uint32":4294967295}"#),
            (FieldValue::Int64(i64::MIN), "-9223372036854775808"),
            (FieldValue::Float(1.5), r#"{"$float":1.5}"#),
            (FieldValue::Float(f32::INFINITY), r#"{"$float":"Infinity"}"#),
            (FieldValue::Double(1.0), "1.0"),
            (FieldValue::Double(-0.0), "-0.0"),
            (FieldValue::Double(1e300), "1e300"),
            (FieldValue::Double(f64::NEG_INFINITY), r#"{"$double":"-Infinity"}"#),
            (FieldValue::Decimal { scale: 2, unscaled: 5 }, r#"{"$decimal":"0.05"}"#),
            (FieldValue::Decimal { scale: 0, unscaled: 7 }, r#"{"$decimal":"7"}"#),
            (FieldValue::Decimal { scale: 1, unscaled: u32::MAX }, r#"{"$decimal":"429496729.5"}"#),
            (FieldValue::from("é\n"), "\"é\\n\""),
            (FieldValue::Text(vec![0xff]), r#"{"$text":"/w=="}"#),
            (FieldValue::Bytes(vec![1, 2, 3]), r#"{"$bytes":"AQID"}"#),
            (FieldValue::Timestamp(1_700_000_000), r#"{"$timestamp":"2023-11-14T22:13:20Z"}"#),
            (FieldValue::Timestamp(u64::MAX), r#"{"$timestamp":18446744073709551615}"#),
            (FieldValue::Array(vec![FieldValue::Int64(1), FieldValue::Void]), "[1,null]"),
            (table("a", FieldValue::Bool(false)).into(), r#"{"a":false}"#),
            (table("$int8", FieldValue::Int64(1)).into(), r#"{"$table":{"$int8":1}}"#),
            (FieldTable::new().into(), "{}"),
        ] {
            assert_eq!(format_value(&value), text);
            assert_eq!(parse_value(text), Ok(value), "{text}");
        }
        let nan = parse_value(r#"{"$double":"NaN"}"#);
        assert!(matches!(nan, Ok(FieldValue::Double(n)) if n.to_bits() == f64::NAN.to_bits()));
        let odd = FieldValue::Float(f32::from_bits(0x7fc0_0001));
        assert_eq!(format_value(&odd), r#"{"$float":"0x7fc00001"}"#);
        assert_eq!(parse_value(r#"{"$int64": 1}"#), Ok(FieldValue::Int64(1)));
    }

    #[test]
    fn what_is_no_value_is_refused_with_its_place() {
        assert_eq!(
            refused(r#"[1, {"$int8": 300}]"#),
            "column 15: `$int8` takes an integer from -128 to 127"
        );
        assert_eq!(
            refused(r#"{"$int9": 3}"#),
            "column 2: unknown tag `$int9`; did you mean `$int8`?"
        );
        assert_eq!(
            refused(r#"{"é": {"$int8": 3, "b": 1}}"#),
            "column 8: the tag `$int8` stands beside other keys; a table with a name that begins with \
             `$` is written {\"$table\": {…}}"
        );
        assert_eq!(
            refused("99999999999999999999"),
            "column 1: `99999999999999999999` does not fit 64 bits; write it as \
             \"99999999999999999999\" or {\"$double\": 99999999999999999999.0}"
        );
        assert_eq!(refused(r#"{"a":1,"a":2}"#), "column 8: `a` is there twice");
        assert_eq!(refused("1e999"), "column 1: `1e999` is too large for a double");
        assert_eq!(refused("1 2"), "column 3: expected the end of the line, found `2`");
        for text in [
            r#"{"$decimal":"1."}"#,
            r#"{"$decimal":".5"}"#,
            r#"{"$decimal":"-1"}"#,
            r#"{"$decimal":5}"#,
            r#"{"$bytes":"?"}"#,
            r#"{"$timestamp":"yesterday"}"#,
            r#"{"$timestamp":"2026-01-01T00:00:00.5Z"}"#,
            r#"{"$float":1e39}"#,
            r#"{"$table":5}"#,
            r#"{"$int8":true}"#,
            r#"{"$int8":1,"$int16":1}"#,
            "",
            "[1",
            &"[".repeat(1000),
        ] {
            refused(text);
        }
    }
}
