//! Queues: made, made anew while empty, moved with their messages, or left alone with the reason.

use crate::broker::{Change, PolicyDefinition, Product, QueueDefinition, QueueState, QueueType};
use crate::topology::fingerprint::resolved_type;
use crate::topology::migrate::{self, Migration};
use crate::topology::model::Desired;
use crate::topology::object::{ObjectKind, ObjectRef, is_own_exchange};
use crate::topology::observed::{Aspect, binding_id};
use crate::topology::ownership::Owned;

use super::Planner;
use super::contents::{
    Action, Expectation, FieldChange, LossKind, Phase, PlannedChange, StepAction, Warning,
};

impl<'a> Planner<'a> {
    pub(super) fn queues(&mut self) {
        let desired = self.desired;
        for queue in &desired.queues {
            self.queue(queue);
        }
    }

    pub(super) fn queue(&mut self, queue: &Desired<QueueDefinition>) {
        let wanted = &queue.definition;
        let object = ObjectRef::queue(&wanted.name);
        let interrupted = migrate::leftovers(self.view, &wanted.name);
        let Some(is) = self.view.queue(wanted.name.as_str()) else {
            if interrupted {
                self.migrate(queue, None, Vec::new());
                return;
            }
            let mut change =
                PlannedChange::new(object.clone(), Action::Create).origin(&queue.origin);
            if wanted.exclusive {
                change.block(
                    "exclusive",
                    "an exclusive queue lives and dies with its connection, so a file cannot declare it",
                    "take it out of the file and let the program that uses it declare it",
                );
            } else {
                self.see(&object, Aspect::Definition);
                self.step(Phase::Queues, Change::DeclareQueue(wanted.clone()));
                self.claim(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
            }
            self.changes.push(change);
            return;
        };
        let fields = self.queue_fields(is, wanted);
        if fields.is_empty() {
            if interrupted {
                self.migrate(queue, Some(is), fields);
            }
            return;
        }
        if interrupted {
            self.migrate(queue, Some(is), fields);
            return;
        }
        let policy = self.policy_instead(is, wanted, &fields);
        if self.options.policy_instead
            && let Some(policy) = &policy
        {
            self.put_policy_instead(queue, is, fields, policy);
            return;
        }
        let mut change =
            PlannedChange::new(object, Action::ReplaceWhileEmpty).origin(&queue.origin);
        change.owner = self.owner_of(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
        change.messages = is.messages();
        change.policy.clone_from(&policy);
        if is.definition.exclusive {
            change.fields = fields;
            change.block(
                "exclusive",
                "the queue of that name belongs to one connection",
                "wait until that connection ends, or choose another name",
            );
            self.changes.push(change);
            return;
        }
        if change.messages == Some(0) && !self.options.migrate {
            self.replace_while_empty(queue, is, fields, change);
        } else if self.options.migrate {
            self.migrate(queue, Some(is), fields);
        } else {
            change.fields = fields;
            self.guard_change(&mut change, queue.protect, true);
            let next = match &policy {
                Some(_) => {
                    "let a policy do it (--policy-instead), which touches no message, or move the messages with --migrate"
                }
                None => "move the messages with --migrate, or empty the queue first",
            };
            match change.messages {
                Some(messages) => change.block(
                    "has-messages",
                    format!("these fields cannot be changed in place, and the queue holds {messages} messages"),
                    next,
                ),
                None => change.block(
                    "messages-unknown",
                    "these fields cannot be changed in place, and the broker has not counted the queue's messages yet",
                    format!("plan again in a few seconds; or {next}"),
                ),
            }
            self.changes.push(change);
        }
    }

    pub(super) fn guard_consumers(&self, change: &mut PlannedChange, is: &QueueState) {
        let Some(consumers) = is.consumers.filter(|n| *n > 0) else { return };
        if self.options.while_consumed {
            change.lose(
                LossKind::Consumers,
                Some(consumers),
                format!("{consumers} consumers are cancelled and have to subscribe again"),
            );
        } else {
            change.block(
                "has-consumers",
                format!("{consumers} consumers are attached, and would be cancelled"),
                "stop them first, or allow it with --while-consumed",
            );
        }
    }

    fn replace_while_empty(
        &mut self,
        queue: &Desired<QueueDefinition>,
        is: &QueueState,
        fields: Vec<FieldChange>,
        mut change: PlannedChange,
    ) {
        let object = change.object.clone();
        change.fields = fields;
        self.guard_change(&mut change, queue.protect, true);
        self.guard_consumers(&mut change, is);
        let bindings =
            self.restorable(self.view.bindings_of_queue(is.definition.name.as_str()), &mut change);
        if !bindings.is_empty() {
            change.lose(
                LossKind::Gap,
                None,
                "messages routed to it while it is away have no queue to go to: --migrate leaves no such gap",
            );
        }
        if change.blockers.is_empty() {
            self.see(&object, Aspect::Definition);
            self.see(&object, Aspect::Bindings);
            let unit = Some(format!("replace {object}"));
            let loses = change.loses.clone();
            let step = self.step(
                Phase::Queues,
                Change::DeleteQueue {
                    name: is.definition.name.clone(),
                    if_empty: true,
                    if_unused: !self.options.while_consumed,
                },
            );
            step.unit.clone_from(&unit);
            step.loses = loses;
            self.step(Phase::Queues, Change::DeclareQueue(queue.definition.clone()))
                .unit
                .clone_from(&unit);
            self.bind_again(Phase::Queues, bindings, &unit);
            self.claim(Owned::Named(ObjectKind::Queue, is.definition.name.as_str()));
            self.warn_quorum_window(&object, &queue.definition);
        }
        self.changes.push(change);
    }

    fn warn_quorum_window(&mut self, object: &ObjectRef, wanted: &QueueDefinition) {
        if resolved_type(wanted, self.default_type) == QueueType::Quorum
            && self.view.snapshot.identity.product == Product::RabbitMq
        {
            self.warnings.push(Warning {
                code: "quorum-recreated".to_owned(),
                object: object.clone(),
                text: "a quorum queue that was removed and made again under its name loses confirmed messages if the broker dies within about two seconds".to_owned(),
            });
        }
    }

    /// A queue with messages: see [`migrate`]. `is` is absent when an earlier run was interrupted
    /// after it had removed the queue.
    pub(super) fn migrate(
        &mut self,
        queue: &Desired<QueueDefinition>,
        is: Option<&QueueState>,
        fields: Vec<FieldChange>,
    ) {
        let wanted = &queue.definition;
        let object = ObjectRef::queue(&wanted.name);
        let mut change = PlannedChange::new(object.clone(), Action::Migrate).origin(&queue.origin);
        change.owner = self.owner_of(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
        change.fields = fields;
        change.messages = is.and_then(QueueState::messages);
        self.guard_change(&mut change, queue.protect, true);
        if let Some(is) = is {
            self.guard_consumers(&mut change, is);
        }
        let old_type = is.map(|is| resolved_type(&is.definition, None));
        let new_type = resolved_type(wanted, self.default_type);
        if old_type == Some(QueueType::Stream) || new_type == QueueType::Stream {
            change.block(
                "stream",
                "a stream is a log: its records cannot be moved with their offsets",
                "declare the new queue under another name and let its readers change over",
            );
        }
        let quorum = old_type == Some(QueueType::Quorum) || new_type == QueueType::Quorum;
        let hold_type = if quorum { QueueType::Quorum } else { QueueType::Classic };
        let names = migrate::Names::of(&wanted.name);
        let mut shadow = None;
        for operator in [false, true] {
            let fits = self.view.fits(operator);
            let harmful: Vec<&PolicyDefinition> = fits
                .iter()
                .filter(|fit| fit.policy.name.as_str() != migrate::SHADOW_POLICY)
                .filter(|fit| {
                    [&names.hold, &names.new]
                        .iter()
                        .any(|name| fit.queue(name.as_str(), hold_type, self.version()))
                })
                .map(|fit| fit.policy)
                .filter(|policy| policy.definition.keys().any(|key| migrate::limits(key)))
                .collect();
            let Some(first) = harmful.first() else { continue };
            if operator {
                change.block(
                    "operator-policy",
                    format!(
                        "operator policy `{}` would limit the temporary queue, and messages could be dropped there",
                        first.name
                    ),
                    format!("narrow its pattern so that it does not match `{}`", names.hold),
                );
            } else {
                let top = fits.iter().map(|fit| fit.policy.priority).max().unwrap_or(0);
                shadow = Some(migrate::shadow_policy(top.saturating_add(1)));
            }
        }
        let mut bindings = is.map_or_else(Vec::new, |is| {
            self.restorable(self.view.bindings_of_queue(is.definition.name.as_str()), &mut change)
        });
        // An interrupted run had moved the bindings to the queue for new messages: they are these.
        for binding in self.view.bindings_of_queue(names.new.as_str()) {
            let mut back = (*binding).clone();
            back.destination = crate::broker::Destination::Queue(wanted.name.clone());
            if !is_own_exchange(&back.source) && !bindings.contains(&back) {
                bindings.push(back);
            }
        }
        bindings.retain(|binding| !self.removed_bindings.contains(&binding_id(binding)));
        change.bindings = bindings.len();
        change.lose(
            LossKind::Gap,
            None,
            format!(
                "messages published straight to `{}` through the default exchange while it is made anew are returned, and those sent before the old ones are back overtake them",
                wanted.name
            ),
        );
        if change.blockers.is_empty() {
            self.see(&object, Aspect::Definition);
            self.see(&object, Aspect::Bindings);
            let migration = Migration {
                queue: wanted.name.clone(),
                definition: wanted.clone(),
                bindings,
                messages: change.messages,
                hold_type,
                shadow_policy: shadow,
                while_consumed: self.options.while_consumed,
            };
            let loses = change.loses.clone();
            let step = self.push(
                Phase::Queues,
                object.clone(),
                StepAction::Migrate(Box::new(migration)),
                Expectation::Present,
            );
            step.loses = loses;
            self.claim(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
            self.warnings.push(Warning {
                code: "migration-rewrites".to_owned(),
                object,
                text: "moved messages keep properties, headers, body and routing key; they come from another exchange, their time to live starts anew, they have all their deliveries again, and another login's `user_id` moves into a header".to_owned(),
            });
            if old_type == Some(QueueType::Quorum) {
                self.warnings.push(Warning {
                    code: "migration-deliveries".to_owned(),
                    object: ObjectRef::queue(&wanted.name),
                    text: format!(
                        "if the run is interrupted, up to {} messages are returned and lose one of the deliveries that their delivery limit allows",
                        migrate::WINDOW
                    ),
                });
            }
        }
        self.changes.push(change);
    }
}
