//! Watching dead-letter queues: how deep they are, how fast letters die, how old the oldest is, and when
//! that is too much.
//!
//! [`look`] asks the broker without touching a message, [`machine`] judges what was seen, [`store`] keeps
//! the last looks and what is known to be too much in the state file, and [`hook`] tells others.
//!
//! No broker counts letters that die into a queue: RabbitMQ's own statistics count what is published, and
//! leave dead letters out (3.10.8 and 4.0.5). So a rate is how much a queue has grown between two looks;
//! as many deaths as letters were taken out meanwhile stay hidden.

pub mod hook;
pub mod look;
pub mod machine;
pub mod store;

pub use machine::{Alert, Change, Limits, Look, Measure, Rate, Seen, Watcher};
pub use store::Looks;
