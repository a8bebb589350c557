//! What to do about a queue or an exchange that is not there: the name that was meant, the topology
//! that would make it, or the names that there are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::id::QueueName;
use crate::base::suggest::nearest;
use crate::broker::{Broker, BrokerError, ErrorKind};

use super::error::CliError;
use super::output::count;
use super::settings::Settings;

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl Missing {
    const fn noun(self) -> &'static str {
        match self {
            Missing::Queue => "queue",
            Missing::Exchange => "exchange",
        }
    }
}

/// What is known around a missing object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Around {
    /// Names of this kind that the broker has; `None` when it cannot be listed.
    pub there: Option<Vec<String>>,
    /// Names of this kind that the project's topology declares.
    pub declared: Vec<String>,
}

/// Why there is nothing to take from `queue`; what to do about one that is not there.
pub async fn refused(
    error: BrokerError,
    broker: &dyn Broker,
    queue: &QueueName,
    settings: &Settings,
) -> CliError {
    if error.kind != ErrorKind::NotFound {
        return error.into();
    }
    let next = look(Missing::Queue, queue.as_str(), broker, settings).await;
    CliError::from(error).hint(next)
}

/// The next step for whoever named `name`.
pub fn advise(missing: Missing, name: &str, around: &Around) -> String {
    const SHOWN: usize = 6;
    let noun = missing.noun();
    if around.declared.iter().any(|declared| declared == name) {
        return format!(
            "the project's topology declares it: `nexusctl topology apply` makes this {noun}"
        );
    }
    let there = around.there.as_deref().unwrap_or_default();
    let near = nearest(name, there.iter().map(String::as_str))
        .or_else(|| nearest(name, around.declared.iter().map(String::as_str)));
    if let Some(meant) = near {
        return format!("did you mean `{meant}`?");
    }
    match &around.there {
        None => format!(
            "check the name and the vhost, or declare the {noun} in a topology and run \
             `nexusctl topology apply`"
        ),
        Some(there) if there.is_empty() => format!(
            "the vhost has no {noun} of its own yet; declare it in a topology and run \
             `nexusctl topology apply`"
        ),
        Some(there) if there.len() <= SHOWN => {
            let names: Vec<String> = there.iter().map(|name| format!("`{name}`")).collect();
            format!("the vhost has {}", names.join(", "))
        }
        Some(there) => format!(
            "the vhost has {}, and none is called like it; `nexusctl topology export` lists them",
            count(there.len(), noun)
        ),
    }
}

/// Looks around for what `name` may mean, and says the next step.
pub async fn look(
    missing: Missing,
    name: &str,
    broker: &dyn Broker,
    settings: &Settings,
) -> String {
    let around =
        Around { there: there(missing, broker).await, declared: declared(missing, settings) };
    advise(missing, name, &around)
}

/// What the project's topology declares of this kind; nothing when there is none or it is wrong.
fn declared(missing: Missing, settings: &Settings) -> Vec<String> {
    let Some(project) = &settings.project else { return Vec::new() };
    let Ok(topology) = crate::project::topology::of_project(project, &BTreeMap::new()) else {
        return Vec::new();
    };
    match missing {
        Missing::Queue => topology.queues.iter().map(|q| q.definition.name.to_string()).collect(),
        Missing::Exchange => {
            topology.exchanges.iter().map(|e| e.definition.name.to_string()).collect()
        }
    }
}

/// The names of this kind that the broker has. It has answered already that one is missing, so this is
/// not worth a long wait.
async fn there(missing: Missing, broker: &dyn Broker) -> Option<Vec<String>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let snapshot = tokio::time::timeout(PATIENCE, broker.inspect()).await.ok()?.ok()?;
    Some(match missing {
        Missing::Queue => snapshot.queues.iter().map(|q| q.definition.name.to_string()).collect(),
        Missing::Exchange => snapshot
            .exchanges
            .iter()
            .filter(|exchange| !exchange.name.is_predeclared())
            .map(|exchange| exchange.name.to_string())
            .collect(),
    })
}

/// `word` as a shell takes it: in quotes where it needs them.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_the_nearest_way_to_what_was_meant() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let around = |there: Option<&[&str]>, declared: &[&str]| Around {
            there: there.map(names),
            declared: names(declared),
        };
        let many: Vec<String> = (0..40).map(|n| format!("worker.{n:04}.in")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (around, says) in [
            (around(Some(&["orders"]), &["order"]), "`nexusctl topology apply` makes this queue"),
            (around(Some(&["orders"]), &[]), "did you mean `orders`?"),
            (around(None, &["orders"]), "did you mean `orders`?"),
            (around(Some(&[]), &[]), "has no queue of its own yet"),
            (around(Some(&["a", "b"]), &[]), "the vhost has `a`, `b`"),
            (around(Some(&many), &[]), "the vhost has 40 queues"),
            (around(None, &[]), "check the name and the vhost"),
        ] {
            let advice = advise(Missing::Queue, "order", &around);
            assert!(advice.contains(says), "{advice}");
        }
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        for (word, quoted) in
            [("a.b", "a.b"), ("", "''"), ("a b", "'a b'"), ("#", "'#'"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(shell_word(word), quoted);
        }
    }
}
