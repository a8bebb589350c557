//! What `nexus.yaml` says.

use crate::base::document::{Entries, Spanned, document_struct};
use crate::base::id::VhostName;
use crate::base::time::HumanDuration;

document_struct! {
    /// A project: its name, where its files are, and defaults for who works in it.
    pub struct ProjectFile: Project {
        /// What the project is called; also who owns the objects that its topology declares.
        pub name: Spanned<String>,
        /// The topology files, in the order they are read. Without this key: `topology.yaml`.
        pub topology: Option<Vec<Spanned<String>>>,
        /// The broker, when neither flag nor environment nor context names one. Without it: the
        /// embedded broker on `.nexus/state.db`.
        pub broker: Option<Spanned<String>>,
        /// The context to use in this project unless flag or environment name one.
        pub context: Option<Spanned<String>>,
        /// The virtual host.
        pub vhost: Option<VhostName>,
        /// The longest wait for any answer.
        pub timeout: Option<HumanDuration>,
        /// The state file, as seen from the project directory.
        pub state: Option<String>,
        /// Rate limits by the name of what they protect, shared by all processes of this host.
        pub limits: Entries<LimitSpec>,
        /// Circuit breakers by the name of what they protect, shared by all processes of this host.
        pub circuits: Entries<CircuitSpec>,
    }
}

document_struct! {
    /// A rate limit: one bucket of tokens, of which the last are kept for the more important.
    pub struct LimitSpec {
        /// The most that passes at once.
        pub capacity: Spanned<u32>,
        /// What passes per second in the long run; 0 lets nothing through once the bucket is empty.
        pub per_second: Spanned<f64>,
        /// The percentage of the capacity that each priority leaves to those above it.
        pub reserve: Spanned<ReserveSpec> = Spanned::default(),
        /// The percentage of the rate that each priority may take although its reserve forbids it.
        pub shares: Spanned<SharesSpec> = Spanned::default(),
    }
}

document_struct! {
    /// Percentages of the capacity; they rise from high to low, and critical leaves nothing.
    pub struct ReserveSpec {
        /// What high leaves to critical.
        pub high: u8 = 10,
        /// What normal leaves to critical and high.
        pub normal: u8 = 20,
        /// What low leaves to all others.
        pub low: u8 = 40,
    }
}

impl Default for ReserveSpec {
    fn default() -> Self {
        ReserveSpec { high: 10, normal: 20, low: 40 }
    }
}

document_struct! {
    /// Percentages of the rate; together at most 90, the rest is critical's at least.
    pub struct SharesSpec {
        /// For high.
        pub high: u8 = 10,
        /// For normal.
        pub normal: u8 = 10,
        /// For low.
        pub low: u8 = 5,
    }
}

impl Default for SharesSpec {
    fn default() -> Self {
        SharesSpec { high: 10, normal: 10, low: 5 }
    }
}

document_struct! {
    /// A circuit breaker: after too many failures nothing is let out for a while, then a few probes
    /// decide.
    pub struct CircuitSpec {
        /// Failures in a row that open it.
        pub threshold: Spanned<u32> = Spanned::nowhere(5),
        /// How long it stays open at first; twice as long after each failed probe.
        pub recovery: Spanned<HumanDuration> = Spanned::nowhere(HumanDuration::from_ms(2000)),
        /// How long it stays open at most. A minute when absent, or `recovery` when that is more.
        pub longest_recovery: Option<Spanned<HumanDuration>>,
        /// How many requests try the other side when it is half-open, and have to succeed.
        pub probes: Spanned<u32> = Spanned::nowhere(1),
        /// After how long a probe without a result is taken as lost.
        pub probe_lapse: HumanDuration = HumanDuration::from_ms(60_000),
        /// Looks also at the share of bad requests among those that ended within this time.
        pub window: Option<Spanned<HumanDuration>>,
        /// Opens it when with 95 % confidence at least this many of 100 requests in the window fail.
        /// 50 when there is a window.
        pub failed_percent: Option<Spanned<u8>>,
        /// Opens it when too many requests in the window are slow.
        pub slow: Option<Spanned<SlowSpec>>,
    }
}

document_struct! {
    /// Which requests are slow, and how many are too many.
    pub struct SlowSpec {
        /// A request that takes longer is slow, also when it succeeds.
        pub longer_than: HumanDuration,
        /// Opens the circuit when with 95 % confidence at least so many of 100 are slow.
        pub percent: Spanned<u8> = Spanned::nowhere(50),
    }
}

/// The file that makes a directory a project.
pub const PROJECT_FILE: &str = "nexus.yaml";

/// The topology file of a project that names none.
pub const TOPOLOGY_FILE: &str = "topology.yaml";

/// The state file of a project that names none.
pub const STATE_FILE: &str = ".nexus/state.db";
