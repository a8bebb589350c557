//! What makes an answer an error answer: the header `x-nexus-error` with a short reason. The header
//! `x-nexus-error-code` may name the error, as a text or a number. The body is free.
//!
//! Who answers writes it with [`mark_error`], who asks reads it with [`error_of`].

use super::properties::Properties;
use super::value::FieldValue;

/// The header with the reason. Its presence makes an answer an error answer.
pub const ERROR_HEADER: &str = "x-nexus-error";
/// The header with the name or number of the error.
pub const ERROR_CODE_HEADER: &str = "x-nexus-error-code";

/// What an error answer says beside its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// Why, in a few words; may be empty.
    pub reason: String,
    /// Which error.
    pub code: Option<String>,
}

impl std::fmt::Display for ErrorAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reason = if self.reason.is_empty() { "no reason given" } else { &self.reason };
        match &self.code {
            Some(code) => write!(f, "{reason} ({code})"),
            None => f.write_str(reason),
        }
    }
}

/// Makes an answer with these properties an error answer.
pub fn mark_error(properties: &mut Properties, error: &ErrorAnswer) {
    let headers = properties.headers_mut();
    headers.insert(ERROR_HEADER, error.reason.as_str());
    if let Some(code) = &error.code {
        headers.insert(ERROR_CODE_HEADER, code.as_str());
    }
}

/// What an error answer says; `None` when the answer is none. `x-nexus-error: false` and a header
/// without a value do not make one.
pub fn error_of(properties: &Properties) -> Option<ErrorAnswer> {
    let reason = match properties.header(ERROR_HEADER)? {
        FieldValue::Void | FieldValue::Bool(false) => return None,
        FieldValue::Bool(true) => String::new(),
        value => words(value).unwrap_or_default(),
    };
    let code = properties.header(ERROR_CODE_HEADER).and_then(words);
    Some(ErrorAnswer { reason, code })
}

fn words(value: &FieldValue) -> Option<String> {
    value.as_text().map(str::to_owned).or_else(|| Some(value.as_i64()?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::value::FieldTable;
    use super::*;

    #[test]
    fn what_is_marked_is_read_back_and_other_clients_are_understood() {
        for error in [
            ErrorAnswer { reason: "disk full".into(), code: None },
            ErrorAnswer { reason: String::new(), code: Some("E42".into()) },
        ] {
            let mut properties = Properties::default();
            mark_error(&mut properties, &error);
            assert_eq!(error_of(&properties), Some(error));
        }
        let with = |value: FieldValue| Properties {
            headers: Some(FieldTable::new().with(ERROR_HEADER, value).with(ERROR_CODE_HEADER, 503)),
            ..Properties::default()
        };
        let words = |value| error_of(&with(value)).map(|error| error.to_string());
        assert_eq!(words("busy".into()).as_deref(), Some("busy (503)"));
        assert_eq!(words(FieldValue::Int32(7)).as_deref(), Some("7 (503)"));
        assert_eq!(words(true.into()).as_deref(), Some("no reason given (503)"));
        assert_eq!(words(false.into()), None);
        assert_eq!(words(FieldValue::Void), None);
        assert_eq!(error_of(&Properties::default()), None);
    }
}
