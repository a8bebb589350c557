//! A machine of its own for each test: home, working directory, environment, streams, clock.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nexus::base::time::{FixedClock, SystemClock, Timestamp};
use nexus::broker::connect::{Target, TlsOptions, connect};
use nexus::broker::{Broker, Lock, LockHolder};
use nexus::cli::host::{Environment, Host, Input, Output};
use nexus::cli::signals::Stop;
use nexus::message::reply::{ErrorAnswer, mark_error};

use crate::support::responder::{Responder, answer_to};

/// What a command did.
#[derive(Debug, Clone)]
#[must_use = "compare it, or ask for `.ok()`"]
pub(crate) struct Ran {
    pub(crate) status: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) stdout_bytes: Vec<u8>,
}

impl Ran {
    /// Everything a person sees, in one text.
    pub(crate) fn shown(&self) -> String {
        let mut text = self.stdout.clone();
        if !self.stderr.is_empty() {
            text.push_str("------- stderr -------\n");
            text.push_str(&self.stderr);
        }
        if self.status != 0 {
            text.push_str(&format!("[exit status: {}]\n", self.status));
        }
        text
    }

    /// Its stdout, after checking that it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}", self.shown());
        self.stdout
    }

    /// Its stdout, after checking that the verdict was no.
    #[track_caller]
    pub(crate) fn verdict_no(self) -> String {
        assert_eq!(self.status, 2, "{}", self.shown());
        self.stdout
    }

    /// Its stdout as one JSON document, whatever its status.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{}", self.shown()))
    }
}

#[derive(Clone, Default)]
pub(crate) struct Buffer(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

/// A machine.
pub(crate) struct Machine {
    root: tempfile::TempDir,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    pub(crate) terminal: bool,
    pub(crate) stop: Stop,
    pub(crate) real_time: bool,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("nexusctl").tempdir().unwrap();
        let home = root.path().join("home");
        let cwd = root.path().join("work");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&cwd).unwrap();
        let environment = BTreeMap::from([
            ("HOME".to_owned(), home.display().to_string()),
            ("USER".to_owned(), "tester".to_owned()),
        ]);
        Machine { root, environment, cwd, terminal: false, stop: Stop::default(), real_time: false }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cwd.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A shell script that can be run.
    pub(crate) fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, &format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs `nexusctl` with words split as a shell does, without its expansions.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_with(line, b"")
    }

    /// The same, with standard input.
    pub(crate) fn run_with(&self, line: &str, stdin: &[u8]) -> Ran {
        let words = split(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.run_args(&words, stdin)
    }

    pub(crate) fn run_args(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let (stdout, stderr) = (Buffer::default(), Buffer::default());
        let status = self.run_on(
            args,
            Box::new(io::Cursor::new(stdin.to_vec())),
            Box::new(stdout.clone()),
            Box::new(stderr.clone()),
        );
        let stdout_bytes = stdout.bytes();
        Ran {
            status,
            stdout: self.redact(&String::from_utf8_lossy(&stdout_bytes)),
            stderr: self.redact(&String::from_utf8_lossy(&stderr.bytes())),
            stdout_bytes,
        }
    }

    pub(crate) fn run_on(
        &self,
        args: &[&str],
        stdin: Box<dyn io::Read + Send>,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
    ) -> u8 {
        let host = Host {
            stdin: Input { reader: stdin, is_terminal: self.terminal },
            stdout: Output { writer: stdout, file: None, is_terminal: self.terminal },
            stderr: Output { writer: stderr, file: None, is_terminal: self.terminal },
            environment: Environment(self.environment.clone()),
            cwd: self.cwd.clone(),
            columns: Some(100),
            clock: if self.real_time {
                Arc::new(SystemClock)
            } else {
                Arc::new(FixedClock::at(Timestamp::from_unix_ms(1_700_000_000_000)))
            },
            seed: 42,
            stop: self.stop.clone(),
            is_process: false,
        };
        let args = std::iter::once("nexusctl").chain(args.iter().copied()).map(OsString::from);
        nexus::cli::run(args, host).number()
    }

    /// Holds the lock of `topology apply` on this machine's own embedded broker.
    pub(crate) fn hold_the_lock(&self) -> HeldLock {
        // Any command makes the state file.
        self.run("topology export -q").ok();
        let state = self.root.path().join("home/.local/state/nexusctl/state.db");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let target = Target {
            url: format!("embedded:{}", state.display()).parse().unwrap(),
            management: None,
            vhost: None,
            tls: TlsOptions::default(),
            timeout: Duration::from_secs(20),
            client_name: "nexusctl tests".to_owned(),
        };
        let holder = LockHolder {
            who: "the test".to_owned(),
            since: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let held = runtime.block_on(async {
            let broker = connect(target, Arc::new(SystemClock), 1).await.unwrap();
            let lock = broker.lock("topology./", &holder).await.unwrap();
            (broker, lock)
        });
        HeldLock { held: Some(held), runtime }
    }

    /// Paths of this machine become `[root]`.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.root.path().display().to_string(), "[root]")
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }
}

impl Machine {
    /// The state file of the project in the working directory, or of this machine.
    fn state(&self) -> PathBuf {
        let of_project = self.cwd.join(".nexus/state.db");
        let own = self.root.path().join("home/.local/state/nexusctl/state.db");
        if of_project.exists() { of_project } else { own }
    }

    /// Starts somebody who answers every request that comes to `queue` with `answer`, until it is
    /// dropped. An answer that begins with `!` is an error answer.
    pub(crate) fn respond(&self, queue: &str, answer: &str) -> Responding {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let target = Target {
            url: format!("embedded:{}", self.state().display()).parse().unwrap(),
            management: None,
            vhost: None,
            tls: TlsOptions::default(),
            timeout: Duration::from_secs(20),
            client_name: "nexusctl tests".to_owned(),
        };
        let answer = answer.to_owned();
        let (broker, responder) = runtime.block_on(async {
            let broker = connect(target, Arc::new(SystemClock), 1).await.unwrap();
            let responder = Responder::start(Arc::clone(&broker), queue, move |request| {
                let mut message = answer_to(request, answer.trim_start_matches('!'));
                if let Some(reason) = answer.strip_prefix('!') {
                    let error = ErrorAnswer { reason: reason.to_owned(), code: None };
                    mark_error(&mut message.properties, &error);
                }
                vec![message]
            })
            .await;
            (broker, responder)
        });
        Responding { broker, responder: Some(responder), runtime }
    }
}

/// Somebody who answers, until it is dropped.
pub(crate) struct Responding {
    broker: Arc<dyn Broker>,
    responder: Option<Responder>,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Responding {
    fn drop(&mut self) {
        self.responder = None;
        let closed = self.runtime.block_on(self.broker.close());
        if !std::thread::panicking() {
            closed.unwrap();
        }
    }
}

/// A lock that somebody else holds, until it is dropped.
pub(crate) struct HeldLock {
    held: Option<(Arc<dyn Broker>, Box<dyn Lock>)>,
    runtime: tokio::runtime::Runtime,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let Some((broker, lock)) = self.held.take() else { return };
        self.runtime.block_on(async {
            lock.release().await.unwrap();
            broker.close().await.unwrap();
        });
    }
}

/// Words as a POSIX shell splits them: blanks, single and double quotes, backslashes.
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(chars.by_ref().take_while(|c| *c != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => word.extend(chars.next()),
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn words_split_like_a_shell() {
    assert_eq!(split(r#"a 'b c' "d \"e" f\ g ''"#), ["a", "b c", "d \"e", "f g", ""]);
}
