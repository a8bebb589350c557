//! `queue list`: queues with chosen columns, cheap on brokers with many.

use clap::Args;

use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::count;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::rows::{Column, Order, Wish};

/// Arguments of `queue list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Columns: name, queueType, ready, unacked, messages, consumers, state, durable, \
    autoDelete, exclusive, arguments, leader, members, online; and, for which the broker has to gather \
    statistics, which is slow where there are thousands of queues: policy, operatorPolicy, bytes, \
    memory, published.\n\nExamples:\n  nexusctl queue list\n  \
    nexusctl queue list 'agent.*' --columns name,ready,leader\n  \
    nexusctl queue list --sort ready:desc --filter 'ready > 0 && consumers == 0'\n  \
    nexusctl queue list --columns name,bytes,policy --sort bytes:desc"
)]
pub(super) struct ListArgs {
    /// Only queues of this name; * is any text, ? any character
    pattern: Option<String>,
    /// Show these columns
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    columns: Vec<Column>,
    /// Order by this column: ready, or ready:desc
    #[arg(long, value_name = "COLUMN")]
    sort: Option<Order>,
    /// Only queues for which this CEL expression over the columns is true
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
}

pub(super) fn run(args: ListArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ListArgs { pattern, columns, sort, filter } = args;
    let wish = Wish::new(columns, sort, filter.as_deref(), pattern.as_deref())?;
    let target = Connector::of(session)?;
    let queues = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let queues = broker.list_queues(wish.needs_statistics()).await?;
        let _ = broker.close().await;
        Ok(queues)
    }))?;
    let view = wish.rows(queues);
    if view.unanswered() > 0 {
        let left_out = count(view.unanswered(), "queue");
        session.ui.warning(format!("--filter has no answer for {left_out}, which are left out"));
    }
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}
