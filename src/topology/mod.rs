//! Topology under version control: what the file says, what is wrong with it, what would have to change.
//!
//! This room does not know how a broker is spoken to: it sees snapshots and changes.

pub mod expand;
pub mod explain;
pub mod graph;
pub mod lint;
pub mod model;
pub mod route;
pub mod spec;
pub mod view;

pub use model::{Desired, External, Naming, Origin, Topology};
