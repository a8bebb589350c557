//! A whole project directory: `init`, `check`, `quickstart`.
//!
//! A project is a directory with a `nexus.yaml`. This room finds and reads its files and runs the
//! work that spans them; it does not know who asked or how the answer is shown.

pub mod check;
pub mod directory;
pub mod files;
pub mod init;
pub mod labels;
mod protection;
pub mod quickstart;
pub mod spec;
pub mod topology;

pub use directory::Project;
