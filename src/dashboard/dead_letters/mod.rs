//! The dead letters of one stored scan: groups, letters, one letter, two letters, and the marks that
//! become a selection.
//!
//! Only what is on the screen is read; of everything else there is at most one bit a letter.

pub mod desk;
pub mod frame;
pub mod lines;
pub mod machine;
pub mod model;

pub use frame::{Palette, draw};
pub use machine::{Data, Effect, Ending, Event, Key};
pub use model::{Browse, HandOver};
