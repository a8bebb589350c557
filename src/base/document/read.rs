//! Text to [`Node`]s, within [`Limits`].
//!
//! Built on the events of `granit-parser`, because they carry the place of every key and value, which
//! a serde data model loses inside untagged enums, and because anchors then are ours to bound.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use super::{Node, Spanned, Value, quoted};
use crate::base::diagnostic::{Code, Diagnostic, Findings, Source, Span};
use crate::base::size::ByteSize;

/// How much a file may ask of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the file.
    pub bytes: usize,
    /// Nesting of lists and mappings, aliases counted as what they stand for.
    pub depth: usize,
    /// What the tree may weigh: 64 for each value, plus the bytes of its text, with every alias counted
    /// as what it stands for.
    pub weight: usize,
    /// After how many findings reading stops.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 8 << 20, depth: 64, weight: 64 << 20, findings: 100 }
    }
}

const SYNTAX: Code = Code("document/syntax");
const TOO_LARGE: Code = Code("document/too-large");
const TOO_DEEP: Code = Code("document/too-deep");
const ENCODING: Code = Code("document/encoding");
const CHARACTER: Code = Code("document/character");
const DUPLICATE_KEY: Code = Code("document/duplicate-key");
const INVALID_KEY: Code = Code("document/invalid-key");
const MERGE_KEY: Code = Code("document/merge-key");
const UNKNOWN_ALIAS: Code = Code("document/unknown-alias");
const TAG: Code = Code("document/tag");
const NUMBER: Code = Code("document/number");

fn failed(diagnostic: Diagnostic) -> Findings {
    Findings(vec![diagnostic])
}

/// The text of a file from its bytes: UTF-8, with or without a byte order mark, of a bearable size.
pub fn source_from_bytes(name: &str, bytes: &[u8]) -> Result<Arc<Source>, Findings> {
    source_from_bytes_within(name, bytes, &Limits::default())
}

/// [`source_from_bytes`] with another limit of its size.
pub fn source_from_bytes_within(
    name: &str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Arc<Source>, Findings> {
    check_size(name, bytes.len(), limits)?;
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err(failed(
                Diagnostic::error(ENCODING, format!("{name} is UTF-16"))
                    .hint("save the file as UTF-8"),
            ));
        }
        _ => {}
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(name, text)),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let valid = String::from_utf8_lossy(before);
            let source = Source::new(name, String::from_utf8_lossy(bytes));
            let span = place_after(&valid, source);
            let byte = bytes.get(error.valid_up_to()).copied().unwrap_or(0);
            Err(failed(
                Diagnostic::error(ENCODING, format!("{name} is not UTF-8: byte 0x{byte:02x}"))
                    .at(span)
                    .hint("save the file as UTF-8"),
            ))
        }
    }
}

fn check_size(name: &str, bytes: usize, limits: &Limits) -> Result<(), Findings> {
    if bytes <= limits.bytes {
        return Ok(());
    }
    let limit = ByteSize(limits.bytes as u64);
    Err(failed(Diagnostic::error(
        TOO_LARGE,
        format!("{name} is {bytes} bytes long; {limit} is the limit"),
    )))
}

/// The place right after `before`, the beginning of `source`'s text.
fn place_after(before: &str, source: Arc<Source>) -> Span {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Span { source, line: to_u32(line), column: to_u32(column), width: 1 }
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The documents of a YAML or JSON text, separated by `---`; empty ones are left out.
///
/// All findings up to the first place where the text stops being YAML.
pub fn read_documents(source: &Arc<Source>) -> Result<Vec<Node>, Findings> {
    read_documents_within(source, &Limits::default())
}

/// [`read_documents`] with other limits.
pub fn read_documents_within(source: &Arc<Source>, limits: &Limits) -> Result<Vec<Node>, Findings> {
    check_size(&source.name, source.text.len(), limits)?;
    check_characters(source)?;
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let mut reader = Reader {
        source,
        limits,
        findings: Findings::default(),
        frames: Vec::new(),
        anchors: HashMap::new(),
        weight: 0,
        documents: Vec::new(),
    };
    // The lookahead bounds the length of a key. YAML's own 1024 is too little for some JSON.
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        simple_key_max_lookahead: 64 << 10,
    };
    for step in Parser::new_from_str_with_options(text, options) {
        let go_on = match step {
            Ok((event, span)) => reader.event(event, &span),
            Err(error) => {
                reader.syntax_error(&error);
                Err(Stop)
            }
        };
        if go_on.is_err() {
            break;
        }
    }
    if reader.findings.is_empty() { Ok(reader.documents) } else { Err(reader.findings) }
}

/// YAML allows no control characters but tab and line breaks. A lone carriage return is a line break
/// to YAML and to nobody else, so that lines would be counted wrongly.
fn check_characters(source: &Arc<Source>) -> Result<(), Findings> {
    let text = source.text.as_str();
    for (offset, c) in text.char_indices() {
        let next_is_line_feed = || text[offset + 1..].starts_with('\n');
        let (message, hint) = match c {
            '\t' | '\n' | '\u{85}' => continue,
            '\r' if next_is_line_feed() => continue,
            '\r' => {
                ("a carriage return without a line feed".to_owned(), "end lines with LF or CR LF")
            }
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => (
                format!("the character U+{:04X} may not stand in a file", u32::from(c)),
                "between double quotes it can be written as an escape such as \\x1b",
            ),
            _ => continue,
        };
        let span = place_after(&text[..offset], Arc::clone(source));
        return Err(failed(Diagnostic::error(CHARACTER, message).at(span).hint(hint)));
    }
    Ok(())
}

/// Reading cannot go on; the reason is among the findings.
#[derive(Debug)]
struct Stop;

/// A list or mapping that has begun and not ended.
struct Frame {
    span: Span,
    anchor: usize,
    collection: Collection,
}

enum Collection {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<(Spanned<String>, Node)>,
        /// Where each key stands in `entries`.
        index: HashMap<String, usize>,
        key: Key,
    },
}

/// What a mapping waits for.
enum Key {
    /// Its next key.
    Awaited,
    /// The value of this key.
    Read(Spanned<String>),
    /// The value of a key that was refused.
    Refused,
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    limits: &'a Limits,
    findings: Findings,
    frames: Vec<Frame>,
    /// Values with an anchor, by its number, with what each weighs and how deep it is.
    anchors: HashMap<usize, (Node, usize, usize)>,
    weight: usize,
    documents: Vec<Node>,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, place: &granit_parser::Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, anchor, tag.as_deref(), place)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                let collection = Collection::Sequence(Vec::new());
                self.begin(collection, anchor, tag.as_deref(), place)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let collection = Collection::Mapping {
                    entries: Vec::new(),
                    index: HashMap::new(),
                    key: Key::Awaited,
                };
                self.begin(collection, anchor, tag.as_deref(), place)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(anchor) => self.alias(anchor, place)?,
            Event::UnresolvedAlias(name) => {
                let span = self.span(place);
                let message = format!("no anchor {} stands before this alias", quoted(&name));
                let hint = "in quotes it is text";
                self.report(Diagnostic::error(UNKNOWN_ALIAS, message).at(span.clone()).hint(hint))?;
                self.deliver_nothing(span)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        place: &granit_parser::Span,
    ) -> Result<(), Stop> {
        let span = self.span(place);
        self.charge(text.len(), &span)?;
        let plain = style == ScalarStyle::Plain;
        if let Some(Frame {
            collection: Collection::Mapping { key: key @ Key::Awaited, index, .. },
            ..
        }) = self.frames.last_mut()
        {
            let refused = match index.get(text.as_ref()) {
                _ if plain && text == "<<" => Diagnostic::error(
                    MERGE_KEY,
                    "merge keys (`<<`) are not part of YAML 1.2 and are not supported",
                )
                .hint("write the keys out, or use an alias for a whole value"),
                _ if plain && matches!(text.as_ref(), "" | "~") => {
                    Diagnostic::error(INVALID_KEY, "a key is missing before the colon")
                }
                Some(&first) => {
                    let first = self.first_place(first);
                    Diagnostic::error(
                        DUPLICATE_KEY,
                        format!("the key {} is here twice", quoted(&text)),
                    )
                    .hint(format!("the first one is at {first}"))
                }
                None => {
                    *key = Key::Read(Spanned::at(text.into_owned(), span));
                    return Ok(());
                }
            };
            self.refuse_key();
            return self.report(refused.at(span));
        }
        let value = match tag.map(Tag::core_suffix) {
            None if plain => resolve(text),
            Some(Some("str")) | None => Ok(Value::Text(text.into_owned())),
            Some(Some(suffix @ ("null" | "bool" | "int" | "float"))) => {
                let written = quoted(&text);
                match (suffix, resolve(text)) {
                    ("null", Ok(value @ Value::Null))
                    | ("bool", Ok(value @ Value::Bool(_)))
                    | ("int", Ok(value @ (Value::Int(_) | Value::UInt(_))))
                    | ("float", Ok(value @ (Value::Int(_) | Value::UInt(_) | Value::Float(_)))) => {
                        Ok(value)
                    }
                    (_, Err(error)) => Err(error),
                    _ => Err(Diagnostic::error(TAG, format!("{written} is no `!!{suffix}`"))),
                }
            }
            Some(_) => Err(unknown_tag(tag)),
        };
        let value = match value {
            Ok(value) => value,
            Err(diagnostic) => {
                self.report(diagnostic.at(span.clone()))?;
                Value::Null
            }
        };
        self.deliver(Node { span, value }, anchor)
    }

    fn begin(
        &mut self,
        collection: Collection,
        anchor: usize,
        tag: Option<&Tag>,
        place: &granit_parser::Span,
    ) -> Result<(), Stop> {
        let mut span = self.span(place);
        span.width = 1;
        self.charge(0, &span)?;
        self.check_depth(self.frames.len() + 1, &span)?;
        let fits = matches!(
            (&collection, tag.map(Tag::core_suffix)),
            (_, None)
                | (Collection::Sequence(_), Some(Some("seq")))
                | (Collection::Mapping { .. }, Some(Some("map")))
        );
        if !fits {
            self.report(unknown_tag(tag).at(span.clone()))?;
        }
        self.frames.push(Frame { span, anchor, collection });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let value = match frame.collection {
            Collection::Sequence(items) => Value::Sequence(items),
            Collection::Mapping { entries, .. } => Value::Mapping(entries),
        };
        self.deliver(Node { span: frame.span, value }, frame.anchor)
    }

    fn alias(&mut self, anchor: usize, place: &granit_parser::Span) -> Result<(), Stop> {
        let span = self.span(place);
        let Some((_, weight, depth)) = self.anchors.get(&anchor) else {
            let message = "this alias stands for a value that it is part of";
            self.report(Diagnostic::error(UNKNOWN_ALIAS, message).at(span.clone()))?;
            return self.deliver_nothing(span);
        };
        let (weight, depth) = (*weight, *depth);
        self.charge(weight, &span)?;
        self.check_depth(self.frames.len() + depth, &span)?;
        match self.anchors.get(&anchor).map(|(node, ..)| node.clone()) {
            Some(node) => self.deliver(node, 0),
            None => Ok(()),
        }
    }

    /// Hands a finished value to the list, the mapping or the document that it belongs to.
    fn deliver(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            let (weight, depth) = measure(&node);
            self.charge(weight, &node.span)?;
            self.anchors.insert(anchor, (node.clone(), weight, depth));
        }
        let Some(frame) = self.frames.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut frame.collection {
            Collection::Sequence(items) => items.push(node),
            Collection::Mapping { entries, index, key } => {
                match std::mem::replace(key, Key::Awaited) {
                    Key::Read(name) => {
                        index.insert(name.value.clone(), entries.len());
                        entries.push((name, node));
                    }
                    Key::Refused => {}
                    Key::Awaited => {
                        *key = Key::Refused;
                        let message =
                            format!("a key must be text, and this is {}", node.kind_name());
                        let hint = "a text that begins with `{`, `[` or `*` needs quotes";
                        self.report(
                            Diagnostic::error(INVALID_KEY, message).at(node.span).hint(hint),
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Stands in for a value that was refused.
    fn deliver_nothing(&mut self, span: Span) -> Result<(), Stop> {
        if self.refuse_key() { Ok(()) } else { self.deliver(Node { span, value: Value::Null }, 0) }
    }

    /// When a key is awaited, goes on without it.
    fn refuse_key(&mut self) -> bool {
        match self.frames.last_mut().map(|frame| &mut frame.collection) {
            Some(Collection::Mapping { key: key @ Key::Awaited, .. }) => {
                *key = Key::Refused;
                true
            }
            _ => false,
        }
    }

    /// Where the `n`th key of the innermost mapping was written.
    fn first_place(&self, n: usize) -> String {
        match self.frames.last().map(|frame| &frame.collection) {
            Some(Collection::Mapping { entries, .. }) => {
                entries.get(n).and_then(|(key, _)| key.span.as_ref()).map(ToString::to_string)
            }
            _ => None,
        }
        .unwrap_or_default()
    }

    /// Counts one more value with `bytes` of text.
    fn charge(&mut self, bytes: usize, span: &Span) -> Result<(), Stop> {
        self.weight = self.weight.saturating_add(VALUE_WEIGHT).saturating_add(bytes);
        if self.weight <= self.limits.weight {
            return Ok(());
        }
        let limit = ByteSize(self.limits.weight as u64);
        self.fatal(
            Diagnostic::error(TOO_LARGE, format!("the document grows beyond {limit} here"))
                .at(span.clone())
                .hint(
                    "each value counts 64 bytes and its text, each alias what it stands for; \
                     split the document",
                ),
        )
    }

    fn check_depth(&mut self, depth: usize, span: &Span) -> Result<(), Stop> {
        if depth <= self.limits.depth {
            return Ok(());
        }
        self.fatal(self.too_deep().at(span.clone()))
    }

    fn too_deep(&self) -> Diagnostic {
        let message = format!("nested deeper than {} levels", self.limits.depth);
        Diagnostic::error(TOO_DEEP, message)
    }

    fn report(&mut self, diagnostic: Diagnostic) -> Result<(), Stop> {
        self.findings.push(diagnostic);
        if self.findings.0.len() < self.limits.findings { Ok(()) } else { Err(Stop) }
    }

    fn fatal(&mut self, diagnostic: Diagnostic) -> Result<(), Stop> {
        self.findings.push(diagnostic);
        Err(Stop)
    }

    fn syntax_error(&mut self, error: &ScanError) {
        let marker = error.marker();
        let span = Span {
            source: Arc::clone(self.source),
            line: to_u32(marker.line().max(1)),
            column: to_u32(marker.col() + 1),
            width: 1,
        };
        let hint = match error.kind() {
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart => Some("indent with spaces"),
            ErrorKind::UnexpectedCharacter { .. } => {
                Some("a text that begins with a sign such as `@`, `%` or a backquote needs quotes")
            }
            ErrorKind::SimpleKeyExpected
            | ErrorKind::InvalidSimpleKey
            | ErrorKind::MappingValueNotAllowed => Some(
                "a text with `: ` in it needs quotes; a key is followed by a colon and a space",
            ),
            _ => None,
        };
        let mut diagnostic = match error.kind() {
            ErrorKind::RecursionLimitExceeded => self.too_deep(),
            _ => Diagnostic::error(SYNTAX, format!("this is no YAML: {}", error.info())),
        };
        diagnostic.span = Some(span);
        diagnostic.hint = hint.map(str::to_owned);
        self.findings.push(diagnostic);
    }

    fn span(&self, place: &granit_parser::Span) -> Span {
        let width = if place.start.line() == place.end.line() { place.len().max(1) } else { 1 };
        Span {
            source: Arc::clone(self.source),
            line: to_u32(place.start.line().max(1)),
            column: to_u32(place.start.col() + 1),
            width: to_u32(width),
        }
    }
}

const VALUE_WEIGHT: usize = 64;

fn unknown_tag(tag: Option<&Tag>) -> Diagnostic {
    let name = tag.map(Tag::original).unwrap_or_default();
    Diagnostic::error(TAG, format!("the tag {} means nothing here", quoted(&name)))
        .hint("leave it out; a text that begins with `!` needs quotes")
}

/// What `node` weighs and how deep it is.
fn measure(node: &Node) -> (usize, usize) {
    let add = |(weight, depth): (usize, usize), inner: &Node| {
        let (w, d) = measure(inner);
        (weight + w, depth.max(d))
    };
    match &node.value {
        Value::Text(text) => (VALUE_WEIGHT + text.len(), 0),
        Value::Sequence(items) => {
            let (weight, depth) = items.iter().fold((VALUE_WEIGHT, 0), add);
            (weight, depth + 1)
        }
        Value::Mapping(entries) => {
            let (weight, depth) = entries.iter().fold((VALUE_WEIGHT, 0), |sum, (key, value)| {
                add((sum.0 + VALUE_WEIGHT + key.value.len(), sum.1), value)
            });
            (weight, depth + 1)
        }
        _ => (VALUE_WEIGHT, 0),
    }
}

/// What a text without quotes means: YAML 1.2's core schema, except that numbers with a leading zero
/// stay text and that numbers we cannot hold are refused.
fn resolve(text: Cow<'_, str>) -> Result<Value, Diagnostic> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let too_large = || {
        Diagnostic::error(NUMBER, format!("{} is too large a number", quoted(&text)))
            .hint("if it is text, put it in quotes")
    };
    match unsigned {
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN" => {
            return Err(Diagnostic::error(NUMBER, format!("{text} is no finite number"))
                .hint("if it is text, put it in quotes"));
        }
        _ => {}
    }
    // Signs before 0x and 0o are not in the core schema: those stay text.
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            let number = u64::from_str_radix(digits, radix).map_err(|_| too_large())?;
            return Ok(whole(number));
        }
    }
    match shape(unsigned) {
        Shape::Text => Ok(Value::Text(text.into_owned())),
        Shape::Whole => {
            if let Ok(number) = text.parse::<i64>() {
                return Ok(Value::Int(number));
            }
            text.parse::<u64>().map(Value::UInt).map_err(|_| too_large())
        }
        Shape::Fraction => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err(too_large()),
        },
    }
}

fn whole(number: u64) -> Value {
    i64::try_from(number).map_or(Value::UInt(number), Value::Int)
}

#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Text,
    Whole,
    Fraction,
}

/// Whether `text`, its sign taken off, reads as a decimal number: `12`, `1.5`, `.5`, `1.`, `1e9`.
fn shape(text: &str) -> Shape {
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).count();
    let whole = digits(text);
    if whole > 1 && text.starts_with('0') {
        return Shape::Text;
    }
    let rest = &text[whole..];
    if rest.is_empty() {
        return if whole > 0 { Shape::Whole } else { Shape::Text };
    }
    let (rest, fraction) = match rest.strip_prefix('.') {
        Some(rest) => {
            let fraction = digits(rest);
            (&rest[fraction..], fraction)
        }
        None => (rest, 0),
    };
    if whole + fraction == 0 {
        return Shape::Text;
    }
    if rest.is_empty() {
        return Shape::Fraction;
    }
    match rest.strip_prefix(['e', 'E']) {
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if !exponent.is_empty() && digits(exponent) == exponent.len() {
                Shape::Fraction
            } else {
                Shape::Text
            }
        }
        None => Shape::Text,
    }
}
