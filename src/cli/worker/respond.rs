//! `nexusctl respond`: answers requests, by a command or by itself.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;

use crate::base::id::QueueName;
use crate::delivery::filter::MessageTemplate;
use crate::delivery::worker::handler::Handler;
use crate::delivery::worker::handler::builtin::{Builtin, Reply};
use crate::delivery::worker::handler::lines::Lines;
use crate::delivery::worker::handler::process::Processes;
use crate::delivery::worker::{DeadLetters, Order, ResultTo, WorkOptions};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::choices::{CheckArgs, Delays, EndArgs, HandlerArgs};
use super::{Job, Steps, listener, start_guard};

/// Arguments of `respond`.
#[derive(Debug, Args)]
#[command(
    override_usage = "nexusctl respond [OPTIONS] <QUEUE> --echo\n       \
    nexusctl respond [OPTIONS] <QUEUE> --template <TEXT>\n       \
    nexusctl respond [OPTIONS] <QUEUE> -- <COMMAND>...",
    after_help = "Each request gets one answer, confirmed before the request is acked. What a command \
    writes to standard output is the answer; when it fails, the answer is an error (header \
    x-nexus-error with its last line, x-nexus-error-code with its status), and `nexusctl request` ends \
    with status 9. Nothing is tried again: who asked decides.\n\nExamples:\n  \
    nexusctl respond agent.worker --idle 1s --echo\n  \
    nexusctl respond agent.worker --template 'got ${ size } bytes for ${ routingKey }' --count 10\n  \
    nexusctl respond agent.worker --count 12 --jobs 4 -- ./handle.sh\n  \
    nexusctl respond agent.worker --count 12 --ndjson -- ./agent.sh"
)]
pub struct RespondArgs {
    /// The queue that requests come to
    queue: QueueName,
    /// The command that answers, and its arguments
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["echo", "template"],
          required_unless_present_any = ["echo", "template"])]
    command: Vec<OsString>,
    /// Answer with the body as it came
    #[arg(long, conflicts_with = "template")]
    echo: bool,
    /// Answer with this text; `${ … }` is CEL over the request
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    #[command(flatten)]
    handler: HandlerArgs,
    #[command(flatten)]
    end: EndArgs,
    /// Fetch so many requests ahead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: Option<u16>,
    /// Show what would be done, and take no request
    #[arg(long)]
    dry_run: bool,
}

/// Answers.
pub(in crate::cli) fn run(
    args: RespondArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let RespondArgs { queue, command, echo, template, handler, end, prefetch, dry_run } = args;
    let settings = session.settings()?;
    let mut options = WorkOptions {
        grace: handler.grace(),
        order: Order::None,
        answer: true,
        result: ResultTo::Nowhere,
        dead_letters: DeadLetters::Answered,
        ..WorkOptions::default()
    };
    options.retry.max_attempts = 1;
    end.choose(&mut options, &settings);
    let checks = CheckArgs::none();
    checks.choose(&mut options, &queue, &settings)?;
    let reply = match (echo, template) {
        (true, _) => Some(Reply::Echo),
        (false, Some(text)) => Some(Reply::Template(
            MessageTemplate::parse(&text)
                .map_err(|error| CliError::usage(format!("--template: {error}")))?,
        )),
        (false, None) => None,
    };
    let window = if reply.is_some() { 256 } else { handler.window_in_all() };
    let usual = u16::try_from(window.saturating_mul(2).clamp(4, 2000)).unwrap_or(2000);
    let count = end.limits.count.and_then(|count| u16::try_from(count).ok()).unwrap_or(u16::MAX);
    options.prefetch = prefetch.unwrap_or(usual).min(count.max(1));
    let spec = handler.spec(&command, &queue, true, listener(session), session);
    let shown = match &reply {
        Some(Reply::Echo) => "an echo".to_owned(),
        Some(Reply::Template(_)) => "a template".to_owned(),
        None => spec.shown(),
    };
    let steps = Steps { dead_letters: None, delay: Delays::none(), shown };
    let name = queue.as_str().to_owned();
    let job = Job { queue, options, end, checks, keep_results: None, dry_run };
    job.run(&steps, session, |session| {
        let handler: Box<dyn Handler> = match reply {
            Some(reply) => Box::new(Builtin::new(reply, &name)),
            None => {
                let guard = Arc::new(start_guard(session)?);
                match handler.lives_on() {
                    true => Box::new(Lines::new(spec, handler.window(), guard)),
                    false => Box::new(Processes::new(spec, guard)),
                }
            }
        };
        Ok(handler)
    })
}
