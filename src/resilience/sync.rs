//! The lock behind [`super::shared`]. The models in `tests/loom` put theirs in its place.

pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
