//! The file of contexts: `$XDG_CONFIG_HOME/nexusctl/config.yaml`.
//!
//! It may hold a password inside a URL, so it is written for its owner only, and refused when others
//! can read such a password. It is replaced as a whole by a rename: a crash leaves the old or the new.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::base::document::{Entries, Spanned, decode, document_struct, read_documents, to_yaml};
use crate::base::id::VhostName;
use crate::base::suggest::nearest;
use crate::base::time::HumanDuration;
use crate::project::files::{FileError, read_source};

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;

document_struct! {
    /// Named ways to reach a broker, and which of them is in use.
    #[derive(Default)]
    pub struct ContextFile {
        /// The context in use unless flag, environment or project name one.
        pub current: Option<Spanned<String>>,
        /// The contexts by name.
        pub contexts: Entries<ContextSpec> = Entries(Vec::new()),
    }
}

document_struct! {
    /// How to reach one broker, and how careful to be there.
    #[derive(Default)]
    pub struct ContextSpec {
        /// The broker: `amqp://…`, `amqps://…` or `embedded:[PATH]`.
        pub amqp_url as "amqp_url": Option<Spanned<String>>,
        /// The management API, when it is not where the broker's URL suggests.
        pub management_url as "management_url": Option<Spanned<String>>,
        /// The virtual host.
        pub vhost: Option<VhostName>,
        /// Certificates.
        pub tls: Option<TlsSpec>,
        /// A file whose first line is the password.
        pub password_file as "password_file": Option<String>,
        /// A command whose first line of output is the password.
        pub credential_command as "credential_command": Option<String>,
        /// Whether every change wants the context's name as consent.
        pub protected: bool = false,
        /// Whether every change is refused.
        pub read_only as "read_only": bool = false,
        /// The cluster this context is for; another one is refused.
        pub expected_cluster_name as "expected_cluster_name": Option<String>,
        /// The longest wait for any answer.
        pub timeout: Option<HumanDuration>,
        /// How reports are printed: `table`, `json`, `yaml` or `ndjson`.
        pub output: Option<Spanned<String>>,
        /// The state file of the embedded broker and of journals.
        pub state: Option<String>,
    }
}

document_struct! {
    /// Certificates of a context.
    #[derive(Default)]
    pub struct TlsSpec {
        /// The certificate authority to trust (PEM).
        pub ca: Option<String>,
        /// The client certificate (PEM).
        pub cert: Option<String>,
        /// Its key (PEM).
        pub key: Option<String>,
        /// The name to expect in the server's certificate.
        pub server_name as "server_name": Option<String>,
    }
}

/// The contexts and where they are kept.
#[derive(Clone, Debug)]
pub struct Contexts {
    /// The file; it need not exist.
    pub path: PathBuf,
    /// What it says.
    pub file: ContextFile,
}

impl Contexts {
    /// Reads the file at `path`; one that does not exist is empty.
    ///
    /// # Errors
    /// When it cannot be read, is wrong, or lets others read a password.
    pub fn read(path: &Path) -> Result<Contexts, CliError> {
        let shown = path.display().to_string();
        let source = match read_source(path, &shown) {
            Ok(source) => source,
            Err(FileError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Contexts { path: path.to_owned(), file: ContextFile::default() });
            }
            Err(error) => return Err(wrong(&shown, error)),
        };
        let mut documents = read_documents(&source)
            .map_err(|findings| wrong(&shown, FileError::Wrong(findings)))?;
        let file = match documents.len() {
            0 => ContextFile::default(),
            1 => decode::<ContextFile>(&documents.remove(0))
                .map_err(|findings| wrong(&shown, FileError::Wrong(findings)))?,
            _ => {
                let message = format!("{shown} must be one document");
                return Err(CliError::settings(message));
            }
        };
        let contexts = Contexts { path: path.to_owned(), file };
        contexts.refuse_readable_secrets()?;
        Ok(contexts)
    }

    fn refuse_readable_secrets(&self) -> Result<(), CliError> {
        let holds_password = |url: &Option<Spanned<String>>| {
            url.as_ref().is_some_and(|url| crate::telemetry::logs::redact(url) != url.value)
        };
        let holder = self.file.contexts.iter().find(|(_, context)| {
            holds_password(&context.amqp_url) || holds_password(&context.management_url)
        });
        let Some((name, _)) = holder else { return Ok(()) };
        let mode = std::fs::metadata(&self.path).map_or(0, |meta| meta.permissions().mode());
        if mode & 0o077 == 0 {
            return Ok(());
        }
        let path = self.path.display();
        Err(CliError::settings(format!(
            "{path} holds a password (context `{name}`) and others may read it"
        ))
        .object(name.value.clone())
        .hint(format!("chmod 600 {path}")))
    }

    /// The context called `name`.
    ///
    /// # Errors
    /// When there is none; the error names the nearest.
    pub fn get(&self, name: &str) -> Result<&ContextSpec, CliError> {
        self.file.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            let error = CliError::new(
                code::UNKNOWN_NAME,
                ExitStatus::BadSettings,
                format!("there is no context `{name}`"),
            )
            .object(name);
            match nearest(name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None if names.is_empty() => error.hint(
                    "there are no contexts yet; `nexusctl context add NAME --broker URL` makes one",
                ),
                None => error.hint(format!("there are: {}", names.join(", "))),
            }
        })
    }

    /// The names of all contexts, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file.contexts.iter().map(|(name, _)| name.value.as_str())
    }

    /// The name of the context in use, as the file says.
    pub fn current(&self) -> Option<&str> {
        self.file.current.as_ref().map(|name| name.value.as_str())
    }

    /// Reads the file, lets `change` work on it, and writes it back, with everybody else kept out. A
    /// dry run does not write.
    ///
    /// # Errors
    /// What reading, `change` or writing fail with; the file is then as before.
    pub fn update<T>(
        path: &Path,
        dry_run: bool,
        change: impl FnOnce(&mut Contexts) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        if dry_run {
            return change(&mut Contexts::read(path)?);
        }
        // A link to the file, as dotfile managers make, stays a link.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |error: io::Error| {
            CliError::file(format!("write {}", path.display()), &error)
                .with_status(ExitStatus::Failed)
        };
        let dir = target.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(target.with_extension("lock"))
            .map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut contexts = Contexts::read(path)?;
        let value = change(&mut contexts)?;
        write_privately(&target, to_yaml(&contexts.file).as_bytes()).map_err(failed)?;
        Ok(value)
    }
}

/// Replaces the file at `path` by `bytes`, readable by its owner only, whole or not at all.
fn write_privately(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    let written = file
        .set_permissions(PermissionsExt::from_mode(0o600))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The old file is still there; what is left of the new one is of no use to anybody.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    File::open(dir)?.sync_all()
}

fn wrong(shown: &str, error: FileError) -> CliError {
    match error {
        FileError::Unreadable { error, .. } => {
            CliError::settings(format!("cannot read {shown}: {error}"))
        }
        FileError::Wrong(findings) => {
            let mut error = CliError::settings(format!("the contexts in {shown} cannot be used"));
            error.findings = findings;
            error
        }
    }
}

/// Whether `name` may name a context.
pub fn is_name(name: &str) -> bool {
    crate::project::directory::is_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_that_is_not_there_has_no_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::read(&dir.path().join("none.yaml")).unwrap();
        assert_eq!(contexts.names().count(), 0);
    }

    #[test]
    fn others_may_read_a_file_without_passwords_and_none_with() {
        let safe = "contexts: {a: {amqp_url: 'amqp://u@h'}}";
        let (_dir, path) = file(safe, 0o644);
        assert!(Contexts::read(&path).is_ok());
        let secret = "contexts: {a: {amqp_url: 'amqp://u:p@h'}}";
        let (_dir, path) = file(secret, 0o640);
        let error = Contexts::read(&path).unwrap_err();
        assert_eq!(error.status, ExitStatus::BadSettings);
        assert_eq!(error.hint, Some(format!("chmod 600 {}", path.display())));
        let (_dir, path) = file(secret, 0o600);
        assert!(Contexts::read(&path).is_ok());
    }

    #[test]
    fn an_update_keeps_the_rest_is_private_and_follows_a_link() {
        let (dir, path) = file("current: a\ncontexts: {a: {timeout: 5s}}", 0o644);
        let link = dir.path().join("link.yaml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Contexts::update(&link, false, |contexts| {
            let spec = ContextSpec { protected: true, ..ContextSpec::default() };
            contexts.file.contexts.0.push(("b".to_owned().into(), spec));
            Ok(())
        })
        .unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "current: a\ncontexts:\n  a:\n    timeout: 5s\n  b:\n    protected: true\n"
        );
    }

    #[test]
    fn a_failed_update_leaves_the_file_as_it_was() {
        let (_dir, path) = file("current: a\n", 0o600);
        let result = Contexts::update(&path, false, |contexts| {
            contexts.file.current = None;
            Err::<(), _>(CliError::failed("no"))
        });
        assert!(result.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "current: a\n");
    }

    #[test]
    fn all_findings_of_a_wrong_file_are_shown() {
        let (_dir, path) = file("curent: a\ncontexts: {a: {timeout: 5}}\n", 0o600);
        let error = Contexts::read(&path).unwrap_err();
        assert_eq!(error.findings.0.len(), 2);
    }
}
