//! What every room speaks: ids, time, secrets, diagnostics, documents, expressions.
//!
//! This room knows nothing of any other: no broker, no file format of the product, no terminal.

pub mod diagnostic;
pub mod document;
pub mod expression;
pub mod id;
pub mod secret;
pub mod size;
pub mod suggest;
pub mod time;
pub mod url;
