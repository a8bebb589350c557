//! `dlq incident`: everything that is known about an incident in one file, for a post-mortem; and that
//! file shown again, without the broker.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::deadletter::incident::{IncidentError, Reading, Recorded, Recorder, read};
use crate::deadletter::labels::Labels;
use crate::deadletter::places::Purpose;
use crate::deadletter::replay::store::{Journal, StoredRun};
use crate::deadletter::store::{Scan, ScanId};
use crate::deadletter::trail::{Filter, NewEntry, Noun};
use crate::deadletter::{Scans, Selection};
use crate::topology::Topology;

use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Format, Page, Style, View, count};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::state;

use super::audit::{AuditVerificationView, EntryRow, look as look_at_trail, note, verify};
use super::doctor;
use super::groups::GroupRow;
use super::label::LabelFileArgs;
use super::list::{self, QueueRow, project_topology};
use super::run::ReplayRunView;
use super::selection::{When, parse_when};
use super::show::DeadLetterView;
use super::stored::{ScanRow, look};

/// Arguments of `dlq incident`.
#[derive(Debug, Args)]
pub(super) struct IncidentArgs {
    #[command(subcommand)]
    command: IncidentCommand,
}

#[derive(Debug, Subcommand)]
enum IncidentCommand {
    /// Write everything that is known about an incident into one file
    Export(ExportArgs),
    /// Show such a file, without the broker
    Show(ShowArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "One JSON value a line: the broker, its dead-letter queues, the newest scan of each with \
    its groups and their names, example letters, runs with their verdicts and the letters in doubt, what was \
    done and by whom with the seal of the trail, and where this topology loses letters. What looks like a \
    secret is masked unless --unmask is given; that is told to the trail. The file is readable by its owner \
    only.\n\nStatus 3: the broker could not be asked, and the file says so.\n\nExamples:\n  \
    nexusctl dlq incident export night.ndjson\n  \
    nexusctl dlq incident export orders.ndjson --queue dead.agent.worker --since 8h -o json"
)]
struct ExportArgs {
    /// The file; it must not be there yet
    file: PathBuf,
    /// Only what concerns this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// Only scans and runs that began then or later, and what was done since: a time, or a duration back
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    since: Option<When>,
    /// This scan instead of the newest of each queue
    #[arg(long, value_name = "NUMBER")]
    scan: Option<i64>,
    /// Only this run
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// So many example letters of each group
    #[arg(long, value_name = "N", default_value_t = 1)]
    examples: usize,
    #[command(flatten)]
    labels: LabelFileArgs,
    /// Write secrets as they are; the trail is told
    #[arg(long)]
    unmask: bool,
    /// Why: kept in the file, and with --unmask in the trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Status 2: the file was cut off or changed.\n\nExamples:\n  \
    nexusctl dlq incident show night.ndjson\n  nexusctl dlq incident show night.ndjson -o json")]
struct ShowArgs {
    /// The file
    file: PathBuf,
}

/// What was written.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentExportView {
    /// The file.
    file: String,
    /// Its bytes.
    bytes: u64,
    /// How many lines of each part.
    parts: BTreeMap<String, u64>,
    /// The SHA-256 of all its lines but the last, which has it too.
    sha256: String,
    /// The seal of the newest entry of the trail in it.
    head: String,
    /// What could not be known.
    unknown: Vec<String>,
}

impl View for IncidentExportView {
    const KIND: &'static str = "IncidentExport";
    fn text(&self, page: &mut Page) {
        let parts: Vec<String> = self
            .parts
            .iter()
            .filter(|(part, _)| !matches!(part.as_str(), "incident" | "doctor" | "trail"))
            .map(|(part, many)| count(*many, part))
            .collect();
        page.line(format!("{}: {}", page.style.strong(&self.file), parts.join(", ")));
        page.line(format!("trail {}", self.head));
        for what in &self.unknown {
            page.line(format!("{} {what}", page.style.attention("not known:")));
        }
    }
}

/// What a file says of itself.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentView {
    /// The file.
    file: String,
    /// Whether it is as it was written.
    whole: bool,
    /// What is wrong with it.
    problem: Option<String>,
    /// Its first line: when, by whom, of which broker.
    head: Value,
    /// How many lines of each part.
    parts: BTreeMap<String, u64>,
    /// Whether the trail was whole when it was written.
    trail: Value,
}

impl View for IncidentView {
    const KIND: &'static str = "Incident";
    fn text(&self, page: &mut Page) {
        match &self.problem {
            None => page.line(page.style.good("the file is as it was written")),
            Some(problem) => {
                page.line(format!("{} {problem}", page.style.bad("the file is not whole:")));
            }
        }
    }
}

pub(super) fn run(args: IncidentArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    match args.command {
        IncidentCommand::Export(args) => export(&args, session),
        IncidentCommand::Show(args) => show(&args, session),
    }
}

/// What the broker tells.
#[derive(Default)]
struct Told {
    broker: Value,
    queues: Vec<QueueRow>,
    doctor: Option<doctor::DeadLetterAuditView>,
    unknown: Vec<String>,
}

async fn ask(
    args: &ExportArgs,
    target: &Connector,
    files: Option<&Topology>,
    settings: &Settings,
    session: &Session,
) -> Result<Told, CliError> {
    let broker = target.connect().await?;
    let identity = broker.identity().clone();
    let (view, unknown) = list::known_topology(&*broker, files).await?;
    let named: Vec<QueueName> = args.queue.clone().into_iter().collect();
    let wanted = list::wanted(view.as_ref(), named, |place| place.purpose == Purpose::DeadLetters);
    let queues = list::rows(&*broker, view.as_ref(), wanted, settings, session).await?;
    let (source, topology) = match (broker.inspect().await, files) {
        (Ok(snapshot), _) => ("broker", Some(crate::topology::export::export(&snapshot, ""))),
        (Err(_), files) => ("files", files.cloned()),
    };
    let doctor = topology.map(|topology| doctor::view_of(source, &topology, identity.version));
    let _ = broker.close().await;
    Ok(Told {
        broker: json!({
            "cluster": identity.cluster_name,
            "vhost": identity.vhost.as_str(),
            "version": identity.version.to_string(),
            "url": target.shown(),
        }),
        queues,
        doctor,
        unknown,
    })
}

/// The scans that are wanted: one by its number, or the newest of each queue.
fn scans_of(args: &ExportArgs, since: Option<Timestamp>, known: Vec<Scan>) -> Vec<Scan> {
    let mut chosen: Vec<Scan> = Vec::new();
    for scan in known {
        let fits = match args.scan {
            Some(number) => scan.id == ScanId(number),
            None => {
                scan.ended.is_some()
                    && args.queue.as_ref().is_none_or(|queue| *queue == scan.of.queue)
                    && since.is_none_or(|since| scan.began >= since)
                    && chosen.iter().all(|other| other.of != scan.of)
            }
        };
        if fits {
            chosen.push(scan);
        }
    }
    chosen
}

fn runs_of(args: &ExportArgs, since: Option<Timestamp>, known: Vec<StoredRun>) -> Vec<StoredRun> {
    let fits = |run: &StoredRun| match &args.run {
        Some(id) => run.id == *id,
        None => {
            args.queue.as_ref().is_none_or(|queue| queue.as_str() == run.queue)
                && since.is_none_or(|since| run.ended.unwrap_or(run.started) >= since)
        }
    };
    known.into_iter().filter(fits).collect()
}

/// Runs that are looked through.
const RUNS: u32 = 10_000;

fn export(args: &ExportArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let labels = args.labels.read(session)?;
    let files = project_topology(session);
    let now = session.clock.now();
    let since = args.since.map(|when| when.at(now));
    let asked = session.drive(unless_stopped(&session.stop, async {
        ask(args, &target, files.as_ref(), &settings, session).await
    }));
    let (told, reached) = match asked {
        Ok(told) => (told, true),
        // What this machine knows is worth writing down when the broker is the incident.
        Err(error) if matches!(error.status, ExitStatus::Unavailable | ExitStatus::TryLater) => {
            let unknown = vec![format!("the broker could not be asked: {}", error.message)];
            let broker = json!({"url": target.shown()});
            (Told { broker, unknown, ..Told::default() }, false)
        }
        Err(error) => return Err(error),
    };
    let stored = session.drive(async {
        let scans = look(&settings).await?;
        let journal = match &scans {
            Some(_) => Some(Journal::open(&settings.state.value, settings.timeout()).await?),
            None => None,
        };
        Ok((scans, journal))
    })?;
    let (scans, journal) = &stored;
    let chosen = match scans {
        Some(scans) => scans_of(args, since, scans.scans(None)?),
        None => Vec::new(),
    };
    if let Some(number) = args.scan.filter(|_| chosen.is_empty()) {
        return Err(state::unknown("scan", &number.to_string(), &[])
            .hint("`nexusctl dlq scans` lists them"));
    }
    let runs = match journal {
        Some(journal) => runs_of(args, since, journal.runs(RUNS)?),
        None => Vec::new(),
    };
    if let Some(id) = args.run.as_ref().filter(|_| runs.is_empty()) {
        return Err(state::unknown("run", id, &[]).hint("`nexusctl dlq runs` lists them"));
    }
    let path = session.resolve(&args.file);
    let file = create(&path, &args.file)?;
    if args.unmask {
        tell_unmasked(args, session)?;
    }
    // With the entry that was just written.
    let trail = session.drive(look_at_trail(&settings))?;
    let writing = Writing { args, labels: &labels, now, told: &told, since };
    let result = writing.write(
        file,
        session.who.as_str(),
        scans.as_ref().map(|scans| (scans, &chosen[..])),
        journal.as_ref().map(|journal| (journal, &runs[..])),
        trail.as_ref(),
    );
    let (recorded, head) = match result {
        Ok(done) => done,
        Err(error) => {
            // Half a file is of no use to anybody.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
    };
    let Recorded { bytes, parts, sha256 } = recorded;
    session.ui.report(&IncidentExportView {
        file: args.file.display().to_string(),
        bytes,
        parts: parts.into_iter().map(|(part, many)| (part.to_owned(), many)).collect(),
        sha256,
        head,
        unknown: told.unknown,
    })?;
    Ok(if reached { ExitStatus::Done } else { ExitStatus::Partly })
}

fn create(path: &Path, shown: &Path) -> Result<File, CliError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let failed = CliError::unwritable(shown, &error);
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            failed.hint("name a file that is not there yet")
        } else {
            failed
        }
    })
}

fn tell_unmasked(args: &ExportArgs, session: &mut Session) -> Result<(), CliError> {
    let entry = NewEntry {
        at: session.clock.now(),
        who: session.who.clone(),
        what: "secrets exported".to_owned(),
        noun: Noun::File,
        object: args.file.display().to_string(),
        queue: args.queue.as_ref().map(ToString::to_string),
        run: None,
        reason: args.reason.clone(),
        details: json!({"scan": args.scan, "examples": args.examples}),
    };
    note(entry, session)
}

/// Writes the file.
struct Writing<'a> {
    args: &'a ExportArgs,
    labels: &'a Labels,
    now: Timestamp,
    told: &'a Told,
    since: Option<Timestamp>,
}

type Out = Recorder<BufWriter<File>>;

impl Writing<'_> {
    fn write(
        &self,
        file: File,
        who: &str,
        scans: Option<(&Scans, &[Scan])>,
        runs: Option<(&Journal, &[StoredRun])>,
        trail: Option<&crate::deadletter::trail::Trail>,
    ) -> Result<(Recorded, String), CliError> {
        let args = self.args;
        let failed = |error: std::io::Error| CliError::unwritable(&args.file, &error);
        let head = json!({
            "at": self.now.to_string(),
            "who": who,
            "reason": args.reason,
            "program": concat!("nexusctl ", env!("CARGO_PKG_VERSION")),
            "broker": self.told.broker,
            "queue": args.queue.as_ref().map(QueueName::as_str),
            "since": self.since.map(|since| since.to_string()),
            "masked": !args.unmask,
            "unknown": self.told.unknown,
        });
        let mut out = Recorder::begin(BufWriter::new(file), &head).map_err(failed)?;
        for queue in &self.told.queues {
            out.part("queue", queue).map_err(failed)?;
        }
        if let Some((scans, chosen)) = scans {
            for scan in chosen {
                self.scan(scans, scan, &mut out)?;
            }
        }
        if let Some((journal, runs)) = runs {
            for run in runs {
                out.part("run", &ReplayRunView::of(journal, run)?).map_err(failed)?;
            }
        }
        if let Some(doctor) = &self.told.doctor {
            out.part("doctor", doctor).map_err(failed)?;
        }
        let mut failure = None;
        if let Some(trail) = trail {
            let filter = Filter {
                queue: args.queue.as_ref().map(ToString::to_string),
                run: args.run.clone(),
                who: None,
                since: self.since,
            };
            trail.each(&filter, &mut |number, entry, hash| {
                let row = EntryRow::new(number, entry, hash);
                failure = out.part("entry", &row).err();
                failure.is_none()
            })?;
        }
        if let Some(error) = failure {
            return Err(failed(error));
        }
        let verdict = verify(trail, None)?;
        out.part("trail", &AuditVerificationView::from(&verdict)).map_err(failed)?;
        let (out, recorded) = out.end().map_err(failed)?;
        out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
        Ok((recorded, verdict.head))
    }

    fn scan(&self, scans: &Scans, scan: &Scan, out: &mut Out) -> Result<(), CliError> {
        let args = self.args;
        let failed = |error: std::io::Error| CliError::unwritable(&args.file, &error);
        out.part("scan", &ScanRow::new(scan)).map_err(failed)?;
        for group in scans.groups(scan.id)? {
            let row = GroupRow::labelled(&group, self.labels);
            let row = json!({"scan": scan.id.0, "group": row});
            out.part("group", &row).map_err(failed)?;
            let selection = Selection { groups: vec![group.group], ..Selection::default() };
            let found = match args.examples {
                0 => Vec::new(),
                many => scans.find(scan, &selection, many)?.letters,
            };
            for letter in &found {
                let mut twins = scans.places(scan.id, &letter.id)?;
                twins.retain(|place| *place != letter.position);
                let view = DeadLetterView::new(scan, letter, twins, args.unmask, self.now);
                out.part("letter", &view).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl From<IncidentError> for CliError {
    fn from(error: IncidentError) -> Self {
        match error {
            IncidentError::Io(error) => CliError::file("read the incident", &error),
            error => CliError::input(format!("the incident cannot be shown: {error}"))
                .hint("`nexusctl dlq incident export FILE` writes one"),
        }
    }
}

/// The text there, without what would change the terminal: the file is somebody else's.
fn text(value: &Value, path: &str) -> String {
    let text = value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

/// A part in lines for people.
fn lines(part: &str, value: &Value, style: Style) -> Vec<String> {
    let t = |path| text(value, path);
    let n = |path| number(value, path);
    match part {
        "incident" => {
            let broker = value.get("broker").cloned().unwrap_or_default();
            let mut lines = vec![
                style.strong(&format!("incident of {}, written by {}", t("/at"), t("/who"))),
                format!(
                    "broker {} {} (cluster {}, vhost {})",
                    text(&broker, "/url"),
                    text(&broker, "/version"),
                    text(&broker, "/cluster"),
                    text(&broker, "/vhost")
                ),
            ];
            if !t("/reason").is_empty() {
                lines.push(format!("reason: {}", t("/reason")));
            }
            let unknown = value.get("unknown").and_then(Value::as_array);
            for what in unknown.into_iter().flatten() {
                lines.push(format!("{} {}", style.attention("not known:"), text(what, "")));
            }
            lines
        }
        "queue" => vec![format!(
            "queue {}: {} ready",
            style.strong(&t("/queue")),
            value
                .get("ready")
                .and_then(Value::as_u64)
                .map_or("unknown".to_owned(), |n| n.to_string())
        )],
        "scan" => vec![format!(
            "scan {} of {} at {}: {}",
            n("/scan"),
            style.strong(&t("/queue")),
            t("/began"),
            count(n("/letters"), "letter")
        )],
        "group" => {
            let said = [t("/group/label/name"), t("/group/error"), t("/group/shape")];
            let said = said.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
            vec![format!(
                "  {} {}: {} {} {said}",
                t("/group/group"),
                count(n("/group/letters"), "letter"),
                t("/group/reason"),
                t("/group/queue")
            )]
        }
        "letter" => vec![format!("    letter {}: {}", t("/id"), t("/journey"))],
        "run" => {
            let mut lines = vec![format!(
                "run {} of {} ({}) by {}: {} replayed, {} left, {} in doubt",
                style.strong(&t("/run")),
                t("/queue"),
                t("/phase"),
                t("/who"),
                n("/replayed"),
                n("/held"),
                value.get("inDoubt").and_then(Value::as_array).map_or(0, Vec::len)
            )];
            let doubts = value.get("inDoubt").and_then(Value::as_array);
            for doubt in doubts.into_iter().flatten() {
                lines.push(format!("  may have come twice: {}", text(doubt, "/id")));
            }
            lines
        }
        "doctor" => {
            let findings = value.get("findings").and_then(Value::as_array);
            let shown = findings.into_iter().flatten().filter(|f| text(f, "/severity") != "note");
            let mut lines = vec![format!(
                "doctor: {}, {}",
                count(n("/errors"), "error"),
                count(n("/warnings"), "warning")
            )];
            lines.extend(
                shown.map(|f| format!("  {}: {}", text(f, "/severity"), text(f, "/message"))),
            );
            lines
        }
        "entry" => vec![format!(
            "{} {} {} {} {} {}",
            n("/sequence"),
            t("/at"),
            t("/who"),
            t("/what"),
            t("/object"),
            t("/reason")
        )],
        "trail" => vec![match value.get("whole").and_then(Value::as_bool) {
            Some(true) => format!("the trail was whole, {}", count(n("/entries"), "entry")),
            _ => style.bad(&format!("the trail was broken: {}", t("/broken/words"))),
        }],
        // Of a later program.
        _ => Vec::new(),
    }
}

fn show(args: &ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let path = session.resolve(&args.file);
    let name = args.file.display().to_string();
    let file = File::open(&path)
        .map_err(|error| CliError::file(format!("read {name}"), &error).object(&name))?;
    let (mut head, mut trail) = (Value::Null, Value::Null);
    let is_text = session.ui.format == Format::Table;
    let style = session.ui.style;
    let ui = &mut session.ui;
    let Reading { parts, problem } = read(BufReader::new(file), &mut |part, value| {
        if is_text {
            for line in lines(part, &value, style) {
                ui.data(format!("{line}\n").as_bytes())?;
            }
        }
        match part {
            "incident" => head = value,
            "trail" => trail = value,
            _ => {}
        }
        Ok::<(), CliError>(())
    })?;
    let whole = problem.is_none();
    session.ui.report(&IncidentView { file: name, whole, problem, head, parts, trail })?;
    Ok(if whole { ExitStatus::Done } else { ExitStatus::Negative })
}
