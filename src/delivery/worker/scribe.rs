//! Writes results to a stream or file on a thread of its own, and says when it has them for good:
//! only then is their message acked. A pipe may block for as long as its reader likes.

use std::io;

use tokio::sync::mpsc;

use crate::delivery::sink::Target;

use super::lanes::JobId;

/// What became of pieces of output.
#[derive(Debug)]
pub(super) enum Written {
    /// These are where they belong.
    Committed(Vec<JobId>),
    /// Nothing more can be written.
    Failed(io::Error),
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Scribe {
    work: mpsc::UnboundedSender<(JobId, Vec<u8>)>,
    done: mpsc::UnboundedReceiver<Written>,
    /// Pieces that are not committed.
    pub open: usize,
}

/// Pieces that share a commit at most.
const TOGETHER: usize = 512;

impl Scribe {
    pub(super) fn start(mut target: Box<dyn Target>) -> io::Result<Scribe> {
        let (work, mut pieces) = mpsc::unbounded_channel::<(JobId, Vec<u8>)>();
        let (say, done) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("worker-output".to_owned()).spawn(move || {
            while let Some(first) = pieces.blocking_recv() {
                let mut jobs = Vec::new();
                let mut next = Some(first);
                let mut result = Ok(());
                while let Some((job, bytes)) = next.take() {
                    result = target.put(&bytes);
                    jobs.push(job);
                    if result.is_ok() && jobs.len() < TOGETHER {
                        next = pieces.try_recv().ok();
                    }
                }
                let written = match result.and_then(|()| target.commit()) {
                    Ok(()) => Written::Committed(jobs),
                    Err(error) => {
                        target.undo();
                        let _ = say.send(Written::Failed(error));
                        return;
                    }
                };
                if say.send(written).is_err() {
                    return;
                }
            }
        })?;
        Ok(Scribe { work, done, open: 0 })
    }

    pub(super) fn write(&mut self, job: JobId, bytes: Vec<u8>) {
        self.open += 1;
        // A thread that has ended has said why.
        let _ = self.work.send((job, bytes));
    }

    /// The next news; waits for ever when nothing is open. Cancel-safe.
    pub(super) async fn next(&mut self) -> Written {
        if self.open == 0 {
            return std::future::pending().await;
        }
        match self.done.recv().await {
            Some(Written::Committed(jobs)) => {
                self.open -= jobs.len();
                Written::Committed(jobs)
            }
            Some(failed) => failed,
            None => Written::Failed(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
