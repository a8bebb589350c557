//! The product's own files, with loom's lock in place of the standard library's.

#![cfg(test)]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::all,
    reason = "parts of the product, checked there; here only some of each is used"
)]

mod base {
    #[path = "../../../../src/base/time.rs"]
    pub mod time;
}

mod resilience {
    #[path = "../../../../src/resilience/circuit.rs"]
    pub mod circuit;
    #[path = "../../../../src/resilience/limiter.rs"]
    pub mod limiter;
    #[path = "../../../../src/resilience/shared.rs"]
    pub mod shared;
    /// In place of `src/resilience/sync.rs`.
    mod sync {
        pub(super) use loom::sync::{Mutex, MutexGuard};
        pub(super) use std::sync::PoisonError;
    }
}

mod models;
