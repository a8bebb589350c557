//! `queue find`: queues by what they are. Status 2 when there is none.

use std::time::Duration;

use clap::Args;

use crate::base::id::ExchangeName;
use crate::base::time::HumanDuration;
use crate::broker::{Broker, BrokerError, Destination, QueueDetails, QueueState, Snapshot};
use crate::topology::view::TopologyView;

use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::rows::{Column, Wish};

/// Arguments of `queue find`.
#[derive(Debug, Args)]
#[command(
    after_help = "A queue is found when all that is said of it is so. Status 2 when none is \
    found.\n\nExamples:\n  nexusctl queue find --bound-to nexus.agents\n  \
    nexusctl queue find 'agent.*' --no-consumers --with-messages\n  \
    nexusctl queue find --argument x-queue-type=quorum\n  \
    nexusctl queue find --idle 1s"
)]
pub(super) struct FindArgs {
    /// Only queues of this name; * is any text, ? any character
    pattern: Option<String>,
    /// It has this argument, or this value of it
    #[arg(long, value_name = "NAME[=VALUE]")]
    argument: Vec<String>,
    /// This policy or operator policy applies to it
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// A binding leads to it from this exchange
    #[arg(long, value_name = "EXCHANGE")]
    bound_to: Option<ExchangeName>,
    /// Nothing is in it
    #[arg(long, conflicts_with = "with_messages")]
    empty: bool,
    /// Something is in it
    #[arg(long)]
    with_messages: bool,
    /// Nobody consumes from it
    #[arg(long)]
    no_consumers: bool,
    /// Its counts are the same after this time
    #[arg(long, value_name = "DURATION")]
    idle: Option<HumanDuration>,
    /// Show these columns
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    columns: Vec<Column>,
}

/// What a queue has to be.
#[derive(Clone, Debug, Default)]
struct Traits {
    arguments: Vec<(String, Option<String>)>,
    policy: Option<String>,
    bound_to: Option<ExchangeName>,
    empty: bool,
    with_messages: bool,
    no_consumers: bool,
}

/// The queues of `snapshot` that have all `traits`.
fn having(traits: &Traits, snapshot: Snapshot) -> Vec<QueueState> {
    let view = TopologyView::of_snapshot(&snapshot);
    let Snapshot { queues, .. } = snapshot;
    let has = |queue: &mut QueueState| {
        let name = &queue.definition.name;
        let Some(known) = view.queues.get(name.as_str()) else { return false };
        let policy = known.effective.policy.as_ref().map(ToString::to_string);
        let operator = known.effective.operator_policy.as_ref().map(ToString::to_string);
        let messages = queue.messages();
        let found = traits.arguments.iter().all(|(argument, wanted)| {
            let value = queue.definition.arguments.get(argument);
            value.is_some_and(|value| {
                let shown = crate::broker::arguments::json_of_field(value);
                let text = shown.as_str().map_or_else(|| shown.to_string(), str::to_owned);
                wanted.as_ref().is_none_or(|wanted| *wanted == text)
            })
        }) && traits
            .policy
            .as_ref()
            .is_none_or(|wanted| [&policy, &operator].contains(&&Some(wanted.clone())))
            && traits.bound_to.as_ref().is_none_or(|source| {
                let there = Destination::Queue(name.clone());
                source.is_default()
                    || view.bindings.iter().any(|b| b.source == *source && b.destination == there)
            })
            && (!traits.empty || messages == Some(0))
            && (!traits.with_messages || messages.is_some_and(|n| n > 0))
            && (!traits.no_consumers || queue.consumers == Some(0));
        queue.policy = policy.or(queue.policy.take());
        queue.operator_policy = operator.or(queue.operator_policy.take());
        found
    };
    let mut queues = queues;
    queues.retain_mut(has);
    queues
}

/// Those of `before` that look the same `after`.
fn unchanged(before: Vec<QueueDetails>, after: &[QueueDetails]) -> Vec<QueueDetails> {
    let look = |queue: &QueueDetails| {
        (queue.state.ready, queue.state.unacked, queue.state.consumers, queue.counters)
    };
    let same = |queue: &QueueDetails| {
        let name = &queue.state.definition.name;
        let found = after.binary_search_by(|other| other.state.definition.name.cmp(name));
        found.is_ok_and(|index| look(queue) == look(&after[index]))
    };
    before.into_iter().filter(same).collect()
}

async fn look_twice(
    broker: &dyn Broker,
    pause: Duration,
) -> Result<Vec<QueueDetails>, BrokerError> {
    let before = broker.list_queues(true).await?;
    tokio::time::sleep(pause).await;
    let after = broker.list_queues(true).await?;
    Ok(unchanged(before, &after))
}

pub(super) fn run(args: FindArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let FindArgs {
        pattern,
        argument,
        policy,
        bound_to,
        empty,
        with_messages,
        no_consumers,
        idle,
        columns,
    } = args;
    let wish = Wish::new(columns, None, None, pattern.as_deref())?;
    let split = |text: String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text, None),
    };
    let arguments = argument.into_iter().map(split).collect();
    let traits = Traits { arguments, policy, bound_to, empty, with_messages, no_consumers };
    let target = Connector::of(session)?;
    let queues = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let states = having(&traits, broker.inspect().await?);
        let mut details = match idle {
            Some(pause) => look_twice(&*broker, pause.0).await?,
            None => broker.list_queues(wish.needs_statistics()).await?,
        };
        details.retain_mut(|queue| {
            let name = &queue.state.definition.name;
            let found = states.iter().find(|state| state.definition.name == *name);
            if let Some(state) = found {
                queue.state.policy = state.policy.clone();
                queue.state.operator_policy = state.operator_policy.clone();
            }
            found.is_some()
        });
        let _ = broker.close().await;
        Ok(details)
    }))?;
    let view = wish.rows(queues);
    session.ui.report(&view)?;
    Ok(if view.len() == 0 { ExitStatus::Negative } else { ExitStatus::Done })
}

#[cfg(test)]
mod tests {
    use crate::base::id::QueueName;
    use crate::broker::{QueueCounters, QueueDefinition, QueueType};

    use super::*;

    #[test]
    fn a_queue_is_idle_when_nothing_of_it_moved() {
        let queue = |name: &str, published: u64| QueueDetails {
            counters: Some(QueueCounters { published, ..QueueCounters::default() }),
            ..QueueDetails::of(QueueState {
                definition: QueueDefinition::durable(
                    QueueName::new(name).unwrap(),
                    QueueType::Classic,
                ),
                ready: Some(1),
                unacked: Some(0),
                consumers: Some(0),
                policy: None,
                operator_policy: None,
            })
        };
        let before = vec![queue("a", 1), queue("b", 1), queue("gone", 1)];
        let idle = unchanged(before, &[queue("a", 1), queue("b", 2)]);
        let names: Vec<&str> = idle.iter().map(|q| q.state.definition.name.as_str()).collect();
        assert_eq!(names, ["a"]);
    }
}
