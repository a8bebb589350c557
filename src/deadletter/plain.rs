//! A letter as a person reads it: its properties and its body as values, masked unless they ask
//! otherwise. Pure.

use serde_json::{Value, json};

use crate::message::record::properties_json;

use super::body::{Content, Decoded, decode, hex};
use super::mask::{mask, mask_text};
use super::store::StoredLetter;

/// Bytes of a body that are shown as hexadecimal.
const HEX_SHOWN: usize = 1024;

/// The properties of a letter, masked unless asked otherwise.
pub fn properties_of(letter: &StoredLetter, unmask: bool) -> Value {
    let mut properties = properties_json(&letter.delivery.message.properties);
    if !unmask {
        mask(&mut properties);
    }
    properties
}

/// The body as far as it was kept. One that was cut cannot be unpacked.
pub fn body_of(letter: &StoredLetter) -> Decoded {
    let message = &letter.delivery.message;
    let encoding = message.properties.content_encoding.as_deref();
    let mut decoded = decode(&message.body, encoding.filter(|_| letter.is_whole()));
    if !letter.is_whole() {
        let kept = message.body.len();
        let bytes = if kept == 1 { "byte" } else { "bytes" };
        decoded.trouble =
            Some(format!("only the first {kept} {bytes} of {} were kept", letter.size));
    }
    decoded
}

/// A letter's body as a value, and what it is shown as: `json`, `text` or `hex`.
pub fn body_value(content: Content, unmask: bool) -> (&'static str, Value) {
    let hide = |text: String| if unmask { text } else { mask_text(&text) };
    match content {
        Content::Json(mut value) => {
            if !unmask {
                mask(&mut value);
            }
            ("json", value)
        }
        Content::Text(text) => ("text", hide(text).into()),
        Content::Bytes(bytes) => ("hex", hex(&bytes, HEX_SHOWN).into()),
    }
}

/// All of a letter as one value, to be compared with another.
pub fn whole(letter: &StoredLetter, unmask: bool) -> Value {
    let (body_as, body) = body_value(body_of(letter).content, unmask);
    json!({
        "exchange": letter.delivery.exchange.as_str(),
        "routingKey": letter.delivery.routing_key.as_str(),
        "properties": properties_of(letter, unmask),
        "size": letter.size,
        "bodyAs": body_as,
        "body": body,
    })
}
