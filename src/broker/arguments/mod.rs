//! Which arguments each queue type of each version knows, what values they take, which policy keys
//! say the same, and what RabbitMQ does with everything else.
//!
//! Pure data and checks on it. The tables were measured on 3.10.8 and 4.0.5 (every argument on every
//! type, every policy key on every type, the edges of every range); what other versions change is
//! taken from their release notes.

mod exchange;
mod policy;
mod problem;
mod queue;
mod support;
mod table;
mod value;
#[cfg(test)]
mod tests;

pub use exchange::{check_binding, check_exchange};
pub use policy::check_policy;
pub use problem::{ArgumentProblem, ProblemKind};
pub use queue::check_queue_arguments;
pub use support::Support;
pub use table::{
    EXCHANGE_POLICY_KEYS, KeyEffect, OVERFLOWS, PolicyKey, QUEUE_ARGUMENTS, QueueArgument,
    by_friendly_name, by_policy_key, policy_key_effect, policy_keys, queue_argument,
};
pub use value::{
    MAX_MILLISECONDS, ValueKind, describe_value, field_of_json, is_age, json_of_field,
};
