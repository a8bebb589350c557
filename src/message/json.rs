//! JSON read with positions and written without detours, for lines that are read by the million.
//!
//! Knows nothing of records: it hands out keys, texts, number tokens and raw values, each with its
//! byte offset. A syntax error ends the reading ([`Broken`]); everything else the caller collects in
//! [`Problems`] and goes on.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use crate::base::diagnostic::Code;

/// How deep values may be nested, here and in `serde_json`.
pub(crate) const DEPTH: usize = 100;

/// One thing wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable name of the rule.
    pub code: Code,
    /// Where in the text, in bytes from 0.
    pub offset: usize,
    /// Where in the text, in characters from 1.
    pub column: usize,
    /// What is wrong: a lower-case sentence without a full stop.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// `column 12: unknown key "exchnage"; did you mean "exchange"?`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// Everything wrong with one text, in the order of its places; never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The text is no JSON from here on; the problem has been noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

/// Reads a text from left to right.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Begins at the start of `text`.
    pub(crate) fn new(text: &'a str) -> Self {
        Reader { text, at: 0, problems: Vec::new() }
    }

    /// What has been found wrong, with columns counted; the value when nothing was.
    pub(crate) fn finish<T>(mut self, value: Result<T, Broken>) -> Result<T, Problems> {
        match value {
            Ok(value) if self.problems.is_empty() => Ok(value),
            _ => {
                self.problems.sort_by_key(|problem| problem.offset);
                let mut chars = 0;
                let mut from = 0;
                for problem in &mut self.problems {
                    let to = self.text.floor_char_boundary(problem.offset);
                    chars += self.text[from..to].chars().count();
                    from = to;
                    problem.column = chars + 1;
                }
                Err(Problems(self.problems))
            }
        }
    }

    /// Notes a problem at `offset`.
    pub(crate) fn note(&mut self, code: Code, offset: usize, message: impl Into<String>) {
        self.note_with(code, offset, message, None);
    }

    /// Notes a problem at `offset`, with advice.
    pub(crate) fn note_with(
        &mut self,
        code: Code,
        offset: usize,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.problems.push(Problem { code, offset, column: 0, message: message.into(), hint });
    }

    /// Notes that the text ends being JSON at `offset`.
    pub(crate) fn broken(&mut self, offset: usize, message: impl Into<String>) -> Broken {
        self.note(Code("json/syntax"), offset, message);
        Broken
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// Where the next value or sign begins.
    pub(crate) fn offset(&mut self) -> usize {
        self.skip_blank();
        self.at
    }

    fn skip_blank(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes().get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte that is not blank, without taking it.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.skip_blank();
        self.bytes().get(self.at).copied()
    }

    fn found(&self) -> String {
        match self.text[self.at..].chars().next() {
            None => "the end".to_owned(),
            Some(c) if c.is_control() => format!("the control character U+{:04X}", u32::from(c)),
            Some(c) => format!("`{c}`"),
        }
    }

    fn take(&mut self, byte: u8, what: &str) -> Result<(), Broken> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        let found = self.found();
        Err(self.broken(self.at, format!("expected {what}, found {found}")))
    }

    /// Reads an object; `each` is called with every key and where it stands, and must take the value.
    pub(crate) fn object(
        &mut self,
        mut each: impl FnMut(&mut Self, Cow<'a, str>, usize) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.take(b'{', "`{`")?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let at = self.offset();
            if self.peek() != Some(b'"') {
                let found = self.found();
                return Err(self.broken(at, format!("expected a key in quotes, found {found}")));
            }
            let key = self.string()?;
            self.take(b':', "`:` after the key")?;
            each(self, key, at)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => {
                    let found = self.found();
                    return Err(
                        self.broken(self.at, format!("expected `,` or `}}`, found {found}"))
                    );
                }
            }
        }
    }

    /// Reads an array; `each` is called in front of every element and must take it.
    pub(crate) fn array(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.take(b'[', "`[`")?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            each(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => {
                    let found = self.found();
                    return Err(self.broken(self.at, format!("expected `,` or `]`, found {found}")));
                }
            }
        }
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Broken> {
        self.take(b'"', "`\"`")?;
        let start = self.at;
        let bytes = self.bytes();
        let plain = plain_run(&bytes[start..]);
        self.at += plain;
        if bytes.get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..start + plain]));
        }
        let mut text = self.text[start..self.at].to_owned();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => self.escape(&mut text)?,
                Some(byte) if *byte < 0x20 => {
                    let found = self.found();
                    return Err(
                        self.broken(self.at, format!("{found} stands bare in a string; escape it"))
                    );
                }
                Some(_) => {
                    let plain = plain_run(&bytes[self.at..]);
                    text.push_str(&self.text[self.at..self.at + plain]);
                    self.at += plain;
                }
                None => return Err(self.broken(start - 1, "this string has no end")),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), Broken> {
        let start = self.at;
        let letter = self.bytes().get(start + 1).copied();
        self.at += 2;
        text.push(match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hex(start)?;
                let code = if (0xD800..0xDC00).contains(&first)
                    && self.bytes()[self.at..].starts_with(b"\\u")
                {
                    self.at += 2;
                    let second = self.hex(start)?;
                    if !(0xDC00..0xE000).contains(&second) {
                        return Err(self.broken(start, "half of a surrogate pair"));
                    }
                    0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                } else {
                    first
                };
                match char::from_u32(code) {
                    Some(c) => c,
                    None => return Err(self.broken(start, "half of a surrogate pair")),
                }
            }
            _ => return Err(self.broken(start, "no such escape")),
        });
        Ok(())
    }

    fn hex(&mut self, start: usize) -> Result<u32, Broken> {
        let digits = self.bytes().get(self.at..self.at + 4);
        let code = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => Err(self.broken(start, "`\\u` needs four hexadecimal digits")),
        }
    }

    /// Reads a number and returns it as it stands.
    pub(crate) fn number(&mut self) -> Result<&'a str, Broken> {
        let start = self.offset();
        match number_run(&self.bytes()[start..]) {
            Some(length) => {
                let token = &self.text[start..start + length];
                self.at += length;
                if is_out_of_range(token) {
                    let cause = format!("`{token}` is too large for a double");
                    self.note(Code("json/number"), start, cause);
                }
                Ok(token)
            }
            None => {
                let found = self.found();
                Err(self.broken(start, format!("expected a number, found {found}")))
            }
        }
    }

    /// Reads `true`, `false` or `null`.
    pub(crate) fn literal(&mut self) -> Result<Option<bool>, Broken> {
        let start = self.offset();
        for (word, value) in [("true", Some(true)), ("false", Some(false)), ("null", None)] {
            if self.text[start..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        let found = self.found();
        Err(self.broken(start, format!("expected a value, found {found}")))
    }

    /// Reads over any value and returns it as it stands.
    pub(crate) fn raw(&mut self) -> Result<&'a str, Broken> {
        let start = self.offset();
        self.skip(0)?;
        Ok(&self.text[start..self.at])
    }

    fn skip(&mut self, depth: usize) -> Result<(), Broken> {
        if depth > DEPTH {
            return Err(self.broken(self.at, format!("nested deeper than {DEPTH}")));
        }
        match self.peek() {
            Some(b'{') => self.object(|reader, _, _| reader.skip(depth + 1)),
            Some(b'[') => self.array(|reader| reader.skip(depth + 1)),
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            _ => self.literal().map(|_| ()),
        }
    }

    /// Makes sure that nothing follows.
    pub(crate) fn end(&mut self) -> Result<(), Broken> {
        if self.peek().is_none() {
            return Ok(());
        }
        let found = self.found();
        Err(self.broken(self.at, format!("expected the end of the line, found {found}")))
    }
}

/// How many bytes at the start stand for themselves in a JSON string.
fn plain_run(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| ESCAPES[usize::from(*byte)] != 0).unwrap_or(bytes.len())
}

/// The length of the JSON number at the start.
fn number_run(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && bytes[at] == b'0') {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

/// Whether a JSON number is beyond every double, which most readers refuse.
fn is_out_of_range(token: &str) -> bool {
    let may_be = token.len() > f64::MAX_10_EXP.unsigned_abs() as usize
        || token.bytes().any(|byte| matches!(byte, b'e' | b'E'));
    may_be && token.parse::<f64>().is_ok_and(f64::is_infinite)
}

/// For each byte 0 when it stands for itself, `u` when only a number will do, else its escape letter.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends `text` as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut rest = bytes;
    loop {
        let plain = plain_run(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(byte) = rest.get(plain) else { break };
        match ESCAPES[usize::from(*byte)] {
            b'u' => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

/// Whether `text` is JSON that comes out byte for byte the same when it is parsed and written again:
/// no blanks, no duplicate keys, numbers and escapes in their shortest form.
pub(crate) fn is_canonical(text: &str) -> bool {
    let mut check = Canonical { text, at: 0, keys: Vec::new() };
    check.value(0) && check.at == text.len()
}

struct Canonical<'a> {
    text: &'a str,
    at: usize,
    keys: Vec<&'a str>,
}

impl<'a> Canonical<'a> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == byte;
        self.at += usize::from(taken);
        taken
    }

    fn value(&mut self, depth: usize) -> bool {
        if depth > DEPTH {
            return false;
        }
        match self.peek() {
            b'{' => self.object(depth),
            b'[' => {
                self.at += 1;
                if self.take(b']') {
                    return true;
                }
                loop {
                    if !self.value(depth + 1) {
                        return false;
                    }
                    if self.take(b']') {
                        return true;
                    }
                    if !self.take(b',') {
                        return false;
                    }
                }
            }
            b'"' => self.string().is_some(),
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["true", "false", "null"].into_iter().any(|word| {
                let found = self.text[self.at..].starts_with(word);
                self.at += if found { word.len() } else { 0 };
                found
            }),
        }
    }

    fn object(&mut self, depth: usize) -> bool {
        self.at += 1;
        if self.take(b'}') {
            return true;
        }
        let first = self.keys.len();
        loop {
            let Some(key) = self.string() else { return false };
            self.keys.push(key);
            if !self.take(b':') || !self.value(depth + 1) {
                return false;
            }
            if self.take(b'}') {
                let distinct = all_distinct(&self.keys[first..]);
                self.keys.truncate(first);
                return distinct;
            }
            if !self.take(b',') {
                return false;
            }
        }
    }

    fn string(&mut self) -> Option<&'a str> {
        if !self.take(b'"') {
            return None;
        }
        let text = self.text;
        let bytes = text.as_bytes();
        let start = self.at;
        loop {
            self.at += plain_run(&bytes[self.at..]);
            match bytes.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(&text[start..self.at - 1]);
                }
                b'\\' => match bytes.get(self.at + 1)? {
                    b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
                    b'u' => {
                        let hex = bytes.get(self.at + 2..self.at + 6)?;
                        let lower =
                            hex.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
                        let code = u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
                        if !lower || ESCAPES[usize::from(code)] != b'u' {
                            return None;
                        }
                        self.at += 6;
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> bool {
        let Some(length) = number_run(&self.text.as_bytes()[self.at..]) else { return false };
        let token = &self.text[self.at..self.at + length];
        self.at += length;
        if token.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            return token != "-0"
                && (length <= 18 || token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok());
        }
        token.parse::<f64>().is_ok_and(|number| {
            serde_json::to_string(&number).is_ok_and(|shortest| shortest == token)
        })
    }
}

fn all_distinct(keys: &[&str]) -> bool {
    if keys.len() <= 16 {
        return keys.iter().enumerate().all(|(n, key)| !keys[..n].contains(key));
    }
    let mut seen = HashSet::with_capacity(keys.len());
    keys.iter().all(|key| seen.insert(*key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reserialised(text: &str) -> bool {
        serde_json::from_str::<serde_json::Value>(text)
            .is_ok_and(|value| serde_json::to_string(&value).is_ok_and(|again| again == text))
    }

    #[test]
    fn canonical_is_what_comes_back_the_same_from_parsing_and_writing() {
        for text in [
            "{}",
            "[]",
            "null",
            "true",
            "0",
            "-1",
            "-0",
            "1.0",
            "1.50",
            "1e2",
            "1e300",
            "1E5",
            "0.1",
            "12345678901234567890",
            "-9223372036854775808",
            "123456789012345678901234567890",
            r#"{"a":1,"b":[1,2,{"c":null}]}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a": 1}"#,
            " 1",
            "1 ",
            r#""\u00e9""#,
            "\"é\"",
            r#""\u001f""#,
            r#""\u001F""#,
            r#""\/""#,
            r#""\n""#,
            r#""\u000a""#,
            "\"\u{7f}\"",
            "01",
            "-",
            "tru",
            "[1,]",
            "{\"a\"}",
            "\"",
            "\"\\",
            "1.",
            "1.5e",
            "",
            "\"\u{1}\"",
            r#""\ud83d\ude00""#,
            "-0.0",
            "1e-7",
            "0.0000001",
            "100000000000000000000.0",
        ] {
            assert_eq!(is_canonical(text), reserialised(text), "{text}");
        }
    }

    #[test]
    fn a_number_beyond_every_double_is_refused() {
        for (text, fits) in [
            ("1.7e308", true),
            ("-1.7e308", true),
            ("1e-400", true),
            ("3.4e360", false),
            ("-1E+309", false),
            (&"9".repeat(308), true),
            (&"9".repeat(400), false),
        ] {
            let mut reader = Reader::new(text);
            let read = reader.raw();
            assert_eq!(reader.finish(read).is_ok(), fits, "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn many_keys_are_compared_too() {
        let object = |keys: &[usize]| {
            let inner: Vec<String> = keys.iter().map(|k| format!("\"k{k}\":0")).collect();
            format!("{{{}}}", inner.join(","))
        };
        let mut keys: Vec<usize> = (0..100).collect();
        assert!(is_canonical(&object(&keys)));
        keys.push(50);
        assert!(!is_canonical(&object(&keys)));
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_compactly_is_canonical(value in value()) {
            let text = value.to_string();
            prop_assert_eq!(is_canonical(&text), reserialised(&text));
            prop_assert!(is_canonical(&text));
        }

        #[test]
        fn the_check_agrees_with_serde_json_on_broken_text(value in value(), cut in 0usize..200, with in any::<char>()) {
            let mut text = value.to_string();
            let at = text.floor_char_boundary(cut.min(text.len()));
            text.insert(at, with);
            prop_assert_eq!(is_canonical(&text), reserialised(&text));
            let mut reader = Reader::new(&text);
            let read = reader.raw().and_then(|_| reader.end());
            prop_assert_eq!(
                reader.finish(read).is_ok(),
                serde_json::from_str::<serde_json::Value>(&text).is_ok()
            );
        }

        #[test]
        fn strings_read_back_as_they_were(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            let line = String::from_utf8(out).unwrap();
            prop_assert_eq!(&serde_json::from_str::<String>(&line).unwrap(), &text);
            let mut reader = Reader::new(&line);
            let read = reader.string().map(Cow::into_owned);
            prop_assert_eq!(reader.finish(read).unwrap(), text);
        }
    }
}
