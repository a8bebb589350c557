//! What the broker itself would say to each definition, and to the vhost's settings.

use crate::base::diagnostic::Diagnostic;
use crate::broker::arguments::{check_exchange, check_policy, check_queue_arguments};
use crate::broker::version::Capabilities;
use crate::topology::expand::{exchange_object, policy_object, queue_object};

use super::codes::{NOT_YET, VHOST_LIMIT};
use super::{Lint, at};

impl Lint<'_> {
    pub(super) fn definitions(&mut self) {
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

    pub(super) fn vhost(&mut self) {
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
