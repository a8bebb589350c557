//! Runs commands as if they were typed: in this process, with streams of their own.

use std::ffi::OsString;
use std::io::{self, Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::base::time::Clock;
use crate::base::url::BrokerUrl;
use crate::project::quickstart::Commands;
use crate::project::spec::STATE_FILE;

use crate::cli::args::GlobalArgs;
use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::host::{Environment, Host, Input, Output};
use crate::cli::output::{ColorChoice, Format, Style};
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::signals::Stop;

/// What commands need that work where the quickstart does.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    global: GlobalArgs,
    environment: Environment,
    cwd: PathBuf,
    clock: Arc<dyn Clock>,
    seed: u64,
    stop: Stop,
    target: Connector,
}

impl Typed {
    /// Commands in the project at `dir`, on the broker of `target`.
    pub(super) fn new(
        session: &Session,
        settings: &Settings,
        target: &Connector,
        dir: &Path,
    ) -> Self {
        let mut environment = session.environment.clone();
        let state = dir.join(STATE_FILE).display().to_string();
        environment.0.insert("NEXUSCTL_STATE".to_owned(), state);
        let mut global = GlobalArgs {
            output: Some(Format::Table),
            color: Some(ColorChoice::Never),
            project: Some(dir.to_owned()),
            quiet: true,
            verbose: 0,
            ..session.global.clone()
        };
        if let Some(context) = settings.context.as_ref().filter(|_| settings.protected.value) {
            // Whoever runs the quickstart has confirmed it already.
            global.confirm = Some(context.value.clone());
        }
        Typed {
            global,
            environment,
            cwd: session.cwd.clone(),
            clock: Arc::clone(&session.clock),
            seed: session.seed,
            stop: session.stop.clone(),
            target: target.clone(),
        }
    }

    /// What standard input says: the password, should it be asked for there.
    fn stdin(&self) -> String {
        match self.target.url() {
            BrokerUrl::Amqp(url) => {
                let password = url.password.as_ref();
                password.map(|password| format!("{}\n", password.reveal())).unwrap_or_default()
            }
            BrokerUrl::Embedded(_) => String::new(),
        }
    }

    fn run_here(&self, words: &[String]) -> Result<String, CliError> {
        let kept = Kept::default();
        let output = |writer| Output { writer, file: None, is_terminal: false };
        let host = Host {
            stdin: Input { reader: Box::new(Cursor::new(self.stdin())), is_terminal: false },
            stdout: output(Box::new(kept.clone())),
            stderr: output(Box::new(io::sink())),
            environment: self.environment.clone(),
            cwd: self.cwd.clone(),
            columns: None,
            clock: Arc::clone(&self.clock),
            seed: self.seed,
            stop: self.stop.clone(),
            is_process: false,
        };
        let mut session = Session::new(host);
        let args = std::iter::once("nexusctl").chain(words.iter().map(String::as_str));
        let args: Vec<OsString> = args.map(OsString::from).collect();
        let cli = crate::cli::parse(&args, &mut session)?;
        session.configure(GlobalArgs { yes: cli.global.yes, ..self.global.clone() })?;
        let status = crate::cli::dispatch(cli.command, &mut session)?;
        let text = kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8_lossy(&text).into_owned();
        match status {
            ExitStatus::Done => Ok(text),
            status => {
                let why = format!("it ended with status {}: {}", status.number(), text.trim());
                Err(CliError::failed(why))
            }
        }
    }
}

#[async_trait]
impl Commands for Typed {
    async fn run(&self, words: &[String]) -> Result<String, String> {
        let (typed, words) = (self.clone(), words.to_vec());
        // Each command makes a runtime of its own, which wants a thread of its own.
        let ran = tokio::task::spawn_blocking(move || typed.run_here(&words)).await;
        match ran {
            Ok(result) => result.map_err(|error| error.text(Style::default())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Keeps what is written.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
