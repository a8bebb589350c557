//! What `nexus.yaml` says.

use crate::base::document::{Spanned, document_struct};
use crate::base::id::VhostName;
use crate::base::time::HumanDuration;

document_struct! {
    /// A project: its name, where its files are, and defaults for who works in it.
    pub struct ProjectFile: Project {
        /// What the project is called; also who owns the objects that its topology declares.
        pub name: Spanned<String>,
        /// The topology files, in the order they are read. Without this key: `topology.yaml`.
        pub topology: Option<Vec<Spanned<String>>>,
        /// The broker, when neither flag nor environment nor context names one. Without it: the
        /// embedded broker on `.nexus/state.db`.
        pub broker: Option<Spanned<String>>,
        /// The context to use in this project unless flag or environment name one.
        pub context: Option<Spanned<String>>,
        /// The virtual host.
        pub vhost: Option<VhostName>,
        /// The longest wait for any answer.
        pub timeout: Option<HumanDuration>,
        /// The state file, as seen from the project directory.
        pub state: Option<String>,
    }
}

/// The file that makes a directory a project.
pub const PROJECT_FILE: &str = "nexus.yaml";

/// The topology file of a project that names none.
pub const TOPOLOGY_FILE: &str = "topology.yaml";

/// The state file of a project that names none.
pub const STATE_FILE: &str = ".nexus/state.db";
