//! Doing a run with caution: some letters first, then a look at what became of them, then the others; and
//! a look afterwards.
//!
//! What came back is told by the dead-letter queue's depth, which costs no letter a life: all that is there
//! beyond what this run has left has arrived meanwhile. Others that died there in this time are among
//! them, so the number is the most that can have come back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::base::id::QueueName;
use crate::broker::{Broker, BrokerError};
use crate::delivery::stop::{Stop, Wish};

use super::machine::End;
use super::run::{Begin, ReplayError, ReplayOptions, ReplayReport, Scene, Wants, run};

/// How cautiously a run is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caution {
    /// Some letters first.
    pub canary: Option<Canary>,
    /// How many of those that went may come back.
    pub most_back: MostBack,
    /// How long to look at what becomes of the letters, once all went.
    pub verify: Option<Duration>,
    /// Whether the canary's verdict was given already, or is not asked for.
    pub is_judged: bool,
    /// Letters that waited when the run began for the first time.
    pub watermark: u64,
}

/// The letters that go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// How many.
    pub letters: u64,
    /// How long they are watched.
    pub wait: Duration,
}

/// Of the letters that went, the most that may come back, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MostBack {
    /// Between 0 and 100.
    pub percent: f64,
    /// Whether a run is stopped in its middle when more do.
    pub breaks: bool,
}

impl Default for MostBack {
    fn default() -> Self {
        MostBack { percent: 5.0, breaks: false }
    }
}

/// With fewer letters than this one that comes back would decide.
pub const FEWEST_TO_JUDGE: u64 = 20;

impl MostBack {
    /// Whether `back` of `sent` letters are too many.
    pub fn is_exceeded(&self, sent: u64, back: u64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a share of letters")]
        let (sent, back) = (sent as f64, back as f64);
        back > 0.0 && back * 100.0 > sent * self.percent
    }

    /// The same in the middle of a run: not before there is enough to judge by.
    pub fn breaks_at(&self, sent: u64, back: u64) -> bool {
        self.breaks && sent >= FEWEST_TO_JUDGE && self.is_exceeded(sent, back)
    }
}

/// What became of the letters that went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Letters that went.
    pub sent: u64,
    /// Letters that came into the dead-letter queue since, at most so many of them from these; `None` when
    /// the broker could not be asked.
    pub back: Option<u64>,
    /// How long was looked.
    pub looked: Duration,
    /// Whether that is good enough.
    pub is_good: bool,
}

/// What a run did, and what was seen of it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The run.
    pub report: ReplayReport,
    /// Of the letters that went first.
    pub canary: Option<Verdict>,
    /// Of all of them.
    pub outcome: Option<Verdict>,
}

/// Does a run with caution.
///
/// # Errors
/// When nothing could be begun.
pub async fn run_with_caution(
    scene: &Scene<'_>,
    begin: Begin,
    options: &ReplayOptions,
    caution: &Caution,
    wants: &mut Wants<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Watched, ReplayError> {
    let mut watched = Watched { report: ReplayReport::default(), canary: None, outcome: None };
    let mut begin = begin;
    let mut rules = options.rules;
    if let Some(canary) = caution.canary
        && !caution.is_judged
    {
        let first = rules.first.map_or(canary.letters, |first| first.min(canary.letters));
        // They may have gone already, and only the verdict is missing.
        if scene.journal.gone(&options.run)? < first || matches!(begin, Begin::New(_)) {
            let mut some = options.clone();
            some.rules.first = Some(first);
            some.is_part = true;
            watched.report = run(scene, begin, &some, wants, progress).await?;
            let report = &watched.report;
            rules.watermark = rules.watermark.saturating_sub(report.counts.acked);
            let ended = matches!(report.ended, End::First | End::All | End::Dry);
            if !ended || report.failure.is_some() {
                return Ok(watched);
            }
        }
        let verdict = caution.look(scene, options, canary.wait).await?;
        watched.canary = Some(verdict);
        if !verdict.is_good {
            return Ok(watched);
        }
        if scene.stop.wish() >= Wish::Finish {
            watched.report.ended = End::Stopped;
            return Ok(watched);
        }
        begin = Begin::Again;
    }
    let rest = ReplayOptions { rules, ..options.clone() };
    let report = run(scene, begin, &rest, wants, progress).await?;
    let before = std::mem::replace(&mut watched.report, report);
    watched.report.counts = before.counts.and(watched.report.counts);
    watched.report.bodies_edited += before.bodies_edited;
    if let Some(patience) = caution.verify
        && watched.report.failure.is_none()
    {
        let verdict = caution.look(scene, options, patience).await?;
        watched.outcome = Some(verdict);
    }
    Ok(watched)
}

impl Caution {
    async fn look(
        &self,
        scene: &Scene<'_>,
        options: &ReplayOptions,
        patience: Duration,
    ) -> Result<Verdict, ReplayError> {
        let sent = scene.journal.gone(&options.run)?;
        let look = Look { sent, left: self.watermark.saturating_sub(sent), patience };
        let (most, poll) = (&self.most_back, options.poll);
        Ok(look.watch(scene.broker, &options.queue, most, poll, scene.stop).await)
    }
}

/// A look at what becomes of letters.
struct Look {
    sent: u64,
    /// Letters that the run has left in the queue.
    left: u64,
    patience: Duration,
}

impl Look {
    async fn watch(
        &self,
        broker: &dyn Broker,
        queue: &QueueName,
        most: &MostBack,
        poll: Duration,
        stop: &Stop,
    ) -> Verdict {
        let began = Instant::now();
        let mut back = None;
        loop {
            // What has come back may have been seen before it is gone again: the most counts.
            match arrived(broker, queue, self.left).await {
                Ok(now) => back = Some(back.unwrap_or(0).max(now)),
                Err(_) => back = None,
            }
            let too_many = back.is_some_and(|back| most.is_exceeded(self.sent, back));
            let left = self.patience.saturating_sub(began.elapsed());
            if too_many || left.is_zero() {
                break;
            }
            tokio::select! {
                () = stop.until(Wish::Finish) => break,
                () = sleep(left.min(poll)) => {}
            }
        }
        let is_good = back.is_some_and(|back| !most.is_exceeded(self.sent, back));
        Verdict { sent: self.sent, back, looked: began.elapsed(), is_good }
    }
}

/// How many letters are in `queue` beyond the `left` that a run has left there.
async fn arrived(broker: &dyn Broker, queue: &QueueName, left: u64) -> Result<u64, BrokerError> {
    let depth = broker.depth(queue).await?;
    Ok(depth.map_or(0, |depth| depth.ready).saturating_sub(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_back_is_judged_by_its_share() {
        let most = MostBack { percent: 5.0, breaks: true };
        for (sent, back, exceeded) in
            [(20, 0, false), (20, 1, false), (20, 2, true), (0, 0, false), (0, 1, true)]
        {
            assert_eq!(most.is_exceeded(sent, back), exceeded, "{back} of {sent}");
        }
        let none = MostBack { percent: 0.0, ..most };
        assert!(none.is_exceeded(1000, 1) && !none.is_exceeded(1000, 0));
    }

    #[test]
    fn a_run_is_not_broken_before_there_is_enough_to_judge_by() {
        let most = MostBack { percent: 5.0, breaks: true };
        assert!(!most.breaks_at(19, 19));
        assert!(most.breaks_at(20, 2));
        assert!(!MostBack { breaks: false, ..most }.breaks_at(20, 20));
    }
}
