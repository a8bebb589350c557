//! What is wrong with a topology before any broker sees it: RabbitMQ's own rules for a version, and
//! what is legal and loses messages all the same.
//!
//! One function per rule; each code is explained by `nexusctl explain CODE`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde::Serialize;

use crate::base::diagnostic::{Code, Diagnostic, Findings, Severity, Span};
use crate::base::id::exchange_in_words;
use crate::base::suggest::nearest;
use crate::broker::arguments::{
    ArgumentProblem, ProblemKind, check_binding, check_exchange, check_policy,
    check_queue_arguments,
};
use crate::broker::definition::{Destination, ExchangeKind, QueueType};
use crate::broker::effective::{DeadLetterStrategy, Overflow, Source, applies_to, compile_pattern};
use crate::broker::routing::RoutingTable;
use crate::broker::snapshot::Permissions;
use crate::broker::version::{Capabilities, Version};

use super::expand::LOOKS_WITHOUT_LOSS;
use super::expand::{exchange_object, policy_object, queue_object};
use super::model::{Desired, Origin, Topology};
use super::view::{TopologyView, ViewQueue};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)*) => {
        $($(#[doc = $doc])+ pub const $name: Code = Code($code);)*

        /// Every rule of this file with what it finds.
        pub const RULES: &[(Code, &str)] = &[$(($name, concat!($($doc),+))),*];
    };
}

codes! {
    /// An argument that queues of this type refuse.
    ARGUMENT_OF_OTHER_TYPE = "topology/argument-of-other-type";
    /// A value of the wrong type.
    ARGUMENT_TYPE = "topology/argument-type";
    /// A value that is not allowed.
    ARGUMENT_RANGE = "topology/argument-range";
    /// Something the target version no longer takes.
    REMOVED = "topology/removed";
    /// Something the target version does not know yet.
    NOT_YET = "topology/not-yet";
    /// An argument, key or type that nobody knows; most often a slip.
    UNKNOWN = "topology/unknown-argument";
    /// Something that needs another beside it.
    NEEDS_ANOTHER = "topology/needs-another";
    /// Durable, exclusive or auto-delete does not go with the queue's type.
    PROPERTY = "topology/property";
    /// Something that is taken and does nothing.
    NO_EFFECT = "topology/no-effect";
    /// Something that is taken and does something else than it says.
    TREACHEROUS = "topology/treacherous";
    /// A regular expression that cannot be read.
    PATTERN = "topology/pattern";
    /// A name the broker keeps for itself.
    RESERVED_NAME = "topology/reserved-name";
    /// A name that the file's own rule forbids.
    NAMING = "topology/naming";
    /// A binding refers to an exchange that is not there.
    UNKNOWN_EXCHANGE = "topology/unknown-exchange";
    /// A binding refers to a queue that is not there.
    UNKNOWN_QUEUE = "topology/unknown-queue";
    /// The default exchange cannot be bound.
    DEFAULT_EXCHANGE_BINDING = "topology/default-exchange-binding";
    /// Dead letters go to an exchange that is not there: they vanish.
    UNKNOWN_DEAD_LETTER_EXCHANGE = "topology/unknown-dead-letter-exchange";
    /// Dead letters reach an exchange that hands them to nobody: they vanish.
    LOST_DEAD_LETTERS = "topology/lost-dead-letters";
    /// An alternate exchange that is not there.
    UNKNOWN_ALTERNATE = "topology/unknown-alternate-exchange";
    /// Alternate exchanges lead back to where they began.
    ALTERNATE_CYCLE = "topology/alternate-cycle";
    /// Messages expire round a circle of queues; the broker drops them when they come back.
    TTL_LOOP_DROPS = "topology/ttl-loop-drops";
    /// Rejected messages go round a circle of queues without end.
    ENDLESS_LOOP = "topology/endless-loop";
    /// An exchange that hands messages to nobody.
    DEAD_END = "topology/dead-end";
    /// An internal exchange that nothing leads to.
    UNREACHABLE_EXCHANGE = "topology/unreachable-exchange";
    /// A queue that only the default exchange leads to.
    UNBOUND_QUEUE = "topology/unbound-queue";
    /// Dead letters go to a stream, which loses them before 3.12.
    STREAM_DEAD_LETTERS = "topology/stream-dead-letters";
    /// At-least-once dead-lettering that falls back to at-most-once.
    AT_LEAST_ONCE = "topology/at-least-once";
    /// A queue that keeps nothing.
    MAX_LENGTH_ZERO = "topology/max-length-zero";
    /// Policies of equal priority match the same object: which one applies is chance.
    POLICY_OVERLAP = "topology/policy-overlap";
    /// A policy is skipped for a queue because of a key that its type does not know.
    POLICY_SKIPPED = "topology/policy-skipped";
    /// A policy that matches nothing of this topology.
    POLICY_UNUSED = "topology/policy-unused";
    /// A policy's pattern matches more names than it seems to.
    UNANCHORED_PATTERN = "topology/unanchored-pattern";
    /// Dead letters expire where they were collected.
    DEAD_LETTERS_EXPIRE = "topology/dead-letters-expire";
    /// Dead letters push each other out of the queue that collects them.
    DEAD_LETTERS_OVERFLOW = "topology/dead-letters-overflow";
    /// Messages are dropped when they came back too often.
    DELIVERY_LIMIT_DROPS = "topology/delivery-limit-drops";
    /// More queues than the vhost may hold.
    VHOST_LIMIT = "topology/vhost-limit";
    /// Bindings of an exchange that does not survive a restart.
    TRANSIENT_EXCHANGE = "topology/transient-exchange";
    /// A queue that goes away with its messages.
    EXPIRING_QUEUE = "topology/expiring-queue";
    /// More priorities than a queue handles well.
    MANY_PRIORITIES = "topology/many-priorities";
    /// The login may not do what the topology needs.
    PERMISSION = "topology/permission";
}

/// The versions that `--target` knows by name.
pub const TARGETS: &[Version] =
    &[Version::new(3, 10, 0), Version::new(3, 13, 0), Version::new(4, 0, 0), Version::new(4, 3, 0)];

/// Everything that is wrong or unwise about `topology` on RabbitMQ `target`, in the order of the file.
pub fn validate(topology: &Topology, target: Version) -> Findings {
    let view = TopologyView::of_topology(topology, target);
    let routing = view.routing();
    let mut lint = Lint {
        topology,
        view: &view,
        routing: &routing,
        target,
        findings: Findings::default(),
        dead_letters: BTreeMap::new(),
        keys: BTreeMap::new(),
        collects: BTreeMap::new(),
    };
    lint.find_dead_letters();
    lint.names();
    lint.definitions();
    lint.bindings();
    lint.alternates();
    lint.dead_letter_places();
    lint.loops();
    lint.reach();
    lint.queues();
    lint.policies();
    lint.vhost();
    let mut findings = lint.findings;
    findings.sort();
    findings
}

struct Lint<'a> {
    topology: &'a Topology,
    view: &'a TopologyView,
    routing: &'a RoutingTable,
    target: Version,
    findings: Findings,
    /// Where each queue's dead letters certainly or possibly go.
    dead_letters: BTreeMap<String, Vec<String>>,
    /// Keys without wildcards by which each queue is bound.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// Queues whose dead letters end in another, by that other.
    collects: BTreeMap<String, Vec<String>>,
}

fn code_of(kind: &ProblemKind) -> Code {
    match kind {
        ProblemKind::OtherType => ARGUMENT_OF_OTHER_TYPE,
        ProblemKind::WrongType => ARGUMENT_TYPE,
        ProblemKind::OutOfRange => ARGUMENT_RANGE,
        ProblemKind::Removed => REMOVED,
        ProblemKind::NotYet => NOT_YET,
        ProblemKind::Unknown => UNKNOWN,
        ProblemKind::Incomplete => NEEDS_ANOTHER,
        ProblemKind::Property => PROPERTY,
        ProblemKind::NoEffect => NO_EFFECT,
        ProblemKind::Treacherous => TREACHEROUS,
        ProblemKind::Pattern => PATTERN,
    }
}

/// A finding with the object's own place, and what made the object when nobody wrote it.
fn at(origin: &Origin, span: Option<&Span>, mut finding: Diagnostic) -> Diagnostic {
    if let Some(sugar) = &origin.expanded_from {
        finding.message.push_str(&format!(" (made by {sugar})"));
    }
    finding.at(span.or(origin.span.as_ref()).cloned())
}

fn hinted(finding: Diagnostic, hint: Option<String>) -> Diagnostic {
    match hint {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Lint<'_> {
    fn push(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    fn problem(&mut self, object: &str, origin: &Origin, problem: ArgumentProblem) {
        let make = match problem.severity {
            Severity::Error => Diagnostic::error,
            Severity::Warning => Diagnostic::warning,
            Severity::Note => Diagnostic::note,
        };
        let finding = make(code_of(&problem.kind), format!("{object}: {}", problem.message));
        let span = self.topology.places.get(object, &problem.argument);
        self.push(at(origin, span, hinted(finding, problem.hint)));
    }

    fn queue(&self, name: &str) -> Option<&ViewQueue> {
        self.view.queues.get(name)
    }

    /// Keys that messages in `queue` can carry: its own name, and those of its plain bindings.
    fn keys_of(&self, queue: &str) -> Vec<String> {
        let mut keys = vec![queue.to_owned()];
        keys.extend(self.keys.get(queue).cloned().unwrap_or_default());
        keys
    }

    fn find_dead_letters(&mut self) {
        for binding in &self.view.bindings {
            let key = binding.routing_key.as_str();
            let Destination::Queue(queue) = &binding.destination else { continue };
            if !key.split('.').any(|word| word == "#" || word == "*") {
                self.keys.entry(queue.as_str().to_owned()).or_default().insert(key.to_owned());
            }
        }
        for (name, queue) in &self.view.queues {
            let keys = self.keys_of(name);
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            if let Some(targets) = self.view.dead_letter_targets(self.routing, queue, &keys) {
                let targets: Vec<String> =
                    targets.iter().map(|target| target.as_str().to_owned()).collect();
                for target in targets.iter().filter(|target| *target != name) {
                    self.collects.entry(target.clone()).or_default().push(name.clone());
                }
                self.dead_letters.insert(name.clone(), targets);
            }
        }
    }

    fn names(&mut self) {
        let topology = self.topology;
        let named: Vec<(String, String, &Origin, Option<&Desired<String>>)> = topology
            .exchanges
            .iter()
            .map(|e| {
                let name = e.definition.name.as_str();
                (
                    exchange_object(name),
                    name.to_owned(),
                    &e.origin,
                    topology.naming.exchanges.as_ref(),
                )
            })
            .chain(topology.queues.iter().map(|q| {
                let name = q.definition.name.as_str();
                (queue_object(name), name.to_owned(), &q.origin, topology.naming.queues.as_ref())
            }))
            .chain(
                [(&topology.policies, false), (&topology.operator_policies, true)]
                    .into_iter()
                    .flat_map(|(policies, operator)| {
                        policies.iter().map(move |p| {
                            let name = p.definition.name.as_str();
                            (
                                policy_object(name, operator),
                                name.to_owned(),
                                &p.origin,
                                topology.naming.policies.as_ref(),
                            )
                        })
                    }),
            )
            .collect();
        for (object, name, origin, rule) in named {
            let policy = object.contains("policy `");
            if !policy && (name.is_empty() || name.starts_with("amq.")) {
                let message = if name.is_empty() {
                    "the default exchange cannot be declared".to_owned()
                } else {
                    format!("{object}: names that begin with `amq.` belong to the broker")
                };
                self.push(at(
                    origin,
                    None,
                    Diagnostic::error(RESERVED_NAME, message)
                        .hint("bindings may refer to it without its being declared"),
                ));
            }
            let Some(rule) = rule else { continue };
            let Ok(pattern) = Regex::new(&format!("^(?:{})$", rule.definition)) else { continue };
            if !pattern.is_match(&name) {
                self.push(at(
                    origin,
                    None,
                    Diagnostic::error(
                        NAMING,
                        format!("{object} does not match the naming rule `{}`", rule.definition),
                    ),
                ));
            }
        }
        let naming = &topology.naming;
        for rule in [&naming.exchanges, &naming.queues, &naming.policies].into_iter().flatten() {
            if let Err(error) = Regex::new(&format!("^(?:{})$", rule.definition)) {
                let why = error.to_string().lines().last().unwrap_or_default().to_owned();
                self.push(at(
                    &rule.origin,
                    None,
                    Diagnostic::error(
                        PATTERN,
                        format!("the naming rule `{}` cannot be read: {why}", rule.definition),
                    ),
                ));
            }
        }
    }

    fn definitions(&mut self) {
        let topology = self.topology;
        for exchange in &topology.exchanges {
            let object = exchange_object(exchange.definition.name.as_str());
            for problem in check_exchange(&exchange.definition) {
                self.problem(&object, &exchange.origin, problem);
            }
        }
        for queue in &topology.queues {
            let name = queue.definition.name.as_str();
            let Some(queue_type) = self.queue(name).map(|q| q.queue_type) else { continue };
            let object = queue_object(name);
            for problem in check_queue_arguments(&queue.definition, queue_type, self.target) {
                self.problem(&object, &queue.origin, problem);
            }
        }
        for (policies, operator) in
            [(&topology.policies, false), (&topology.operator_policies, true)]
        {
            for policy in policies {
                let object = policy_object(policy.definition.name.as_str(), operator);
                for problem in check_policy(&policy.definition, operator, self.target) {
                    self.problem(&object, &policy.origin, problem);
                }
            }
        }
    }

    fn bindings(&mut self) {
        let topology = self.topology;
        for binding in &topology.bindings {
            let definition = &binding.definition;
            let to_default =
                matches!(&definition.destination, Destination::Exchange(e) if e.is_default());
            if definition.source.is_default() || to_default {
                self.push(at(
                    &binding.origin,
                    None,
                    Diagnostic::error(
                        DEFAULT_EXCHANGE_BINDING,
                        "the default exchange cannot be bound: it leads to every queue by its name",
                    )
                    .hint("publish to it with the queue's name as key, or bind another exchange"),
                ));
                continue;
            }
            let source = definition.source.as_str();
            self.known_exchange(source, &binding.origin);
            match &definition.destination {
                Destination::Exchange(exchange) => {
                    self.known_exchange(exchange.as_str(), &binding.origin);
                }
                Destination::Queue(queue) if self.queue(queue.as_str()).is_none() => {
                    let known = self.view.queues.keys().map(String::as_str);
                    let hint = match nearest(queue.as_str(), known) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => {
                            "declare it; with `external: true` when it is somebody else's".into()
                        }
                    };
                    self.push(at(
                        &binding.origin,
                        None,
                        Diagnostic::error(
                            UNKNOWN_QUEUE,
                            format!("a binding leads to queue `{queue}`, which is not declared"),
                        )
                        .hint(hint),
                    ));
                }
                Destination::Queue(_) => {}
            }
            let Some(exchange) = self.view.exchanges.get(source) else { continue };
            let kind = exchange.definition.kind.clone();
            let object = format!("binding of {} to `{source}`", definition.destination);
            for problem in check_binding(definition, &kind, self.target) {
                self.problem(&object, &binding.origin, problem);
            }
        }
    }

    fn known_exchange(&mut self, name: &str, origin: &Origin) {
        if self.view.has_exchange(name) {
            return;
        }
        let hint = match nearest(name, self.view.exchanges.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "declare it; with `external: true` when it is somebody else's".to_owned(),
        };
        self.push(at(
            origin,
            None,
            Diagnostic::error(
                UNKNOWN_EXCHANGE,
                format!("a binding refers to exchange `{name}`, which is not declared"),
            )
            .hint(hint),
        ));
    }

    fn alternates(&mut self) {
        let topology = self.topology;
        for exchange in &topology.exchanges {
            let name = exchange.definition.name.as_str();
            let object = exchange_object(name);
            let place = topology.places.get(&object, "alternate-exchange");
            let alternate_of =
                |name: &str| self.view.exchanges.get(name).and_then(|e| e.effective.alternate());
            let Some(first) = alternate_of(name) else { continue };
            if !self.view.has_exchange(first) {
                let hint = nearest(first, self.view.exchanges.keys().map(String::as_str))
                    .map_or_else(
                        || {
                            "declare it; with `external: true` when it is somebody else's"
                                .to_owned()
                        },
                        |meant| format!("did you mean `{meant}`?"),
                    );
                let finding = Diagnostic::warning(
                    UNKNOWN_ALTERNATE,
                    format!("{object}: its alternate exchange `{first}` is not declared"),
                )
                .hint(hint);
                self.push(at(&exchange.origin, place, finding));
                continue;
            }
            let mut path = vec![name];
            let mut next = Some(first);
            while let Some(current) = next {
                if current == name {
                    path.push(current);
                    let finding = Diagnostic::warning(
                        ALTERNATE_CYCLE,
                        format!("alternate exchanges lead in a circle: {}", path.join(" → ")),
                    )
                    .hint("a message that none of them takes is unroutable; end the chain in a fanout with a queue");
                    self.push(at(&exchange.origin, place, finding));
                    break;
                }
                if path.contains(&current) {
                    break;
                }
                path.push(current);
                next = alternate_of(current);
            }
        }
    }

    fn dead_letter_places(&mut self) {
        let topology = self.topology;
        for queue in &topology.queues {
            let name = queue.definition.name.as_str();
            let object = queue_object(name);
            let Some(view) = self.queue(name) else { continue };
            let Some(setting) = view.effective.setting("dead-letter-exchange").cloned() else {
                continue;
            };
            let Some(exchange) = view.effective.dead_letter_exchange().map(str::to_owned) else {
                continue;
            };
            let key = view.effective.dead_letter_routing_key().map(str::to_owned);
            let strategy = view.effective.dead_letter_strategy();
            let by = match &setting.source {
                Source::Argument => String::new(),
                other => format!(" (by {other})"),
            };
            let place = topology.places.get(&object, "x-dead-letter-exchange").cloned();
            if !self.view.has_exchange(&exchange) {
                let hint = nearest(&exchange, self.view.exchanges.keys().map(String::as_str))
                    .map_or_else(
                        || {
                            "declare it; with `external: true` when it is somebody else's"
                                .to_owned()
                        },
                        |meant| format!("did you mean `{meant}`?"),
                    );
                self.push(at(
                    &queue.origin,
                    place.as_ref(),
                    Diagnostic::error(
                        UNKNOWN_DEAD_LETTER_EXCHANGE,
                        format!(
                            "{object} dead-letters to exchange `{exchange}`{by}, which is not \
                             declared: its dead letters vanish"
                        ),
                    )
                    .hint(hint),
                ));
                continue;
            }
            self.lost_dead_letters(queue, &exchange, key.as_deref(), place.as_ref());
            let targets = self.dead_letters.get(name).cloned().unwrap_or_default();
            let streams: Vec<&str> = targets
                .iter()
                .filter(|target| {
                    self.queue(target).is_some_and(|q| q.queue_type == QueueType::Stream)
                })
                .map(String::as_str)
                .collect();
            if !streams.is_empty()
                && !Capabilities::of(self.target).stream_takes_dead_letters
                && strategy == DeadLetterStrategy::AtMostOnce
            {
                let finding = Diagnostic::error(
                    STREAM_DEAD_LETTERS,
                    format!(
                        "{object} dead-letters to the stream {}; {} loses such dead letters",
                        quoted(streams),
                        self.target
                    ),
                )
                .hint("collect them in a queue, or use deadLetterStrategy: at-least-once");
                self.push(at(&queue.origin, place.as_ref(), finding));
            }
        }
    }

    fn lost_dead_letters(
        &mut self,
        queue: &Desired<crate::broker::definition::QueueDefinition>,
        exchange: &str,
        key: Option<&str>,
        place: Option<&Span>,
    ) {
        let name = queue.definition.name.as_str();
        let object = queue_object(name);
        let kind =
            self.view.exchanges.get(exchange).map(|e| (e.definition.kind.clone(), e.external));
        // What headers a dead letter carries, and what somebody else bound, is not known here.
        if matches!(kind, Some((ExchangeKind::Other(_), _) | (_, true))) {
            return;
        }
        let bound = self.view.bindings.iter().any(|b| b.source.as_str() == exchange);
        let has_alternate =
            self.view.exchanges.get(exchange).is_some_and(|e| e.effective.alternate().is_some());
        if matches!(kind, Some((ExchangeKind::Headers, _))) && (bound || has_alternate) {
            return;
        }
        if self.dead_letters.get(name).is_some_and(|targets| !targets.is_empty()) {
            return;
        }
        let certain = key.is_some() || (!bound && !has_alternate);
        // Keys that come through wildcards are not known: only a warning then.
        let message = match key {
            Some(key) => format!(
                "{object}: no queue takes its dead letters from {} by the key `{key}`: they vanish",
                exchange_in_words(exchange)
            ),
            None if !bound && !has_alternate && !exchange.is_empty() => format!(
                "{object}: nothing is bound to its dead-letter exchange `{exchange}`: its dead \
                 letters vanish"
            ),
            None => format!(
                "{object}: dead letters keep their own key, and {} takes none of the keys known here: {}",
                exchange_in_words(exchange),
                quoted(self.keys_of(name).iter().map(String::as_str))
            ),
        };
        let finding = if certain {
            Diagnostic::error(LOST_DEAD_LETTERS, message)
        } else {
            Diagnostic::warning(LOST_DEAD_LETTERS, message)
        };
        self.push(at(
            &queue.origin,
            place,
            finding.hint("bind a queue to it by that key, or write `deadLetter: true`"),
        ));
    }

    /// Circles among dead-letter paths.
    fn loops(&mut self) {
        let topology = self.topology;
        let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
        for queue in &topology.queues {
            let name = queue.definition.name.as_str();
            let Some(circle) = self.circle_through(name) else { continue };
            let mut members = circle.clone();
            members.sort();
            if !seen.insert(members) {
                continue;
            }
            let expires = |name: &String| {
                self.queue(name).is_some_and(|q| q.effective.message_ttl_ms().is_some())
            };
            let shown =
                circle.iter().chain(circle.first()).cloned().collect::<Vec<_>>().join(" → ");
            let object = queue_object(name);
            let place = topology.places.get(&object, "x-dead-letter-exchange");
            let finding = if circle.iter().all(expires) {
                Diagnostic::error(
                    TTL_LOOP_DROPS,
                    format!("messages expire in a circle, {shown}: the broker drops them when they come back"),
                )
                .hint("a circle goes on only when a consumer rejects on the way; end it in a queue without TTL")
            } else {
                Diagnostic::warning(
                    ENDLESS_LOOP,
                    format!("a message that is always rejected goes round without end: {shown}"),
                )
                .hint("count its returns in the worker, or use `retry`, whose last resort are the dead letters")
            };
            self.push(at(&queue.origin, place, finding));
        }
    }

    /// The shortest way along dead letters from `name` back to it.
    fn circle_through(&self, name: &str) -> Option<Vec<String>> {
        let mut reached: BTreeMap<&str, &str> = BTreeMap::new();
        let mut waiting = std::collections::VecDeque::from([name]);
        while let Some(current) = waiting.pop_front() {
            for target in self.dead_letters.get(current).into_iter().flatten() {
                if target == name {
                    let mut path = vec![current.to_owned()];
                    let mut step = current;
                    while step != name {
                        step = reached.get(step)?;
                        path.push(step.to_owned());
                    }
                    path.reverse();
                    return Some(path);
                }
                if !reached.contains_key(target.as_str()) {
                    reached.insert(target, current);
                    waiting.push_back(target);
                }
            }
        }
        None
    }

    fn reach(&mut self) {
        let topology = self.topology;
        let leads: BTreeSet<&str> = self.view.bindings.iter().map(|b| b.source.as_str()).collect();
        let reached: BTreeSet<String> = self
            .view
            .bindings
            .iter()
            .map(|b| match &b.destination {
                Destination::Queue(queue) => queue_object(queue.as_str()),
                Destination::Exchange(exchange) => exchange_object(exchange.as_str()),
            })
            .chain(
                self.view
                    .exchanges
                    .values()
                    .filter_map(|e| e.effective.alternate().map(exchange_object)),
            )
            .chain(
                self.view
                    .queues
                    .values()
                    .filter_map(|q| q.effective.dead_letter_exchange().map(exchange_object)),
            )
            .chain(self.dead_letters.values().flatten().map(|queue| queue_object(queue)))
            .collect();
        for exchange in &topology.exchanges {
            let name = exchange.definition.name.as_str();
            let object = exchange_object(name);
            let Some(view) = self.view.exchanges.get(name) else { continue };
            let alternate = view.effective.alternate().is_some();
            if !leads.contains(name) && !alternate {
                self.push(at(
                    &exchange.origin,
                    None,
                    Diagnostic::note(
                        DEAD_END,
                        format!(
                            "{object} hands messages to nobody: each comes back to its publisher"
                        ),
                    )
                    .hint("bind a queue to it"),
                ));
            }
            if exchange.definition.internal && !reached.contains(&object) {
                self.push(at(
                    &exchange.origin,
                    None,
                    Diagnostic::warning(
                        UNREACHABLE_EXCHANGE,
                        format!("{object} is internal and nothing leads to it"),
                    ),
                ));
            }
            if !exchange.definition.durable && leads.contains(name) {
                self.push(at(
                    &exchange.origin,
                    topology.places.get(&object, "durable"),
                    Diagnostic::warning(
                        TRANSIENT_EXCHANGE,
                        format!("{object} and its bindings do not survive a restart of the broker"),
                    )
                    .hint("make it durable"),
                ));
            }
        }
        for queue in &topology.queues {
            let object = queue_object(queue.definition.name.as_str());
            if !reached.contains(&object) {
                self.push(at(
                    &queue.origin,
                    None,
                    Diagnostic::note(
                        UNBOUND_QUEUE,
                        format!("{object} is bound to no exchange: only the default exchange leads to it"),
                    ),
                ));
            }
        }
    }

    fn queues(&mut self) {
        for queue in &self.topology.queues {
            let name = queue.definition.name.as_str();
            let Some(view) = self.queue(name) else { continue };
            let effective = view.effective.clone();
            let object = queue_object(name);
            let say = |lint: &mut Self, setting: &str, finding: Diagnostic| {
                let place = lint.topology.places.get(&object, setting);
                lint.push(at(&queue.origin, place, finding));
            };
            if effective.max_length() == Some(0) || effective.max_length_bytes() == Some(0) {
                say(
                    self,
                    "x-max-length",
                    Diagnostic::warning(
                        MAX_LENGTH_ZERO,
                        format!("{object} keeps nothing: its maximum length is 0"),
                    ),
                );
            }
            if effective.setting("dead-letter-strategy").and_then(|s| s.value.as_text())
                == Some("at-least-once")
                && effective.dead_letter_strategy() == DeadLetterStrategy::AtMostOnce
            {
                let needs = if effective.dead_letter_exchange().is_none() {
                    "a dead-letter exchange"
                } else {
                    "`overflow: reject-publish`"
                };
                say(
                    self,
                    "x-dead-letter-strategy",
                    Diagnostic::warning(
                        AT_LEAST_ONCE,
                        format!(
                            "{object}: at-least-once needs {needs}; without it the broker silently falls back to at-most-once"
                        ),
                    ),
                );
            }
            let collects = self.collects.get(name).cloned().unwrap_or_default();
            if !collects.is_empty() && effective.dead_letter_exchange().is_none() {
                let from = quoted(collects.iter().map(String::as_str));
                if effective.message_ttl_ms().is_some() {
                    say(
                        self,
                        "x-message-ttl",
                        Diagnostic::warning(
                            DEAD_LETTERS_EXPIRE,
                            format!(
                                "{object} collects the dead letters of {from} and lets them expire"
                            ),
                        )
                        .hint("take the time to live away, or somebody will look for them in vain"),
                    );
                }
                let bounded =
                    effective.max_length().is_some() || effective.max_length_bytes().is_some();
                if bounded && effective.overflow() == Overflow::DropHead {
                    say(
                        self,
                        "x-max-length",
                        Diagnostic::warning(
                            DEAD_LETTERS_OVERFLOW,
                            format!("{object} collects the dead letters of {from} and drops the oldest when it is full"),
                        )
                        .hint("holding its messages to look at them loses them when others arrive"),
                    );
                }
            }
            self.delivery_limit(name, &object, queue, &collects, &effective);
            if effective.expires_ms().is_some() && queue.definition.durable {
                say(
                    self,
                    "x-expires",
                    Diagnostic::note(
                        EXPIRING_QUEUE,
                        format!(
                            "{object} goes away with its messages when nobody uses it; they are not dead-lettered"
                        ),
                    ),
                );
            }
            if effective.max_priority().is_some_and(|max| max > 10) {
                say(
                    self,
                    "x-max-priority",
                    Diagnostic::note(
                        MANY_PRIORITIES,
                        format!(
                            "{object}: each priority is a queue of its own inside; up to 10 is wise"
                        ),
                    ),
                );
            }
        }
    }

    fn delivery_limit(
        &mut self,
        name: &str,
        object: &str,
        queue: &Desired<crate::broker::definition::QueueDefinition>,
        collects: &[String],
        effective: &crate::broker::effective::EffectiveQueue,
    ) {
        let Some(limit) = effective.delivery_limit() else { return };
        if effective.queue_type != QueueType::Quorum || effective.dead_letter_exchange().is_some() {
            return;
        }
        if i64::from(limit) >= LOOKS_WITHOUT_LOSS {
            return;
        }
        let said =
            effective.setting("delivery-limit").is_some_and(|s| s.source != Source::BrokerDefault);
        let finding = if !said && !collects.is_empty() {
            Diagnostic::note(
                DELIVERY_LIMIT_DROPS,
                format!("{object} collects dead letters and drops each after {limit} returns: looking at them without acknowledging costs one"),
            )
            .hint(format!("`deliveryLimit: {LOOKS_WITHOUT_LOSS}` keeps them on every version; -1 would lose them before 4.0"))
        } else if said {
            Diagnostic::warning(
                DELIVERY_LIMIT_DROPS,
                format!(
                    "{object} has no dead-letter exchange: a message is gone after {limit} returns"
                ),
            )
            .hint("add `deadLetter: true`")
        } else {
            Diagnostic::note(
                DELIVERY_LIMIT_DROPS,
                format!("{object} has no dead-letter exchange: a message is gone after {limit} returns, the broker's default"),
            )
            .hint("add `deadLetter: true`")
        };
        let place = self.topology.places.get(&queue_object(name), "x-delivery-limit");
        self.push(at(&queue.origin, place, finding));
    }

    fn policies(&mut self) {
        let topology = self.topology;
        let mut overlaps: BTreeMap<(bool, Vec<String>), Vec<String>> = BTreeMap::new();
        let mut skips: BTreeMap<(bool, String), (Vec<String>, Vec<String>)> = BTreeMap::new();
        for (name, queue) in &self.view.queues {
            for ambiguity in &queue.effective.ambiguities {
                let names = ambiguity.names.iter().map(|n| n.as_str().to_owned()).collect();
                overlaps.entry((ambiguity.operator, names)).or_default().push(queue_object(name));
            }
            for skipped in &queue.effective.skipped {
                let entry =
                    skips.entry((skipped.operator, skipped.name.as_str().to_owned())).or_default();
                entry.0.push(name.clone());
                entry.1.extend(skipped.keys.iter().cloned());
            }
        }
        for (name, exchange) in &self.view.exchanges {
            if let Some(ambiguity) = &exchange.effective.ambiguity {
                let names = ambiguity.names.iter().map(|n| n.as_str().to_owned()).collect();
                overlaps.entry((false, names)).or_default().push(exchange_object(name));
            }
        }
        let find = |operator: bool, name: &str| {
            let list = if operator { &topology.operator_policies } else { &topology.policies };
            list.iter().find(|p| p.definition.name.as_str() == name)
        };
        for ((operator, names), objects) in overlaps {
            let Some(policy) = names.last().and_then(|name| find(operator, name)) else { continue };
            let what = if operator { "operator policies" } else { "policies" };
            self.push(at(
                &policy.origin,
                None,
                Diagnostic::error(
                    POLICY_OVERLAP,
                    format!(
                        "{what} {} have the same priority and all match {}: which one applies is chance",
                        quoted(names.iter().map(String::as_str)),
                        few(&objects)
                    ),
                )
                .hint("give them different priorities, or patterns that do not overlap"),
            ));
        }
        for ((operator, name), (queues, mut keys)) in skips {
            let Some(policy) = find(operator, &name) else { continue };
            keys.sort();
            keys.dedup();
            let queues: Vec<String> = queues.iter().map(|name| queue_object(name)).collect();
            self.push(at(
                &policy.origin,
                None,
                Diagnostic::warning(
                    POLICY_SKIPPED,
                    format!(
                        "{} does not apply to {} at all: queues of that type do not know {}",
                        policy_object(&name, operator),
                        few(&queues),
                        quoted(keys.iter().map(String::as_str))
                    ),
                )
                .hint("split it by queue type"),
            ));
        }
        for (policies, operator) in
            [(&topology.policies, false), (&topology.operator_policies, true)]
        {
            for policy in policies {
                self.pattern(policy, operator);
            }
        }
    }

    fn pattern(
        &mut self,
        policy: &Desired<crate::broker::definition::PolicyDefinition>,
        operator: bool,
    ) {
        let definition = &policy.definition;
        let object = policy_object(definition.name.as_str(), operator);
        let place = self.topology.places.get(&object, "pattern").cloned();
        let Ok(pattern) = compile_pattern(&definition.pattern) else { return };
        let text = definition.pattern.as_str();
        if !matches!(text, "" | ".*" | ".+") {
            if !text.starts_with('^') && !text.starts_with("(?") && !text.starts_with(".*") {
                self.push(at(
                    &policy.origin,
                    place.as_ref(),
                    Diagnostic::warning(
                        UNANCHORED_PATTERN,
                        format!("{object}: `{text}` matches anywhere in a name"),
                    )
                    .hint(format!("write `^{text}$`, or `.*` in front when that is meant")),
                ));
            } else if text.starts_with('^') && !text.ends_with('$') && !ends_open(text) {
                self.push(at(
                    &policy.origin,
                    place.as_ref(),
                    Diagnostic::note(
                        UNANCHORED_PATTERN,
                        format!("{object}: `{text}` matches every name that begins so"),
                    )
                    .hint(format!("write `{text}$` when only that name is meant")),
                ));
            }
        }
        let queues = self.view.queues.iter().any(|(name, queue)| {
            applies_to(definition.apply_to, Some(queue.queue_type))
                && pattern.is_match(name.as_bytes())
        });
        let exchanges =
            self.view.exchanges.keys().any(|name| {
                applies_to(definition.apply_to, None) && pattern.is_match(name.as_bytes())
            });
        if !queues && !exchanges {
            self.push(at(
                &policy.origin,
                place.as_ref(),
                Diagnostic::note(
                    POLICY_UNUSED,
                    format!("{object} matches nothing that this topology declares"),
                ),
            ));
        }
    }

    fn vhost(&mut self) {
        let topology = self.topology;
        if let Some(kind) = &topology.default_queue_type
            && !Capabilities::of(self.target).default_queue_type
        {
            self.push(at(
                &kind.origin,
                None,
                Diagnostic::error(
                    NOT_YET,
                    format!("a vhost has no default queue type before 3.11 ({})", self.target),
                )
                .hint("give each queue its `type`"),
            ));
        }
        for (name, limit) in &topology.limits {
            if limit.definition < -1 {
                self.push(at(
                    &limit.origin,
                    None,
                    Diagnostic::error(
                        VHOST_LIMIT,
                        format!("the limit `{name}` is {}", limit.definition),
                    )
                    .hint("use 0 or more; -1 lifts the limit"),
                ));
            }
            let queues = i64::try_from(self.view.queues.len()).unwrap_or(i64::MAX);
            if name == "max-queues" && (0..queues).contains(&limit.definition) {
                self.push(at(
                    &limit.origin,
                    None,
                    Diagnostic::error(
                        VHOST_LIMIT,
                        format!(
                            "the topology has {queues} queues and the vhost may hold {}",
                            limit.definition
                        ),
                    ),
                ));
            }
        }
    }
}

/// Whether a pattern ends in a way that says "and so on".
fn ends_open(text: &str) -> bool {
    text.ends_with(".*") || text.ends_with("\\.") || text.ends_with(".+") || text.ends_with(')')
}

fn few(objects: &[String]) -> String {
    match objects {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [one, rest @ ..] => format!("{one} and {} others", rest.len()),
    }
}

/// What a login needs on one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionNeed {
    /// ``queue `orders` ``.
    pub object: String,
    /// The name that the regular expressions of a permission are matched with.
    pub name: String,
    /// To declare or delete it.
    pub configure: bool,
    /// To publish to it or bind it.
    pub write: bool,
    /// To consume from it, purge it or bind from it.
    pub read: bool,
    /// What for, once each.
    pub why: Vec<String>,
}

/// What a login needs to apply `topology`, by object. Policies and limits need a user tag
/// (`policymaker`, `administrator`) and stand for themselves.
pub fn permissions_needed(topology: &Topology) -> Vec<PermissionNeed> {
    let mut needs: BTreeMap<String, PermissionNeed> = BTreeMap::new();
    let mut need = |object: String, name: &str, access: [bool; 3], why: String| {
        let name = if name.is_empty() { "amq.default" } else { name };
        let entry = needs.entry(object.clone()).or_insert_with(|| PermissionNeed {
            object,
            name: name.to_owned(),
            configure: false,
            write: false,
            read: false,
            why: Vec::new(),
        });
        entry.configure |= access[0];
        entry.write |= access[1];
        entry.read |= access[2];
        if !entry.why.contains(&why) {
            entry.why.push(why);
        }
    };
    const CONFIGURE: [bool; 3] = [true, false, false];
    const WRITE: [bool; 3] = [false, true, false];
    const READ: [bool; 3] = [false, false, true];
    for exchange in &topology.exchanges {
        let name = exchange.definition.name.as_str();
        need(exchange_object(name), name, CONFIGURE, "declare it".to_owned());
        if let Some(alternate) = exchange.definition.alternate_exchange() {
            need(exchange_object(name), name, READ, "give it an alternate exchange".to_owned());
            let why = format!("be the alternate of {}", exchange_object(name));
            need(exchange_object(alternate), alternate, WRITE, why);
        }
    }
    for queue in &topology.queues {
        let name = queue.definition.name.as_str();
        need(queue_object(name), name, CONFIGURE, "declare it".to_owned());
        let dlx = queue.definition.arguments.get("x-dead-letter-exchange");
        if let Some(dlx) = dlx.and_then(|value| value.as_text()) {
            need(queue_object(name), name, READ, "give it a dead-letter exchange".to_owned());
            let why = format!("take the dead letters of {}", queue_object(name));
            need(exchange_object(dlx), dlx, WRITE, why);
        }
    }
    for binding in &topology.bindings {
        let source = binding.definition.source.as_str();
        let (object, name) = match &binding.definition.destination {
            Destination::Queue(queue) => (queue_object(queue.as_str()), queue.as_str()),
            Destination::Exchange(exchange) => {
                (exchange_object(exchange.as_str()), exchange.as_str())
            }
        };
        need(object, name, WRITE, "bind it".to_owned());
        need(exchange_object(source), source, READ, "bind from it".to_owned());
    }
    needs.into_values().collect()
}

/// What of `needs` the login lacks, one error for each object.
pub fn check_permissions(needs: &[PermissionNeed], permissions: &Permissions) -> Findings {
    let mut findings = Findings::default();
    // An empty expression allows nothing, not everything.
    let compile = |text: &str| compile_pattern(if text.is_empty() { "^$" } else { text });
    let patterns = [
        ("configure", compile(&permissions.configure)),
        ("write", compile(&permissions.write)),
        ("read", compile(&permissions.read)),
    ];
    for (which, pattern) in &patterns {
        if let Err(error) = pattern {
            findings.push(Diagnostic::warning(
                PATTERN,
                format!(
                    "the {which} permission of `{}` cannot be judged here: {error}",
                    permissions.user
                ),
            ));
        }
    }
    for need in needs {
        let lacking: Vec<&str> = patterns
            .iter()
            .zip([need.configure, need.write, need.read])
            .filter(|((_, pattern), needed)| {
                *needed && pattern.as_ref().is_ok_and(|p| !p.is_match(need.name.as_bytes()))
            })
            .map(|((which, _), _)| *which)
            .collect();
        if !lacking.is_empty() {
            findings.push(
                Diagnostic::error(
                    PERMISSION,
                    format!(
                        "user `{}` may not {} on {}, needed to {}",
                        permissions.user,
                        lacking.join(" and "),
                        need.object,
                        need.why.join(", ")
                    ),
                )
                .hint(format!(
                    "an administrator can widen the {} expression to match `{}`",
                    lacking.join(" and "),
                    need.name
                )),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::expand::testing::topology;
    use super::*;

    const V3_10: Version = TARGETS[0];
    const V3_13: Version = TARGETS[1];
    const V4_0: Version = TARGETS[2];
    const V4_3: Version = TARGETS[3];

    fn found(yaml: &str, target: Version) -> Vec<(&'static str, Severity)> {
        validate(&topology(yaml), target).iter().map(|f| (f.code.0, f.severity)).collect()
    }

    /// A topology that no rule has anything to say about, in every version.
    const GOOD: &str = "exchanges:\n  events: {type: topic}\nqueues:\n  orders:\n    deadLetter: true\n    deliveryLimit: 5\n    bind: [{from: events, key: order.#}]\n  dead.orders: {type: classic}\npolicies:\n  ttl: {pattern: ^orders$, applyTo: queues, definition: {messageTtl: 1h}}\n";

    #[test]
    fn a_sound_topology_has_no_findings() {
        for target in TARGETS {
            assert_eq!(found(GOOD, *target), [], "{target}");
        }
    }

    /// Each rule once: what triggers it, and for which version; then what does not.
    #[test]
    fn every_rule_finds_what_it_is_for() {
        use Severity::{Error, Note, Warning};
        let q = |settings: &str| format!("queues:\n  q: {{type: classic, {settings}}}\n");
        let quorum = |settings: &str| format!("queues:\n  q: {{type: quorum, {settings}}}\n");
        let policy = |settings: &str| {
            format!("queues: {{q: {{type: classic}}}}\npolicies:\n  p: {{{settings}}}\n")
        };
        let dlx = |exchange: &str, queue: &str| {
            format!(
                "exchanges: {{d: {{{exchange}}}}}\nqueues:\n  q: {{deadLetter: {{exchange: d{queue}}}}}\n  other: {{type: classic}}\n"
            )
        };
        let table: Vec<(Code, Severity, Version, String)> = vec![
            (ARGUMENT_OF_OTHER_TYPE, Error, V4_0, quorum("maxPriority: 5")),
            (ARGUMENT_TYPE, Error, V4_0, q("arguments: {x-max-length: \"5\"}")),
            (ARGUMENT_RANGE, Error, V4_0, q("expires: 0s")),
            (REMOVED, Error, V4_3, q("durable: false")),
            (REMOVED, Error, V4_3, q("arguments: {x-queue-mode: lazy}")),
            (NOT_YET, Warning, V3_10, q("consumerTimeout: 1h")),
            (NOT_YET, Error, V3_10, policy("pattern: ^q$, applyTo: classic_queues, definition: {maxLength: 5}")),
            (NOT_YET, Error, V4_0, policy("pattern: ^q$, applyTo: queues, definition: {ha-mode: all}")),
            (NOT_YET, Error, V3_10, "vhost: {defaultQueueType: quorum}\n".into()),
            (UNKNOWN, Warning, V4_0, q("arguments: {x-max-lenght: 5}")),
            (UNKNOWN, Error, V4_0, policy("pattern: ^q$, definition: {max-lenght: 5}")),
            (NEEDS_ANOTHER, Error, V4_0, q("deadLetter: {routingKey: a}")),
            (PROPERTY, Error, V4_0, quorum("durable: false")),
            (PROPERTY, Warning, V3_13, q("durable: false")),
            (NO_EFFECT, Warning, V4_0, q("arguments: {x-queue-mode: lazy}")),
            (TREACHEROUS, Error, V3_10, quorum("deliveryLimit: -1")),
            (TREACHEROUS, Error, V4_0, quorum("overflow: reject-publish-dlx, deadLetter: true")),
            (PATTERN, Error, V4_0, policy("pattern: (, definition: {maxLength: 5}")),
            (PATTERN, Error, V4_0, "naming: {queues: \"(\"}\n".into()),
            (RESERVED_NAME, Error, V4_0, "queues: {amq.q: {}}\n".into()),
            (RESERVED_NAME, Error, V4_0, "exchanges: {\"\": {type: direct}}\n".into()),
            (NAMING, Error, V4_0, "naming: {queues: \"[a-z]+\"}\nqueues: {Q1: {}}\n".into()),
            (UNKNOWN_EXCHANGE, Error, V4_0, "queues: {q: {bind: [{from: evnts}]}}\n".into()),
            (UNKNOWN_QUEUE, Error, V4_0, "bindings: [{from: amq.topic, queue: q}]\n".into()),
            (DEFAULT_EXCHANGE_BINDING, Error, V4_0, "queues: {q: {bind: [{from: \"\"}]}}\n".into()),
            (UNKNOWN_DEAD_LETTER_EXCHANGE, Error, V4_0, q("deadLetter: {exchange: nope}")),
            (LOST_DEAD_LETTERS, Error, V4_0, dlx("type: direct", ", routingKey: k")),
            (LOST_DEAD_LETTERS, Error, V4_0, dlx("type: fanout", "")),
            (LOST_DEAD_LETTERS, Error, V4_0, q("deadLetter: {exchange: \"\", routingKey: nope}")),
            (
                LOST_DEAD_LETTERS,
                Warning,
                V4_0,
                dlx("type: direct", "") + "bindings: [{from: d, queue: other, key: k}]\n",
            ),
            (UNKNOWN_ALTERNATE, Warning, V4_0, "exchanges: {e: {type: topic, alternateExchange: nope}}\n".into()),
            (
                ALTERNATE_CYCLE,
                Warning,
                V4_0,
                "exchanges:\n  a: {type: topic, alternateExchange: b}\n  b: {type: topic, alternateExchange: a}\n".into(),
            ),
            (TTL_LOOP_DROPS, Error, V4_0, q("messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: q}")),
            (
                TTL_LOOP_DROPS,
                Error,
                V4_0,
                "queues:\n  a: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: b}}\n  b: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: a}}\n".into(),
            ),
            (
                ENDLESS_LOOP,
                Warning,
                V4_0,
                "queues:\n  a: {deadLetter: {exchange: \"\", routingKey: b}}\n  b: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: a}}\n".into(),
            ),
            (DEAD_END, Note, V4_0, "exchanges: {e: {type: topic}}\n".into()),
            (UNREACHABLE_EXCHANGE, Warning, V4_0, "exchanges: {e: {type: topic, internal: true}}\n".into()),
            (UNBOUND_QUEUE, Note, V4_0, q("")),
            (
                STREAM_DEAD_LETTERS,
                Error,
                V3_10,
                "queues:\n  q: {deadLetter: {exchange: \"\", routingKey: s}}\n  s: {type: stream}\n".into(),
            ),
            (AT_LEAST_ONCE, Warning, V4_0, quorum("deadLetterStrategy: at-least-once, deadLetter: true")),
            (MAX_LENGTH_ZERO, Warning, V4_0, q("maxLength: 0")),
            (
                POLICY_OVERLAP,
                Error,
                V4_0,
                policy("pattern: ^q$, definition: {maxLength: 5}") + "  p2: {pattern: ^q, definition: {expires: 1h}}\n",
            ),
            (POLICY_SKIPPED, Warning, V4_0, policy("pattern: ^q$, definition: {deliveryLimit: 5, maxLength: 5}")),
            (POLICY_UNUSED, Note, V4_0, policy("pattern: ^nobody$, definition: {maxLength: 5}")),
            (UNANCHORED_PATTERN, Warning, V4_0, policy("pattern: q, definition: {maxLength: 5}")),
            (UNANCHORED_PATTERN, Note, V4_0, policy("pattern: ^q, definition: {maxLength: 5}")),
            (
                DEAD_LETTERS_EXPIRE,
                Warning,
                V4_0,
                "queues:\n  q: {deadLetter: true}\n  dead.q: {messageTtl: 1h}\n".into(),
            ),
            (
                DEAD_LETTERS_OVERFLOW,
                Warning,
                V4_0,
                "queues:\n  q: {deadLetter: true}\n  dead.q: {maxLength: 10}\n".into(),
            ),
            (DELIVERY_LIMIT_DROPS, Warning, V3_10, quorum("deliveryLimit: 5")),
            (DELIVERY_LIMIT_DROPS, Note, V4_0, quorum("")),
            (VHOST_LIMIT, Error, V4_0, "vhost: {limits: {maxQueues: 1}}\nqueues: {a: {}, b: {}}\n".into()),
            (VHOST_LIMIT, Error, V4_0, "vhost: {limits: {maxConnections: -2}}\n".into()),
            (
                TRANSIENT_EXCHANGE,
                Warning,
                V4_0,
                "exchanges: {e: {type: topic, durable: false}}\nqueues: {q: {bind: [{from: e}]}}\n".into(),
            ),
            (EXPIRING_QUEUE, Note, V4_0, q("expires: 1h")),
            (MANY_PRIORITIES, Note, V4_0, q("maxPriority: 200")),
        ];
        for (code, severity, target, yaml) in &table {
            let all = found(yaml, *target);
            assert!(all.contains(&(code.0, *severity)), "{code} {target}\n{yaml}\n{all:?}");
        }
        let tried: BTreeSet<&str> = table.iter().map(|(code, ..)| code.0).collect();
        for (code, _) in RULES {
            assert!(tried.contains(code.0) || *code == PERMISSION, "{code} has no test");
        }
    }

    #[test]
    fn what_a_version_takes_is_not_reported_for_it() {
        let silent: Vec<(Code, Version, &str)> = vec![
            (TREACHEROUS, V4_0, "queues: {q: {deliveryLimit: -1}}\n"),
            (DELIVERY_LIMIT_DROPS, V3_10, "queues: {q: {}}\n"),
            (
                STREAM_DEAD_LETTERS,
                V4_0,
                "queues:\n  q: {deadLetter: {exchange: \"\", routingKey: s}}\n  s: {type: stream}\n",
            ),
            (NOT_YET, V3_13, "queues: {q: {consumerTimeout: 1h}}\n"),
            (LOST_DEAD_LETTERS, V4_0, "queues: {q: {deadLetter: true}}\n"),
            (ENDLESS_LOOP, V4_0, "queues: {q: {deadLetter: true, retry: {delays: [1s, 1m]}}}\n"),
            (TTL_LOOP_DROPS, V4_0, "queues: {q: {deadLetter: true, retry: {delays: [1s, 1m]}}}\n"),
            (
                UNKNOWN_EXCHANGE,
                V4_0,
                "exchanges: {e: {external: true}}\nqueues: {q: {bind: [{from: e}]}}\n",
            ),
            (
                UNKNOWN_QUEUE,
                V4_0,
                "queues: {q: {external: true}}\nbindings: [{from: amq.topic, queue: q}]\n",
            ),
            (
                POLICY_OVERLAP,
                V4_0,
                "queues: {q: {}}\npolicies:\n  a: {pattern: ^q$, priority: 1, definition: {maxLength: 5}}\n  b: {pattern: ^q$, definition: {maxLength: 6}}\n",
            ),
            (
                UNANCHORED_PATTERN,
                V4_0,
                "queues: {q: {}}\npolicies: {a: {pattern: .*, definition: {maxLength: 5}}}\n",
            ),
            (
                DEAD_LETTERS_EXPIRE,
                V4_0,
                "queues:\n  a: {deadLetter: {exchange: \"\", routingKey: wait}}\n  wait: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: a}}\n",
            ),
        ];
        for (code, target, yaml) in silent {
            let all = found(yaml, target);
            assert!(all.iter().all(|(found, _)| *found != code.0), "{code} {yaml} {all:?}");
        }
    }

    #[test]
    fn findings_name_the_place_of_the_setting_and_what_made_the_object() {
        let t =
            topology("queues:\n  q:\n    type: classic\n    arguments:\n      x-max-lenght: 5\n");
        let findings = validate(&t, V4_0);
        let finding = findings.iter().find(|f| f.code == UNKNOWN).unwrap();
        assert_eq!(finding.span.as_ref().map(|s| (s.line, s.column)), Some((7, 7)));
        assert_eq!(finding.hint.as_deref(), Some("did you mean `x-max-length`?"));
        let preset = validate(&topology("preset: agents\n"), V4_0);
        assert!(preset.iter().all(|f| f.message.ends_with("(made by preset agents)")));
    }

    #[test]
    fn permissions_are_simulated_before_anything_is_declared() {
        let t = topology(
            "exchanges: {e: {type: topic, alternateExchange: amq.fanout}}\nqueues: {q: {deadLetter: {exchange: e}, bind: [{from: e}]}}\n",
        );
        let needs = permissions_needed(&t);
        let shown: Vec<String> = needs
            .iter()
            .map(|n| format!("{} c{} w{} r{}", n.name, n.configure, n.write, n.read))
            .collect();
        assert_eq!(
            shown,
            ["amq.fanout cfalse wtrue rfalse", "e ctrue wtrue rtrue", "q ctrue wtrue rtrue"]
        );
        let login = |configure: &str, write: &str, read: &str| Permissions {
            user: "ci".into(),
            configure: configure.into(),
            write: write.into(),
            read: read.into(),
        };
        assert!(check_permissions(&needs, &login(".*", ".*", ".*")).is_empty());
        let lacking = check_permissions(&needs, &login("^(e|q)$", "^e$", ""));
        let messages: Vec<&str> = lacking.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "user `ci` may not write on exchange `amq.fanout`, needed to be the alternate of exchange `e`",
                "user `ci` may not read on exchange `e`, needed to declare it, give it an alternate exchange, take the dead letters of queue `q`, bind from it",
                "user `ci` may not write and read on queue `q`, needed to declare it, give it a dead-letter exchange, bind it"
            ]
        );
        let odd = check_permissions(&needs, &login(".*", ".*", "(?!x)"));
        assert_eq!(odd.0[0].severity, Severity::Warning);
    }
}
