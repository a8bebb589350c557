//! What to do when something outside fails: state machines that are handed the time and the dice.
//!
//! No clock, no randomness of its own, no socket, no async: every decision is a pure step, so that it
//! can be checked against a model and so that its state can be kept and shown. [`store`] keeps it in
//! the state file, where all processes of a host share it. This room does not know what it protects.

pub mod backoff;
pub mod circuit;
pub mod classification;
pub mod dedup;
pub mod limiter;
pub mod reorder;
pub mod retry;
pub mod sequence;
pub mod shared;
pub mod store;
mod sync;

pub use backoff::Backoff;
pub use circuit::{Circuit, CircuitBreaker, CircuitMemory, CircuitSettings, Permit, Refused};
pub use classification::{Class, Failure, classify};
pub use dedup::{Ask, ClaimId, ClaimLost, Dedup, Holder, NotClaimed};
pub use limiter::{Limit, Limiter, Priority, Reserve, Shortage};
pub use reorder::{GapPolicy, Release, ReorderBuffer, ReorderSettings};
pub use retry::{Attempt, Decision, GiveUp, RetryBudget, RetryPolicy, Treatment};
pub use sequence::{RangeSet, Seen, SequenceTracker, Start};
pub use shared::{SharedBreaker, SharedLimiter};
pub use store::{Claim, LimitSettings, SequenceSettings, SharedState};
