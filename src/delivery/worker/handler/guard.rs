//! Commands do not outlive the worker that started them, not even when it is killed.
//!
//! Each command runs in a process group of its own, so that a timeout ends all of it and Ctrl-C in a
//! terminal does not. A worker that is killed cannot end its groups any more, while the broker gives
//! their messages to others at once: so there is a second process, the guard. The worker notes its
//! groups in memory that both share, which wakes nobody; when the pipe between them ends, the guard
//! kills the groups that are still noted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
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

/// The worker's end.
#[derive(Debug)]
pub struct Guard(Option<Mutex<Watch>>);

#[derive(Debug)]
struct Watch {
    child: Child,
    /// Ends with this process.
    pipe: Option<ChildStdin>,
    slots: Slots,
}

/// The memory that both see: a process number in each place that is taken, else 0.
#[derive(Debug)]
struct Slots {
    file: File,
    taken: HashMap<Group, u64>,
    free: Vec<u64>,
}

const SLOT_BYTES: u64 = size_of::<i32>() as u64;

impl Slots {
    fn new() -> io::Result<Slots> {
        let file = File::from(memfd_create("groups", MemfdFlags::CLOEXEC)?);
        Ok(Slots { file, taken: HashMap::new(), free: Vec::new() })
    }

    fn add(&mut self, group: Group) -> io::Result<()> {
        let slot = self.free.pop().unwrap_or(self.taken.len() as u64);
        self.taken.insert(group, slot);
        let id = group.0.as_raw_nonzero().get();
        self.file.write_all_at(&id.to_ne_bytes(), slot * SLOT_BYTES)
    }

    fn remove(&mut self, group: Group) -> io::Result<()> {
        let Some(slot) = self.taken.remove(&group) else { return Ok(()) };
        self.free.push(slot);
        self.file.write_all_at(&0i32.to_ne_bytes(), slot * SLOT_BYTES)
    }
}

impl Guard {
    /// Starts the guard: `program` called with `arguments` runs [`run`] on its standard input and
    /// output.
    pub fn start(program: &Path, arguments: &[&str]) -> io::Result<Guard> {
        let slots = Slots::new()?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(slots.file.try_clone()?)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Guard(Some(Mutex::new(Watch { child, pipe, slots }))))
    }

    /// No guard: commands outlive a worker that is killed. For tests of handlers alone.
    pub const fn none() -> Guard {
        Guard(None)
    }

    fn note(&self, note: impl FnOnce(&mut Slots) -> io::Result<()>) {
        if let Some(watch) = &self.0 {
            // Without memory for four bytes the command could not be started either.
            let _ = note(&mut watch.lock().unwrap_or_else(PoisonError::into_inner).slots);
        }
    }

    /// `group` runs now.
    pub fn watch(&self, group: Group) {
        self.note(|slots| slots.add(group));
    }

    /// `group` has ended.
    pub fn forget(&self, group: Group) {
        self.note(|slots| slots.remove(group));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// The guard's own work: waits until `pipe` ends, then kills the groups that are noted in `memory`.
pub fn run(pipe: &mut impl Read, memory: BorrowedFd<'_>) {
    // However it ends, the worker is gone.
    let _ = io::copy(pipe, &mut io::sink());
    let Ok(memory) = memory.try_clone_to_owned() else { return };
    let mut memory = File::from(memory);
    let mut noted = Vec::new();
    if memory.rewind().is_err() || memory.read_to_end(&mut noted).is_err() {
        return;
    }
    for id in noted.chunks_exact(size_of::<i32>()) {
        let id = id.try_into().map_or(0, i32::from_ne_bytes);
        u32::try_from(id).ok().and_then(Group::of).into_iter().for_each(Group::kill);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn groups_that_are_left_when_the_pipe_ends_are_killed_with_all_that_is_in_them() {
        let start = || {
            let mut command = Command::new("sh");
            // The pipe shows when the last of the group has gone: the grandchild holds it too.
            command.args(["-c", "sleep 1000 & sleep 1000"]).stdout(Stdio::piped());
            command.process_group(0).spawn().unwrap()
        };
        let (mut forgotten, mut left) = (start(), start());
        let group = |child: &Child| Group::of(child.id()).unwrap();
        let mut slots = Slots::new().unwrap();
        slots.add(group(&forgotten)).unwrap();
        slots.add(group(&left)).unwrap();
        slots.remove(group(&forgotten)).unwrap();
        run(&mut io::empty(), slots.file.as_fd());
        io::copy(&mut left.stdout.take().unwrap(), &mut io::sink()).unwrap();
        assert!(left.wait().unwrap().code().is_none(), "it was killed");
        assert!(forgotten.try_wait().unwrap().is_none(), "it was not");
        group(&forgotten).kill();
        forgotten.wait().unwrap();
    }
}
