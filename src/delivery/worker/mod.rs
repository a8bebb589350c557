//! Working on a queue.
mod lanes;
pub mod handler;
