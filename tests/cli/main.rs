//! Commands as a person runs them: in process with captured streams and an environment of their own;
//! only signals, pipes and exit codes need the real binary.

mod context;
mod explain;
mod generated;
mod harness;
mod shell;
