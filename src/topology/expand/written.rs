//! What is written out: exchanges, queues, bindings, policies.

use serde_json::{Map, Value as Json};

use crate::base::diagnostic::{Diagnostic, Span};
use crate::base::document::{Entries, Spanned};
use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition,
};
use crate::message::{FieldTable, FieldValue};
use crate::topology::model::Desired;
use crate::topology::spec::{
    BindSpec, BindingSpec, DeadLetterRoute, DeadLetterSpec, DefaultsSpec, ExchangeSpec,
    HeaderMatch, PolicySpec, QueueKind, QueueSpec, TopologySpec,
};

use super::builder::{Builder, Declared, written_at};
use super::settings::{apply_to, policy_setting, settings_of, typed_field};
use super::{
    DEAD_LETTER_EXCHANGE, DUPLICATE, INCOMPLETE, INVALID_SETTING, exchange_object, policy_object,
    queue_object,
};

impl Builder {
    /// Everything that is written out.
    pub(super) fn written(&mut self, spec: &TopologySpec) {
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

    pub(super) fn exchange(
        &mut self,
        name: &Spanned<String>,
        said: &ExchangeSpec,
        defaults: &DefaultsSpec,
    ) {
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
        let definition = ExchangeDefinition {
            name: exchange_name,
            kind,
            durable: said.durable.unwrap_or(true),
            auto_delete: said.auto_delete,
            internal: said.internal,
            arguments,
        };
        let protect = said.protect.unwrap_or(defaults.protect);
        self.said(definition, protect, said.external, name.span.as_ref());
    }

    pub(super) fn queue(
        &mut self,
        name: &Spanned<String>,
        said: &QueueSpec,
        defaults: &DefaultsSpec,
    ) {
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
        for (argument, value, span) in settings_of(said) {
            self.put(&object, &mut arguments, argument, span, value);
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
        let definition = QueueDefinition {
            name: queue_name,
            durable: said.durable.unwrap_or(defaults.durable),
            exclusive: false,
            auto_delete: said.auto_delete,
            arguments,
        };
        let protect = said.protect.unwrap_or(defaults.protect);
        self.said(definition, protect, said.external, name.span.as_ref());
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

    pub(super) fn binding(&mut self, said: &Spanned<BindingSpec>) {
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

    pub(super) fn bindings(
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
            if self.once(&definition.object(), span) {
                self.said(definition, false, false, span);
            }
        }
    }

    pub(super) fn policy(
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

    pub(super) fn typed_field(&mut self, value: &Spanned<Json>) -> Option<FieldValue> {
        match typed_field(&value.value) {
            Ok(field) => Some(field),
            Err(why) => {
                self.findings.push(Diagnostic::error(INVALID_SETTING, why).at(value.span.clone()));
                None
            }
        }
    }

    /// Sets an argument that must not have been said in `arguments` too.
    pub(super) fn put(
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
}

pub(super) struct KeysAndHeaders<'a> {
    key: Option<&'a Spanned<RoutingKey>>,
    keys: &'a [Spanned<RoutingKey>],
    headers: &'a Entries<Spanned<Json>>,
    matching: Option<&'a Spanned<HeaderMatch>>,
    arguments: &'a Entries<Spanned<Json>>,
}

fn empty_key() -> RoutingKey {
    RoutingKey::new("").expect("the empty text is a routing key")
}
