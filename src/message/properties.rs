//! The fourteen AMQP 0-9-1 basic properties, and a message: properties and a body.

use super::value::FieldTable;

/// Whether a message outlives a restart of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// 1: may be lost when the broker restarts.
    Transient,
    /// 2: kept on disk by durable queues.
    Persistent,
}

/// AMQP's basic properties. Absent is different from empty, and stays so on the way through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// MIME encoding of the body, such as `gzip`.
    pub content_encoding: Option<String>,
    /// Headers, `None` when the message carries no table at all.
    pub headers: Option<FieldTable>,
    /// 1 or 2.
    pub delivery_mode: Option<u8>,
    /// 0 to 255; what it means depends on the queue.
    pub priority: Option<u8>,
    /// Ties an answer to its request.
    pub correlation_id: Option<String>,
    /// Where an answer goes.
    pub reply_to: Option<String>,
    /// Time to live in milliseconds, as decimal digits.
    pub expiration: Option<String>,
    /// The application's id of the message.
    pub message_id: Option<String>,
    /// Whole seconds since 1970.
    pub timestamp: Option<u64>,
    /// The application's name of the kind of message.
    pub kind: Option<String>,
    /// Login of the publisher; the broker refuses another's.
    pub user_id: Option<String>,
    /// Id of the publishing application.
    pub app_id: Option<String>,
    /// Deprecated by AMQP, carried all the same.
    pub cluster_id: Option<String>,
}

impl Properties {
    /// The header called `name`.
    pub fn header(&self, name: &str) -> Option<&super::FieldValue> {
        self.headers.as_ref()?.get(name)
    }

    /// The header table, made when there is none.
    pub fn headers_mut(&mut self) -> &mut FieldTable {
        self.headers.get_or_insert_with(FieldTable::new)
    }
}

/// Properties and body, wherever they go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The properties.
    pub properties: Properties,
    /// The body, any bytes.
    pub body: Vec<u8>,
}
