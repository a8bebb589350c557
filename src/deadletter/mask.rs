//! Secrets in headers and bodies, masked before a person sees them. Pure.
//!
//! By name first (`password`, `apiKey`, `authorization` and the like), then by look: bearer tokens,
//! passwords in URLs, JSON web tokens, keys in PEM. Masking errs on the side of showing less.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What stands where a secret was.
pub const MASK: &str = "***";

const NAMES: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "cookie",
    "credential",
    "sessionid",
    "signature",
    "clientkey",
];

/// Whether a value of this name is a secret.
pub fn is_secret_name(name: &str) -> bool {
    let bare: String =
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    NAMES.iter().any(|secret| bare.contains(secret)) || bare == "auth" || bare == "pwd"
}

static LOOKS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", "$1 ***"),
        (r"\b([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@", "$1:***@"),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", "***"),
        (r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", "***"),
        (
            r#"(?i)\b(password|passwd|secret|token|api[_-]?key)(["']?\s*[=:]\s*["']?)[^\s"'&,;}]+"#,
            "$1$2***",
        ),
    ]
    .into_iter()
    .filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, with)))
    .collect()
});

/// The text with what looks like a secret masked.
pub fn mask_text(text: &str) -> String {
    let mut text = text.to_owned();
    for (look, with) in LOOKS.iter() {
        if look.is_match(&text) {
            text = look.replace_all(&text, *with).into_owned();
        }
    }
    text
}

/// Masks secrets in a value, in place.
pub fn mask(value: &mut Value) {
    match value {
        Value::String(text) => *text = mask_text(text),
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::Object(fields) => {
            for (name, field) in fields {
                if is_secret_name(name) && !field.is_null() {
                    *field = MASK.into();
                } else {
                    mask(field);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_masked_by_name_and_by_look() {
        let mut value = json!({
            "user": "ada", "Password": "p", "x-api-key": "k", "nested": [{"access_token": {"a": 1}}],
            "say": "Authorization: Bearer abcdefgh123, amqp://ada:pw@host/v and token=abc",
            "secret": null, "tokens": 5,
        });
        mask(&mut value);
        assert_eq!(
            value,
            json!({
                "user": "ada", "Password": "***", "x-api-key": "***",
                "nested": [{"access_token": "***"}],
                "say": "Authorization: Bearer ***, amqp://ada:***@host/v and token=***",
                "secret": null, "tokens": "***",
            })
        );
        assert_eq!(LOOKS.len(), 5);
        assert_eq!(mask_text("a plain text: with 5 words"), "a plain text: with 5 words");
    }
}
