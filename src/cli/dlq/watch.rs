//! `dlq watch`: how deep dead-letter queues are, how fast letters die and how old they are, until that is
//! too much. Status 2 then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::base::id::QueueName;
use crate::base::time::{HumanDuration, Timestamp};
use crate::broker::connect::Webhook;
use crate::broker::{Broker, QueueType};
use crate::deadletter::Scans;
use crate::deadletter::places::{Purpose, places};
use crate::deadletter::sighting::Told;
use crate::deadletter::store::{Scan, Scanned};
use crate::deadletter::watch::hook::{self, Address};
use crate::deadletter::watch::look::{AgeFrom, Observed, observe};
use crate::deadletter::watch::{
    Alert, Change, Limits, Look, Looks, Measure, Seen, Watcher, machine,
};
use crate::delivery::peek::{PeekOptions, cost, peek};
use crate::delivery::stop::Wish;
use crate::topology::Topology;

use crate::cli::connect::Connector;
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Format, Page, View, document};
use crate::cli::queue::{Ledger, look_around, no_such_queue, refusal};
use crate::cli::runtime::{self, unless_stopped};
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::list::{known_topology, newest_scan, project_topology};
use super::stored::{look as look_for_scans, shown};

/// Arguments of `dlq watch`.
#[derive(Debug, Args)]
#[command(
    after_help = "Counts only: no message is touched, unless --look asks for it. A rate is how much a queue \
    has grown over the last minute, or since the last look that was kept; letters that were taken out \
    meanwhile hide as many deaths. With --once and --max-rate, and no look kept within the last hour, two \
    looks are taken, --every apart. The oldest death is what the broker tells (when the first message was \
    published, where it has a timestamp: classic queues, management API), else what the newest scan saw.\n\n\
    What is too much is told once, and once more when it has come back to nine tenths of the limit; the \
    state file keeps what was told, so a watch by cron does the same. A command gets the alert as JSON on \
    its standard input and as NEXUSCTL_ALERT_QUEUE, _MEASURE, _CHANGE, _VALUE, _LIMIT, _AT in its \
    environment.\n\nStatus 2: something was too much.\n\nExamples:\n  \
    nexusctl dlq watch --once --max-depth 100\n  \
    nexusctl dlq watch dead.agent.worker --once --max-rate 100/min --every 1s\n  \
    nexusctl dlq watch --max-age 30d --for 1s --every 500ms --alert-command 'cat >> alerts.ndjson'"
)]
pub(super) struct WatchArgs {
    /// The queues; every dead-letter queue when left out
    queues: Vec<QueueName>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Look so often
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    every: HumanDuration,
    /// End after so long; without this or --once, on a signal
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "once")]
    longest: Option<HumanDuration>,
    /// Look once and end
    #[arg(long)]
    once: bool,
    /// Also look at the first letter, to know when it died: that costs it a life
    #[arg(long)]
    look: bool,
    /// With --look, refuse when a letter would have fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3, requires = "look")]
    min_lives: u64,
    /// Say what would be told, and tell nobody
    #[arg(long, conflicts_with = "look")]
    dry_run: bool,
    #[command(flatten)]
    hooks: HookArgs,
}

/// What is too much.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is too much")]
struct LimitArgs {
    /// More letters than this in a queue
    #[arg(long, value_name = "N")]
    max_depth: Option<u64>,
    /// More deaths than this: 10/min, 1/s, 100/h
    #[arg(long, value_name = "N/min", value_parser = parse_rate)]
    max_rate: Option<f64>,
    /// A death longer ago than this
    #[arg(long, value_name = "DURATION")]
    max_age: Option<HumanDuration>,
}

/// Who is told.
#[derive(Debug, Args)]
#[command(next_help_heading = "Who is told")]
struct HookArgs {
    /// Run this in a shell
    #[arg(long, value_name = "COMMAND")]
    alert_command: Option<String>,
    /// Post to this URL
    #[arg(long, value_name = "URL")]
    alert_webhook: Option<String>,
    /// Publish an envelope there
    #[arg(long, value_name = "EXCHANGE:KEY")]
    alert_message: Option<Address>,
    /// Let each take no longer than this
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    alert_timeout: HumanDuration,
}

/// Deaths a minute.
fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, a_minute) = match text.split_once('/') {
        None | Some((_, "min" | "m")) => (text.split('/').next().unwrap_or(text), 1.0),
        Some((number, "s")) => (number, 60.0),
        Some((number, "h")) => (number, 1.0 / 60.0),
        Some(_) => return Err(format!("`{text}` is no rate: write 10/min, 1/s or 100/h")),
    };
    match number.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number * a_minute),
        _ => Err(format!("`{text}` is no rate: write 10/min, 1/s or 100/h")),
    }
}

/// A queue as it was seen once.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LookRow {
    /// When.
    at: String,
    /// The queue.
    queue: String,
    /// Letters in it, those included that somebody holds where the broker tells; null when the queue
    /// does not exist.
    depth: Option<u64>,
    /// Letters that waited.
    ready: Option<u64>,
    /// By how many letters a minute it grew; null when it cannot be said yet.
    per_minute: Option<f64>,
    /// Since when that was counted.
    rate_since: Option<String>,
    /// The oldest death that is known; null when none is.
    oldest: Option<String>,
    /// Seconds since then.
    age_seconds: Option<u64>,
    /// How the oldest death is known.
    age_from: Option<AgeFrom>,
    /// When the scan was made that it is known by.
    scan_at: Option<String>,
    /// What is too much now.
    exceeded: Vec<Measure>,
}

impl LookRow {
    fn line(&self) -> String {
        let depth = self.depth.map_or_else(|| "missing".to_owned(), |n| n.to_string());
        let rate = self.per_minute.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}"));
        let exceeded: Vec<&str> = self.exceeded.iter().map(|m| m.as_str()).collect();
        let verdict = if exceeded.is_empty() {
            String::new()
        } else {
            format!("  too much: {}", exceeded.join(", "))
        };
        format!("{}  {}  {depth} letters, {rate}/min, {}{verdict}", self.at, self.queue, self.old())
    }

    fn old(&self) -> String {
        let Some(seconds) = self.age_seconds else { return "age unknown".to_owned() };
        let age = HumanDuration(Duration::from_secs(seconds));
        match self.age_from {
            Some(AgeFrom::Scan) => format!("oldest {age} (by the newest scan)"),
            _ => format!("oldest {age}"),
        }
    }
}

/// That something is too much, or is not any more.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterAlertView {
    /// When it was seen.
    at: String,
    /// The queue.
    queue: String,
    /// Its vhost.
    vhost: String,
    /// The cluster's name, or the embedded broker's id.
    cluster: String,
    /// What.
    measure: Measure,
    /// Which way.
    change: Change,
    /// How much it is: letters, letters a minute, seconds.
    value: f64,
    /// The limit.
    limit: f64,
    /// Letters in the queue.
    depth: u64,
    /// By how many letters a minute it grew.
    per_minute: Option<f64>,
    /// Seconds since the oldest known death.
    age_seconds: Option<u64>,
    /// The same in words.
    words: String,
}

impl View for DeadLetterAlertView {
    const KIND: &'static str = "DeadLetterAlert";
    fn text(&self, page: &mut Page) {
        page.line(&self.words);
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl DeadLetterAlertView {
    fn new(alert: &Alert, of: &Scanned, seen: &Seen, look: &Look) -> DeadLetterAlertView {
        let amount = |value: f64| match alert.measure {
            Measure::Depth if value == 1.0 => "1 letter".to_owned(),
            Measure::Depth => format!("{value} letters"),
            Measure::Rate => format!("{value:.1} letters a minute"),
            Measure::Age => {
                let seconds = Duration::try_from_secs_f64(value.round()).unwrap_or(Duration::MAX);
                format!("a death {} ago", HumanDuration(seconds))
            }
        };
        let (value, limit) = (amount(alert.value), amount(alert.limit));
        let words = match alert.change {
            Change::Exceeded => format!("{}: {value}, more than {limit}", alert.queue),
            Change::Quiet => format!("{}: quiet again: {value}", alert.queue),
        };
        DeadLetterAlertView {
            at: alert.at.to_string(),
            queue: alert.queue.to_string(),
            vhost: of.vhost.clone(),
            cluster: of.cluster.clone(),
            measure: alert.measure,
            change: alert.change,
            value: rounded(alert.value),
            limit: alert.limit,
            depth: look.depth(),
            per_minute: seen.rate.map(|rate| rounded(rate.per_minute)),
            age_seconds: look.age().map(|age| age.as_secs()),
            words,
        }
    }

    fn variables(&self) -> [(&'static str, String); 6] {
        [
            ("NEXUSCTL_ALERT_QUEUE", self.queue.clone()),
            ("NEXUSCTL_ALERT_MEASURE", self.measure.as_str().to_owned()),
            ("NEXUSCTL_ALERT_CHANGE", self.change.as_str().to_owned()),
            ("NEXUSCTL_ALERT_VALUE", self.value.to_string()),
            ("NEXUSCTL_ALERT_LIMIT", self.limit.to_string()),
            ("NEXUSCTL_ALERT_AT", self.at.clone()),
        ]
    }
}

/// What a watch saw.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterWatchView {
    /// The last look at each queue; as lines (ndjson), every look.
    looks: Vec<LookRow>,
    /// What became too much and what became quiet, the last thousand.
    alerts: Vec<DeadLetterAlertView>,
    /// Rounds of looks.
    rounds: u64,
    /// Whether anything was too much at any time.
    exceeded: bool,
    /// What could not be known or done.
    unknown: Vec<String>,
}

impl View for DeadLetterWatchView {
    const KIND: &'static str = "DeadLetterWatch";
    const ITEMS: Option<&'static str> = Some("looks");
    fn text(&self, page: &mut Page) {
        if self.looks.is_empty() {
            page.line("no queue is known that gathers dead letters");
        }
        let rows = self.looks.iter().map(|row| {
            let exceeded: Vec<&str> = row.exceeded.iter().map(|m| m.as_str()).collect();
            [
                row.queue.clone(),
                row.depth.map_or_else(|| "missing".to_owned(), |depth| depth.to_string()),
                row.per_minute.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}/min")),
                row.old(),
                exceeded.join(", "),
            ]
        });
        page.table(["QUEUE", "LETTERS", "DEATHS", "OLDEST", "TOO MUCH"], rows.collect());
        for alert in &self.alerts {
            page.line(match alert.change {
                Change::Exceeded => page.style.bad(&alert.words),
                Change::Quiet => page.style.good(&alert.words),
            });
        }
    }
}

/// Alerts that a report lists.
const LISTED: usize = 1000;
/// How often dead-letter queues are searched for anew.
const SEARCH: Duration = Duration::from_secs(60);

struct Watching<'a> {
    args: &'a WatchArgs,
    target: &'a Connector,
    settings: &'a Settings,
    files: Option<&'a Topology>,
    webhook: Option<Webhook>,
    looks: Looks,
    scans: Scans,
    watcher: Watcher,
    broker: Option<Arc<dyn Broker>>,
    queues: Vec<QueueName>,
    searched: Option<Instant>,
    /// The last line that a person saw of each queue.
    said: BTreeMap<String, String>,
    /// Whether the last round failed, so that an outage is told once.
    failing: bool,
    view: DeadLetterWatchView,
}

/// What one round saw of a queue.
struct Glance {
    of: Scanned,
    observed: Option<Observed>,
    scan_at: Option<Timestamp>,
}

impl Watching<'_> {
    async fn connected(&mut self) -> Result<Arc<dyn Broker>, CliError> {
        if let Some(broker) = &self.broker {
            return Ok(Arc::clone(broker));
        }
        let broker = self.target.connect().await?;
        self.broker = Some(Arc::clone(&broker));
        Ok(broker)
    }

    /// The queues that are watched.
    async fn search(&mut self, broker: &dyn Broker) -> Result<(), CliError> {
        if !self.args.queues.is_empty() {
            self.queues.clone_from(&self.args.queues);
            return Ok(());
        }
        if self.searched.is_some_and(|at| at.elapsed() < SEARCH) {
            return Ok(());
        }
        let (view, unknown) = known_topology(broker, self.files).await?;
        let found = view.as_ref().map(places).unwrap_or_default();
        let found = found.into_iter().filter(|place| place.purpose == Purpose::DeadLetters);
        self.queues = found.map(|place| place.queue).collect();
        // A watch over nothing must not look like one that saw nothing.
        if self.queues.is_empty()
            && let Some(why) = unknown.first()
        {
            let message = format!("there is nothing to watch: {why}");
            return Err(CliError::failed(message).hint("name the queues"));
        }
        self.view.unknown = unknown;
        self.searched = Some(Instant::now());
        Ok(())
    }

    /// Looks at every queue; nothing of it matters when it is dropped half-way.
    async fn round(&mut self, session: &Session) -> Result<Vec<Glance>, CliError> {
        let broker = self.connected().await?;
        self.search(&*broker).await?;
        let identity = broker.identity().clone();
        let kept = self.scans.scans(None)?;
        let mut glances = Vec::new();
        for queue in self.queues.clone() {
            let scan = newest_scan(&kept, &queue, &identity);
            let now = session.clock.now();
            let mut observed = observe(&*broker, &queue, scan, now).await?;
            if observed.is_none() && self.view.rounds == 0 && !self.args.queues.is_empty() {
                return Err(no_such_queue("watch", &queue, &*broker, self.settings).await);
            }
            if let (Some(seen), true) = (&mut observed, self.args.look) {
                self.look_closely(&*broker, &queue, seen, session).await?;
            }
            glances.push(Glance {
                of: Scanned {
                    cluster: identity.cluster_name.clone(),
                    vhost: identity.vhost.as_str().to_owned(),
                    queue,
                },
                observed,
                scan_at: scan.map(|scan: &Scan| scan.began),
            });
        }
        Ok(glances)
    }

    /// Looks at the first letter, when that brings none near its end.
    async fn look_closely(
        &mut self,
        broker: &dyn Broker,
        queue: &QueueName,
        seen: &mut Observed,
        session: &Session,
    ) -> Result<(), CliError> {
        if seen.look.ready == 0 {
            return Ok(());
        }
        let state = &self.settings.state.value;
        let ledger = Ledger::of(state, broker.identity(), &self.target.shown(), queue.as_str());
        let facts = match look_around(broker, queue, ledger.returns()).await {
            Ok(Some(facts)) => facts,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.not_known(&format!("{queue}: {}", error.message));
                return Ok(());
            }
        };
        if facts.queue_type == QueueType::Stream {
            return Ok(());
        }
        let cost = cost(&facts, self.args.min_lives);
        if let Some(error) = refusal(queue, &cost, &facts) {
            self.not_known(&error.message);
            return Ok(());
        }
        let options = PeekOptions {
            count: 1,
            ready: Some(facts.ready),
            wait: Duration::from_secs(1),
            is_quorum: facts.queue_type == QueueType::Quorum,
            single_active_consumer: facts.single_active_consumer,
            offset: None,
        };
        let look = peek(broker, queue, options).await?;
        // What cannot be noted is found out by the next look itself.
        let _ = ledger.note(look.returns, session.clock.now().unix_s());
        if let Some(first) = look.deliveries.first()
            && let Some(died) = Told::of(first).died_at()
        {
            seen.look.oldest = Some(died);
            seen.age_from = Some(AgeFrom::Look);
        }
        Ok(())
    }

    fn not_known(&mut self, what: &str) {
        if !self.view.unknown.iter().any(|known| known == what) {
            self.view.unknown.push(what.to_owned());
        }
    }

    /// Judges what a round saw, keeps it, says it, and tells others.
    async fn take(&mut self, glances: Vec<Glance>, session: &mut Session) -> Result<(), CliError> {
        self.view.rounds += 1;
        self.view.looks.clear();
        for Glance { of, observed, scan_at } in glances {
            let now = session.clock.now();
            let Some(Observed { look, age_from, .. }) = observed else {
                let row = missing(&of.queue, now);
                self.say(row, session)?;
                continue;
            };
            if !self.watcher.knows(&of.queue) {
                self.recall(&of)?;
            }
            let seen = self.watcher.see(&of.queue, look);
            self.looks.keep(&of, &look).await?;
            self.view.exceeded |= !seen.exceeded.is_empty();
            let row = LookRow {
                at: look.at.to_string(),
                queue: of.queue.to_string(),
                depth: Some(look.depth()),
                ready: Some(look.ready),
                per_minute: seen.rate.map(|rate| rounded(rate.per_minute)),
                rate_since: seen.rate.map(|rate| rate.since.to_string()),
                oldest: shown(look.oldest.filter(|_| look.depth() > 0)),
                age_seconds: look.age().map(|age| age.as_secs()),
                age_from: age_from.filter(|_| look.depth() > 0),
                scan_at: shown(scan_at.filter(|_| age_from == Some(AgeFrom::Scan))),
                exceeded: seen.exceeded.clone(),
            };
            self.say(row, session)?;
            for alert in &seen.alerts {
                self.alert(alert, &of, &seen, &look, session).await?;
            }
        }
        Ok(())
    }

    /// What an earlier watch saw of this queue.
    fn recall(&mut self, of: &Scanned) -> Result<(), CliError> {
        let mut told = Vec::new();
        for measure in Measure::ALL {
            if let Some(limit) = self.limits().of(measure)
                && self.looks.is_told(of, measure, limit)?
            {
                told.push(measure);
            }
        }
        self.watcher.remember(&of.queue, self.looks.kept(of)?, told);
        Ok(())
    }

    fn limits(&self) -> Limits {
        self.args.limits.limits()
    }

    fn say(&mut self, row: LookRow, session: &mut Session) -> Result<(), CliError> {
        match session.ui.format {
            Format::Ndjson => {
                let line = serde_json::to_string(&row).unwrap_or_default();
                session.ui.data(format!("{line}\n").as_bytes())?;
            }
            Format::Table if !self.args.once => {
                let line = row.line();
                // A person wants to see what changes.
                let told = format!("{:?} {:?}", row.depth, row.exceeded);
                if self.said.insert(row.queue.clone(), told.clone()) != Some(told) {
                    session.ui.data(format!("{line}\n").as_bytes())?;
                }
            }
            _ => {}
        }
        self.view.looks.push(row);
        Ok(())
    }

    async fn alert(
        &mut self,
        alert: &Alert,
        of: &Scanned,
        seen: &Seen,
        look: &Look,
        session: &mut Session,
    ) -> Result<(), CliError> {
        let view = DeadLetterAlertView::new(alert, of, seen, look);
        session.ui.warning(&view.words);
        let failures = if self.args.dry_run { Vec::new() } else { self.tell(&view, session).await };
        for failure in &failures {
            session.ui.warning(failure);
        }
        let since = (alert.change == Change::Exceeded).then_some(alert.at);
        // Who was not told of it is to be told by the next watch: a look without a hook tells nobody else.
        let hooks = &self.args.hooks;
        let tells = hooks.alert_command.is_some()
            || hooks.alert_webhook.is_some()
            || hooks.alert_message.is_some();
        if !self.args.dry_run && tells && (failures.is_empty() || since.is_none()) {
            self.looks.told(of, alert.measure, alert.limit, since).await?;
        }
        self.view.unknown.extend(failures);
        if self.view.alerts.len() == LISTED {
            self.view.alerts.remove(0);
        }
        self.view.alerts.push(view);
        Ok(())
    }

    /// Tells whoever is to be told; what failed, in words.
    async fn tell(&self, view: &DeadLetterAlertView, session: &Session) -> Vec<String> {
        let hooks = &self.args.hooks;
        let text = document(view).to_string();
        let mut failures = Vec::new();
        if let Some(line) = &hooks.alert_command {
            let most = hooks.alert_timeout.0;
            if let Err(why) = hook::command(line, &text, &view.variables(), most).await {
                failures.push(format!("the alert command was run, and {why}"));
            }
        }
        if let Some(webhook) = &self.webhook
            && let Err(error) = webhook.post(text.clone()).await
        {
            failures.push(format!("the alert was not posted: {}", error.cause));
        }
        if let (Some(address), Some(broker)) = (&hooks.alert_message, &self.broker) {
            let seed = session.seed ^ self.view.rounds;
            let sent = hook::message(&**broker, address, &text, &session.clock, seed);
            let late = || Err(format!("not within {}", hooks.alert_timeout));
            let sent = tokio::time::timeout(hooks.alert_timeout.0, sent).await;
            if let Err(why) = sent.unwrap_or_else(|_| late()) {
                let to = format!("{}:{}", address.exchange, address.key);
                failures.push(format!("the alert was not published to {to}: {why}"));
            }
        }
        failures
    }

    /// Whether a rate is asked for that one look cannot tell.
    fn needs_another(&self, glances: &[Glance]) -> Result<bool, CliError> {
        if !self.args.once || self.args.limits.max_rate.is_none() {
            return Ok(false);
        }
        for Glance { of, observed, .. } in glances {
            if let Some(Observed { look, .. }) = observed
                && machine::rate(self.looks.kept(of)?.iter(), look).is_none()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn missing(queue: &QueueName, now: Timestamp) -> LookRow {
    LookRow {
        at: now.to_string(),
        queue: queue.to_string(),
        depth: None,
        ready: None,
        per_minute: None,
        rate_since: None,
        oldest: None,
        age_seconds: None,
        age_from: None,
        scan_at: None,
        exceeded: Vec::new(),
    }
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        Limits { depth: self.max_depth, rate: self.max_rate, age: self.max_age.map(|age| age.0) }
    }
}

/// How the watch ended.
enum Ended {
    ByItself,
    Stopped,
}

pub(super) fn run(args: &WatchArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let files = project_topology(session);
    let hooks = &args.hooks;
    let webhook = hooks.alert_webhook.as_deref();
    let webhook = webhook
        .map(|url| Webhook::new(url, hooks.alert_timeout.0))
        .transpose()
        .map_err(|error| CliError::usage(format!("--alert-webhook: {}", error.cause)))?;
    let (stop, listens) = (session.stop.clone(), session.is_process);
    let (view, ended) = runtime::drive(&stop, listens, async {
        let state = &settings.state.value;
        let looks = Looks::open(state, settings.timeout()).await?;
        let scans = match look_for_scans(&settings).await? {
            Some(scans) => scans,
            None => Scans::open(state, settings.timeout()).await?,
        };
        let mut watching = Watching {
            args,
            target: &target,
            settings: &settings,
            files: files.as_ref(),
            webhook,
            looks,
            scans,
            watcher: Watcher::new(args.limits.limits()),
            broker: None,
            queues: Vec::new(),
            searched: None,
            said: BTreeMap::new(),
            failing: false,
            view: DeadLetterWatchView::default(),
        };
        let ended = watch(&mut watching, session).await;
        if let Some(broker) = watching.broker.take() {
            let _ = broker.close().await;
        }
        Ok((watching.view, ended?))
    })?;
    // What was streamed is not printed again.
    let streamed = match session.ui.format {
        Format::Ndjson => true,
        Format::Table => !args.once,
        Format::Json | Format::Yaml => false,
    };
    if !streamed {
        session.ui.report(&view)?;
    }
    for what in &view.unknown {
        session.ui.warning(format!("not known or not done: {what}"));
    }
    Ok(match ended {
        Ended::Stopped => session.stop.status(),
        Ended::ByItself if view.exceeded => ExitStatus::Negative,
        Ended::ByItself => ExitStatus::Done,
    })
}

async fn watch(watching: &mut Watching<'_>, session: &mut Session) -> Result<Ended, CliError> {
    let stop = session.stop.clone();
    let end = watching.args.longest.map(|longest| Instant::now() + longest.0);
    let every = watching.args.every.0.max(Duration::from_millis(100));
    let mut next = Instant::now();
    let mut is_second = false;
    loop {
        match unless_stopped(&stop, watching.round(session)).await {
            Ok(glances) => {
                if watching.failing {
                    watching.failing = false;
                    session.ui.status("the broker answers again");
                }
                let again = !is_second && watching.needs_another(&glances)?;
                if again {
                    let all = HumanDuration(every);
                    session.ui.status(format!("no look is kept to compare with: again in {all}"));
                    for Glance { of, observed, .. } in &glances {
                        if let Some(Observed { look, .. }) = observed {
                            watching.looks.keep(of, look).await?;
                        }
                    }
                    is_second = true;
                } else {
                    watching.take(glances, session).await?;
                    if watching.args.once {
                        return Ok(Ended::ByItself);
                    }
                }
            }
            Err(error) if error.code == code::STOPPED => return Ok(Ended::Stopped),
            Err(error) => {
                let lasts = matches!(error.status, ExitStatus::Unavailable | ExitStatus::TryLater);
                if watching.args.once || watching.view.rounds == 0 || !lasts {
                    return Err(error);
                }
                watching.broker = None;
                if !watching.failing {
                    watching.failing = true;
                    let why = &error.message;
                    session
                        .ui
                        .warning(format!("the broker does not answer, and is asked on: {why}"));
                }
            }
        }
        // Looks that took too long are not caught up with.
        next = (next + every).max(Instant::now());
        let until = end.map_or(next, |end| next.min(end));
        tokio::select! {
            () = stop.job().until(Wish::Finish) => return Ok(Ended::Stopped),
            () = sleep_until(until) => {}
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return match watching.failing {
                false => Ok(Ended::ByItself),
                true => Err(CliError::new(
                    code::FAILED,
                    ExitStatus::Unavailable,
                    "the broker did not answer any more when the watch ended",
                )),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_by_minute_second_or_hour() {
        for (text, rate) in [("10", 10.0), ("10/min", 10.0), ("1/s", 60.0), ("60/h", 1.0)] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "x", "1/day", "-1", "inf", "/min"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
