//! Rate limits, by the rules of [`crate::resilience::limiter`].
//!
//! Every token is taken from the one bucket in the file when it is asked for, so the total of all
//! processes never exceeds the limit. Whoever needs many asks for many at once, uses them right away
//! and gives back what is left: tokens that are kept for later would make a burst then.
//!
//! The time is read within the transaction: had a caller read it before it waited for others, that
//! would look like a clock that was set back, and the bucket would be filled for the same time twice.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row};

use crate::base::time::{Clock, Timestamp};
use crate::resilience::limiter::{Limit, Limiter, Priority, Reserve, Shortage};
use crate::storage::{Durability, StorageError, rusqlite};

use super::{SharedState, bounded, from_json, to_json};

/// How much is let through, and what is kept for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// How much.
    pub limit: Limit,
    /// What is kept.
    pub reserve: Reserve,
}

/// A bucket as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLimit {
    /// The resource.
    pub name: String,
    /// The bucket, for questions about what is in it.
    pub limiter: Limiter,
    /// When it was written last.
    pub changed: Timestamp,
}

const COLUMNS: &str = "SELECT name, bucket, changed FROM resilience_limit";

fn stored(row: &Row<'_>) -> SqlResult<StoredLimit> {
    Ok(StoredLimit {
        name: row.get(0)?,
        limiter: from_json(1, &row.get::<_, String>(1)?)?,
        changed: Timestamp::from_unix_ms(row.get(2)?),
    })
}

fn find(connection: &Connection, name: &str) -> SqlResult<Option<StoredLimit>> {
    connection
        .prepare_cached(&format!("{COLUMNS} WHERE name = ?"))?
        .query_row([name], stored)
        .optional()
}

fn put(connection: &Connection, name: &str, limiter: &Limiter, now: Timestamp) -> SqlResult<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO resilience_limit VALUES(?, ?, ?)")?
        .execute((name, to_json(limiter)?, now.unix_ms()))
        .map(|_| ())
}

impl LimitSettings {
    /// The bucket that goes on under these settings: what is in it stays, a new one is full.
    pub fn resume(&self, limiter: Option<Limiter>, now: Timestamp) -> Limiter {
        let Some(mut limiter) = limiter else {
            return Limiter::new(self.limit, self.reserve, now);
        };
        if limiter.limit() != self.limit {
            limiter.set_limit(self.limit, now);
        }
        if limiter.reserve() != self.reserve {
            limiter.set_reserve(self.reserve, now);
        }
        limiter
    }
}

impl SharedState {
    async fn bucket<T: Send + 'static>(
        &self,
        name: &str,
        settings: LimitSettings,
        clock: &Arc<dyn Clock>,
        work: impl FnOnce(&mut Limiter, Timestamp) -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let name = bounded(name).into_owned();
        let clock = Arc::clone(clock);
        self.write(Durability::Process, move |connection, _| {
            let now = clock.now();
            let known = find(connection, &name)?.map(|stored| stored.limiter);
            let mut limiter = settings.resume(known, now);
            let result = work(&mut limiter, now);
            put(connection, &name, &limiter, now)?;
            Ok(result)
        })
        .await
    }

    /// Takes `count` tokens of `name`, or says how long until that many pass. When `settings` are
    /// others than the bucket was used with, it goes on under them with what is in it.
    ///
    /// # Errors
    /// When the file fails; nothing was taken then.
    pub async fn take(
        &self,
        name: &str,
        settings: &LimitSettings,
        count: u32,
        priority: Priority,
        clock: &Arc<dyn Clock>,
    ) -> Result<Result<(), Shortage>, StorageError> {
        self.bucket(name, *settings, clock, move |bucket, now| bucket.take(count, priority, now))
            .await
    }

    /// Takes as many tokens as there are for `priority`, from 1 to `most`, or says how long until
    /// there is one. For who has `most` requests at hand and sends what he may at once.
    ///
    /// # Errors
    /// When the file fails; nothing was taken then.
    pub async fn take_up_to(
        &self,
        name: &str,
        settings: &LimitSettings,
        most: u32,
        priority: Priority,
        clock: &Arc<dyn Clock>,
    ) -> Result<Result<u32, Shortage>, StorageError> {
        self.bucket(name, *settings, clock, move |bucket, now| {
            let count = bucket.available(priority, now).clamp(1, most.max(1));
            bucket.take(count, priority, now).map(|()| count)
        })
        .await
    }

    /// Takes `count` tokens as soon as they are there, or says what is short once that would be after
    /// `deadline`. Nothing is kept for who waits, but for critical requests.
    ///
    /// # Errors
    /// When the file fails; nothing was taken then.
    pub async fn acquire(
        &self,
        name: &str,
        settings: &LimitSettings,
        count: u32,
        priority: Priority,
        clock: &Arc<dyn Clock>,
        deadline: Option<Timestamp>,
    ) -> Result<Result<(), Shortage>, StorageError> {
        loop {
            let wait = match self.take(name, settings, count, priority, clock).await? {
                Err(Shortage::Wait(wait)) => wait,
                other => return Ok(other),
            };
            if deadline.is_some_and(|deadline| clock.now().after(wait) > deadline) {
                return Ok(Err(Shortage::Wait(wait)));
            }
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }

    /// Gives back `count` tokens that were taken and not used.
    ///
    /// # Errors
    /// When the file fails; the tokens are lost then.
    pub async fn give_back(
        &self,
        name: &str,
        settings: &LimitSettings,
        count: u32,
        clock: &Arc<dyn Clock>,
    ) -> Result<(), StorageError> {
        self.bucket(name, *settings, clock, move |bucket, now| bucket.give_back(count, now)).await
    }

    /// One bucket; `None` when it was not used yet, and so is full.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn limit(&self, name: &str) -> Result<Option<StoredLimit>, StorageError> {
        self.read(|connection| find(connection, &bounded(name)))
    }

    /// All buckets by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn limits(&self) -> Result<Vec<StoredLimit>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!("{COLUMNS} ORDER BY name"))?;
            statement.query_map([], stored)?.collect()
        })
    }
}
