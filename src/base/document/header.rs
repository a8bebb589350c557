//! `apiVersion` and `kind`: the two keys by which a document says what it is.

use super::declare::document_enum;
use super::decode::Fields;
use super::{Node, Spanned, did_you_mean, quoted};
use crate::base::diagnostic::{Code, Diagnostic, Findings};

/// The only `apiVersion` there is.
pub const API_VERSION: &str = "nexus/v1";

const HEADER: Code = Code("document/api-version");
const KIND: Code = Code("document/kind");

document_enum! {
    /// What a document describes.
    pub enum Kind {
        /// A project: where its other files are, and its defaults.
        Project = "Project",
        /// Exchanges, queues, bindings and policies.
        Topology = "Topology",
        /// A saga.
        Saga = "Saga",
        /// Verification rules.
        Rules = "Rules",
        /// Roles, policies and grants.
        Access = "Access",
        /// Message schemas and their versions.
        Schemas = "Schemas",
        /// Health checks.
        Health = "Health",
        /// Where dead letters go, by rule.
        ReplayMap = "ReplayMap",
        /// Names of groups of dead letters.
        DeadLetterLabels = "DeadLetterLabels",
    }
}

/// What a document says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its kind.
    pub kind: Spanned<Kind>,
}

/// A type that describes a whole document of one kind.
pub trait DocumentKind {
    /// The kind.
    const KIND: Kind;
}

/// Reads `apiVersion` and `kind` of a document, and leaves its other keys alone.
pub fn header(node: &Node, findings: &mut Findings) -> Option<Header> {
    let mut fields = Fields::new(node, findings)?;
    read_header(&mut fields).map(|kind| Header { kind })
}

fn read_header(fields: &mut Fields<'_, '_>) -> Option<Spanned<Kind>> {
    let version = fields.field::<Spanned<String>>("apiVersion");
    let known = version.is_some_and(|version| {
        let known = version.value == API_VERSION;
        if !known {
            let message = format!("unknown apiVersion {}", quoted(&version));
            fields.findings().push(
                Diagnostic::error(HEADER, message)
                    .at(version.span)
                    .hint(format!("this program reads `{API_VERSION}`")),
            );
        }
        known
    });
    let kind = match fields.node("kind") {
        Some(node) => match node.as_text().map(str::parse::<Kind>) {
            Some(Ok(kind)) => Some(Spanned::at(kind, node.span.clone())),
            _ => {
                let given = node.as_text().unwrap_or_default();
                let mut finding =
                    Diagnostic::error(KIND, format!("unknown kind {}", quoted(given)))
                        .at(node.span.clone());
                finding.hint = did_you_mean(given, Kind::ALL.iter().map(|kind| kind.as_str()))
                    .or_else(|| Some(format!("known kinds: {}", Kind::known())));
                fields.findings().push(finding);
                None
            }
        },
        None => fields.field("kind"),
    };
    kind.filter(|_| known)
}

/// Reads the header of a document that must be of kind `expected`.
pub(crate) fn expect_header(fields: &mut Fields<'_, '_>, expected: Kind) {
    if let Some(kind) = read_header(fields)
        && kind.value != expected
    {
        let message = format!("a document of kind {expected} is needed here, this is {kind}");
        let finding = Diagnostic::error(KIND, message).at(kind.span);
        fields.findings().push(finding);
    }
}
