//! The machines that are shared, and the locks around them.

#[path = "../../../src/resilience/circuit.rs"]
pub mod circuit;
#[path = "../../../src/resilience/limiter.rs"]
pub mod limiter;
#[path = "../../../src/resilience/shared.rs"]
pub mod shared;

/// In place of `src/resilience/sync.rs`.
mod sync {
    pub(super) use std::sync::PoisonError;

    pub(super) use loom::sync::{Mutex, MutexGuard};
}
