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

pub mod object;
pub mod wire;

pub mod fingerprint;
pub mod observed;
pub mod ownership;
pub mod plan;
pub mod diff;
pub mod destroy;
pub mod saved_plan;

pub mod journal;
pub mod migrate;
pub mod apply;

pub mod export;
pub mod import;

pub use model::{Desired, External, Naming, Origin, Topology};
