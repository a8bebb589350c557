//! The embedded broker: RabbitMQ semantics on the state file, shared by processes.
