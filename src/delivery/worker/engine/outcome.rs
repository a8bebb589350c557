//! The way out: from an answer of the handler to a message that has found its end.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::id::RoutingKey;
use crate::base::time::HumanDuration;
use crate::broker::{DIRECT_REPLY_TO, Publish};
use crate::delivery::worker::desk::{Booking, News};
use crate::delivery::worker::handler::{Answer, Fault, Output};
use crate::delivery::worker::lanes::JobId;
use crate::delivery::worker::outbox::{Parcel, Posted, Purpose};
use crate::delivery::worker::report::{Fate, WorkEnd, write_entry};
use crate::delivery::worker::scribe::Written;
use crate::delivery::worker::{DeadLetters, ResultTo};

use crate::resilience::circuit::Permit;
use crate::resilience::classification::Class;
use crate::resilience::dedup::NotClaimed;
use crate::resilience::retry::{Attempt, Decision};
use crate::resilience::store::{Ended, Ending as CircuitEnding};

use super::works::{Stage, Work, identity};
use super::{CLAIM_AGAIN, Engine, REMEMBERED};

impl Engine<'_> {
    pub(super) fn tell_circuit(&mut self, permit: Option<Permit>, ending: CircuitEnding) {
        if let Some(permit) = permit.filter(|_| self.desk.has_circuit()) {
            let at = self.now();
            self.desk.ended(Ended { permit, ending, at });
        }
    }

    /// What an answer means.
    pub(super) fn answered(&mut self, id: JobId, answer: Answer) -> Result<(), WorkEnd> {
        let Some(work) = self.works.get(id) else { return Ok(()) };
        if !matches!(work.stage, Stage::Running) {
            return Ok(());
        }
        self.running -= 1;
        let permit = work.permit.take();
        match answer {
            Answer::Done(output) => {
                self.tell_circuit(permit, CircuitEnding::Succeeded);
                self.done(id, output);
                Ok(())
            }
            Answer::Failed(fault) => {
                self.tell_circuit(
                    permit,
                    match fault.class.speaks_against_the_other_side() {
                        true => CircuitEnding::Failed,
                        false => CircuitEnding::Abandoned,
                    },
                );
                self.fail(id, fault)
            }
            Answer::Displaced => {
                work.stage = Stage::Ready;
                work.alone = true;
                let is_void = work.void;
                self.report.attempts -= 1;
                self.tell_circuit(permit, CircuitEnding::Abandoned);
                if is_void {
                    self.finish(id, Fate::Void);
                } else {
                    self.ready.push_back(id);
                }
                Ok(())
            }
        }
    }

    /// The work is done: its results go out, then it is remembered, then acked.
    pub(super) fn done(&mut self, id: JobId, output: Output) {
        let now = self.now();
        let Some(work) = self.works.get(id) else { return };
        let delivery = Arc::clone(&work.delivery);
        let signer = &self.worker.signer;
        let mut parcels = Vec::new();
        let mut written = None;
        let answers = self.options.answer && delivery.message.properties.reply_to.is_some();
        match &self.options.result {
            ResultTo::Publish { exchange, key } if output != Output::Nothing => {
                let routing_key = match key.text(&delivery, self.queue.as_str()) {
                    Ok(key) => RoutingKey::new(key).map_err(|e| e.to_string()),
                    Err(why) => Err(why),
                };
                match routing_key {
                    Ok(routing_key) => {
                        let message = signer.result(&delivery, output.clone(), now);
                        let exchange = exchange.clone();
                        parcels.push((Purpose::Result, Publish { exchange, routing_key, message }));
                    }
                    Err(reason) => {
                        let code = "key".to_owned();
                        let class = Class::Poison;
                        return self.bury(id, Fault { class, code, reason, asked_to_wait: None });
                    }
                }
            }
            ResultTo::Output if !answers => {
                written = match &output {
                    Output::Nothing => None,
                    Output::Bytes(bytes) => Some(bytes.clone()),
                    Output::Record(record) => {
                        let mut line = record.message.body.clone();
                        line.push(b'\n');
                        Some(line)
                    }
                }
                .filter(|bytes| !bytes.is_empty());
            }
            _ => {}
        }
        if answers {
            let result = signer.result(&delivery, output, now);
            let answer = signer.answer(&delivery, result);
            parcels.extend(answer.map(|publish| (Purpose::Answer, publish)));
        }
        let left = parcels.len() + usize::from(written.is_some());
        work.stage = Stage::Posting(u8::try_from(left).unwrap_or(u8::MAX), Fate::Done);
        for (purpose, publish) in parcels {
            self.outbox.post(Parcel { job: id, purpose, publish });
        }
        if let (Some(bytes), Some(scribe)) = (written, &mut self.scribe) {
            scribe.write(id, bytes);
        }
        if left == 0 {
            self.posted_all(id);
        }
    }

    /// An attempt has failed: again, or never.
    pub(super) fn fail(&mut self, id: JobId, fault: Fault) -> Result<(), WorkEnd> {
        let (now, dice) = (self.now(), self.dice());
        self.report.failures += 1;
        self.report.timeouts += u64::from(fault.code == "timeout");
        let Some(work) = self.works.get(id) else { return Ok(()) };
        if work.void {
            self.finish(id, Fate::Void);
            return Ok(());
        }
        self.report.last_failure = Some(format!("{}: {}", fault.code, fault.reason));
        let began = *work.began.get_or_insert(now);
        let attempt = Attempt {
            number: work.attempt,
            class: fault.class,
            elapsed: now.since(began),
            asked_to_wait: fault.asked_to_wait,
            dice,
        };
        match self.options.retry.decide(&attempt, now, self.budget.as_mut()) {
            Decision::RetryAfter(wait) => {
                self.report.retries += 1;
                tracing::info!(
                    code = fault.code,
                    reason = fault.reason,
                    attempt = work.attempt,
                    wait = %HumanDuration(wait),
                    "an attempt failed"
                );
                match self.options.delay_queue(wait) {
                    Some(queue) => {
                        let publish =
                            self.worker.signer.delayed(queue, &work.delivery, work.attempt, began);
                        work.stage = Stage::Posting(1, Fate::Delayed);
                        work.fault = Some(fault);
                        self.outbox.post(Parcel { job: id, purpose: Purpose::Delay, publish });
                    }
                    None => {
                        work.attempt += 1;
                        work.stage = Stage::Delayed;
                        self.delayed.push(Reverse((Instant::now() + wait, id)));
                    }
                }
                Ok(())
            }
            Decision::GiveUp(why) => {
                tracing::warn!(
                    code = fault.code,
                    reason = fault.reason,
                    attempts = work.attempt,
                    %why,
                    "a message failed for good"
                );
                if self.options.dead_letters == DeadLetters::Stop {
                    let id = work.delivery.message.properties.message_id.as_deref();
                    self.report.error = Some(format!(
                        "the message {} failed ({}): {}; {why}",
                        id.map_or_else(|| "without an id".to_owned(), |id| format!("`{id}`")),
                        fault.code,
                        fault.reason
                    ));
                    self.report.hint = Some(
                        "it is back in the queue; repair its cause, or name a dead-letter queue"
                            .to_owned(),
                    );
                    return Err(WorkEnd::Failure);
                }
                self.bury(id, fault);
                Ok(())
            }
        }
    }

    /// Makes a dead letter of a message.
    pub(super) fn bury(&mut self, id: JobId, fault: Fault) {
        let now = self.now();
        let Some(work) = self.works.get(id) else { return };
        if work.void {
            return self.finish(id, Fate::Void);
        }
        let delivery = Arc::clone(&work.delivery);
        let attempts = work.attempt;
        let answer = match self.options.answer {
            true => self.worker.signer.error_answer(&delivery, &fault, now),
            false => None,
        };
        let letter = match &self.options.dead_letters {
            DeadLetters::To(address) => {
                Some(self.worker.signer.dead_letter(address, &delivery, &fault, attempts, now))
            }
            DeadLetters::Reject | DeadLetters::Stop | DeadLetters::Answered => None,
        };
        let fate = match (&letter, &answer, &self.options.dead_letters) {
            (Some(_), ..) => Fate::DeadLettered,
            (None, Some(_), DeadLetters::Answered) => Fate::Refused,
            (None, ..) => Fate::Rejected,
        };
        let parcels = [
            letter.map(|publish| (Purpose::DeadLetter, publish)),
            answer.map(|publish| (Purpose::Answer, publish)),
        ];
        let mut left = 0;
        for (purpose, publish) in parcels.into_iter().flatten() {
            self.outbox.post(Parcel { job: id, purpose, publish });
            left += 1;
        }
        work.fault = Some(fault);
        work.stage = Stage::Posting(left, fate);
        if left == 0 {
            self.posted_all(id);
        }
    }

    /// What became of a parcel.
    pub(super) fn delivered(&mut self, parcel: &Parcel, posted: Posted) -> Result<(), WorkEnd> {
        let id = parcel.job;
        if let Posted::Returned { code, text } = posted {
            match parcel.purpose {
                // The broker returns answers that it delivers directly as well.
                Purpose::Answer
                    if parcel.publish.routing_key.as_str().starts_with(DIRECT_REPLY_TO) =>
                {
                    self.report.published += 1;
                }
                // Who asked has gone.
                Purpose::Answer => self.report.unanswered += 1,
                Purpose::Result => {
                    let fault = Fault {
                        class: Class::Permanent,
                        code: format!("returned {code}"),
                        reason: format!("no queue takes its result ({text})"),
                        asked_to_wait: None,
                    };
                    if let Some(work) = self.works.get(id) {
                        work.fault = Some(fault);
                    }
                }
                Purpose::Delay => {
                    // The queue for the wait is gone; it waits here instead.
                    if let Some(work) = self.works.get(id) {
                        work.attempt += 1;
                        work.stage = Stage::Delayed;
                        let wait = Duration::from_secs(5);
                        self.delayed.push(Reverse((Instant::now() + wait, id)));
                    }
                    return Ok(());
                }
                Purpose::DeadLetter => {
                    let to = &parcel.publish;
                    self.report.error = Some(format!(
                        "no queue takes the dead letter sent to {} with the key `{}` ({code} {text})",
                        to.exchange.in_words(),
                        to.routing_key
                    ));
                    self.report.hint = Some(
                        "bind a queue there, or name one with --dead-letter-queue; the message is \
                         back in its queue"
                            .to_owned(),
                    );
                    return Err(WorkEnd::NoWayOut);
                }
            }
        } else if matches!(parcel.purpose, Purpose::Answer | Purpose::Result) {
            self.report.published += 1;
        }
        self.one_less(id);
        Ok(())
    }

    pub(super) fn one_less(&mut self, id: JobId) {
        let Some(work) = self.works.get(id) else { return };
        if let Stage::Posting(left, _) = &mut work.stage {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.posted_all(id);
            }
        }
    }

    /// Everything that takes a message's place is where it belongs.
    pub(super) fn posted_all(&mut self, id: JobId) {
        let Some(work) = self.works.get(id) else { return };
        let Stage::Posting(_, fate) = work.stage else { return };
        if fate == Fate::Done {
            if let Some(fault) = work.fault.take() {
                return self.bury(id, fault);
            }
            let numbered = work.number.is_some() && self.desk.numbers();
            if work.claim.is_some() || numbered {
                work.stage = Stage::Booking;
                self.to_book.push(id);
                return;
            }
        }
        self.finish(id, fate);
    }

    pub(super) fn book(&mut self) {
        if self.desk.booking || self.to_book.is_empty() {
            return;
        }
        let mut bookings = Vec::with_capacity(self.to_book.len());
        for id in std::mem::take(&mut self.to_book) {
            if let Some(work) = self.works.get(id) {
                let number = work.number.clone().filter(|_| self.desk.numbers());
                bookings.push(Booking { job: id, claim: work.claim.take(), number });
            }
        }
        self.desk.book(bookings);
    }

    pub(super) fn hear(&mut self, news: News) -> Result<(), WorkEnd> {
        match news {
            News::Claimed(claimed) => {
                for (id, answer) in claimed {
                    let Some(work) = self.works.get(id) else {
                        self.claims_to_release.extend(answer.ok());
                        continue;
                    };
                    let is_void = work.void;
                    match answer {
                        Ok(claim) => {
                            work.claim = Some(claim);
                            work.stage = Stage::Ready;
                            if is_void {
                                self.finish(id, Fate::Void);
                            } else {
                                self.ready.push_back(id);
                            }
                        }
                        Err(_) if is_void => self.finish(id, Fate::Void),
                        Err(NotClaimed::Duplicate) => self.finish(id, Fate::Duplicate),
                        Err(NotClaimed::InWork { .. } | NotClaimed::Full) => {
                            work.stage = Stage::Delayed;
                            self.delayed.push(Reverse((Instant::now() + CLAIM_AGAIN, id)));
                        }
                    }
                }
            }
            News::Admitted(count, permits, again) => {
                let has_circuit = self.desk.has_circuit();
                if has_circuit {
                    self.passes.extend(permits.into_iter().map(Some));
                } else {
                    self.passes.extend((0..count).map(|_| None));
                }
                let (wait, why) = again.unzip();
                self.ask_again = wait.map(|wait| Instant::now() + wait);
                if why.is_some() && why != self.held_back {
                    tracing::warn!(why = why.as_deref(), "messages wait");
                }
                self.held_back = why;
            }
            News::Booked(jobs) => {
                for id in jobs {
                    self.finish(id, Fate::Done);
                }
            }
            News::Recorded => {}
            News::Failed(error) => {
                self.report.error.get_or_insert_with(|| error.to_string());
                return Err(WorkEnd::Failed);
            }
        }
        Ok(())
    }

    pub(super) fn written(&mut self, written: Written) -> Result<(), WorkEnd> {
        match written {
            Written::Committed(jobs) => {
                for id in jobs {
                    self.one_less(id);
                }
                Ok(())
            }
            Written::Failed(error) => {
                self.scribe = None;
                self.report.pipe_closed = error.kind() == io::ErrorKind::BrokenPipe;
                self.report
                    .error
                    .get_or_insert_with(|| format!("cannot write the output: {error}"));
                Err(WorkEnd::Output)
            }
        }
    }

    /// A message has found its end here.
    pub(super) fn finish(&mut self, id: JobId, fate: Fate) {
        let Some(mut work) = self.works.take(id) else { return };
        if let Some(claim) = work.claim.take() {
            self.claims_to_release.push(claim);
        }
        if let Some(lane) = &work.lane
            && let Some(next) = self.lanes.leave(lane, id)
        {
            self.runnable.push_back(next);
        }
        let is_settled = !matches!(fate, Fate::Returned | Fate::Void);
        let mut shown = fate;
        if work.void && is_settled {
            // What was done stays done; the message comes again and is known then.
            shown = Fate::Void;
            self.report.repeats_possible += 1;
            if matches!(fate, Fate::Done | Fate::DeadLettered | Fate::Delayed)
                && self.done_unacked.len() < REMEMBERED
                && let Some(key) = identity(&work.delivery)
            {
                *self.done_unacked.entry(key).or_default() += 1;
            }
        } else if fate == Fate::Rejected {
            self.reject(&work);
        } else if is_settled {
            self.unsettled.done(work.delivery.tag);
        }
        self.report.count(shown);
        if let Some(journal) = &mut self.worker.journal {
            let attempts = match fate {
                Fate::Returned | Fate::Void | Fate::Duplicate => work.attempt.saturating_sub(1),
                _ => work.attempt,
            };
            let now = self.worker.clock.now();
            let fault = work.fault.as_ref();
            if let Err(error) = write_entry(journal, now, &work.delivery, shown, attempts, fault) {
                self.worker.journal = None;
                tracing::warn!(%error, "the report of messages cannot be written any more");
            }
        }
    }

    pub(super) fn reject(&mut self, work: &Work) {
        self.unsettled.settled(work.delivery.tag);
        self.worker.rejections.push(work.delivery.tag);
    }
}
