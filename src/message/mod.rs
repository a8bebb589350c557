//! What travels: AMQP properties and typed headers, the envelope of agents, the NDJSON record.
//!
//! This room does not know how a message travels: no exchange type, no connection, no queue depth.

pub mod properties;
pub mod value;

pub use properties::{DeliveryMode, Message, Properties};
pub use value::{FieldTable, FieldValue};
