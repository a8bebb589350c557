//! The topology while it is put together: what was said, where, and what is wrong with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::base::diagnostic::{Diagnostic, Findings, Span};
use crate::base::document::Spanned;
use crate::base::id::NameError;
use crate::broker::definition::{
    BindingDefinition, ExchangeDefinition, QueueDefinition, QueueType,
};
use crate::topology::model::{Desired, MessageType, Origin, Topology};
use crate::topology::spec::{TopologySpec, VhostQueueType};

use super::{CONFLICT, DUPLICATE, INVALID_NAME, binding_object, exchange_object, queue_object};

#[derive(Default)]
pub(super) struct Builder {
    pub(super) topology: Topology,
    pub(super) findings: Findings,
    pub(super) owner: Option<(String, Option<Span>)>,
    pub(super) cluster: Option<(String, Option<Span>)>,
    pub(super) vhost: Option<(String, Option<Span>)>,
    pub(super) seen: HashMap<String, Option<Span>>,
}

pub(super) fn written_at(span: Option<&Span>) -> Origin {
    Origin { span: span.cloned(), expanded_from: None }
}

impl Builder {
    pub(super) fn name<T>(
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
    pub(super) fn once(&mut self, object: &str, span: Option<&Span>) -> bool {
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
    pub(super) fn whole(&mut self, spec: &TopologySpec) {
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

    pub(super) fn place(&mut self, object: &str, setting: &str, span: Option<&Span>) {
        if object != "binding"
            && let Some(span) = span
        {
            self.topology.places.insert(object, setting, span.clone());
        }
    }

    /// Keeps what the file writes out under `name`.
    pub(super) fn said<T: Declared>(
        &mut self,
        definition: T,
        protect: bool,
        external: bool,
        span: Option<&Span>,
    ) {
        let desired = Desired { definition, protect, origin: written_at(span) };
        T::list(&mut self.topology, external).push(desired);
    }

    /// Keeps what a preset or sugar makes, unless the same is written out or made already.
    pub(super) fn made<T: Declared>(&mut self, definition: T, origin: &Origin) {
        if let Entry::Vacant(entry) = self.seen.entry(definition.object()) {
            entry.insert(origin.span.clone());
            let origin = origin.clone();
            T::list(&mut self.topology, false).push(Desired { definition, protect: false, origin });
        }
    }

    pub(super) fn finish(mut self) -> Result<Topology, Findings> {
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

/// What exchanges, queues and bindings have in common: an identity, and a list they belong to.
pub(super) trait Declared: Sized {
    /// What identifies it, in words.
    fn object(&self) -> String;

    /// Where things of this kind are kept: those of this topology, or those it only refers to.
    fn list(topology: &mut Topology, external: bool) -> &mut Vec<Desired<Self>>;
}

impl Declared for ExchangeDefinition {
    fn object(&self) -> String {
        exchange_object(self.name.as_str())
    }

    fn list(topology: &mut Topology, external: bool) -> &mut Vec<Desired<Self>> {
        if external { &mut topology.external.exchanges } else { &mut topology.exchanges }
    }
}

impl Declared for QueueDefinition {
    fn object(&self) -> String {
        queue_object(self.name.as_str())
    }

    fn list(topology: &mut Topology, external: bool) -> &mut Vec<Desired<Self>> {
        if external { &mut topology.external.queues } else { &mut topology.queues }
    }
}

impl Declared for BindingDefinition {
    fn object(&self) -> String {
        binding_object(self)
    }

    fn list(topology: &mut Topology, _external: bool) -> &mut Vec<Desired<Self>> {
        &mut topology.bindings
    }
}
