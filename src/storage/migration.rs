//! Formats of the rooms that keep something in the state file.

use std::path::Path;

use rusqlite::Connection;

use super::error::StorageError;

/// What one room keeps in the file: its name and, in order, the SQL that leads from each format to
/// the next. The number of migrations is the room's format; those that were ever released are never
/// changed.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The room's name, unique within the file.
    pub name: &'static str,
    /// The SQL from format n to n + 1, at position n.
    pub migrations: &'static [&'static str],
}

impl Room {
    fn known(&self) -> i64 {
        i64::try_from(self.migrations.len()).unwrap_or(i64::MAX)
    }
}

/// `NXUS`, so that `file` and we ourselves tell the file from other databases.
pub(super) const APPLICATION_ID: i32 = 0x4e58_5553;

/// The tables of this room itself.
const OWN: Room = Room {
    name: "storage",
    migrations: &[
        "CREATE TABLE storage_meta(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
         INSERT INTO storage_meta VALUES('id', randomblob(16));
         CREATE TABLE storage_session(id INTEGER PRIMARY KEY) STRICT;",
    ],
};

fn format_of(connection: &Connection, room: &str) -> rusqlite::Result<i64> {
    connection
        .query_row("SELECT format FROM storage_room WHERE name = ?", [room], |row| row.get(0))
        .or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(0),
            other => Err(other),
        })
}

/// Refuses the file when any room that is known here is newer in it.
pub(super) fn check(
    connection: &Connection,
    path: &Path,
    rooms: &[Room],
) -> Result<bool, StorageError> {
    let sql = |error: rusqlite::Error| StorageError::from_sqlite(path, &error);
    let mut current = true;
    for room in std::iter::once(&OWN).chain(rooms) {
        let found = format_of(connection, room.name).map_err(sql)?;
        if found > room.known() {
            return Err(StorageError::Newer {
                path: path.to_owned(),
                part: room.name.to_owned(),
                found,
                known: room.known(),
            });
        }
        current &= found == room.known();
    }
    Ok(current)
}

/// Brings every room to its format. The caller holds the lock that keeps other openers out.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    rooms: &[Room],
) -> Result<(), StorageError> {
    let sql = |error: rusqlite::Error| StorageError::from_sqlite(path, &error);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sql)?;
    let application: i32 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(sql)?;
    if tables > 0 {
        if application != APPLICATION_ID {
            return Err(StorageError::Foreign {
                path: path.to_owned(),
                cause: format!("it is a database of another application (id {application:#x})"),
            });
        }
        if check(connection, path, rooms)? {
            return Ok(());
        }
        let applied: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
        // A room that is new to the file only adds to it; one that is older gets a copy first.
        let mut older = false;
        for room in rooms {
            let found = format_of(connection, room.name).map_err(sql)?;
            older |= found > 0 && found < room.known();
        }
        if older {
            let mut copy = path.as_os_str().to_owned();
            copy.push(format!(".before-{applied}"));
            let copy = std::path::PathBuf::from(copy);
            match std::fs::remove_file(&copy) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StorageError::open(&copy, &error));
                }
                _ => {}
            }
            super::file::create_private(&copy)?;
            connection.execute("VACUUM INTO ?", [copy.to_string_lossy().as_ref()]).map_err(sql)?;
            std::fs::File::open(&copy)
                .and_then(|file| file.sync_all())
                .map_err(|error| StorageError::open(&copy, &error))?;
        }
    }
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(sql)?;
    transaction
        .execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID};
             CREATE TABLE IF NOT EXISTS
                 storage_room(name TEXT PRIMARY KEY, format INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
        ))
        .map_err(sql)?;
    let mut applied: i64 =
        transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
    for room in std::iter::once(&OWN).chain(rooms) {
        let found = format_of(&transaction, room.name).map_err(sql)?;
        let done = usize::try_from(found).unwrap_or(0);
        for migration in room.migrations.iter().skip(done) {
            transaction.execute_batch(migration).map_err(sql)?;
            applied += 1;
        }
        transaction
            .execute(
                "INSERT INTO storage_room VALUES(?1, ?2)
                 ON CONFLICT(name) DO UPDATE SET format = ?2",
                (room.name, room.known()),
            )
            .map_err(sql)?;
    }
    // Counts all migrations, so that a running process sees that somebody migrated the file.
    transaction.execute_batch(&format!("PRAGMA user_version = {applied}")).map_err(sql)?;
    transaction.commit().map_err(sql)
}
