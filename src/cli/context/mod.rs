//! `nexusctl context …`: named ways to reach a broker.

mod validate;
mod view;

use std::path::Path;

use clap::{Args, Subcommand};

use crate::base::document::{Entries, Spanned};

use super::args::GlobalArgs;
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::session::Session;
use super::settings::contexts::{ContextFile, ContextSpec, Contexts, TlsSpec, is_name};
use super::settings::{Settings, of_context};

use validate::ValidateArgs;

pub use validate::ContextValidationView;
pub use view::{ContextListView, ContextView, CurrentContextView, EffectiveSettingsView};

/// Arguments of `context`.
#[derive(Debug, Args)]
pub struct ContextArgs {
    /// What to do.
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// Add a context from the global options given with it
    Add(AddArgs),
    /// List all contexts
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Make a context the current one
    Use(UseArgs),
    /// Show a context, or every setting in effect
    Show(ShowArgs),
    /// Look for mistakes in a context, and try to connect
    Validate(ValidateArgs),
    /// Print the name of the context in use
    Current(CurrentArgs),
    /// Remove a context
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

/// Arguments of `context add`.
#[derive(Debug, Args)]
#[command(
    after_help = "The broker, vhost, TLS files, timeout, read-only and output come from the \
    global options.\n\nExamples:\n  \
    nexusctl context add local --broker amqp://guest:guest@localhost:5672\n  \
    nexusctl context add prod --broker amqps://nexus@rabbit.example:5671 \
    --password-file /run/secrets/rabbit --protected\n  \
    nexusctl context add scratch --broker embedded: --use"
)]
struct AddArgs {
    /// The name: letters, digits, `-`, `_`, `.`
    name: String,
    /// Read the password from the first line of this file
    #[arg(long, value_name = "FILE", conflicts_with = "credential_command")]
    password_file: Option<String>,
    /// Run this command and take the first line it prints as password
    #[arg(long, value_name = "COMMAND")]
    credential_command: Option<String>,
    /// Want the context's name as consent to every change
    #[arg(long)]
    protected: bool,
    /// Refuse to work with any other cluster than this
    #[arg(long, value_name = "NAME")]
    expected_cluster_name: Option<String>,
    /// Keep the embedded broker and journals in this file
    #[arg(long, value_name = "FILE")]
    state: Option<String>,
    /// Replace a context of this name
    #[arg(long)]
    replace: bool,
    /// Make it the current context
    #[arg(long = "use")]
    use_it: bool,
    /// Show the result, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl context list\n  nexusctl context list -o json")]
struct ListArgs {}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl context use local\n  nexusctl context use --none")]
struct UseArgs {
    /// The context
    #[arg(value_name = "CONTEXT", required_unless_present = "none")]
    name: Option<String>,
    /// Use no context
    #[arg(long, conflicts_with = "name")]
    none: bool,
    /// Show the result, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl context show local\n  \
    nexusctl context show --effective")]
struct ShowArgs {
    /// The context; the one in use when left out
    #[arg(value_name = "CONTEXT")]
    name: Option<String>,
    /// Show every setting in effect and where it comes from
    #[arg(long)]
    effective: bool,
}

#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "Status 2 when no context is in use.\n\n\
    Examples:\n  nexusctl context current\n  nexusctl context current -o json")]
struct CurrentArgs {}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl context remove scratch\n  \
    nexusctl context remove prod --confirm prod")]
struct RemoveArgs {
    /// The context
    #[arg(value_name = "CONTEXT")]
    name: String,
    /// Show the result, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs one of the commands.
pub(super) fn run(args: ContextArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ContextArgs { command } = args;
    match command {
        ContextCommand::Add(args) => add(args, session),
        ContextCommand::List(args) => list(args, session),
        ContextCommand::Use(args) => use_context(args, session),
        ContextCommand::Show(args) => show(args, session),
        ContextCommand::Validate(args) => validate::run(args, session),
        ContextCommand::Current(args) => current(args, session),
        ContextCommand::Remove(args) => remove(args, session),
    }
}

fn add(args: AddArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let (name, replace, use_it) = (args.name.clone(), args.replace, args.use_it);
    let dry_run = args.dry_run;
    if !is_name(&name) {
        return Err(CliError::usage(format!("`{name}` is no name for a context"))
            .hint("a name has letters, digits, `-`, `_`, `.`, and begins with a letter or digit"));
    }
    let spec = spec_of(args, &session.global, session)?;
    let path = session.config_path()?;
    // Refuse what could not be used later.
    of_context(&name, &spec, path.parent().unwrap_or(Path::new(".")))?;
    let view = ContextView::new(&name, &spec, use_it);
    Contexts::update(&path, dry_run, |contexts| {
        let ContextFile { current, contexts: Entries(entries) } = &mut contexts.file;
        match entries.iter_mut().find(|(known, _)| known.value == name) {
            Some((_, known)) if replace => *known = spec,
            Some(_) => {
                return Err(CliError::failed(format!("there is a context `{name}` already"))
                    .object(&name)
                    .hint("`--replace` replaces it"));
            }
            None => entries.push((Spanned::nowhere(name.clone()), spec)),
        }
        if use_it {
            *current = Some(Spanned::nowhere(name.clone()));
        }
        Ok(())
    })?;
    session.ui.report(&view)?;
    let done = if dry_run { "would be" } else { "is" };
    session.ui.status(format!("context `{name}` {done} in {}", path.display()));
    Ok(ExitStatus::Done)
}

/// What the flags say, as it goes into the file. Paths become absolute: the file is elsewhere.
fn spec_of(args: AddArgs, global: &GlobalArgs, session: &Session) -> Result<ContextSpec, CliError> {
    let AddArgs {
        name: _,
        password_file,
        credential_command,
        protected,
        expected_cluster_name,
        state,
        replace: _,
        use_it: _,
        dry_run: _,
    } = args;
    if global.password_stdin {
        return Err(CliError::usage("a context keeps no password that is typed or piped")
            .hint("`--password-file FILE` or `--credential-command COMMAND` keep it elsewhere"));
    }
    let absolute = |path: &Path| session.resolve(path).display().to_string();
    let tls = TlsSpec {
        ca: global.tls_ca.as_deref().map(absolute),
        cert: global.tls_cert.as_deref().map(absolute),
        key: global.tls_key.as_deref().map(absolute),
        server_name: global.tls_server_name.clone(),
    };
    let vhost = global
        .vhost
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error| CliError::usage(format!("--vhost: {error}")))?;
    Ok(ContextSpec {
        amqp_url: global.broker.clone().map(Spanned::nowhere),
        management_url: global.management_url.clone().map(Spanned::nowhere),
        vhost,
        tls: (tls != TlsSpec::default()).then_some(tls),
        password_file: password_file.map(|path| absolute(Path::new(&path))),
        credential_command,
        protected,
        read_only: global.read_only,
        expected_cluster_name,
        timeout: global.timeout,
        output: global.output.map(|format| Spanned::nowhere(format.as_str().to_owned())),
        state: state.map(|path| absolute(Path::new(&path))),
    })
}

fn list(args: ListArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ListArgs {} = args;
    let contexts = Contexts::read(&session.config_path()?)?;
    let in_use = in_use(session, &contexts);
    session.ui.report(&ContextListView::new(&contexts.file, in_use.as_deref()))?;
    if contexts.names().next().is_none() && !session.ui.format.is_machine() {
        session.ui.status("no contexts; `nexusctl context add NAME --broker URL` makes one");
    }
    Ok(ExitStatus::Done)
}

/// The context that a command would use now, as far as it can be told.
fn in_use(session: &mut Session, contexts: &Contexts) -> Option<String> {
    match session.settings() {
        Ok(settings) => settings.context.as_ref().map(|context| context.value.clone()),
        Err(_) => contexts.current().map(str::to_owned),
    }
}

fn use_context(args: UseArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let UseArgs { name, none: _, dry_run } = args;
    Contexts::update(&session.config_path()?, dry_run, |contexts| {
        if let Some(name) = &name {
            contexts.get(name)?;
        }
        contexts.file.current = name.clone().map(Spanned::nowhere);
        Ok(())
    })?;
    session.ui.report(&CurrentContextView { name: name.clone() })?;
    if let Some(by) = session.environment.get("NEXUSCTL_CONTEXT").map(str::to_owned) {
        session.ui.warning(format!("NEXUSCTL_CONTEXT={by} is stronger and stays in effect"));
    }
    Ok(ExitStatus::Done)
}

fn show(args: ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ShowArgs { name, effective } = args;
    if effective {
        if name.is_some() {
            session.global.context = name;
        }
        let settings = session.settings()?;
        session.ui.report(&EffectiveSettingsView::new(&settings))?;
        return Ok(ExitStatus::Done);
    }
    let contexts = Contexts::read(&session.config_path()?)?;
    let in_use = in_use(session, &contexts);
    let Some(name) = name.or_else(|| in_use.clone()) else { return Err(no_context()) };
    let spec = contexts.get(&name)?;
    session.ui.report(&ContextView::new(&name, spec, in_use.as_deref() == Some(&name)))?;
    Ok(ExitStatus::Done)
}

fn no_context() -> CliError {
    CliError::new(code::UNKNOWN_NAME, ExitStatus::Negative, "no context is in use")
        .hint("`nexusctl context use NAME` chooses one; `nexusctl context list` lists all")
}

fn current(args: CurrentArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let CurrentArgs {} = args;
    let settings = session.settings()?;
    let Settings { context, .. } = settings.as_ref();
    let view = CurrentContextView { name: context.as_ref().map(|context| context.value.clone()) };
    if view.name.is_none() && !session.ui.format.is_machine() {
        return Err(no_context());
    }
    session.ui.report(&view)?;
    Ok(if view.name.is_some() { ExitStatus::Done } else { ExitStatus::Negative })
}

fn remove(args: RemoveArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RemoveArgs { name, dry_run } = args;
    let confirmed = session.global.confirm.as_deref() == Some(&name);
    let view = Contexts::update(&session.config_path()?, dry_run, |contexts| {
        let spec = contexts.get(&name)?;
        if spec.protected && !confirmed {
            return Err(CliError::consent(format!("the context `{name}` is protected"))
                .object(&name)
                .hint(format!("nothing was changed; add `--confirm {name}` to agree")));
        }
        let view = ContextView::new(&name, spec, false);
        contexts.file.contexts.0.retain(|(known, _)| known.value != name);
        if contexts.current() == Some(&name) {
            contexts.file.current = None;
        }
        Ok(view)
    })?;
    session.ui.report(&view)?;
    let done = if dry_run { "would be" } else { "is" };
    session.ui.status(format!("context `{name}` {done} removed"));
    Ok(ExitStatus::Done)
}
