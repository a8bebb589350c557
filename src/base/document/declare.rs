//! `document_struct!` and `document_enum!`: a type of a document, declared once.
//!
//! The `serde` and `schemars` derives would each need the same attributes a second time (the key, the
//! default, what is left out), and [`Decode`](super::Decode) a third; here one declaration yields all
//! of them, so that what editors complete, what is read and what is written cannot drift apart.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::decode::{Decode, Entries};
use super::header::{API_VERSION, Kind};
use super::{Node, Spanned};
use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey, VhostName};
use crate::base::size::ByteSize;
use crate::base::time::HumanDuration;

/// Declares a struct that is a mapping of a document.
///
/// ```ignore
/// document_struct! {
///     /// A queue.
///     pub struct QueueSpec {
///         /// Its type.
///         pub r#type: QueueType = QueueType::Classic,
///         /// How long a message lives.
///         pub message_ttl: Option<HumanDuration>,
///         /// Arguments that have no key of their own.
///         pub more as "arguments": Entries<Node>,
///     }
/// }
/// ```
///
/// - The key is the field in camel case (`messageTtl`, `type`), or what `as "…"` says.
/// - A key may be left out when the field has a default (`= …`) or its type knows what it is then
///   ([`Decode::absent`](super::Decode::absent): options, lists, free mappings). It is left out of
///   the YAML that is written when it holds just that.
/// - Doc comments become the descriptions that an editor shows.
/// - `pub struct TopologyFile: Topology { … }` is a whole document: `apiVersion` and `kind` are read,
///   checked, written and part of the schema.
///
/// Yields the struct (`Clone, Debug, PartialEq` and what an own `#[derive(…)]` after the doc comment
/// adds), [`Decode`](super::Decode), [`schemars::JsonSchema`] and [`serde::Serialize`].
macro_rules! document_struct {
    (
        $(#[doc = $doc:expr])*
        $(#[derive($($derive:path),* $(,)?)])?
        $vis:vis struct $name:ident $(: $kind:ident)? {
            $(
                $(#[doc = $field_doc:expr])*
                $field_vis:vis $field:ident $(as $key:literal)? : $type:ty $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq $($(, $derive)*)?)]
        $vis struct $name {
            $($(#[doc = $field_doc])* $field_vis $field: $type,)*
        }

        $(impl $crate::base::document::header::DocumentKind for $name {
            const KIND: $crate::base::document::Kind = $crate::base::document::Kind::$kind;
        })?

        impl $crate::base::document::Decode for $name {
            fn decode(
                node: &$crate::base::document::Node,
                findings: &mut $crate::base::diagnostic::Findings,
            ) -> Option<Self> {
                let mut fields = $crate::base::document::Fields::new(node, findings)?;
                $($crate::base::document::header::expect_header(
                    &mut fields,
                    $crate::base::document::Kind::$kind,
                );)?
                $(let $field = fields.field_or::<$type>(
                    $crate::base::document::declare::key!($field $(, $key)?),
                    || $crate::base::document::declare::default_or_absent!($type $(, $default)?),
                );)*
                fields.finish();
                Some($name { $($field: $field?,)* })
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeMap as _;
                let mut map = serializer.serialize_map(None)?;
                $(
                    map.serialize_entry(
                        "apiVersion",
                        $crate::base::document::header::API_VERSION,
                    )?;
                    map.serialize_entry("kind", &$crate::base::document::Kind::$kind)?;
                )?
                $(if !$crate::base::document::declare::is_left_out!(self.$field, $type $(, $default)?) {
                    map.serialize_entry(
                        $crate::base::document::declare::key!($field $(, $key)?),
                        &self.$field,
                    )?;
                })*
                map.end()
            }
        }

        impl ::schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_id() -> std::borrow::Cow<'static, str> {
                concat!(module_path!(), "::", stringify!($name)).into()
            }

            fn json_schema(generator: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                let mut schema = $crate::base::document::declare::StructSchema::new(
                    concat!($($doc, "\n",)* ""),
                    [$($crate::base::document::Kind::$kind)?].first().copied(),
                );
                $(schema.property::<$type>(
                    generator,
                    $crate::base::document::declare::key!($field $(, $key)?),
                    concat!($($field_doc, "\n",)* ""),
                    $crate::base::document::declare::default!($type $(, $default)?),
                );)*
                schema.finish()
            }
        }
    };
}

/// The key of a field.
macro_rules! key {
    ($field:ident) => {{
        const LEN: usize = $crate::base::document::declare::camel_len(stringify!($field));
        const BYTES: [u8; LEN] = $crate::base::document::declare::camel::<LEN>(stringify!($field));
        const KEY: &str = match std::str::from_utf8(&BYTES) {
            Ok(key) => key,
            Err(_) => panic!("field names are UTF-8"),
        };
        KEY
    }};
    ($field:ident, $key:literal) => {
        $key
    };
}

macro_rules! default {
    ($type:ty) => {
        None::<$type>
    };
    ($type:ty, $default:expr) => {
        Some::<$type>($default)
    };
}

macro_rules! default_or_absent {
    ($type:ty) => {
        <$type as $crate::base::document::Decode>::absent()
    };
    ($type:ty, $default:expr) => {
        Some::<$type>($default)
    };
}

macro_rules! is_left_out {
    ($value:expr, $type:ty) => {
        <$type as $crate::base::document::Decode>::is_absent(&$value)
    };
    ($value:expr, $type:ty, $default:expr) => {
        $value == $default
    };
}

/// Declares an enum that is one of a few words.
///
/// ```ignore
/// document_enum! {
///     /// What happens when a queue is full.
///     pub enum Overflow {
///         /// The oldest message goes.
///         DropHead,
///         /// The publisher is told.
///         RejectPublish,
///     }
/// }
/// ```
///
/// The word is the variant in kebab case (`drop-head`), or what `= "…"` says. Yields the enum with
/// `ALL`, `as_str`, `Display`, `FromStr`, [`Decode`](super::Decode), [`serde::Serialize`],
/// [`serde::Deserialize`] and [`schemars::JsonSchema`].
macro_rules! document_enum {
    (
        $(#[doc = $doc:expr])*
        $(#[derive($($derive:path),* $(,)?)])?
        $vis:vis enum $name:ident {
            $(
                $(#[doc = $variant_doc:expr])*
                $variant:ident $(= $word:literal)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash $($(, $derive)*)?)]
        $vis enum $name {
            $($(#[doc = $variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of their declaration.
            $vis const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word for it.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => {
                        $crate::base::document::declare::word!($variant $(, $word)?)
                    })*
                }
            }

            /// All words, for a message.
            fn known() -> String {
                Self::ALL.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ")
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or_else(|| {
                    format!(
                        "{} is none of {}",
                        $crate::base::document::quoted(text),
                        Self::known()
                    )
                })
            }
        }

        impl $crate::base::document::Decode for $name {
            fn decode(
                node: &$crate::base::document::Node,
                findings: &mut $crate::base::diagnostic::Findings,
            ) -> Option<Self> {
                $crate::base::document::decode::decode_word(
                    node,
                    findings,
                    Self::ALL,
                    $name::as_str,
                )
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as ::serde::Deserialize>::deserialize(deserializer)?
                    .parse()
                    .map_err(::serde::de::Error::custom)
            }
        }

        impl ::schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_id() -> std::borrow::Cow<'static, str> {
                concat!(module_path!(), "::", stringify!($name)).into()
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                $crate::base::document::declare::enum_schema(
                    concat!($($doc, "\n",)* ""),
                    &[$((
                        $name::$variant.as_str(),
                        concat!($($variant_doc, "\n",)* ""),
                    )),*],
                )
            }
        }
    };
}

/// The word for a variant.
macro_rules! word {
    ($variant:ident) => {{
        const LEN: usize = $crate::base::document::declare::kebab_len(stringify!($variant));
        const BYTES: [u8; LEN] =
            $crate::base::document::declare::kebab::<LEN>(stringify!($variant));
        const WORD: &str = match std::str::from_utf8(&BYTES) {
            Ok(word) => word,
            Err(_) => panic!("variant names are UTF-8"),
        };
        WORD
    }};
    ($variant:ident, $word:literal) => {
        $word
    };
}

pub(crate) use {
    default, default_or_absent, document_enum, document_struct, is_left_out, key, word,
};

/// Where a field's own letters begin: after `r#`.
const fn name_start(name: &[u8]) -> usize {
    if name.len() > 2 && name[0] == b'r' && name[1] == b'#' { 2 } else { 0 }
}

/// The length of [`camel`].
pub(crate) const fn camel_len(field: &str) -> usize {
    let name = field.as_bytes();
    let mut i = name_start(name);
    let mut len = 0;
    while i < name.len() {
        if name[i] != b'_' {
            len += 1;
        }
        i += 1;
    }
    len
}

/// `message_ttl` as `messageTtl`, `r#type` as `type`.
pub(crate) const fn camel<const LEN: usize>(field: &str) -> [u8; LEN] {
    let name = field.as_bytes();
    let mut bytes = [0; LEN];
    let mut i = name_start(name);
    let mut len = 0;
    let mut upper = false;
    while i < name.len() {
        if name[i] == b'_' {
            upper = true;
        } else {
            bytes[len] = if upper { name[i].to_ascii_uppercase() } else { name[i] };
            len += 1;
            upper = false;
        }
        i += 1;
    }
    bytes
}

/// The length of [`kebab`].
pub(crate) const fn kebab_len(variant: &str) -> usize {
    let name = variant.as_bytes();
    let mut i = 0;
    let mut len = name.len();
    while i < name.len() {
        if i > 0 && name[i].is_ascii_uppercase() {
            len += 1;
        }
        i += 1;
    }
    len
}

/// `DropHead` as `drop-head`.
pub(crate) const fn kebab<const LEN: usize>(variant: &str) -> [u8; LEN] {
    let name = variant.as_bytes();
    let mut bytes = [0; LEN];
    let mut i = 0;
    let mut len = 0;
    while i < name.len() {
        if i > 0 && name[i].is_ascii_uppercase() {
            bytes[len] = b'-';
            len += 1;
        }
        bytes[len] = name[i].to_ascii_lowercase();
        len += 1;
        i += 1;
    }
    bytes
}

/// A doc comment as a description: its lines without the space that `///` leaves before them.
fn description(doc: &str) -> Option<String> {
    let lines: Vec<&str> =
        doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    let text = lines.join("\n").trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn describe(schema: &mut Schema, doc: &str) {
    if let Some(text) = description(doc) {
        schema.insert("description".to_owned(), text.into());
    }
}

/// Collects the JSON Schema of a `document_struct!`.
pub(crate) struct StructSchema {
    doc: &'static str,
    properties: Map<String, Json>,
    required: Vec<Json>,
}

impl StructSchema {
    pub(crate) fn new(doc: &'static str, kind: Option<Kind>) -> Self {
        let mut schema = StructSchema { doc, properties: Map::new(), required: Vec::new() };
        if let Some(kind) = kind {
            for (key, value) in [("apiVersion", API_VERSION), ("kind", kind.as_str())] {
                schema.properties.insert(key.to_owned(), serde_json::json!({ "const": value }));
                schema.required.push(key.into());
            }
        }
        schema
    }

    pub(crate) fn property<T: Decode + JsonSchema + Serialize>(
        &mut self,
        generator: &mut SchemaGenerator,
        key: &'static str,
        doc: &str,
        default: Option<T>,
    ) {
        let mut schema = generator.subschema_for::<T>();
        describe(&mut schema, doc);
        match default {
            Some(default) => {
                if let Ok(default) = serde_json::to_value(default) {
                    schema.insert("default".to_owned(), default);
                }
            }
            None if T::absent().is_none() => self.required.push(key.into()),
            None => {}
        }
        self.properties.insert(key.to_owned(), schema.to_value());
    }

    pub(crate) fn finish(self) -> Schema {
        let mut schema = json_schema!({
            "type": "object",
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), Json::Array(self.required));
        }
        describe(&mut schema, self.doc);
        schema
    }
}

/// The JSON Schema of a `document_enum!`.
pub(crate) fn enum_schema(doc: &str, words: &[(&str, &str)]) -> Schema {
    let words: Vec<Json> = words
        .iter()
        .map(|(word, doc)| {
            let mut schema = json_schema!({ "const": word });
            describe(&mut schema, doc);
            schema.to_value()
        })
        .collect();
    let mut schema = json_schema!({ "type": "string", "oneOf": words });
    describe(&mut schema, doc);
    schema
}

/// A [`Spanned`] is what it holds.
impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("EntriesOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}

impl JsonSchema for Node {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Anything".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

/// Types of `base` that are text to an editor.
macro_rules! text_schemas {
    ($($type:ident { $($rule:tt)* })*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ $($rule)* })
            }
        }
    )*};
}

text_schemas! {
    ExchangeName { "type": "string", "maxLength": 255 }
    QueueName { "type": "string", "minLength": 1, "maxLength": 255 }
    RoutingKey { "type": "string", "maxLength": 255 }
    VhostName { "type": "string", "minLength": 1, "maxLength": 255 }
    PolicyName { "type": "string", "minLength": 1, "maxLength": 255 }
    HumanDuration {
        "anyOf": [
            { "type": "string", "pattern": r"^(0|([0-9]+(\.[0-9]+)?(d|h|ms|m|s))+)$" },
            { "const": 0 },
        ],
        "examples": ["250ms", "10s", "1m30s", "2h", "7d"],
    }
    ByteSize {
        "anyOf": [
            { "type": "string", "pattern": "^[0-9]+([KMGTkmgt]?[Ii]?[Bb])?$" },
            { "type": "integer", "minimum": 0 },
        ],
        "examples": ["64KiB", "10MiB", "2GB"],
    }
}
