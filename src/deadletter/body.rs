//! A body as a person reads it: JSON, text or hexadecimal, unpacked when it says how it was packed. Pure.

use std::io::Read;

use serde_json::Value;

/// Bytes that an unpacked body has at most.
pub const LARGEST: u64 = 16 << 20;

/// What a body says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// JSON.
    Json(Value),
    /// Text.
    Text(String),
    /// Neither: its bytes.
    Bytes(Vec<u8>),
}

/// A body that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// What it says.
    pub content: Content,
    /// What unpacked it.
    pub unpacked: Option<&'static str>,
    /// Why it could not be unpacked, so that this is the packed body.
    pub trouble: Option<String>,
}

/// What unpacked a body, and what came of it.
type Unpacked = Option<(&'static str, Result<Vec<u8>, String>)>;

/// Unpacks a body; `None` when it is not packed.
fn unpacked(body: &[u8], encoding: Option<&str>) -> Result<Unpacked, String> {
    let encoding = encoding.unwrap_or_default().trim().to_ascii_lowercase();
    Ok(match encoding.as_str() {
        "" | "identity" | "utf-8" | "utf8" | "binary" => None,
        "gzip" | "x-gzip" => Some(("gzip", unpack(flate2::read::MultiGzDecoder::new(body)))),
        "deflate" | "zlib" => Some(("zlib", unpack(flate2::read::ZlibDecoder::new(body)))),
        "zstd" => Some((
            "zstd",
            ruzstd::decoding::StreamingDecoder::new(body)
                .map_err(|error| error.to_string())
                .and_then(unpack),
        )),
        other => return Err(format!("it is packed as `{other}`, which is not known here")),
    })
}

fn cannot_unpack(name: &str, error: &str) -> String {
    format!("it says that it is {name}, and cannot be unpacked: {error}")
}

/// The bytes of a packed body; `None` when it is not packed.
///
/// # Errors
/// Why it cannot be unpacked.
pub fn plain(body: &[u8], encoding: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    match unpacked(body, encoding)? {
        None => Ok(None),
        Some((_, Ok(bytes))) => Ok(Some(bytes)),
        Some((name, Err(error))) => Err(cannot_unpack(name, &error)),
    }
}

/// Reads a body that was packed as `encoding` says.
pub fn decode(body: &[u8], encoding: Option<&str>) -> Decoded {
    match unpacked(body, encoding) {
        Ok(None) => Decoded { content: content(body), unpacked: None, trouble: None },
        Ok(Some((name, Ok(bytes)))) => {
            Decoded { content: content(&bytes), unpacked: Some(name), trouble: None }
        }
        Ok(Some((name, Err(error)))) => {
            let trouble = Some(cannot_unpack(name, &error));
            Decoded { content: content(body), unpacked: None, trouble }
        }
        Err(why) => Decoded { content: content(body), unpacked: None, trouble: Some(why) },
    }
}

fn unpack(from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("it has more than {} MiB", LARGEST >> 20));
    }
    Ok(bytes)
}

fn content(body: &[u8]) -> Content {
    match std::str::from_utf8(body) {
        Ok(text) => match serde_json::from_str(text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => Content::Json(value),
            _ => Content::Text(text.to_owned()),
        },
        Err(_) => Content::Bytes(body.to_vec()),
    }
}

/// Bytes as lines of hexadecimal with the letters beside them; of a long body, the first `most` bytes.
pub fn hex(bytes: &[u8], most: usize) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (line, chunk) in bytes[..bytes.len().min(most)].chunks(16).enumerate() {
        let _ = write!(out, "{:08x} ", line * 16);
        for byte in chunk {
            let _ = write!(out, " {byte:02x}");
        }
        out.push_str(&"   ".repeat(16 - chunk.len()));
        out.push_str("  ");
        let seen = |byte: &u8| if (32..127).contains(byte) { char::from(*byte) } else { '.' };
        out.extend(chunk.iter().map(seen));
        out.push('\n');
    }
    if bytes.len() > most {
        let _ = writeln!(out, "… and {} more bytes", bytes.len() - most);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_read_as_what_it_is() {
        assert_eq!(decode(b"{\"a\":1}", None).content, Content::Json(json!({"a": 1})));
        assert_eq!(decode(b"12", None).content, Content::Text("12".to_owned()));
        assert_eq!(decode(&[255, 1], Some("binary")).content, Content::Bytes(vec![255, 1]));
        assert_eq!(
            hex(b"abc\x00", 99),
            format!("00000000  61 62 63 00{}  abc.\n", "   ".repeat(12))
        );
        assert!(hex(&[0; 40], 16).ends_with("… and 24 more bytes\n"));
    }

    #[test]
    fn what_is_packed_is_unpacked_within_bounds() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"[1]").unwrap();
        let gzip = gzip.finish().unwrap();
        let seen = decode(&gzip, Some("GZIP"));
        assert_eq!((seen.content, seen.unpacked), (Content::Json(json!([1])), Some("gzip")));
        let zstd = ruzstd::encoding::compress_to_vec(
            &b"some text"[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(decode(&zstd, Some("zstd")).content, Content::Text("some text".to_owned()));
        for (body, encoding) in [(&b"no gzip"[..], "gzip"), (b"x", "zstd"), (b"x", "br")] {
            let seen = decode(body, Some(encoding));
            assert!(seen.trouble.is_some(), "{encoding}");
            assert_eq!(seen.content, content(body));
        }
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..=LARGEST >> 20 {
            bomb.write_all(&vec![0; 1 << 20]).unwrap();
        }
        let seen = decode(&bomb.finish().unwrap(), Some("gzip"));
        assert!(seen.trouble.is_some_and(|why| why.contains("16 MiB")));
    }
}
