//! Telling others of an alert: a command, or a message. Each within its time; what fails is said by
//! whoever asked for it, and changes nothing here.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::base::time::{Clock, HumanDuration};
use crate::broker::{Broker, Outcome, Publish, PublisherOptions};
use crate::delivery::compose::{Composer, EnvelopeParts};
use crate::message::Properties;

/// What the envelope of an alert is called.
pub const MESSAGE_TYPE: &str = "dead-letters.alert";

/// Bytes of what a command says that are shown when it fails.
const SAID: usize = 400;

/// Runs `line` in a shell: `document` is its standard input, `variables` are added to its environment.
///
/// # Errors
/// Why it did not end well, in words. It is killed, with all that it started in its process group, when
/// it takes longer than `most`.
pub async fn command(
    line: &str,
    document: &str,
    variables: &[(&'static str, String)],
    most: Duration,
) -> Result<(), String> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", line])
        .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command that does not read has not failed by that.
                let _ = stdin.write_all(document.as_bytes()).await;
            }
        };
        let hear = async {
            let mut said = Vec::new();
            if let Some(mut stderr) = stderr {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = stderr.read(&mut piece).await {
                    let room = SAID.saturating_sub(said.len());
                    said.extend_from_slice(&piece[..read.min(room)]);
                }
            }
            String::from_utf8_lossy(&said).trim().to_owned()
        };
        let ((), said) = tokio::join!(feed, hear);
        (child.wait().await, said)
    };
    match timeout(most, work).await {
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(status), said)) if said.is_empty() => Err(format!("it failed: {status}")),
        Ok((Ok(status), said)) => Err(format!("it failed: {status}: {said}")),
        Ok((Err(error), _)) => Err(format!("it cannot be waited for: {error}")),
        Err(_) => {
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            Err(format!("it did not end within {} and was killed", HumanDuration(most)))
        }
    }
}

/// Where an alert is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The exchange.
    pub exchange: ExchangeName,
    /// The routing key.
    pub key: RoutingKey,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let (exchange, key) = text.split_once(':').ok_or("write EXCHANGE:KEY")?;
        let exchange = ExchangeName::new(exchange).map_err(|error| error.to_string())?;
        let key = RoutingKey::new(key).map_err(|error| error.to_string())?;
        Ok(Address { exchange, key })
    }
}

/// Publishes `document` as the payload of an envelope, and waits until the broker has it.
///
/// # Errors
/// Why it did not arrive, in words.
pub async fn message(
    broker: &dyn Broker,
    address: &Address,
    document: &str,
    clock: &Arc<dyn Clock>,
    seed: u64,
) -> Result<(), String> {
    let parts = EnvelopeParts {
        message_type: MESSAGE_TYPE.to_owned(),
        sender: "nexusctl".to_owned(),
        ..EnvelopeParts::default()
    };
    let random = fastrand::Rng::with_seed(seed);
    let mut composer =
        Composer::new(Properties::default(), Arc::clone(clock), random).enveloped(parts);
    let message = composer.compose(0, document.as_bytes().to_vec())?;
    let options = PublisherOptions { window: 1, reconnect: false };
    let mut publisher = broker.publisher(options).await.map_err(|error| error.to_string())?;
    let Address { exchange, key } = address.clone();
    let publish = Publish { exchange, routing_key: key, message };
    let sent = publisher.send(publish).await.map_err(|error| error.to_string());
    let outcome = match sent {
        Ok(_) => publisher.outcome().await.map(|(_, outcome)| outcome),
        Err(error) => return Err(error),
    };
    // Its outcome is known; a way out that does not close well changes nothing.
    let _ = publisher.close().await;
    match outcome {
        Some(Outcome::Confirmed) => Ok(()),
        Some(Outcome::Returned { code, text }) => Err(format!("no queue took it: {code} {text}")),
        Some(Outcome::Nacked) => Err("the broker refused it".to_owned()),
        Some(Outcome::Failed(error)) => Err(error.to_string()),
        Some(Outcome::Unknown { why }) => Err(format!("it may have arrived or not: {why}")),
        None => Err("the broker did not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(line: &str, most: Duration) -> Result<(), String> {
        let variables = [("NEXUSCTL_ALERT_QUEUE", "dead.jobs".to_owned())];
        command(line, "{\"a\":1}", &variables, most).await
    }

    #[tokio::test]
    async fn a_command_gets_the_alert_and_its_failure_is_told() {
        let long = Duration::from_secs(30);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let line = format!("cat > {0}; echo $NEXUSCTL_ALERT_QUEUE >> {0}", out.display());
        run(&line, long).await.unwrap();
        assert_eq!(std::fs::read_to_string(out).unwrap(), "{\"a\":1}dead.jobs\n");
        run("true", long).await.unwrap();
        let error = run("echo no pager >&2; exit 3", long).await.unwrap_err();
        assert_eq!(error, "it failed: exit status: 3: no pager");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let line = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        // Long enough to have begun; how long it takes is not what is tested.
        let error = run(&line, Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(error, "it did not end within 2s and was killed");
        let pid = std::fs::read_to_string(pid).unwrap();
        let state = format!("/proc/{}/stat", pid.trim());
        // Dead, or dead and not yet buried.
        let is_dead = || std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..1000 {
            if is_dead() {
                return;
            }
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
        assert!(is_dead(), "the child lives on");
    }

    #[test]
    fn an_address_is_an_exchange_and_a_key() {
        let address: Address = "alerts:dead.letters".parse().unwrap();
        assert_eq!((address.exchange.as_str(), address.key.as_str()), ("alerts", "dead.letters"));
        assert_eq!(":ops".parse::<Address>().unwrap().exchange.as_str(), "");
        assert!("alerts".parse::<Address>().is_err());
    }
}
