//! Types back to YAML that [`super::read_documents`] reads as the same.

use serde::Serialize;

/// `value` as one YAML document, ending in a line break. Text that would read as something else is
/// quoted; text of several lines becomes a literal block; long lines are never folded.
///
/// # Panics
///
/// When `value` has no YAML form: its `Serialize` fails, or a key of it is no text. Types made with
/// `document_struct!` always have one.
pub fn to_yaml(value: &impl Serialize) -> String {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let mut yaml = String::new();
    match serde_saphyr::to_fmt_writer_with_options(&mut yaml, value, options) {
        Ok(()) => yaml,
        Err(error) => panic!("a value that is written as YAML must have a YAML form: {error}"),
    }
}
