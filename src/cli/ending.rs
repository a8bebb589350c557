//! When a command that takes messages ends by itself.

use std::time::Duration;

use clap::Args;

use crate::base::time::HumanDuration;

/// When to end. Without any of these: on a signal.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "When to end")]
pub struct LimitArgs {
    /// End after so many messages
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End when nothing has come for so long
    #[arg(long, value_name = "DURATION")]
    idle: Option<HumanDuration>,
    /// End after so long
    #[arg(long, value_name = "DURATION")]
    deadline: Option<HumanDuration>,
}

impl LimitArgs {
    /// How long nothing may come.
    pub fn idle(&self) -> Option<Duration> {
        self.idle.map(|idle| idle.0)
    }

    /// How long it may take in all.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.0)
    }
}

/// When to end, and how many messages are a success.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "When to end")]
pub struct EndArgs {
    #[command(flatten)]
    pub limits: LimitArgs,
    /// End with status 2 when fewer messages came
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
}
