//! Commands that live on: a message is a line to them, an answer a line from them.
//!
//! ```text
//! to it:   {"id":7,"attempt":1,"exchange":…,"routingKey":…,"queue":…,"properties":{…},"body":…}
//! from it: {"id":7}                                     done
//!          {"id":7,"record":{"body":{"total":42}}}      done, with a result
//!          {"id":7,"status":75,"error":"busy","retryAfter":"10s"}    failed as by this exit status
//!          {"id":7,"class":"poison","error":"no total"}              failed in this way
//! ```
//!
//! Answers may come in any order, exactly one for each message. A process has up to `window` messages
//! at once; lines are written and read in large pieces, because a system call for each would cost more
//! than the message.
//!
//! When a process ends with one message, that message ended it. With several nobody can tell, so each
//! is tried again alone in its process, and then it shows.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::base::time::HumanDuration;
use crate::delivery::sink::record_of;
use crate::message::parse_record;
use crate::message::record::write_record;
use crate::resilience::classification::{Class, Failure};

use super::guard::{Group, Guard};
use super::process::{CommandSpec, listen, too_large};
use super::tail::Tail;
use super::{Answer, Ending, Fault, Handler, HandlerError, Job, JobId, Output};

/// Pipes hold so much where the system allows it: a message a switch would be slow.
const PIPE_BYTES: usize = 1 << 20;
/// Lines are handed to a process in pieces of about this size.
const PIECE_BYTES: usize = 256 * 1024;

/// An answer as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AnswerLine<'a> {
    id: u64,
    status: Option<u8>,
    class: Option<Class>,
    error: Option<String>,
    retry_after: Option<HumanDuration>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
}

/// Reads one line of a command. An error says what is wrong with it.
fn read_answer(line: &[u8]) -> Result<(JobId, Answer), String> {
    let line: AnswerLine<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let id = JobId(line.id);
    let failed = line.class.is_some() || line.status.is_some_and(|status| status != 0);
    if !failed {
        if let Some(error) = line.error {
            return Err(format!("there is an error, `{error}`, and neither status nor class"));
        }
        let output = match line.record {
            None => Output::Nothing,
            Some(record) => {
                let record = parse_record(record.get().as_bytes())
                    .map_err(|problems| format!("the record: {problems}"))?;
                Output::Record(Box::new(record))
            }
        };
        return Ok((id, Answer::Done(output)));
    }
    let said = line.error.unwrap_or_default();
    let mut fault = Fault::of(Failure::Exit(line.status.unwrap_or(1)), said.clone());
    if let Some(class) = line.class {
        fault.class = class;
        fault.code = class.name().to_owned();
        fault.reason = if said.is_empty() { format!("the command says {class}") } else { said };
    } else if let Some(status) = line.status {
        fault.code = format!("status {status}");
    }
    fault.asked_to_wait = line.retry_after.map(|wait| wait.0);
    Ok((id, Answer::Failed(fault)))
}

/// What a process says.
enum Said {
    Answers(Vec<(JobId, Answer)>),
    /// A line that is no answer, or one without an end.
    Nonsense(String),
    /// It has ended; how, and its last words.
    Ended(Failure, String),
}

/// A process that lives.
#[derive(Debug)]
struct Process {
    /// Which of all processes; what was said by one before it is void.
    life: u64,
    group: Option<Group>,
    lines: mpsc::UnboundedSender<Vec<u8>>,
    buffer: Vec<u8>,
    /// Jobs without an answer, the oldest first, and when each has to be answered.
    open: VecDeque<(JobId, Option<Instant>)>,
    /// It has one job that nothing may run beside.
    reserved: bool,
}

/// Commands that speak NDJSON.
#[derive(Debug)]
pub struct Lines {
    spec: Arc<CommandSpec>,
    guard: Arc<Guard>,
    /// How many messages a process has at once.
    window: usize,
    processes: Vec<Option<Process>>,
    lives: u64,
    /// Jobs that have to be alone, until a process is free.
    alone: VecDeque<Job>,
    say: mpsc::UnboundedSender<(usize, u64, Said)>,
    said: mpsc::UnboundedReceiver<(usize, u64, Said)>,
    answered: Vec<(JobId, Answer)>,
    broken: Option<HandlerError>,
    /// Lines that were no answers, since the last that was one.
    nonsense: u32,
    /// When a process may be started again after one that could not be.
    start_again: Option<Instant>,
    /// When the clock was looked at.
    checked: Instant,
}

/// So often in a row a command may say nonsense.
const MOST_NONSENSE: u32 = 3;

impl Lines {
    /// Runs `spec.jobs` processes with up to `window` messages each, under `guard`.
    pub fn new(spec: CommandSpec, window: usize, guard: Arc<Guard>) -> Self {
        let (say, said) = mpsc::unbounded_channel();
        let processes = (0..spec.jobs.max(1)).map(|_| None).collect();
        Lines {
            spec: Arc::new(spec),
            guard,
            window: window.max(1),
            processes,
            lives: 0,
            alone: VecDeque::new(),
            say,
            said,
            answered: Vec::new(),
            broken: None,
            nonsense: 0,
            start_again: None,
            checked: Instant::now(),
        }
    }

    /// Where a job goes that may run beside others: to the process with the fewest, and to a new one
    /// before that when all are busy.
    fn place(&self) -> Option<usize> {
        let load = |process: &Option<Process>| match process {
            None => Some((1, 0)),
            Some(process) if process.reserved || process.open.len() >= self.window => None,
            Some(process) if process.open.is_empty() => Some((0, 0)),
            Some(process) => Some((2, process.open.len())),
        };
        let free = self.processes.iter().enumerate().filter_map(|(at, p)| Some((load(p)?, at)));
        free.min().map(|(_, at)| at)
    }

    /// Starts a process at `at` unless one is there; whether there is one now.
    fn ensure(&mut self, at: usize) -> bool {
        if self.processes[at].is_some() {
            return true;
        }
        if self.start_again.is_some_and(|again| Instant::now() < again) {
            return false;
        }
        self.start_again = None;
        self.lives += 1;
        match self.spawn(at, self.lives) {
            Ok(process) => {
                self.processes[at] = Some(process);
                true
            }
            Err(error) => {
                match self.spec.cannot_start(&error) {
                    Some(error) => self.broken = Some(error),
                    None => self.start_again = Some(Instant::now() + Duration::from_secs(1)),
                }
                false
            }
        }
    }

    fn spawn(&self, at: usize, life: u64) -> std::io::Result<Process> {
        let mut command = self.spec.command();
        command.env("NEXUS_QUEUE", &self.spec.queue);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let group = child.id().and_then(Group::of);
        group.inspect(|group| self.guard.watch(*group));
        let (lines, to_write) = mpsc::unbounded_channel();
        if let Some(stdin) = child.stdin.take() {
            let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE_BYTES);
            tokio::spawn(write_lines(stdin, to_write));
        }
        let (spec, guard, say) =
            (Arc::clone(&self.spec), Arc::clone(&self.guard), self.say.clone());
        tokio::spawn(async move {
            attend(child, group, &spec, &|said| {
                let _ = say.send((at, life, said));
            })
            .await;
            group.inspect(|group| guard.forget(*group));
        });
        Ok(Process {
            life,
            group,
            lines,
            buffer: Vec::new(),
            open: VecDeque::new(),
            reserved: false,
        })
    }

    /// Writes a job to the process at `at`; gives it back when there is no process.
    fn give(&mut self, at: usize, job: Job) -> Result<(), Job> {
        if !self.ensure(at) {
            return Err(job);
        }
        let Some(process) = &mut self.processes[at] else { return Err(job) };
        // What is before it may take as long.
        let turn = u32::try_from(process.open.len() + 1).unwrap_or(u32::MAX);
        let due = self.spec.timeout.map(|limit| Instant::now() + limit * turn);
        process.open.push_back((job.id, due));
        process.reserved = job.alone;
        let start = process.buffer.len();
        process.buffer.extend_from_slice(
            format!("{{\"id\":{},\"attempt\":{},", job.id.0, job.attempt).as_bytes(),
        );
        let record = process.buffer.len();
        write_record(&mut process.buffer, &record_of(&job.delivery, &self.spec.queue));
        // The record's own brace is ours already.
        process.buffer.remove(record);
        process.buffer.push(b'\n');
        debug_assert!(process.buffer[start] == b'{');
        if process.buffer.len() >= PIECE_BYTES {
            process.send();
        }
        Ok(())
    }

    fn place_alone(&mut self) {
        while !self.alone.is_empty() {
            let idle = |p: &Option<Process>| p.as_ref().is_none_or(|p| p.open.is_empty());
            let Some(at) = self.processes.iter().position(idle) else { return };
            let Some(job) = self.alone.pop_front() else { return };
            if let Err(job) = self.give(at, job) {
                self.alone.push_front(job);
                return;
            }
        }
    }

    /// Ends the process at `at`. `fault` is what happened to the message it had, if it had only one.
    fn lose(&mut self, at: usize, fault: &Fault) {
        let Some(process) = self.processes[at].take() else { return };
        process.group.inspect(|group| group.kill());
        let is_known = process.open.len() == 1;
        for (id, _) in process.open {
            let answer = if is_known { Answer::Failed(fault.clone()) } else { Answer::Displaced };
            self.answered.push((id, answer));
        }
    }

    fn hear(&mut self, at: usize, life: u64, said: Said) {
        let Some(process) = self.processes[at].as_mut().filter(|process| process.life == life)
        else {
            return;
        };
        match said {
            Said::Answers(answers) => {
                for (id, answer) in answers {
                    let Some(place) = process.open.iter().position(|(open, _)| *open == id) else {
                        let why = format!("there is no message {} without an answer", id.0);
                        return self.nonsense(at, &why);
                    };
                    process.open.remove(place);
                    self.nonsense = 0;
                    self.answered.push((id, answer));
                }
                process.reserved &= !process.open.is_empty();
            }
            Said::Nonsense(why) => self.nonsense(at, &why),
            Said::Ended(failure, words) => {
                let mut fault = Fault::of(failure, words);
                if fault.class == Class::Cancelled || failure == Failure::HandlerLost {
                    fault = Fault::of(Failure::HandlerLost, fault.reason);
                }
                self.lose(at, &fault);
            }
        }
    }

    /// A command that does not speak the protocol gets no messages any more.
    fn nonsense(&mut self, at: usize, why: &str) {
        self.nonsense += 1;
        let fault = Fault {
            class: Class::Retriable,
            code: "protocol".to_owned(),
            reason: format!("the command wrote a line that is no answer: {why}"),
            asked_to_wait: None,
        };
        self.lose(at, &fault);
        if self.nonsense >= MOST_NONSENSE {
            self.broken = Some(HandlerError {
                attempted: format!("speak with the command `{}`", self.spec.shown()),
                cause: format!("it wrote a line that is no answer: {why}"),
                hint: "each line of its standard output has to be an answer such as {\"id\":7}; \
                       what it has to tell people belongs on standard error"
                    .to_owned(),
            });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let first = |p: &Option<Process>| p.as_ref()?.open.iter().filter_map(|(_, due)| *due).min();
        let due = self.processes.iter().filter_map(first).min();
        [due, self.start_again].into_iter().flatten().min()
    }

    fn check_due(&mut self) {
        let now = Instant::now();
        self.checked = now;
        self.start_again = self.start_again.filter(|again| *again > now);
        for at in 0..self.processes.len() {
            let is_due = |p: &Process| p.open.iter().any(|(_, due)| due.is_some_and(|d| d <= now));
            if self.processes[at].as_ref().is_some_and(is_due) {
                let limit = HumanDuration(self.spec.timeout.unwrap_or_default());
                let mut fault = Fault::of(Failure::HandlerTimeout, String::new());
                fault.reason = format!("there was no answer within {limit}");
                self.lose(at, &fault);
            }
        }
    }

    /// Looks after everything but the pipes; the answers so far go to `into`.
    fn tend(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        // Who never waits for answers looks at the clock now and then.
        if self.checked.elapsed() >= Duration::from_millis(100) {
            self.check_due();
        }
        self.place_alone();
        self.push();
        into.append(&mut self.answered);
        match self.broken.clone() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Process {
    fn send(&mut self) {
        if !self.buffer.is_empty() {
            // A process that has ended says so itself.
            let _ = self.lines.send(std::mem::take(&mut self.buffer));
        }
    }
}

#[async_trait]
impl Handler for Lines {
    fn room(&self) -> usize {
        if !self.alone.is_empty() || self.start_again.is_some() {
            return 0;
        }
        let room = |process: &Option<Process>| match process {
            None => self.window,
            Some(process) if process.reserved => 0,
            Some(process) => self.window.saturating_sub(process.open.len()),
        };
        self.processes.iter().map(room).sum()
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn start(&mut self, job: Job) {
        if job.alone {
            self.alone.push_back(job);
            return self.place_alone();
        }
        let unplaced = match self.place() {
            Some(at) => self.give(at, job).err(),
            None => Some(job),
        };
        // It waits until a process can be started.
        self.alone.extend(unplaced);
    }

    fn push(&mut self) {
        self.processes.iter_mut().flatten().for_each(Process::send);
    }

    fn ready(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        while let Ok((at, life, said)) = self.said.try_recv() {
            self.hear(at, life, said);
        }
        self.tend(into)
    }

    async fn answers(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        loop {
            self.ready(into)?;
            if !into.is_empty() {
                return Ok(());
            }
            let far = Instant::now() + Duration::from_secs(86_400 * 365);
            let due = self.next_due().unwrap_or(far);
            tokio::select! {
                Some((at, life, said)) = self.said.recv() => self.hear(at, life, said),
                () = sleep_until(due) => self.check_due(),
            }
        }
    }

    async fn end(&mut self, how: Ending) {
        let mut living = Vec::new();
        for process in self.processes.iter_mut().filter_map(Option::take) {
            if how == Ending::Kill {
                process.group.inspect(|group| group.kill());
            }
            // Without the way in, its input ends.
            living.push((process.life, process.group));
        }
        let deadline = Instant::now() + self.spec.kill_after;
        let mut killed = how == Ending::Kill;
        while !living.is_empty() {
            match tokio::time::timeout_at(deadline, self.said.recv()).await {
                Ok(Some((_, life, Said::Ended(..)))) => living.retain(|(other, _)| *other != life),
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) if killed => return,
                Err(_) => {
                    killed = true;
                    living.iter().filter_map(|(_, group)| *group).for_each(Group::kill);
                }
            }
        }
    }
}

/// Writes lines until there is nobody to write them for, or nobody who reads them.
async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(piece) = lines.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            return;
        }
    }
}

/// Reads what a process says until it has ended.
async fn attend(
    mut child: Child,
    group: Option<Group>,
    spec: &CommandSpec,
    say: &(dyn Fn(Said) + Sync),
) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut tail = Tail::default();
    let status = {
        let streams = async {
            tokio::join!(read_lines(stdout, spec, say), listen(stderr, &mut tail, &spec.listener))
        };
        tokio::pin!(streams);
        let mut ended = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.ok(),
                _ = &mut streams, if !ended => {
                    ended = true;
                    // Without output it can answer nothing any more; it may end by itself.
                    if let Ok(status) = timeout(spec.kill_after, child.wait()).await {
                        break status.ok();
                    }
                    group.inspect(|group| group.kill());
                }
            }
        };
        let late = Duration::from_millis(200);
        if !ended && timeout(late, &mut streams).await.is_err() {
            group.inspect(|group| group.kill());
            let _ = timeout(late, &mut streams).await;
        }
        status
    };
    let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    let signal = status.and_then(|status| status.signal()).and_then(|n| u8::try_from(n).ok());
    let failure = match (code, signal) {
        (Some(0) | None, None) => Failure::HandlerLost,
        (Some(code), _) => Failure::Exit(code),
        (None, Some(signal)) => Failure::Signal(signal),
    };
    say(Said::Ended(failure, tail.text()));
}

async fn read_lines(stdout: Option<ChildStdout>, spec: &CommandSpec, say: &(dyn Fn(Said) + Sync)) {
    let Some(mut stdout) = stdout else { return };
    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
    let mut buffer = Vec::with_capacity(64 * 1024);
    let mut searched = 0;
    loop {
        match stdout.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Some(end) = buffer[searched..].iter().rposition(|byte| *byte == b'\n') else {
            searched = buffer.len();
            // An answer is its result and a little more.
            if searched > spec.max_output + 4096 {
                say(Said::Nonsense(too_large(spec.max_output).reason));
                buffer = Vec::new();
                searched = 0;
            }
            continue;
        };
        let whole = searched + end + 1;
        let mut answers = Vec::new();
        let mut nonsense = None;
        for line in buffer[..whole].split(|byte| *byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match read_answer(line) {
                Ok(answer) => answers.push(answer),
                Err(why) => {
                    let shown: String = String::from_utf8_lossy(line).chars().take(80).collect();
                    nonsense = Some(format!("`{}`: {why}", shown.trim_end()));
                    break;
                }
            }
        }
        if !answers.is_empty() {
            say(Said::Answers(answers));
        }
        nonsense.into_iter().for_each(|why| say(Said::Nonsense(why)));
        buffer.drain(..whole);
        searched = buffer.len();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::lanes::JobId;
    use super::*;
    use crate::delivery::fake::delivery;

    fn spec(script: &str, jobs: usize) -> CommandSpec {
        CommandSpec {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            directory: None,
            jobs,
            timeout: None,
            kill_after: Duration::from_secs(5),
            keep_output: true,
            max_output: 1 << 20,
            record_fd: None,
            queue: "orders".into(),
            listener: Arc::new(|_| {}),
        }
    }

    fn handler(script: &str, jobs: usize, window: usize) -> Lines {
        Lines::new(spec(script, jobs), window, Arc::new(Guard::none()))
    }

    fn job(id: u64, body: &str) -> Job {
        Job { id: JobId(id), attempt: 1, delivery: Arc::new(delivery(id, body)), alone: false }
    }

    /// Runs all `jobs` as a worker would, displaced ones alone again, and returns the answers by id.
    async fn answers(
        handler: &mut Lines,
        jobs: impl IntoIterator<Item = Job>,
    ) -> Result<Vec<(u64, Answer)>, HandlerError> {
        let mut waiting: VecDeque<Job> = jobs.into_iter().collect();
        let all: Vec<Job> = waiting.iter().cloned().collect();
        let mut done = Vec::new();
        while done.len() < all.len() {
            while handler.room() > 0 {
                let Some(job) = waiting.pop_front() else { break };
                handler.start(job);
            }
            handler.push();
            let mut some = Vec::new();
            handler.answers(&mut some).await?;
            for (id, answer) in some {
                if answer == Answer::Displaced {
                    let job = all.iter().find(|job| job.id == id).unwrap();
                    waiting.push_back(Job { alone: true, ..job.clone() });
                } else {
                    done.push((id.0, answer));
                }
            }
        }
        handler.end(Ending::Idle).await;
        done.sort_by_key(|(id, _)| *id);
        Ok(done)
    }

    /// Answers each line; one whose body says `die` ends the process instead.
    const LOOP: &str = r#"while read -r line; do
        case "$line" in *die*) echo "cannot go on" >&2; exit 3;; esac
        id=${line#*:}; id=${id%%,*}; echo "{\"id\":$id}"
    done"#;

    #[test]
    fn answers_say_done_or_how_it_failed() {
        let read = |line: &str| read_answer(line.as_bytes());
        assert_eq!(read(r#"{"id":7}"#), Ok((JobId(7), Answer::Done(Output::Nothing))));
        assert_eq!(read(r#"{"id":7,"status":0}"#), Ok((JobId(7), Answer::Done(Output::Nothing))));
        let Ok((_, Answer::Done(Output::Record(record)))) =
            read(r#"{"id":1,"record":{"body":{"n":1.0}}}"#)
        else {
            panic!("no record")
        };
        assert_eq!(record.message.body, br#"{"n":1.0}"#);
        for (line, class, code, reason, wait) in [
            (r#"{"id":1,"status":65}"#, Class::Poison, "status 65", "bad data", None),
            (
                r#"{"id":1,"class":"throttled","error":"busy","retryAfter":"10s"}"#,
                Class::Throttled,
                "throttled",
                "busy",
                Some(10),
            ),
        ] {
            let Ok((_, Answer::Failed(fault))) = read(line) else { panic!("{line}") };
            assert_eq!((fault.class, &*fault.code, &*fault.reason), (class, code, reason));
            assert_eq!(fault.asked_to_wait, wait.map(Duration::from_secs));
        }
        for bad in [
            "",
            "{}",
            "[]",
            "hello",
            r#"{"id":-1}"#,
            r#"{"id":1,"stats":1}"#,
            r#"{"id":1,"error":"what"}"#,
            r#"{"id":1,"record":{"bodi":1}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn every_message_gets_its_answer_from_processes_that_live_on() {
        let mut handler = handler(LOOP, 2, 16);
        assert_eq!(handler.room(), 32);
        let got = answers(&mut handler, (0..500).map(|id| job(id, "x"))).await.unwrap();
        assert!(got.iter().map(|(id, _)| *id).eq(0..500));
        assert!(got.iter().all(|(_, answer)| *answer == Answer::Done(Output::Nothing)));
    }

    #[tokio::test]
    async fn only_the_message_that_ends_its_process_is_blamed() {
        let mut handler = handler(LOOP, 2, 16);
        let jobs = (0..60).map(|id| job(id, if id % 20 == 7 { "die" } else { "x" }));
        let got = answers(&mut handler, jobs).await.unwrap();
        for (id, answer) in got {
            match answer {
                Answer::Failed(fault) => {
                    assert_eq!(id % 20, 7);
                    assert_eq!((&*fault.code, &*fault.reason), ("exit 3", "cannot go on"));
                }
                answer => assert!(id % 20 != 7 && answer == Answer::Done(Output::Nothing)),
            }
        }
    }

    #[tokio::test]
    async fn a_process_that_hangs_is_killed_and_the_others_messages_go_on() {
        let hang = LOOP.replace("echo \"cannot go on\" >&2; exit 3", "sleep 1000");
        let mut handler = Lines::new(
            CommandSpec { timeout: Some(Duration::from_millis(400)), ..spec(&hang, 1) },
            4,
            Arc::new(Guard::none()),
        );
        let jobs = (0..4).map(|id| job(id, if id == 1 { "die" } else { "x" }));
        let got = answers(&mut handler, jobs).await.unwrap();
        for (id, answer) in got {
            match answer {
                Answer::Failed(fault) => assert_eq!((id, &*fault.code), (1, "timeout")),
                answer => assert!(id != 1 && answer == Answer::Done(Output::Nothing)),
            }
        }
    }

    #[tokio::test]
    async fn a_command_that_does_not_speak_the_protocol_gets_no_more_messages() {
        let mut handler = handler("while read -r line; do echo hello; done", 1, 4);
        let error = answers(&mut handler, (0..20).map(|id| job(id, "x"))).await.unwrap_err();
        assert!(error.cause.contains("`hello`"), "{error}");
        let mut handler = self::handler("yes | tr -d '\\n'", 1, 4);
        let error = answers(&mut handler, (0..20).map(|id| job(id, "x"))).await.unwrap_err();
        assert!(error.cause.contains("more than 1048576 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_said_at_once() {
        let missing = CommandSpec { program: "/nowhere/x".into(), ..spec("", 1) };
        let mut handler = Lines::new(missing, 4, Arc::new(Guard::none()));
        let error = answers(&mut handler, [job(1, "x")]).await.unwrap_err();
        assert!(error.cause.contains("No such file"), "{error}");
    }
}
