//! Which value wins where argument, policy and operator policy meet.
