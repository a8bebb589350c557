//! From what the files say to the topology, and back: variables, defaults, presets and sugar go in,
//! plain exchanges, queues, bindings and policies come out, each with its origin.
//!
//! What is written out wins over what a preset or sugar would make under the same name. Pure.
//! Invariant: reading what [`render`] writes gives the same topology but for origins.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json};

use crate::base::diagnostic::{Code, Diagnostic, Findings, Span};
use crate::base::document::{self, Entries, Node, Spanned, Value, to_yaml};
use crate::base::expression::{Context, Template};
use crate::base::id::{ExchangeName, NameError, PolicyName, QueueName, RoutingKey, VhostName};
use crate::base::size::ByteSize;
use crate::base::suggest::nearest;
use crate::base::time::HumanDuration;
use crate::broker::arguments::{
    MAX_MILLISECONDS, ValueKind, by_friendly_name, by_policy_key, field_of_json, is_age,
    json_of_field,
};
use crate::broker::definition::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::message::{FieldTable, FieldValue};

use super::model::{Desired, MessageType, Origin, Topology};
use super::spec::{
    AgentsSpec, BindSpec, BindingSpec, ClusterSpec, DeadLetterRoute, DeadLetterSpec, DefaultsSpec,
    ExchangeSpec, HeaderMatch, LimitsSpec, MessageTypeSpec, MetadataSpec, NamingSpec, PolicySpec,
    PresetSpec, QueueKind, QueueSpec, RetrySpec, Target, TopologySpec, VhostQueueType, VhostSpec,
};
use super::wire::{field_from_json, field_to_json};

/// A name that cannot be one.
pub const INVALID_NAME: Code = Code("topology/invalid-name");
/// The same thing said twice.
pub const DUPLICATE: Code = Code("topology/duplicate");
/// Two documents say different things about the whole.
pub const CONFLICT: Code = Code("topology/conflict");
/// A key is needed or does not go with another.
pub const INCOMPLETE: Code = Code("topology/incomplete");
/// A variable that nobody declared, or that has no value.
pub const VARIABLE: Code = Code("topology/variable");
/// A setting that its policy cannot take.
pub const INVALID_SETTING: Code = Code("topology/invalid-setting");

/// The exchange behind which `deadLetter: true` collects.
pub const DEAD_LETTER_EXCHANGE: &str = "dead_letter";
/// The exchange in front of delay queues.
pub const RETRY_EXCHANGE: &str = "retry";

/// Reads documents of kind Topology as one topology: puts in variables (`set` over the files'),
/// decodes and expands.
///
/// # Errors
/// Everything that is wrong in any of them. What is legal but unwise is `lint`'s.
pub fn load(documents: &[Node], set: &BTreeMap<String, String>) -> Result<Topology, Findings> {
    let mut findings = Findings::default();
    let documents = substitute(documents, set)?;
    let mut specs = Vec::new();
    for node in &documents {
        match document::decode::<TopologySpec>(node) {
            Ok(spec) => specs.push(spec),
            Err(found) => findings.extend(found),
        }
    }
    if findings.has_errors() {
        return Err(findings);
    }
    expand(&specs)
}

/// Puts values in the place of `${ name }` in every text and key of `documents`, but for their
/// `variables`. A text that is nothing but one variable takes the variable's type.
///
/// # Errors
/// Variables that are unknown, without a value, or declared twice with different values.
pub fn substitute(
    documents: &[Node],
    set: &BTreeMap<String, String>,
) -> Result<Vec<Node>, Findings> {
    let mut findings = Findings::default();
    let mut variables: BTreeMap<String, (Json, Span)> = BTreeMap::new();
    for node in documents {
        let Some(Value::Mapping(entries)) = node.get("variables").map(|n| &n.value) else {
            continue;
        };
        for (name, value) in entries {
            let span = name.span.clone().unwrap_or_else(|| value.span.clone());
            let json = value.to_json();
            if !is_identifier(name) {
                findings.push(
                    Diagnostic::error(
                        VARIABLE,
                        format!("`{}` is no name for a variable", name.value),
                    )
                    .at(span.clone())
                    .hint("use letters, digits and `_`"),
                );
            }
            match variables.get(&name.value) {
                Some((known, place)) if *known != json => findings.push(
                    Diagnostic::error(
                        VARIABLE,
                        format!("the variable `{}` has another value at {place}", name.value),
                    )
                    .at(span),
                ),
                Some(_) => {}
                None => {
                    variables.insert(name.value.clone(), (json, span));
                }
            }
        }
    }
    for (name, text) in set {
        match variables.get_mut(name) {
            Some((value, _)) => *value = scalar(text),
            None => {
                let mut finding = Diagnostic::error(
                    VARIABLE,
                    format!("`--set {name}=…`: no file declares the variable `{name}`"),
                );
                finding.hint = Some(match nearest(name, variables.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("declare it: `variables: {{{name}: …}}`"),
                });
                findings.push(finding);
            }
        }
    }
    for (name, (value, span)) in &variables {
        if value.is_null() {
            findings.push(
                Diagnostic::error(VARIABLE, format!("the variable `{name}` has no value"))
                    .at(span.clone())
                    .hint(format!("give it one here, or with --set {name}=…")),
            );
        }
    }
    if findings.has_errors() {
        return Err(findings);
    }
    let values: BTreeMap<String, Json> =
        variables.into_iter().map(|(name, (value, _))| (name, value)).collect();
    let substituted = documents
        .iter()
        .map(|node| {
            let Value::Mapping(entries) = &node.value else { return node.clone() };
            let entries = entries
                .iter()
                .map(|(key, value)| {
                    if key.value == "variables" {
                        (key.clone(), value.clone())
                    } else {
                        (key.clone(), put_in(value, &values, &mut findings))
                    }
                })
                .collect();
            Node { span: node.span.clone(), value: Value::Mapping(entries) }
        })
        .collect();
    if findings.has_errors() { Err(findings) } else { Ok(substituted) }
}

fn is_identifier(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

/// What `--set name=TEXT` means: a number, true, false, or text.
fn scalar(text: &str) -> Json {
    match serde_json::from_str::<Json>(text) {
        Ok(value @ (Json::Bool(_) | Json::Number(_))) => value,
        _ => Json::String(text.to_owned()),
    }
}

fn put_in(node: &Node, values: &BTreeMap<String, Json>, findings: &mut Findings) -> Node {
    let value = match &node.value {
        Value::Text(text) => return put_in_text(text, node, values, findings),
        Value::Sequence(items) => {
            Value::Sequence(items.iter().map(|item| put_in(item, values, findings)).collect())
        }
        Value::Mapping(entries) => {
            let mut seen: HashMap<String, Option<Span>> = HashMap::new();
            let mut replaced = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let place = Node {
                    span: key.span.clone().unwrap_or_else(|| node.span.clone()),
                    value: Value::Null,
                };
                let put = put_in_text(&key.value, &place, values, findings);
                let name = match &put.value {
                    Value::Text(text) => text.clone(),
                    _ => put.to_json().to_string(),
                };
                if seen.insert(name.clone(), key.span.clone()).is_some() {
                    findings.push(
                        Diagnostic::error(
                            DUPLICATE,
                            format!("the key `{name}` stands here twice once variables are put in"),
                        )
                        .at(key.span.clone()),
                    );
                }
                replaced.push((
                    Spanned { value: name, span: key.span.clone() },
                    put_in(value, values, findings),
                ));
            }
            Value::Mapping(replaced)
        }
        other => other.clone(),
    };
    Node { span: node.span.clone(), value }
}

fn put_in_text(
    text: &str,
    node: &Node,
    values: &BTreeMap<String, Json>,
    findings: &mut Findings,
) -> Node {
    let text_node = |text: String| Node { span: node.span.clone(), value: Value::Text(text) };
    if !text.contains("${") {
        return text_node(text.to_owned());
    }
    let names: Vec<&str> = values.keys().map(String::as_str).collect();
    let template = match Template::parse_with(text, &names) {
        Ok(template) => template,
        Err(error) => {
            let mut finding = error.at(Some(&node.span));
            if values.is_empty() && finding.hint.is_none() {
                finding.hint = Some("declare it under `variables`".to_owned());
            }
            findings.push(finding);
            return text_node(text.to_owned());
        }
    };
    let context =
        values.iter().fold(Context::new(), |context, (name, value)| context.with(name, value));
    match template.evaluate(&context) {
        Ok(value) => node_of_json(&value, &node.span),
        Err(error) => {
            findings.push(Diagnostic::error(VARIABLE, error.to_string()).at(node.span.clone()));
            text_node(text.to_owned())
        }
    }
}

fn node_of_json(json: &Json, span: &Span) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(n)) => Value::UInt(n),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => {
            Value::Sequence(items.iter().map(|item| node_of_json(item, span)).collect())
        }
        Json::Object(map) => Value::Mapping(
            map.iter()
                .map(|(key, value)| {
                    (Spanned::at(key.clone(), span.clone()), node_of_json(value, span))
                })
                .collect(),
        ),
    };
    Node { span: span.clone(), value }
}

/// Expands several documents into one topology.
///
/// # Errors
/// Names that cannot be, things said twice (both places are named), keys that do not go together.
pub fn expand(specs: &[TopologySpec]) -> Result<Topology, Findings> {
    let mut builder = Builder::default();
    for spec in specs {
        builder.whole(spec);
    }
    for spec in specs {
        builder.written(spec);
    }
    for spec in specs {
        if let Some(PresetSpec::Agents(agents)) = &spec.preset {
            builder.agents(agents);
        }
    }
    for spec in specs {
        builder.sugar(spec);
    }
    builder.finish()
}

#[derive(Default)]
struct Builder {
    topology: Topology,
    findings: Findings,
    owner: Option<(String, Option<Span>)>,
    cluster: Option<(String, Option<Span>)>,
    vhost: Option<(String, Option<Span>)>,
    seen: HashMap<String, Option<Span>>,
}

fn written_at(span: Option<&Span>) -> Origin {
    Origin { span: span.cloned(), expanded_from: None }
}

/// Object names in findings and in [`super::model::Places`].
pub(super) fn queue_object(name: &str) -> String {
    format!("queue `{name}`")
}

pub(super) fn exchange_object(name: &str) -> String {
    format!("exchange `{name}`")
}

pub(super) fn policy_object(name: &str, operator: bool) -> String {
    if operator { format!("operator policy `{name}`") } else { format!("policy `{name}`") }
}

impl Builder {
    fn name<T>(
        &mut self,
        name: &Spanned<String>,
        make: impl FnOnce(String) -> Result<T, NameError>,
    ) -> Option<T> {
        match make(name.value.clone()) {
            Ok(made) => Some(made),
            Err(error) => {
                self.findings
                    .push(Diagnostic::error(INVALID_NAME, error.to_string()).at(name.span.clone()));
                None
            }
        }
    }

    /// Notes that `object` is said at `span`; an error when it was said before.
    fn once(&mut self, object: &str, span: Option<&Span>) -> bool {
        if let Some(first) = self.seen.get(object) {
            let place = first.as_ref().map_or_else(String::new, |span| format!(" at {span}"));
            self.findings.push(
                Diagnostic::error(DUPLICATE, format!("{object} is said twice, first{place}"))
                    .at(span.cloned())
                    .hint("keep one of them"),
            );
            return false;
        }
        self.seen.insert(object.to_owned(), span.cloned());
        true
    }

    fn agree(
        findings: &mut Findings,
        slot: &mut Option<(String, Option<Span>)>,
        what: &str,
        said: &str,
        span: Option<&Span>,
    ) {
        match slot {
            Some((known, place)) if known != said => {
                let place = place.as_ref().map_or_else(String::new, |span| format!(" at {span}"));
                findings.push(
                    Diagnostic::error(
                        CONFLICT,
                        format!("{what} is `{said}` here and `{known}`{place}"),
                    )
                    .at(span.cloned())
                    .hint("documents of one topology must agree"),
                );
            }
            Some(_) => {}
            None => *slot = Some((said.to_owned(), span.cloned())),
        }
    }

    /// What is said of the topology as a whole.
    fn whole(&mut self, spec: &TopologySpec) {
        if let Some(metadata) = &spec.metadata
            && let Some(owner) = metadata.owner.as_ref().or(metadata.name.as_ref())
        {
            Self::agree(
                &mut self.findings,
                &mut self.owner,
                "the owner",
                owner,
                owner.span.as_ref(),
            );
        }
        if let Some(cluster) = &spec.cluster {
            if let Some(name) = &cluster.name {
                let span = name.span.as_ref();
                Self::agree(&mut self.findings, &mut self.cluster, "the cluster", name, span);
            }
            if let Some(vhost) = &cluster.vhost {
                let span = vhost.span.as_ref();
                let name = vhost.value.as_str();
                Self::agree(&mut self.findings, &mut self.vhost, "the vhost", name, span);
            }
        }
        if let Some(vhost) = &spec.vhost {
            if let Some(kind) = &vhost.default_queue_type
                && self.once("`vhost.defaultQueueType`", kind.span.as_ref())
            {
                self.topology.default_queue_type = Some(Desired {
                    definition: match kind.value {
                        VhostQueueType::Classic => QueueType::Classic,
                        VhostQueueType::Quorum => QueueType::Quorum,
                        VhostQueueType::Stream => QueueType::Stream,
                    },
                    protect: false,
                    origin: written_at(kind.span.as_ref()),
                });
            }
            let limits = vhost.limits.as_ref();
            for (name, value) in [
                ("max-queues", limits.and_then(|l| l.max_queues.as_ref())),
                ("max-connections", limits.and_then(|l| l.max_connections.as_ref())),
            ] {
                if let Some(value) = value
                    && self.once(&format!("the limit `{name}`"), value.span.as_ref())
                {
                    self.topology.limits.insert(
                        name.to_owned(),
                        Desired {
                            definition: value.value,
                            protect: false,
                            origin: written_at(value.span.as_ref()),
                        },
                    );
                }
            }
        }
        if let Some(naming) = &spec.naming {
            for (what, said) in [
                ("`naming.exchanges`", &naming.exchanges),
                ("`naming.queues`", &naming.queues),
                ("`naming.policies`", &naming.policies),
            ] {
                let Some(said) = said else { continue };
                if !self.once(what, said.span.as_ref()) {
                    continue;
                }
                let desired = Some(Desired {
                    definition: said.value.clone(),
                    protect: false,
                    origin: written_at(said.span.as_ref()),
                });
                let naming = &mut self.topology.naming;
                match what {
                    "`naming.exchanges`" => naming.exchanges = desired,
                    "`naming.queues`" => naming.queues = desired,
                    _ => naming.policies = desired,
                }
            }
        }
        for (name, said) in &spec.message_types {
            if self.once(&format!("message type `{}`", name.value), name.span.as_ref()) {
                self.topology.message_types.insert(
                    name.value.clone(),
                    MessageType {
                        ttl: said.ttl,
                        priority: said.priority,
                        persistent: said.persistent,
                    },
                );
            }
        }
    }

    /// Everything that is written out.
    fn written(&mut self, spec: &TopologySpec) {
        let defaults = spec.defaults.clone().unwrap_or_default();
        for (name, said) in &spec.exchanges {
            self.exchange(name, said, &defaults);
        }
        for (name, said) in &spec.queues {
            self.queue(name, said, &defaults);
        }
        for said in &spec.bindings {
            self.binding(said);
        }
        for (operator, policies) in [(false, &spec.policies), (true, &spec.operator_policies)] {
            for (name, said) in policies {
                self.policy(name, said, operator, &defaults);
            }
        }
    }

    fn exchange(&mut self, name: &Spanned<String>, said: &ExchangeSpec, defaults: &DefaultsSpec) {
        let object = exchange_object(name);
        if !self.once(&object, name.span.as_ref()) {
            return;
        }
        let Some(exchange_name) = self.name(name, ExchangeName::new) else { return };
        let kind = match &said.r#type {
            Some(kind) => ExchangeKind::from(kind.value.as_str()),
            None if said.external => ExchangeKind::Other(String::new()),
            None => {
                self.findings.push(
                    Diagnostic::error(INCOMPLETE, format!("{object} has no `type`"))
                        .at(name.span.clone())
                        .hint("say direct, topic, fanout or headers; or `external: true` when it belongs to somebody else"),
                );
                return;
            }
        };
        let mut arguments = self.typed_arguments(&object, &said.arguments);
        if let Some(alternate) = &said.alternate_exchange {
            self.put(
                &object,
                &mut arguments,
                "alternate-exchange",
                alternate.span.as_ref(),
                alternate.value.as_str().into(),
            );
        }
        self.place(&object, "type", said.r#type.as_ref().and_then(|kind| kind.span.as_ref()));
        let desired = Desired {
            definition: ExchangeDefinition {
                name: exchange_name,
                kind,
                durable: said.durable.unwrap_or(true),
                auto_delete: said.auto_delete,
                internal: said.internal,
                arguments,
            },
            protect: said.protect.unwrap_or(defaults.protect),
            origin: written_at(name.span.as_ref()),
        };
        if said.external {
            self.topology.external.exchanges.push(desired);
        } else {
            self.topology.exchanges.push(desired);
        }
    }

    fn queue(&mut self, name: &Spanned<String>, said: &QueueSpec, defaults: &DefaultsSpec) {
        let object = queue_object(name);
        if !self.once(&object, name.span.as_ref()) {
            return;
        }
        let Some(queue_name) = self.name(name, QueueName::new) else { return };
        let mut arguments = self.typed_arguments(&object, &said.arguments);
        let typed_by_argument = said.r#type.is_none() && arguments.get("x-queue-type").is_some();
        let kind = said.r#type.as_ref().map_or(defaults.r#type, |kind| kind.value);
        if !typed_by_argument && kind != QueueKind::Default {
            let span = said.r#type.as_ref().and_then(|kind| kind.span.as_ref());
            self.put(&object, &mut arguments, "x-queue-type", span, kind.as_str().into());
        }
        for setting in settings_of(said) {
            self.put(
                &object,
                &mut arguments,
                setting.argument,
                setting.span.as_ref(),
                setting.value,
            );
        }
        let dead_letter = said.dead_letter.as_ref();
        let own = match dead_letter.map(|d| &d.value) {
            Some(DeadLetterSpec::Own(own)) => *own,
            Some(DeadLetterSpec::To(_)) => false,
            None => {
                defaults.dead_letter
                    && !said.external
                    && arguments.get("x-dead-letter-exchange").is_none()
                    && arguments.get("x-queue-type").and_then(FieldValue::as_text) != Some("stream")
            }
        };
        let (exchange, key) = match dead_letter.map(|d| &d.value) {
            Some(DeadLetterSpec::To(route)) => self.dead_letter_route(&queue_name, route, name),
            _ if own => (Some(DEAD_LETTER_EXCHANGE.to_owned()), Some(name.value.clone())),
            _ => (None, None),
        };
        let span = dead_letter.and_then(|d| d.span.as_ref()).or(name.span.as_ref());
        if let Some(exchange) = exchange {
            self.put(&object, &mut arguments, "x-dead-letter-exchange", span, exchange.into());
        }
        if let Some(key) = key {
            self.put(&object, &mut arguments, "x-dead-letter-routing-key", span, key.into());
        }
        for bind in &said.bind {
            let BindSpec { from, key, keys, headers, r#match, arguments } = &bind.value;
            self.bindings(
                from,
                &Destination::Queue(queue_name.clone()),
                &KeysAndHeaders {
                    key: key.as_ref(),
                    keys,
                    headers,
                    matching: r#match.as_ref(),
                    arguments,
                },
                bind.span.as_ref(),
            );
        }
        let desired = Desired {
            definition: QueueDefinition {
                name: queue_name,
                durable: said.durable.unwrap_or(defaults.durable),
                exclusive: false,
                auto_delete: said.auto_delete,
                arguments,
            },
            protect: said.protect.unwrap_or(defaults.protect),
            origin: written_at(name.span.as_ref()),
        };
        if said.external {
            self.topology.external.queues.push(desired);
        } else {
            self.topology.queues.push(desired);
        }
    }

    /// Exchange and key that a route means.
    fn dead_letter_route(
        &mut self,
        queue: &QueueName,
        route: &DeadLetterRoute,
        name: &Spanned<String>,
    ) -> (Option<String>, Option<String>) {
        let key = route.routing_key.as_ref().map(|key| key.value.as_str().to_owned());
        let exchange = route.exchange.as_ref().map(|exchange| exchange.value.as_str().to_owned());
        let Some(target) = &route.queue else {
            if exchange.is_none() && key.is_none() {
                self.findings.push(
                    Diagnostic::error(INCOMPLETE, "`deadLetter` names no place")
                        .at(name.span.clone())
                        .hint("write `true`, {queue: …} or {exchange: …}"),
                );
            }
            return (exchange, key);
        };
        let exchange = exchange.unwrap_or_else(|| DEAD_LETTER_EXCHANGE.to_owned());
        if exchange.is_empty() {
            return (Some(exchange), Some(target.value.as_str().to_owned()));
        }
        (Some(exchange), Some(key.unwrap_or_else(|| queue.as_str().to_owned())))
    }

    fn binding(&mut self, said: &Spanned<BindingSpec>) {
        let BindingSpec { from, queue, exchange, key, keys, headers, r#match, arguments } =
            &said.value;
        let destination = match (queue, exchange) {
            (Some(queue), None) => Destination::Queue(queue.value.clone()),
            (None, Some(exchange)) => Destination::Exchange(exchange.value.clone()),
            _ => {
                self.findings.push(
                    Diagnostic::error(
                        INCOMPLETE,
                        "a binding leads to one `queue` or one `exchange`",
                    )
                    .at(said.span.clone()),
                );
                return;
            }
        };
        self.bindings(
            from,
            &destination,
            &KeysAndHeaders {
                key: key.as_ref(),
                keys,
                headers,
                matching: r#match.as_ref(),
                arguments,
            },
            said.span.as_ref(),
        );
    }

    fn bindings(
        &mut self,
        from: &Spanned<ExchangeName>,
        destination: &Destination,
        said: &KeysAndHeaders<'_>,
        span: Option<&Span>,
    ) {
        if said.key.is_some() && !said.keys.is_empty() {
            self.findings.push(
                Diagnostic::error(INCOMPLETE, "a binding has either `key` or `keys`")
                    .at(span.cloned()),
            );
            return;
        }
        let mut arguments = self.typed_arguments("binding", said.arguments);
        for (name, value) in said.headers {
            let Some(field) = self.typed_field(value) else { continue };
            self.put("binding", &mut arguments, &name.value, name.span.as_ref(), field);
        }
        if let Some(matching) = said.matching {
            let word = matching.value.as_str();
            self.put("binding", &mut arguments, "x-match", matching.span.as_ref(), word.into());
        }
        let mut keys: Vec<(RoutingKey, Option<&Span>)> = said
            .keys
            .iter()
            .chain(said.key)
            .map(|key| (key.value.clone(), key.span.as_ref().or(span)))
            .collect();
        if keys.is_empty() {
            keys.push((empty_key(), span));
        }
        for (routing_key, span) in keys {
            let definition = BindingDefinition {
                source: from.value.clone(),
                destination: destination.clone(),
                routing_key,
                arguments: arguments.clone(),
            };
            if self.once(&binding_object(&definition), span) {
                self.topology.bindings.push(Desired {
                    definition,
                    protect: false,
                    origin: written_at(span),
                });
            }
        }
    }

    fn policy(
        &mut self,
        name: &Spanned<String>,
        said: &PolicySpec,
        operator: bool,
        defaults: &DefaultsSpec,
    ) {
        let object = policy_object(name, operator);
        if !self.once(&object, name.span.as_ref()) {
            return;
        }
        let Some(policy_name) = self.name(name, PolicyName::new) else { return };
        let mut definition = Map::new();
        for (key, value) in &said.definition {
            let span = key.span.as_ref();
            match policy_setting(key, &value.value) {
                Ok((raw, value)) => {
                    self.place(&object, &raw, span);
                    if definition.insert(raw.clone(), value).is_some() {
                        self.findings.push(
                            Diagnostic::error(DUPLICATE, format!("{object} says `{raw}` twice"))
                                .at(span.cloned()),
                        );
                    }
                }
                Err(why) => {
                    self.findings
                        .push(Diagnostic::error(INVALID_SETTING, why).at(value.span.clone()));
                }
            }
        }
        self.place(&object, "pattern", said.pattern.span.as_ref());
        self.place(&object, "apply-to", said.apply_to.span.as_ref());
        let desired = Desired {
            definition: PolicyDefinition {
                name: policy_name,
                pattern: said.pattern.value.clone(),
                apply_to: apply_to(said.apply_to.value),
                priority: said.priority,
                definition,
            },
            protect: said.protect.unwrap_or(defaults.protect),
            origin: written_at(name.span.as_ref()),
        };
        if operator {
            self.topology.operator_policies.push(desired);
        } else {
            self.topology.policies.push(desired);
        }
    }

    /// Arguments by their full names, each of the type it is written in.
    fn typed_arguments(&mut self, object: &str, said: &Entries<Spanned<Json>>) -> FieldTable {
        let mut table = FieldTable::new();
        for (name, value) in said {
            self.place(object, name, name.span.as_ref());
            if let Some(field) = self.typed_field(value) {
                table.insert(name.value.clone(), field);
            }
        }
        table
    }

    fn typed_field(&mut self, value: &Spanned<Json>) -> Option<FieldValue> {
        match typed_field(&value.value) {
            Ok(field) => Some(field),
            Err(why) => {
                self.findings.push(Diagnostic::error(INVALID_SETTING, why).at(value.span.clone()));
                None
            }
        }
    }

    /// Sets an argument that must not have been said in `arguments` too.
    fn put(
        &mut self,
        object: &str,
        arguments: &mut FieldTable,
        name: &str,
        span: Option<&Span>,
        value: FieldValue,
    ) {
        if arguments.get(name).is_some() {
            self.findings.push(
                Diagnostic::error(DUPLICATE, format!("{object} says `{name}` twice"))
                    .at(span.cloned())
                    .hint("take it out of `arguments`"),
            );
        }
        self.place(object, name, span);
        arguments.insert(name, value);
    }

    fn place(&mut self, object: &str, setting: &str, span: Option<&Span>) {
        if object != "binding"
            && let Some(span) = span
        {
            self.topology.places.insert(object, setting, span.clone());
        }
    }

    /// What sugar stands for, after everything that is written out.
    fn sugar(&mut self, spec: &TopologySpec) {
        let defaults = spec.defaults.clone().unwrap_or_default();
        for (name, said) in &spec.queues {
            let Ok(queue) = QueueName::new(name.value.clone()) else { continue };
            if said.external {
                continue;
            }
            let kind = said.r#type.as_ref().map_or(defaults.r#type, |kind| kind.value);
            let dead_letter = said.dead_letter.as_ref();
            let from = Origin {
                span: dead_letter.and_then(|d| d.span.clone()).or_else(|| name.span.clone()),
                expanded_from: Some(format!("deadLetter of queue {name}")),
            };
            match dead_letter.map(|d| &d.value) {
                Some(DeadLetterSpec::Own(true)) => self.own_dead_letters(&queue, kind, None, &from),
                Some(DeadLetterSpec::To(route)) if route.queue.is_some() => {
                    self.own_dead_letters(&queue, kind, Some(route), &from);
                }
                None if defaults.dead_letter
                    && kind != QueueKind::Stream
                    && said.arguments.get("x-dead-letter-exchange").is_none() =>
                {
                    self.own_dead_letters(&queue, kind, None, &from);
                }
                _ => {}
            }
            if let Some(retry) = &said.retry {
                self.retry(&queue, said, kind, retry);
            }
        }
    }

    fn own_dead_letters(
        &mut self,
        queue: &QueueName,
        kind: QueueKind,
        route: Option<&DeadLetterRoute>,
        origin: &Origin,
    ) {
        let exchange = route
            .and_then(|r| r.exchange.as_ref())
            .map_or_else(dead_letter_exchange, |exchange| exchange.value.clone());
        let target = match route.and_then(|r| r.queue.as_ref()) {
            Some(target) => target.value.clone(),
            None => match QueueName::new(format!("dead.{queue}")) {
                Ok(target) => target,
                Err(error) => {
                    self.findings.push(
                        Diagnostic::error(INVALID_NAME, format!("`dead.{queue}`: {error}"))
                            .at(origin.span.clone())
                            .hint("name the dead-letter queue: deadLetter: {queue: …}"),
                    );
                    return;
                }
            },
        };
        let key = route
            .and_then(|r| r.routing_key.as_ref())
            .map_or_else(|| queue.as_routing_key(), |key| key.value.clone());
        if exchange.as_str() == DEAD_LETTER_EXCHANGE {
            self.made_exchange(
                ExchangeDefinition::durable(exchange.clone(), ExchangeKind::Direct),
                origin,
            );
        }
        let queue_type =
            if kind == QueueKind::Classic { QueueType::Classic } else { QueueType::Quorum };
        let mut collector = QueueDefinition::durable(target.clone(), queue_type);
        if queue_type == QueueType::Quorum {
            collector.arguments.insert("x-delivery-limit", LOOKS_WITHOUT_LOSS);
        }
        self.made_queue(collector, origin);
        if !exchange.is_default() {
            self.made_binding(
                BindingDefinition {
                    source: exchange,
                    destination: Destination::Queue(target),
                    routing_key: key,
                    arguments: FieldTable::new(),
                },
                origin,
            );
        }
    }

    fn retry(
        &mut self,
        queue: &QueueName,
        said: &QueueSpec,
        kind: QueueKind,
        retry: &Spanned<RetrySpec>,
    ) {
        let origin = Origin {
            span: retry.span.clone(),
            expanded_from: Some(format!("retry of queue {queue}")),
        };
        if kind == QueueKind::Stream {
            self.findings.push(
                Diagnostic::error(
                    INCOMPLETE,
                    format!("{} is a stream and cannot retry", queue_object(queue.as_str())),
                )
                .at(retry.span.clone())
                .hint("a stream keeps its messages: read them again by offset"),
            );
            return;
        }
        if retry.delays.is_empty() {
            self.findings.push(
                Diagnostic::error(INCOMPLETE, "`retry` needs at least one delay")
                    .at(retry.span.clone())
                    .hint("such as `delays: [10s, 1m, 10m]`"),
            );
        }
        let exchange = match &retry.exchange {
            Some(exchange) => exchange.value.clone(),
            None => retry_exchange(),
        };
        self.made_exchange(
            ExchangeDefinition::durable(exchange.clone(), ExchangeKind::Direct),
            &origin,
        );
        for (index, delay) in retry.delays.iter().enumerate() {
            let origin = Origin {
                span: delay.span.clone().or_else(|| origin.span.clone()),
                ..origin.clone()
            };
            if retry.delays[..index].contains(delay) {
                self.findings.push(
                    Diagnostic::error(DUPLICATE, format!("the delay {delay} stands here twice"))
                        .at(delay.span.clone()),
                );
                continue;
            }
            let names = QueueName::new(format!("retry.{queue}.{delay}"))
                .and_then(|name| Ok((name, RoutingKey::new(format!("{queue}.{}", index + 1))?)));
            let (name, routing_key) = match names {
                Ok(names) => names,
                Err(error) => {
                    self.findings.push(
                        Diagnostic::error(
                            INVALID_NAME,
                            format!("`retry.{queue}.{delay}`: {error}"),
                        )
                        .at(origin.span.clone()),
                    );
                    continue;
                }
            };
            let mut definition = QueueDefinition {
                name: name.clone(),
                durable: said.durable.unwrap_or(true),
                exclusive: false,
                auto_delete: false,
                arguments: FieldTable::new()
                    .with("x-message-ttl", i64::try_from(delay.as_ms()).unwrap_or(i64::MAX))
                    .with("x-dead-letter-exchange", "")
                    .with("x-dead-letter-routing-key", queue.as_str()),
            };
            if kind != QueueKind::Default {
                definition.arguments.insert("x-queue-type", kind.as_str());
            }
            self.made_queue(definition, &origin);
            self.made_binding(
                BindingDefinition {
                    source: exchange.clone(),
                    destination: Destination::Queue(name),
                    routing_key,
                    arguments: FieldTable::new(),
                },
                &origin,
            );
        }
    }

    fn agents(&mut self, agents: &AgentsSpec) {
        let origin = |span: Option<&Span>| Origin {
            span: span.cloned(),
            expanded_from: Some("preset agents".to_owned()),
        };
        let nowhere = origin(None);
        let exchanges = [
            ("nexus.agents", ExchangeKind::Direct),
            ("nexus.commands", ExchangeKind::Topic),
            ("nexus.events", ExchangeKind::Topic),
            ("nexus.tools", ExchangeKind::Topic),
            (DEAD_LETTER_EXCHANGE, ExchangeKind::Direct),
        ];
        for (name, kind) in exchanges {
            if let Ok(name) = ExchangeName::new(name) {
                self.made_exchange(ExchangeDefinition::durable(name, kind), &nowhere);
            }
        }
        for (prefix, exchange, suffix, ids) in [
            ("agent", "nexus.agents", "", &agents.ids),
            ("command", "nexus.commands", ".#", &agents.commands),
            ("tool", "nexus.tools", ".#", &agents.tools),
        ] {
            for (index, id) in ids.iter().enumerate() {
                let origin = origin(id.span.as_ref());
                if ids[..index].contains(id) {
                    self.findings.push(
                        Diagnostic::error(DUPLICATE, format!("`{id}` stands here twice"))
                            .at(id.span.clone()),
                    );
                    continue;
                }
                self.agent_queue(prefix, exchange, suffix, id, &origin);
            }
        }
        let minutes = |n: u64| HumanDuration::from_ms(n * 60_000);
        let own = [
            ("command", minutes(60)),
            ("event", minutes(24 * 60)),
            ("request", minutes(5)),
            ("response", minutes(5)),
        ];
        let said = agents.ttl.iter().map(|(name, ttl)| (name.value.as_str(), *ttl));
        let mut ttls: BTreeMap<&str, HumanDuration> = own.into_iter().collect();
        ttls.extend(said);
        for (name, ttl) in ttls {
            self.topology.message_types.entry(name.to_owned()).or_insert(MessageType {
                ttl: Some(ttl),
                priority: None,
                persistent: Some(true),
            });
        }
    }

    fn agent_queue(
        &mut self,
        prefix: &str,
        exchange: &str,
        suffix: &str,
        id: &Spanned<String>,
        origin: &Origin,
    ) {
        if id.value.is_empty() || (!suffix.is_empty() && id.value.contains(['#', '*'])) {
            self.findings.push(
                Diagnostic::error(INVALID_NAME, format!("`{}` cannot name {prefix}s", id.value))
                    .at(id.span.clone())
                    .hint("use letters, digits, `-`, `_` and dots"),
            );
            return;
        }
        let made = || {
            let queue = QueueName::new(format!("{prefix}.{}", id.value))?;
            let key = RoutingKey::new(format!("{}{suffix}", id.value))?;
            Ok::<_, NameError>((queue, ExchangeName::new(exchange)?, key))
        };
        let (queue, source, routing_key) = match made() {
            Ok(made) => made,
            Err(error) => {
                self.findings
                    .push(Diagnostic::error(INVALID_NAME, error.to_string()).at(id.span.clone()));
                return;
            }
        };
        let written = self.seen.contains_key(&queue_object(queue.as_str()));
        let mut definition = QueueDefinition::durable(queue.clone(), QueueType::Quorum);
        definition.arguments.insert("x-dead-letter-exchange", DEAD_LETTER_EXCHANGE);
        definition.arguments.insert("x-dead-letter-routing-key", queue.as_str());
        self.made_queue(definition, origin);
        self.made_binding(
            BindingDefinition {
                source,
                destination: Destination::Queue(queue.clone()),
                routing_key,
                arguments: FieldTable::new(),
            },
            origin,
        );
        if !written {
            self.own_dead_letters(&queue, QueueKind::Quorum, None, origin);
        }
    }

    fn made_exchange(&mut self, definition: ExchangeDefinition, origin: &Origin) {
        let object = exchange_object(definition.name.as_str());
        if let std::collections::hash_map::Entry::Vacant(entry) = self.seen.entry(object) {
            entry.insert(origin.span.clone());
            let origin = origin.clone();
            self.topology.exchanges.push(Desired { definition, protect: false, origin });
        }
    }

    fn made_queue(&mut self, definition: QueueDefinition, origin: &Origin) {
        let object = queue_object(definition.name.as_str());
        if let std::collections::hash_map::Entry::Vacant(entry) = self.seen.entry(object) {
            entry.insert(origin.span.clone());
            let origin = origin.clone();
            self.topology.queues.push(Desired { definition, protect: false, origin });
        }
    }

    fn made_binding(&mut self, definition: BindingDefinition, origin: &Origin) {
        let object = binding_object(&definition);
        if let std::collections::hash_map::Entry::Vacant(entry) = self.seen.entry(object) {
            entry.insert(origin.span.clone());
            let origin = origin.clone();
            self.topology.bindings.push(Desired { definition, protect: false, origin });
        }
    }

    fn finish(mut self) -> Result<Topology, Findings> {
        self.topology.owner = self.owner.map_or_else(|| "topology".to_owned(), |(owner, _)| owner);
        self.topology.cluster_name = self.cluster.map(|(name, _)| name);
        self.topology.vhost = self.vhost.map(|(name, _)| name);
        if self.findings.has_errors() {
            self.findings.sort();
            Err(self.findings)
        } else {
            Ok(self.topology)
        }
    }
}

struct KeysAndHeaders<'a> {
    key: Option<&'a Spanned<RoutingKey>>,
    keys: &'a [Spanned<RoutingKey>],
    headers: &'a Entries<Spanned<Json>>,
    matching: Option<&'a Spanned<HeaderMatch>>,
    arguments: &'a Entries<Spanned<Json>>,
}

/// The delivery limit of dead-letter queues made here. Every look at a message costs a quorum queue one
/// of its deliveries, and 4.0 drops it after 20; `-1` would mean no limit there, and gone at the
/// first look on 3.10. This many means the same on all of them.
pub const LOOKS_WITHOUT_LOSS: i64 = 1_000_000;

fn dead_letter_exchange() -> ExchangeName {
    ExchangeName::new(DEAD_LETTER_EXCHANGE).expect("a short text without line breaks is a name")
}

fn retry_exchange() -> ExchangeName {
    ExchangeName::new(RETRY_EXCHANGE).expect("a short text without line breaks is a name")
}

fn empty_key() -> RoutingKey {
    RoutingKey::new("").expect("the empty text is a routing key")
}

/// What identifies a binding, in words.
pub(super) fn binding_object(binding: &BindingDefinition) -> String {
    let mut text = format!(
        "the binding of {} to {} by `{}`",
        binding.destination,
        binding.source.in_words(),
        binding.routing_key
    );
    if !binding.arguments.is_empty() {
        let arguments = json_of_field(&FieldValue::Table(binding.arguments.clone()));
        text.push_str(&format!(" and {arguments}"));
    }
    text
}

struct SettingSaid {
    argument: &'static str,
    value: FieldValue,
    span: Option<Span>,
}

/// The arguments that the keys of a queue mean, but for its type and dead letters.
fn settings_of(said: &QueueSpec) -> Vec<SettingSaid> {
    let mut settings = Vec::new();
    let mut add = |argument, value: Option<(FieldValue, &Option<Span>)>| {
        if let Some((value, span)) = value {
            settings.push(SettingSaid { argument, value, span: span.clone() });
        }
    };
    fn ms(said: &Option<Spanned<HumanDuration>>) -> Option<(FieldValue, &Option<Span>)> {
        let said = said.as_ref()?;
        let ms = i64::try_from(said.as_ms()).unwrap_or(i64::MAX);
        Some((FieldValue::Int64(ms), &said.span))
    }
    fn bytes(said: &Option<Spanned<ByteSize>>) -> Option<(FieldValue, &Option<Span>)> {
        let said = said.as_ref()?;
        Some((FieldValue::Int64(i64::try_from(said.0).unwrap_or(i64::MAX)), &said.span))
    }
    fn number<T: Copy + TryInto<i64>>(
        said: &Option<Spanned<T>>,
    ) -> Option<(FieldValue, &Option<Span>)> {
        let said = said.as_ref()?;
        Some((FieldValue::Int64(said.value.try_into().unwrap_or(i64::MAX)), &said.span))
    }
    fn word<T: ToString>(said: &Option<Spanned<T>>) -> Option<(FieldValue, &Option<Span>)> {
        let said = said.as_ref()?;
        Some((FieldValue::from(said.value.to_string()), &said.span))
    }
    add("x-dead-letter-strategy", word(&said.dead_letter_strategy));
    add("x-message-ttl", ms(&said.message_ttl));
    add("x-expires", ms(&said.expires));
    add("x-max-length", number(&said.max_length));
    add("x-max-length-bytes", bytes(&said.max_length_bytes));
    add("x-overflow", word(&said.overflow));
    add("x-delivery-limit", number(&said.delivery_limit));
    add("x-max-priority", number(&said.max_priority));
    add(
        "x-single-active-consumer",
        said.single_active_consumer.as_ref().map(|s| (FieldValue::Bool(s.value), &s.span)),
    );
    add("x-queue-leader-locator", word(&said.leader_locator));
    add("x-quorum-initial-group-size", number(&said.initial_group_size));
    add("x-max-age", said.max_age.as_ref().map(|s| (FieldValue::from(age(&s.value)), &s.span)));
    add("x-stream-max-segment-size-bytes", bytes(&said.max_segment_size));
    add("x-stream-filter-size-bytes", number(&said.filter_size));
    add("x-initial-cluster-size", number(&said.initial_cluster_size));
    add("x-consumer-timeout", ms(&said.consumer_timeout));
    add("x-consumer-disconnected-timeout", ms(&said.consumer_disconnected_timeout));
    add("x-delayed-retry-type", word(&said.delayed_retry_type));
    add("x-delayed-retry-min", ms(&said.delayed_retry_min));
    add("x-delayed-retry-max", ms(&said.delayed_retry_max));
    add("x-member-placement-tag", word(&said.member_placement_tag));
    add("x-queue-version", number(&said.queue_version));
    settings
}

/// A stream's age as RabbitMQ writes it: `7D` stays, `7d` and `1h30m` become seconds. What is
/// neither stays, for `lint` to report.
fn age(text: &str) -> String {
    if is_age(text) {
        return text.to_owned();
    }
    match text.parse::<HumanDuration>() {
        Ok(duration) if duration.as_ms() > 0 && duration.as_ms().is_multiple_of(1000) => {
            format!("{}s", duration.as_ms() / 1000)
        }
        _ => text.to_owned(),
    }
}

fn apply_to(target: Target) -> ApplyTo {
    match target {
        Target::All => ApplyTo::All,
        Target::Exchanges => ApplyTo::Exchanges,
        Target::Queues => ApplyTo::Queues,
        Target::ClassicQueues => ApplyTo::ClassicQueues,
        Target::QuorumQueues => ApplyTo::QuorumQueues,
        Target::Streams => ApplyTo::Streams,
    }
}

/// A key of a policy as RabbitMQ takes it: friendly names are translated with their values, others
/// stay as they are.
fn policy_setting(key: &str, value: &Json) -> Result<(String, Json), String> {
    if key == "alternateExchange" {
        return Ok(("alternate-exchange".to_owned(), value.clone()));
    }
    let Some((argument, policy)) = by_friendly_name(key).and_then(|a| Some((a, a.policy?))) else {
        return Ok((key.to_owned(), value.clone()));
    };
    let text = value.as_str();
    let value = match argument.value {
        // `expires` is RabbitMQ's own word too: a number is its milliseconds.
        ValueKind::Milliseconds { .. } if policy.key == key && text.is_none() => value.clone(),
        ValueKind::Milliseconds { .. } => match text {
            Some(text) => Json::from(text.parse::<HumanDuration>()?.as_ms()),
            None if value.as_i64() == Some(0) => value.clone(),
            None => {
                return Err(format!("`{key}` takes a duration such as 10s, not {value}"));
            }
        },
        ValueKind::Bytes { .. } => match text {
            Some(text) => Json::from(text.parse::<ByteSize>()?.0),
            None => value.clone(),
        },
        ValueKind::Age => text.map_or_else(|| value.clone(), |text| Json::from(age(text))),
        _ => value.clone(),
    };
    Ok((policy.key.to_owned(), value))
}

/// A key of a policy as our files say it.
fn friendly_setting(key: &str, value: &Json) -> (String, Json) {
    let raw = || (key.to_owned(), value.clone());
    if key == "alternate-exchange" {
        return ("alternateExchange".to_owned(), value.clone());
    }
    let Some(argument) = by_policy_key(key).filter(|argument| !argument.friendly.is_empty()) else {
        return raw();
    };
    let friendly = match argument.value {
        ValueKind::Milliseconds { .. } => match value.as_u64() {
            Some(ms) if i64::try_from(ms).is_ok_and(|ms| ms <= MAX_MILLISECONDS) => {
                Json::from(HumanDuration::from_ms(ms).to_string())
            }
            _ => return raw(),
        },
        ValueKind::Bytes { .. } => match value.as_u64() {
            Some(bytes) => Json::from(ByteSize(bytes).to_string()),
            None => return raw(),
        },
        _ => value.clone(),
    };
    // Whatever reading would not bring back stays as RabbitMQ says it.
    match policy_setting(argument.friendly, &friendly) {
        Ok((again, same)) if again == key && same == *value => {
            (argument.friendly.to_owned(), friendly)
        }
        _ => raw(),
    }
}

/// The topology as YAML in the format of our files, every preset and sugar written out.
pub fn render(topology: &Topology) -> String {
    to_yaml(&escaped(serde_json::to_value(to_spec(topology)).unwrap_or_default()))
}

/// Texts of the broker that look like our variables, so that they come back as they are.
fn escaped(value: Json) -> Json {
    let text = |text: String| text.replace("${", "$${");
    match value {
        Json::String(value) => Json::String(text(value)),
        Json::Array(items) => items.into_iter().map(escaped).collect(),
        Json::Object(map) => {
            Json::Object(map.into_iter().map(|(key, value)| (text(key), escaped(value))).collect())
        }
        other => other,
    }
}

/// The topology in the shape of our files. Origins are left out, and exclusive queues, which no file
/// can say.
pub fn to_spec(topology: &Topology) -> TopologySpec {
    let external = &topology.external;
    let said = |text: &String| Spanned::nowhere(text.clone());
    let naming = NamingSpec {
        exchanges: topology.naming.exchanges.as_ref().map(|d| said(&d.definition)),
        queues: topology.naming.queues.as_ref().map(|d| said(&d.definition)),
        policies: topology.naming.policies.as_ref().map(|d| said(&d.definition)),
    };
    let limit =
        |name: &str| topology.limits.get(name).map(|limit| Spanned::nowhere(limit.definition));
    let limits =
        LimitsSpec { max_queues: limit("max-queues"), max_connections: limit("max-connections") };
    let vhost = VhostSpec {
        default_queue_type: topology.default_queue_type.as_ref().map(|kind| {
            Spanned::nowhere(match kind.definition {
                QueueType::Classic => VhostQueueType::Classic,
                QueueType::Quorum => VhostQueueType::Quorum,
                QueueType::Stream => VhostQueueType::Stream,
            })
        }),
        limits: (limits != LimitsSpec::default()).then_some(limits),
    };
    let cluster = ClusterSpec {
        name: topology.cluster_name.as_ref().map(said),
        vhost: topology
            .vhost
            .as_ref()
            .and_then(|name| VhostName::new(name.clone()).ok())
            .map(Spanned::nowhere),
    };
    let exchanges = topology.exchanges.iter().map(|e| (e, false));
    let queues = topology.queues.iter().map(|q| (q, false));
    TopologySpec {
        metadata: Some(MetadataSpec { name: None, owner: Some(said(&topology.owner)) }),
        cluster: (cluster != ClusterSpec::default()).then_some(cluster),
        variables: Entries::default(),
        preset: None,
        defaults: None,
        vhost: (vhost != VhostSpec::default()).then_some(vhost),
        naming: (naming != NamingSpec::default()).then_some(naming),
        exchanges: exchanges
            .chain(external.exchanges.iter().map(|e| (e, true)))
            .map(|(exchange, external)| {
                (exchange.definition.name.as_str().to_owned(), exchange_spec(exchange, external))
            })
            .collect(),
        queues: queues
            .chain(external.queues.iter().map(|q| (q, true)))
            .filter(|(queue, _)| !queue.definition.exclusive)
            .map(|(queue, external)| {
                (queue.definition.name.as_str().to_owned(), queue_spec(queue, external))
            })
            .collect(),
        bindings: topology
            .bindings
            .iter()
            .map(|binding| Spanned::nowhere(binding_spec(&binding.definition)))
            .collect(),
        policies: topology.policies.iter().map(policy_spec).collect(),
        operator_policies: topology.operator_policies.iter().map(policy_spec).collect(),
        message_types: topology
            .message_types
            .iter()
            .map(|(name, said)| {
                let MessageType { ttl, priority, persistent } = said.clone();
                (name.clone(), MessageTypeSpec { ttl, priority, persistent })
            })
            .collect(),
    }
}

fn json_arguments(arguments: &FieldTable) -> Entries<Spanned<Json>> {
    arguments
        .iter()
        .map(|(name, value)| (name.to_owned(), Spanned::nowhere(typed_json(value))))
        .collect()
}

/// A typed value as it is written: plain where YAML has the type (whole numbers are 64-bit ones,
/// others doubles), else `{$type: timestamp, value: …}`.
fn typed_field(value: &Json) -> Result<FieldValue, String> {
    Ok(match value {
        Json::Object(map) if map.contains_key("$type") => field_from_json(value)?,
        Json::Object(map) => FieldValue::Table(
            map.iter()
                .map(|(name, value)| Ok((name.clone(), typed_field(value)?)))
                .collect::<Result<FieldTable, String>>()?,
        ),
        Json::Array(items) => {
            FieldValue::Array(items.iter().map(typed_field).collect::<Result<_, _>>()?)
        }
        other => field_of_json(other),
    })
}

fn typed_json(value: &FieldValue) -> Json {
    match value {
        FieldValue::Double(number) if number.is_finite() => Json::from(*number),
        FieldValue::Array(items) => items.iter().map(typed_json).collect(),
        FieldValue::Table(table) if table.get("$type").is_none() => Json::Object(
            table.iter().map(|(name, value)| (name.to_owned(), typed_json(value))).collect(),
        ),
        other => field_to_json(other),
    }
}

fn exchange_spec(exchange: &Desired<ExchangeDefinition>, external: bool) -> ExchangeSpec {
    let definition = &exchange.definition;
    let mut arguments = definition.arguments.clone();
    let alternate_exchange = take(&mut arguments, "alternate-exchange", |value| {
        ExchangeName::new(value.as_text()?).ok()
    });
    let kind = definition.kind.as_str();
    ExchangeSpec {
        r#type: (!external || !kind.is_empty()).then(|| Spanned::nowhere(kind.to_owned())),
        durable: (!definition.durable).then_some(false),
        auto_delete: definition.auto_delete,
        internal: definition.internal,
        alternate_exchange,
        arguments: json_arguments(&arguments),
        protect: exchange.protect.then_some(true),
        external,
    }
}

/// Takes an argument out when a key of ours can say it.
fn take<T>(
    arguments: &mut FieldTable,
    name: &str,
    read: impl FnOnce(&FieldValue) -> Option<T>,
) -> Option<Spanned<T>> {
    let value = read(arguments.get(name)?)?;
    arguments.remove(name);
    Some(Spanned::nowhere(value))
}

fn take_ms(arguments: &mut FieldTable, name: &str) -> Option<Spanned<HumanDuration>> {
    take(arguments, name, |value| {
        let ms = value.as_i64().filter(|ms| (0..=MAX_MILLISECONDS).contains(ms))?;
        u64::try_from(ms).ok().map(HumanDuration::from_ms)
    })
}

fn take_bytes(arguments: &mut FieldTable, name: &str) -> Option<Spanned<ByteSize>> {
    take(arguments, name, |value| u64::try_from(value.as_i64()?).ok().map(ByteSize))
}

fn take_number<T: TryFrom<i64>>(arguments: &mut FieldTable, name: &str) -> Option<Spanned<T>> {
    take(arguments, name, |value| T::try_from(value.as_i64()?).ok())
}

fn take_word<T: std::str::FromStr>(arguments: &mut FieldTable, name: &str) -> Option<Spanned<T>> {
    take(arguments, name, |value| value.as_text()?.parse().ok())
}

fn queue_spec(queue: &Desired<QueueDefinition>, external: bool) -> QueueSpec {
    let definition = &queue.definition;
    let mut arguments = definition.arguments.clone();
    let a = &mut arguments;
    // `default` is a word of ours: as an argument it stays one.
    let kind = take(a, "x-queue-type", |value| {
        value.as_text()?.parse().ok().filter(|kind| *kind != QueueKind::Default)
    });
    let typed_by_argument = kind.is_none() && a.get("x-queue-type").is_some();
    let exchange =
        take(a, "x-dead-letter-exchange", |value| ExchangeName::new(value.as_text()?).ok());
    let routing_key =
        take(a, "x-dead-letter-routing-key", |value| RoutingKey::new(value.as_text()?).ok());
    let dead_letter = (exchange.is_some() || routing_key.is_some()).then(|| {
        Spanned::nowhere(DeadLetterSpec::To(DeadLetterRoute { queue: None, exchange, routing_key }))
    });
    QueueSpec {
        r#type: kind.or_else(|| (!typed_by_argument).then(|| Spanned::nowhere(QueueKind::Default))),
        durable: (!definition.durable).then_some(false),
        auto_delete: definition.auto_delete,
        bind: Vec::new(),
        dead_letter,
        dead_letter_strategy: take_word(a, "x-dead-letter-strategy"),
        retry: None,
        message_ttl: take_ms(a, "x-message-ttl"),
        expires: take_ms(a, "x-expires"),
        max_length: take_number(a, "x-max-length"),
        max_length_bytes: take_bytes(a, "x-max-length-bytes"),
        overflow: take_word(a, "x-overflow"),
        delivery_limit: take_number(a, "x-delivery-limit"),
        max_priority: take_number(a, "x-max-priority"),
        single_active_consumer: take(a, "x-single-active-consumer", |value| match value {
            FieldValue::Bool(flag) => Some(*flag),
            _ => None,
        }),
        leader_locator: take_word(a, "x-queue-leader-locator"),
        initial_group_size: take_number(a, "x-quorum-initial-group-size"),
        max_age: take(a, "x-max-age", |value| {
            value.as_text().filter(|text| age(text) == *text).map(str::to_owned)
        }),
        max_segment_size: take_bytes(a, "x-stream-max-segment-size-bytes"),
        filter_size: take_number(a, "x-stream-filter-size-bytes"),
        initial_cluster_size: take_number(a, "x-initial-cluster-size"),
        consumer_timeout: take_ms(a, "x-consumer-timeout"),
        consumer_disconnected_timeout: take_ms(a, "x-consumer-disconnected-timeout"),
        delayed_retry_type: take_word(a, "x-delayed-retry-type"),
        delayed_retry_min: take_ms(a, "x-delayed-retry-min"),
        delayed_retry_max: take_ms(a, "x-delayed-retry-max"),
        member_placement_tag: take_word(a, "x-member-placement-tag"),
        queue_version: take_number(a, "x-queue-version"),
        arguments: json_arguments(&arguments),
        protect: queue.protect.then_some(true),
        external,
    }
}

fn binding_spec(binding: &BindingDefinition) -> BindingSpec {
    let mut arguments = binding.arguments.clone();
    let matching = take_word(&mut arguments, "x-match");
    // Without a word for it, `x-match` must not become a header.
    let mut rest = FieldTable::new();
    if let Some(odd) = arguments.remove("x-match") {
        rest.insert("x-match", odd);
    }
    let (queue, exchange) = match &binding.destination {
        Destination::Queue(queue) => (Some(Spanned::nowhere(queue.clone())), None),
        Destination::Exchange(exchange) => (None, Some(Spanned::nowhere(exchange.clone()))),
    };
    let key = &binding.routing_key;
    BindingSpec {
        from: Spanned::nowhere(binding.source.clone()),
        queue,
        exchange,
        key: (!key.as_str().is_empty()).then(|| Spanned::nowhere(key.clone())),
        keys: Vec::new(),
        headers: json_arguments(&arguments),
        r#match: matching,
        arguments: json_arguments(&rest),
    }
}

fn policy_spec(policy: &Desired<PolicyDefinition>) -> (String, PolicySpec) {
    let definition = &policy.definition;
    let target = match definition.apply_to {
        ApplyTo::All => Target::All,
        ApplyTo::Exchanges => Target::Exchanges,
        ApplyTo::Queues => Target::Queues,
        ApplyTo::ClassicQueues => Target::ClassicQueues,
        ApplyTo::QuorumQueues => Target::QuorumQueues,
        ApplyTo::Streams => Target::Streams,
    };
    (
        definition.name.as_str().to_owned(),
        PolicySpec {
            pattern: Spanned::nowhere(definition.pattern.clone()),
            apply_to: Spanned::nowhere(target),
            priority: definition.priority,
            definition: definition
                .definition
                .iter()
                .map(|(key, value)| {
                    let (key, value) = friendly_setting(key, value);
                    (key, Spanned::nowhere(value))
                })
                .collect(),
            protect: policy.protect.then_some(true),
        },
    )
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::base::diagnostic::Source;

    /// The topology of `yaml` (without its first two lines), or what is wrong with it.
    pub(crate) fn read(yaml: &str) -> Result<Topology, Findings> {
        read_with(&[yaml], &[])
    }

    pub(crate) fn read_with(files: &[&str], set: &[(&str, &str)]) -> Result<Topology, Findings> {
        let mut documents = Vec::new();
        for (index, yaml) in files.iter().enumerate() {
            let name = if index == 0 { "t.yaml".to_owned() } else { format!("t{index}.yaml") };
            let text = format!("apiVersion: nexus/v1\nkind: Topology\n{yaml}");
            documents.extend(document::read_documents(&Source::new(name, text))?);
        }
        let set = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        load(&documents, &set)
    }

    #[track_caller]
    pub(crate) fn topology(yaml: &str) -> Topology {
        read(yaml).unwrap_or_else(|findings| {
            panic!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })
    }

    /// Findings as `line code: message`.
    pub(crate) fn brief(findings: &Findings) -> Vec<String> {
        findings
            .iter()
            .map(|f| {
                let line = f.span.as_ref().map_or(String::new(), |s| format!("{} ", s.line));
                format!("{line}{}: {}", f.code, f.message)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{brief, read, read_with, topology};
    use super::*;

    fn names<T>(list: &[Desired<T>], name: impl Fn(&T) -> String) -> Vec<String> {
        list.iter().map(|item| name(&item.definition)).collect()
    }

    fn bindings(topology: &Topology) -> Vec<String> {
        names(&topology.bindings, |b| {
            let to = match &b.destination {
                Destination::Queue(q) => q.as_str(),
                Destination::Exchange(e) => e.as_str(),
            };
            format!("{} -{}-> {to}", b.source, b.routing_key)
        })
    }

    #[test]
    fn the_preset_of_agents_is_what_the_design_says() {
        let t = topology(
            "preset:\n  agents:\n    ids: [planner]\n    commands: [build]\n    tools: [search]\n    ttl: {event: 2h}\n",
        );
        assert_eq!(
            names(&t.exchanges, |e| format!("{} {}", e.name, e.kind)),
            [
                "nexus.agents direct",
                "nexus.commands topic",
                "nexus.events topic",
                "nexus.tools topic",
                "dead_letter direct"
            ]
        );
        assert_eq!(
            names(&t.queues, |q| format!("{} {:?}", q.name, q.queue_type())),
            [
                "agent.planner Some(Quorum)",
                "dead.agent.planner Some(Quorum)",
                "command.build Some(Quorum)",
                "dead.command.build Some(Quorum)",
                "tool.search Some(Quorum)",
                "dead.tool.search Some(Quorum)"
            ]
        );
        assert_eq!(
            bindings(&t),
            [
                "nexus.agents -planner-> agent.planner",
                "dead_letter -agent.planner-> dead.agent.planner",
                "nexus.commands -build.#-> command.build",
                "dead_letter -command.build-> dead.command.build",
                "nexus.tools -search.#-> tool.search",
                "dead_letter -tool.search-> dead.tool.search"
            ]
        );
        assert_eq!(t.message_types["event"].ttl, Some(HumanDuration::from_ms(7_200_000)));
        assert_eq!(t.message_types["command"].persistent, Some(true));
        let origin = &t.queues[0].origin;
        assert_eq!(origin.expanded_from.as_deref(), Some("preset agents"));
        assert_eq!(origin.span.as_ref().map(|s| s.line), Some(5));
        assert_eq!(topology("preset: agents\n").exchanges.len(), 5);
    }

    #[test]
    fn what_is_written_out_wins_over_the_preset() {
        let t = topology(
            "preset: {agents: {ids: [a]}}\nqueues:\n  agent.a: {type: classic}\nexchanges:\n  nexus.events: {type: fanout}\n",
        );
        let queue = t.queues.iter().find(|q| q.definition.name.as_str() == "agent.a").unwrap();
        assert_eq!(queue.definition.queue_type(), Some(QueueType::Classic));
        assert_eq!(queue.origin.expanded_from, None);
        assert_eq!(t.exchanges.len(), 5);
        assert!(t.queues.iter().all(|q| !q.definition.name.as_str().starts_with("dead.")));
    }

    #[test]
    fn dead_letter_and_retry_expand_visibly() {
        let t = topology(
            "queues:\n  orders:\n    deadLetter: true\n    retry: {delays: [10s, 1m]}\n    bind:\n      - {from: amq.topic, keys: [a.#, b]}\n  other:\n    type: classic\n    deadLetter: {queue: parked}\n",
        );
        assert_eq!(
            render(&t),
            "apiVersion: nexus/v1\nkind: Topology\nmetadata:\n  owner: topology\nexchanges:\n  dead_letter:\n    type: direct\n  retry:\n    type: direct\nqueues:\n  orders:\n    type: quorum\n    deadLetter:\n      exchange: dead_letter\n      routingKey: orders\n  other:\n    type: classic\n    deadLetter:\n      exchange: dead_letter\n      routingKey: other\n  dead.orders:\n    type: quorum\n    deliveryLimit: 1000000\n  retry.orders.10s:\n    type: quorum\n    deadLetter:\n      exchange: \"\"\n      routingKey: orders\n    messageTtl: 10s\n  retry.orders.1m:\n    type: quorum\n    deadLetter:\n      exchange: \"\"\n      routingKey: orders\n    messageTtl: 1m\n  parked:\n    type: classic\nbindings:\n- from: amq.topic\n  queue: orders\n  key: a.#\n- from: amq.topic\n  queue: orders\n  key: b\n- from: dead_letter\n  queue: dead.orders\n  key: orders\n- from: retry\n  queue: retry.orders.10s\n  key: orders.1\n- from: retry\n  queue: retry.orders.1m\n  key: orders.2\n- from: dead_letter\n  queue: parked\n  key: other\n"
        );
        assert_eq!(t.queues[2].origin.expanded_from.as_deref(), Some("deadLetter of queue orders"));
    }

    #[test]
    fn friendly_names_become_typed_arguments() {
        let t = topology(
            "queues:\n  q:\n    type: classic\n    messageTtl: 1m\n    maxLengthBytes: 1MiB\n    overflow: reject-publish\n    maxPriority: 5\n    singleActiveConsumer: true\n    arguments: {x-mine: 1.5, x-when: {$type: timestamp, value: 7}}\n  s: {type: stream, maxAge: 7d, maxSegmentSize: 64MiB}\n  d: {type: default}\n",
        );
        let q = &t.queues[0].definition.arguments;
        assert_eq!(q.get("x-message-ttl"), Some(&FieldValue::Int64(60_000)));
        assert_eq!(q.get("x-max-length-bytes"), Some(&FieldValue::Int64(1 << 20)));
        assert_eq!(q.get("x-overflow"), Some(&FieldValue::from("reject-publish")));
        assert_eq!(q.get("x-max-priority"), Some(&FieldValue::Int64(5)));
        assert_eq!(q.get("x-single-active-consumer"), Some(&FieldValue::Bool(true)));
        assert_eq!(q.get("x-mine"), Some(&FieldValue::Double(1.5)));
        assert_eq!(q.get("x-when"), Some(&FieldValue::Timestamp(7)));
        let s = &t.queues[1].definition.arguments;
        assert_eq!(s.get("x-max-age"), Some(&FieldValue::from("604800s")));
        assert!(t.queues[2].definition.arguments.is_empty());
        assert_eq!(t.places.get("queue `q`", "x-message-ttl").map(|s| s.line), Some(6));
    }

    #[test]
    fn policies_take_friendly_and_raw_names() {
        let t = topology(
            "policies:\n  p:\n    pattern: ^q\n    applyTo: queues\n    priority: 3\n    definition: {messageTtl: 10s, max-length: 5, maxLengthBytes: 1KiB}\n",
        );
        let policy = &t.policies[0].definition;
        assert_eq!(
            Json::Object(policy.definition.clone()),
            serde_json::json!({"message-ttl": 10_000, "max-length": 5, "max-length-bytes": 1024})
        );
        let wrong =
            read("policies:\n  p: {pattern: a, definition: {messageTtl: 10, expires: x}}\n");
        assert_eq!(wrong.unwrap_err().0.len(), 2);
    }

    #[test]
    fn variables_keep_their_type_and_set_wins() {
        let yaml = "variables: {prefix: dev, limit: 5, region: null}\nqueues:\n  ${ prefix }.${region}.orders: {maxLength: \"${ limit }\", type: \"${ 'quorum' }\"}\n";
        let t = read_with(&[yaml], &[("region", "eu"), ("limit", "7")]).unwrap();
        assert_eq!(t.queues[0].definition.name.as_str(), "dev.eu.orders");
        assert_eq!(
            t.queues[0].definition.arguments.get("x-max-length"),
            Some(&FieldValue::Int64(7))
        );
        let findings = read_with(&[yaml], &[("prefxi", "a")]).unwrap_err();
        assert_eq!(
            brief(&findings),
            [
                "topology/variable: `--set prefxi=…`: no file declares the variable `prefxi`",
                "3 topology/variable: the variable `region` has no value"
            ]
        );
        assert_eq!(findings.0[0].hint.as_deref(), Some("did you mean `prefix`?"));
        let unknown = read("variables: {prefix: a}\nqueues: {\"${ prefxi }\": {}}\n").unwrap_err();
        assert!(unknown.0[0].hint.as_deref().is_some_and(|hint| hint.contains("prefix")));
        let twice = read("variables: {p: a}\nqueues: {\"${p}\": {}, a: {}}\n").unwrap_err();
        assert_eq!(twice.0[0].code, DUPLICATE);
        let literal = topology("queues: {\"$${p}\": {}}\n");
        assert_eq!(literal.queues[0].definition.name.as_str(), "${p}");
    }

    #[test]
    fn documents_merge_and_what_is_said_twice_names_both_places() {
        let t = read_with(&["queues: {a: {}}\n", "queues: {b: {}}\n"], &[]).unwrap();
        assert_eq!(t.queues.len(), 2);
        let findings = read_with(
            &["metadata: {owner: x}\nqueues: {a: {}}\n", "metadata: {owner: y}\nqueues: {a: {}}\n"],
            &[],
        )
        .unwrap_err();
        let messages: Vec<&str> = findings.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "the owner is `y` here and `x` at t.yaml:3:19",
                "queue `a` is said twice, first at t.yaml:4:10"
            ]
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused_all_at_once() {
        let findings = read(
            "exchanges:\n  e: {}\nqueues:\n  q:\n    maxLength: 1\n    arguments: {x-max-length: 2}\n    deadLetter: {}\n    retry: {delays: []}\n  s: {type: stream, retry: {delays: [1s]}}\n  \"a\\nb\": {}\nbindings:\n  - {from: e}\n  - {from: e, queue: q, key: a, keys: [b]}\n  - {from: e, queue: q}\n  - {from: e, queue: q}\n",
        )
        .unwrap_err();
        assert_eq!(
            brief(&findings),
            [
                "4 topology/incomplete: exchange `e` has no `type`",
                "6 topology/incomplete: `deadLetter` names no place",
                "7 topology/duplicate: queue `q` says `x-max-length` twice",
                "10 topology/incomplete: `retry` needs at least one delay",
                "11 topology/incomplete: queue `s` is a stream and cannot retry",
                "12 topology/invalid-name: queue name contains a line break, which RabbitMQ would strip silently",
                "14 topology/incomplete: a binding leads to one `queue` or one `exchange`",
                "15 topology/incomplete: a binding has either `key` or `keys`",
                "17 topology/duplicate: the binding of queue `q` to exchange `e` by `` is said twice, first at t.yaml:16:5"
            ]
        );
    }

    #[test]
    fn every_argument_with_a_friendly_name_is_a_key_of_queues() {
        use crate::broker::arguments::QUEUE_ARGUMENTS;
        let schema = serde_json::to_value(schemars::schema_for!(QueueSpec)).unwrap();
        for argument in QUEUE_ARGUMENTS {
            let composed = ["deadLetterExchange", "deadLetterRoutingKey", "queueMode"]
                .contains(&argument.friendly);
            if argument.name.is_empty() || argument.friendly.is_empty() || composed {
                continue;
            }
            assert!(!schema["properties"][argument.friendly].is_null(), "{}", argument.friendly);
        }
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z][a-z0-9._-]{0,8}",
            "[ -~]{1,12}",
            Just("true".to_owned()),
            Just("007".to_owned()),
            Just("a: b #c".to_owned()),
            Just("${x}".to_owned()),
            Just("ü$${".to_owned()),
        ]
    }

    fn argument() -> impl Strategy<Value = FieldValue> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(FieldValue::Int64),
            any::<i32>().prop_map(FieldValue::Int32),
            any::<bool>().prop_map(FieldValue::Bool),
            name().prop_map(FieldValue::from),
            (-1000i32..1000).prop_map(|n| FieldValue::Double(f64::from(n) / 8.0)),
            any::<u64>().prop_map(FieldValue::Timestamp),
            Just(FieldValue::Void),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(FieldValue::Array),
                prop::collection::btree_map("[a-z$]{1,5}", inner, 0..3)
                    .prop_map(|map| FieldValue::Table(FieldTable(map))),
            ]
        })
    }

    fn arguments() -> impl Strategy<Value = FieldTable> {
        let known: Vec<&str> = crate::broker::arguments::QUEUE_ARGUMENTS
            .iter()
            .map(|a| a.name)
            .filter(|n| !n.is_empty())
            .collect();
        let key = prop_oneof![prop::sample::select(known).prop_map(str::to_owned), "x-[a-z]{1,5}"];
        let value = prop_oneof![
            argument(),
            (0i64..400).prop_map(FieldValue::Int64),
            prop::sample::select(vec!["drop-head", "quorum", "stream", "default", "7D", "7d", ""])
                .prop_map(FieldValue::from),
        ];
        prop::collection::btree_map(key, value, 0..5).prop_map(FieldTable)
    }

    fn desired<T>(definition: T, protect: bool) -> Desired<T> {
        Desired { definition, protect, origin: Origin { span: None, expanded_from: None } }
    }

    fn any_topology() -> impl Strategy<Value = Topology> {
        let exchange = (
            name(),
            prop_oneof![Just("topic"), Just("headers"), Just("x-odd")],
            any::<[bool; 4]>(),
            arguments(),
        );
        let queue = (name(), any::<[bool; 3]>(), arguments());
        let binding = (name(), name(), any::<bool>(), name(), arguments());
        let policy = (
            name(),
            name(),
            -3i64..3,
            prop::collection::btree_map(
                "[a-z-]{1,6}|message-ttl|max-length-bytes|dead-letter-exchange|max-age",
                prop_oneof![
                    (-5i64..100_000).prop_map(Json::from),
                    name().prop_map(Json::from),
                    Just(Json::from(i64::MAX)),
                ],
                0..3,
            ),
        );
        (
            prop::collection::vec(exchange, 0..3),
            prop::collection::vec(queue, 0..4),
            prop::collection::vec(binding, 0..3),
            prop::collection::vec(policy, 0..2),
            name(),
            prop::option::of(-1i64..9),
        )
            .prop_map(|(exchanges, queues, bindings, policies, owner, limit)| {
                let mut t = Topology { owner, ..Topology::default() };
                let mut seen = std::collections::BTreeSet::new();
                for (name, kind, [durable, auto_delete, internal, protect], arguments) in exchanges
                {
                    if !seen.insert(("e", name.clone())) {
                        continue;
                    }
                    t.exchanges.push(desired(
                        ExchangeDefinition {
                            name: ExchangeName::new(name).unwrap(),
                            kind: ExchangeKind::from(kind),
                            durable,
                            auto_delete,
                            internal,
                            arguments,
                        },
                        protect,
                    ));
                }
                for (name, [durable, auto_delete, protect], arguments) in queues {
                    if !seen.insert(("q", name.clone())) {
                        continue;
                    }
                    t.queues.push(desired(
                        QueueDefinition {
                            name: QueueName::new(name).unwrap(),
                            durable,
                            exclusive: false,
                            auto_delete,
                            arguments,
                        },
                        protect,
                    ));
                }
                for (source, to, queue, key, mut arguments) in bindings {
                    if !seen.insert(("b", source.clone())) {
                        continue;
                    }
                    arguments.insert("x-match", "any");
                    let destination = if queue {
                        Destination::Queue(QueueName::new(to).unwrap())
                    } else {
                        Destination::Exchange(ExchangeName::new(to).unwrap())
                    };
                    t.bindings.push(desired(
                        BindingDefinition {
                            source: ExchangeName::new(source).unwrap(),
                            destination,
                            routing_key: RoutingKey::new(key).unwrap(),
                            arguments,
                        },
                        false,
                    ));
                }
                for (name, pattern, priority, definition) in policies {
                    if !seen.insert(("p", name.clone())) {
                        continue;
                    }
                    t.policies.push(desired(
                        PolicyDefinition {
                            name: PolicyName::new(name).unwrap(),
                            pattern,
                            apply_to: ApplyTo::Queues,
                            priority,
                            definition: definition.into_iter().collect(),
                        },
                        false,
                    ));
                }
                if let Some(limit) = limit {
                    t.limits.insert("max-queues".to_owned(), desired(limit, false));
                }
                t
            })
    }

    /// Without what a file does not say: where things stand in it, and how wide an integer is, which
    /// the broker does not tell apart either.
    fn without_origins(mut t: Topology) -> Topology {
        for queue in &mut t.queues {
            for value in queue.definition.arguments.0.values_mut() {
                if let Some(number) = value.as_i64() {
                    *value = FieldValue::Int64(number);
                }
            }
        }
        let nowhere = || Origin { span: None, expanded_from: None };
        t.exchanges.iter_mut().for_each(|d| d.origin = nowhere());
        t.queues.iter_mut().for_each(|d| d.origin = nowhere());
        t.bindings.iter_mut().for_each(|d| d.origin = nowhere());
        t.policies.iter_mut().for_each(|d| d.origin = nowhere());
        t.limits.values_mut().for_each(|d| d.origin = nowhere());
        t
    }

    proptest! {
        #![proptest_config(ProptestConfig { fork: false, ..ProptestConfig::default() })]

        #[test]
        fn what_is_rendered_reads_back_as_the_same(t in any_topology()) {
            let yaml = render(&t);
            let source = crate::base::diagnostic::Source::new("r.yaml", yaml.clone());
            let documents = document::read_documents(&source)
                .unwrap_or_else(|f| panic!("{}\n{yaml}", brief(&f).join("\n")));
            let again = load(&documents, &BTreeMap::new())
                .unwrap_or_else(|f| panic!("{}\n{yaml}", brief(&f).join("\n")));
            prop_assert_eq!(without_origins(again), without_origins(t), "{}", yaml);
        }

        #[test]
        fn no_text_makes_reading_or_linting_panic(text in "(queues|bindings|preset|policies|variables|exchanges): [a-z{}\\[\\]:, $\"0-9.#*-]{0,60}") {
            if let Ok(t) = read(&text) {
                super::super::lint::validate(&t, crate::broker::Version::new(4, 0, 0));
            }
        }
    }
}
