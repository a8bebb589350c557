//! Dead letters: what died and why, and how it gets back to where it is worked on without being lost.
//!
//! Nothing here knows of sagas. Every question is asked of a scan or of a delivery; whatever changes a
//! queue is planned first, and what takes a letter's place is confirmed before the letter is acked.

pub mod body;
pub mod bundle;
pub mod bundle_file;
pub mod bundle_source;
pub mod compare;
pub mod death;
pub mod fingerprint;
pub mod incident;
pub mod journey;
pub mod labels;
pub mod letter;
pub mod letter_set;
pub mod losses;
pub mod mask;
pub mod places;
pub mod plain;
pub mod scan;
pub mod select;
pub mod sighting;
pub mod store;
pub mod replay;
pub mod trail;
pub mod watch;

pub use death::{Death, DeathReason, Origin, WorkerVerdict, deaths, origin, worker_verdict};
pub use fingerprint::{Fingerprint, Traits};
pub use letter::LetterId;
pub use letter_set::LetterSet;
pub use select::{Lanes, Selection, Selector};
pub use store::Scans;
