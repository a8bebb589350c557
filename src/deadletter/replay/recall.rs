//! Which of the letters that a resumed run meets it has met before.
//!
//! Pure. Names are not enough: of two letters that are the same in everything, one may have been replayed
//! and the other not even seen, and to skip that one would lose it. The order of the queue is. All that
//! came back lies before what was never seen. So a run that is resumed first looks along the queue for
//! its *anchor*: the last letter in its journal that was certainly not acked, and whose name the journal
//! has once. What lies before the anchor was seen; and of what was seen, a name that the journal has once
//! means one letter.
//!
//! Where there is no anchor nothing is recalled, and letters may come twice. They are listed.

use std::collections::HashMap;

use crate::deadletter::letter::LetterId;

use super::machine::{Known, Position, State};

/// Whether a letter in this state is certainly still in the queue.
pub fn is_certainly_there(state: State) -> bool {
    match state {
        State::Held | State::Intent(_) | State::Returned | State::Nacked | State::Copied => true,
        State::Confirmed | State::Parked | State::Skipped | State::Rested | State::Turned => false,
    }
}

/// Whether a letter in this state is one of those that were asked for, and is done.
pub fn is_gone(state: State) -> bool {
    matches!(state, State::Confirmed | State::Parked | State::Skipped | State::Copied)
}

/// What can be known of the letters in `head`, the first of the queue up to the anchor, by what the
/// journal has for a name. Nothing when `anchor` is not the last of them.
pub fn recall(
    head: &[LetterId],
    anchor: &LetterId,
    mut rows: impl FnMut(&LetterId) -> Vec<(Position, State)>,
) -> HashMap<LetterId, Known> {
    if head.last() != Some(anchor) {
        return HashMap::new();
    }
    let mut times: HashMap<&LetterId, u32> = HashMap::new();
    for key in head {
        *times.entry(key).or_default() += 1;
    }
    times
        .into_iter()
        .filter(|(_, times)| *times == 1)
        .filter_map(|(key, _)| match rows(key).as_slice() {
            [(position, state)] => {
                Some((key.clone(), Known { position: *position, state: *state }))
            }
            _ => None,
        })
        .collect()
}
