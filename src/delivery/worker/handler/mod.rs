//! What is done with a message: a command that is started for each, commands that live on and speak
//! NDJSON, or an answer made here.
//!
//! A handler takes jobs while it has room and gives exactly one answer for each. It does not know
//! queues, settlement or retries; what an answer means is decided by [`decision`](super::decision).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::broker::Delivery;
use crate::message::Record;
use crate::resilience::classification::{Class, Failure, classify};

pub mod builtin;
pub mod guard;
pub mod lines;
pub mod process;
mod tail;

use super::lanes::JobId;

/// One message to be handled.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The message.
    pub delivery: Arc<Delivery>,
    /// It may have ended a process: nothing else may run beside it in the same one.
    pub alone: bool,
}

/// What a handler made of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done; what it gave back.
    Done(Output),
    /// It failed.
    Failed(Fault),
    /// Its process ended because of another message or of nobody: this one was not judged.
    Displaced,
}

/// What a handler gave back.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Output {
    /// Nothing.
    #[default]
    Nothing,
    /// What it wrote to its standard output.
    Bytes(Vec<u8>),
    /// A message with properties of its own.
    Record(Box<Record>),
}

/// Why a handler failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What the next attempt can be expected to bring.
    pub class: Class,
    /// `exit 65`, `signal 11`, `timeout`.
    pub code: String,
    /// In words: what the command said last, or else what the code means.
    pub reason: String,
    /// How long it asks to be left alone.
    pub asked_to_wait: Option<Duration>,
}

impl Fault {
    /// What `failure` means, with what the command said last.
    pub fn of(failure: Failure, said: String) -> Fault {
        let code = match failure {
            Failure::Exit(status) => format!("exit {status}"),
            Failure::Signal(number) => format!("signal {number}"),
            Failure::HandlerTimeout => "timeout".to_owned(),
            _ => "lost".to_owned(),
        };
        let row = classify(failure);
        let class = row.map_or(Class::Retriable, |row| row.class);
        let reason = match row {
            Some(row) if said.is_empty() => row.event.to_owned(),
            _ => said,
        };
        Fault { class, code, reason, asked_to_wait: None }
    }
}

/// Why no message can be handled at all. Nothing was judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{attempted}: {cause}")]
pub struct HandlerError {
    /// `start the command "./handle.sh"`.
    pub attempted: String,
    /// Why it did not work.
    pub cause: String,
    /// What to do.
    pub hint: String,
}

/// How the handler ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing runs any more: processes that live on are asked to end.
    Idle,
    /// Whatever runs is killed; its messages get no answer.
    Kill,
}

/// Handles messages.
#[async_trait]
pub trait Handler: Send + fmt::Debug {
    /// How many jobs it takes now.
    fn room(&self) -> usize;

    /// Takes one job; only when there is room.
    fn start(&mut self, job: Job);

    /// Whether answers come so quickly that it pays to wait a moment for more of them.
    fn is_quick(&self) -> bool {
        false
    }

    /// Sees to it that jobs taken since the last call are under way.
    fn push(&mut self) {}

    /// Answers that are here; never waits.
    fn ready(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError>;

    /// Waits for the next answers. Cancel-safe. Waits for ever when nothing runs.
    async fn answers(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError>;

    /// Ends it.
    async fn end(&mut self, how: Ending);
}
