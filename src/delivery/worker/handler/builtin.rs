//! Answers made here, without a command: the message itself, or a text built from it.

use async_trait::async_trait;

use crate::delivery::filter::MessageTemplate;
use crate::resilience::classification::Class;

use super::{Answer, Ending, Fault, Handler, HandlerError, Job, JobId, Output};

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The body as it came.
    Echo,
    /// A text with `${ CEL }` in it.
    Template(MessageTemplate),
}

/// More than this and the broker is never waited for.
const ROOM: usize = 1024;

/// Answers at once.
#[derive(Debug)]
pub struct Builtin {
    reply: Reply,
    queue: String,
    answered: Vec<(JobId, Answer)>,
}

impl Builtin {
    /// Answers messages of `queue` with `reply`.
    pub fn new(reply: Reply, queue: &str) -> Self {
        Builtin { reply, queue: queue.to_owned(), answered: Vec::new() }
    }
}

#[async_trait]
impl Handler for Builtin {
    fn room(&self) -> usize {
        ROOM - self.answered.len().min(ROOM)
    }

    fn start(&mut self, job: Job) {
        let answer = match &self.reply {
            Reply::Echo => Answer::Done(Output::Bytes(job.delivery.message.body.clone())),
            Reply::Template(template) => match template.text(&job.delivery, &self.queue) {
                Ok(text) => Answer::Done(Output::Bytes(text.into_bytes())),
                Err(reason) => Answer::Failed(Fault {
                    class: Class::Poison,
                    code: "template".to_owned(),
                    reason,
                    asked_to_wait: None,
                }),
            },
        };
        self.answered.push((job.id, answer));
    }

    fn ready(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        into.append(&mut self.answered);
        Ok(())
    }

    async fn answers(&mut self, into: &mut Vec<(JobId, Answer)>) -> Result<(), HandlerError> {
        if self.answered.is_empty() {
            return std::future::pending().await;
        }
        self.ready(into)
    }

    async fn end(&mut self, _how: Ending) {}
}
