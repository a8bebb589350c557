//! `nexusctl queue …`: what is in queues, looked at without harm, moved without loss.

mod find;
mod ledger;
mod list;
mod peek;
mod purge;
mod rows;
mod show;
mod transfer;

use clap::{Args, Subcommand};

use crate::base::id::QueueName;
use crate::broker::Broker;

use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::{self, Missing};
use super::session::Session;
use super::settings::Settings;

pub(in crate::cli) use ledger::Ledger;
pub use peek::PeekPlanView;
pub(in crate::cli) use peek::{look_around, refusal, written};
pub use purge::PurgeView;
pub use rows::QueueListView;
pub use show::QueueView;
pub use transfer::TransferView;

/// Arguments of `queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    /// What to do.
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List queues with chosen columns
    List(list::ListArgs),
    /// Find queues by what they are: bound, unused, empty, stuck, idle
    Find(find::FindArgs),
    /// Show everything about one queue, and what will surprise you
    Show(show::ShowArgs),
    /// Look at messages without taking them
    Peek(peek::PeekArgs),
    /// Move messages to another queue or exchange
    Move(transfer::MoveArgs),
    /// Copy messages to another queue or exchange
    Copy(transfer::CopyArgs),
    /// Take out everything in a queue, with a backup when asked for
    Purge(purge::PurgeArgs),
}

/// Runs one of the commands.
pub(super) fn run(args: QueueArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let QueueArgs { command } = args;
    match command {
        QueueCommand::List(args) => list::run(args, session),
        QueueCommand::Find(args) => find::run(args, session),
        QueueCommand::Show(args) => show::run(args, session),
        QueueCommand::Peek(args) => peek::run(args, session),
        QueueCommand::Move(args) => transfer::run_move(args, session),
        QueueCommand::Copy(args) => transfer::run_copy(args, session),
        QueueCommand::Purge(args) => purge::run(args, session),
    }
}

/// There is no such queue: what may have been meant.
pub(in crate::cli) async fn no_such_queue(
    attempted: &str,
    queue: &QueueName,
    broker: &dyn Broker,
    settings: &Settings,
) -> CliError {
    let vhost = &broker.identity().vhost;
    let message = format!("cannot {attempted}: queue `{queue}` does not exist in vhost `{vhost}`");
    let next = missing::look(Missing::Queue, queue.as_str(), broker, settings).await;
    CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message).object(queue.as_str()).hint(next)
}
