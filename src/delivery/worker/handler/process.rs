//! A command that is started for each message.
//!
//! The body is its standard input, the properties are in its environment and, when asked for, as a
//! JSON record on a descriptor. Its exit status is the answer, its standard output the result. It runs
//! in a process group of its own, and nothing of that group is left when the answer is given.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::base::time::HumanDuration;
use crate::broker::Delivery;
use crate::delivery::sink::record_of;
use crate::message::record::write_record;
use crate::message::{FieldTable, FieldValue};
use crate::resilience::classification::{Class, Failure};

use super::guard::{Group, Guard};
use super::tail::Tail;
use super::{Answer, Ending, Fault, Handler, HandlerError, Job, JobId, Output};

/// Hears what commands write to their standard error, in pieces that end with a line where possible.
pub type Listener = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What to run and how.
#[derive(Clone)]
pub struct CommandSpec {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where it runs.
    pub directory: Option<PathBuf>,
    /// How many run at once, at least 1.
    pub jobs: usize,
    /// How long it may take for one message.
    pub timeout: Option<Duration>,
    /// How long it may take to end after it was asked to, before it is killed.
    pub kill_after: Duration,
    /// Whether its standard output is kept; else nobody reads it.
    pub keep_output: bool,
    /// The most bytes of output for one message.
    pub max_output: usize,
    /// The descriptor on which it finds the message as a record.
    pub record_fd: Option<i32>,
    /// The queue, as messages name it.
    pub queue: String,
    /// Hears its standard error.
    pub listener: Listener,
}

impl std::fmt::Debug for CommandSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandSpec").field("program", &self.program).finish_non_exhaustive()
    }
}

impl CommandSpec {
    /// The command as a person would write it, cut short.
    pub fn shown(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        let mut text = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        if text.chars().count() > 60 {
            text = text.chars().take(57).chain("...".chars()).collect();
        }
        text
    }

    /// What to say about a command that cannot be started; `None` when the machine only lacks
    /// something for the moment.
    pub(super) fn cannot_start(&self, error: &io::Error) -> Option<HandlerError> {
        use io::ErrorKind::{NotFound, OutOfMemory, PermissionDenied, WouldBlock};
        let hint = match error.kind() {
            WouldBlock | OutOfMemory => return None,
            NotFound => "give the path of a program, or a name that is found in PATH",
            PermissionDenied => "make the file executable, or name its interpreter first",
            _ => "run the command by hand to see what is wrong",
        };
        Some(HandlerError {
            attempted: format!("start the command `{}`", self.shown()),
            cause: error.to_string(),
            hint: hint.to_owned(),
        })
    }

    pub(super) fn command(&self) -> std::process::Command {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments).stderr(Stdio::piped()).process_group(0);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

/// A value in the environment is at most so long; longer ones are only in the record.
const VALUE_BYTES: usize = 16 * 1024;
/// All of them together.
const ENVIRONMENT_BYTES: usize = 96 * 1024;

/// The variables that tell a command about its message. What is too long for an environment, or holds
/// a zero byte, is left out; the record has everything.
pub fn environment_of(delivery: &Delivery, queue: &str, attempt: u32) -> Vec<(String, String)> {
    let properties = &delivery.message.properties;
    let text = |value: &Option<String>| value.clone();
    let mut all: Vec<(String, Option<String>)> = vec![
        ("NEXUS_QUEUE".into(), Some(queue.to_owned())),
        ("NEXUS_EXCHANGE".into(), Some(delivery.exchange.as_str().to_owned())),
        ("NEXUS_ROUTING_KEY".into(), Some(delivery.routing_key.as_str().to_owned())),
        ("NEXUS_REDELIVERED".into(), Some(u8::from(delivery.redelivered).to_string())),
        ("NEXUS_ATTEMPT".into(), Some(attempt.to_string())),
        ("NEXUS_MESSAGE_ID".into(), text(&properties.message_id)),
        ("NEXUS_TYPE".into(), text(&properties.kind)),
        ("NEXUS_APP_ID".into(), text(&properties.app_id)),
        ("NEXUS_CORRELATION_ID".into(), text(&properties.correlation_id)),
        ("NEXUS_REPLY_TO".into(), text(&properties.reply_to)),
        ("NEXUS_CONTENT_TYPE".into(), text(&properties.content_type)),
        ("NEXUS_CONTENT_ENCODING".into(), text(&properties.content_encoding)),
        ("NEXUS_USER_ID".into(), text(&properties.user_id)),
        ("NEXUS_PRIORITY".into(), properties.priority.map(|priority| priority.to_string())),
        ("NEXUS_TIMESTAMP".into(), properties.timestamp.map(|seconds| seconds.to_string())),
    ];
    for (name, value) in properties.headers.iter().flat_map(FieldTable::iter) {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        all.push((format!("NEXUS_HEADER_{name}"), plain(value)));
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut room = ENVIRONMENT_BYTES;
    all.into_iter()
        .filter_map(|(name, value)| {
            let value = value.filter(|v| v.len() <= VALUE_BYTES && !v.contains('\0'))?;
            let bytes = name.len() + value.len() + 2;
            (bytes <= room && seen.insert(name.clone())).then(|| {
                room -= bytes;
                (name, value)
            })
        })
        .collect()
}

fn plain(value: &FieldValue) -> Option<String> {
    match value {
        FieldValue::Void => Some(String::new()),
        FieldValue::Bool(flag) => Some(flag.to_string()),
        FieldValue::Float(number) => Some(number.to_string()),
        FieldValue::Double(number) => Some(number.to_string()),
        FieldValue::Timestamp(seconds) => Some(seconds.to_string()),
        other => other.as_text().map(str::to_owned).or_else(|| Some(other.as_i64()?.to_string())),
    }
}

/// Bytes in memory as something a process can read, from the beginning, as often as it likes.
fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Runs a command for each message.
#[derive(Debug)]
pub struct Processes {
    spec: Arc<CommandSpec>,
    guard: Arc<Guard>,
    running: usize,
    answer: mpsc::UnboundedSender<(JobId, Result<Answer, HandlerError>)>,
    answered: mpsc::UnboundedReceiver<(JobId, Result<Answer, HandlerError>)>,
    kill: watch::Sender<bool>,
}

impl Processes {
    /// Runs what `spec` says, under `guard`.
    pub fn new(spec: CommandSpec, guard: Arc<Guard>) -> Self {
        let (answer, answered) = mpsc::unbounded_channel();
        let kill = watch::Sender::new(false);
        Processes { spec: Arc::new(spec), guard, running: 0, answer, answered, kill }
    }

    fn take(
        &mut self,
        (id, answer): (JobId, Result<Answer, HandlerError>),
        into: &mut Vec<(JobId, Answer)>,
    ) -> Result<(), HandlerError> {
        self.running -= 1;
        into.push((id, answer?));
        Ok(())
    }
}

#[async_trait]
impl Handler for Processes {
    fn room(&self) -> usize {
        self.spec.jobs.max(1).saturating_sub(self.running)
    }

    fn start(&mut self, job: Job) {
        self.running += 1;
        let (spec, guard) = (Arc::clone(&self.spec), Arc::clone(&self.guard));
        let (answer, kill) = (self.answer.clone(), self.kill.subscribe());
        tokio::spawn(async move {
            let id = job.id;
            let result = run(&spec, &guard, &job, kill).await;
            let _ = answer.send((id, result));
        });
    }

    fn ready(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        while let Ok(answer) = self.answered.try_recv() {
            self.take(answer, into)?;
        }
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        match self.answered.recv().await {
            Some(answer) => self.take(answer, into)?,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
        self.ready(into)
    }

    async fn end(&mut self, how: Ending) {
        if how == Ending::Kill {
            self.kill.send_replace(true);
        }
        while self.running > 0 {
            match self.answered.recv().await {
                Some(_) => self.running -= 1,
                None => return,
            }
        }
    }
}

/// How long the output of a command that has ended may still come: who has it open is not a part of
/// the command any more.
const LATE: Duration = Duration::from_millis(200);

/// Runs the command for one message.
async fn run(
    spec: &CommandSpec,
    guard: &Guard,
    job: &Job,
    mut kill: watch::Receiver<bool>,
) -> Result<Answer, HandlerError> {
    let lacking = |error: &io::Error| match spec.cannot_start(error) {
        Some(error) => Err(error),
        None => Ok(Answer::Failed(Fault {
            class: Class::Throttled,
            code: "spawn".to_owned(),
            reason: format!("the machine cannot start `{}` now: {error}", spec.shown()),
            asked_to_wait: None,
        })),
    };
    let mut child = match spawn(spec, job) {
        Ok(child) => child,
        Err(error) => return lacking(&error),
    };
    let group = child.id().and_then(Group::of);
    group.inspect(|group| guard.watch(*group));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut output = Vec::new();
    let mut tail = Tail::default();
    let too_much = Notify::new();
    let mut why_ended = None;
    let status = {
        let streams = async {
            tokio::join!(
                keep(stdout, &mut output, spec.max_output, &too_much),
                listen(stderr, &mut tail, &spec.listener)
            )
        };
        tokio::pin!(streams);
        let mut streams_ended = false;
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        let mut deadline = spec.timeout.map_or(far, |limit| Instant::now() + limit);
        let kill_group = || {
            group.inspect(|group| group.kill());
        };
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut streams, if !streams_ended => streams_ended = true,
                () = too_much.notified() => {
                    why_ended.get_or_insert(Ended::TooMuch);
                    kill_group();
                }
                () = sleep_until(deadline) => {
                    deadline = Instant::now() + spec.kill_after;
                    match why_ended.replace(Ended::Timeout) {
                        None => { group.inspect(|group| group.terminate()); }
                        Some(_) => kill_group(),
                    }
                }
                asked = kill.wait_for(|asked| *asked), if why_ended != Some(Ended::Killed) => {
                    why_ended = Some(Ended::Killed);
                    if asked.is_ok() {
                        kill_group();
                    }
                }
            }
        };
        // Something of the group may live on; it has no message to work on any more.
        if !streams_ended && timeout(LATE, &mut streams).await.is_err() {
            kill_group();
            let _ = timeout(LATE, &mut streams).await;
        }
        status
    };
    group.inspect(|group| guard.forget(*group));
    let status = match status {
        Ok(status) => status,
        Err(error) => return lacking(&error),
    };
    Ok(match why_ended {
        Some(Ended::Killed) => Answer::Displaced,
        Some(Ended::Timeout) => {
            let limit = HumanDuration(spec.timeout.unwrap_or_default());
            let mut fault = Fault::of(Failure::HandlerTimeout, tail.text());
            fault.reason = format!("it did not end within {limit}; {}", fault.reason);
            Answer::Failed(fault)
        }
        Some(Ended::TooMuch) => Answer::Failed(too_large(spec.max_output)),
        None => match (status.code(), status.signal()) {
            (Some(0), _) if spec.keep_output => Answer::Done(Output::Bytes(output)),
            (Some(0), _) => Answer::Done(Output::Nothing),
            (Some(code), _) => {
                let code = u8::try_from(code).unwrap_or(u8::MAX);
                Answer::Failed(Fault::of(Failure::Exit(code), tail.text()))
            }
            (None, signal) => {
                let signal = signal.and_then(|signal| u8::try_from(signal).ok()).unwrap_or(0);
                Answer::Failed(Fault::of(Failure::Signal(signal), tail.text()))
            }
        },
    })
}

/// The fault of a command that gives back more than `max` bytes.
pub(super) fn too_large(max: usize) -> Fault {
    Fault {
        class: Class::Poison,
        code: "output".to_owned(),
        reason: format!("it gave back more than {max} bytes"),
        asked_to_wait: None,
    }
}

/// Why a command was made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Timeout,
    TooMuch,
    Killed,
}

fn spawn(spec: &CommandSpec, job: &Job) -> io::Result<Child> {
    let mut command = spec.command();
    command
        .envs(environment_of(&job.delivery, &spec.queue, job.attempt))
        .stdin(memory_file("body", &job.delivery.message.body)?)
        .stdout(if spec.keep_output { Stdio::piped() } else { Stdio::null() });
    if let Some(child_fd) = spec.record_fd {
        let mut record = Vec::new();
        write_record(&mut record, &record_of(&job.delivery, &spec.queue));
        record.push(b'\n');
        let parent_fd = memory_file("record", &record)?;
        command
            .env("NEXUS_RECORD_FD", child_fd.to_string())
            .fd_mappings(vec![FdMapping { parent_fd, child_fd }])
            .map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn()
}

/// Keeps what comes, up to `max` bytes; what is beyond is read and dropped, so that nobody is stuck.
async fn keep(
    from: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    max: usize,
    too_much: &Notify,
) {
    let Some(mut from) = from else { return };
    let mut over = false;
    loop {
        if over {
            into.clear();
        }
        match from.read_buf(into).await {
            Ok(0) | Err(_) => return,
            Ok(_) if into.len() > max && !over => {
                over = true;
                too_much.notify_one();
            }
            Ok(_) => {}
        }
    }
}

/// Passes on what comes and remembers its end.
pub(super) async fn listen(
    from: Option<impl AsyncRead + Unpin>,
    tail: &mut Tail,
    listener: &Listener,
) {
    let Some(mut from) = from else { return };
    let mut buffer = Vec::new();
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        // Whole lines, so that those of several commands do not mix; but not for ever.
        let whole = match buffer.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if buffer.len() >= 8192 => buffer.len(),
            None => continue,
        };
        tail.take(&buffer[..whole]);
        listener(&buffer[..whole]);
        buffer.drain(..whole);
    }
    if !buffer.is_empty() {
        tail.take(&buffer);
        buffer.push(b'\n');
        listener(&buffer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::super::lanes::JobId;
    use super::*;
    use crate::delivery::fake::delivery;

    fn shell(script: &str) -> (CommandSpec, Arc<Mutex<Vec<u8>>>) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        let spec = CommandSpec {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            directory: None,
            jobs: 4,
            timeout: None,
            kill_after: Duration::from_secs(5),
            keep_output: true,
            max_output: 1 << 20,
            record_fd: None,
            queue: "orders".into(),
            listener: Arc::new(move |bytes| ear.lock().unwrap().extend_from_slice(bytes)),
        };
        (spec, heard)
    }

    async fn answer(spec: CommandSpec, job: Job) -> Result<Answer, HandlerError> {
        let mut processes = Processes::new(spec, Arc::new(Guard::none()));
        processes.start(job);
        let mut answers = Vec::new();
        processes.answers(&mut answers).await?;
        assert_eq!(processes.room(), 4);
        Ok(answers.remove(0).1)
    }

    fn job(body: &str) -> Job {
        Job { id: JobId(7), attempt: 2, delivery: Arc::new(delivery(1, body)), alone: false }
    }

    fn fault(answer: Result<Answer, HandlerError>) -> Fault {
        match answer {
            Ok(Answer::Failed(fault)) => fault,
            other => panic!("no fault: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_body_comes_on_stdin_and_stdout_is_the_result() {
        let (spec, _) = shell("cat; echo \" $NEXUS_QUEUE $NEXUS_ATTEMPT $NEXUS_ROUTING_KEY\"");
        let done = Answer::Done(Output::Bytes(b"body orders 2 key\n".to_vec()));
        assert_eq!(answer(spec, job("body")).await, Ok(done));
        // One that does not read it does not mind.
        let (spec, _) = shell("exec true");
        let large = job(&"x".repeat(15 << 20));
        assert_eq!(answer(spec, large).await, Ok(Answer::Done(Output::Bytes(Vec::new()))));
    }

    #[tokio::test]
    async fn the_status_decides_and_the_last_words_are_the_reason() {
        for (script, class, code, reason) in [
            ("echo first >&2; echo why >&2; exit 65", Class::Poison, "exit 65", "first\nwhy"),
            ("exit 75", Class::Retriable, "exit 75", "try later"),
            ("kill -9 $$", Class::Retriable, "signal 9", "SIGKILL"),
            ("exit 78", Class::Permanent, "exit 78", "bad settings"),
        ] {
            let (spec, heard) = shell(script);
            let fault = fault(answer(spec, job("x")).await);
            assert_eq!(
                (fault.class, &*fault.code, &*fault.reason),
                (class, code, reason),
                "{script}"
            );
            let expected = if reason.contains("why") { "first\nwhy\n" } else { "" };
            assert_eq!(String::from_utf8_lossy(&heard.lock().unwrap()), expected);
        }
    }

    #[tokio::test]
    async fn a_command_that_never_ends_is_killed_with_everything_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("pid");
        let script = format!("trap '' TERM; sleep 1000 & echo $! > {}; wait", mark.display());
        let (mut spec, _) = shell(&script);
        spec.timeout = Some(Duration::from_secs(2));
        spec.kill_after = Duration::from_millis(100);
        let fault = fault(answer(spec, job("x")).await);
        assert_eq!((fault.class, &*fault.code), (Class::Retriable, "timeout"));
        assert!(fault.reason.starts_with("it did not end within 2s"), "{}", fault.reason);
        let child = std::fs::read_to_string(&mark).unwrap();
        // What is killed goes when the kernel comes to it.
        let end = Instant::now() + Duration::from_secs(10);
        let place = format!("/proc/{}/stat", child.trim());
        while std::fs::read_to_string(&place).is_ok_and(|state| !state.contains(") Z ")) {
            assert!(Instant::now() < end, "{child} lives");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_command_that_prints_without_end_is_stopped_and_takes_no_memory() {
        let (spec, _) = shell("yes");
        let fault = fault(answer(spec, job("x")).await);
        assert_eq!((fault.class, &*fault.code), (Class::Poison, "output"));
    }

    #[tokio::test]
    async fn one_that_leaves_a_child_with_its_output_does_not_hold_the_message() {
        let (spec, _) = shell("echo done; sleep 1000 &");
        let done = Answer::Done(Output::Bytes(b"done\n".to_vec()));
        assert_eq!(answer(spec, job("x")).await, Ok(done));
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_no_fault_of_the_message() {
        let (mut spec, _) = shell("");
        spec.program = "/nowhere/handler".into();
        spec.arguments.clear();
        let error = answer(spec, job("x")).await.unwrap_err();
        assert_eq!(error.attempted, "start the command `/nowhere/handler`");
        assert!(error.cause.contains("No such file"), "{}", error.cause);
    }

    #[tokio::test]
    async fn the_record_is_on_the_descriptor_that_was_named() {
        let (mut spec, _) = shell("cat <&9; echo $NEXUS_RECORD_FD");
        spec.record_fd = Some(9);
        let Ok(Answer::Done(Output::Bytes(output))) = answer(spec, job("x")).await else {
            panic!("not done")
        };
        let text = String::from_utf8(output).unwrap();
        let (record, number) = text.trim_end().split_once('\n').unwrap();
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        assert_eq!((&record["queue"], &record["bodyText"]), (&"orders".into(), &"x".into()));
        assert_eq!(number, "9");
    }

    #[test]
    fn what_cannot_be_in_an_environment_is_left_out() {
        let mut given = delivery(1, "x");
        let headers = given.message.properties.headers_mut();
        headers.insert("trace-id", "abc");
        headers.insert("trace.id", "hidden by the first");
        headers.insert("zero", "a\0b");
        headers.insert("long", "x".repeat(20_000));
        headers.insert("n", 5);
        for number in 0..100 {
            headers.insert(format!("big{number}"), "x".repeat(10_000));
        }
        let variables = environment_of(&given, "orders", 1);
        let value =
            |name| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!(value("NEXUS_HEADER_TRACE_ID"), Some("abc"));
        assert_eq!((value("NEXUS_HEADER_ZERO"), value("NEXUS_HEADER_LONG")), (None, None));
        assert_eq!(value("NEXUS_HEADER_N"), Some("5"));
        let bytes: usize = variables.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
        assert!(bytes <= ENVIRONMENT_BYTES && variables.len() > 15);
    }
}
