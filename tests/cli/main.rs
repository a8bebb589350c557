//! Commands as a person runs them: in process with captured streams and an environment of their own;
//! only signals, pipes and exit codes need the real binary.

mod context;
mod examples;
mod explain;
mod generated;
mod harness;
mod messages;
mod process;
mod project;
mod shell;
mod topology;
