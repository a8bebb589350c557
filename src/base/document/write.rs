//! Types back to YAML that [`super::read_documents`] reads as the same.

use serde::Serialize;

/// `value` as one YAML document, ending in a line break.
pub fn to_yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).unwrap_or_default()
}
