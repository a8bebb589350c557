//! The terminal: arguments → settings → request → one call into a room → report → view → exit status.
//!
//! The only room that prints, prompts, reads the environment or installs a signal handler. It knows no
//! SQL and no AMQP.
