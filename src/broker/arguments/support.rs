//! The versions in which something exists.

use crate::broker::version::Version;

pub(super) const V3_12: Version = Version::new(3, 12, 0);

pub(super) const V3_13: Version = Version::new(3, 13, 0);

pub(super) const V4_0: Version = Version::new(4, 0, 0);

pub(super) const V4_3: Version = Version::new(4, 3, 0);

pub(super) const V4_3_1: Version = Version::new(4, 3, 1);

pub(super) const V4_3_5: Version = Version::new(4, 3, 5);

/// The versions in which something exists: from `since` up to, not including, `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    since: Option<Version>,
    until: Option<Version>,
}

impl Support {
    pub(super) const ALWAYS: Support = Support { since: Some(Version::new(0, 0, 0)), until: None };

    pub(super) const NEVER: Support = Support { since: None, until: None };

    pub(super) const fn since(version: Version) -> Support {
        Support { since: Some(version), until: None }
    }

    pub(super) const fn until(version: Version) -> Support {
        Support { since: Some(Version::new(0, 0, 0)), until: Some(version) }
    }

    pub(super) const fn between(since: Version, until: Version) -> Support {
        Support { since: Some(since), until: Some(until) }
    }

    /// Whether it exists in `version`.
    pub fn includes(self, version: Version) -> bool {
        self.since.is_some_and(|since| since <= version)
            && self.until.is_none_or(|until| version < until)
    }

    /// Whether it existed before `version` and no longer does.
    pub(super) fn ended_by(self, version: Version) -> Option<Version> {
        self.until.filter(|until| *until <= version)
    }

    /// The first version that has it, when that lies ahead of `version`.
    pub(super) fn begins_after(self, version: Version) -> Option<Version> {
        self.since.filter(|since| *since > version)
    }
}
