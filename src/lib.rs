//! The library behind `nexusctl`: topology, messages and their safe passage through RabbitMQ or the
//! embedded broker.
//!
//! Each room is named after what the product does, and may import only rooms listed above it here;
//! `tests/architecture.rs` reads this order and fails on an arrow that runs back.

pub mod base;
pub mod telemetry;
pub mod storage;
pub mod resilience;
pub mod message;
pub mod broker;
pub mod topology;
pub mod delivery;
pub mod deadletter;
pub mod project;
pub mod dashboard;
pub mod cli;
