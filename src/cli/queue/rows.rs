//! Queues as rows of chosen columns: what is shown, how rows are ordered, which are left out.

use std::cmp::Ordering;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::base::expression::{Context, Expression};
use crate::base::suggest::nearest;
use crate::broker::arguments::json_of_field;
use crate::broker::{QueueDetails, QueueType};

use crate::cli::error::CliError;
use crate::cli::output::{Page, View};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its name, on the command line, in filters and in JSON.
    pub(super) name: &'static str,
    heading: &'static str,
    /// Whether the broker has to gather statistics for it.
    pub(super) statistics: bool,
}

/// What `name` stands for in filters too.
const fn column(name: &'static str, heading: &'static str, statistics: bool) -> Column {
    Column { name, heading, statistics }
}

/// Every column there is.
pub(super) const COLUMNS: [Column; 19] = [
    column("name", "NAME", false),
    column("queueType", "TYPE", false),
    column("ready", "READY", false),
    column("unacked", "UNACKED", false),
    column("messages", "MESSAGES", false),
    column("consumers", "CONSUMERS", false),
    column("state", "STATE", false),
    column("durable", "DURABLE", false),
    column("autoDelete", "AUTO-DELETE", false),
    column("exclusive", "EXCLUSIVE", false),
    column("arguments", "ARGUMENTS", false),
    column("leader", "LEADER", false),
    column("members", "MEMBERS", false),
    column("online", "ONLINE", false),
    column("policy", "POLICY", true),
    column("operatorPolicy", "OPERATOR-POLICY", true),
    column("bytes", "BYTES", true),
    column("memory", "MEMORY", true),
    column("published", "PUBLISHED", true),
];

/// The columns when none are chosen.
const USUAL: [&str; 6] = ["name", "queueType", "ready", "unacked", "consumers", "state"];

impl FromStr for Column {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || COLUMNS.iter().map(|column| column.name);
        COLUMNS.into_iter().find(|column| column.name == text).ok_or_else(|| {
            let meant = nearest(text, names())
                .map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
            format!(
                "there is no column `{text}`{meant} There are {}",
                names().collect::<Vec<_>>().join(", ")
            )
        })
    }
}

/// `ready`, or `ready:desc`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    column: Column,
    descending: bool,
}

impl FromStr for Order {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, descending) = match text.split_once(':') {
            None | Some((_, "asc")) => (text.split(':').next().unwrap_or(text), false),
            Some((name, "desc")) => (name, true),
            Some((_, other)) => return Err(format!("`{other}` is neither asc nor desc")),
        };
        Ok(Order { column: name.parse()?, descending })
    }
}

/// Which queues are wanted, and how they are shown.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    columns: Vec<Column>,
    order: Option<Order>,
    filter: Option<Expression>,
    pattern: Option<Glob>,
}

impl Wish {
    pub(super) fn new(
        columns: Vec<Column>,
        order: Option<Order>,
        filter: Option<&str>,
        pattern: Option<&str>,
    ) -> Result<Self, CliError> {
        let columns = if columns.is_empty() {
            USUAL.iter().filter_map(|name| name.parse().ok()).collect()
        } else {
            columns
        };
        let filter = filter
            .map(|text| Expression::parse_with(text, &COLUMNS.map(|column| column.name)))
            .transpose()
            .map_err(|error| CliError::usage(format!("--filter: {error}")))?;
        Ok(Wish { columns, order, filter, pattern: pattern.map(Glob::new) })
    }

    /// Whether the broker has to gather statistics for this.
    pub(super) fn needs_statistics(&self) -> bool {
        let in_filter = |column: &Column| {
            self.filter.iter().flat_map(Expression::variables).any(|used| used == column.name)
        };
        self.columns
            .iter()
            .chain(self.order.iter().map(|order| &order.column))
            .any(|c| c.statistics)
            || COLUMNS.iter().any(|column| column.statistics && in_filter(column))
    }

    /// Whether the name is one of those that are asked for.
    pub(super) fn names(&self, name: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(name))
    }

    /// The wanted among `queues`, in order. The last is how many have no answer to the filter.
    pub(super) fn rows(&self, queues: impl IntoIterator<Item = QueueDetails>) -> QueueListView {
        let mut unanswered = 0;
        let mut rows: Vec<Map<String, Value>> = queues
            .into_iter()
            .filter(|queue| self.names(queue.state.definition.name.as_str()))
            .map(|queue| row(&queue))
            .filter(|row| match self.wants(row) {
                Ok(wanted) => wanted,
                Err(_) => {
                    unanswered += 1;
                    false
                }
            })
            .collect();
        if let Some(Order { column, descending }) = self.order {
            rows.sort_by(|a, b| {
                let order = compare(a.get(column.name), b.get(column.name));
                if descending { order.reverse() } else { order }
            });
        }
        for row in &mut rows {
            row.retain(|name, _| self.columns.iter().any(|column| column.name == name));
        }
        QueueListView { queues: rows, unanswered, columns: self.columns.clone() }
    }

    fn wants(&self, row: &Map<String, Value>) -> Result<bool, String> {
        let Some(filter) = &self.filter else { return Ok(true) };
        let context = COLUMNS.iter().fold(Context::new(), |context, column| {
            context.with(column.name, row.get(column.name).unwrap_or(&Value::Null))
        });
        filter.evaluate_bool(&context).map_err(|error| error.to_string())
    }
}

/// Numbers by size, everything else as text; what is not known comes first.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64);
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (None, None) => cell(a).cmp(&cell(b)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// Everything that is known of a queue, by column.
fn row(queue: &QueueDetails) -> Map<String, Value> {
    let QueueDetails { state, status, leader, members, online, bytes, memory, counters, .. } =
        queue;
    let definition = &state.definition;
    let arguments: Map<String, Value> = definition
        .arguments
        .iter()
        .map(|(name, value)| (name.to_owned(), json_of_field(value)))
        .collect();
    let kind = definition.queue_type().unwrap_or(QueueType::Classic);
    let values: [Value; 19] = [
        definition.name.as_str().into(),
        kind.as_str().into(),
        state.ready.into(),
        state.unacked.into(),
        state.messages().into(),
        state.consumers.into(),
        status.clone().into(),
        definition.durable.into(),
        definition.auto_delete.into(),
        definition.exclusive.into(),
        arguments.into(),
        leader.clone().into(),
        members.clone().into(),
        online.clone().into(),
        state.policy.clone().into(),
        state.operator_policy.clone().into(),
        (*bytes).into(),
        (*memory).into(),
        counters.map(|counters| counters.published).into(),
    ];
    COLUMNS.iter().map(|column| column.name.to_owned()).zip(values).collect()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let items: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            items.join(", ")
        }
        Some(Value::Object(map)) if map.is_empty() => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// A name with `*` for any text and `?` for any character.
#[derive(Clone, Debug)]
pub(super) struct Glob(Vec<char>);

impl Glob {
    pub(super) fn new(text: &str) -> Self {
        Glob(text.chars().collect())
    }

    /// Whether all of `name` is meant. Linear but for going back to the last star.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (pattern, name): (&[char], Vec<char>) = (&self.0, name.chars().collect());
        let (mut p, mut n) = (0, 0);
        let mut star = None;
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
                _ => match star {
                    Some((at, from)) => {
                        star = Some((at, from + 1));
                        (p, n) = (at + 1, from + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

/// Some queues.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueListView {
    /// The queues with the columns that were asked for; null is not known.
    queues: Vec<Map<String, Value>>,
    /// Queues that were left out because the filter has no answer for them.
    unanswered: u64,
    #[serde(skip)]
    columns: Vec<Column>,
}

impl QueueListView {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// How many the filter has no answer for.
    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered
    }
}

impl View for QueueListView {
    const KIND: &'static str = "QueueList";
    const ITEMS: Option<&'static str> = Some("queues");
    fn text(&self, page: &mut Page) {
        if self.queues.is_empty() {
            page.line("no queue");
            return;
        }
        let headings = self.columns.iter().map(|column| column.heading.to_owned()).collect();
        let row = |queue: &Map<String, Value>| {
            self.columns.iter().map(|column| cell(queue.get(column.name))).collect()
        };
        page.wide_table(headings, self.queues.iter().map(row).collect());
    }
}

#[cfg(test)]
mod tests {
    use crate::base::id::QueueName;
    use crate::broker::{QueueDefinition, QueueState};

    use super::*;

    fn queue(name: &str, ready: Option<u64>) -> QueueDetails {
        QueueDetails::of(QueueState {
            definition: QueueDefinition::durable(QueueName::new(name).unwrap(), QueueType::Quorum),
            ready,
            unacked: Some(0),
            consumers: Some(1),
            policy: None,
            operator_policy: None,
        })
    }

    fn listed(order: Option<&str>, filter: Option<&str>, pattern: Option<&str>) -> Vec<String> {
        let order = order.map(|order| order.parse().unwrap());
        let wish = Wish::new(Vec::new(), order, filter, pattern).unwrap();
        let queues = [queue("a.in", Some(10)), queue("b.in", Some(9)), queue("b.out", None)];
        let view = wish.rows(queues);
        view.queues.iter().map(|row| cell(row.get("name"))).collect()
    }

    #[test]
    fn rows_are_ordered_by_number_and_filtered_by_any_column() {
        assert_eq!(listed(None, None, None), ["a.in", "b.in", "b.out"]);
        assert_eq!(listed(Some("ready"), None, None), ["b.out", "b.in", "a.in"]);
        assert_eq!(listed(Some("ready:desc"), None, None), ["a.in", "b.in", "b.out"]);
        assert_eq!(listed(None, Some("ready != null && ready > 9"), None), ["a.in"]);
        assert_eq!(
            listed(None, Some("queueType == 'quorum' && name.startsWith('b')"), None).len(),
            2
        );
        assert_eq!(listed(None, Some("arguments['x-queue-type'] == 'quorum'"), None).len(), 3);
        assert_eq!(listed(None, None, Some("*.in")), ["a.in", "b.in"]);
        assert!("redy".parse::<Column>().unwrap_err().contains("`ready`"));
        assert!("ready:up".parse::<Order>().is_err());
    }

    #[test]
    fn what_the_filter_cannot_answer_is_counted() {
        let wish = Wish::new(Vec::new(), None, Some("ready > 5"), None).unwrap();
        let view = wish.rows([queue("a", None), queue("b", Some(6))]);
        assert_eq!((view.len(), view.unanswered()), (1, 1));
    }

    #[test]
    fn only_some_columns_are_dear() {
        let dear = |columns: &[&str], order: Option<&str>, filter: Option<&str>| {
            let columns = columns.iter().map(|name| name.parse().unwrap()).collect();
            let order = order.map(|order| order.parse().unwrap());
            Wish::new(columns, order, filter, None).unwrap().needs_statistics()
        };
        assert!(!dear(&[], None, None));
        assert!(!dear(&["name", "leader"], Some("ready"), Some("ready > 1")));
        assert!(dear(&["memory"], None, None));
        assert!(dear(&[], Some("bytes"), None));
        assert!(dear(&[], None, Some("policy == 'p'")));
    }

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name, matches) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xaybz", true),
            ("abc", "abcd", false),
            ("*b", "bab", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), matches, "{pattern} {name}");
        }
    }
}
