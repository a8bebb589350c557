//! Names that a shell completes: contexts from their file, queues and exchanges from the broker that
//! the words so far lead to. Bounded in time, and silent about what fails: a Tab is no place for errors.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::base::time::{Clock, HumanDuration};
use crate::base::url::BrokerUrl;
use crate::broker::Snapshot;

use crate::cli::args::GlobalArgs;
use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::host::{Environment, Host, Input, Output};
use crate::cli::session::Session;
use crate::cli::settings::contexts::Contexts;
use crate::cli::signals::Stop;

/// How long a Tab may take.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Context,
    Queue,
    Exchange,
}

/// What is needed to find names.
#[derive(Clone, Debug)]
struct Source {
    environment: Environment,
    cwd: PathBuf,
    clock: Arc<dyn Clock>,
    global: GlobalArgs,
}

/// `command` with completers on every argument that takes a name.
pub(super) fn complete_names(
    command: clap::Command,
    words: &[OsString],
    session: &Session,
) -> clap::Command {
    let source = Arc::new(Source {
        environment: session.environment.clone(),
        cwd: session.cwd.clone(),
        clock: Arc::clone(&session.clock),
        global: globals(words),
    });
    attach(command, &source)
}

fn attach(command: clap::Command, source: &Arc<Source>) -> clap::Command {
    command
        .mut_args(|arg| {
            let names = arg.get_value_names().unwrap_or_default();
            let is = |name: &str| names.iter().any(|known| known == name);
            let kind = if is("CONTEXT") {
                Kind::Context
            } else if is("QUEUE") || is("FROM") || is("TO") || arg.get_id() == "queue" {
                Kind::Queue
            } else if arg.get_id() == "exchange" || is("EXCHANGE[:KEY]") {
                Kind::Exchange
            } else {
                return arg;
            };
            let source = Arc::clone(source);
            arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
                let typed = typed.to_string_lossy();
                source
                    .names(kind)
                    .into_iter()
                    .filter(|name| name.starts_with(typed.as_ref()))
                    .map(CompletionCandidate::new)
                    .collect()
            }))
        })
        .mut_subcommands(|child| attach(child, source))
}

/// The global options among the words, as far as they lead to names.
fn globals(words: &[OsString]) -> GlobalArgs {
    let mut global = GlobalArgs { timeout: Some(HumanDuration(PATIENCE)), ..GlobalArgs::default() };
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    for (index, word) in words.iter().enumerate() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (*word, words.get(index + 1).copied()),
        };
        let Some(value) = value.map(str::to_owned) else { continue };
        match name {
            "--broker" => global.broker = Some(value),
            "--context" => global.context = Some(value),
            "--vhost" => global.vhost = Some(value),
            "--management-url" => global.management_url = Some(value),
            "--project" => global.project = Some(value.into()),
            "--config" => global.config = Some(value.into()),
            "--tls-ca" => global.tls_ca = Some(value.into()),
            _ => {}
        }
    }
    global
}

impl Source {
    /// A session that says nothing and reads nothing.
    fn session(&self) -> Session {
        let mute = || Output { writer: Box::new(io::sink()), file: None, is_terminal: false };
        let mut session = Session::new(Host {
            stdin: Input { reader: Box::new(io::empty()), is_terminal: false },
            stdout: mute(),
            stderr: mute(),
            environment: self.environment.clone(),
            cwd: self.cwd.clone(),
            columns: None,
            clock: Arc::clone(&self.clock),
            seed: 0,
            stop: Stop::default(),
            is_process: false,
        });
        session.global = self.global.clone();
        session
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        let mut session = self.session();
        if kind == Kind::Context {
            let contexts = session.config_path().and_then(|path| Contexts::read(&path));
            return contexts
                .map(|found| found.names().map(str::to_owned).collect())
                .unwrap_or_default();
        }
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let _ = send.send(snapshot(&mut session));
        });
        match receive.recv_timeout(PATIENCE) {
            Ok(Ok(Some(snapshot))) => match kind {
                Kind::Queue => {
                    snapshot.queues.iter().map(|queue| queue.definition.name.to_string()).collect()
                }
                _ => snapshot
                    .exchanges
                    .iter()
                    .map(|exchange| exchange.name.to_string())
                    .filter(|name| !name.is_empty())
                    .collect(),
            },
            _ => Vec::new(),
        }
    }
}

/// What the broker holds; `None` for an embedded one whose state file does not exist yet, which a Tab
/// must not make.
fn snapshot(session: &mut Session) -> Result<Option<Snapshot>, CliError> {
    let target = Connector::of(session)?;
    if let BrokerUrl::Embedded(url) = target.url()
        && !url.path.as_ref().is_some_and(|path| path.exists())
    {
        return Ok(None);
    }
    session.drive(async {
        let broker = target.connect().await?;
        let snapshot = broker.inspect().await?;
        let _ = broker.close().await;
        Ok(Some(snapshot))
    })
}
