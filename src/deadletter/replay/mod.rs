//! Replaying dead letters: each is published again, and acked only after the broker has confirmed it.
//!
//! [`address`] says what is published and where to, [`machine`] what is done when, [`recall`] what a
//! resumed run has met before, [`spec`] what was asked for, `store` keeps the journal in the state file, [`run`](fn@run::run) carries
//! it out. What is promised: at every instant each letter is in its queue or confirmed at its target;
//! first copies arrive in the order of the queue, and what stays keeps its order; a crash doubles no more
//! letters than the window holds, and the journal names each; a run replays a letter once; what cannot
//! go stays.

pub mod address;
pub mod caution;
pub mod machine;
pub mod plan;
pub mod preflight;
pub mod recall;
pub mod rest;
pub mod run;
pub mod spec;
pub mod stage;
pub mod store;
pub mod stream;

#[cfg(test)]
mod tests;
