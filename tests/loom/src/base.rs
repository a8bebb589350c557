//! What the machines need of `base`.

#[path = "../../../src/base/time.rs"]
pub mod time;
