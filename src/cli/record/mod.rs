//! `nexusctl record`: a tap or a queue, written into a file that `play` can play.

use std::path::PathBuf;

use clap::Args;

use crate::base::id::QueueName;
use crate::delivery::sink::Format;

use super::consume::{self, ConsumeArgs, Offset, parse_offset};
use super::ending::EndArgs;
use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;
use super::tap::{PlaceArgs, Tapping, read_filter, run_tapping};

/// Arguments of `record`.
#[derive(Debug, Args)]
#[command(
    after_help = "A recording is NDJSON: one record a line, each with `receivedAt`. `nexusctl play` \
    plays it, `publish --records` sends it as it is. An exchange is tapped, which takes nothing away; \
    a queue is consumed, each message acked after it is on the disk, unless it is kept.\n\nExamples:\n  \
    nexusctl record events.ndjson nexus.events --deadline 300ms\n  \
    nexusctl record tasks.ndjson 'nexus.events:task.#' nexus.agents:worker --count 5 --idle 300ms\n  \
    nexusctl record worker.ndjson --queue agent.worker --until-empty\n  \
    nexusctl record worker.ndjson --queue agent.worker --until-empty --keep"
)]
pub struct RecordArgs {
    /// The file to write
    file: PathBuf,
    /// What to tap: EXCHANGE or EXCHANGE:KEY
    #[arg(required_unless_present = "queue", value_name = "EXCHANGE[:KEY]")]
    targets: Vec<String>,
    /// Take the messages of this queue instead
    #[arg(long, value_name = "QUEUE", conflicts_with_all = ["targets", "mirror", "headers"])]
    queue: Option<QueueName>,
    /// Leave the messages in the queue, at their place
    #[arg(long, requires = "queue")]
    keep: bool,
    /// Read a stream from here: first, last, next, a number, a time or a duration back
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset, requires = "queue")]
    offset: Option<Offset>,
    /// End when the queue is empty
    #[arg(long, requires = "queue")]
    until_empty: bool,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    end: EndArgs,
    /// Take only messages for which this CEL expression is true
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// Go on at the end of a file that is there
    #[arg(long)]
    append: bool,
    /// Write the counts as a JSON document into this file when done
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show what would be recorded, and record nothing
    #[arg(long)]
    dry_run: bool,
}

/// Records.
pub(super) fn run(args: RecordArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RecordArgs {
        file,
        targets,
        queue,
        keep,
        offset,
        until_empty,
        place,
        end,
        filter,
        append,
        report,
        dry_run,
    } = args;
    // Two recordings in one file would play as one with a long pause.
    let has_something = std::fs::metadata(session.resolve(&file)).is_ok_and(|meta| meta.len() > 0);
    if has_something && !append && !dry_run {
        return Err(CliError::usage(format!("{} is there already", file.display()))
            .hint("name another file, or add `--append` to go on at its end"));
    }
    if let Some(queue) = queue {
        let args = ConsumeArgs::recording(
            queue,
            file,
            end,
            until_empty,
            filter,
            keep,
            offset,
            report,
            dry_run,
        );
        return consume::run_as(args, true, session);
    }
    let tapping = Tapping {
        targets,
        place,
        end,
        filter: read_filter(filter)?,
        format: Format::Ndjson,
        is_document: false,
        out: Some(file),
        report,
        timed: true,
        dry_run,
    };
    run_tapping(tapping, session)
}
