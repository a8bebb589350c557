//! The plan that removes exactly what a topology declares and its owner made.
//!
//! Pure. Declared objects that are not recorded as this owner's stay, and are listed as `extra`.

use crate::broker::Snapshot;

use super::model::Topology;
use super::observed::Observed;
use super::plan::{Options, Plan, Planner};

/// Plans the removal. Of `options`, `lose_messages` and `while_consumed` count; the number of
/// removals is not limited, since each is declared.
pub fn destroy(desired: &Topology, observed: &Snapshot, options: &Options) -> Plan {
    let view = Observed::new(observed);
    let mut planner = Planner::new(desired, &view, options);
    if planner.guard() {
        planner.destroy();
    }
    planner.finish()
}
