//! What a file of labels says.

use crate::base::document::{Spanned, document_struct};

document_struct! {
    /// Names for groups of dead letters. The first that fits counts; one for a group by its name goes
    /// before all conditions.
    pub struct LabelsFile: DeadLetterLabels {
        /// The labels.
        pub labels: Vec<LabelSpec>,
    }
}

document_struct! {
    /// One name, for a group or for all groups that a condition is true for.
    pub struct LabelSpec {
        /// The name, in a few words.
        pub label: Spanned<String>,
        /// The group, as `dlq groups` lists it: `g-` and ten letters and digits.
        pub group: Option<Spanned<String>>,
        /// A CEL condition over `reason`, `code`, `queue`, `routingKey`, `exception`, `error` and
        /// `shape` of a group; what it has not is the empty text.
        pub when: Option<Spanned<String>>,
        /// What is known about it.
        pub note: Option<String>,
        /// Where it is written what to do.
        pub runbook: Option<String>,
        /// Whom to ask.
        pub owner: Option<String>,
    }
}
