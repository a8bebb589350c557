//! Logs for the person who runs the command. Does not know what is logged.

pub mod logs;
