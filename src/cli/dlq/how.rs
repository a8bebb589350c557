//! Where letters go and how: the same options for every command that begins a run.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::base::id::{QueueName, VhostName};
use crate::base::time::HumanDuration;
use crate::deadletter::replay::edit::{EditError, EditSpec, SetHeader};
use crate::deadletter::replay::mapping::MapText;
use crate::deadletter::replay::plan::{MOST_HELD, WINDOW};
use crate::deadletter::replay::planned::Input;
use crate::deadletter::replay::spec::{CanarySpec, Elsewhere, OrderSpec, RunSpec, SpecError, Verb};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::elsewhere;
use super::selection::SelectionArgs;

/// Which letters, where to and how.
#[derive(Clone, Debug, Args)]
pub(super) struct HowArgs {
    /// All of them to this queue
    #[arg(long, value_name = "QUEUE", conflicts_with_all = ["via_exchange", "to_exchange"])]
    to: Option<QueueName>,
    /// Each to the exchange it had been published to; other queues may get it too
    #[arg(long, conflicts_with = "to_exchange")]
    via_exchange: bool,
    /// All of them to this exchange, with this key or each with its own
    #[arg(long, value_name = "EXCHANGE[:KEY]")]
    to_exchange: Option<String>,
    /// Each by the first rule that fits it: a YAML document `kind: ReplayMap`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "via_exchange", "to_exchange"])]
    map: Option<PathBuf>,
    #[command(flatten)]
    elsewhere: ElsewhereArgs,
    #[command(flatten)]
    edit: EditArgs,
    /// Do not send a letter that was replayed so often already
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_replays: u64,
    /// Put such letters into this queue; without it they stay
    #[arg(long, value_name = "QUEUE")]
    park: Option<QueueName>,
    /// Give letters the time to live back that they had before they died
    #[arg(long)]
    restore_ttl: bool,
    /// Leave the x-death headers on the letters: a broker before 4.0 goes on counting by them
    #[arg(long)]
    keep_x_death: bool,
    #[command(flatten)]
    means: MeansArgs,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    caution: CautionArgs,
}

/// Which letters, how fast and in spite of what: what every run over a queue takes.
#[derive(Clone, Debug, Args)]
pub(super) struct MeansArgs {
    #[command(flatten)]
    letters: SelectionArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    overrides: OverrideArgs,
}

/// How far it looks, and what becomes of what stays.
#[derive(Clone, Debug, Args)]
pub(super) struct ReachArgs {
    /// Look at no more than so many letters from the head
    #[arg(long, value_name = "N")]
    within: Option<u64>,
    /// Begin at this offset of a stream; from the first on when nothing is said
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Let letters that stay wait in a queue of their own instead of holding them, and bring them back
    /// in the end: for a condition on more letters than can be held
    #[arg(long)]
    staged: bool,
    /// Hold so many letters that stay at most
    #[arg(long, value_name = "N", default_value_t = MOST_HELD,
        value_parser = clap::value_parser!(u64).range(1..=60_000))]
    most_held: u64,
    /// Hold letters that stay for so long at most, then stop; 14m with RabbitMQ, which takes them back
    /// after half an hour, or less when they live for less
    #[arg(long, value_name = "DURATION")]
    max_hold: Option<HumanDuration>,
}

/// Another vhost or broker.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "To another broker")]
pub(super) struct ElsewhereArgs {
    /// Send the copies to this vhost
    #[arg(long, value_name = "VHOST")]
    to_vhost: Option<VhostName>,
    /// Send the copies to the broker of this context
    #[arg(long, value_name = "NAME")]
    to_context: Option<String>,
    /// Send the copies to the broker at this URL
    #[arg(long, value_name = "URL", conflicts_with = "to_context")]
    to_broker: Option<String>,
}

/// What becomes different in letters.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Edits")]
pub(super) struct EditArgs {
    /// Set a header: to text, or to the value of `${ CEL }` with its type
    #[arg(long = "set-header", value_name = "NAME=VALUE")]
    set_headers: Vec<SetHeader>,
    /// Remove a header
    #[arg(long = "remove-header", value_name = "NAME")]
    remove_headers: Vec<String>,
    /// Patch the JSON body by this JSON Patch (RFC 6902)
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    body_patch: Option<PathBuf>,
    /// Make the value of this CEL expression the new JSON body
    #[arg(long, value_name = "CEL")]
    body: Option<String>,
    /// Leave letters whose new body does not satisfy this JSON Schema
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
}

/// What is asked for, and the files that say so.
#[derive(Debug)]
pub(super) struct Asked {
    /// What is asked for; checked.
    pub(super) spec: RunSpec,
    /// The files.
    pub(super) inputs: Vec<Input>,
}

/// How fast and in which order.
#[derive(Clone, Debug, Args)]
pub(super) struct PaceArgs {
    /// What a letter that is refused at its target means for those behind it: `queue` stops at it, `none`
    /// goes on past it, `strict` stops and sends no letter before the one ahead of it is confirmed, `key:CEL` keeps the
    /// strict order among letters with the same value and goes on with the others
    #[arg(long, value_name = "ORDER", default_value = "queue")]
    order: OrderSpec,
    /// So many letters unconfirmed at once: the most that one kill can double
    #[arg(long, value_name = "N", default_value_t = WINDOW,
        value_parser = clap::value_parser!(u64).range(1..=4096))]
    window: u64,
    /// So many a second at most
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

/// How cautiously.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "With caution")]
pub(super) struct CautionArgs {
    /// Reach --rate only after so long, rising evenly
    #[arg(long, value_name = "DURATION", requires = "rate")]
    ramp: Option<HumanDuration>,
    /// Send so many first, see whether they come back, and only then the others
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    canary: Option<u64>,
    /// Watch those for so long
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "canary")]
    wait: HumanDuration,
    /// Stop when more of those that went come back, in percent; 5% for --canary when it is left out
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    max_return: Option<f64>,
    /// Afterwards look for so long at how many come back
    #[arg(long, value_name = "DURATION")]
    verify: Option<HumanDuration>,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    number.parse().map_err(|_| format!("`{text}` is no share; write for example 5%"))
}

fn ms(duration: HumanDuration) -> u64 {
    duration.as_ms()
}

/// What to go on in spite of.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct OverrideArgs {
    /// Work beside other consumers of the queue; what they hold is left out
    #[arg(long)]
    alongside: bool,
    /// Hold letters that stay although their time to live may end meanwhile
    #[arg(long)]
    allow_expiry: bool,
    /// Send to a queue that will drop its oldest messages
    #[arg(long)]
    allow_loss: bool,
    /// Hold no letter that has fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3)]
    min_lives: u64,
}

impl PaceArgs {
    /// Writes it into a request.
    pub(super) fn apply(&self, spec: &mut RunSpec) {
        let PaceArgs { order, window, rate } = self.clone();
        (spec.order, spec.window, spec.rate) = (order, window, rate);
    }
}

impl OverrideArgs {
    /// Writes it into a request.
    pub(super) fn apply(&self, spec: &mut RunSpec) {
        let OverrideArgs { alongside, allow_expiry, allow_loss, min_lives } = *self;
        spec.alongside = alongside;
        spec.allow_expiry = allow_expiry;
        spec.allow_loss = allow_loss;
        spec.min_lives = min_lives;
    }
}

impl MeansArgs {
    /// The run that `spec` begins to ask for, of the letters in `queue`.
    pub(super) fn spec(
        &self,
        mut spec: RunSpec,
        queue: &QueueName,
        session: &mut Session,
    ) -> Result<RunSpec, CliError> {
        spec = self.asked(spec, queue, session)?;
        spec.check(queue)?;
        Ok(spec)
    }

    /// The same, for who looks at every letter before anything is done.
    fn asked(
        &self,
        mut spec: RunSpec,
        queue: &QueueName,
        session: &mut Session,
    ) -> Result<RunSpec, CliError> {
        self.pace.apply(&mut spec);
        self.overrides.apply(&mut spec);
        // Before standard input is read for the selection.
        spec.check_plan(queue)?;
        spec.selection = self.letters.selection(session)?;
        Ok(spec)
    }
}

impl HowArgs {
    /// What the run is asked to do to the letters in `queue`.
    pub(super) fn spec(
        &self,
        verb: Verb,
        queue: &QueueName,
        session: &mut Session,
    ) -> Result<RunSpec, CliError> {
        let spec = self.asked(verb, queue, session)?.spec;
        spec.check(queue)?;
        Ok(spec)
    }

    /// The same, for who looks at every letter before anything is done.
    pub(super) fn asked(
        &self,
        verb: Verb,
        queue: &QueueName,
        session: &mut Session,
    ) -> Result<Asked, CliError> {
        let mut inputs = Vec::new();
        let map = match &self.map {
            Some(file) => {
                let text = read_input("--map", file, session, &mut inputs)?;
                Some(MapText { file: file.display().to_string(), text })
            }
            None => None,
        };
        let edit = self.edit.spec(session, &mut inputs)?;
        let elsewhere = self.elsewhere.spec(session)?;
        let HowArgs {
            to,
            via_exchange,
            to_exchange,
            max_replays,
            park,
            restore_ttl,
            keep_x_death,
            map: _,
            elsewhere: _,
            edit: _,
            means,
            reach: ReachArgs { within, from, staged, most_held, max_hold },
            caution: CautionArgs { ramp, canary, wait, max_return, verify },
        } = self.clone();
        let spec = RunSpec {
            verb,
            to,
            via_exchange,
            to_exchange,
            max_replays,
            park,
            ramp_ms: ramp.map_or(0, ms),
            canary: canary.map(|letters| CanarySpec { letters, wait_ms: ms(wait) }),
            max_return_percent: max_return,
            verify_ms: verify.map(ms),
            restore_ttl,
            keep_x_death,
            within,
            from,
            max_hold_ms: max_hold.map(ms),
            most_held,
            staged,
            map,
            edit,
            elsewhere,
            ..RunSpec::default()
        };
        let spec = means.asked(spec, queue, session)?;
        Ok(Asked { spec, inputs })
    }
}

/// Reads a file that an option names, and notes what it says.
fn read_input(
    option: &str,
    file: &Path,
    session: &Session,
    inputs: &mut Vec<Input>,
) -> Result<String, CliError> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(session.resolve(file))
        .map_err(|error| CliError::file(format!("read {shown}"), &error))?;
    inputs.push(Input::new(option, &shown, &text));
    Ok(text)
}

impl EditArgs {
    fn spec(&self, session: &Session, inputs: &mut Vec<Input>) -> Result<EditSpec, CliError> {
        let mut json = |option: &str, file: &Option<PathBuf>| match file {
            None => Ok(None),
            Some(file) => {
                let text = read_input(option, file, session, inputs)?;
                serde_json::from_str(&text).map(Some).map_err(|error| {
                    CliError::input(format!(
                        "{}:{}:{}: this is no JSON: {error}",
                        file.display(),
                        error.line(),
                        error.column()
                    ))
                })
            }
        };
        Ok(EditSpec {
            body_patch: json("--body-patch", &self.body_patch)?,
            schema: json("--schema", &self.schema)?,
            set_headers: self.set_headers.clone(),
            remove_headers: self.remove_headers.clone(),
            body: self.body.clone(),
        })
    }
}

impl ElsewhereArgs {
    fn spec(&self, session: &mut Session) -> Result<Option<Elsewhere>, CliError> {
        let ElsewhereArgs { to_vhost, to_context, to_broker } = self;
        if (to_vhost, to_context, to_broker) == (&None, &None, &None) {
            return Ok(None);
        }
        let mut elsewhere = match to_broker {
            Some(url) => elsewhere::of_url(url, session)?,
            None => Elsewhere::default(),
        };
        elsewhere.vhost.clone_from(to_vhost);
        elsewhere.context.clone_from(to_context);
        Ok(Some(elsewhere))
    }
}

impl From<SpecError> for CliError {
    fn from(error: SpecError) -> Self {
        let shown = CliError::usage(error.to_string());
        match error {
            SpecError::Map { findings, .. } => CliError::findings(shown.message.clone(), findings),
            SpecError::Edit(EditError::Reserved(_)) => shown.hint(
                "headers that begin with x-nexus- or x-death, CC and BCC are written by what moves \
                 letters",
            ),
            SpecError::Edit(EditError::Patch(_) | EditError::Schema(_)) => {
                shown.with_status(ExitStatus::BadInput)
            }
            SpecError::Edit(_) => shown,
            // What a letter is called has to be written out: that two begin alike would show only after
            // the first is gone.
            SpecError::Last | SpecError::Short(_) => shown.hint(
                "`nexusctl dlq plan` looks at all of them first; `nexusctl dlq apply` runs the plan",
            ),
            SpecError::Order(_) => {
                shown.hint("write for example `key:headers.order` or `key:body.customer`")
            }
            SpecError::Exchange(_)
            | SpecError::Circular(_)
            | SpecError::Rate(_)
            | SpecError::Share(_)
            | SpecError::Together(_)
            | SpecError::Ramp => shown,
        }
    }
}
