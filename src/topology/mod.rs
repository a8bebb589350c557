//! Topology under version control: what the file says, what is wrong with it, what would have to change.
//!
//! This room does not know how a broker is spoken to: it sees snapshots and changes.

// From the file to values that cannot be wrong.
pub mod model;
pub mod spec;
pub mod expand;
pub mod view;
pub mod lint;

// What is asked about a topology.
pub mod graph;
pub mod route;
pub mod explain;

// From desired and observed to a plan.
pub mod object;
pub mod wire;
pub mod fingerprint;
pub mod observed;
pub mod ownership;
pub mod keep;
pub mod plan;
pub mod diff;
pub mod destroy;
pub mod saved_plan;

// Carrying it out.
pub mod journal;
pub mod migrate;
pub mod apply;

// From a broker or a definitions file to a topology.
pub mod export;
pub mod import;

pub use model::{Desired, External, Naming, Origin, Topology};
