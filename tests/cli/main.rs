//! Commands as a person runs them: in process with captured streams and an environment of their own;
//! only signals, pipes and exit codes need the real binary.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, reads what it is told by, and says what it skips"
)]

mod bundles;
mod context;
mod dead_letter_trail;
mod dead_letters;
mod examples;
mod explain;
mod generated;
mod harness;
mod journal;
mod messages;
mod play;
mod process;
mod project;
mod queue;
mod request;
mod shell;
mod state;
mod tap;
mod terminal;
mod topology;

#[path = "../support/mod.rs"]
mod support;
