//! Dead letters: what died and why, and how it gets back to where it is worked on without being lost.
//!
//! Nothing here knows of sagas. Every question is asked of a scan or of a delivery; whatever changes a
//! queue is planned first, and what takes a letter's place is confirmed before the letter is acked.

pub mod death;
pub mod letter;
pub mod replay;

pub use death::{Death, DeathReason, Origin, WorkerVerdict, deaths, origin, worker_verdict};
pub use letter::LetterId;
