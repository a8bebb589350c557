//! Settings: flag > `NEXUSCTL_*` > context > project > default, folded once, origins kept.
//!
//! ```text
//! flags ─┐
//! environment ─┤
//! context ─────┼─▶ PartialSettings::combine ─▶ Settings
//! project ─────┤
//! defaults ────┘
//! ```
//!
//! What belongs to a context's broker (password, certificates, vhost, management API) is used only
//! with that broker: naming another one with a flag never sends it the context's password.

pub mod contexts;
pub mod environment;
pub mod partial;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::id::VhostName;
use crate::base::secret::Secret;
use crate::base::time::HumanDuration;
use crate::base::url::{BrokerUrl, EmbeddedUrl, ManagementUrl, UrlError};
use crate::project::Project;
use crate::project::files::FileError;
use crate::project::spec::PROJECT_FILE;

use super::args::GlobalArgs;
use super::error::CliError;
use super::exit::ExitStatus;
use super::host::Environment;
use super::output::Format;

use contexts::{ContextSpec, Contexts};
pub use partial::{Origin, PartialSettings, PasswordSource, Sourced};

/// How long any answer is waited for unless something else is said.
pub const DEFAULT_TIMEOUT: HumanDuration = HumanDuration::from_ms(30_000);

/// Every setting of a run, and where it came from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The broker. An embedded one without a path is on `state`.
    pub broker: Sourced<BrokerUrl>,
    /// The management API, when it was named.
    pub management_url: Option<Sourced<ManagementUrl>>,
    /// The virtual host, when it was named outside the URL.
    pub vhost: Option<Sourced<VhostName>>,
    /// The longest wait for any answer.
    pub timeout: Sourced<HumanDuration>,
    /// The certificate authority to trust.
    pub tls_ca: Option<Sourced<PathBuf>>,
    /// The client certificate.
    pub tls_cert: Option<Sourced<PathBuf>>,
    /// Its key.
    pub tls_key: Option<Sourced<PathBuf>>,
    /// The name in the server's certificate.
    pub tls_server_name: Option<Sourced<String>>,
    /// The password, when it is not in the URL.
    pub password: Option<Sourced<PasswordSource>>,
    /// Whether every change wants the context's name.
    pub protected: Sourced<bool>,
    /// Whether every change is refused.
    pub read_only: Sourced<bool>,
    /// The cluster that is meant.
    pub expected_cluster_name: Option<Sourced<String>>,
    /// How reports are printed.
    pub output: Sourced<Format>,
    /// The state file.
    pub state: Sourced<PathBuf>,
    /// The context in use.
    pub context: Option<Sourced<String>>,
    /// The project around the work.
    pub project: Option<Project>,
    /// Things worth a word on stderr.
    pub warnings: Vec<String>,
}

/// The machine as settings see it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// The working directory.
    pub cwd: &'a Path,
}

/// Where contexts are kept: `--config`, `NEXUSCTL_CONFIG`, `$XDG_CONFIG_HOME/nexusctl/config.yaml`.
///
/// # Errors
/// When neither of them nor a home directory is known.
pub fn config_path(global: &GlobalArgs, around: Surroundings<'_>) -> Result<PathBuf, CliError> {
    if let Some(path) = &global.config {
        return Ok(around.cwd.join(path));
    }
    if let Some(path) = around.environment.get("NEXUSCTL_CONFIG") {
        return Ok(around.cwd.join(path));
    }
    around.environment.config_dir().map(|dir| dir.join("config.yaml")).ok_or_else(|| {
        CliError::settings("cannot tell where contexts are kept: HOME is not set")
            .hint("set HOME or XDG_CONFIG_HOME, or give `--config FILE`")
    })
}

/// The project in effect: `--project`, `NEXUSCTL_PROJECT`, or the one around the working directory.
///
/// # Errors
/// When a named directory is none, or its `nexus.yaml` is wrong.
pub fn project(global: &GlobalArgs, around: Surroundings<'_>) -> Result<Option<Project>, CliError> {
    let named = match (&global.project, around.environment.get("NEXUSCTL_PROJECT")) {
        (Some(dir), _) => Some((dir.clone(), "--project")),
        (None, Some(dir)) => Some((PathBuf::from(dir), "NEXUSCTL_PROJECT")),
        (None, None) => None,
    };
    let (root, shown) = match named {
        Some((dir, by)) => {
            let root = around.cwd.join(&dir);
            if !root.join(PROJECT_FILE).is_file() {
                return Err(CliError::settings(format!(
                    "{by} names {}, which has no {PROJECT_FILE}",
                    dir.display()
                ))
                .hint(format!("`nexusctl init {}` makes a project", dir.display())));
            }
            (root, dir.join(PROJECT_FILE))
        }
        None => match Project::root_around(around.cwd) {
            None => return Ok(None),
            Some(root) if root == around.cwd => (root, PathBuf::from(PROJECT_FILE)),
            Some(root) => {
                let shown = root.join(PROJECT_FILE);
                (root, shown)
            }
        },
    };
    let shown = shown.display().to_string();
    Project::read(&root, &shown).map(Some).map_err(|error| match error {
        FileError::Unreadable { .. } => CliError::settings(error.to_string()),
        FileError::Wrong(findings) => {
            let mut error = CliError::settings(format!("the project file {shown} is wrong"));
            error.findings = findings;
            error
        }
    })
}

impl Settings {
    /// Reads all layers and folds them.
    ///
    /// # Errors
    /// When any layer is wrong.
    pub fn resolve(global: &GlobalArgs, around: Surroundings<'_>) -> Result<Settings, CliError> {
        let mut warnings = environment::unknown(around.environment);
        let project = project(global, around)?;
        let flags = from_flags(global, around.cwd, &mut warnings)?;
        let variables = from_environment(around)?;
        let (context, layer) = from_context(global, around, project.as_ref())?;
        let strong = flags.combine(variables);
        let layer = match (&strong.broker, &layer.broker) {
            // Another broker than the context's.
            (Some(_), _) => layer.without_connection(),
            // A context without a broker adds nothing to the connection of the project or default.
            (None, None) => layer.without_connection(),
            (None, Some(_)) => layer,
        };
        let mut from_project = match &project {
            Some(project) => from_project(project, &mut warnings)?,
            None => PartialSettings::default(),
        };
        if strong.broker.is_some() || layer.broker.is_some() {
            from_project = from_project.without_connection();
        }
        let folded = strong.combine(layer).combine(from_project);
        let state = match folded.state {
            Some(state) => state,
            None => Sourced::new(default_state(project.as_ref(), around)?, Origin::Default),
        };
        let default = |flag: Option<Sourced<bool>>| {
            flag.unwrap_or_else(|| Sourced::new(false, Origin::Default))
        };
        Ok(Settings {
            broker: folded.broker.unwrap_or_else(|| {
                Sourced::new(BrokerUrl::Embedded(EmbeddedUrl::default()), Origin::Default)
            }),
            management_url: folded.management_url,
            vhost: folded.vhost,
            timeout: folded
                .timeout
                .unwrap_or_else(|| Sourced::new(DEFAULT_TIMEOUT, Origin::Default)),
            tls_ca: folded.tls_ca,
            tls_cert: folded.tls_cert,
            tls_key: folded.tls_key,
            tls_server_name: folded.tls_server_name,
            password: folded.password,
            protected: default(folded.protected),
            read_only: default(folded.read_only),
            expected_cluster_name: folded.expected_cluster_name,
            output: folded.output.unwrap_or_else(|| Sourced::new(Format::Table, Origin::Default)),
            state,
            context,
            project,
            warnings,
        })
    }

    /// The same run with another broker, of which only `layer` says anything: nothing that belongs to
    /// this one, its password above all, is sent there.
    #[must_use]
    pub fn with_broker(
        &self,
        layer: PartialSettings,
        context: Option<Sourced<String>>,
    ) -> Settings {
        let default = |flag: Option<Sourced<bool>>| {
            flag.unwrap_or_else(|| Sourced::new(false, Origin::Default))
        };
        let PartialSettings { read_only, protected, .. } = layer;
        Settings {
            broker: layer.broker.unwrap_or_else(|| {
                Sourced::new(BrokerUrl::Embedded(EmbeddedUrl::default()), Origin::Default)
            }),
            management_url: layer.management_url,
            vhost: layer.vhost,
            timeout: self.timeout.clone(),
            tls_ca: layer.tls_ca,
            tls_cert: layer.tls_cert,
            tls_key: layer.tls_key,
            tls_server_name: layer.tls_server_name,
            password: layer.password,
            protected: default(protected),
            read_only: if self.read_only.value {
                self.read_only.clone()
            } else {
                default(read_only)
            },
            expected_cluster_name: layer.expected_cluster_name,
            output: self.output.clone(),
            state: layer.state.unwrap_or_else(|| self.state.clone()),
            context,
            project: None,
            warnings: Vec::new(),
        }
    }

    /// The longest wait for any answer.
    pub fn timeout(&self) -> Duration {
        self.timeout.value.0
    }
}

/// The layer of the context called `name`, and nothing else.
///
/// # Errors
/// When there is none, or one of its values is impossible.
pub fn named_context(
    name: &str,
    global: &GlobalArgs,
    around: Surroundings<'_>,
) -> Result<PartialSettings, CliError> {
    let path = config_path(global, around)?;
    let contexts = Contexts::read(&path)?;
    of_context(name, contexts.get(name)?, path.parent().unwrap_or(Path::new(".")))
}

/// A broker's URL as an option gives it, and what to warn of.
///
/// # Errors
/// When it is none.
pub fn broker_of_flag(
    flag: &'static str,
    url: &str,
    cwd: &Path,
) -> Result<(Sourced<BrokerUrl>, Option<String>), CliError> {
    let shown = crate::telemetry::logs::redact(url);
    let warning = (shown != url).then(|| {
        format!(
            "the password in {flag} can be seen by others in the list of processes; use a context \
             with password_file"
        )
    });
    Ok((read_broker(url, &Origin::Flag(flag), cwd)?, warning))
}

fn default_state(project: Option<&Project>, around: Surroundings<'_>) -> Result<PathBuf, CliError> {
    if let Some(project) = project {
        return Ok(project.state_file());
    }
    around.environment.state_dir().map(|dir| dir.join("state.db")).ok_or_else(|| {
        CliError::settings("cannot tell where the state file is: HOME is not set")
            .hint("set HOME or XDG_STATE_HOME, or work in a project (`nexusctl init`)")
    })
}

fn wrong(origin: &Origin, error: impl std::fmt::Display) -> CliError {
    let error = CliError::settings(format!("{origin}: {error}"));
    match origin {
        Origin::Flag(_) => error.with_status(ExitStatus::Usage),
        _ => error,
    }
}

fn read<T>(text: &str, origin: &Origin) -> Result<Sourced<T>, CliError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match text.parse() {
        Ok(value) => Ok(Sourced::new(value, origin.clone())),
        Err(error) => Err(wrong(origin, error)),
    }
}

fn read_url<T: std::str::FromStr<Err = UrlError>>(
    text: &str,
    origin: &Origin,
) -> Result<Sourced<T>, CliError> {
    text.parse().map(|value| Sourced::new(value, origin.clone())).map_err(|url_error: UrlError| {
        let mut error = wrong(origin, &url_error);
        error.hint = url_error.hint;
        // One status for a vhost that cannot be, whether the URL or the broker shows it.
        if url_error.is_about_vhost {
            error.status = ExitStatus::BadSettings;
        }
        error
    })
}

fn from_flags(
    global: &GlobalArgs,
    cwd: &Path,
    warnings: &mut Vec<String>,
) -> Result<PartialSettings, CliError> {
    // Complete, so that a new flag cannot be forgotten here.
    let GlobalArgs {
        output,
        broker,
        context: _,
        project: _,
        vhost,
        management_url,
        timeout,
        password_stdin,
        tls_ca,
        tls_cert,
        tls_key,
        tls_server_name,
        read_only,
        yes: _,
        confirm: _,
        config: _,
        quiet: _,
        verbose: _,
        color: _,
        no_progress: _,
    } = global;
    for (flag, url) in [("--broker", broker), ("--management-url", management_url)] {
        if url.as_ref().is_some_and(|url| crate::telemetry::logs::redact(url) != *url) {
            warnings.push(format!(
                "the password in {flag} can be seen by others in the list of processes; use \
                 NEXUSCTL_PASSWORD, --password-stdin or a context with password_file"
            ));
        }
    }
    let flag = |flag| Origin::Flag(flag);
    let path = |path: &Option<PathBuf>, name| {
        path.as_ref().map(|path| Sourced::new(cwd.join(path), Origin::Flag(name)))
    };
    Ok(PartialSettings {
        broker: broker
            .as_deref()
            .map(|url| read_broker(url, &flag("--broker"), cwd))
            .transpose()?,
        management_url: management_url
            .as_deref()
            .map(|url| read_url(url, &flag("--management-url")))
            .transpose()?,
        vhost: vhost.as_deref().map(|name| read(name, &flag("--vhost"))).transpose()?,
        timeout: timeout.map(|timeout| Sourced::new(timeout, flag("--timeout"))),
        tls_ca: path(tls_ca, "--tls-ca"),
        tls_cert: path(tls_cert, "--tls-cert"),
        tls_key: path(tls_key, "--tls-key"),
        tls_server_name: tls_server_name
            .clone()
            .map(|name| Sourced::new(name, flag("--tls-server-name"))),
        password: password_stdin
            .then(|| Sourced::new(PasswordSource::Stdin, flag("--password-stdin"))),
        protected: None,
        read_only: read_only.then(|| Sourced::new(true, flag("--read-only"))),
        expected_cluster_name: None,
        output: output.map(|format| Sourced::new(format, flag("--output"))),
        state: None,
    })
}

fn from_environment(around: Surroundings<'_>) -> Result<PartialSettings, CliError> {
    let Surroundings { environment, cwd } = around;
    let get =
        |name: &'static str| environment.get(name).map(|value| (value, Origin::Environment(name)));
    let path = |name| get(name).map(|(path, origin)| Sourced::new(cwd.join(path), origin));
    let read_only = match get("NEXUSCTL_READ_ONLY") {
        None => None,
        Some((text, origin)) => match text {
            "1" | "true" | "yes" => Some(Sourced::new(true, origin)),
            "0" | "false" | "no" => Some(Sourced::new(false, origin)),
            _ => return Err(wrong(&origin, format!("`{text}` is neither true nor false"))),
        },
    };
    Ok(PartialSettings {
        broker: get("NEXUSCTL_BROKER")
            .map(|(url, origin)| read_broker(url, &origin, cwd))
            .transpose()?,
        management_url: get("NEXUSCTL_MANAGEMENT_URL")
            .map(|(url, origin)| read_url(url, &origin))
            .transpose()?,
        vhost: get("NEXUSCTL_VHOST").map(|(name, origin)| read(name, &origin)).transpose()?,
        timeout: get("NEXUSCTL_TIMEOUT").map(|(text, origin)| read(text, &origin)).transpose()?,
        tls_ca: path("NEXUSCTL_TLS_CA"),
        tls_cert: path("NEXUSCTL_TLS_CERT"),
        tls_key: path("NEXUSCTL_TLS_KEY"),
        tls_server_name: get("NEXUSCTL_TLS_SERVER_NAME")
            .map(|(name, origin)| Sourced::new(name.to_owned(), origin)),
        password: get("NEXUSCTL_PASSWORD").map(|(password, origin)| {
            Sourced::new(PasswordSource::Given(Secret::new(password)), origin)
        }),
        protected: None,
        read_only,
        expected_cluster_name: None,
        output: get("NEXUSCTL_OUTPUT").map(|(text, origin)| read(text, &origin)).transpose()?,
        state: path("NEXUSCTL_STATE"),
    })
}

/// The context in use and its layer: named by flag, environment, project or the file itself.
fn from_context(
    global: &GlobalArgs,
    around: Surroundings<'_>,
    project: Option<&Project>,
) -> Result<(Option<Sourced<String>>, PartialSettings), CliError> {
    let named = match (&global.context, around.environment.get("NEXUSCTL_CONTEXT"), project) {
        (Some(name), _, _) => Some(Sourced::new(name.clone(), Origin::Flag("--context"))),
        (None, Some(name), _) => {
            Some(Sourced::new(name.to_owned(), Origin::Environment("NEXUSCTL_CONTEXT")))
        }
        (None, None, Some(project)) => project
            .file
            .context
            .as_ref()
            .map(|name| Sourced::new(name.value.clone(), Origin::Project)),
        (None, None, None) => None,
    };
    let path = match config_path(global, around) {
        Ok(path) => path,
        // Without a home there are no contexts; that matters only to whoever names one.
        Err(error) if named.is_some() => return Err(error),
        Err(_) => return Ok((None, PartialSettings::default())),
    };
    let contexts = Contexts::read(&path)?;
    let name = named
        .or_else(|| contexts.current().map(|name| Sourced::new(name.to_owned(), Origin::Current)));
    let Some(name) = name else { return Ok((None, PartialSettings::default())) };
    let dir = path.parent().unwrap_or(Path::new("."));
    let layer = of_context(&name.value, contexts.get(&name.value)?, dir)?;
    Ok((Some(name), layer))
}

/// The layer of one context. Relative paths in it start from `dir`, where its file is.
///
/// # Errors
/// When one of its values is impossible.
pub fn of_context(name: &str, spec: &ContextSpec, dir: &Path) -> Result<PartialSettings, CliError> {
    let origin = Origin::Context(name.to_owned());
    let ContextSpec {
        amqp_url,
        management_url,
        vhost,
        tls,
        password_file,
        credential_command,
        protected,
        read_only,
        expected_cluster_name,
        timeout,
        output,
        state,
    } = spec;
    let sourced = |value: bool| value.then(|| Sourced::new(true, origin.clone()));
    let path = |path: &Option<String>| {
        path.as_ref().map(|path| Sourced::new(dir.join(path), origin.clone()))
    };
    let tls = tls.clone().unwrap_or_default();
    let password = match (password_file, credential_command) {
        (Some(_), Some(_)) => {
            return Err(wrong(&origin, "has both password_file and credential_command")
                .hint("keep one of them"));
        }
        (Some(file), None) => Some(PasswordSource::File(dir.join(file))),
        (None, Some(command)) => Some(PasswordSource::Command(command.clone())),
        (None, None) => None,
    };
    Ok(PartialSettings {
        broker: amqp_url.as_ref().map(|url| read_broker(url, &origin, dir)).transpose()?,
        management_url: management_url.as_ref().map(|url| read_url(url, &origin)).transpose()?,
        vhost: vhost.clone().map(|vhost| Sourced::new(vhost, origin.clone())),
        timeout: timeout.map(|timeout| Sourced::new(timeout, origin.clone())),
        tls_ca: path(&tls.ca),
        tls_cert: path(&tls.cert),
        tls_key: path(&tls.key),
        tls_server_name: tls.server_name.map(|name| Sourced::new(name, origin.clone())),
        password: password.map(|password| Sourced::new(password, origin.clone())),
        protected: sourced(*protected),
        read_only: sourced(*read_only),
        expected_cluster_name: expected_cluster_name
            .clone()
            .map(|name| Sourced::new(name, origin.clone())),
        output: output.as_ref().map(|text| read(text, &origin)).transpose()?,
        state: path(state),
    })
}

fn from_project(
    project: &Project,
    warnings: &mut Vec<String>,
) -> Result<PartialSettings, CliError> {
    let origin = Origin::Project;
    let file = &project.file;
    if file.broker.as_ref().is_some_and(|url| crate::telemetry::logs::redact(url) != url.value) {
        warnings.push(
            "nexus.yaml holds a password, which whoever reads the project can see; put the URL \
             into a context"
                .to_owned(),
        );
    }
    Ok(PartialSettings {
        broker: file
            .broker
            .as_ref()
            .map(|url| read_broker(url, &origin, &project.root))
            .transpose()?,
        vhost: file.vhost.clone().map(|vhost| Sourced::new(vhost, origin.clone())),
        timeout: file.timeout.map(|timeout| Sourced::new(timeout, origin.clone())),
        state: file.state.as_ref().map(|_| Sourced::new(project.state_file(), origin.clone())),
        ..PartialSettings::default()
    })
}

/// A broker's URL; the path of an embedded one starts from `dir`.
fn read_broker(text: &str, origin: &Origin, dir: &Path) -> Result<Sourced<BrokerUrl>, CliError> {
    let mut url: Sourced<BrokerUrl> = read_url(text, origin)?;
    if let BrokerUrl::Embedded(EmbeddedUrl { path: Some(path), .. }) = &mut url.value {
        *path = dir.join(&*path);
    }
    Ok(url)
}
