//! What a worker asks of the state that it shares with others: claims, leave to begin, what is done.
//!
//! Each question is put for many messages at once, and the next of its kind waits until the answer is
//! here, so that many share one write. Asking never blocks; the news come when they come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::time::Clock;
use crate::resilience::circuit::{CircuitSettings, Permit};
use crate::resilience::dedup::{ClaimId, Dedup, DedupSettings, Holder, NotClaimed};
use crate::resilience::limiter::{Priority, Shortage};
use crate::resilience::store::{self, Ended, LimitSettings, SequenceSettings, SharedState};
use crate::storage::{Session, StorageError};

use super::lanes::JobId;

/// Where processed keys are remembered.
#[derive(Clone, Debug)]
pub enum Remember {
    /// In this process.
    Here,
    /// In the state file, with all workers of this host.
    Shared,
}

/// What a worker shares with others.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    /// The state file; needed by everything below but [`Remember::Here`].
    pub state: Option<SharedState>,
    /// Where to remember what is processed, and for how long; under which name.
    pub dedup: Option<(Remember, DedupSettings)>,
    /// The queue, or another name under which keys and sequences are remembered.
    pub scope: String,
    /// The circuit breaker of the other side.
    pub circuit: Option<(String, CircuitSettings)>,
    /// The rate limit.
    pub limit: Option<(String, LimitSettings, Priority)>,
    /// Whether to note which numbers of which workflow are processed.
    pub sequences: Option<SequenceSettings>,
}

/// A claim on a key.
#[derive(Clone, Debug)]
pub(super) enum Claim {
    Here(String, ClaimId),
    Shared(store::Claim),
}

/// What is to be remembered of a job that is done.
#[derive(Debug)]
pub(super) struct Booking {
    pub job: JobId,
    pub claim: Option<Claim>,
    pub number: Option<(String, u64)>,
}

/// News from the desk.
#[derive(Debug)]
pub(super) enum News {
    Claimed(Vec<(JobId, Result<Claim, NotClaimed>)>),
    /// So many may begin, each with its permit when there is a circuit; when to ask again for more,
    /// and why there were not more.
    Admitted(u32, Vec<Permit>, Option<(Duration, String)>),
    /// These are remembered.
    Booked(Vec<JobId>),
    /// Results are with the circuit, or were lost.
    Recorded,
    Failed(StorageError),
}

#[derive(Debug)]
pub(super) struct Desk {
    sharing: Sharing,
    session: Option<Arc<Session>>,
    here: Option<Dedup>,
    clock: Arc<dyn Clock>,
    say: mpsc::UnboundedSender<News>,
    news: mpsc::UnboundedReceiver<News>,
    pub claiming: bool,
    pub admitting: bool,
    pub booking: bool,
    recording: bool,
    ended: Vec<Ended>,
}

impl Desk {
    pub(super) async fn open(
        sharing: Sharing,
        clock: Arc<dyn Clock>,
    ) -> Result<Desk, StorageError> {
        let shares = matches!(sharing.dedup, Some((Remember::Shared, _)));
        let session = match &sharing.state {
            Some(state) if shares => Some(Arc::new(state.begin_session().await?)),
            _ => None,
        };
        let here = match &sharing.dedup {
            Some((Remember::Here, settings)) => Some(Dedup::new(*settings)),
            _ => None,
        };
        let (say, news) = mpsc::unbounded_channel();
        Ok(Desk {
            sharing,
            session,
            here,
            clock,
            say,
            news,
            claiming: false,
            admitting: false,
            booking: false,
            recording: false,
            ended: Vec::new(),
        })
    }

    pub(super) fn claims(&self) -> bool {
        self.sharing.dedup.is_some()
    }

    pub(super) fn numbers(&self) -> bool {
        self.sharing.sequences.is_some()
    }

    pub(super) fn admits(&self) -> bool {
        self.sharing.circuit.is_some() || self.sharing.limit.is_some()
    }

    pub(super) fn has_circuit(&self) -> bool {
        self.sharing.circuit.is_some()
    }

    /// Whether an answer is still to come.
    pub(super) fn is_busy(&self) -> bool {
        self.claiming || self.admitting || self.booking || self.recording || !self.ended.is_empty()
    }

    fn run(&self, work: impl Future<Output = Result<News, StorageError>> + Send + 'static) {
        let say = self.say.clone();
        tokio::spawn(async move {
            let _ = say.send(work.await.unwrap_or_else(News::Failed));
        });
    }

    pub(super) fn claim(&mut self, jobs: Vec<(JobId, String)>) {
        let now = self.clock.now();
        self.claiming = true;
        if let Some(here) = &mut self.here {
            let holder = Holder("here".into());
            let answers = jobs.into_iter().map(|(job, key)| {
                let answer = here.claim(&key, &holder, now);
                (job, answer.map(|id| Claim::Here(key, id)))
            });
            let _ = self.say.send(News::Claimed(answers.collect()));
            return;
        }
        let (Some(state), Some(session)) = (self.sharing.state.clone(), self.session.clone())
        else {
            return;
        };
        let (scope, lapse) = (self.sharing.scope.clone(), self.lapse());
        self.run(async move {
            let (jobs, keys): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            let answers = state.claim(&scope, keys, &session, lapse, now).await?;
            let answers = answers.into_iter().map(|answer| answer.map(Claim::Shared));
            Ok(News::Claimed(jobs.into_iter().zip(answers).collect()))
        });
    }

    fn lapse(&self) -> Duration {
        self.sharing.dedup.as_ref().map_or(Duration::ZERO, |(_, settings)| settings.lapse)
    }

    /// Asks whether up to `most` may begin.
    pub(super) fn admit(&mut self, most: u32) {
        let Some(state) = self.sharing.state.clone() else { return };
        self.admitting = true;
        let (circuit, limit) = (self.sharing.circuit.clone(), self.sharing.limit.clone());
        let clock = Arc::clone(&self.clock);
        self.run(async move {
            let mut count = most;
            let mut again = None;
            if let Some((name, settings, priority)) = &limit {
                match state.take_up_to(name, settings, most, *priority, &clock).await? {
                    Ok(taken) => count = taken,
                    Err(shortage) => {
                        count = 0;
                        let wait = match shortage {
                            Shortage::Wait(wait) => wait,
                            _ => Duration::from_secs(1),
                        };
                        again = Some((wait, format!("limit `{name}`: {shortage}")));
                    }
                }
            }
            let mut permits = Vec::new();
            if let Some((name, settings)) = &circuit
                && count > 0
            {
                let wanted = count as usize;
                let (given, refused) = state.permits(name, settings, wanted, clock.now()).await?;
                let spare = count - u32::try_from(given.len()).unwrap_or(count);
                count -= spare;
                permits = given;
                if let Some((limit, settings, _)) = limit.as_ref().filter(|_| spare > 0) {
                    state.give_back(limit, settings, spare, &clock).await?;
                }
                if let Some(refused) = refused {
                    let wait = refused.wait.unwrap_or(Duration::from_secs(1));
                    again = Some((wait, format!("circuit `{name}` is {:?}", refused.state)));
                }
            }
            Ok(News::Admitted(count, permits, again))
        });
    }

    /// Tells the circuit how a request ended.
    pub(super) fn ended(&mut self, ended: Ended) {
        self.ended.push(ended);
        self.record();
    }

    fn record(&mut self) {
        let (Some(state), Some((name, settings))) =
            (self.sharing.state.clone(), self.sharing.circuit.clone())
        else {
            return self.ended.clear();
        };
        if self.recording || self.ended.is_empty() {
            return;
        }
        self.recording = true;
        let ended = std::mem::take(&mut self.ended);
        let now = self.clock.now();
        self.run(async move {
            state.record(&name, &settings, ended, now).await?;
            Ok(News::Recorded)
        });
    }

    /// Remembers what is done, so that it may be acked.
    pub(super) fn book(&mut self, bookings: Vec<Booking>) {
        self.booking = true;
        let now = self.clock.now();
        let mut jobs = Vec::with_capacity(bookings.len());
        let (mut shared, mut numbers) = (Vec::new(), Vec::new());
        for Booking { job, claim, number } in bookings {
            jobs.push(job);
            numbers.extend(number);
            match claim {
                Some(Claim::Here(key, id)) => {
                    // Lost or not: the work is done.
                    let _ = self.here.as_mut().map(|here| here.commit(&key, id, now));
                }
                Some(Claim::Shared(claim)) => shared.push(claim),
                None => {}
            }
        }
        let (Some(state), false) =
            (self.sharing.state.clone(), shared.is_empty() && numbers.is_empty())
        else {
            let _ = self.say.send(News::Booked(jobs));
            return;
        };
        let scope = self.sharing.scope.clone();
        let ttl = self.sharing.dedup.as_ref().map_or(Duration::ZERO, |(_, s)| s.ttl);
        let sequences = self.sharing.sequences.unwrap_or_default();
        self.run(async move {
            // Both writes share a commit when they are put together.
            let (committed, noted) = tokio::join!(
                state.commit(shared, ttl, now),
                state.processed(&scope, numbers, sequences, now)
            );
            committed?;
            noted?;
            Ok(News::Booked(jobs))
        });
    }

    /// Gives up claims of work that was not done.
    pub(super) fn release(&mut self, claims: Vec<Claim>) {
        let mut shared = Vec::new();
        for claim in claims {
            match claim {
                Claim::Here(key, id) => {
                    self.here.iter_mut().for_each(|here| here.release(&key, id));
                }
                Claim::Shared(claim) => shared.push(claim),
            }
        }
        if let (Some(state), false) = (self.sharing.state.clone(), shared.is_empty()) {
            tokio::spawn(async move {
                // They lapse by themselves.
                let _ = state.release(shared).await;
            });
        }
    }

    fn heard(&mut self, news: News) -> News {
        match &news {
            News::Claimed(_) => self.claiming = false,
            News::Admitted(..) => self.admitting = false,
            News::Booked(_) => self.booking = false,
            News::Recorded => {
                self.recording = false;
                self.record();
            }
            News::Failed(_) => {}
        }
        news
    }

    pub(super) fn ready(&mut self) -> Option<News> {
        let news = self.news.try_recv().ok()?;
        Some(self.heard(news))
    }

    /// Cancel-safe; waits for ever when nothing was asked.
    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => self.heard(news),
            None => std::future::pending().await,
        }
    }
}
