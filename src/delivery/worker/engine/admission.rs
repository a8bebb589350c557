//! The way in: from a delivery to an attempt that has begun.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Delivery;
use crate::delivery::worker::Order;
use crate::delivery::worker::handler::{Fault, Handler, Job};
use crate::delivery::worker::lanes::{JobId, LaneKey};
use crate::delivery::worker::letter::attempts_before;
use crate::delivery::worker::report::{Fate, WorkEnd};
use crate::message::{Envelope, FieldValue, Message};
use crate::resilience::classification::Class;
use crate::resilience::reorder::Release;
use crate::resilience::retry::RetryBudget;

use super::works::{Stage, Work, identity};
use super::{CLAIMED_AHEAD, Engine};

impl Engine<'_> {
    /// Takes one delivery in.
    pub(super) fn take(&mut self, delivery: Delivery) {
        self.stalled_since = None;
        if delivery.tag.generation != self.generation {
            self.begin_generation(delivery.tag.generation);
        }
        self.report.received += 1;
        self.report.redelivered += u64::from(delivery.redelivered);
        self.unsettled.arrive(delivery.tag);
        let properties = &delivery.message.properties;
        let (made, began) = attempts_before(properties);
        let workflow = properties.header("x-nexus-workflow").and_then(FieldValue::as_text);
        let number = properties.header("x-nexus-sequence").and_then(FieldValue::as_i64);
        let number = number.and_then(|number| u64::try_from(number).ok());
        let bytes = delivery.message.body.len();
        let number = workflow.map(str::to_owned).zip(number);
        let lane = match &self.options.order {
            Order::None => None,
            Order::Strict => Some("".into()),
            Order::Workflow => workflow.map(LaneKey::from),
            Order::Key(key) => {
                key.of(&delivery, self.queue.as_str()).ok().flatten().map(LaneKey::from)
            }
        };
        // Without a lane, one that comes again could run beside its first delivery.
        let lane = lane.or_else(|| {
            let again = delivery.redelivered && self.generation > 0;
            let key = again.then(|| identity(&delivery)).flatten()?;
            Some(format!("again {key}").into())
        });
        let id = self.works.add(Work {
            delivery: Arc::new(delivery),
            lane,
            number: number.clone(),
            stage: Stage::Waiting,
            attempt: made + 1,
            began,
            alone: false,
            claim: None,
            permit: None,
            fault: None,
            void: false,
        });
        let now = self.now();
        match (&mut self.reorder, number) {
            (Some(buffer), Some((workflow, number))) => {
                buffer.push(&workflow, number, id, bytes, now, &mut self.released);
                self.let_out();
            }
            _ => self.join(id),
        }
    }

    /// Does what the reorder buffer has decided.
    pub(super) fn let_out(&mut self) {
        for release in std::mem::take(&mut self.released) {
            match release {
                Release::InOrder(id) | Release::Late(id) | Release::Duplicate(id) => self.join(id),
                // It was the last to come, so it waits where it is, for the next place.
                Release::NoRoom(id) => self.join(id),
                Release::Parked { item, missing } => {
                    let fault = Fault {
                        class: Class::Poison,
                        code: "gap".to_owned(),
                        reason: format!(
                            "the messages {} to {} of its workflow did not come in time",
                            missing.start(),
                            missing.end()
                        ),
                        asked_to_wait: None,
                    };
                    self.bury(item, fault);
                }
                Release::GapReleased { workflow, missing, .. }
                | Release::GapParked { workflow, missing, .. } => {
                    self.report.gaps += 1;
                    tracing::warn!(
                        workflow = &*workflow,
                        from = missing.start(),
                        to = missing.end(),
                        "a gap did not close in time"
                    );
                }
                Release::Forgotten { workflow, next } => {
                    tracing::warn!(workflow = &*workflow, next, "too many workflows at once");
                }
            }
        }
    }

    /// Puts a message into its lane.
    pub(super) fn join(&mut self, id: JobId) {
        let Some(work) = self.works.get(id) else { return };
        let is_first = match &work.lane {
            None => true,
            Some(lane) => self.lanes.join(lane, id),
        };
        if is_first {
            self.runnable.push_back(id);
        }
    }

    /// The connection was lost: what has not begun comes again; what runs goes on.
    pub(super) fn begin_generation(&mut self, generation: u32) {
        tracing::warn!(queue = %self.queue, "connected again after the connection was lost");
        self.generation = generation;
        self.report.reconnects += 1;
        if let Some(buffer) = &mut self.reorder {
            buffer.take_held();
        }
        let mut not_begun = Vec::new();
        let mut to_join = Vec::new();
        for (id, work) in self.works.iter() {
            if std::mem::replace(&mut work.void, true) {
                continue;
            }
            match work.stage {
                Stage::Running | Stage::Posting(..) | Stage::Booking | Stage::Claiming => {
                    if work.lane.is_none()
                        && let Some(key) = identity(&work.delivery)
                    {
                        let lane: LaneKey = format!("again {key}").into();
                        work.lane = Some(Arc::clone(&lane));
                        to_join.push((lane, id));
                    }
                }
                _ => not_begun.push(id),
            }
        }
        for (lane, id) in to_join {
            self.lanes.join(&lane, id);
        }
        for id in not_begun {
            self.finish(id, Fate::Void);
        }
    }

    pub(super) fn wake_delayed(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.delayed.peek().copied()
            && at <= now
        {
            self.delayed.pop();
            let Some(work) = self.works.get(id) else { continue };
            match work.claim {
                None if self.desk.claims() => self.runnable.push_back(id),
                _ => {
                    work.stage = Stage::Ready;
                    self.ready.push_back(id);
                }
            }
        }
    }

    /// Asks for what messages need before they may begin.
    pub(super) fn ask(&mut self) {
        if self.desk.claims() {
            if self.desk.claiming || self.ready.len() > CLAIMED_AHEAD {
                return;
            }
            let mut jobs = Vec::new();
            while let Some(id) = self.runnable.pop_front() {
                let Some(work) = self.works.get(id) else { continue };
                let key = match &self.options.dedup_key {
                    Some(key) => key.of(&work.delivery, self.queue.as_str()).ok().flatten(),
                    None => work.delivery.message.properties.message_id.clone(),
                };
                match key {
                    Some(key) => {
                        work.stage = Stage::Claiming;
                        jobs.push((id, key));
                    }
                    // Nothing to tell it by.
                    None => {
                        work.stage = Stage::Ready;
                        self.ready.push_back(id);
                    }
                }
            }
            if !jobs.is_empty() {
                self.desk.claim(jobs);
            }
        } else {
            while let Some(id) = self.runnable.pop_front() {
                if let Some(work) = self.works.get(id) {
                    work.stage = Stage::Ready;
                    self.ready.push_back(id);
                }
            }
        }
    }

    /// Begins as many as there is room and leave for.
    pub(super) fn start(&mut self, handler: &mut dyn Handler) -> Result<(), WorkEnd> {
        while !self.ready.is_empty() {
            let room = handler.room();
            if room == 0 {
                break;
            }
            if self.desk.admits() && self.passes.is_empty() {
                let now = Instant::now();
                if !self.desk.admitting && self.ask_again.is_none_or(|again| again <= now) {
                    self.ask_again = None;
                    let most = room.min(self.ready.len());
                    self.desk.admit(u32::try_from(most).unwrap_or(u32::MAX));
                }
                break;
            }
            if self.next_start.is_some_and(|at| at > Instant::now()) {
                break;
            }
            let Some(id) = self.ready.pop_front() else { break };
            self.begin(id, handler)?;
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, id: JobId, handler: &mut dyn Handler) -> Result<(), WorkEnd> {
        let now = self.now();
        let Some(work) = self.works.get(id) else { return Ok(()) };
        if !self.done_unacked.is_empty()
            && work.delivery.redelivered
            && let Some(key) = identity(&work.delivery)
            && let Some(count) = self.done_unacked.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.done_unacked.remove(&key);
            }
            self.finish(id, Fate::Duplicate);
            return Ok(());
        }
        if self.options.check_envelope
            && let Err(reason) = check_envelope(&work.delivery.message)
        {
            let fault = Fault {
                class: Class::Poison,
                code: "envelope".to_owned(),
                reason,
                asked_to_wait: None,
            };
            return self.fail(id, fault);
        }
        work.permit = if self.desk.admits() { self.passes.pop_front().flatten() } else { None };
        work.stage = Stage::Running;
        work.began.get_or_insert(now);
        let job = Job {
            id,
            attempt: work.attempt,
            delivery: Arc::clone(&work.delivery),
            alone: work.alone,
        };
        if work.attempt == 1 {
            self.budget.iter_mut().for_each(RetryBudget::first_attempt);
        }
        self.running += 1;
        self.report.attempts += 1;
        handler.start(job);
        if let Some(pace) = &mut self.options.pace {
            let wait = pace.wait(self.began.elapsed());
            self.next_start = (wait > Duration::ZERO).then(|| Instant::now() + wait);
        }
        Ok(())
    }
}

fn check_envelope(message: &Message) -> Result<(), String> {
    let envelope = Envelope::parse(&message.body).map_err(|wrong| wrong.join("; "))?;
    let mut wrong = envelope.check();
    wrong.extend(envelope.contradictions(&message.properties));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
