//! The product's own files, with loom's lock in place of the standard library's.

#![allow(unused_imports, clippy::all, reason = "parts of the product, which is checked elsewhere")]

pub mod base;
pub mod resilience;
