//! Changes of the topology, with RabbitMQ's own rules, reply codes and words.
//!
//! Every refusal comes before the first write, so a refused change leaves nothing behind.

use crate::base::id::ExchangeName;
use crate::broker::arguments::{ProblemKind, QUEUE_ARGUMENTS, check_policy, check_queue_arguments};
use crate::broker::change::{Change, Changed};
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::broker::effective::resolve_queue_type;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::routing::{check_headers_binding, type_name};
use crate::message::FieldValue;

use super::codec::{encode_table, is_storable};
use super::engine::{Engine, Fault, QueueInfo, exchange_of, not_for_streams, queue_of};
use super::store::{BindingRow, ExchangeRow, PolicyRow, QueueRow, Store};

/// A refusal in RabbitMQ's words.
fn refusal(kind: ErrorKind, change: &str, code: u16, name: &str, text: &str) -> Fault {
    BrokerError::new(kind, change, text).reply(code, format!("{name} - {text}")).into()
}

/// A 406. Whether the request is wrong by itself or only here is not in RabbitMQ's code, but in its
/// words.
fn precondition(change: &str, text: &str) -> Fault {
    let wrong_by_itself = text.starts_with("invalid ") || text.contains("routing_key_but_no_dlx");
    let kind = if wrong_by_itself { ErrorKind::Invalid } else { ErrorKind::PreconditionFailed };
    refusal(kind, change, 406, "PRECONDITION_FAILED", text)
}

/// A 403. Reserved names are nobody's to declare: that is not about the login.
fn refused_access(change: &str, text: &str) -> Fault {
    let kind = if text.contains("reserved prefix") {
        ErrorKind::Invalid
    } else {
        ErrorKind::AccessRefused
    };
    refusal(kind, change, 403, "ACCESS_REFUSED", text)
}

fn unsupported(change: &str, cause: &str, hint: &str) -> Fault {
    BrokerError::new(ErrorKind::Unsupported, change, cause).hint(hint).into()
}

/// A value as RabbitMQ prints it.
fn show(value: &FieldValue) -> String {
    match value {
        FieldValue::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        FieldValue::Bool(flag) => flag.to_string(),
        FieldValue::Float(n) => n.to_string(),
        FieldValue::Double(n) => n.to_string(),
        other => match other.as_i64() {
            Some(number) => number.to_string(),
            None => crate::broker::arguments::describe_value(other),
        },
    }
}

impl Engine {
    pub(super) fn no_queue(&self, attempted: &str, name: &str) -> Fault {
        let text = format!("no queue '{name}' in vhost '{}'", self.vhost);
        refusal(ErrorKind::NotFound, attempted, 404, "NOT_FOUND", &text)
    }

    fn no_exchange(&self, attempted: &str, name: &str) -> Fault {
        let text = format!("no exchange '{name}' in vhost '{}'", self.vhost);
        refusal(ErrorKind::NotFound, attempted, 404, "NOT_FOUND", &text)
    }

    /// Somebody else's exclusive queue is out of reach.
    pub(super) fn check_owner(
        &self,
        attempted: &str,
        name: &str,
        owner: Option<i64>,
    ) -> Result<(), Fault> {
        if owner.is_none_or(|owner| owner == self.session) {
            return Ok(());
        }
        let text = format!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '{}'. It could be \
             originally declared on another connection or the exclusive property value does not \
             match that of the original declaration.",
            self.vhost
        );
        Err(refusal(ErrorKind::Locked, attempted, 405, "RESOURCE_LOCKED", &text))
    }

    /// Carries out one change.
    pub(super) fn change(&mut self, store: Store<'_>, change: &Change) -> Result<Changed, Fault> {
        let attempted = change.to_string();
        match change {
            Change::DeclareExchange(exchange) => {
                self.declare_exchange(store, &attempted, exchange)?;
            }
            Change::DeleteExchange { name, if_unused } => {
                self.delete_exchange(store, &attempted, name, *if_unused)?;
            }
            Change::DeclareQueue(queue) => self.declare_queue(store, &attempted, queue)?,
            Change::DeleteQueue { name, if_empty, if_unused } => {
                let Some(row) = store.queue_named(self.vhost_id, name.as_str())? else {
                    return Ok(Changed::WithMessages(0));
                };
                self.check_owner(&attempted, name.as_str(), row.owner)?;
                let Some(info) = self.info(store, row.id)? else {
                    return Ok(Changed::WithMessages(0));
                };
                let (ready, unacked) = self.depth(store, row.id)?;
                if *if_unused && store.consumers(row.id)?.0 > 0 {
                    let text = format!("queue '{name}' in vhost '{}' in use", self.vhost);
                    return Err(precondition(&attempted, &text));
                }
                if *if_empty && ready + unacked > 0 {
                    let text = format!("queue '{name}' in vhost '{}' not empty", self.vhost);
                    return Err(precondition(&attempted, &text));
                }
                return Ok(Changed::WithMessages(self.delete_queue(store, &info)?));
            }
            Change::PurgeQueue(name) => {
                let info = self.queue_for(store, &attempted, name.as_str())?;
                if info.is_stream() {
                    let vhost = self.vhost.as_str();
                    return Err(not_for_streams(&attempted, name.as_str(), vhost));
                }
                return Ok(Changed::WithMessages(self.purge(store, &info)?));
            }
            Change::Bind(binding) => self.bind(store, &attempted, binding)?,
            Change::Unbind(binding) => self.unbind(store, &attempted, binding)?,
            Change::PutPolicy(policy) => self.put_policy(store, &attempted, policy, false)?,
            Change::PutOperatorPolicy(policy) => {
                self.put_policy(store, &attempted, policy, true)?;
            }
            Change::DeletePolicy(name) => {
                store.delete_policy(self.vhost_id, false, name.as_str())?;
                self.policies_changed(store)?;
            }
            Change::DeleteOperatorPolicy(name) => {
                store.delete_policy(self.vhost_id, true, name.as_str())?;
                self.policies_changed(store)?;
            }
            Change::SetVhostLimit { name, value } => {
                if !matches!(name.as_str(), "max-queues" | "max-connections") {
                    return Err(BrokerError::new(
                        ErrorKind::Invalid,
                        attempted,
                        "there are the limits `max-queues` and `max-connections`",
                    )
                    .into());
                }
                store.set_limit(self.vhost_id, name, *value)?;
            }
            Change::SetDefaultQueueType(kind) => {
                if !self.capabilities.default_queue_type {
                    return Err(unsupported(
                        &attempted,
                        "a vhost has no default queue type before 3.11",
                        "say `x-queue-type` per queue",
                    ));
                }
                store.set_default_queue_type(self.vhost_id, kind.as_str())?;
                self.default_queue_type = Some(*kind);
            }
        }
        Ok(Changed::Done)
    }

    /// The queue of that name, when this session may use it.
    pub(super) fn queue_for(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        name: &str,
    ) -> Result<std::sync::Arc<QueueInfo>, Fault> {
        let Some(row) = store.queue_named(self.vhost_id, name)? else {
            return Err(self.no_queue(attempted, name));
        };
        self.check_owner(attempted, name, row.owner)?;
        match self.info(store, row.id)? {
            Some(info) => Ok(info),
            None => Err(self.no_queue(attempted, name)),
        }
    }

    // --- queues ---

    fn declare_queue(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        queue: &QueueDefinition,
    ) -> Result<(), Fault> {
        let name = queue.name.as_str();
        let vhost = self.vhost.clone();
        if let Some(named) = queue.arguments.get("x-queue-type")
            && queue.queue_type().is_none()
        {
            let text = match named {
                FieldValue::Text(_) => format!(
                    "invalid arg 'x-queue-type' for queue '{name}' in vhost '{vhost}': \
                     \"unsupported queue type '{}'\"",
                    show(named)
                ),
                other => format!(
                    "invalid arg 'x-queue-type' for queue '{name}' in vhost '{vhost}': \
                     \"expected string, got {}\"",
                    type_name(other)
                ),
            };
            return Err(precondition(attempted, &text));
        }
        // What is exclusive goes with its connection and is therefore never durable.
        let mut queue = queue.clone();
        queue.durable &= !queue.exclusive;
        let (queue_type, _) = resolve_queue_type(&queue, self.default_queue_type);
        let untyped = queue.arguments.get("x-queue-type").is_none();
        if untyped && (self.capabilities.reads_back_classic || self.default_queue_type.is_some()) {
            queue.arguments.insert("x-queue-type", queue_type.as_str());
        }
        if let Some(row) = store.queue_named(self.vhost_id, name)? {
            self.check_owner(attempted, name, row.owner)?;
            let info = self.queue_for(store, attempted, name)?;
            let current = queue_of(row)?;
            if queue.exclusive != current.exclusive {
                return self.check_owner(attempted, name, Some(i64::MIN));
            }
            self.check_equivalent(attempted, &queue, &current, info.queue_type)?;
            return self.used(store, &info);
        }
        if name.starts_with("amq.") {
            let text = format!("queue name '{name}' contains reserved prefix 'amq.*'");
            return Err(refused_access(attempted, &text));
        }
        self.check_fresh(attempted, &queue, queue_type)?;
        let limits = store.limits(self.vhost_id)?;
        if let Some((_, most)) = limits.iter().find(|(limit, _)| limit == "max-queues")
            && *most >= 0
            && store.count_queues(self.vhost_id)? >= *most
        {
            let text = format!(
                "cannot declare queue '{name}': queue limit in vhost '{vhost}' ({most}) is reached"
            );
            return Err(precondition(attempted, &text));
        }
        let id = store.insert_queue(
            self.vhost_id,
            &QueueRow {
                id: 0,
                name: name.to_owned(),
                queue_type: queue_type.as_str().to_owned(),
                durable: queue.durable,
                auto_delete: queue.auto_delete,
                owner: queue.exclusive.then_some(self.session),
                arguments: encode_table(&queue.arguments),
            },
            self.now,
        )?;
        self.topology_changed(store)?;
        if let Some(info) = self.info(store, id)? {
            self.refresh_due(store, &info)?;
        }
        Ok(())
    }

    /// What a fresh declaration is refused for.
    fn check_fresh(
        &self,
        attempted: &str,
        queue: &QueueDefinition,
        queue_type: QueueType,
    ) -> Result<(), Fault> {
        let (name, vhost) = (&queue.name, &self.vhost);
        if !is_storable(&queue.arguments) {
            return Err(BrokerError::new(
                ErrorKind::Invalid,
                attempted,
                "its arguments nest too deep",
            )
            .into());
        }
        let problems = check_queue_arguments(queue, queue_type, self.version);
        let Some(problem) = problems.iter().find(|problem| problem.refused) else {
            return Ok(());
        };
        let argument = problem.argument.as_str();
        let value = queue.arguments.get(argument);
        let of = format!("'{argument}' for queue '{name}' in vhost '{vhost}'");
        let text = match (&problem.kind, value) {
            (ProblemKind::Property, _) => {
                let property = match argument {
                    "durable" => "non-durable",
                    "exclusive" => "exclusive-owner",
                    other => other,
                };
                format!("invalid property '{property}' for queue '{name}' in vhost '{vhost}'")
            }
            (ProblemKind::OtherType | ProblemKind::Removed, _) => {
                format!("invalid arg {of} of queue type rabbit_{queue_type}_queue")
            }
            (ProblemKind::WrongType, Some(value)) => {
                format!("invalid arg {of}: \"expected integer, got {}\"", type_name(value))
            }
            (ProblemKind::OutOfRange, Some(value)) => match value.as_i64() {
                Some(n) if n < 0 => format!("invalid arg {of}: {{value_negative,{n}}}"),
                Some(n) => format!("invalid arg {of}: {{value_too_large,{n}}}"),
                None => format!("invalid arg {of}: {}", problem.message),
            },
            (ProblemKind::Incomplete, _) => {
                format!("invalid arg {of}: routing_key_but_no_dlx_defined")
            }
            _ => format!("invalid arg {of}: {}", problem.message),
        };
        let mut error = BrokerError::new(ErrorKind::Invalid, attempted, problem.message.clone())
            .reply(406, format!("PRECONDITION_FAILED - {text}"));
        if let Some(hint) = &problem.hint {
            error = error.hint(hint.clone());
        }
        Err(error.into())
    }

    fn check_equivalent(
        &self,
        attempted: &str,
        wanted: &QueueDefinition,
        current: &QueueDefinition,
        queue_type: QueueType,
    ) -> Result<(), Fault> {
        let of = |argument: &str| {
            format!(
                "inequivalent arg '{argument}' for queue '{}' in vhost '{}'",
                current.name, self.vhost
            )
        };
        for (argument, wanted, current) in [
            ("durable", wanted.durable, current.durable),
            ("auto_delete", wanted.auto_delete, current.auto_delete),
        ] {
            if wanted != current {
                let text =
                    format!("{}: received '{wanted}' but current is '{current}'", of(argument));
                return Err(precondition(attempted, &text));
            }
        }
        // Only what queues of this type know is compared.
        for argument in QUEUE_ARGUMENTS
            .iter()
            .filter(|a| !a.name.is_empty() && a.support(queue_type).includes(self.version))
        {
            let name = argument.name;
            let (new, old) = (wanted.arguments.get(name), current.arguments.get(name));
            let (wants, is) = (new.map(show), old.map(show));
            if name == "x-queue-type" {
                let classic = || QueueType::Classic.as_str().to_owned();
                if wants.clone().unwrap_or_else(classic) == is.clone().unwrap_or_else(classic) {
                    continue;
                }
            }
            let text = match (new, old) {
                (None, None) => continue,
                (Some(new), Some(old)) if new.is_equivalent(old) => continue,
                (Some(_), Some(_)) => format!(
                    "{}: received '{}' but current is '{}'",
                    of(name),
                    wants.unwrap_or_default(),
                    is.unwrap_or_default()
                ),
                (Some(new), None) => format!(
                    "{}: received the value '{}' of type '{}' but current is none",
                    of(name),
                    wants.unwrap_or_default(),
                    type_name(new)
                ),
                (None, Some(old)) => format!(
                    "{}: received none but current is the value '{}' of type '{}'",
                    of(name),
                    is.unwrap_or_default(),
                    type_name(old)
                ),
            };
            return Err(precondition(attempted, &text));
        }
        Ok(())
    }

    // --- exchanges ---

    fn declare_exchange(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        exchange: &ExchangeDefinition,
    ) -> Result<(), Fault> {
        let (name, vhost) = (exchange.name.as_str(), self.vhost.clone());
        if exchange.name.is_default() {
            return Err(refused_access(
                attempted,
                "operation not permitted on the default exchange",
            ));
        }
        if let ExchangeKind::Other(kind) = &exchange.kind {
            let text = format!("unknown exchange type '{kind}'");
            let (code, word) = if self.version.major >= 4 {
                (406, "PRECONDITION_FAILED")
            } else {
                (503, "COMMAND_INVALID")
            };
            return Err(refusal(ErrorKind::Unsupported, attempted, code, word, &text));
        }
        if let Some(row) = store.exchange(self.vhost_id, name)? {
            let current = exchange_of(row)?;
            let of = |argument: &str| {
                format!("inequivalent arg '{argument}' for exchange '{name}' in vhost '{vhost}'")
            };
            let flag = |flag: bool| flag.to_string();
            for (argument, wanted, current) in [
                ("type", exchange.kind.to_string(), current.kind.to_string()),
                ("durable", flag(exchange.durable), flag(current.durable)),
                ("auto_delete", flag(exchange.auto_delete), flag(current.auto_delete)),
                ("internal", flag(exchange.internal), flag(current.internal)),
            ] {
                if wanted != current {
                    let text =
                        format!("{}: received '{wanted}' but current is '{current}'", of(argument));
                    return Err(precondition(attempted, &text));
                }
            }
            let (new, old) = (exchange.alternate_exchange(), current.alternate_exchange());
            let argument = of("alternate-exchange");
            let text = match (new, old) {
                (new, old) if new == old => return Ok(()),
                (Some(new), Some(old)) => {
                    format!("{argument}: received '{new}' but current is '{old}'")
                }
                (Some(new), None) => format!(
                    "{argument}: received the value '{new}' of type 'longstr' but current is none"
                ),
                (None, Some(old)) => format!(
                    "{argument}: received none but current is the value '{old}' of type 'longstr'"
                ),
                (None, None) => return Ok(()),
            };
            return Err(precondition(attempted, &text));
        }
        if exchange.name.is_predeclared() {
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(refused_access(attempted, &text));
        }
        if let Some(value) = exchange.arguments.get("alternate-exchange")
            && value.as_text().is_none()
        {
            let text = format!(
                "invalid arg 'alternate-exchange' for exchange '{name}' in vhost '{vhost}': \
                 \"expected longstr, got {}\"",
                type_name(value)
            );
            return Err(precondition(attempted, &text));
        }
        if !is_storable(&exchange.arguments) {
            return Err(BrokerError::new(
                ErrorKind::Invalid,
                attempted,
                "its arguments nest too deep",
            )
            .into());
        }
        store.insert_exchange(
            self.vhost_id,
            &ExchangeRow {
                name: name.to_owned(),
                kind: exchange.kind.as_str().to_owned(),
                durable: exchange.durable,
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                arguments: encode_table(&exchange.arguments),
            },
        )?;
        self.topology_changed(store)
    }

    fn delete_exchange(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        name: &ExchangeName,
        if_unused: bool,
    ) -> Result<(), Fault> {
        if name.is_default() {
            return Err(refused_access(
                attempted,
                "operation not permitted on the default exchange",
            ));
        }
        if name.is_predeclared() {
            let text = format!("exchange name '{name}' contains reserved prefix 'amq.*'");
            return Err(refused_access(attempted, &text));
        }
        if store.exchange(self.vhost_id, name.as_str())?.is_none() {
            return Ok(());
        }
        if if_unused && store.has_binding_from(self.vhost_id, name.as_str())? {
            let text = format!("exchange '{name}' in vhost '{}' in use", self.vhost);
            return Err(precondition(attempted, &text));
        }
        store.delete_bindings_from(self.vhost_id, name.as_str())?;
        let sources = store.delete_bindings_to(self.vhost_id, false, name.as_str())?;
        store.delete_exchange(self.vhost_id, name.as_str())?;
        self.topology_changed(store)?;
        self.delete_unused_exchanges(store, sources)
    }

    // --- bindings ---

    fn check_ends(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        binding: &BindingDefinition,
    ) -> Result<ExchangeKind, Fault> {
        let default = "operation not permitted on the default exchange";
        if binding.source.is_default() {
            return Err(refused_access(attempted, default));
        }
        match &binding.destination {
            Destination::Queue(name) => {
                let Some(row) = store.queue_named(self.vhost_id, name.as_str())? else {
                    return Err(self.no_queue(attempted, name.as_str()));
                };
                self.check_owner(attempted, name.as_str(), row.owner)?;
            }
            Destination::Exchange(name) if name.is_default() => {
                return Err(refused_access(attempted, default));
            }
            Destination::Exchange(name) => {
                if store.exchange(self.vhost_id, name.as_str())?.is_none() {
                    return Err(self.no_exchange(attempted, name.as_str()));
                }
            }
        }
        match store.exchange(self.vhost_id, binding.source.as_str())? {
            Some(source) => Ok(ExchangeKind::from(source.kind.as_str())),
            None => Err(self.no_exchange(attempted, binding.source.as_str())),
        }
    }

    fn bind(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        binding: &BindingDefinition,
    ) -> Result<(), Fault> {
        let kind = self.check_ends(store, attempted, binding)?;
        if kind == ExchangeKind::Headers
            && let Err(text) = check_headers_binding(&binding.arguments)
        {
            return Err(precondition(attempted, &text));
        }
        if !is_storable(&binding.arguments) {
            return Err(BrokerError::new(
                ErrorKind::Invalid,
                attempted,
                "its arguments nest too deep",
            )
            .into());
        }
        if store.insert_binding(self.vhost_id, &binding_row(binding))? {
            self.topology_changed(store)?;
        }
        Ok(())
    }

    fn unbind(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        binding: &BindingDefinition,
    ) -> Result<(), Fault> {
        if binding.source.is_default() {
            return Err(refused_access(
                attempted,
                "operation not permitted on the default exchange",
            ));
        }
        if store.delete_binding(self.vhost_id, &binding_row(binding))? {
            self.topology_changed(store)?;
            self.delete_unused_exchanges(store, vec![binding.source.as_str().to_owned()])?;
        }
        Ok(())
    }

    // --- policies ---

    fn put_policy(
        &mut self,
        store: Store<'_>,
        attempted: &str,
        policy: &PolicyDefinition,
        operator: bool,
    ) -> Result<(), Fault> {
        if let Some(problem) =
            check_policy(policy, operator, self.version).iter().find(|problem| problem.refused)
        {
            let mut error =
                BrokerError::new(ErrorKind::Invalid, attempted, problem.message.clone())
                    .reply(400, format!("Validation failed: {}", problem.message));
            if let Some(hint) = &problem.hint {
                error = error.hint(hint.clone());
            }
            return Err(error.into());
        }
        if let Err(cause) = crate::broker::effective::compile_pattern(&policy.pattern) {
            return Err(unsupported(
                attempted,
                &format!("the embedded broker cannot read its pattern: {cause}"),
                "use a pattern without look-around and back references",
            ));
        }
        let row = PolicyRow {
            operator,
            name: policy.name.as_str().to_owned(),
            pattern: policy.pattern.clone(),
            apply_to: policy.apply_to.as_str().to_owned(),
            priority: policy.priority,
            definition: serde_json::Value::Object(policy.definition.clone()).to_string(),
        };
        store.put_policy(self.vhost_id, &row)?;
        self.policies_changed(store)
    }
}

fn binding_row(binding: &BindingDefinition) -> BindingRow {
    let (to_queue, destination) = match &binding.destination {
        Destination::Queue(name) => (true, name.as_str()),
        Destination::Exchange(name) => (false, name.as_str()),
    };
    BindingRow {
        source: binding.source.as_str().to_owned(),
        to_queue,
        destination: destination.to_owned(),
        key: binding.routing_key.as_str().to_owned(),
        arguments: encode_table(&binding.arguments),
    }
}
