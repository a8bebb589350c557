//! How routes, explanations and drawings are shown.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::exchange_in_words;
use crate::broker::{Product, Version};
use crate::topology::explain::{ExplainedSetting, QueueExplanation};
use crate::topology::graph::{Graph, to_dot, to_mermaid};
use crate::topology::route::{Fate, QueueRoute, RouteReport, RouteStep};

use crate::cli::output::{Page, View, count};

fn step_words(step: &RouteStep) -> String {
    match step {
        RouteStep::Binding { source, destination, routing_key, arguments } => {
            let mut text =
                format!("{} → {destination} by `{routing_key}`", exchange_in_words(source));
            if let Some(arguments) = arguments {
                let _ = write!(text, " {arguments}");
            }
            text
        }
        RouteStep::DefaultExchange { queue } => format!("the default exchange → queue `{queue}`"),
        RouteStep::Alternate { exchange, alternate, source } => {
            format!("no binding of `{exchange}` fits → alternate exchange `{alternate}` ({source})")
        }
        RouteStep::NoMatch { exchange } => {
            format!("no binding of {} fits, and it has no alternate", exchange_in_words(exchange))
        }
        RouteStep::MissingExchange { exchange } => {
            format!("{} does not exist", exchange_in_words(exchange))
        }
        RouteStep::InternalExchange { exchange } => format!(
            "{} is internal: it takes messages from other exchanges only",
            exchange_in_words(exchange)
        ),
        RouteStep::AlreadyPassed { exchange } => {
            format!("{} has had the message already", exchange_in_words(exchange))
        }
        RouteStep::UnknownKind { exchange, kind } => format!(
            "{} is of type {kind}: where it sends the message is not known here",
            exchange_in_words(exchange)
        ),
    }
}

fn write_queue(route: &QueueRoute, indent: usize, page: &mut Page) {
    let blank = "  ".repeat(indent);
    let name = page.style.strong(&route.queue);
    page.line(format!("{blank}queue {name} ({})", route.queue_type));
    for gives_up in &route.gives_up {
        let fate = match &gives_up.fate {
            Fate::Dropped => page.style.bad("dropped"),
            Fate::Lost { exchange, routing_key } => page.style.bad(&format!(
                "lost: {} hands `{routing_key}` to nobody",
                exchange_in_words(exchange)
            )),
            Fate::DroppedInLoop { queue } => {
                page.style.bad(&format!("dropped: it would come back to `{queue}`"))
            }
            Fate::GoesRound { queue } => {
                page.style.attention(&format!("goes round: back to `{queue}`"))
            }
            Fate::DeadLettered { exchange, routing_key, at_least_once, .. } => {
                let once = if *at_least_once { ", at least once" } else { "" };
                format!("dead-lettered to {} by `{routing_key}`{once}", exchange_in_words(exchange))
            }
            Fate::NotFollowed => "not followed any deeper".to_owned(),
        };
        page.line(format!("{blank}  {} ({}): {fate}", gives_up.reason, gives_up.when));
        if let Fate::DeadLettered { queues, .. } = &gives_up.fate {
            for queue in queues {
                write_queue(queue, indent + 2, page);
            }
        }
    }
}

impl View for RouteReport {
    const KIND: &'static str = "Route";
    fn text(&self, page: &mut Page) {
        page.line(format!("`{}` to {}:", self.routing_key, exchange_in_words(&self.exchange)));
        for step in &self.steps {
            page.line(format!("  {}", step_words(step)));
        }
        if !self.queues.is_empty() {
            page.gap();
        }
        for queue in &self.queues {
            write_queue(queue, 0, page);
        }
        for note in &self.notes {
            let word = page.style.attention("note:");
            page.line(format!("{word} {note}"));
        }
        page.gap();
        page.line(match (&self.refused, self.unroutable) {
            (Some(why), _) => page.style.bad(&format!("refused: {why}")),
            (None, true) => page.style.bad("no queue: a mandatory publish comes back"),
            (None, false) => format!("reaches {}", count(self.queues.len() as u64, "queue")),
        });
    }
}

impl View for QueueExplanation {
    const KIND: &'static str = "QueueExplanation";
    fn text(&self, page: &mut Page) {
        let style = page.style;
        let name = style.strong(&self.queue);
        let Version { major, minor, .. } = self.version;
        page.line(match self.broker {
            Some(Product::RabbitMq) => format!("queue {name} on RabbitMQ {}", self.version),
            Some(Product::Embedded) => {
                format!(
                    "queue {name} on the embedded broker, which imitates RabbitMQ {major}.{minor}"
                )
            }
            None => format!("queue {name} by the rules of RabbitMQ {major}.{minor}"),
        });
        page.gap();
        let row = |setting: &ExplainedSetting| {
            let mut source = setting.source.clone();
            if !setting.over.is_empty() {
                let _ = write!(source, ", over {}", setting.over.join(", "));
            }
            [setting.name.clone(), setting.value.to_string(), source, setting.summary.to_owned()]
        };
        let mut rows = vec![row(&self.queue_type)];
        for (name, value) in [
            ("durable", self.durable),
            ("exclusive", self.exclusive),
            ("auto-delete", self.auto_delete),
        ] {
            rows.push([name.to_owned(), value.to_string(), "property".to_owned(), String::new()]);
        }
        rows.extend(self.settings.iter().map(row));
        page.table(["SETTING", "VALUE", "FROM", "WHAT IT DOES"], rows);
        let lists = [
            (
                "stored and never looked at",
                self.unused_arguments.iter().map(|a| a.name.clone()).collect(),
            ),
            ("policies that match and do not apply", self.losing_policies.clone()),
            ("bindings", self.bindings.clone()),
            ("collects dead letters of", self.collects_from.clone()),
        ];
        for (title, items) in lists {
            let items: Vec<String> = items;
            if !items.is_empty() {
                page.gap();
                page.line(format!("{title}:"));
                for item in items {
                    page.line(format!("  {item}"));
                }
            }
        }
        if let Some(messages) = self.messages {
            page.gap();
            page.line(count(messages, "message"));
        }
        if !self.notes.is_empty() {
            page.gap();
        }
        for note in &self.notes {
            let word = style.attention("note:");
            page.line(format!("{word} {note}"));
        }
    }
}

/// The language of a drawing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Graphviz
    #[default]
    Dot,
    /// Mermaid, as Markdown renders it
    Mermaid,
}

/// A drawing: nodes and edges, and its text.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GraphView {
    /// Nodes and edges.
    graph: Graph,
    /// The same in DOT or Mermaid.
    text: String,
}

impl GraphView {
    /// `graph`, to be drawn in `language`.
    pub fn new(graph: Graph, language: Language) -> Self {
        let text = match language {
            Language::Dot => to_dot(&graph),
            Language::Mermaid => to_mermaid(&graph),
        };
        GraphView { graph, text }
    }
}

impl View for GraphView {
    const KIND: &'static str = "TopologyGraph";
    fn text(&self, page: &mut Page) {
        page.line(self.text.trim_end());
    }
}
