//! What the `context` commands print. Passwords are never in it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::telemetry::logs::redact;

use crate::cli::output::{Page, View};
use crate::cli::settings::contexts::{ContextFile, ContextSpec};
use crate::cli::settings::{Origin, Settings, Sourced};

/// One context.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContextView {
    /// Its name.
    name: String,
    /// Whether it is in use.
    in_use: bool,
    /// The broker's URL, without its password.
    broker: Option<String>,
    /// The management API, without its password.
    management_url: Option<String>,
    /// The virtual host, when it is not in the URL.
    vhost: Option<String>,
    /// Where the password comes from.
    password: Option<String>,
    /// Whether every change wants the context's name.
    protected: bool,
    /// Whether every change is refused.
    read_only: bool,
    /// The cluster that is meant.
    expected_cluster_name: Option<String>,
    /// The longest wait for any answer.
    timeout: Option<String>,
    /// How reports are printed.
    output: Option<String>,
    /// The state file.
    state: Option<String>,
    /// The certificate authority to trust.
    tls_ca: Option<String>,
    /// The client certificate.
    tls_cert: Option<String>,
    /// Its key.
    tls_key: Option<String>,
    /// The name in the server's certificate.
    tls_server_name: Option<String>,
}

impl ContextView {
    /// The context called `name`.
    pub fn new(name: &str, spec: &ContextSpec, in_use: bool) -> Self {
        let tls = spec.tls.clone().unwrap_or_default();
        let password = match (&spec.password_file, &spec.credential_command) {
            (Some(file), _) => Some(format!("file {file}")),
            (None, Some(command)) => Some(format!("command `{command}`")),
            (None, None) => None,
        };
        ContextView {
            name: name.to_owned(),
            in_use,
            broker: spec.amqp_url.as_ref().map(|url| redact(url)),
            management_url: spec.management_url.as_ref().map(|url| redact(url)),
            vhost: spec.vhost.as_ref().map(ToString::to_string),
            password,
            protected: spec.protected,
            read_only: spec.read_only,
            expected_cluster_name: spec.expected_cluster_name.clone(),
            timeout: spec.timeout.map(|timeout| timeout.to_string()),
            output: spec.output.as_ref().map(ToString::to_string),
            state: spec.state.clone(),
            tls_ca: tls.ca,
            tls_cert: tls.cert,
            tls_key: tls.key,
            tls_server_name: tls.server_name,
        }
    }
}

impl View for ContextView {
    const KIND: &'static str = "Context";
    fn text(&self, page: &mut Page) {
        let mark = if self.in_use { " (in use)" } else { "" };
        let name = page.style.strong(&self.name);
        page.line(format!("{name}{mark}"));
        let yes = |flag: bool| flag.then(|| "yes".to_owned());
        let rows = [
            ("broker", &self.broker),
            ("management", &self.management_url),
            ("vhost", &self.vhost),
            ("password", &self.password),
            ("protected", &yes(self.protected)),
            ("read-only", &yes(self.read_only)),
            ("cluster", &self.expected_cluster_name),
            ("timeout", &self.timeout),
            ("output", &self.output),
            ("state", &self.state),
            ("TLS authority", &self.tls_ca),
            ("TLS certificate", &self.tls_cert),
            ("TLS key", &self.tls_key),
            ("TLS server name", &self.tls_server_name),
        ];
        for (label, value) in rows {
            if let Some(value) = value {
                page.line(format!("  {label}: {value}"));
            }
        }
    }
}

/// All contexts.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContextListView {
    /// One item for each.
    contexts: Vec<ContextView>,
}

impl ContextListView {
    /// The contexts of `file`, of which `in_use` is in use.
    pub fn new(file: &ContextFile, in_use: Option<&str>) -> Self {
        let contexts = file
            .contexts
            .iter()
            .map(|(name, spec)| ContextView::new(name, spec, in_use == Some(&name.value)))
            .collect();
        ContextListView { contexts }
    }
}

impl View for ContextListView {
    const KIND: &'static str = "ContextList";
    const ITEMS: Option<&'static str> = Some("contexts");
    fn text(&self, page: &mut Page) {
        let rows = self
            .contexts
            .iter()
            .map(|context| {
                let mut notes = Vec::new();
                if context.protected {
                    notes.push("protected");
                }
                if context.read_only {
                    notes.push("read-only");
                }
                [
                    if context.in_use { "*" } else { "" }.to_owned(),
                    context.name.clone(),
                    context.broker.clone().unwrap_or_default(),
                    context.vhost.clone().unwrap_or_default(),
                    notes.join(", "),
                ]
            })
            .collect();
        page.table(["", "NAME", "BROKER", "VHOST", "NOTES"], rows);
    }
}

/// The name of the context in use.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CurrentContextView {
    /// The name; null when none is in use.
    pub name: Option<String>,
}

impl View for CurrentContextView {
    const KIND: &'static str = "CurrentContext";
    fn text(&self, page: &mut Page) {
        page.line(self.name.as_deref().unwrap_or("(none)"));
    }
}

/// Every setting in effect.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveSettingsView {
    /// One item for each setting that has a value.
    settings: Vec<SettingView>,
}

/// One setting.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SettingView {
    /// Its name, as in a context.
    name: String,
    /// Its value, passwords blotted out.
    value: String,
    /// Where it was said.
    origin: String,
}

impl EffectiveSettingsView {
    /// What `settings` holds.
    pub fn new(settings: &Settings) -> Self {
        let Settings {
            broker,
            management_url,
            vhost,
            timeout,
            tls_ca,
            tls_cert,
            tls_key,
            tls_server_name,
            password,
            protected,
            read_only,
            expected_cluster_name,
            output,
            state,
            context,
            project,
            warnings: _,
        } = settings;
        let mut list = Vec::new();
        let mut add = |name: &str, value: String, origin: &Origin| {
            list.push(SettingView { name: name.to_owned(), value, origin: origin.to_string() });
        };
        if let Some(Sourced { value, origin }) = context {
            add("context", value.clone(), origin);
        }
        if let Some(project) = project {
            add("project", project.root.display().to_string(), &Origin::Project);
        }
        macro_rules! optional {
            ($($name:literal: $field:expr => $show:expr,)*) => {
                $(if let Some(Sourced { value, origin }) = $field {
                    add($name, $show(value), origin);
                })*
            };
        }
        add("amqp_url", broker.value.to_string(), &broker.origin);
        optional! {
            "management_url": management_url => ToString::to_string,
            "vhost": vhost => ToString::to_string,
            "password": password => ToString::to_string,
            "tls.ca": tls_ca => |path: &std::path::PathBuf| path.display().to_string(),
            "tls.cert": tls_cert => |path: &std::path::PathBuf| path.display().to_string(),
            "tls.key": tls_key => |path: &std::path::PathBuf| path.display().to_string(),
            "tls.server_name": tls_server_name => String::clone,
            "expected_cluster_name": expected_cluster_name => String::clone,
        }
        add("timeout", timeout.value.to_string(), &timeout.origin);
        add("protected", protected.value.to_string(), &protected.origin);
        add("read_only", read_only.value.to_string(), &read_only.origin);
        add("output", output.value.as_str().to_owned(), &output.origin);
        add("state", state.value.display().to_string(), &state.origin);
        EffectiveSettingsView { settings: list }
    }
}

impl View for EffectiveSettingsView {
    const KIND: &'static str = "EffectiveSettings";
    const ITEMS: Option<&'static str> = Some("settings");
    fn text(&self, page: &mut Page) {
        let rows = self
            .settings
            .iter()
            .map(|setting| [setting.name.clone(), setting.value.clone(), setting.origin.clone()])
            .collect();
        page.table(["SETTING", "VALUE", "FROM"], rows);
    }
}
