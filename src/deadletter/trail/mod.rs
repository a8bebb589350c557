//! The trail: who did what to dead letters, when and why, in a chain that shows every change made to it
//! afterwards.
//!
//! [`chain`] says what an entry is, how it is sealed and what may be wrong with a chain; [`store`] keeps
//! it in the state file. An entry is written in the same commit as what it tells of. Each is sealed
//! together with the seal of the one before, so whoever notes the newest seal elsewhere can prove later
//! that nothing before it was changed, taken out or moved. What a chain cannot show by itself: that its
//! newest entries were taken away together with every other trace of them.

pub mod chain;
pub mod store;

pub use chain::{Broken, Damage, Entry, NewEntry, Noun, Verdict};
pub use store::{Filter, Head, Trail, append};
