//! The program as a user runs it: a home of its own, a broker with nothing in it, real processes that
//! are signalled and killed, and brokers that only one test uses.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nexus::base::id::QueueName;
use nexus::broker::{
    Broker, Change, ConsumerOptions, QueueDefinition, QueueDepth, QueueType, Settlement,
};

use super::{Node, Vhost};

// ------------------------------------------------------------------- places

/// A broker with nothing in it, and a home for the programs that use it.
pub struct Place {
    pub url: String,
    pub management: Option<String>,
    pub vhost: Option<Vhost>,
    pub home: tempfile::TempDir,
}

impl Place {
    pub fn embedded() -> Place {
        let home = tempfile::tempdir().unwrap();
        let url = format!("embedded:{}", home.path().join("state.db").display());
        Place { url, management: None, vhost: None, home }
    }

    pub fn on(node: &Node, purpose: &str) -> Place {
        let vhost = node.vhost(purpose);
        Place {
            url: vhost.amqp_url(),
            management: Some(vhost.management_url()),
            vhost: Some(vhost),
            home: tempfile::tempdir().unwrap(),
        }
    }

    pub fn open(kind: &str, purpose: &str) -> Option<Place> {
        match kind {
            "embedded" => Some(Place::embedded()),
            "rabbitmq_3_10" => Node::from_env("3_10").map(|node| Place::on(&node, purpose)),
            _ => Node::from_env("4_0").map(|node| Place::on(&node, purpose)),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// The program with these arguments, and nothing of this process's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        self.wrapped(&[], args)
    }

    /// The same, started by another program.
    pub fn wrapped(&self, by: &[&str], args: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_nexusctl");
        let mut command = match by {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir(self.home.path())
            // First: what follows a `--` is another program's.
            .args(["--broker", &self.url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(management) = &self.management {
            command.args(["--management-url", management]);
        }
        command.args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().unwrap())
    }

    pub fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // What it does not read is no fault of this test.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::from(child.wait_with_output().unwrap())
    }

    /// Asks the broker without the program.
    pub fn ask<T>(&self, question: impl AsyncFnOnce(&dyn Broker) -> T) -> T {
        super::fixture::ask(&self.url, self.management.as_deref(), question)
    }

    pub fn declare(&self, name: &str) {
        let definition = QueueDefinition::durable(queue(name), QueueType::Classic);
        self.ask(async |broker| broker.change(&Change::DeclareQueue(definition)).await.unwrap());
    }

    /// Publishes each line, and expects that it is confirmed.
    pub fn put(&self, name: &str, lines: &str) {
        self.run_with(&["publish", "", name, "--lines"], lines.as_bytes()).is(0);
    }

    /// How many messages wait once nobody holds any.
    pub fn waiting(&self, name: &str) -> u64 {
        self.ask(async |broker| quiet_depth(broker, name).await)
    }

    /// All bodies that wait once nobody holds any, taken out.
    pub fn drain(&self, name: &str) -> Vec<String> {
        self.ask(async |broker| {
            let expected = quiet_depth(broker, name).await;
            let mut consumer =
                broker.consumer(&queue(name), ConsumerOptions::default()).await.unwrap();
            let mut bodies = Vec::new();
            for _ in 0..expected {
                let next = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await;
                let delivery = next.expect("a message that the queue counts").unwrap();
                consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
                bodies.push(String::from_utf8_lossy(&delivery.message.body).into_owned());
            }
            consumer.close().await.unwrap();
            assert_eq!(depth(broker, name).await.ready, 0, "the queue counted {expected}");
            bodies
        })
    }
}

pub fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub async fn depth(broker: &dyn Broker, name: &str) -> QueueDepth {
    broker.depth(&queue(name)).await.unwrap().unwrap()
}

pub async fn quiet_depth(broker: &dyn Broker, name: &str) -> u64 {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let now = depth(broker, name).await;
        if now.consumers == 0 {
            return now.ready;
        }
        assert!(Instant::now() < end, "somebody still consumes {name}: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ---------------------------------------------------------------- processes

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            status: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    #[track_caller]
    pub fn is(self, status: i32) -> Ran {
        assert_eq!(self.status, Some(status), "stdout: {}\nstderr: {}", self.out(), self.stderr);
        self
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        let all = format!("{}{}", self.out(), self.stderr);
        for word in words {
            assert!(all.contains(word), "`{word}` is not said in:\n{all}");
        }
    }
}

/// A program in the background; does not outlive its test.
pub struct Running(pub Option<Child>);

impl Running {
    pub fn start(command: &mut Command) -> Running {
        Running(Some(command.spawn().unwrap()))
    }

    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    pub fn signal(&mut self, name: &str) {
        signal(self.child().id(), name);
    }

    pub fn end(mut self) -> Ran {
        Ran::from(self.0.take().unwrap().wait_with_output().unwrap())
    }

    /// Waits for its end, at most so long.
    #[track_caller]
    pub fn ends_within(mut self, limit: Duration) -> Ran {
        let end = Instant::now() + limit;
        while !self.has_ended() {
            if Instant::now() >= end {
                self.child().kill().unwrap();
                panic!("still running after {limit:?}: {:?}", self.end());
            }
            pause();
        }
        self.end()
    }

    /// Kills it in the middle of its work.
    #[track_caller]
    pub fn kill(mut self) {
        assert!(!self.has_ended(), "it ended before it was killed: {:?}", self.end());
        self.child().kill().unwrap();
        self.end();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill {name} {pid}");
}

pub fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Waits until a file holds so many bytes, while `running` goes on.
#[track_caller]
pub fn await_bytes(path: &Path, bytes: u64, running: &mut Running) {
    let end = Instant::now() + Duration::from_secs(30);
    while fs::metadata(path).map_or(0, |meta| meta.len()) < bytes {
        assert!(Instant::now() < end, "{} stays too short", path.display());
        if running.has_ended() {
            let ran = Running(running.0.take()).end();
            panic!("it ended before it wrote {}: {ran:?}", path.display());
        }
        pause();
    }
}

/// How often to kill.
#[expect(clippy::disallowed_methods, reason = "tests/run.sh hands the number over this way")]
pub fn kills() -> u64 {
    std::env::var("NEXUSCTL_TEST_KILLS").map_or(3, |text| text.parse().unwrap())
}

/// The whole lines of a file; what a kill cut off is left out.
pub fn whole_lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect()
}

/// Line numbers that a report of `publish` calls confirmed.
pub fn confirmed_lines(report: &Path) -> BTreeSet<u64> {
    whole_lines(report)
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|entry| entry["fate"] == "confirmed")
        .map(|entry| entry["line"].as_u64().unwrap())
        .collect()
}

/// The number before ` after` in a text.
pub fn number_before(text: &str, after: &str) -> Option<u64> {
    text.split_once(after)?.0.rsplit([' ', '\n']).next()?.trim().parse().ok()
}

pub fn numbers(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

pub fn as_numbers(bodies: &[String]) -> Vec<u64> {
    bodies.iter().map(|body| body.parse().unwrap()).collect()
}

/// A node that only this test uses, so that it may be hung and killed.
pub struct OwnNode {
    pub node: Node,
    _directory: tempfile::TempDir,
}

impl OwnNode {
    pub fn start(version: &str) -> Option<OwnNode> {
        // A node for the tests tells whether this machine can run one.
        Node::from_env(&version.replace('.', "_"))?;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node");
        OwnNode::script(&["start", version, &path.display().to_string()]);
        let node = Node::in_directory(&path.display().to_string());
        Some(OwnNode { node, _directory: directory })
    }

    #[track_caller]
    pub fn script(args: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broker.sh");
        let output = Command::new("bash").arg(script).args(args).output().unwrap();
        assert!(output.status.success(), "broker.sh {args:?}: {output:?}");
    }

    pub fn restart(&mut self) {
        OwnNode::script(&["restart", &self.node.dir]);
        self.node = Node::in_directory(&self.node.dir);
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broker.sh");
        // What is stopped cannot be asked to end.
        let _ = Command::new("kill").args(["-CONT", &self.node.pid.to_string()]).status();
        let _ = Command::new("bash").args([script, "stop", &self.node.dir]).output();
    }
}

/// A small disk; unmounted when it is dropped.
pub struct SmallDisk(pub tempfile::TempDir);

impl SmallDisk {
    pub fn mount() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(SmallDisk(directory))
    }

    pub fn enlarge(&self) {
        let done =
            Command::new("mount").args(["-o", "remount,size=64m"]).arg(self.0.path()).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is just ending elsewhere may still hold a file on it for a moment,
        // and a mount left behind outlives the directory of the whole test run.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        if !std::thread::panicking() {
            assert!(unmounted.unwrap().success(), "the small disk stays mounted");
        }
    }
}
