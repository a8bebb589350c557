//! The inbox where the requests of this process meet, and the thread that looks out for what other
//! processes and the time do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Outcome, Settlement};
use crate::storage::rusqlite::Connection;
use crate::storage::{Durability, Job, Session, StateFile, StorageError, Watch};

use super::engine::{Call, Engine, Fault, Request, storage_error};
use super::store::Store;

/// How many requests one transaction takes at most, so that the first does not wait for ever.
const BATCH_MAX: usize = 8192;
/// How long a waiting consumer may be late for what another process has done.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// How often dead processes are looked for while somebody waits.
const REAP_EVERY: u32 = 16;

/// Of all handles of one broker in this process.
pub(super) struct Shared {
    pub(super) file: Arc<StateFile>,
    pub(super) timeout: Duration,
    engine: Mutex<Engine>,
    inbox: Mutex<Vec<Request>>,
    scheduled: AtomicBool,
    closed: AtomicBool,
    /// Why nothing is written any more, when the writer has given up.
    broken: OnceLock<StorageError>,
    lookout: Arc<Lookout>,
    // Held for its lock: others see this process end by it.
    _session: Session,
}

/// Wakes the lookout thread.
#[derive(Default)]
struct Lookout {
    waiting: Mutex<LookoutState>,
    changed: Condvar,
}

#[derive(Default)]
struct LookoutState {
    consumers_wait: bool,
    ended: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("file", &self.file).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another thread while it held the lock has ended its batch; what is in memory is
    // dropped with the next failure, and the file is right in any case.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn start(
        file: Arc<StateFile>,
        engine: Engine,
        session: Session,
        timeout: Duration,
    ) -> Result<Arc<Shared>, StorageError> {
        let lookout = Arc::new(Lookout::default());
        let shared = Arc::new(Shared {
            file,
            timeout,
            engine: Mutex::new(engine),
            inbox: Mutex::new(Vec::new()),
            scheduled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            broken: OnceLock::new(),
            lookout: Arc::clone(&lookout),
            _session: session,
        });
        let weak = Arc::downgrade(&shared);
        let path = shared.file.path().to_owned();
        std::thread::Builder::new()
            .name("lookout".to_owned())
            .spawn(move || look_out(&lookout, &weak))
            .map_err(|error| StorageError::Open { path, cause: error.to_string() })?;
        Ok(shared)
    }

    /// Hands a request to the writer.
    pub(super) fn submit(self: &Arc<Self>, request: Request) {
        lock(&self.inbox).push(request);
        self.schedule();
    }

    fn schedule(self: &Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            self.file.submit(Box::new(Batch {
                shared: Arc::clone(self),
                requests: Vec::new(),
                is_prepared: false,
            }));
        }
    }

    /// Whether the broker was closed: its session is over, so nothing may be held by it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Why nothing is written any more, when that is so.
    pub(super) fn broken(&self) -> Option<&StorageError> {
        self.broken.get()
    }

    /// Gives back everything that this session holds; nothing new is taken from here on.
    pub(super) async fn close(self: &Arc<Self>) -> Result<(), BrokerError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.ask("close the embedded broker", Durability::Disk, |engine, store| {
            let session = engine.session;
            engine.end_session(store, session)
        })
        .await
    }

    /// Asks the engine something and waits for the answer, at most for the time-out.
    pub(super) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        attempted: &str,
        durability: Durability,
        work: impl FnOnce(&mut Engine, Store<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BrokerError> {
        if self.is_closed() {
            return Err(super::closed(attempted));
        }
        self.ask(attempted, durability, work).await
    }

    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        attempted: &str,
        durability: Durability,
        work: impl FnOnce(&mut Engine, Store<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.submit(Request::Call(
            durability,
            Box::new(Question {
                attempted: attempted.to_owned(),
                work: Some(work),
                answer: None,
                reply,
            }),
        ));
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(super::closed(attempted)),
            Err(_) => Err(BrokerError::new(
                ErrorKind::TimedOut,
                attempted,
                format!("the state file did not answer within {} ms", self.timeout.as_millis()),
            )
            .hint("it may have been done all the same; look before trying again")),
        }
    }

    /// Asks the engine something without waiting for it.
    pub(super) fn tell(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Engine, Store<'_>) -> Result<(), Fault> + Send + 'static,
    ) {
        let (reply, _) = tokio::sync::oneshot::channel();
        self.submit(Request::Call(
            Durability::Process,
            Box::new(Question { attempted: String::new(), work: Some(work), answer: None, reply }),
        ));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        lock(&self.lookout.waiting).ended = true;
        self.lookout.changed.notify_all();
    }
}

struct Question<W, T> {
    attempted: String,
    work: Option<W>,
    answer: Option<Result<T, BrokerError>>,
    reply: tokio::sync::oneshot::Sender<Result<T, BrokerError>>,
}

impl<W, T> Call for Question<W, T>
where
    W: FnOnce(&mut Engine, Store<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, engine: &mut Engine, store: Store<'_>) -> Result<(), Fault> {
        let Some(work) = self.work.take() else { return Ok(()) };
        match work(engine, store) {
            Ok(value) => self.answer = Some(Ok(value)),
            Err(Fault::Broker(error)) => self.answer = Some(Err(*error)),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), StorageError>) {
        let answer = match (result, self.answer) {
            (Ok(()), Some(answer)) => answer,
            (Ok(()), None) => Err(super::closed(&self.attempted)),
            (Err(error), _) => Err(storage_error(&self.attempted, &error)),
        };
        // Whoever asked may have stopped waiting.
        let _ = self.reply.send(answer);
    }
}

/// Everything that was in the inbox when the writer came by.
struct Batch {
    shared: Arc<Shared>,
    requests: Vec<Request>,
    is_prepared: bool,
}

impl Job for Batch {
    fn prepare(&mut self) -> Durability {
        self.is_prepared = true;
        // From here on a new request needs a new batch.
        self.shared.scheduled.store(false, Ordering::Release);
        let mut inbox = lock(&self.shared.inbox);
        if inbox.len() <= BATCH_MAX {
            self.requests = std::mem::take(&mut *inbox);
        } else {
            self.requests = inbox.drain(..BATCH_MAX).collect();
            drop(inbox);
            self.shared.schedule();
        }
        self.requests.iter().map(Request::durability).max().unwrap_or(Durability::Process)
    }

    fn run(&mut self, connection: &Connection) -> Result<(), StorageError> {
        lock(&self.shared.engine)
            .batch(Store(connection), &mut self.requests)
            .map_err(|fault| super::storage_fault(&self.shared.file, fault))
    }

    fn done(mut self: Box<Self>, result: Result<(), StorageError>) {
        // A writer that has given up looks at no batch any more; whoever waits is told all the same.
        let attempted = self.is_prepared;
        if !attempted {
            self.prepare();
        }
        if let Err(error) = &result
            && error.is_fatal()
        {
            let _ = self.shared.broken.set(error.clone());
        }
        let waiting = {
            let mut engine = lock(&self.shared.engine);
            match &result {
                Ok(()) => engine.committed(),
                Err(error) => {
                    let settled = self
                        .requests
                        .iter()
                        .any(|request| matches!(request, Request::Settle { .. }));
                    engine.failed(settled, error);
                }
            }
            engine.has_waiting_consumers()
        };
        for request in self.requests {
            match request {
                Request::Publish(publication) => {
                    let outcome = match (&result, publication.outcome) {
                        (Ok(()), Some(outcome)) => outcome,
                        (Ok(()), None) => Outcome::Unknown { why: "it was not looked at".into() },
                        (Err(error), _) => lost(error, attempted),
                    };
                    if let Outcome::Failed(error) = &outcome {
                        let _ = publication.failed.set((**error).clone());
                    }
                    let _ = publication.reply.send((publication.ticket, outcome));
                }
                Request::Call(_, call) => call.done(result.clone()),
                Request::Settle { .. } | Request::Tick => {}
            }
        }
        let mut state = lock(&self.shared.lookout.waiting);
        if state.consumers_wait != waiting {
            state.consumers_wait = waiting;
            self.shared.lookout.changed.notify_all();
        }
    }
}

/// What became of a message whose batch failed.
fn lost(error: &StorageError, attempted: bool) -> Outcome {
    match error {
        // The whole transaction was undone: the message is certainly not there.
        StorageError::Full { .. } | StorageError::Busy { .. } | StorageError::Newer { .. } => {
            Outcome::Failed(Box::new(storage_error("publish", error)))
        }
        _ if !attempted => Outcome::Failed(Box::new(storage_error("publish", error))),
        _ => Outcome::Unknown { why: error.to_string() },
    }
}

/// While consumers of this process wait: looks whether another process has written, whether one has
/// died, and whether something is due.
fn look_out(lookout: &Lookout, shared: &Weak<Shared>) {
    let mut watch: Option<Watch> = None;
    let mut looks: u32 = 0;
    loop {
        {
            let mut state = lock(&lookout.waiting);
            while !state.consumers_wait && !state.ended {
                state = lookout.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return;
            }
            let (state, _) = lookout
                .changed
                .wait_timeout(state, LOOK_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
            if state.ended {
                return;
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        looks = looks.wrapping_add(1);
        let reap = looks.is_multiple_of(REAP_EVERY);
        if watch.is_none() {
            watch = shared.file.watch().ok();
        }
        // After a fault the writer meets it too, and says so to whoever asks it.
        let changed = watch.as_mut().is_none_or(|watch| watch.has_changed().unwrap_or(true));
        let due = {
            let engine = lock(&shared.engine);
            engine.next_due.is_some_and(|due| engine.is_due(due))
        };
        if reap && shared.somebody_died() {
            shared.tell(Engine::reap);
        } else if changed || due {
            shared.submit(Request::Tick);
        }
    }
}

impl Shared {
    fn somebody_died(&self) -> bool {
        self.file
            .read(|connection| self.file.dead_sessions(connection))
            .is_ok_and(|dead| !dead.is_empty())
    }

    /// One settlement, without waiting for it.
    pub(super) fn settle(self: &Arc<Self>, consumer: i64, tag: u64, how: Settlement) {
        self.submit(Request::Settle { consumer, tag, how });
    }
}
