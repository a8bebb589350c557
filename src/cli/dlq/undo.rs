//! `dlq undo`: takes back what a run did, as far as it can be.

use clap::Args;

use crate::base::id::QueueName;
use crate::deadletter::Selection;
use crate::deadletter::bundle_source::examine;
use crate::deadletter::replay::spec::{RunSpec, Verb};
use crate::deadletter::replay::store::{Phase, StoredRun};

use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::execute::{self, NewRun, asked_of, same_broker};
use super::how::{OverrideArgs, PaceArgs};
use super::replay::RunArgs;
use super::resume::find;
use super::{bundles, import};

/// Arguments of `dlq undo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Of a drop, the letters come back from its bundle. Of a replay, a move or a park, those \
    that still wait where they were sent come back as they lay; the report counts those that are not there \
    any more. In both cases they join the end of the queue. An undone drop is not undone twice; of the \
    others a second undo finds nothing.\n\nExamples:\n  \
    nexusctl dlq undo night-2 --dry-run\n  \
    nexusctl dlq undo night-2 --yes --reason 'the fix was none'"
)]
pub(super) struct UndoArgs {
    /// The run, as `dlq runs` lists it
    undone: String,
    /// Take back from this queue, when the run sent letters to several places
    #[arg(long, value_name = "QUEUE")]
    from: Option<QueueName>,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    overrides: OverrideArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// What is known of the run that is to be undone.
struct Undone {
    stored: StoredRun,
    /// Where its letters went.
    targets: Vec<String>,
    /// Letters that are confirmed there.
    confirmed: u64,
    /// The import that has undone it already, and whether that is done.
    by: Option<(String, bool)>,
}

pub(super) fn run(args: &UndoArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let undone = session.drive(async {
        let (journal, stored) = find(&args.undone, &settings).await?;
        let tally = journal.tally(&stored.id)?;
        let by = journal.runs(u32::MAX)?.into_iter().find_map(|run| {
            let spec: RunSpec = serde_json::from_str(&run.request).ok()?;
            let undoes = spec.undoes.as_deref() == Some(stored.id.as_str());
            (undoes && spec.verb == Verb::Import).then_some((run.id, run.phase == Phase::Done))
        });
        Ok(Undone {
            targets: journal.targets(&stored.id)?,
            confirmed: tally.confirmed + tally.skipped,
            by,
            stored,
        })
    })?;
    let (queue, did) = asked_of(&undone.stored)?;
    let id = &undone.stored.id;
    same_broker("undo", &undone.stored, &Connector::of(session)?)?;
    let refused = |why: &str| CliError::failed(format!("cannot undo run `{id}`: {why}")).object(id);
    if undone.stored.phase == Phase::Open {
        return Err(refused("it is at work, or was killed").hint(format!(
            "nothing was touched; `nexusctl dlq resume {id}` goes on with it first"
        )));
    }
    if let Some(elsewhere) = &did.elsewhere {
        return Err(refused(&format!("its letters went to {}", elsewhere.in_words()))
            .hint("nothing was touched; replay or move them from there with `--broker`"));
    }
    let mut spec =
        RunSpec { to: Some(queue.clone()), undoes: Some(id.clone()), ..RunSpec::default() };
    match did.verb {
        Verb::Drop => {
            if args.from.is_some() {
                return Err(refused("it was a drop, whose letters are in its bundle")
                    .hint("leave --from out"));
            }
            if let Some((by, is_done)) = &undone.by {
                return Err(if *is_done {
                    refused(&format!("run `{by}` has undone it"))
                        .hint("`nexusctl dlq import` takes its bundle once more")
                } else {
                    refused(&format!("run `{by}` has begun to"))
                        .hint(format!("`nexusctl dlq resume {by}` goes on with that"))
                });
            }
            let Some(path) = &did.bundle else { return Err(refused("it has no bundle")) };
            bundles::has_all(path, &undone.stored, undone.confirmed, "undo")?;
            let contents = examine(path, &Selection::default())?;
            if contents.head.run != *id {
                let run = &contents.head.run;
                return Err(refused(&format!("{} is of run `{run}`", path.display())));
            }
            let RunSpec { to, undoes, .. } = spec;
            spec = RunSpec { to, undoes, ..import::of_bundle(&contents) };
            args.pace.apply(&mut spec);
            args.overrides.apply(&mut spec);
            import::begin(spec, contents, &args.run, session)
        }
        Verb::Replay | Verb::Move | Verb::Park => {
            spec.verb = Verb::Undo;
            args.pace.apply(&mut spec);
            args.overrides.apply(&mut spec);
            let from = source(&undone, args.from.as_ref(), &refused)?;
            spec.check(&from)?;
            execute::begin(NewRun { queue: from, spec, named: args.run.clone() }, session)
        }
        Verb::Copy => Err(refused("its letters are where they were, and only the copies are new")
            .hint(format!(
                "take the copies off with `nexusctl dlq drop {} --where \"headers['x-nexus-run'] == \
                 '{id}'\"`",
                did.to.as_ref().map_or("QUEUE", QueueName::as_str)
            ))),
        Verb::Export => Err(refused("it changed nothing: its bundle can be deleted")),
        Verb::Import => Err(refused("what it put into a queue looks as what was there before").hint(
            "take letters off with `nexusctl dlq drop QUEUE --select ID`; `nexusctl dlq scan QUEUE` and \
             `dlq letters` name them",
        )),
        Verb::Undo => Err(refused("it has undone another")
            .hint("begin that one again, with the same letters")),
    }
}

/// The queue that the letters are taken back from.
fn source(
    undone: &Undone,
    asked: Option<&QueueName>,
    refused: &dyn Fn(&str) -> CliError,
) -> Result<QueueName, CliError> {
    if let Some(queue) = asked {
        return Ok(queue.clone());
    }
    let target = match undone.targets.as_slice() {
        [] => return Err(refused("it has sent no letter")),
        [one] => one,
        several => {
            return Err(refused("it has sent letters to several places")
                .hint(format!("name one of them with `--from`: {}", several.join(", "))));
        }
    };
    let queue = target.strip_prefix("queue ").and_then(|name| QueueName::new(name).ok());
    queue.ok_or_else(|| {
        refused(&format!("it has sent its letters to {target}"))
            .hint("name a queue that got them with `--from`")
    })
}
