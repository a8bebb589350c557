//! Getting the password from where the settings say it is, and into the broker's URL.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::base::secret::Secret;
use crate::base::url::{AmqpUrl, BrokerUrl};

use super::error::CliError;
use super::session::Session;
use super::settings::{PasswordSource, Settings};

/// Longer passwords are somebody's mistake.
const LONGEST: u64 = 64 * 1024;

/// The broker's URL with everything in it that the settings know: vhost, password, state file.
///
/// # Errors
/// When a password is needed and cannot be had.
pub fn complete_url(session: &mut Session, settings: &Settings) -> Result<BrokerUrl, CliError> {
    match settings.broker.value.clone() {
        BrokerUrl::Embedded(mut url) => {
            url.path.get_or_insert_with(|| settings.state.value.clone());
            Ok(BrokerUrl::Embedded(url))
        }
        BrokerUrl::Amqp(url) => complete_amqp(session, settings, url).map(BrokerUrl::Amqp),
    }
}

fn complete_amqp(
    session: &mut Session,
    settings: &Settings,
    mut url: AmqpUrl,
) -> Result<AmqpUrl, CliError> {
    if let Some(vhost) = &settings.vhost {
        url.vhost = vhost.value.clone();
    }
    let source = settings.password.as_ref().filter(|source| {
        // Within one layer the more particular wins; a stronger layer always does.
        url.password.is_none() || source.origin <= settings.broker.origin
    });
    if let Some(source) = source {
        url.password = Some(fetch(session, &source.value, settings.timeout())?);
    } else if url.password.is_none() && settings.tls_cert.is_none() {
        return Err(CliError::settings(format!("no password is known for `{}`", url.username))
            .object(url.to_string())
            .hint(
                "set NEXUSCTL_PASSWORD, pipe it to `--password-stdin`, or give the context a \
                 password_file or credential_command",
            ));
    }
    Ok(url)
}

/// The password itself. A command is given `timeout`.
///
/// # Errors
/// When it cannot be had, or is empty.
pub fn fetch(
    session: &mut Session,
    source: &PasswordSource,
    timeout: Duration,
) -> Result<Secret, CliError> {
    let password = match source {
        PasswordSource::Given(secret) => return Ok(secret.clone()),
        PasswordSource::Stdin => session.read_line()?,
        PasswordSource::File(path) => from_file(path)?,
        PasswordSource::Command(command) => from_command(command, timeout)?,
    };
    if password.is_empty() {
        return Err(CliError::settings(format!(
            "{source} holds no password: its first line is empty"
        )));
    }
    Ok(Secret::new(password))
}

fn from_file(path: &Path) -> Result<String, CliError> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        CliError::settings(format!("cannot read the password file {shown}: {error}"))
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    first_line(file).map_err(failed)
}

fn first_line(stream: impl Read) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn from_command(command: &str, timeout: Duration) -> Result<String, CliError> {
    let failed = |why: String| {
        CliError::settings(format!("the credential command `{command}` {why}"))
            .hint("it has to print the password on its first line and end with status 0")
    };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let (send, receive) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut stdout = stdout;
            let line = first_line(&mut stdout);
            // What it says beyond its first line must not make it wait for a reader.
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
            let _ = send.send(line);
        });
    }
    let end = Instant::now() + timeout;
    match receive.recv_timeout(timeout) {
        Ok(line) => {
            // It may have closed its output and go on running.
            let status = loop {
                match child.try_wait().map_err(|error| failed(error.to_string()))? {
                    Some(status) => break status,
                    None if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                    None => return Err(failed(ended(&mut child, timeout))),
                }
            };
            if !status.success() {
                return Err(failed(format!("failed: {status}")));
            }
            line.map_err(|error| failed(format!("printed no text: {error}")))
        }
        Err(_) => Err(failed(ended(&mut child, timeout))),
    }
}

/// Ends a command that took too long, and says so.
fn ended(child: &mut Child, timeout: Duration) -> String {
    let _ = child.kill();
    let _ = child.wait();
    format!("did not end within {} s", timeout.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_command_gives_its_first_line() {
        let long = Duration::from_secs(20);
        assert_eq!(from_command("printf 'hunter2\\r\\nmore\\n'", long).unwrap(), "hunter2");
        let error = from_command("echo x; exit 3", long).unwrap_err();
        assert!(error.message.contains("exit status: 3"), "{}", error.message);
    }

    #[test]
    fn a_credential_command_that_hangs_is_ended() {
        let error = from_command("exec cat /dev/zero >/dev/null", Duration::from_millis(50));
        let error = error.unwrap_err();
        assert!(error.message.ends_with("did not end within 0.05 s"), "{}", error.message);
    }
}
