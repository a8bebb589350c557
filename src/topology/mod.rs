//! Topology under version control: what the file says, what is wrong with it, what would have to change.
//!
//! This room does not know how a broker is spoken to: it sees snapshots and changes.

pub mod apply;
pub mod destroy;
pub mod diff;
pub mod expand;
pub mod explain;
pub mod export;
pub mod fingerprint;
pub mod graph;
pub mod import;
pub mod journal;
pub mod lint;
pub mod migrate;
pub mod model;
pub mod object;
pub mod observed;
pub mod ownership;
pub mod plan;
pub mod route;
pub mod saved_plan;
pub mod spec;
pub mod view;
pub mod wire;

pub use model::{Desired, External, Naming, Origin, Topology};
