//! `nexusctl quickstart`.

mod typed;
mod view;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::base::url::{BrokerUrl, EmbeddedUrl};
use crate::broker::LockHolder;
use crate::project::directory::is_name;
use crate::project::quickstart::{QuickstartError, Request, Step, quickstart};
use crate::project::spec::STATE_FILE;

use super::connect::Connector;
use super::consent::{self, Deed};
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::shell_word;
use super::output::{Format, Page, Style};
use super::session::Session;
use super::settings::Origin;
use super::worker::{host_of, start_guard};

use typed::Typed;

pub use view::{QuickstartPlanView, QuickstartView};

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
#[command(
    after_help = "On the embedded broker, unless --broker, NEXUSCTL_BROKER or a context names \
    another. Everything is made under names of its own and removed again. The worker runs a shell script, \
    so it needs `sh` and nothing else.\n\nExamples:\n  \
    nexusctl quickstart\n  nexusctl quickstart --dir demo --keep\n  \
    nexusctl quickstart -o json"
)]
pub struct QuickstartArgs {
    /// Make the project in this directory, which must not have one yet; a temporary one when left out
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Begin all names with this; made up on a shared broker when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Leave broker and directory as they are at the end
    #[arg(long)]
    keep: bool,
    /// Say what would be made and where, and make nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs it.
pub(super) fn run(args: QuickstartArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let QuickstartArgs { dir, name, keep, dry_run } = args;
    let settings = session.settings()?;
    let mut random = fastrand::Rng::with_seed(session.seed);
    let mark: String = std::iter::repeat_with(|| random.lowercase()).take(6).collect();
    let is_default = settings.broker.origin == Origin::Default;
    let name = name.unwrap_or_else(|| {
        if is_default { "quickstart".to_owned() } else { format!("quickstart-{mark}") }
    });
    if !is_name(&name) {
        return Err(CliError::usage(format!("`{name}` is no name for a project"))
            .hint("write letters, digits, `-`, `_`, `.`, and begin with a letter or digit"));
    }
    let mut target = Connector::of(session)?;
    if dry_run {
        let broker = (!is_default).then(|| target.shown());
        let dir = dir.map(|dir| dir.display().to_string());
        session.ui.report(&QuickstartPlanView { broker, directory: dir, name, kept: keep })?;
        return Ok(ExitStatus::Done);
    }
    let what = format!("run the quickstart on {}", target.shown());
    if !is_default {
        consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
    }
    let guard = Arc::new(start_guard(session)?);
    let temporary = dir.is_none();
    let shown = match dir {
        Some(dir) => make(&session.resolve(&dir)).map(|()| dir)?,
        None => make_temporary(session, &mut random)?,
    };
    let dir = session.resolve(&shown);
    let dir_shown = shell_word(&shown.display().to_string());
    let mut flags = format!("--project {dir_shown}");
    if is_default {
        let path = Some(dir.join(STATE_FILE));
        target = target.with_state(BrokerUrl::Embedded(EmbeddedUrl { path, ..Default::default() }));
    } else if let Origin::Flag(_) = settings.broker.origin {
        flags = format!("{flags} --broker {}", target.shown());
    }
    let request = Request {
        name,
        dir: dir.clone(),
        dir_shown,
        flags,
        keep,
        deadline: settings.timeout().max(Duration::from_secs(1)),
        holder: LockHolder {
            who: format!("{}, `nexusctl quickstart`", session.who),
            since: session.clock.now(),
        },
        host: host_of(&session.who),
        login: target.login().map(str::to_owned),
        guard,
        seed: session.seed,
    };
    let started = session.clock.now();
    let typed = Typed::new(session, &settings, &target, &dir);
    let result = attempt(&target, &request, &typed, session);
    if temporary && !keep {
        // What is left of a temporary directory is no reason to fail.
        let _ = std::fs::remove_dir_all(&dir);
    }
    let report = result?;
    let elapsed = session.clock.now().since(started);
    let kept = keep.then(|| shown.display().to_string());
    let view = QuickstartView::new(&report, elapsed, kept);
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}

fn attempt(
    target: &Connector,
    request: &Request,
    typed: &Typed,
    session: &mut Session,
) -> Result<crate::project::quickstart::QuickstartReport, CliError> {
    let stop = session.stop.clone();
    let listen = session.is_process;
    let clock = Arc::clone(&session.clock);
    super::runtime::drive(&stop, listen, async {
        let broker = target.connect().await?;
        let mut failure = None;
        let mut on_step = |step: &Step| {
            if session.ui.format == Format::Table {
                let text = page_of(step, session.ui.style);
                if let Err(error) = session.ui.data(text.as_bytes()) {
                    failure.get_or_insert(error);
                }
            }
        };
        let result =
            quickstart(broker.as_ref(), request, typed, clock, stop.job(), &mut on_step).await;
        let _ = broker.close().await;
        match failure {
            Some(error) => Err(error),
            None => result.map_err(|error| refused(error, session)),
        }
    })
}

fn page_of(step: &Step, style: Style) -> String {
    let mut page = Page::default();
    page.style = style;
    page.line(style.strong(step.title));
    page.line(format!("  {} {}", style.dim("$"), step.command));
    for line in step.result.lines() {
        page.line(format!("  {line}").trim_end());
    }
    page.line("");
    page.into_text()
}

/// The directory of the project, and of its state.
fn make(dir: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(dir)
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(dir.join(".nexus")))
        .map_err(|error| cannot_create(dir, &error))
}

fn cannot_create(dir: &Path, error: &std::io::Error) -> CliError {
    CliError::file(format!("create {}", dir.display()), error).with_status(ExitStatus::Failed)
}

/// A directory that was not there before and is nobody else's business.
fn make_temporary(session: &Session, random: &mut fastrand::Rng) -> Result<PathBuf, CliError> {
    let base = Path::new(session.environment.get("TMPDIR").unwrap_or("/tmp"));
    loop {
        let mark: String = std::iter::repeat_with(|| random.alphanumeric()).take(8).collect();
        let dir = base.join(format!("nexusctl-quickstart-{mark}"));
        match DirBuilder::new().mode(0o700).create(session.resolve(&dir)) {
            Ok(()) => return make(&session.resolve(&dir)).map(|()| dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot_create(&dir, &error)),
        }
    }
}

fn refused(error: QuickstartError, session: &Session) -> CliError {
    let text = error.to_string();
    match error {
        QuickstartError::Broker(error) => error.into(),
        QuickstartError::Apply(error) => error.into(),
        QuickstartError::Stopped => {
            CliError::new(code::STOPPED, session.stop.status(), "stopped; what was made is removed")
        }
        QuickstartError::Init(_) => CliError::new(code::FILE, ExitStatus::Failed, text)
            .hint("choose another directory with `--dir`"),
        QuickstartError::Name(_) => CliError::usage(text),
        QuickstartError::Files(findings) => {
            let mut error = CliError::new(code::INTERNAL, ExitStatus::Internal, text);
            error.findings = findings;
            error
        }
        QuickstartError::Unexpected { .. } => CliError::failed(text),
    }
}
