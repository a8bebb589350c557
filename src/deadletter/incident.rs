//! An incident in one file, for whoever looks at it afterwards: one JSON value a line, so that neither
//! writing nor reading it needs more memory than one line.
//!
//! Each line says in `part` what it is. The first is the head, `apiVersion` and `kind` in it; the last
//! one counts the parts before it and has the SHA-256 of all bytes before it, so a file that was cut off
//! or changed by accident is known. It is no signature: who changes the file can change that line too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What the first line says it is.
pub const KIND: &str = "DeadLetterIncident";
/// The version of the format.
pub const API_VERSION: &str = "nexus/v1";
/// The first line.
pub const HEAD: &str = "incident";
/// The last line.
pub const END: &str = "end";

/// Bytes that one line may have: a letter of the greatest size, written out.
const LONGEST_LINE: u64 = 64 << 20;

/// Writes the file.
#[derive(Debug)]
pub struct Recorder<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
    parts: BTreeMap<&'static str, u64>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Bytes in all.
    pub bytes: u64,
    /// How many lines of each part.
    pub parts: BTreeMap<&'static str, u64>,
    /// The SHA-256 of all lines but the last.
    pub sha256: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl<W: Write> Recorder<W> {
    /// Begins the file with its head.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(out: W, head: &impl Serialize) -> io::Result<Recorder<W>> {
        let mut recorder = Recorder { out, hash: Sha256::new(), bytes: 0, parts: BTreeMap::new() };
        recorder.part(HEAD, head)?;
        Ok(recorder)
    }

    /// Writes one part.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn part(&mut self, name: &'static str, value: &impl Serialize) -> io::Result<()> {
        let mut line = Map::new();
        if name == HEAD {
            line.insert("apiVersion".to_owned(), API_VERSION.into());
            line.insert("kind".to_owned(), KIND.into());
        }
        line.insert("part".to_owned(), name.into());
        match serde_json::to_value(value)? {
            Value::Object(fields) => line.extend(fields),
            other => {
                line.insert("value".to_owned(), other);
            }
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        self.hash.update(text.as_bytes());
        self.bytes += text.len() as u64;
        *self.parts.entry(name).or_default() += 1;
        self.out.write_all(text.as_bytes())
    }

    /// Writes the last line, and gives the stream back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self) -> io::Result<(W, Recorded)> {
        let sha256 = hex(&self.hash.clone().finalize());
        let parts = std::mem::take(&mut self.parts);
        self.part(END, &serde_json::json!({"parts": parts, "sha256": sha256}))?;
        self.out.flush()?;
        Ok((self.out, Recorded { bytes: self.bytes, parts, sha256 }))
    }
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum IncidentError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is no incident that this program can read: its first line says {0}")]
    Other(String),
    /// A line is no JSON, or has no part.
    #[error("line {0} is no part of an incident")]
    Line(u64),
}

/// What reading came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// How many lines of each part.
    pub parts: BTreeMap<String, u64>,
    /// What is wrong with the file as a whole; `None` when it is as it was written.
    pub problem: Option<String>,
}

/// Reads the file line by line; `each` takes every part but the last line.
///
/// # Errors
/// When it cannot be read, or is no such file, or `each` fails.
pub fn read<E: From<IncidentError>>(
    mut from: impl BufRead,
    each: &mut dyn FnMut(&str, Value) -> Result<(), E>,
) -> Result<Reading, E> {
    let mut reading = Reading::default();
    let mut hash = Sha256::new();
    let mut ended = None;
    let mut number = 0;
    loop {
        let mut line = Vec::new();
        from.by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .map_err(IncidentError::from)?;
        if line.is_empty() {
            break;
        }
        number += 1;
        if ended.is_some() {
            reading.problem = Some(format!("line {number} stands behind its end"));
            return Ok(reading);
        }
        let value = serde_json::from_slice::<Value>(&line).ok();
        let part = value.as_ref().and_then(|value| value.get("part")).and_then(Value::as_str);
        let part = part.map(str::to_owned);
        let is_head = |value: &Value| {
            value.get("kind").and_then(Value::as_str) == Some(KIND)
                && value.get("apiVersion").and_then(Value::as_str) == Some(API_VERSION)
        };
        if number == 1 && !value.as_ref().is_some_and(is_head) {
            let shown: String = String::from_utf8_lossy(&line).chars().take(60).collect();
            return Err(IncidentError::Other(shown).into());
        }
        let (Some(value), Some(part)) = (value, part) else {
            if line.ends_with(b"\n") {
                return Err(IncidentError::Line(number).into());
            }
            reading.problem = Some(format!("it is cut off in line {number}"));
            return Ok(reading);
        };
        if part == END {
            ended = Some(value);
            continue;
        }
        hash.update(&line);
        *reading.parts.entry(part.clone()).or_default() += 1;
        each(&part, value)?;
    }
    let sha256 = hex(&hash.finalize());
    reading.problem = match &ended {
        None => Some(format!("it is cut off behind line {number}")),
        Some(end) if end.get("sha256").and_then(Value::as_str) != Some(sha256.as_str()) => {
            Some("it is not what was written: its SHA-256 differs".to_owned())
        }
        Some(_) => None,
    };
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written() -> Vec<u8> {
        let mut recorder = Recorder::begin(Vec::new(), &json!({"who": "me"})).unwrap();
        recorder.part("scan", &json!({"scan": 1})).unwrap();
        recorder.part("letter", &json!({"id": "a"})).unwrap();
        recorder.part("letter", &json!({"id": "b"})).unwrap();
        recorder.end().unwrap().0
    }

    fn look(bytes: &[u8]) -> Result<(Reading, Vec<String>), IncidentError> {
        let mut seen = Vec::new();
        let reading = read(bytes, &mut |part, _| {
            seen.push(part.to_owned());
            Ok::<(), IncidentError>(())
        })?;
        Ok((reading, seen))
    }

    #[test]
    fn what_was_written_is_read_back_and_known_to_be_whole() {
        let (reading, seen) = look(&written()).unwrap();
        assert_eq!(seen, ["incident", "scan", "letter", "letter"]);
        assert_eq!((reading.problem, reading.parts["letter"]), (None, 2));
        let text = String::from_utf8(written()).unwrap();
        assert!(text.starts_with(
            r#"{"apiVersion":"nexus/v1","kind":"DeadLetterIncident","part":"incident","who":"me"}"#
        ));
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn a_file_cut_off_anywhere_or_changed_is_known() {
        let whole = written();
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        // The last line break alone says nothing.
        for cut in first_line..whole.len() - 1 {
            let (reading, _) = look(&whole[..cut]).unwrap();
            assert!(reading.problem.is_some(), "cut at {cut}");
        }
        let changed = String::from_utf8(whole.clone()).unwrap().replace("\"a\"", "\"c\"");
        assert!(look(changed.as_bytes()).unwrap().0.problem.unwrap().contains("SHA-256"));
        let twice = [&whole[..], &whole[..]].concat();
        assert!(look(&twice).unwrap().0.problem.unwrap().contains("behind its end"));
        for other in [&b"{}\n"[..], b"nonsense", b""] {
            let found = look(other);
            let is_refused = match &found {
                Err(IncidentError::Other(_)) => true,
                Ok((reading, _)) => other.is_empty() && reading.problem.is_some(),
                Err(_) => false,
            };
            assert!(is_refused, "{found:?}");
        }
    }
}
