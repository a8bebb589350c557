//! `dlq list`: the queues that gather dead letters.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::{Timestamp, seconds_ago};
use crate::broker::{Broker, BrokerIdentity, ErrorKind, QueueType};
use crate::deadletter::Scans;
use crate::deadletter::places::{Feeder, Place, Purpose, places};
use crate::deadletter::store::{Scan, Scanned};
use crate::deadletter::watch::look::observe;
use crate::deadletter::watch::{Look, Looks, Rate, machine};
use crate::topology::Topology;
use crate::topology::view::TopologyView;

use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::topology::files::{FileArgs, SetArgs, read};

use super::stored::{look, shown};

/// Arguments of `dlq list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Found by where the dead-letter exchanges and keys of all queues lead, arguments and \
    policies alike. What died when, and why, is known of queues that were scanned. A rate is how much a \
    queue has grown since the last look that was kept, by this command or by `dlq watch`. Without the management \
    API only the queues of the project's topology and those that are named can be looked at.\n\n\
    Examples:\n  nexusctl dlq list\n  nexusctl dlq list --all -o json\n  \
    nexusctl dlq list dead.agent.worker"
)]
pub(super) struct ListArgs {
    /// Only these queues, whatever they are
    queues: Vec<QueueName>,
    /// Also queues in which letters only wait, and those they come back to
    #[arg(long)]
    all: bool,
}

/// What the newest scan of a queue saw.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SeenView {
    /// Its number.
    scan: i64,
    /// When it began.
    at: String,
    /// Seconds since then.
    age_seconds: u64,
    /// Letters that it saw.
    letters: u64,
    /// Groups of them.
    groups: u64,
    /// The oldest death.
    oldest: Option<String>,
    /// The newest death.
    newest: Option<String>,
    /// The most frequent reasons, at most three.
    reasons: Vec<ReasonView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ReasonView {
    reason: String,
    letters: u64,
}

/// A queue that gathers dead letters.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueueRow {
    /// Its name.
    queue: String,
    /// What it is for; null when nothing is known to lead there.
    purpose: Option<Purpose>,
    /// `classic`, `quorum` or `stream`; null when it is not known.
    queue_type: Option<&'static str>,
    /// Messages that wait; null when the queue does not exist.
    ready: Option<u64>,
    /// Consumers attached.
    consumers: Option<u64>,
    /// By how many letters a minute it grew; null when no look of the last hour is kept.
    per_minute: Option<f64>,
    /// Since when that was counted.
    rate_since: Option<String>,
    /// The queues whose dead letters come here.
    sources: Vec<Feeder>,
    /// What its newest scan saw; null when it was never scanned.
    seen: Option<SeenView>,
}

/// Dead-letter queues.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterQueuesView {
    /// The fullest first.
    queues: Vec<QueueRow>,
    /// What could not be known.
    unknown: Vec<String>,
}

impl View for DeadLetterQueuesView {
    const KIND: &'static str = "DeadLetterQueues";
    const ITEMS: Option<&'static str> = Some("queues");
    fn text(&self, page: &mut Page) {
        if self.queues.is_empty() {
            page.line("no queue is known that gathers dead letters");
        }
        let rows = self.queues.iter().map(|row| {
            let seen = row.seen.as_ref();
            let reasons: Vec<String> = seen
                .iter()
                .flat_map(|seen| &seen.reasons)
                .map(|reason| format!("{} {}", reason.letters, reason.reason))
                .collect();
            let sources: Vec<&str> =
                row.sources.iter().map(|source| source.queue.as_str()).take(3).collect();
            let more = if row.sources.len() > 3 { ", …" } else { "" };
            [
                row.queue.clone(),
                row.ready.map_or_else(|| "missing".to_owned(), |ready| ready.to_string()),
                row.consumers.map(|consumers| consumers.to_string()).unwrap_or_default(),
                row.per_minute.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}")),
                format!("{}{more}", sources.join(", ")),
                seen.and_then(|seen| seen.oldest.clone()).unwrap_or_default(),
                seen.and_then(|seen| seen.newest.clone()).unwrap_or_default(),
                reasons.join(", "),
                seen.map_or_else(|| "never".to_owned(), |seen| seconds_ago(seen.age_seconds)),
            ]
        });
        page.table(
            [
                "QUEUE",
                "READY",
                "CONSUMERS",
                "DEATHS/MIN",
                "FROM",
                "OLDEST",
                "NEWEST",
                "REASONS",
                "SCANNED",
            ],
            rows.collect(),
        );
        for what in &self.unknown {
            page.line(format!("{} {what}", page.style.attention("not known:")));
        }
    }
}

/// The newest scan of a queue that has ended.
pub(super) fn newest_scan<'a>(
    kept: &'a [Scan],
    queue: &QueueName,
    identity: &BrokerIdentity,
) -> Option<&'a Scan> {
    kept.iter().find(|scan| {
        scan.ended.is_some()
            && scan.of.queue == *queue
            && scan.of.vhost == identity.vhost.as_str()
            && scan.of.cluster == identity.cluster_name
    })
}

/// How a queue has grown since the looks that are kept, and this look kept for the next.
async fn grown(looks: &Looks, of: &Scanned, look: &Look) -> Result<Option<Rate>, CliError> {
    let rate = machine::rate(looks.kept(of)?.iter(), look);
    looks.keep(of, look).await?;
    Ok(rate)
}

fn seen(scans: &Scans, scan: &Scan, now: Timestamp) -> Result<SeenView, CliError> {
    let groups = scans.groups(scan.id)?;
    let mut reasons: Vec<ReasonView> = Vec::new();
    for group in &groups {
        let reason = &group.traits.reason;
        let reason = if reason.is_empty() { "unknown" } else { reason };
        match reasons.iter_mut().find(|known| known.reason == reason) {
            Some(known) => known.letters += group.letters,
            None => reasons.push(ReasonView { reason: reason.to_owned(), letters: group.letters }),
        }
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.letters));
    reasons.truncate(3);
    Ok(SeenView {
        scan: scan.id.0,
        at: scan.began.to_string(),
        age_seconds: now.since(scan.began).as_secs(),
        letters: scan.letters,
        groups: groups.len() as u64,
        oldest: shown(scan.oldest),
        newest: shown(scan.newest),
        reasons,
    })
}

/// What is known of the topology, and what is not.
pub(super) async fn known_topology(
    broker: &dyn Broker,
    files: Option<&Topology>,
) -> Result<(Option<TopologyView>, Vec<String>), CliError> {
    match broker.inspect().await {
        Ok(snapshot) => Ok((Some(TopologyView::of_snapshot(&snapshot)), Vec::new())),
        Err(error) if error.kind == ErrorKind::Unsupported => {
            let what = "the broker cannot be listed without its management API";
            let unknown = match files {
                Some(_) => format!(
                    "{what}: only what the project's topology says is known, not policies and queues of \
                     others"
                ),
                None => {
                    format!("{what}, and there is no topology file: only queues that are named")
                }
            };
            let version = broker.identity().version;
            Ok((files.map(|files| TopologyView::of_topology(files, version)), vec![unknown]))
        }
        Err(error) => Err(error.into()),
    }
}

/// The topology of the project, when there is one that can be read.
pub(super) fn project_topology(session: &mut Session) -> Option<Topology> {
    read(FileArgs { files: Vec::new(), set: SetArgs::default() }, session).ok()?.ok()
}

/// The queues that are named, else all that gather dead letters and are kept.
pub(super) fn wanted(
    view: Option<&TopologyView>,
    named: Vec<QueueName>,
    kept: impl Fn(&Place) -> bool,
) -> Vec<Place> {
    let found = view.map(places).unwrap_or_default();
    if named.is_empty() {
        return found.into_iter().filter(kept).collect();
    }
    let unknown =
        |queue: QueueName| Place { queue, purpose: Purpose::DeadLetters, feeders: Vec::new() };
    let known = |queue: &QueueName| found.iter().find(|place| place.queue == *queue).cloned();
    named.into_iter().map(|queue| known(&queue).unwrap_or_else(|| unknown(queue))).collect()
}

/// What is known of these queues, the fullest first.
pub(super) async fn rows(
    broker: &dyn Broker,
    view: Option<&TopologyView>,
    wanted: Vec<Place>,
    settings: &Settings,
    session: &Session,
) -> Result<Vec<QueueRow>, CliError> {
    let scans = look(settings).await?;
    let looks = match &scans {
        Some(_) => Some(Looks::open(&settings.state.value, settings.timeout()).await?),
        None => None,
    };
    let identity = broker.identity();
    let kept: Vec<Scan> = match &scans {
        Some(scans) => scans.scans(None)?,
        None => Vec::new(),
    };
    let mut rows = Vec::new();
    for Place { queue, purpose, feeders } in wanted {
        let newest = newest_scan(&kept, &queue, identity);
        let now = session.clock.now();
        let observed = observe(broker, &queue, newest, now).await?;
        let own = view.and_then(|view| view.queues.get(queue.as_str()));
        let seen = match (&scans, newest) {
            (Some(scans), Some(scan)) => Some(seen(scans, scan, now)?),
            _ => None,
        };
        let of = Scanned {
            cluster: identity.cluster_name.clone(),
            vhost: identity.vhost.as_str().to_owned(),
            queue: queue.clone(),
        };
        let rate = match (&looks, &observed) {
            (Some(looks), Some(observed)) => grown(looks, &of, &observed.look).await?,
            _ => None,
        };
        rows.push(QueueRow {
            queue: queue.to_string(),
            purpose: (!feeders.is_empty()).then_some(purpose),
            queue_type: own.map(|own| QueueType::as_str(own.queue_type)),
            ready: observed.map(|observed| observed.look.ready),
            consumers: observed.map(|observed| observed.consumers),
            per_minute: rate.map(|rate| (rate.per_minute * 100.0).round() / 100.0),
            rate_since: rate.map(|rate| rate.since.to_string()),
            sources: feeders,
            seen,
        });
    }
    rows.sort_by(|a, b| b.ready.cmp(&a.ready).then_with(|| a.queue.cmp(&b.queue)));
    Ok(rows)
}

pub(super) fn run(args: ListArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ListArgs { queues: named, all } = args;
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let files = project_topology(session);
    let view = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let (view, unknown) = known_topology(&*broker, files.as_ref()).await?;
        let kept = |place: &Place| all || place.purpose == Purpose::DeadLetters;
        let wanted = wanted(view.as_ref(), named, kept);
        let rows = rows(&*broker, view.as_ref(), wanted, &settings, session).await?;
        let _ = broker.close().await;
        Ok(DeadLetterQueuesView { queues: rows, unknown })
    }))?;
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}
