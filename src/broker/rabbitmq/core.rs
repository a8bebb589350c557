//! What publishers, consumers and requests share: the connections, opened when they are first
//! needed and again when they were lost, and the circuit breaker before them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::Channel;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base::time::{Clock, HumanDuration};
use crate::broker::error::{BrokerError, ErrorKind};
use crate::resilience::{Backoff, CircuitSettings, Permit, SharedBreaker};

use super::link::{Link, LinkOptions, OpenChannel, shown};

pub(super) const FIRST_WAIT: Duration = Duration::from_millis(50);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a connection is for. Publishing and consuming have one each, since a broker that holds
/// publishers back stops reading from their connection; requests that the broker may answer by
/// closing the connection (540, 503) have a third one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Publish,
    Consume,
    Risk,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Purpose::Publish => "publish",
            Purpose::Consume => "consume",
            Purpose::Risk => "admin",
        }
    }
}

#[derive(Default)]
struct Slot {
    link: Option<Arc<Link>>,
    // Channels that are open and idle: a request that went well leaves its channel here.
    spare: Vec<OpenChannel>,
}

pub(super) struct Core {
    pub(super) options: LinkOptions,
    clock: Arc<dyn Clock>,
    dice: Mutex<fastrand::Rng>,
    breaker: SharedBreaker,
    // Whether the breaker has seen a failure since the last success; spares the lock per message.
    suspicious: AtomicBool,
    slots: [tokio::sync::Mutex<Slot>; 3],
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("url", &self.options.url).finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        options: LinkOptions,
        clock: Arc<dyn Clock>,
        seed: u64,
        circuit: CircuitSettings,
    ) -> Core {
        Core {
            options,
            clock,
            dice: Mutex::new(fastrand::Rng::with_seed(seed)),
            breaker: SharedBreaker::new(circuit),
            suspicious: AtomicBool::new(false),
            slots: Default::default(),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// Leave to send something, when there is reason to ask; fails with `CircuitOpen`.
    pub(super) fn permit(self: &Arc<Self>, attempted: &str) -> Result<Leave, BrokerError> {
        match self.breaker.permit(self.clock.now()) {
            Ok(permit) => Ok(Leave { core: Arc::clone(self), permit: Some(permit) }),
            Err(refused) => {
                let wait = refused.wait.unwrap_or_default();
                let again = HumanDuration(Duration::from_millis(
                    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1),
                ));
                Err(BrokerError::new(
                    ErrorKind::CircuitOpen,
                    attempted,
                    "the broker has failed several times in a row and is left alone for a moment",
                )
                .hint(format!("try again in {again}")))
            }
        }
    }

    /// Whether failures were seen since the last success.
    pub(super) fn is_suspicious(&self) -> bool {
        self.suspicious.load(Ordering::Relaxed)
    }

    /// Something that was let out without asking has failed in a way that speaks against the broker.
    pub(super) fn note_failure(&self) {
        self.suspicious.store(true, Ordering::Relaxed);
        self.breaker.failed_unasked(self.clock.now());
    }

    pub(super) fn dice(&self) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }

    /// A connection of one's own.
    pub(super) async fn open(
        self: &Arc<Self>,
        purpose: &str,
        deadline: Instant,
    ) -> Result<Link, BrokerError> {
        let leave = self.permit(&format!("connect to {}", shown(&self.options.url)))?;
        match Link::open(&self.options, purpose, deadline).await {
            Ok(link) => {
                leave.succeeded();
                Ok(link)
            }
            Err(error) => {
                let broken = matches!(
                    error.kind,
                    ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::ConnectionLost
                );
                if broken {
                    leave.failed();
                }
                Err(error)
            }
        }
    }

    /// The connection for `purpose`, opened when there is none that lives.
    pub(super) async fn link(self: &Arc<Self>, purpose: Purpose) -> Result<Arc<Link>, BrokerError> {
        self.link_by(purpose, Instant::now() + self.timeout()).await
    }

    /// Opened by a task of its own, which ends when this future is dropped: a caller that is busy with
    /// something else and does not poll this would hold the slot, and perhaps the only probe that the
    /// circuit lets out, against everybody else.
    async fn link_by(
        self: &Arc<Self>,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Arc<Link>, BrokerError> {
        if let Ok(slot) = self.slots[purpose as usize].try_lock()
            && let Some(link) = slot.link.as_ref().filter(|link| link.is_alive())
        {
            return Ok(Arc::clone(link));
        }
        let mut opening = JoinSet::new();
        let core = Arc::clone(self);
        opening.spawn(async move {
            let mut slot = core.slot(purpose, deadline).await?;
            core.link_in(&mut slot, purpose, deadline).await
        });
        match opening.join_next().await {
            Some(Ok(opened)) => opened,
            // Nobody ends it but the runtime that ends itself.
            ended => {
                let attempted = format!("connect to {}", shown(&self.options.url));
                let cause = format!("the task that connects ended early ({ended:?})");
                Err(BrokerError::new(ErrorKind::ConnectionLost, attempted, cause))
            }
        }
    }

    async fn slot(
        &self,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<tokio::sync::MutexGuard<'_, Slot>, BrokerError> {
        let slot = self.slots[purpose as usize].lock();
        tokio::time::timeout_at(deadline, slot).await.map_err(|_| {
            BrokerError::new(
                ErrorKind::TimedOut,
                format!("connect to {}", shown(&self.options.url)),
                "another request is still waiting for the connection",
            )
        })
    }

    async fn link_in(
        self: &Arc<Self>,
        slot: &mut Slot,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Arc<Link>, BrokerError> {
        if let Some(link) = &slot.link
            && link.is_alive()
        {
            return Ok(Arc::clone(link));
        }
        slot.spare.clear();
        slot.link = None;
        let link = Arc::new(self.open(purpose.as_str(), deadline).await?);
        slot.link = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Puts a connection that is open already into its place.
    pub(super) async fn adopt(&self, purpose: Purpose, link: Arc<Link>) {
        self.slots[purpose as usize].lock().await.link = Some(link);
    }

    /// Lets go of `link`, so that the next request opens another one.
    pub(super) async fn discard(&self, purpose: Purpose, link: &Arc<Link>) {
        let mut slot = self.slots[purpose as usize].lock().await;
        if slot.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            slot.spare.clear();
            slot.link = None;
        }
    }

    /// The connection for `purpose` after it was lost: tries again with growing waits until the
    /// time-out.
    pub(super) async fn link_again(
        self: &Arc<Self>,
        purpose: Purpose,
    ) -> Result<Arc<Link>, BrokerError> {
        let deadline = Instant::now() + self.timeout();
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let error = match self.link_by(purpose, deadline).await {
                Ok(link) => {
                    tracing::info!(purpose = purpose.as_str(), "connected again");
                    return Ok(link);
                }
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            // The first wait is drawn after a failure, and is short: most losses are brief.
            let wait = backoff.next_wait(self.dice());
            let wait = match error.kind {
                ErrorKind::CircuitOpen => wait.max(FIRST_WAIT),
                _ => wait,
            };
            if Instant::now() + wait >= deadline {
                return Err(error);
            }
            tracing::info!(purpose = purpose.as_str(), %error, "not connected again yet");
            tokio::time::sleep(wait).await;
        }
    }

    /// Runs one request on a channel that nobody else uses. A channel that the broker closed is not
    /// used again.
    pub(super) async fn request<T, F, R>(
        self: &Arc<Self>,
        purpose: Purpose,
        attempted: &str,
        request: F,
    ) -> Result<T, BrokerError>
    where
        F: FnOnce(Channel) -> R,
        R: Future<Output = lapin::Result<T>>,
    {
        let deadline = Instant::now() + self.timeout();
        let link = self.link_by(purpose, deadline).await?;
        let spare = {
            let mut slot = self.slot(purpose, deadline).await?;
            slot.spare.retain(|channel| channel.status().connected());
            // A spare channel is the current connection's.
            let is_current = slot.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, &link));
            if is_current { slot.spare.pop() } else { None }
        };
        let channel = match spare {
            Some(channel) => channel,
            None => link.channel(attempted).await?,
        };
        let answer = link.ask(attempted, request(Channel::clone(&channel))).await;
        if answer.is_ok() {
            let mut slot = self.slots[purpose as usize].lock().await;
            if slot.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, &link)) {
                slot.spare.push(channel);
            }
        }
        answer
    }

    /// Ends all connections, at most for the time-out.
    pub(super) async fn close(&self) {
        let mut links = Vec::new();
        for slot in &self.slots {
            let mut slot = slot.lock().await;
            slot.spare.clear();
            links.extend(slot.link.take());
        }
        // It is one broker: what does not answer on one connection does not on the others.
        if links.iter().any(|link| link.is_silent()) {
            links.iter().for_each(|link| link.note_silence());
        }
        futures_util::future::join_all(links.iter().map(|link| link.close())).await;
    }
}

/// Leave of the circuit breaker; given back unused when it is dropped.
#[derive(Debug)]
pub(super) struct Leave {
    core: Arc<Core>,
    permit: Option<Permit>,
}

impl Leave {
    pub(super) fn succeeded(mut self) {
        if let Some(permit) = self.permit.take() {
            let now = self.core.clock.now();
            self.core.breaker.succeeded(permit, now);
            self.core.suspicious.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(mut self) {
        if let Some(permit) = self.permit.take() {
            let now = self.core.clock.now();
            self.core.suspicious.store(true, Ordering::Relaxed);
            self.core.breaker.failed(permit, now);
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.core.breaker.abandoned(permit);
        }
    }
}
