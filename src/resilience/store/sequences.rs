//! Numbers of workflows, by the rules of [`crate::resilience::sequence`].

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row};

use crate::base::time::Timestamp;
use crate::resilience::sequence::{Seen, SequenceTracker, Start};
use crate::storage::{Durability, StorageError, rusqlite};

use super::{SharedState, bounded, from_json, known_scope, scope_id, to_json};

/// How workflows of a scope are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceSettings {
    /// Which number a workflow begins with.
    pub start: Start,
    /// How many ranges of processed numbers are remembered of a workflow.
    pub max_ranges: usize,
    /// A workflow of which nothing was seen for so long is forgotten.
    pub keep: Duration,
}

impl Default for SequenceSettings {
    fn default() -> Self {
        SequenceSettings {
            start: Start::FirstSeen,
            max_ranges: 1000,
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A workflow as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSequence {
    /// Where it was followed: a queue's name, or one that was given.
    pub scope: String,
    /// The workflow.
    pub workflow: String,
    /// Its numbers.
    pub tracker: SequenceTracker,
    /// When a number was noted last.
    pub changed: Timestamp,
}

/// How many workflows are forgotten per one that is noted.
const SWEPT_PER_WORKFLOW: usize = 2;

fn find(connection: &Connection, scope: i64, workflow: &str) -> SqlResult<Option<SequenceTracker>> {
    connection
        .prepare_cached("SELECT tracker FROM resilience_sequence WHERE scope = ? AND workflow = ?")?
        .query_row((scope, workflow), |row| from_json(0, &row.get::<_, String>(0)?))
        .optional()
}

fn stored(row: &Row<'_>) -> SqlResult<StoredSequence> {
    Ok(StoredSequence {
        scope: row.get(0)?,
        workflow: row.get(1)?,
        tracker: from_json(2, &row.get::<_, String>(2)?)?,
        changed: Timestamp::from_unix_ms(row.get(3)?),
    })
}

impl SharedState {
    /// Notes numbers of workflows that were processed, and says what each was; on the disk when it
    /// returns, so that a power cut opens no gap where none was. A workflow goes on with the settings
    /// that it began with.
    ///
    /// # Errors
    /// When the file fails; nothing was noted then.
    pub async fn processed(
        &self,
        scope: &str,
        numbers: Vec<(String, u64)>,
        settings: SequenceSettings,
        now: Timestamp,
    ) -> Result<Vec<Seen>, StorageError> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let scope = scope.to_owned();
        self.write(Durability::Disk, move |connection, _| {
            let scope = scope_id(connection, &scope)?;
            let mut trackers: BTreeMap<&str, SequenceTracker> = BTreeMap::new();
            let mut answers = Vec::with_capacity(numbers.len());
            for (workflow, number) in &numbers {
                let tracker = match trackers.entry(workflow) {
                    std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::btree_map::Entry::Vacant(place) => {
                        let known = find(connection, scope, &bounded(workflow))?;
                        place.insert(known.unwrap_or_else(|| {
                            SequenceTracker::new(settings.start, settings.max_ranges)
                        }))
                    }
                };
                answers.push(tracker.processed(*number));
            }
            let until = now.after(settings.keep).unix_ms();
            let swept = trackers.len().saturating_mul(SWEPT_PER_WORKFLOW);
            for (workflow, tracker) in trackers {
                connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO resilience_sequence VALUES(?, ?, ?, ?, ?)",
                    )?
                    .execute((
                        scope,
                        bounded(workflow).as_ref(),
                        to_json(&tracker)?,
                        now.unix_ms(),
                        until,
                    ))?;
            }
            connection
                .prepare_cached(
                    "DELETE FROM resilience_sequence WHERE (scope, workflow) IN
                         (SELECT scope, workflow FROM resilience_sequence
                          WHERE until <= ? ORDER BY until LIMIT ?)",
                )?
                .execute((now.unix_ms(), i64::try_from(swept).unwrap_or(i64::MAX)))?;
            Ok(answers)
        })
        .await
    }

    /// The numbers of one workflow: what is missing, the highest, what was written off.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sequence(
        &self,
        scope: &str,
        workflow: &str,
    ) -> Result<Option<SequenceTracker>, StorageError> {
        self.read(|connection| match known_scope(connection, scope)? {
            Some(scope) => find(connection, scope, &bounded(workflow)),
            None => Ok(None),
        })
    }

    /// Hands out the workflows that are followed, of one scope or one name if wished, by scope and
    /// name, until `see` has had enough and says `false`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sequences(
        &self,
        scope: Option<&str>,
        workflow: Option<&str>,
        mut see: impl FnMut(StoredSequence) -> bool,
    ) -> Result<(), StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT s.name, q.workflow, q.tracker, q.changed
                 FROM resilience_scope s JOIN resilience_sequence q ON q.scope = s.id
                 WHERE (?1 IS NULL OR s.name = ?1) AND (?2 IS NULL OR q.workflow = ?2)
                 ORDER BY s.name, q.workflow",
            )?;
            let (scope, workflow) = (scope.map(bounded), workflow.map(bounded));
            let mut rows = statement.query((scope.as_deref(), workflow.as_deref()))?;
            while let Some(row) = rows.next()? {
                if !see(stored(row)?) {
                    break;
                }
            }
            Ok(())
        })
    }
}
