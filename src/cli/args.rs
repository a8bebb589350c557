//! The command line as a tree: global options and commands. Nothing here does anything.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::base::time::HumanDuration;

use super::output::{ColorChoice, Format, Verbosity};

/// Declare, publish, consume and inspect the RabbitMQ of your agents, and never lose a message
///
/// Without any setting, nexusctl uses the embedded broker: the state file of the project around the
/// working directory, or your own. A URL, a context or NEXUSCTL_BROKER leads to RabbitMQ.
#[derive(Debug, Parser)]
#[command(
    name = "nexusctl",
    bin_name = "nexusctl",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Exit statuses and error codes: nexusctl explain\n\n\
                  Examples:\n  nexusctl quickstart\n  nexusctl init shop\n  nexusctl explain 6"
)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes, before or after its name.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Print reports like this [env: NEXUSCTL_OUTPUT]
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        overrides_with = "output"
    )]
    pub output: Option<Format>,
    /// Connect to this broker: amqp://…, amqps://… or embedded:[PATH] [env: NEXUSCTL_BROKER]
    #[arg(long, global = true, value_name = "URL")]
    pub broker: Option<String>,
    /// Use this context instead of the current one [env: NEXUSCTL_CONTEXT]
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Work in this project directory instead of the one around the working directory
    /// [env: NEXUSCTL_PROJECT]
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub project: Option<PathBuf>,
    /// Work in this virtual host [env: NEXUSCTL_VHOST]
    #[arg(long, global = true, value_name = "VHOST", hide_short_help = true)]
    pub vhost: Option<String>,
    /// Read from this management API: http://… or https://… [env: NEXUSCTL_MANAGEMENT_URL]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub management_url: Option<String>,
    /// Wait no longer than this for any answer, 30s unless set [env: NEXUSCTL_TIMEOUT]
    #[arg(long, global = true, value_name = "DURATION", hide_short_help = true)]
    pub timeout: Option<HumanDuration>,
    /// Read the password from the first line of standard input
    #[arg(long, global = true, hide_short_help = true)]
    pub password_stdin: bool,
    /// Trust this certificate authority (PEM) [env: NEXUSCTL_TLS_CA]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_ca: Option<PathBuf>,
    /// Show this client certificate (PEM) [env: NEXUSCTL_TLS_CERT]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_cert: Option<PathBuf>,
    /// Sign with the key of the client certificate (PEM) [env: NEXUSCTL_TLS_KEY]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_key: Option<PathBuf>,
    /// Expect this name in the certificate of the broker and of an https management API
    /// [env: NEXUSCTL_TLS_SERVER_NAME]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub tls_server_name: Option<String>,
    /// Refuse to change anything on the broker [env: NEXUSCTL_READ_ONLY]
    #[arg(long, global = true, hide_short_help = true)]
    pub read_only: bool,
    /// Agree to what would be asked
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Agree to a change in the protected context of this name
    #[arg(long, global = true, value_name = "CONTEXT", hide_short_help = true)]
    pub confirm: Option<String>,
    /// Keep contexts in this file [env: NEXUSCTL_CONFIG]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub config: Option<PathBuf>,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log what happens on standard error; twice for details [env: NEXUSCTL_LOG=FILTER]
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Colour the output [env: NEXUSCTL_COLOR, NO_COLOR, CLICOLOR_FORCE]
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_short_help = true)]
    pub color: Option<ColorChoice>,
    /// Show no progress bars [env: NEXUSCTL_NO_PROGRESS]
    #[arg(long, global = true, hide_short_help = true)]
    pub no_progress: bool,
}

impl GlobalArgs {
    /// How much is to be said on stderr.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Verbose,
            (false, _) => Verbosity::Debug,
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See the main job done once: topology, a thousand messages, dead letters
    Quickstart(super::quickstart::QuickstartArgs),
    /// Make a project: a directory with a topology ready to apply
    Init(super::init::InitArgs),
    /// Look for mistakes in all files of a project, without a broker
    Check(super::check::CheckArgs),
    /// Keep exchanges, queues, bindings and policies under version control
    Topology(super::topology::TopologyArgs),
    /// Publish messages, each confirmed
    Publish(Box<super::publish::PublishArgs>),
    /// Take messages out of a queue, each acked only after it is written
    Consume(super::consume::ConsumeArgs),
    /// Ask and wait for the answer, or say why there is none
    Request(Box<super::request::RequestArgs>),
    /// Handle each message by a command: done, tried again, or dead-lettered
    Worker(Box<super::worker::WorkerArgs>),
    /// Answer requests, by a command, a template or an echo
    Respond(Box<super::worker::RespondArgs>),
    /// See what passes an exchange, beside its consumers
    Tap(Box<super::tap::TapArgs>),
    /// Write what passes an exchange or a queue into a file, with the time of each message
    Record(Box<super::record::RecordArgs>),
    /// Publish a recording at its own pace, and go on where a run was cut off
    Play(Box<super::play::PlayArgs>),
    /// Show and order circuit breakers, shared by all processes of this host
    Circuit(super::circuit::CircuitArgs),
    /// Show and use rate limits, shared by all processes of this host
    Limit(super::limit::LimitArgs),
    /// Show which messages of a workflow are missing
    Sequence(super::sequence::SequenceArgs),
    /// List, show, search, move and purge queues
    Queue(super::queue::QueueArgs),
    /// See dead letters without harm, and replay them without losing one
    Dlq(super::dlq::DlqArgs),
    /// See what was published, and send it again to the queue that misses it
    Journal(super::journal::JournalArgs),
    /// Manage contexts: named ways to reach a broker
    Context(super::context::ContextArgs),
    /// Say what a status, an error code or a reply code means and what to do
    Explain(super::explain::ExplainArgs),
    /// Print the completion script of a shell
    Completions(super::completions::CompletionsArgs),
    /// Print manual pages
    Man(super::man::ManArgs),
    /// Print the version
    Version(super::version::VersionArgs),
}
