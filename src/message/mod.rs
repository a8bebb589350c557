//! What travels: AMQP properties and typed headers, the envelope of agents, the NDJSON record.
//!
//! This room does not know how a message travels: no exchange type, no connection, no queue depth.

pub mod argument;
#[cfg(test)]
pub(crate) mod arbitrary;
pub mod envelope;
mod json;
pub mod notation;
pub mod properties;
pub mod record;
pub mod reply;
pub mod trace;
pub mod value;

pub use envelope::Envelope;

pub use json::{Problem, Problems};
pub use properties::{DeliveryMode, Message, Properties};
pub use record::{Record, RecordRef, parse_record, write_record};
pub use reply::ErrorAnswer;
pub use trace::TraceContext;

pub use value::{FieldTable, FieldValue};
