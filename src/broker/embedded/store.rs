//! The tables of the embedded broker and every statement on them. Decides nothing.
//!
//! A message's row id is its lane's number and its position in the lane, so one tree holds all
//! queues, each lane is one range of it in order, and no index is needed beside it.
//! A lease is a range of rows of one lane: every row that is left in it is unacknowledged by its
//! consumer. So handing out a batch writes one row, and acknowledging only deletes.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use crate::storage::{Room, rusqlite};

use super::mark::Mark;

/// What the embedded broker keeps in a state file.
pub const ROOM: Room = Room {
    name: "broker",
    migrations: &[
        "
CREATE TABLE broker_vhost(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    default_queue_type TEXT,
    topology INTEGER NOT NULL DEFAULT 1,
    policies INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE broker_limit(
    vhost INTEGER NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY(vhost, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE broker_exchange(
    id INTEGER PRIMARY KEY,
    vhost INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    durable INTEGER NOT NULL,
    auto_delete INTEGER NOT NULL,
    internal INTEGER NOT NULL,
    arguments BLOB NOT NULL,
    UNIQUE(vhost, name)
) STRICT;
CREATE TABLE broker_queue(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    vhost INTEGER NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    durable INTEGER NOT NULL,
    auto_delete INTEGER NOT NULL,
    owner INTEGER,
    arguments BLOB NOT NULL,
    due_at INTEGER,
    may_expire INTEGER NOT NULL DEFAULT 0,
    unused_since INTEGER NOT NULL,
    turn INTEGER NOT NULL DEFAULT 0,
    UNIQUE(vhost, name)
) STRICT;
CREATE INDEX broker_queue_due ON broker_queue(vhost, due_at) WHERE due_at IS NOT NULL;
CREATE TABLE broker_lane(
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    next INTEGER NOT NULL,
    ready INTEGER NOT NULL,
    unacked INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE(queue, rank)
) STRICT;
CREATE TABLE broker_binding(
    id INTEGER PRIMARY KEY,
    vhost INTEGER NOT NULL,
    source TEXT NOT NULL,
    to_queue INTEGER NOT NULL,
    destination TEXT NOT NULL,
    key TEXT NOT NULL,
    arguments BLOB NOT NULL,
    UNIQUE(vhost, source, to_queue, destination, key, arguments)
) STRICT;
CREATE INDEX broker_binding_destination ON broker_binding(vhost, to_queue, destination);
CREATE TABLE broker_policy(
    vhost INTEGER NOT NULL,
    operator INTEGER NOT NULL,
    name TEXT NOT NULL,
    pattern TEXT NOT NULL,
    apply_to TEXT NOT NULL,
    priority INTEGER NOT NULL,
    definition TEXT NOT NULL,
    PRIMARY KEY(vhost, operator, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE broker_message(
    id INTEGER PRIMARY KEY,
    expires_at INTEGER,
    state INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE broker_lease(
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    consumer INTEGER NOT NULL,
    turn INTEGER NOT NULL
) STRICT;
CREATE TABLE broker_consumer(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    exclusive INTEGER NOT NULL
) STRICT;
CREATE INDEX broker_consumer_queue ON broker_consumer(queue);
CREATE TABLE broker_lock(
    vhost INTEGER NOT NULL,
    name TEXT NOT NULL,
    token INTEGER NOT NULL,
    session INTEGER NOT NULL,
    who TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY(vhost, name)
) STRICT, WITHOUT ROWID;
",
        // A mark that said `one failure` became a counter; a program that knows only the mark would
        // take that counter for returns and drop messages over their limit.
        "UPDATE broker_message SET state = (state & ~8) | (1 << 32) WHERE state & 8;",
        // Nothing to change: a program from before streams would hand each record out once and delete
        // it, and take the time of its arrival for its end.
        "SELECT 1;",
    ],
};

/// Bits of a row id that count positions within a lane.
const POSITION_BITS: u32 = 40;
/// The last position of a lane.
pub(super) const POSITION_MAX: i64 = (1 << POSITION_BITS) - 1;
/// The last lane.
const LANE_MAX: i64 = (1 << (63 - POSITION_BITS)) - 1;

pub(super) const fn row_id(lane: i64, position: i64) -> i64 {
    (lane << POSITION_BITS) | position
}

pub(super) const fn lane_of(row: i64) -> i64 {
    row >> POSITION_BITS
}

/// The position within its lane.
pub(super) const fn position_of(row: i64) -> i64 {
    row & POSITION_MAX
}

pub(super) const fn lane_end(lane: i64) -> i64 {
    row_id(lane, POSITION_MAX)
}

/// A row that is read as a whole, by the columns that its fields are named after.
trait Stored: Sized {
    const COLUMNS: &'static str;
    fn read(row: &Row<'_>) -> Result<Self>;
}

/// Declares rows: each field with its type and the column that it is read from.
macro_rules! rows {
    ($($name:ident { $first:ident: $first_type:ty = $first_column:literal
        $(, $field:ident: $type:ty = $column:literal)* $(,)? })*) => {$(
        pub(super) struct $name {
            pub(super) $first: $first_type,
            $(pub(super) $field: $type,)*
        }

        impl Stored for $name {
            const COLUMNS: &'static str = concat!($first_column $(, ", ", $column)*);

            fn read(row: &Row<'_>) -> Result<Self> {
                Ok($name { $first: row.get($first_column)?, $($field: row.get($column)?,)* })
            }
        }
    )*};
}

rows! {
    VhostRow {
        id: i64 = "id",
        default_queue_type: Option<String> = "default_queue_type",
        topology: i64 = "topology",
        policies: i64 = "policies",
    }
    ExchangeRow {
        name: String = "name",
        kind: String = "kind",
        durable: bool = "durable",
        auto_delete: bool = "auto_delete",
        internal: bool = "internal",
        arguments: Vec<u8> = "arguments",
    }
    QueueRow {
        id: i64 = "id",
        name: String = "name",
        queue_type: String = "type",
        durable: bool = "durable",
        auto_delete: bool = "auto_delete",
        owner: Option<i64> = "owner",
        arguments: Vec<u8> = "arguments",
    }
    ClockRow {
        due_at: Option<i64> = "due_at",
        may_expire: bool = "may_expire",
        unused_since: i64 = "unused_since",
        turn: i64 = "turn",
    }
    LaneRow {
        id: i64 = "id",
        rank: i64 = "rank",
        next: i64 = "next",
        ready: i64 = "ready",
        unacked: i64 = "unacked",
        bytes: i64 = "bytes",
    }
    BindingRow {
        source: String = "source",
        to_queue: bool = "to_queue",
        destination: String = "destination",
        key: String = "key",
        arguments: Vec<u8> = "arguments",
    }
    PolicyRow {
        operator: bool = "operator",
        name: String = "name",
        pattern: String = "pattern",
        apply_to: String = "apply_to",
        priority: i64 = "priority",
        definition: String = "definition",
    }
    LeaseRow {
        first: i64 = "first",
        last: i64 = "last",
        consumer: i64 = "consumer",
    }
    LockRow {
        token: i64 = "token",
        session: i64 = "session",
        who: String = "who",
        since: i64 = "since",
    }
}

/// What retention looks at.
pub(super) struct RecordOutline {
    pub(super) id: i64,
    pub(super) came_at: i64,
    pub(super) size: i64,
}

/// Read by position: most of what is read from the file are these.
pub(super) struct MessageRow {
    pub(super) id: i64,
    pub(super) expires_at: Option<i64>,
    pub(super) mark: Mark,
    pub(super) envelope: Vec<u8>,
    pub(super) body: Vec<u8>,
}

fn message_row(row: &Row<'_>) -> Result<MessageRow> {
    Ok(MessageRow {
        id: row.get(0)?,
        expires_at: row.get(1)?,
        mark: Mark::from_stored(row.get(2)?),
        envelope: row.get(3)?,
        body: row.get(4)?,
    })
}

/// The statements, on a connection within a transaction.
#[derive(Clone, Copy)]
pub(super) struct Store<'c>(pub(super) &'c Connection);

impl Store<'_> {
    fn all<T>(
        self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.0.prepare_cached(sql)?.query_map(parameters, read)?.collect()
    }

    fn one<T>(
        self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.0.prepare_cached(sql)?.query_row(parameters, read).optional()
    }

    /// The rows of `table` for which `rest` of the statement holds.
    fn select<T: Stored>(
        self,
        table: &str,
        rest: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<T>> {
        self.all(&format!("SELECT {} FROM {table} {rest}", T::COLUMNS), parameters, T::read)
    }

    fn run(self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize> {
        self.0.prepare_cached(sql)?.execute(parameters)
    }

    // --- the file ---

    /// Changes whenever another connection has written.
    pub(super) fn data_version(self) -> Result<i64> {
        self.0.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    /// A number that nobody guesses twice.
    pub(super) fn random(self) -> Result<i64> {
        self.0.prepare_cached("SELECT random()")?.query_row([], |row| row.get(0))
    }

    // --- vhosts ---

    pub(super) fn vhost(self, name: &str) -> Result<Option<VhostRow>> {
        Ok(self.select("broker_vhost", "WHERE name = ?", [name])?.pop())
    }

    pub(super) fn insert_vhost(self, name: &str) -> Result<i64> {
        self.run("INSERT INTO broker_vhost(name) VALUES(?)", [name])?;
        Ok(self.0.last_insert_rowid())
    }

    pub(super) fn bump_topology(self, vhost: i64) -> Result<()> {
        self.run("UPDATE broker_vhost SET topology = topology + 1 WHERE id = ?", [vhost])?;
        Ok(())
    }

    pub(super) fn bump_policies(self, vhost: i64) -> Result<()> {
        self.run("UPDATE broker_vhost SET policies = policies + 1 WHERE id = ?", [vhost])?;
        Ok(())
    }

    pub(super) fn set_default_queue_type(self, vhost: i64, kind: &str) -> Result<()> {
        self.run(
            "UPDATE broker_vhost SET default_queue_type = ?2 WHERE id = ?1",
            params![vhost, kind],
        )?;
        Ok(())
    }

    pub(super) fn limits(self, vhost: i64) -> Result<Vec<(String, i64)>> {
        self.all("SELECT name, value FROM broker_limit WHERE vhost = ?", [vhost], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    pub(super) fn set_limit(self, vhost: i64, name: &str, value: Option<i64>) -> Result<()> {
        match value {
            Some(value) => self.run(
                "INSERT INTO broker_limit VALUES(?1, ?2, ?3)
                 ON CONFLICT(vhost, name) DO UPDATE SET value = ?3",
                params![vhost, name, value],
            )?,
            None => self.run(
                "DELETE FROM broker_limit WHERE vhost = ? AND name = ?",
                params![vhost, name],
            )?,
        };
        Ok(())
    }

    // --- exchanges ---

    pub(super) fn exchanges(self, vhost: i64) -> Result<Vec<ExchangeRow>> {
        self.select("broker_exchange", "WHERE vhost = ? ORDER BY name", [vhost])
    }

    pub(super) fn exchange(self, vhost: i64, name: &str) -> Result<Option<ExchangeRow>> {
        let rest = "WHERE vhost = ? AND name = ?";
        Ok(self.select("broker_exchange", rest, params![vhost, name])?.pop())
    }

    pub(super) fn insert_exchange(self, vhost: i64, exchange: &ExchangeRow) -> Result<()> {
        self.run(
            "INSERT INTO broker_exchange(vhost, name, kind, durable, auto_delete, internal, arguments)
             VALUES(?, ?, ?, ?, ?, ?, ?)",
            params![
                vhost,
                exchange.name,
                exchange.kind,
                exchange.durable,
                exchange.auto_delete,
                exchange.internal,
                exchange.arguments
            ],
        )?;
        Ok(())
    }

    pub(super) fn delete_exchange(self, vhost: i64, name: &str) -> Result<()> {
        self.run("DELETE FROM broker_exchange WHERE vhost = ? AND name = ?", params![vhost, name])?;
        Ok(())
    }

    // --- queues ---

    pub(super) fn queues(self, vhost: i64) -> Result<Vec<QueueRow>> {
        self.select("broker_queue", "WHERE vhost = ? ORDER BY name", [vhost])
    }

    pub(super) fn queue_names(self, vhost: i64) -> Result<Vec<(i64, String)>> {
        self.all("SELECT id, name FROM broker_queue WHERE vhost = ?", [vhost], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    pub(super) fn count_queues(self, vhost: i64) -> Result<i64> {
        Ok(self
            .one("SELECT count(*) FROM broker_queue WHERE vhost = ?", [vhost], |row| row.get(0))?
            .unwrap_or(0))
    }

    pub(super) fn queue(self, id: i64) -> Result<Option<QueueRow>> {
        Ok(self.select("broker_queue", "WHERE id = ?", [id])?.pop())
    }

    pub(super) fn queue_named(self, vhost: i64, name: &str) -> Result<Option<QueueRow>> {
        let rest = "WHERE vhost = ? AND name = ?";
        Ok(self.select("broker_queue", rest, params![vhost, name])?.pop())
    }

    pub(super) fn insert_queue(self, vhost: i64, queue: &QueueRow, now: i64) -> Result<i64> {
        self.run(
            "INSERT INTO broker_queue
             (vhost, name, type, durable, auto_delete, owner, arguments, unused_since)
             VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                vhost,
                queue.name,
                queue.queue_type,
                queue.durable,
                queue.auto_delete,
                queue.owner,
                queue.arguments,
                now
            ],
        )?;
        Ok(self.0.last_insert_rowid())
    }

    pub(super) fn delete_queue(self, id: i64) -> Result<()> {
        self.run("DELETE FROM broker_queue WHERE id = ?", [id])?;
        Ok(())
    }

    pub(super) fn queues_owned_by(self, vhost: i64, session: i64) -> Result<Vec<i64>> {
        self.all(
            "SELECT id FROM broker_queue WHERE vhost = ? AND owner = ?",
            [vhost, session],
            |row| row.get(0),
        )
    }

    pub(super) fn clock(self, queue: i64) -> Result<Option<ClockRow>> {
        Ok(self.select("broker_queue", "WHERE id = ?", [queue])?.pop())
    }

    pub(super) fn set_clock(self, queue: i64, clock: &ClockRow) -> Result<()> {
        self.run(
            "UPDATE broker_queue SET due_at = ?2, may_expire = ?3, unused_since = ?4, turn = ?5
             WHERE id = ?1",
            params![queue, clock.due_at, clock.may_expire, clock.unused_since, clock.turn],
        )?;
        Ok(())
    }

    /// The queue that has been due the longest at `now`, and since when.
    pub(super) fn next_due(self, vhost: i64, now: i64) -> Result<Option<(i64, i64)>> {
        self.one(
            "SELECT id, due_at FROM broker_queue WHERE vhost = ? AND due_at <= ?
             ORDER BY due_at, id LIMIT 1",
            [vhost, now],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// When the next queue is due.
    pub(super) fn first_due(self, vhost: i64) -> Result<Option<i64>> {
        Ok(self
            .one(
                "SELECT min(due_at) FROM broker_queue WHERE vhost = ? AND due_at IS NOT NULL",
                [vhost],
                |row| row.get(0),
            )?
            .flatten())
    }

    // --- lanes ---

    pub(super) fn lanes(self, queue: i64) -> Result<Vec<LaneRow>> {
        self.select("broker_lane", "WHERE queue = ? ORDER BY rank", [queue])
    }

    /// Takes the smallest free lane; `None` when there is none left.
    pub(super) fn insert_lane(self, queue: i64, rank: i64) -> Result<Option<i64>> {
        let free: i64 = self
            .one(
                "SELECT CASE WHEN NOT EXISTS(SELECT 1 FROM broker_lane WHERE id = 1) THEN 1 ELSE
                 (SELECT min(id) + 1 FROM broker_lane AS taken WHERE NOT EXISTS
                 (SELECT 1 FROM broker_lane WHERE id = taken.id + 1)) END",
                [],
                |row| row.get(0),
            )?
            .unwrap_or(1);
        if free > LANE_MAX {
            return Ok(None);
        }
        self.run(
            "INSERT INTO broker_lane VALUES(?, ?, ?, 1, 0, 0, 0)",
            params![free, queue, rank],
        )?;
        Ok(Some(free))
    }

    pub(super) fn set_lane(self, lane: &LaneRow) -> Result<()> {
        self.run(
            "UPDATE broker_lane SET next = ?2, ready = ?3, unacked = ?4, bytes = ?5 WHERE id = ?1",
            params![lane.id, lane.next, lane.ready, lane.unacked, lane.bytes],
        )?;
        Ok(())
    }

    pub(super) fn delete_lanes(self, queue: i64) -> Result<()> {
        self.run("DELETE FROM broker_lane WHERE queue = ?", [queue])?;
        Ok(())
    }

    // --- bindings ---

    pub(super) fn bindings(self, vhost: i64) -> Result<Vec<BindingRow>> {
        self.select("broker_binding", "WHERE vhost = ? ORDER BY id", [vhost])
    }

    /// Whether it was not there.
    pub(super) fn insert_binding(self, vhost: i64, binding: &BindingRow) -> Result<bool> {
        self.run(
            "INSERT OR IGNORE INTO broker_binding
             (vhost, source, to_queue, destination, key, arguments) VALUES(?, ?, ?, ?, ?, ?)",
            params![
                vhost,
                binding.source,
                binding.to_queue,
                binding.destination,
                binding.key,
                binding.arguments
            ],
        )
        .map(|rows| rows > 0)
    }

    /// Whether it was there.
    pub(super) fn delete_binding(self, vhost: i64, binding: &BindingRow) -> Result<bool> {
        self.run(
            "DELETE FROM broker_binding WHERE vhost = ? AND source = ? AND to_queue = ?
             AND destination = ? AND key = ? AND arguments = ?",
            params![
                vhost,
                binding.source,
                binding.to_queue,
                binding.destination,
                binding.key,
                binding.arguments
            ],
        )
        .map(|rows| rows > 0)
    }

    pub(super) fn has_binding_from(self, vhost: i64, source: &str) -> Result<bool> {
        Ok(self
            .one(
                "SELECT EXISTS(SELECT 1 FROM broker_binding WHERE vhost = ? AND source = ?)",
                params![vhost, source],
                |row| row.get(0),
            )?
            .unwrap_or(false))
    }

    /// Removes all bindings that lead to the object; returns their sources.
    pub(super) fn delete_bindings_to(
        self,
        vhost: i64,
        to_queue: bool,
        destination: &str,
    ) -> Result<Vec<String>> {
        self.all(
            "DELETE FROM broker_binding WHERE vhost = ? AND to_queue = ? AND destination = ?
             RETURNING source",
            params![vhost, to_queue, destination],
            |row| row.get(0),
        )
    }

    pub(super) fn delete_bindings_from(self, vhost: i64, source: &str) -> Result<()> {
        self.run(
            "DELETE FROM broker_binding WHERE vhost = ? AND source = ?",
            params![vhost, source],
        )?;
        Ok(())
    }

    // --- policies ---

    pub(super) fn policies(self, vhost: i64) -> Result<Vec<PolicyRow>> {
        self.select("broker_policy", "WHERE vhost = ? ORDER BY operator, name", [vhost])
    }

    pub(super) fn put_policy(self, vhost: i64, policy: &PolicyRow) -> Result<()> {
        self.run(
            "INSERT OR REPLACE INTO broker_policy VALUES(?, ?, ?, ?, ?, ?, ?)",
            params![
                vhost,
                policy.operator,
                policy.name,
                policy.pattern,
                policy.apply_to,
                policy.priority,
                policy.definition
            ],
        )?;
        Ok(())
    }

    pub(super) fn delete_policy(self, vhost: i64, operator: bool, name: &str) -> Result<()> {
        self.run(
            "DELETE FROM broker_policy WHERE vhost = ? AND operator = ? AND name = ?",
            params![vhost, operator, name],
        )?;
        Ok(())
    }

    // --- messages ---

    pub(super) fn insert_message(
        self,
        id: i64,
        expires_at: Option<i64>,
        mark: Mark,
        envelope: &[u8],
        body: &[u8],
    ) -> Result<()> {
        self.run(
            "INSERT INTO broker_message VALUES(?, ?, ?, ?, ?)",
            params![id, expires_at, mark.stored(), envelope, body],
        )?;
        Ok(())
    }

    /// Rows from `first` to `last` in order, at most `count`, and no more than fit into `bytes` but
    /// at least one.
    pub(super) fn messages(
        self,
        first: i64,
        last: i64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<MessageRow>> {
        let mut statement = self.0.prepare_cached(
            "SELECT id, expires_at, state, envelope, body FROM broker_message
             WHERE id BETWEEN ? AND ? ORDER BY id",
        )?;
        let mut rows = statement.query([first, last])?;
        let mut found: Vec<MessageRow> = Vec::new();
        let mut size = 0;
        while found.len() < count
            && let Some(row) = rows.next()?
        {
            let message = message_row(row)?;
            size += message.body.len();
            if size > bytes && !found.is_empty() {
                break;
            }
            found.push(message);
        }
        Ok(found)
    }

    pub(super) fn message(self, id: i64) -> Result<Option<MessageRow>> {
        self.one(
            "SELECT id, expires_at, state, envelope, body FROM broker_message WHERE id = ?",
            [id],
            message_row,
        )
    }

    /// Id and expiry of the first row from `first` to `last`.
    pub(super) fn first_message(self, first: i64, last: i64) -> Result<Option<(i64, Option<i64>)>> {
        self.one(
            "SELECT id, expires_at FROM broker_message WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1",
            [first, last],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Id, mark and size of the rows from `first` to `last`, in order, at most `count`.
    pub(super) fn outlines(
        self,
        first: i64,
        last: i64,
        count: i64,
    ) -> Result<Vec<(i64, Mark, i64)>> {
        self.all(
            "SELECT id, state, length(body) FROM broker_message WHERE id BETWEEN ? AND ?
             ORDER BY id LIMIT ?",
            [first, last, count],
            |row| Ok((row.get(0)?, Mark::from_stored(row.get(1)?), row.get(2)?)),
        )
    }

    /// Id, time of arrival and size of the records from `first` to `last`, in order, at most `count`.
    pub(super) fn record_outlines(
        self,
        first: i64,
        last: i64,
        count: usize,
    ) -> Result<Vec<RecordOutline>> {
        self.all(
            "SELECT id, expires_at, length(body) FROM broker_message WHERE id BETWEEN ? AND ?
             ORDER BY id LIMIT ?",
            params![first, last, i64::try_from(count).unwrap_or(i64::MAX)],
            |row| {
                Ok(RecordOutline {
                    id: row.get(0)?,
                    came_at: row.get::<_, Option<i64>>(1)?.unwrap_or(i64::MAX),
                    size: row.get(2)?,
                })
            },
        )
    }

    /// The first of these records that came at `time` or later.
    pub(super) fn first_record_since(
        self,
        first: i64,
        last: i64,
        time: i64,
    ) -> Result<Option<i64>> {
        self.one(
            "SELECT id FROM broker_message WHERE id BETWEEN ? AND ? AND expires_at >= ?
             ORDER BY id LIMIT 1",
            [first, last, time],
            |row| row.get(0),
        )
    }

    pub(super) fn delete_message(self, id: i64) -> Result<()> {
        self.run("DELETE FROM broker_message WHERE id = ?", [id])?;
        Ok(())
    }

    pub(super) fn delete_messages(self, first: i64, last: i64) -> Result<i64> {
        self.run("DELETE FROM broker_message WHERE id BETWEEN ? AND ?", [first, last])
            .map(|rows| i64::try_from(rows).unwrap_or(i64::MAX))
    }

    pub(super) fn set_mark(self, id: i64, mark: Mark) -> Result<()> {
        self.run("UPDATE broker_message SET state = ?2 WHERE id = ?1", [id, mark.stored()])?;
        Ok(())
    }

    pub(super) fn move_message(self, id: i64, to: i64, mark: Mark) -> Result<()> {
        self.run(
            "UPDATE broker_message SET id = ?2, state = ?3 WHERE id = ?1",
            [id, to, mark.stored()],
        )?;
        Ok(())
    }

    // --- leases ---

    pub(super) fn leases(self, lane: i64) -> Result<Vec<LeaseRow>> {
        let rest = "WHERE first BETWEEN ? AND ? ORDER BY first";
        self.select("broker_lease", rest, [row_id(lane, 0), lane_end(lane)])
    }

    pub(super) fn leases_of(self, consumer: i64) -> Result<Vec<(i64, i64)>> {
        self.all(
            "SELECT first, last FROM broker_lease WHERE consumer = ? ORDER BY turn, first",
            [consumer],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    pub(super) fn insert_lease(self, lease: &LeaseRow, turn: i64) -> Result<()> {
        self.run(
            "INSERT INTO broker_lease VALUES(?, ?, ?, ?)",
            [lease.first, lease.last, lease.consumer, turn],
        )?;
        Ok(())
    }

    pub(super) fn extend_lease(self, first: i64, last: i64) -> Result<()> {
        self.run("UPDATE broker_lease SET last = ?2 WHERE first = ?1", [first, last])?;
        Ok(())
    }

    pub(super) fn delete_lease(self, first: i64) -> Result<()> {
        self.run("DELETE FROM broker_lease WHERE first = ?", [first])?;
        Ok(())
    }

    pub(super) fn delete_leases_in(self, lane: i64) -> Result<()> {
        self.run(
            "DELETE FROM broker_lease WHERE first BETWEEN ? AND ?",
            [row_id(lane, 0), lane_end(lane)],
        )?;
        Ok(())
    }

    // --- consumers ---

    pub(super) fn insert_consumer(self, session: i64, queue: i64, exclusive: bool) -> Result<i64> {
        self.run(
            "INSERT INTO broker_consumer(session, queue, exclusive) VALUES(?, ?, ?)",
            params![session, queue, exclusive],
        )?;
        Ok(self.0.last_insert_rowid())
    }

    pub(super) fn delete_consumer(self, id: i64) -> Result<()> {
        self.run("DELETE FROM broker_consumer WHERE id = ?", [id])?;
        Ok(())
    }

    pub(super) fn has_consumer(self, id: i64) -> Result<bool> {
        Ok(self.one("SELECT 1 FROM broker_consumer WHERE id = ?", [id], |_| Ok(()))?.is_some())
    }

    /// How many consumers a queue has, whether one is exclusive, and the first of them.
    pub(super) fn consumers(self, queue: i64) -> Result<(i64, bool, Option<i64>)> {
        Ok(self
            .one(
                "SELECT count(*), coalesce(max(exclusive), 0), min(id) FROM broker_consumer
                 WHERE queue = ?",
                [queue],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?
            .unwrap_or((0, false, None)))
    }

    /// The consumers of a session on queues of the vhost: id and queue.
    pub(super) fn consumers_of(self, vhost: i64, session: i64) -> Result<Vec<(i64, i64)>> {
        self.all(
            "SELECT c.id, c.queue FROM broker_consumer AS c JOIN broker_queue AS q ON q.id = c.queue
             WHERE q.vhost = ? AND c.session = ? ORDER BY c.id",
            [vhost, session],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    pub(super) fn delete_consumers_on(self, queue: i64) -> Result<Vec<i64>> {
        self.all("DELETE FROM broker_consumer WHERE queue = ? RETURNING id", [queue], |row| {
            row.get(0)
        })
    }

    // --- sessions and locks ---

    /// Whether anything in any vhost still belongs to the session.
    pub(super) fn session_holds_anything(self, session: i64) -> Result<bool> {
        Ok(self
            .one(
                "SELECT EXISTS(SELECT 1 FROM broker_consumer WHERE session = ?1)
                 OR EXISTS(SELECT 1 FROM broker_queue WHERE owner = ?1)
                 OR EXISTS(SELECT 1 FROM broker_lock WHERE session = ?1)",
                [session],
                |row| row.get(0),
            )?
            .unwrap_or(false))
    }

    pub(super) fn delete_locks_of(self, session: i64) -> Result<()> {
        self.run("DELETE FROM broker_lock WHERE session = ?", [session])?;
        Ok(())
    }

    pub(super) fn lock(self, vhost: i64, name: &str) -> Result<Option<LockRow>> {
        let rest = "WHERE vhost = ? AND name = ?";
        Ok(self.select("broker_lock", rest, params![vhost, name])?.pop())
    }

    pub(super) fn put_lock(self, vhost: i64, name: &str, lock: &LockRow) -> Result<()> {
        self.run(
            "INSERT OR REPLACE INTO broker_lock VALUES(?, ?, ?, ?, ?, ?)",
            params![vhost, name, lock.token, lock.session, lock.who, lock.since],
        )?;
        Ok(())
    }

    pub(super) fn delete_lock(self, vhost: i64, name: &str, token: i64) -> Result<()> {
        self.run(
            "DELETE FROM broker_lock WHERE vhost = ? AND name = ? AND token = ?",
            params![vhost, name, token],
        )?;
        Ok(())
    }
}
