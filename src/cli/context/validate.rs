//! `context validate`: whether a context can be used, step by step.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::broker::Broker;
use crate::cli::connect::Connector;
use crate::cli::credentials;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::session::Session;
use crate::cli::settings::{PasswordSource, Settings};

/// Arguments of `context validate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Status 78 when the context cannot be used, 69 or 77 when connecting fails.\n\n\
    Examples:\n  nexusctl context validate local\n  \
    nexusctl context validate local --connect -o json"
)]
pub(super) struct ValidateArgs {
    /// The context; the settings in effect when left out
    #[arg(value_name = "CONTEXT")]
    name: Option<String>,
    /// Connect, and look at what the broker lets be seen
    #[arg(long)]
    connect: bool,
}

/// What was tried, in order, up to the first that matters to the rest.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContextValidationView {
    /// The context; null for settings without one.
    context: Option<String>,
    /// The broker, without its password.
    broker: String,
    /// Whether every check went well.
    valid: bool,
    /// One item for each check.
    checks: Vec<CheckView>,
}

/// One check.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CheckView {
    /// What was looked at.
    subject: String,
    /// Whether it is well.
    ok: bool,
    /// What was found.
    detail: String,
    /// What to do next.
    hint: Option<String>,
}

impl View for ContextValidationView {
    const KIND: &'static str = "ContextValidation";
    const ITEMS: Option<&'static str> = Some("checks");
    fn text(&self, page: &mut Page) {
        for check in &self.checks {
            let mark = if check.ok { page.style.good("ok") } else { page.style.bad("failed") };
            page.line(format!("{mark} {}: {}", check.subject, check.detail));
            if let Some(hint) = &check.hint {
                page.line(format!("   hint: {hint}"));
            }
        }
    }
}

/// Gathers checks and the status of the first that fails.
struct Checks {
    list: Vec<CheckView>,
    status: ExitStatus,
}

impl Checks {
    fn ok(&mut self, subject: &str, detail: impl Into<String>) {
        self.list.push(CheckView {
            subject: subject.to_owned(),
            ok: true,
            detail: detail.into(),
            hint: None,
        });
    }

    fn failed(&mut self, subject: &str, error: &CliError) {
        if self.status == ExitStatus::Done {
            self.status = error.status;
        }
        let mut detail = error.message.clone();
        for cause in &error.causes {
            detail.push_str("; ");
            detail.push_str(cause);
        }
        self.list.push(CheckView {
            subject: subject.to_owned(),
            ok: false,
            detail,
            hint: error.hint.clone(),
        });
    }

    fn file(&mut self, subject: &str, path: &Path) {
        match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(meta) if meta.is_file() => self.ok(subject, path.display().to_string()),
            Ok(_) => {
                let error = CliError::settings(format!("{} is no file", path.display()));
                self.failed(subject, &error);
            }
            Err(error) => {
                let error = CliError::settings(format!("cannot read {}: {error}", path.display()));
                self.failed(subject, &error);
            }
        }
    }
}

/// Checks everything, then connects when asked to.
pub(super) fn run(args: ValidateArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ValidateArgs { name, connect } = args;
    if name.is_some() {
        session.global.context = name;
    }
    let settings = session.settings()?;
    let mut checks = Checks { list: Vec::new(), status: ExitStatus::Done };
    checks.ok("settings", format!("broker {}", settings.broker.value));
    files(&settings, &mut checks);
    password(&settings, session, &mut checks);
    if connect && checks.status == ExitStatus::Done {
        match Connector::of(session) {
            Ok(target) => reach(&target, session, &mut checks)?,
            Err(error) => checks.failed("password", &error),
        }
    }
    let view = ContextValidationView {
        context: settings.context.as_ref().map(|context| context.value.clone()),
        broker: settings.broker.value.to_string(),
        valid: checks.status == ExitStatus::Done,
        checks: checks.list,
    };
    session.ui.report(&view)?;
    Ok(checks.status)
}

fn files(settings: &Settings, checks: &mut Checks) {
    for (subject, path) in [
        ("TLS authority", &settings.tls_ca),
        ("TLS certificate", &settings.tls_cert),
        ("TLS key", &settings.tls_key),
    ] {
        if let Some(path) = path {
            checks.file(subject, &path.value);
        }
    }
}

/// Whether the password can be had. What is typed or piped is left for connecting.
fn password(settings: &Settings, session: &mut Session, checks: &mut Checks) {
    let Some(source) = &settings.password else { return };
    if source.value == PasswordSource::Stdin {
        return;
    }
    match credentials::fetch(session, &source.value, settings.timeout()) {
        Ok(_) => checks.ok("password", source.value.to_string()),
        Err(error) => checks.failed("password", &error),
    }
}

fn reach(target: &Connector, session: &Session, checks: &mut Checks) -> Result<(), CliError> {
    session.drive(async {
        let broker: Arc<dyn Broker> = match target.connect().await {
            Ok(broker) => broker,
            Err(error) => {
                checks.failed("connection", &error);
                return Ok(());
            }
        };
        let identity = broker.identity();
        checks.ok(
            "connection",
            format!(
                "{} {} of cluster {}, vhost {}",
                if target.login().is_some() {
                    "RabbitMQ"
                } else {
                    "embedded broker, like RabbitMQ"
                },
                identity.version,
                identity.cluster_name,
                identity.vhost
            ),
        );
        match broker.inspect().await {
            Ok(snapshot) => {
                checks.ok(
                    "reading",
                    format!(
                        "{}, {}, {}",
                        count(snapshot.exchanges.len() as u64, "exchange"),
                        count(snapshot.queues.len() as u64, "queue"),
                        count(snapshot.bindings.len() as u64, "binding")
                    ),
                );
                if let Some(allowed) = &snapshot.permissions {
                    checks.ok(
                        "permissions",
                        format!(
                            "{}: configure `{}`, write `{}`, read `{}`",
                            allowed.user, allowed.configure, allowed.write, allowed.read
                        ),
                    );
                }
            }
            Err(error) => checks.failed("reading", &error.into()),
        }
        let _ = broker.close().await;
        Ok(())
    })
}
