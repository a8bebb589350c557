//! Carries out a replay of some letters of a queue that has more of them than can be held.
//!
//! Those that stay wait in a queue of their own, and are brought back when all were looked at: what is
//! wanted goes to its target and the others there; what came meanwhile follows them; then all of it comes
//! back in that order. Each step is a run of the same machine, which acks a letter only after its copy is
//! confirmed, so at every instant each letter is in its queue, at its target or in that one. The journal
//! names the stage, and each has its own part of it.

use std::time::Duration;

use tokio::time::sleep;

use crate::base::id::QueueName;
use crate::broker::calm::await_calm;
use crate::broker::{Change, ErrorKind, Product, QueueDefinition, QueueType};
use crate::topology::view::TopologyView;

use super::machine::{End, Order, Rules};
use super::rest;
use super::run::{
    Begin, ReplayError, ReplayOptions, ReplayReport, Scene, Wants, lock_name, why, work,
};
use super::store::{Phase, Stage};

/// What became of the letters that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// How far it is.
    pub stage: Stage,
    /// Letters confirmed in the queue in which they wait.
    pub rested: u64,
    /// Letters confirmed where they were.
    pub brought_back: u64,
}

/// A cluster may forget a queue when its node is killed within the first seconds of its life, and with
/// it what it has confirmed.
pub const YOUTH: Duration = Duration::from_secs(5);

/// How often it is looked again whether more letters came, before the others are brought back.
const ROUNDS: u32 = 20;

/// The queue in which letters of run `run` wait.
///
/// # Errors
/// When the run's name is too long.
pub fn rest_queue(run: &str) -> Result<QueueName, ReplayError> {
    QueueName::new(format!("{}{run}", rest::PREFIX)).map_err(|error| ReplayError::Rest {
        queue: format!("{}{run}", rest::PREFIX),
        why: error.to_string(),
    })
}

/// Replays, with what stays in a queue of its own meanwhile, which is of type `kind`.
///
/// # Errors
/// When nothing could be begun, or the journal fails between two stages.
pub async fn staged(
    scene: &Scene<'_>,
    begin: Begin,
    options: &ReplayOptions,
    kind: QueueType,
    wants: &mut Wants<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<ReplayReport, ReplayError> {
    let rest = rest_queue(&options.run)?;
    let name = lock_name(scene.broker.identity().vhost.as_str(), &options.queue);
    let lock = scene.broker.lock(&name, &options.holder).await?;
    let stages = Stages { scene, options, kind, rest };
    let done = stages.go(begin, wants, progress).await;
    let _ = lock.release().await;
    done
}

struct Stages<'a> {
    scene: &'a Scene<'a>,
    options: &'a ReplayOptions,
    kind: QueueType,
    rest: QueueName,
}

impl Stages<'_> {
    async fn go(
        &self,
        begin: Begin,
        wants: &mut Wants<'_>,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<ReplayReport, ReplayError> {
        let Scene { journal, clock, .. } = *self.scene;
        let run = &self.options.run;
        let is_resumed = matches!(begin, Begin::Again);
        let (mut stage, mut because) = (Stage::Select, None);
        match begin {
            Begin::New(mut stored) => {
                self.make_rest().await?;
                stored.stage = Some(stage);
                journal.begin(*stored).await?;
            }
            Begin::Again => {
                let stored = journal.run(run)?;
                stage = stored.as_ref().and_then(|stored| stored.stage).unwrap_or(stage);
                because = stored.and_then(|stored| stored.why);
                journal.again(run, &self.options.holder).await?;
                if stage < Stage::Back {
                    self.make_rest().await?;
                    if self.options.bring_back {
                        stage = Stage::Newcomers;
                    }
                }
                journal.stage(run, stage, because.clone()).await?;
            }
        }
        let mut report = ReplayReport::default();
        if stage == Stage::Select {
            let options = ReplayOptions { rest: Some(self.rest.clone()), ..self.options.clone() };
            report = work(self.scene, is_resumed, &options, wants, progress).await?;
            if !is_whole(&report) {
                return self.stop(report, stage).await;
            }
            because = Some(why(report.ended).to_owned());
            stage = Stage::Newcomers;
            journal.stage(run, stage, because.clone()).await?;
        }
        if stage == Stage::Newcomers {
            let part = format!("{run}.newcomers");
            let options = ReplayOptions {
                rest: Some(self.rest.clone()),
                ..self.all_of(&self.options.queue, &part)
            };
            if !self.empty(&options, &mut report, progress).await? {
                return self.stop(report, stage).await;
            }
            stage = Stage::Back;
            journal.stage(run, stage, because.clone()).await?;
        }
        if stage == Stage::Back {
            let part = format!("{run}.back");
            let options = ReplayOptions {
                home: Some(self.options.queue.clone()),
                ..self.all_of(&self.rest, &part)
            };
            if !self.empty(&options, &mut report, progress).await? {
                return self.stop(report, stage).await;
            }
            self.remove_rest(&mut report).await?;
        }
        let because = because.as_deref().unwrap_or(why(End::All)).to_owned();
        journal.whole(run, &because, &self.options.holder.who, clock.now()).await?;
        self.tell(&mut report, Stage::Whole).await?;
        Ok(report)
    }

    /// A run of everything in `queue`, as it is.
    fn all_of(&self, queue: &QueueName, part: &str) -> ReplayOptions {
        let given = self.options.rules;
        ReplayOptions {
            run: part.to_owned(),
            queue: queue.clone(),
            rate: None,
            lanes: None,
            rules: Rules {
                prefetch: given.intents(),
                first: None,
                order: if given.window == 1 { Order::Strict } else { Order::Queue },
                max_replays: u64::MAX,
                parks: false,
                keeps: false,
                is_diverted: false,
                rests: *queue != self.rest,
                ..given
            },
            ..self.options.clone()
        }
    }

    /// Moves all that is in a queue, and what comes to it meanwhile; whether it is empty, or as empty as
    /// it becomes.
    async fn empty(
        &self,
        options: &ReplayOptions,
        report: &mut ReplayReport,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<bool, ReplayError> {
        let Scene { broker, journal, clock, .. } = *self.scene;
        let mut is_resumed = journal.next_position(&options.run)? > 1;
        journal.part(&self.options.run, &options.run, clock.now()).await?;
        for _ in 0..ROUNDS {
            // What a consumer had not settled has to be back in its place.
            await_calm(broker, &options.queue, options.patience).await?;
            let ready = broker.depth(&options.queue).await?.map_or(0, |depth| depth.ready);
            if ready == 0 {
                return Ok(true);
            }
            let rules = Rules { watermark: ready, ..options.rules };
            let options = ReplayOptions { rules, ..options.clone() };
            let all = options.home.is_some();
            let mut wants = |_: u64, _: &_, _: &_| Ok(all);
            let done = work(self.scene, is_resumed, &options, &mut wants, progress)
                .await
                .unwrap_or_else(|error| ReplayReport {
                    ended: End::Broken,
                    failure: Some(error.to_string()),
                    ..ReplayReport::default()
                });
            is_resumed = true;
            if !is_whole(&done) || done.counts.acked == 0 && done.ended != End::Dry {
                take_failure(report, done);
                return Ok(false);
            }
        }
        // Letters come faster than they are looked for. Those that wait are brought back nonetheless.
        Ok(options.home.is_none())
    }

    /// Declares the queue in which letters wait, and makes sure that nothing ends them there.
    async fn make_rest(&self) -> Result<(), ReplayError> {
        let broker = self.scene.broker;
        let is_new = broker.depth(&self.rest).await?.is_none();
        let mut definition = QueueDefinition::durable(self.rest.clone(), self.kind);
        let known = broker.capabilities();
        if self.kind == QueueType::Quorum
            && known.default_delivery_limit.is_some()
            && known.unlimited_delivery_limit
        {
            definition.arguments.insert("x-delivery-limit", -1_i64);
        }
        broker.change(&Change::DeclareQueue(definition)).await?;
        let ends = match broker.inspect().await {
            Ok(snapshot) => self.what_ends_letters(&TopologyView::of_snapshot(&snapshot)),
            Err(error) if error.kind == ErrorKind::Unsupported => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(why) = ends {
            if is_new {
                self.delete_rest().await?;
            }
            return Err(ReplayError::Rest { queue: self.rest.to_string(), why });
        }
        if is_new && broker.identity().product == Product::RabbitMq {
            sleep(YOUTH).await;
        }
        Ok(())
    }

    /// What a policy would do to letters that wait.
    fn what_ends_letters(&self, view: &TopologyView) -> Option<String> {
        let queue = &view.queues.get(self.rest.as_str())?.effective;
        let limits = [
            ("message-ttl", queue.message_ttl_ms()),
            ("expires", queue.expires_ms()),
            ("max-length", queue.max_length()),
            ("max-length-bytes", queue.max_length_bytes()),
            ("delivery-limit", queue.delivery_limit().map(u64::from)),
        ];
        let (name, value) = limits
            .into_iter()
            .find_map(|(name, value)| Some((name, value?)))
            .filter(|(name, _)| *name != "delivery-limit" || self.kind == QueueType::Quorum)?;
        let policies = [queue.policy.as_ref(), queue.operator_policy.as_ref()];
        let policies: Vec<String> =
            policies.into_iter().flatten().map(|policy| format!("`{policy}`")).collect();
        let by = if policies.is_empty() {
            String::new()
        } else {
            format!(" by policy {}", policies.join(" and "))
        };
        Some(format!("{name} is {value} there{by}, which could end letters that wait"))
    }

    async fn delete_rest(&self) -> Result<(), ReplayError> {
        let delete =
            Change::DeleteQueue { name: self.rest.clone(), if_empty: true, if_unused: true };
        self.scene.broker.change(&delete).await?;
        Ok(())
    }

    /// Deletes the queue in which letters waited, once as many came back as went there.
    async fn remove_rest(&self, report: &mut ReplayReport) -> Result<(), ReplayError> {
        let (rested, brought_back) = self.count()?;
        if brought_back < rested {
            let missing = rested - brought_back;
            report.failure.get_or_insert_with(|| {
                format!(
                    "somebody took {missing} of the letters that waited in queue `{}`",
                    self.rest
                )
            });
        }
        if self.scene.broker.depth(&self.rest).await?.is_some() {
            self.delete_rest().await?;
        }
        Ok(())
    }

    /// How many letters were put into the queue in which they wait, and how many were brought back.
    fn count(&self) -> Result<(u64, u64), ReplayError> {
        let (journal, run) = (self.scene.journal, &self.options.run);
        let away = journal.tally(run)?;
        let later = journal.tally(&format!("{run}.newcomers"))?;
        let back = journal.tally(&format!("{run}.back"))?;
        let rested = away.rested + later.rested;
        Ok((rested, back.confirmed + back.skipped))
    }

    async fn tell(&self, report: &mut ReplayReport, stage: Stage) -> Result<(), ReplayError> {
        let (rested, brought_back) = self.count()?;
        report.staged = Some(Staged { stage, rested, brought_back });
        let left = self.scene.broker.depth(&self.options.queue).await.ok().flatten();
        report.left = left.map(|depth| depth.ready);
        Ok(())
    }

    async fn stop(
        &self,
        mut report: ReplayReport,
        stage: Stage,
    ) -> Result<ReplayReport, ReplayError> {
        let Scene { journal, clock, .. } = *self.scene;
        let (run, who) = (&self.options.run, &self.options.holder.who);
        if stage == Stage::Select {
            journal.end(run, Phase::Stopped, why(report.ended), who, clock.now()).await?;
        } else {
            // Why the first stage ended is still to be told.
            let because = journal.run(run)?.and_then(|stored| stored.why).unwrap_or_default();
            journal.end(run, Phase::Stopped, &because, who, clock.now()).await?;
        }
        self.tell(&mut report, stage).await?;
        Ok(report)
    }
}

/// Whether all was done that the stage is about.
fn is_whole(report: &ReplayReport) -> bool {
    let ended = report.ended <= End::Echo || report.ended == End::Dry && !report.stalled;
    ended && report.failure.is_none()
}

/// What kept a later stage from its end is what the whole run ended by.
fn take_failure(report: &mut ReplayReport, done: ReplayReport) {
    report.ended = done.ended.max(End::Dry);
    report.stalled = done.stalled || done.ended <= End::Dry;
    report.failure = report.failure.take().or(done.failure);
    report.refusal = done.refusal.or(report.refusal.take());
    report.counts.in_doubt += done.counts.in_doubt;
}
