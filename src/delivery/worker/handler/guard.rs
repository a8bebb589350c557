//! Commands do not outlive the worker that started them, not even when it is killed.
//!
//! Each command runs in a process group of its own, so that a timeout ends all of it and Ctrl-C in a
//! terminal does not. A worker that is killed cannot end its groups any more, while the broker gives
//! their messages to others at once: so a second process, the guard, hears of every group over a pipe.
//! When the pipe ends without a goodbye, the worker is dead, and the guard kills what is left.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

/// A process group, named by its first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(Pid);

impl Group {
    /// The group of the process `id`, which was started as the first of one.
    pub fn of(id: u32) -> Option<Group> {
        i32::try_from(id).ok().and_then(Pid::from_raw).map(Group)
    }

    /// Asks everything in it to end.
    pub fn terminate(self) {
        // Gone already is as good.
        let _ = kill_process_group(self.0, Signal::TERM);
    }

    /// Kills everything in it.
    pub fn kill(self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// The worker's end of the pipe.
#[derive(Debug)]
pub struct Guard {
    child: Mutex<Option<(Child, ChildStdin)>>,
}

impl Guard {
    /// Starts the guard: `program` called with `arguments` runs [`run`] on its standard input.
    pub fn start(program: &Path, arguments: &[&str]) -> io::Result<Guard> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Guard { child: Mutex::new(Some((child, pipe))) })
    }

    /// No guard: commands outlive a worker that is killed. For tests of handlers alone.
    pub const fn none() -> Guard {
        Guard { child: Mutex::new(None) }
    }

    fn say(&self, sign: char, group: Group) {
        if let Some((_, pipe)) = &mut *self.child.lock().unwrap_or_else(PoisonError::into_inner) {
            // A guard that was killed guards no more; the work goes on.
            let _ = pipe.write_all(format!("{sign}{}\n", group.0.as_raw_nonzero()).as_bytes());
        }
    }

    /// `group` runs now.
    pub fn watch(&self, group: Group) {
        self.say('+', group);
    }

    /// `group` has ended.
    pub fn forget(&self, group: Group) {
        self.say('-', group);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut child, pipe)) = child {
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// The guard's own work: hears of groups on `input` until it ends, then kills those that are left.
pub fn run(input: impl BufRead) {
    let mut groups = HashSet::new();
    for line in input.lines().map_while(Result::ok) {
        let Some((sign, id)) = line.split_at_checked(1) else { continue };
        let Some(group) = id.parse().ok().and_then(Group::of) else { continue };
        match sign {
            "+" => groups.insert(group),
            _ => groups.remove(&group),
        };
    }
    for group in groups {
        group.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_left_when_the_pipe_ends_are_killed_with_all_that_is_in_them() {
        let start = || {
            let mut command = Command::new("sh");
            // The pipe shows when the last of the group has gone: the grandchild holds it too.
            command.args(["-c", "sleep 1000 & sleep 1000"]).stdout(Stdio::piped());
            command.process_group(0).spawn().unwrap()
        };
        let (mut left, mut forgotten) = (start(), start());
        run(format!("+{}\n+{}\nnonsense\n\n-{}\n", left.id(), forgotten.id(), forgotten.id())
            .as_bytes());
        io::copy(&mut left.stdout.take().unwrap(), &mut io::sink()).unwrap();
        assert!(left.wait().unwrap().code().is_none(), "it was killed");
        assert!(forgotten.try_wait().unwrap().is_none(), "it was not");
        Group::of(forgotten.id()).unwrap().kill();
        forgotten.wait().unwrap();
    }
}
