//! Reads from the stored scans what the view asks for.

use std::ops::ControlFlow;

use crate::base::time::Timestamp;
use crate::deadletter::Scans;
use crate::deadletter::compare::compare;
use crate::deadletter::plain::whole;
use crate::deadletter::store::Scan;
use crate::storage::StorageError;

use super::lines::letter_lines;
use super::machine::{Data, Effect};
use super::model::{Compared, LetterRow};

/// What `effect` asks for; `None` when it asks for nothing that is read. A filter tells `looked` how
/// many letters it has looked at, and may be ended by it; what it has found then is not all.
pub fn read(
    scans: &Scans,
    scan: &Scan,
    effect: Effect,
    now: Timestamp,
    looked: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Option<Data> {
    match effect {
        Effect::Filter { condition, .. } if condition.is_empty() => None,
        Effect::Filter { turn, condition } => {
            let found = scans.matches(scan, &condition, looked);
            Some(Data::Matches { turn, found: found.map_err(|error| error.to_string()) })
        }
        Effect::Write { .. } | Effect::End(_) => None,
        effect => Some(
            from_index(scans, scan, effect, now)
                .unwrap_or_else(|error| Data::Failed(error.to_string())),
        ),
    }
}

fn from_index(
    scans: &Scans,
    scan: &Scan,
    effect: Effect,
    now: Timestamp,
) -> Result<Data, StorageError> {
    Ok(match effect {
        Effect::Groups { turn, from, most } => {
            Data::Groups { turn, rows: scans.groups_from(scan.id, from, most)? }
        }
        Effect::NamedGroups { turn, names } => {
            Data::Groups { turn, rows: scans.groups_named(scan.id, &names)? }
        }
        Effect::Places(group) => Data::Places { group, places: scans.places_of(scan.id, group)? },
        Effect::Letters { turn, places } => {
            let heads = scans.heads(scan.id, &places)?;
            // Of a scan that is being forgotten some are missing, and the rest would be shifted.
            let rows = heads.iter().zip(&places).take_while(|(l, place)| l.position == **place);
            Data::Letters { turn, rows: rows.map(|(letter, _)| LetterRow::of(letter)).collect() }
        }
        Effect::Letter { position, unmask } => {
            let text = match scans.at(scan.id, position)? {
                None => Vec::new(),
                Some(letter) => {
                    let mut twins = scans.places(scan.id, &letter.id)?;
                    twins.retain(|place| *place != position);
                    letter_lines(scan, &letter, &twins, unmask, now)
                }
            };
            Data::Letter { position, text }
        }
        Effect::Pair { places, unmask } => {
            let (one, other) = (scans.at(scan.id, places.0)?, scans.at(scan.id, places.1)?);
            let found = one.zip(other).map(|(one, other)| Compared {
                ids: (one.id.to_string(), other.id.to_string()),
                same_group: one.group == other.group,
                differences: compare(&whole(&one, unmask), &whole(&other, unmask)),
            });
            Data::Pair { places, found }
        }
        Effect::Filter { .. } | Effect::Write { .. } | Effect::End(_) => {
            Data::Failed("this is not read from an index".to_owned())
        }
    })
}
