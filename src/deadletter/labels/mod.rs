//! What groups of dead letters are called, as people have learned it: the next incident shows the name.
//!
//! [`spec`] is what the file says, [`model`] the labels that it gives, [`learn`] adds one to the text of
//! a file and leaves the rest of it as it is.

pub mod learn;
pub mod model;
pub mod spec;

pub use model::{Label, Labels};
pub use spec::{LabelSpec, LabelsFile};

use crate::base::diagnostic::{Code, Diagnostic, Findings};
use crate::base::document::Node;

/// A file of labels is one document.
pub const NOT_ONE: Code = Code("labels/not-one-document");

fn not_one(name: &str, documents: &[Node]) -> Findings {
    let message = format!("{name} must be one document, it has {}", documents.len());
    let finding = Diagnostic::error(NOT_ONE, message);
    Findings(vec![finding.at(documents.get(1).map(|node| node.span.clone()))])
}
