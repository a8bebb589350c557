//! Keys that were processed, by the rules of [`crate::resilience::dedup`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult};

use crate::base::time::Timestamp;
use crate::resilience::dedup::{self, Ask, ClaimId, ClaimLost, Entry, Holder, NotClaimed};
use crate::storage::{Durability, Session, StateFile, StorageError, rusqlite};

use super::{SharedState, bounded, scope_id};

/// A claim that was given: hand it to [`SharedState::commit`] or [`SharedState::release`].
#[must_use = "until it is committed or released, or its session ends, nobody else gets the key"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    scope: i64,
    key: Arc<str>,
    id: ClaimId,
}

impl Claim {
    /// The key that was claimed.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The number of the claim.
    pub const fn id(&self) -> ClaimId {
        self.id
    }
}

/// A time that lies ahead by more than this was written before the clock was set back.
const UNTIDY_MS: i64 = 1000;

/// How many keys are forgotten per key that is asked for, so that the file shrinks faster than it
/// grows and no call takes long.
const SWEPT_PER_KEY: usize = 2;

/// The row of one key.
struct Row {
    entry: Entry,
    since: i64,
    until: i64,
}

fn find(connection: &Connection, scope: i64, key: &str) -> SqlResult<Option<Row>> {
    connection
        .prepare_cached(
            "SELECT claim, holder, since, until FROM resilience_key WHERE scope = ? AND key = ?",
        )?
        .query_row((scope, key), |row| {
            let claim: Option<i64> = row.get(0)?;
            let (since, until) = (row.get(2)?, row.get(3)?);
            let at = Timestamp::from_unix_ms(until);
            let entry = match claim {
                None => Entry::Done { forgotten: at },
                Some(id) => Entry::Claimed {
                    id: ClaimId(id.unsigned_abs()),
                    holder: Holder(row.get::<_, i64>(1)?.to_string().into()),
                    lapses: at,
                },
            };
            Ok(Row { entry, since, until })
        })
        .optional()
}

fn put(
    connection: &Connection,
    scope: i64,
    key: &str,
    entry: &Entry,
    holder: Option<i64>,
    now: Timestamp,
) -> SqlResult<()> {
    let (claim, until) = match entry {
        Entry::Claimed { id, lapses, .. } => (Some(id.0.cast_signed()), lapses),
        Entry::Done { forgotten } => (None, forgotten),
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO resilience_key VALUES(?, ?, ?, ?, ?, ?)")?
        .execute((scope, key, claim, holder, now.unix_ms(), until.unix_ms()))
        .map(|_| ())
}

/// The row of one key as it is at `now`: after the clock was set back, what was to last for a while
/// lasts as long from now on, and not until the clock has caught up.
fn find_at(
    connection: &Connection,
    scope: i64,
    key: &str,
    now: Timestamp,
) -> SqlResult<Option<Entry>> {
    let Some(Row { mut entry, since, until }) = find(connection, scope, key)? else {
        return Ok(None);
    };
    let now_ms = now.unix_ms();
    if since.saturating_sub(now_ms) > UNTIDY_MS {
        let until = now_ms.saturating_add(until.saturating_sub(since));
        connection
            .prepare_cached(
                "UPDATE resilience_key SET since = ?3, until = ?4 WHERE scope = ?1 AND key = ?2",
            )?
            .execute((scope, key, now_ms, until))?;
        match &mut entry {
            Entry::Claimed { lapses: at, .. } | Entry::Done { forgotten: at } => {
                *at = Timestamp::from_unix_ms(until);
            }
        }
    }
    Ok(Some(entry))
}

/// Numbers for `count` claims, of which the first is returned.
fn numbers(connection: &Connection, count: usize) -> SqlResult<u64> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    connection
        .prepare_cached("UPDATE resilience_claims SET given = given + ?1 RETURNING given - ?1")?
        .query_row([count], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

/// For how long a claim is remembered after it has lapsed: whoever comes late with it hears that
/// somebody else took it over.
const LATE: Duration = Duration::from_secs(24 * 3600);

fn sweep(connection: &Connection, now: Timestamp, most: usize) -> SqlResult<usize> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let done = connection
        .prepare_cached(
            "DELETE FROM resilience_key WHERE (scope, key) IN
                 (SELECT scope, key FROM resilience_key
                  WHERE claim IS NULL AND until <= ? ORDER BY until LIMIT ?)",
        )?
        .execute((now.unix_ms(), most))?;
    let late = i64::try_from(LATE.as_millis()).unwrap_or(i64::MAX);
    let lapsed = connection
        .prepare_cached(
            "DELETE FROM resilience_key WHERE (scope, key) IN
                 (SELECT scope, key FROM resilience_key
                  WHERE claim IS NOT NULL AND until <= ? ORDER BY until LIMIT ?)",
        )?
        .execute((now.unix_ms().saturating_sub(late), most))?;
    Ok(done + lapsed)
}

/// Asks the operating system once per holder.
struct Living<'a> {
    file: &'a StateFile,
    known: HashMap<Arc<str>, bool>,
}

impl Living<'_> {
    fn is_dead(&mut self, holder: &Holder) -> bool {
        let file = self.file;
        *self.known.entry(holder.0.clone()).or_insert_with(|| {
            holder.0.parse().is_ok_and(|session| !file.is_session_alive(session))
        })
    }
}

impl SharedState {
    /// Claims `keys` within `scope` (a queue's name, or one of one's own) for `holder`, for as long as
    /// `lapse` or until the session ends; one answer a key, in their order. A key that comes twice in
    /// one call is claimed once.
    ///
    /// A claim survives the death of every process but its holder's; after a power cut nobody has any.
    ///
    /// # Errors
    /// When the file fails; nothing was claimed then.
    pub async fn claim(
        &self,
        scope: &str,
        keys: Vec<String>,
        holder: &Session,
        lapse: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Claim, NotClaimed>>, StorageError> {
        let scope = scope.to_owned();
        let session = holder.id();
        self.write(Durability::Process, move |connection, file| {
            let scope = scope_id(connection, &scope)?;
            let first = numbers(connection, keys.len())?;
            let mut living = Living { file, known: HashMap::new() };
            let holder = Holder(session.to_string().into());
            let swept = keys.len().saturating_mul(SWEPT_PER_KEY);
            let mut answers = Vec::with_capacity(keys.len());
            for (id, key) in (first..).zip(&keys) {
                let key = bounded(key);
                let known = find_at(connection, scope, &key, now)?;
                let id = ClaimId(id);
                let ask = Ask { id, holder: holder.clone(), now, lapse };
                answers.push(match dedup::claim(known.as_ref(), ask, |who| living.is_dead(who)) {
                    Ok(entry) => {
                        put(connection, scope, &key, &entry, Some(session), now)?;
                        Ok(Claim { scope, key: key.as_ref().into(), id })
                    }
                    Err(refused) => Err(refused),
                });
            }
            sweep(connection, now, swept)?;
            Ok(answers)
        })
        .await
    }

    /// The work of `claims` is done: for `ttl` each key is a duplicate. On the disk when it returns,
    /// so that a message may be acked then. One answer a claim, in their order.
    ///
    /// # Errors
    /// When the file fails; nothing was committed then.
    pub async fn commit(
        &self,
        claims: Vec<Claim>,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<(), ClaimLost>>, StorageError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        self.write(Durability::Disk, move |connection, _| {
            let mut answers = Vec::with_capacity(claims.len());
            for Claim { scope, key, id } in &claims {
                let known = find(connection, *scope, key)?.map(|row| row.entry);
                answers.push(match dedup::commit(known.as_ref(), *id, now, ttl) {
                    Ok(entry) => {
                        put(connection, *scope, key, &entry, None, now)?;
                        Ok(())
                    }
                    Err(lost) => Err(lost),
                });
            }
            Ok(answers)
        })
        .await
    }

    /// The work of `claims` was not done: the next one may claim the keys at once.
    ///
    /// # Errors
    /// When the file fails; the claims then lapse by themselves.
    pub async fn release(&self, claims: Vec<Claim>) -> Result<(), StorageError> {
        if claims.is_empty() {
            return Ok(());
        }
        self.write(Durability::Process, move |connection, _| {
            for Claim { scope, key, id } in &claims {
                let known = find(connection, *scope, key)?.map(|row| row.entry);
                if dedup::release(known.as_ref(), *id) {
                    connection
                        .prepare_cached("DELETE FROM resilience_key WHERE scope = ? AND key = ?")?
                        .execute((*scope, key.as_ref()))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Forgets at most `most` keys that were processed and whose time is over, and as many
    /// claims that lapsed a day ago, and says how many there were. Every claim does
    /// a little of it; whoever is idle may do more.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn sweep(&self, now: Timestamp, most: usize) -> Result<usize, StorageError> {
        self.write(Durability::Process, move |connection, _| sweep(connection, now, most)).await
    }

    /// How many keys are in the file, over all scopes, including some whose time is over.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn keys(&self) -> Result<u64, StorageError> {
        self.read(|connection| {
            connection
                .query_row("SELECT count(*) FROM resilience_key", [], |row| row.get::<_, i64>(0))
                .map(i64::unsigned_abs)
        })
    }
}
