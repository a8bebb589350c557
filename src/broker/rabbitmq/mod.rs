//! RabbitMQ: AMQP 0-9-1 for messages and declarations, the management API for reading.
