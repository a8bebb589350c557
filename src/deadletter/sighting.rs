//! One letter as it was seen in a queue, with what its headers tell. Pure.

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::broker::Delivery;

use super::death::{Death, Origin, WorkerVerdict, deaths, origin, worker_verdict};
use super::fingerprint::{Fingerprint, Traits};
use super::letter::LetterId;

/// What the headers of a letter tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its deaths, newest first.
    pub deaths: Vec<Death>,
    /// Where it belongs.
    pub origin: Option<Origin>,
    /// What a worker wrote.
    pub verdict: Option<WorkerVerdict>,
}

impl Told {
    /// What the headers of `delivery` tell.
    pub fn of(delivery: &Delivery) -> Told {
        let properties = &delivery.message.properties;
        Told {
            deaths: deaths(properties),
            origin: origin(properties),
            verdict: worker_verdict(properties),
        }
    }

    /// When it died: as its worker says, else the newest death. The broker keeps the time of the first
    /// of several deaths in one queue for one reason, so this may be earlier than the last.
    pub fn died_at(&self) -> Option<Timestamp> {
        let verdict = self.verdict.as_ref().and_then(|verdict| verdict.at);
        verdict.or_else(|| self.deaths.first().and_then(|death| death.first_at))
    }

    /// Why it died: the class of its worker's verdict, else the broker's reason; empty when nothing tells.
    pub fn reason(&self) -> &str {
        match (&self.verdict, self.deaths.first()) {
            (Some(verdict), _) => &verdict.reason,
            (None, Some(death)) => death.reason.as_str(),
            (None, None) => "",
        }
    }

    /// What it has in common with others.
    pub fn traits(&self, delivery: &Delivery) -> Traits {
        let newest = self.deaths.first().map(|death| &death.reason);
        Traits::of(delivery, self.origin.as_ref(), newest, self.verdict.as_ref())
    }
}

/// One letter as a scan saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Its place in the queue, from 1.
    pub position: u64,
    /// Its name.
    pub id: LetterId,
    /// Its group.
    pub group: Fingerprint,
    /// What that has in common.
    pub traits: Traits,
    /// When it died.
    pub died_at: Option<Timestamp>,
    /// The message.
    pub delivery: Delivery,
}

impl Sighting {
    /// The letter at `position` of `queue`.
    pub fn of(vhost: &str, queue: &QueueName, position: u64, delivery: Delivery) -> Sighting {
        let told = Told::of(&delivery);
        let traits = told.traits(&delivery);
        Sighting {
            position,
            id: LetterId::of(vhost, queue, &delivery.message),
            group: traits.fingerprint(),
            traits,
            died_at: told.died_at(),
            delivery,
        }
    }
}
