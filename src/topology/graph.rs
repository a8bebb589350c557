//! A topology as a drawing, in DOT (Graphviz) or Mermaid: bindings, dead letters and alternates, with
//! marks for what a plan would do. Pure; names of the broker cannot break out of their labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::broker::arguments::json_of_field;
use crate::broker::definition::{BindingDefinition, Destination};
use crate::message::FieldValue;

use super::view::TopologyView;

/// What a plan does to a node or edge.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Mark {
    /// It comes.
    Create,
    /// It changes in place.
    Change,
    /// It is deleted and made again.
    Replace,
    /// It goes.
    Delete,
}

impl Mark {
    const fn colour(self) -> &'static str {
        match self {
            Mark::Create => "#1a7f37",
            Mark::Change => "#9a6700",
            Mark::Replace => "#bc4c00",
            Mark::Delete => "#cf222e",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Mark::Create => "new",
            Mark::Change => "changed",
            Mark::Replace => "replaced",
            Mark::Delete => "deleted",
        }
    }
}

/// Which nodes and edges a plan touches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Exchanges by name.
    pub exchanges: BTreeMap<String, Mark>,
    /// Queues by name.
    pub queues: BTreeMap<String, Mark>,
    /// Bindings; those that are not in the view (deleted ones) are drawn as well.
    pub bindings: Vec<(BindingDefinition, Mark)>,
}

/// A drawing as data, before it is written in some language.
#[derive(Clone, Debug, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Graph {
    /// Exchanges and queues.
    pub nodes: Vec<Node>,
    /// Bindings, dead letters, alternates.
    pub edges: Vec<Edge>,
}

/// An exchange or a queue.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Its name; the default exchange shows as `(default)`.
    pub name: String,
    /// Its type, `topic` or `quorum`; empty when it is missing.
    pub detail: String,
    /// What a plan does to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// What a node is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum NodeKind {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// An exchange that something refers to and that does not exist.
    MissingExchange,
    /// A queue that something refers to and that does not exist.
    MissingQueue,
}

/// A way that messages take.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Index of the node it begins at.
    pub from: usize,
    /// Index of the node it leads to.
    pub to: usize,
    /// Why messages take it.
    pub kind: EdgeKind,
    /// The key, the headers or the time.
    pub label: String,
    /// What a plan does to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// Why messages take an edge.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum EdgeKind {
    /// A binding.
    Binding,
    /// They died in the queue.
    DeadLetter,
    /// No binding took them.
    Alternate,
}

/// Draws `view` with `marks`. Exchanges that the broker itself made are drawn only when something
/// refers to them.
pub fn graph(view: &TopologyView, marks: &Marks) -> Graph {
    let mut draw = Draw { view, marks, graph: Graph::default(), index: BTreeMap::new() };
    let mut bindings: Vec<(&BindingDefinition, Option<Mark>)> = view
        .bindings
        .iter()
        .map(|b| (b, marks.bindings.iter().find(|(marked, _)| marked == b).map(|(_, m)| *m)))
        .collect();
    bindings.extend(
        marks
            .bindings
            .iter()
            .filter(|(marked, _)| !view.bindings.contains(marked))
            .map(|(marked, mark)| (marked, Some(*mark))),
    );
    let used: BTreeSet<&str> = bindings
        .iter()
        .flat_map(|(b, _)| {
            let to = match &b.destination {
                Destination::Exchange(exchange) => Some(exchange.as_str()),
                Destination::Queue(_) => None,
            };
            [Some(b.source.as_str()), to].into_iter().flatten()
        })
        .collect();
    for (name, exchange) in &view.exchanges {
        if !exchange.definition.name.is_predeclared() || used.contains(name.as_str()) {
            draw.exchange(name);
        }
    }
    for name in marks.exchanges.keys() {
        draw.exchange(name);
    }
    for name in view.queues.keys().chain(marks.queues.keys()) {
        draw.queue(name);
    }
    for (binding, mark) in bindings {
        let from = draw.exchange(binding.source.as_str());
        let to = match &binding.destination {
            Destination::Queue(queue) => draw.queue(queue.as_str()),
            Destination::Exchange(exchange) => draw.exchange(exchange.as_str()),
        };
        let label = binding_label(binding);
        draw.graph.edges.push(Edge { from, to, kind: EdgeKind::Binding, label, mark });
    }
    for (name, exchange) in &view.exchanges {
        if let Some(alternate) = exchange.effective.alternate() {
            let (from, to) = (draw.exchange(name), draw.exchange(alternate));
            let label = "alternate".to_owned();
            draw.graph.edges.push(Edge { from, to, kind: EdgeKind::Alternate, label, mark: None });
        }
    }
    for (name, queue) in &view.queues {
        let Some(exchange) = queue.effective.dead_letter_exchange() else { continue };
        let mut label = "dead".to_owned();
        if let Some(ms) = queue.effective.message_ttl_ms() {
            let ttl = crate::base::time::HumanDuration::from_ms(ms);
            let _ = write!(label, " after {ttl}");
        }
        let from = draw.queue(name);
        let key = queue.effective.dead_letter_routing_key();
        // The default exchange leads to one queue, which says more than the exchange would.
        let to = match (exchange, key) {
            ("", Some(key)) => draw.queue(key),
            ("", None) => draw.exchange(""),
            (exchange, key) => {
                if let Some(key) = key {
                    let _ = write!(label, " by {key}");
                }
                draw.exchange(exchange)
            }
        };
        draw.graph.edges.push(Edge { from, to, kind: EdgeKind::DeadLetter, label, mark: None });
    }
    draw.graph
}

fn binding_label(binding: &BindingDefinition) -> String {
    let mut label = binding.routing_key.as_str().to_owned();
    if !binding.arguments.is_empty() {
        if !label.is_empty() {
            label.push(' ');
        }
        let arguments = json_of_field(&FieldValue::Table(binding.arguments.clone()));
        label.push_str(&arguments.to_string());
    }
    label
}

struct Draw<'a> {
    view: &'a TopologyView,
    marks: &'a Marks,
    graph: Graph,
    index: BTreeMap<(bool, String), usize>,
}

impl Draw<'_> {
    fn exchange(&mut self, name: &str) -> usize {
        let mark = self.marks.exchanges.get(name).copied();
        let (kind, detail) = match self.view.exchanges.get(name) {
            Some(exchange) => (NodeKind::Exchange, exchange.definition.kind.to_string()),
            None if name.is_empty() => (NodeKind::Exchange, "direct".to_owned()),
            None if mark == Some(Mark::Delete) => (NodeKind::Exchange, String::new()),
            None => (NodeKind::MissingExchange, "missing".to_owned()),
        };
        let shown = if name.is_empty() { "(default)" } else { name };
        self.node((false, name.to_owned()), Node { kind, name: shown.to_owned(), detail, mark })
    }

    fn queue(&mut self, name: &str) -> usize {
        let mark = self.marks.queues.get(name).copied();
        let (kind, detail) = match self.view.queues.get(name) {
            Some(queue) => (NodeKind::Queue, queue.queue_type.to_string()),
            None if mark == Some(Mark::Delete) => (NodeKind::Queue, String::new()),
            None => (NodeKind::MissingQueue, "missing".to_owned()),
        };
        self.node((true, name.to_owned()), Node { kind, name: name.to_owned(), detail, mark })
    }

    fn node(&mut self, key: (bool, String), node: Node) -> usize {
        *self.index.entry(key).or_insert_with(|| {
            self.graph.nodes.push(node);
            self.graph.nodes.len() - 1
        })
    }
}

impl Node {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.name.clone()];
        if !self.detail.is_empty() {
            lines.push(self.detail.clone());
        }
        if let Some(mark) = self.mark {
            lines.push(mark.word().to_owned());
        }
        lines
    }
}

impl Edge {
    fn text(&self) -> String {
        match self.mark {
            Some(mark) if self.label.is_empty() => mark.word().to_owned(),
            Some(mark) => format!("{} ({})", self.label, mark.word()),
            None => self.label.clone(),
        }
    }
}

/// Text between DOT's double quotes.
fn dot_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Text between Mermaid's double quotes: everything that Mermaid or the HTML it makes could read as
/// its own becomes an entity.
fn mermaid_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || " .-_/:,()=@+".contains(c) => out.push(c),
            c if c.is_control() => out.push(' '),
            c => {
                let _ = write!(out, "#{};", u32::from(c));
            }
        }
    }
    out
}

/// The drawing in DOT.
pub fn to_dot(graph: &Graph) -> String {
    let mut out = String::from(
        "digraph topology {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\"];\n",
    );
    for (index, node) in graph.nodes.iter().enumerate() {
        let label: Vec<String> = node.lines().iter().map(|line| dot_escaped(line)).collect();
        let shape = match node.kind {
            NodeKind::Exchange => "shape=ellipse",
            NodeKind::Queue => "shape=box",
            NodeKind::MissingExchange => "shape=ellipse, style=dotted",
            NodeKind::MissingQueue => "shape=box, style=dotted",
        };
        let _ = write!(out, "  n{index} [label=\"{}\", {shape}", label.join("\\n"));
        if let Some(mark) = node.mark {
            let _ = write!(out, ", color=\"{0}\", fontcolor=\"{0}\"", mark.colour());
        }
        out.push_str("];\n");
    }
    for edge in &graph.edges {
        let _ = write!(
            out,
            "  n{} -> n{} [label=\"{}\"",
            edge.from,
            edge.to,
            dot_escaped(&edge.text())
        );
        match edge.kind {
            EdgeKind::Binding => {}
            EdgeKind::DeadLetter => out.push_str(", style=dashed"),
            EdgeKind::Alternate => out.push_str(", style=dotted"),
        }
        if let Some(mark) = edge.mark {
            let _ = write!(out, ", color=\"{0}\", fontcolor=\"{0}\"", mark.colour());
        }
        out.push_str("];\n");
    }
    out.push_str("}\n");
    out
}

/// The drawing in Mermaid.
pub fn to_mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart LR\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        let label: Vec<String> = node.lines().iter().map(|line| mermaid_escaped(line)).collect();
        let label = label.join("<br/>");
        let _ = match node.kind {
            NodeKind::Exchange | NodeKind::MissingExchange => {
                writeln!(out, "  n{index}([\"{label}\"])")
            }
            NodeKind::Queue | NodeKind::MissingQueue => writeln!(out, "  n{index}[\"{label}\"]"),
        };
    }
    for edge in &graph.edges {
        let arrow = match edge.kind {
            EdgeKind::Binding => "-->",
            EdgeKind::DeadLetter | EdgeKind::Alternate => "-.->",
        };
        let label = mermaid_escaped(&edge.text());
        let _ = if label.trim().is_empty() {
            writeln!(out, "  n{} {arrow} n{}", edge.from, edge.to)
        } else {
            writeln!(out, "  n{} {arrow}|\"{label}\"| n{}", edge.from, edge.to)
        };
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Some(mark) = node.mark {
            let _ = writeln!(out, "  style n{index} stroke:{0},color:{0}", mark.colour());
        }
    }
    for (index, edge) in graph.edges.iter().enumerate() {
        if let Some(mark) = edge.mark {
            let _ = writeln!(out, "  linkStyle {index} stroke:{}", mark.colour());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::expand::testing::topology;
    use super::*;
    use crate::broker::version::Version;

    fn drawing(yaml: &str, marks: impl FnOnce(&TopologyView) -> Marks) -> Graph {
        let view = TopologyView::of_topology(&topology(yaml), Version::new(4, 0, 5));
        let marks = marks(&view);
        graph(&view, &marks)
    }

    const FILE: &str = "exchanges:\n  in: {type: topic, alternateExchange: rest}\n  rest: {type: fanout}\nqueues:\n  q: {bind: [{from: in, key: a.#}], messageTtl: 10s, deadLetter: true}\n";

    #[test]
    fn bindings_dead_letters_and_alternates_are_drawn() {
        assert_eq!(
            to_mermaid(&drawing(FILE, |_| Marks::default())),
            "flowchart LR\n  n0([\"dead_letter<br/>direct\"])\n  n1([\"in<br/>topic\"])\n  n2([\"rest<br/>fanout\"])\n  n3[\"dead.q<br/>quorum\"]\n  n4[\"q<br/>quorum\"]\n  n1 -->|\"a.#35;\"| n4\n  n0 -->|\"q\"| n3\n  n1 -.->|\"alternate\"| n2\n  n4 -.->|\"dead after 10s by q\"| n0\n"
        );
        let dot = to_dot(&drawing(FILE, |_| Marks::default()));
        assert!(dot.contains("  n4 [label=\"q\\nquorum\", shape=box];\n"), "{dot}");
        assert!(
            dot.contains("  n4 -> n0 [label=\"dead after 10s by q\", style=dashed];\n"),
            "{dot}"
        );
        assert!(dot.contains("  n1 -> n2 [label=\"alternate\", style=dotted];\n"), "{dot}");
    }

    #[test]
    fn a_plan_colours_what_it_touches_and_draws_what_goes() {
        let marked = drawing(FILE, |view| {
            let mut gone = view.bindings[0].clone();
            gone.destination = Destination::Queue(crate::base::id::QueueName::new("old").unwrap());
            Marks {
                exchanges: [("in".to_owned(), Mark::Change)].into(),
                queues: [("q".to_owned(), Mark::Create), ("old".to_owned(), Mark::Delete)].into(),
                bindings: vec![(view.bindings[0].clone(), Mark::Create), (gone, Mark::Delete)],
            }
        });
        let old = marked.nodes.iter().find(|n| n.name == "old").unwrap();
        assert_eq!((old.kind, old.mark), (NodeKind::Queue, Some(Mark::Delete)));
        let marks: Vec<Option<Mark>> = marked.edges.iter().map(|e| e.mark).collect();
        assert_eq!(marks, [Some(Mark::Create), None, Some(Mark::Delete), None, None]);
        assert!(to_dot(&marked).contains("label=\"a.# (deleted)\", color=\"#cf222e\""));
        assert!(to_mermaid(&marked).contains("linkStyle 2 stroke:#cf222e\n"));
    }

    #[test]
    fn names_cannot_break_out_of_their_labels() {
        let hostile = "a\"]; x -> y [label=\"<script>|`#;";
        let g = drawing(
            &format!(
                "queues: {{'{hostile}': {{bind: [{{from: amq.topic, key: '{hostile}'}}]}}}}\n"
            ),
            |_| Marks::default(),
        );
        let dot = to_dot(&g);
        assert_eq!(dot.lines().count(), 4 + g.nodes.len() + g.edges.len() + 1);
        for line in dot.lines().filter(|line| line.contains("label")) {
            let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
            assert_eq!(quotes, 2, "{line}");
        }
        let mermaid = to_mermaid(&g);
        assert!(!mermaid.contains("<script") && !mermaid.contains("];"), "{mermaid}");
    }

    #[test]
    fn what_is_missing_is_drawn_as_missing() {
        let g = drawing("queues: {q: {deadLetter: {exchange: nope}}}\n", |_| Marks::default());
        assert!(g.nodes.iter().any(|n| n.name == "nope" && n.kind == NodeKind::MissingExchange));
        let g = drawing("queues: {q: {deadLetter: {exchange: '', routingKey: gone}}}\n", |_| {
            Marks::default()
        });
        assert!(g.nodes.iter().any(|n| n.name == "gone" && n.kind == NodeKind::MissingQueue));
    }
}
