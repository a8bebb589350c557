//! The worker's part: orders of a few customers, a command that handles each, and what became of them.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{ExchangeName, QueueName};
use crate::delivery::consume::{AckMode, ConsumeOptions};
use crate::delivery::filter::Filter;
use crate::delivery::sink::Format;
use crate::delivery::source::{Limits, RecordSource};
use crate::delivery::worker::handler::process::{CommandSpec, Processes};
use crate::delivery::worker::letter::DEATH_CODE;
use crate::delivery::worker::{
    Address, DeadLetters, Signer, WorkEnd, WorkOptions, WorkReport, WorkVerdict, Worker, work,
};
use crate::project::init::HANDLER_FILE;
use crate::resilience::retry::{RetryPolicy, Treatment};

use super::{QuickstartError, Run};

/// Where the orders are.
pub(super) const ORDERS_FILE: &str = "orders.ndjson";
/// How many they are.
const ORDERS: u64 = 20;
/// Those of one customer are a workflow, handled one after the other.
const CUSTOMERS: u64 = 4;
/// So many are handled at once.
const JOBS: usize = 4;
/// The handler's argument when it is mended.
const MENDED: &str = "mended";
/// Up to so long the first wait is.
const BACKOFF_MS: u64 = 20;
/// What is shown of a dead letter.
const DEATH_FORMAT: &str = "{messageId}\\t{headers.x-nexus-death-code}\\t\
                            {headers.x-nexus-death-attempts}\\t{headers.x-nexus-death-error}\\n";

/// What the worker made of its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worked {
    /// Messages confirmed.
    pub published: u64,
    /// Messages whose work is done.
    pub done: u64,
    /// Attempts that were begun.
    pub attempts: u64,
    /// Failed attempts that another followed.
    pub retried: u64,
    /// Messages that failed for good.
    pub dead_lettered: u64,
    /// The first of these.
    pub first_death: Option<Death>,
}

/// What a dead letter tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Which message.
    pub message_id: String,
    /// How the last attempt ended, such as `exit 65`.
    pub code: String,
    /// How many attempts were made.
    pub attempts: u64,
    /// What the command said last.
    pub error: String,
}

impl Death {
    /// Reads a line of [`DEATH_FORMAT`].
    fn read(line: &str) -> Option<Death> {
        let mut words = line.splitn(4, '\t');
        Some(Death {
            message_id: words.next()?.to_owned(),
            code: words.next()?.to_owned(),
            attempts: words.next()?.parse().ok()?,
            error: words.next()?.to_owned(),
        })
    }
}

/// The orders of the project `name` as records: most are fine, some fail at first, some always.
pub(super) fn orders(name: &str) -> String {
    (0..ORDERS)
        .map(|n| {
            let (order, customer, sequence) = (n + 1, n % CUSTOMERS, n / CUSTOMERS + 1);
            let state = match order {
                3 | 8 | 13 | 20 => "unpaid",
                // Of one customer, so that the first is the first to die.
                10 | 18 => "broken",
                _ => "fine",
            };
            format!(
                "{{\"exchange\":\"{name}.shop\",\"routingKey\":\"order.created\",\"properties\":\
                 {{\"contentType\":\"application/json\",\"deliveryMode\":2,\"messageId\":\
                 \"order-{order}\",\"headers\":{{\"x-nexus-workflow\":\"customer-{customer}\",\
                 \"x-nexus-sequence\":{sequence}}}}},\
                 \"body\":{{\"order\":{order},\"state\":\"{state}\"}}}}\n"
            )
        })
        .collect()
}

impl Run<'_, '_> {
    pub(super) async fn publish_more(&mut self) -> Result<(), QuickstartError> {
        let text = orders(&self.request.name);
        let limits = Limits { login: self.request.login.clone(), ..Limits::default() };
        let source = RecordSource::new(Box::new(Cursor::new(text)), None, None, limits);
        let report = self.send(Box::new(source), ORDERS).await?;
        self.report.worked.published = report.confirmed;
        let command = format!("publish --records -f {}/{ORDERS_FILE}", self.request.dir_shown);
        let result = format!("{} messages confirmed", report.confirmed);
        self.done("publish twenty orders of four customers", command, result);
        Ok(())
    }

    fn work_options(&self) -> Result<WorkOptions, QuickstartError> {
        let defaults = WorkOptions::default();
        let wait = Treatment::Retry {
            base: Duration::from_millis(BACKOFF_MS),
            cap: Duration::from_secs(1),
        };
        let exchange = ExchangeName::new(self.name("dead"))?;
        Ok(WorkOptions {
            until_empty: true,
            deadline: Some(self.request.deadline),
            retry: RetryPolicy { retriable: wait, ..defaults.retry },
            dead_letters: DeadLetters::To(Address { exchange, key: None }),
            patience: defaults.patience.min(self.request.deadline),
            ..defaults
        })
    }

    /// `sh` runs the handler, so that a directory whose files cannot be executed does no harm.
    fn handler(&self, queue: &QueueName, mended: bool) -> Processes {
        let script = self.request.dir.join(HANDLER_FILE);
        let word = mended.then_some(MENDED);
        let spec = CommandSpec {
            program: "sh".into(),
            arguments: [script.into()].into_iter().chain(word.map(Into::into)).collect(),
            directory: None,
            jobs: JOBS,
            timeout: Some(self.request.deadline),
            kill_after: Duration::from_secs(1),
            keep_output: false,
            max_output: 0,
            record_fd: None,
            queue: queue.as_str().to_owned(),
            listener: Arc::new(|_| {}),
        };
        Processes::new(spec, Arc::clone(&self.request.guard))
    }

    async fn run_worker(&mut self, mended: bool) -> Result<WorkReport, QuickstartError> {
        let queue = QueueName::new(self.name("orders"))?;
        let signer = Signer {
            queue: queue.clone(),
            host: self.request.host.clone(),
            login: self.request.login.clone(),
        };
        let random = fastrand::Rng::with_seed(self.request.seed);
        let worker = Worker::new(signer, Arc::clone(&self.clock), random);
        let options = self.work_options()?;
        let mut handler = self.handler(&queue, mended);
        let silent = &mut |_: &WorkReport, _| {};
        Ok(work(self.broker, &queue, options, worker, &mut handler, self.stop, silent).await?)
    }

    fn worker_command(&self) -> String {
        format!(
            "worker {} --jobs {JOBS} --backoff {BACKOFF_MS}ms --until-empty -- sh {}/{HANDLER_FILE}",
            self.name("orders"),
            self.request.dir_shown
        )
    }

    pub(super) async fn work(&mut self) -> Result<(), QuickstartError> {
        let report = self.run_worker(false).await?;
        let worked = &mut self.report.worked;
        worked.done = report.done;
        worked.attempts = report.attempts;
        worked.retried = report.retries;
        worked.dead_lettered = report.dead_lettered;
        let worked = worked.clone();
        self.go_on()?;
        complete(report, worked.published)?;
        let result = format!(
            "{} orders packed in {} attempts, {} of which failed and were tried again;\n{} orders \
             failed for good and are dead letters, which is status 3",
            worked.done, worked.attempts, worked.retried, worked.dead_lettered
        );
        self.done(
            "let a worker pack them, some at the second attempt, some never",
            self.worker_command(),
            result,
        );
        Ok(())
    }

    /// The worker again, which can read every address now.
    pub(super) async fn work_again(&mut self) -> Result<(), QuickstartError> {
        let report = self.run_worker(true).await?;
        self.go_on()?;
        self.report.mended = report.done;
        complete(report, self.report.replayed)?;
        let command = format!("{} {MENDED}", self.worker_command());
        let result = format!("{} orders packed", self.report.mended);
        self.done("let the mended worker pack them", command, result);
        Ok(())
    }

    pub(super) async fn ask_why(&mut self) -> Result<(), QuickstartError> {
        const STEP: &str = "look at the reasons";
        let unexpected = |why: String| QuickstartError::Unexpected { step: STEP, why };
        let queue = self.name("rejected");
        let expected = self.report.rejected + self.report.worked.dead_lettered;
        // What was looked at before is back by then.
        self.dead_letters(&QueueName::new(&queue)?, expected).await?;
        let filter = format!("\"{DEATH_CODE}\" in headers");
        let options = ConsumeOptions {
            until_empty: true,
            filter: Some(Filter::parse(&filter).map_err(|error| unexpected(error.to_string()))?),
            ack: AckMode::Never,
            ..ConsumeOptions::default()
        };
        let format = DEATH_FORMAT.parse().map_err(|error| unexpected(format!("{error}")))?;
        let (_, text) = self.take(STEP, &queue, options, Format::Custom(format)).await?;
        let deaths: Option<Vec<Death>> = text.lines().map(Death::read).collect();
        let deaths =
            deaths.filter(|deaths| deaths.len() as u64 == self.report.worked.dead_lettered);
        let Some(deaths) = deaths else {
            return Err(unexpected(format!(
                "the dead letters are not those of the worker: {text}"
            )));
        };
        self.report.worked.first_death = deaths.into_iter().next();
        let command = format!(
            "consume {queue} --ack never --until-empty --filter '{filter}' --format '{DEATH_FORMAT}'"
        );
        self.done("ask the dead letters of the worker why", command, text.trim_end().to_owned());
        Ok(())
    }

    /// Everything that was published was consumed or packed, at last also what had died.
    pub(super) async fn count(&mut self) -> Result<(), QuickstartError> {
        let dead = self.dead_letters(&QueueName::new(self.name("rejected"))?, 0).await?;
        let open = QueueName::new(self.name("orders"))?;
        let open = self.broker.depth(&open).await?.map_or(0, |depth| depth.ready);
        let published = self.report.published + self.report.worked.published;
        let (consumed, packed) = (self.report.consumed, self.report.worked.done);
        let mended = self.report.mended;
        if open > 0 || published != consumed + packed + mended {
            return Err(QuickstartError::Unexpected {
                step: "count again",
                why: format!(
                    "{published} orders were published; {consumed} were consumed, {packed} packed, \
                     {mended} packed after they had died, {dead} are dead letters, {open} are in the \
                     queue"
                ),
            });
        }
        let command = format!("queue list '{}.*'", self.request.name);
        let result = format!(
            "{published} published = {consumed} consumed + {packed} packed + {mended} packed after they \
             had died; {dead} dead letters, nothing lost"
        );
        self.done("count again", command, result);
        Ok(())
    }
}

/// Whether the worker came to its end, with all that was `published`.
fn complete(report: WorkReport, published: u64) -> Result<(), QuickstartError> {
    let unexpected = |why| Err(QuickstartError::Unexpected { step: "worker", why });
    match report.verdict() {
        WorkVerdict::Stopped => Err(QuickstartError::Stopped),
        WorkVerdict::Failed => match report.broker_error {
            Some(error) => Err(error.into()),
            None => unexpected(match (report.error, report.hint) {
                (Some(error), Some(hint)) => format!("{error}; {hint}"),
                (Some(error), None) => error,
                (None, _) => format!("{:?}", report.ended),
            }),
        },
        _ if report.ended != WorkEnd::Empty || report.done + report.dead_lettered < published => {
            unexpected(format!(
                "{} orders packed and {} dead-lettered of {published} ({:?}); the last failure: {}",
                report.done,
                report.dead_lettered,
                report.ended,
                report.last_failure.unwrap_or_else(|| "none".to_owned())
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_read_as_it_is_shown() {
        let death = Death::read("order-10\texit 65\t1\tno\taddress").unwrap();
        assert_eq!((&*death.code, death.attempts, &*death.error), ("exit 65", 1, "no\taddress"));
        assert_eq!(Death::read("order-10\t\t\t"), None);
    }
}
