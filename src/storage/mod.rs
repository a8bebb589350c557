//! The state file: SQLite in WAL mode, one writer with group commit, migrations, and sessions that
//! end with their process. Does not know what is stored.
//!
//! Promises:
//! - A [`Durability::Disk`] reply means that the write survives a power cut; a
//!   [`Durability::Process`] reply that it survives the death of this process.
//! - Requests of one batch are committed together; one that fails takes none of the others with it.
//! - After a failed write to the disk (other than a full one) nothing is written any more: every
//!   later request fails with that cause, since nobody knows what is on the disk.
//! - Several processes share one file. Each waits for the others at most the time-out.
//! - A file of a newer format is refused; an older one is copied, then migrated.

mod error;
mod file;
mod migration;
mod session;
mod writer;

#[cfg(test)]
mod tests;

pub use error::StorageError;
pub use file::{Options, StateFile, Watch};
pub use migration::Room;
pub use rusqlite;
pub use session::Session;
pub use writer::{Durability, Job};
