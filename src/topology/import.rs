//! RabbitMQ's definitions JSON as a topology, for `topology import`.
//!
//! Pure. Reads the export of a vhost and of a whole cluster, of 3.10 to 4.x: unknown keys are left
//! alone, empty tables may be `[]` or missing. What a topology has no word for is named, not dropped
//! silently.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::base::diagnostic::{Code, Diagnostic};
use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::broker::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::message::{FieldTable, FieldValue};

use super::model::{Desired, Origin, Topology};

/// It is not a definitions file, or not clear which vhost is meant.
pub const UNREADABLE: Code = Code("import/unreadable");
/// One object cannot be read.
pub const BAD_OBJECT: Code = Code("import/bad-object");
/// A topology has no word for it.
pub const NOT_CARRIED: Code = Code("import/not-carried");
/// A binding names something that is not in the file.
pub const DANGLING: Code = Code("import/dangling-binding");

/// What came out of a definitions file.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The topology of the vhost.
    pub topology: Topology,
    /// What could not be carried over, and what looks wrong.
    pub findings: Vec<Diagnostic>,
}

/// Reads definitions. `vhost` picks one of several; it is needed only when there are several.
/// Errors are all problems that make the file useless.
pub fn import(text: &str, vhost: Option<&str>, owner: &str) -> Result<Imported, Vec<Diagnostic>> {
    let unreadable = |message: String| vec![Diagnostic::error(UNREADABLE, message)];
    let value: Value = serde_json::from_str(text).map_err(|error| {
        vec![Diagnostic::error(UNREADABLE, format!("this is no JSON: {error}")).hint(
            "definitions are JSON, as `rabbitmqctl export_definitions FILE` writes them; \
                 topology files are used as they are",
        )]
    })?;
    let Value::Object(root) = value else {
        return Err(unreadable("definitions are a JSON object".to_owned()));
    };
    let known = ["queues", "exchanges", "bindings", "policies", "vhosts", "parameters"];
    if !known.iter().any(|key| root.contains_key(*key)) {
        return Err(vec![
            Diagnostic::error(UNREADABLE, "this has none of the keys of RabbitMQ definitions")
                .hint("export it with `rabbitmqctl export_definitions FILE` or from the management page"),
        ]);
    }
    let mut reader = Reader { root: &root, vhost: None, findings: Vec::new() };
    reader.vhost = reader.choose(vhost)?;
    let topology = reader.topology(owner);
    Ok(Imported { topology, findings: reader.findings })
}

struct Reader<'a> {
    root: &'a Map<String, Value>,
    vhost: Option<String>,
    findings: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    /// Which vhost is read.
    fn choose(&self, wanted: Option<&str>) -> Result<Option<String>, Vec<Diagnostic>> {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for key in ["queues", "exchanges", "bindings", "policies", "parameters"] {
            names.extend(list(self.root, key).filter_map(|object| object.get("vhost")?.as_str()));
        }
        names.extend(list(self.root, "vhosts").filter_map(|object| object.get("name")?.as_str()));
        let original = self.root.get("original_vhost_name").and_then(Value::as_str);
        match (wanted, names.len()) {
            (Some(name), _) if names.contains(name) => Ok(Some(name.to_owned())),
            (Some(name), 0) => Ok(Some(name.to_owned())),
            (Some(name), _) => Err(vec![
                Diagnostic::error(UNREADABLE, format!("the file has no vhost `{name}`")).hint(
                    format!(
                        "it has {}",
                        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                    ),
                ),
            ]),
            (None, 0) => Ok(original.map(str::to_owned)),
            (None, 1) => Ok(names.first().map(|name| (*name).to_owned())),
            (None, _) => Err(vec![
                Diagnostic::error(UNREADABLE, "the file has several vhosts, and a topology is one")
                    .hint(format!(
                        "say which with --vhost: {}",
                        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                    )),
            ]),
        }
    }

    /// The objects of the chosen vhost; those that name none belong to it.
    fn objects(&self, key: &str) -> Vec<&'a Map<String, Value>> {
        let vhost = self.vhost.clone();
        list(self.root, key)
            .filter(|object| match (object.get("vhost").and_then(Value::as_str), &vhost) {
                (Some(is), Some(wanted)) => is == wanted,
                _ => true,
            })
            .collect()
    }

    fn topology(&mut self, owner: &str) -> Topology {
        let mut topology =
            Topology { owner: owner.to_owned(), vhost: self.vhost.clone(), ..Topology::default() };
        for object in self.objects("exchanges") {
            match exchange(object) {
                Ok(exchange) if exchange.name.is_predeclared() => {}
                Ok(exchange) => topology.exchanges.push(desired(exchange)),
                Err(why) => self.bad("exchange", object, &why),
            }
        }
        for object in self.objects("queues") {
            match queue(object) {
                Ok(queue) if queue.exclusive => self.findings.push(Diagnostic::warning(
                    NOT_CARRIED,
                    format!("queue `{}` is exclusive: it belongs to one connection", queue.name),
                )),
                Ok(queue) => topology.queues.push(desired(queue)),
                Err(why) => self.bad("queue", object, &why),
            }
        }
        for object in self.objects("bindings") {
            match binding(object) {
                Ok(binding) if binding.source.is_default() => {}
                Ok(binding) => topology.bindings.push(desired(binding)),
                Err(why) => self.bad("binding", object, &why),
            }
        }
        for object in self.objects("policies") {
            match policy(object) {
                Ok(policy) => topology.policies.push(desired(policy)),
                Err(why) => self.bad("policy", object, &why),
            }
        }
        self.parameters(&mut topology);
        self.vhost_settings(&mut topology);
        self.dangling(&topology);
        self.left_out();
        topology
    }

    fn bad(&mut self, kind: &str, object: &Map<String, Value>, why: &str) {
        let name = object.get("name").or_else(|| object.get("destination")).and_then(Value::as_str);
        self.findings.push(Diagnostic::error(
            BAD_OBJECT,
            format!("{kind} `{}` cannot be read: {why}", name.unwrap_or("?")),
        ));
    }

    fn parameters(&mut self, topology: &mut Topology) {
        for object in self.objects("parameters") {
            let component = object.get("component").and_then(Value::as_str).unwrap_or("?");
            let name = object.get("name").and_then(Value::as_str).unwrap_or("?");
            match (component, object.get("value").and_then(Value::as_object)) {
                ("operator_policy", Some(value)) => {
                    let mut whole = value.clone();
                    whole.insert("name".to_owned(), Value::String(name.to_owned()));
                    match policy(&whole) {
                        Ok(policy) => topology.operator_policies.push(desired(policy)),
                        Err(why) => self.bad("operator policy", &whole, &why),
                    }
                }
                ("vhost-limits", Some(value)) => limits(value, &mut topology.limits),
                _ => self.findings.push(Diagnostic::warning(
                    NOT_CARRIED,
                    format!("parameter `{name}` of `{component}` has no place in a topology"),
                )),
            }
        }
    }

    fn vhost_settings(&mut self, topology: &mut Topology) {
        let own = list(self.root, "vhosts")
            .find(|object| object.get("name").and_then(Value::as_str) == self.vhost.as_deref());
        for settings in [Some(self.root), own].into_iter().flatten() {
            let metadata = settings.get("metadata").and_then(Value::as_object);
            let kind = settings
                .get("default_queue_type")
                .or_else(|| metadata?.get("default_queue_type"))
                .and_then(Value::as_str);
            match kind.map(|kind| (kind, kind.parse::<QueueType>())) {
                None | Some(("undefined", _)) => {}
                Some((_, Ok(kind))) => topology.default_queue_type = Some(desired(kind)),
                Some((_, Err(why))) => {
                    self.findings.push(Diagnostic::error(
                        BAD_OBJECT,
                        format!("the vhost's default queue type: {why}"),
                    ));
                }
            }
            match settings.get("limits") {
                Some(Value::Object(value)) => limits(value, &mut topology.limits),
                Some(Value::Array(values)) => {
                    for value in values.iter().filter_map(Value::as_object) {
                        let value = value.get("value").and_then(Value::as_object).unwrap_or(value);
                        limits(value, &mut topology.limits);
                    }
                }
                _ => {}
            }
        }
    }

    /// Bindings whose ends are not in the file: 3.10 drops such silently on import.
    fn dangling(&mut self, topology: &Topology) {
        let exchanges: BTreeSet<&str> =
            topology.exchanges.iter().map(|e| e.definition.name.as_str()).collect();
        let queues: BTreeSet<&str> =
            topology.queues.iter().map(|q| q.definition.name.as_str()).collect();
        let known =
            |name: &ExchangeName| name.is_predeclared() || exchanges.contains(name.as_str());
        for binding in topology.bindings.iter().map(|binding| &binding.definition) {
            let end = match &binding.destination {
                Destination::Queue(name) => queues.contains(name.as_str()),
                Destination::Exchange(name) => known(name),
            };
            if !known(&binding.source) || !end {
                self.findings.push(
                    Diagnostic::warning(
                        DANGLING,
                        format!(
                            "the binding of {} to {} names something that is not in the file",
                            binding.destination,
                            binding.source.in_words()
                        ),
                    )
                    .hint("declare what is missing, or take the binding out"),
                );
            }
        }
    }

    /// What a topology is not for.
    fn left_out(&mut self) {
        for (key, what) in [
            ("users", "users"),
            ("permissions", "permissions"),
            ("topic_permissions", "topic permissions"),
            ("global_parameters", "global parameters"),
        ] {
            let count = list(self.root, key).count();
            if count > 0 {
                self.findings.push(Diagnostic::note(
                    NOT_CARRIED,
                    format!("{count} {what} are left out: a topology has no place for them"),
                ));
            }
        }
    }
}

fn list<'a>(
    root: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    root.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn desired<T>(definition: T) -> Desired<T> {
    Desired { definition, protect: false, origin: Origin { span: None, expanded_from: None } }
}

fn limits(value: &Map<String, Value>, into: &mut BTreeMap<String, Desired<i64>>) {
    for (name, limit) in value {
        if let Some(limit) = limit.as_i64().filter(|limit| *limit >= 0) {
            into.insert(name.clone(), desired(limit));
        }
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` is `{other}`, not a text")),
        None => Err(format!("`{key}` is missing")),
    }
}

fn flag(object: &Map<String, Value>, key: &str, default: bool) -> Result<bool, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("`{key}` is `{other}`, not true or false")),
    }
}

/// A table, where an empty one may be `[]`, null, or not there.
fn table(object: &Map<String, Value>) -> Result<FieldTable, String> {
    match object.get("arguments") {
        None | Some(Value::Null) => Ok(FieldTable::new()),
        Some(Value::Array(values)) if values.is_empty() => Ok(FieldTable::new()),
        Some(Value::Object(values)) => {
            values.iter().map(|(name, value)| Ok((name.clone(), field(value)?))).collect()
        }
        Some(other) => Err(format!("`arguments` is `{other}`, not a table")),
    }
}

/// JSON as RabbitMQ reads it on import.
fn field(value: &Value) -> Result<FieldValue, String> {
    Ok(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(*flag),
        Value::String(text) => FieldValue::from(text.as_str()),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => FieldValue::Int64(n),
            (None, Some(n)) if !value.is_u64() => FieldValue::Double(n),
            _ => return Err(format!("{n} is larger than a 64-bit number")),
        },
        Value::Array(values) => {
            FieldValue::Array(values.iter().map(field).collect::<Result<_, _>>()?)
        }
        Value::Object(values) => FieldValue::Table(
            values
                .iter()
                .map(|(name, value)| Ok((name.clone(), field(value)?)))
                .collect::<Result<FieldTable, String>>()?,
        ),
    })
}

fn exchange(object: &Map<String, Value>) -> Result<ExchangeDefinition, String> {
    Ok(ExchangeDefinition {
        name: ExchangeName::new(text(object, "name")?).map_err(|error| error.to_string())?,
        kind: ExchangeKind::from(text(object, "type")?),
        durable: flag(object, "durable", true)?,
        auto_delete: flag(object, "auto_delete", false)?,
        internal: flag(object, "internal", false)?,
        arguments: table(object)?,
    })
}

fn queue(object: &Map<String, Value>) -> Result<QueueDefinition, String> {
    let mut arguments = table(object)?;
    // Some exports say the type beside the arguments only.
    if arguments.get("x-queue-type").is_none()
        && let Some(kind @ ("quorum" | "stream")) = object.get("type").and_then(Value::as_str)
    {
        arguments.insert("x-queue-type", kind);
    }
    Ok(QueueDefinition {
        name: QueueName::new(text(object, "name")?).map_err(|error| error.to_string())?,
        durable: flag(object, "durable", true)?,
        exclusive: flag(object, "exclusive", false)?,
        auto_delete: flag(object, "auto_delete", false)?,
        arguments,
    })
}

fn binding(object: &Map<String, Value>) -> Result<BindingDefinition, String> {
    let destination = text(object, "destination")?;
    let wrong = |error: crate::base::id::NameError| error.to_string();
    Ok(BindingDefinition {
        source: ExchangeName::new(text(object, "source")?).map_err(wrong)?,
        destination: match text(object, "destination_type")? {
            "queue" | "q" => Destination::Queue(QueueName::new(destination).map_err(wrong)?),
            "exchange" | "e" => {
                Destination::Exchange(ExchangeName::new(destination).map_err(wrong)?)
            }
            other => return Err(format!("`{other}` is nothing to bind")),
        },
        routing_key: RoutingKey::new(
            object.get("routing_key").and_then(Value::as_str).unwrap_or(""),
        )
        .map_err(wrong)?,
        arguments: table(object)?,
    })
}

fn policy(object: &Map<String, Value>) -> Result<PolicyDefinition, String> {
    let definition = match object.get("definition") {
        Some(Value::Object(definition)) => definition.clone(),
        None | Some(Value::Null) => Map::new(),
        Some(Value::Array(values)) if values.is_empty() => Map::new(),
        Some(other) => return Err(format!("`definition` is `{other}`, not a table")),
    };
    Ok(PolicyDefinition {
        name: PolicyName::new(text(object, "name")?).map_err(|error| error.to_string())?,
        pattern: text(object, "pattern")?.to_owned(),
        apply_to: match object.get("apply-to") {
            None | Some(Value::Null) => ApplyTo::All,
            Some(_) => text(object, "apply-to")?.parse()?,
        },
        priority: match object.get("priority") {
            None | Some(Value::Null) => 0,
            Some(value) => {
                value.as_i64().ok_or_else(|| format!("`priority` is `{value}`, not a number"))?
            }
        },
        definition,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"{
      "rabbit_version": "3.10.8", "users": [{"name":"guest"}], "permissions": [{"user":"guest"}],
      "vhosts": [{"name":"/"},{"name":"other","metadata":{"default_queue_type":"quorum"}}],
      "queues": [
        {"name":"a","vhost":"/","durable":true,"auto_delete":false,"arguments":[]},
        {"name":"b","vhost":"other","durable":true,"auto_delete":false,"arguments":{"x-max-length":5,"x-queue-type":"quorum"}},
        {"name":"bad\nname","vhost":"other","durable":true}
      ],
      "exchanges": [{"name":"x","vhost":"other","type":"topic","durable":true,"auto_delete":false,"internal":false,"arguments":{}}],
      "bindings": [
        {"source":"x","vhost":"other","destination":"b","destination_type":"queue","routing_key":"k","arguments":{}},
        {"source":"x","vhost":"other","destination":"gone","destination_type":"queue","routing_key":"k"}
      ],
      "policies": [{"vhost":"other","name":"p","pattern":".*","apply-to":"queues","definition":{"max-length":9},"priority":1}],
      "parameters": [
        {"vhost":"other","component":"operator_policy","name":"o","value":{"pattern":"^b","apply-to":"queues","definition":{"max-length":100},"priority":0}},
        {"vhost":"other","component":"vhost-limits","name":"limits","value":{"max-queues":7}},
        {"vhost":"other","component":"shovel","name":"s","value":{}}
      ]
    }"#;

    #[test]
    fn one_vhost_of_a_cluster_is_read_and_what_is_left_out_is_named() {
        let imported = import(CLUSTER, Some("other"), "me").unwrap();
        let topology = &imported.topology;
        assert_eq!(topology.queues.len(), 1);
        assert_eq!(
            topology.queues[0].definition.arguments.get("x-max-length"),
            Some(&FieldValue::Int64(5))
        );
        assert_eq!(
            (topology.exchanges.len(), topology.bindings.len(), topology.policies.len()),
            (1, 2, 1)
        );
        assert_eq!(topology.operator_policies[0].definition.definition["max-length"], 100);
        assert_eq!(topology.limits["max-queues"].definition, 7);
        assert_eq!(topology.default_queue_type.as_ref().unwrap().definition, QueueType::Quorum);
        let codes: Vec<_> = imported.findings.iter().map(|finding| finding.code.0).collect();
        assert_eq!(
            codes,
            [
                "import/bad-object",
                "import/not-carried",
                "import/dangling-binding",
                "import/not-carried",
                "import/not-carried"
            ]
        );
    }

    #[test]
    fn a_file_that_is_of_no_use_is_refused_with_what_to_do() {
        for (text, says) in [
            ("{", "no JSON"),
            ("[]", "a JSON object"),
            (r#"{"a":1}"#, "none of the keys"),
            (CLUSTER, "several vhosts"),
        ] {
            let errors = import(text, None, "me").unwrap_err();
            assert!(errors[0].message.contains(says), "{text}: {errors:?}");
        }
        assert!(
            import(CLUSTER, Some("nope"), "me").unwrap_err()[0]
                .hint
                .as_ref()
                .unwrap()
                .contains("other")
        );
    }

    #[test]
    fn the_export_of_one_vhost_needs_no_name() {
        let text = r#"{"original_vhost_name":"v","default_queue_type":"classic","limits":[],"metadata":{},
            "queues":[{"name":"q","durable":true,"auto_delete":false,"arguments":{}}],"bindings":[],"policies":[],"parameters":[],"exchanges":[]}"#;
        let imported = import(text, None, "me").unwrap();
        assert_eq!(imported.topology.vhost.as_deref(), Some("v"));
        assert_eq!(imported.topology.queues.len(), 1);
        assert_eq!(imported.findings, []);
    }
}
