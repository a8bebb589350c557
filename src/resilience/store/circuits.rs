//! Circuits, by the rules of [`crate::resilience::circuit`].
//!
//! A step that changes nothing, such as a permit or a success of a closed circuit without a window,
//! is a look at one row and waits for nobody. Everything else is one row written, without waiting for
//! the disk: what a power cut may forget are the failures of the last moments. Orders of an operator
//! are on the disk.

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row};

use crate::base::time::Timestamp;
use crate::resilience::circuit::{
    CircuitBreaker, CircuitMemory, CircuitSettings, Order, Permit, Refused,
};
use crate::storage::{Durability, StorageError, rusqlite};

use super::{SharedState, bounded, from_json, to_json};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It did what it should.
    Succeeded,
    /// It failed in a way that speaks against the other side.
    Failed,
    /// It ended without telling anything.
    Abandoned,
}

/// A request that was let out and ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its leave.
    pub permit: Permit,
    /// How it ended.
    pub ending: Ending,
    /// When.
    pub at: Timestamp,
}

/// A circuit as it is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCircuit {
    /// Its name.
    pub name: String,
    /// The settings that were used last.
    pub settings: CircuitSettings,
    /// The machine, for questions about its state.
    pub breaker: CircuitBreaker,
    /// When it was written last.
    pub changed: Timestamp,
}

const COLUMNS: &str = "SELECT name, settings, memory, changed FROM resilience_circuit";

fn stored(row: &Row<'_>) -> SqlResult<StoredCircuit> {
    let settings: CircuitSettings = from_json(1, &row.get::<_, String>(1)?)?;
    let memory: CircuitMemory = from_json(2, &row.get::<_, String>(2)?)?;
    Ok(StoredCircuit {
        name: row.get(0)?,
        settings,
        breaker: CircuitBreaker::resume(settings, memory),
        changed: Timestamp::from_unix_ms(row.get(3)?),
    })
}

fn find(connection: &Connection, name: &str) -> SqlResult<Option<StoredCircuit>> {
    connection
        .prepare_cached(&format!("{COLUMNS} WHERE name = ?"))?
        .query_row([name], stored)
        .optional()
}

fn put(connection: &Connection, circuit: &StoredCircuit) -> SqlResult<()> {
    let StoredCircuit { name, settings, breaker, changed } = circuit;
    connection
        .prepare_cached("INSERT OR REPLACE INTO resilience_circuit VALUES(?, ?, ?, ?)")?
        .execute((name, to_json(settings)?, to_json(breaker.memory())?, changed.unix_ms()))
        .map(|_| ())
}

/// One step of the circuit `name`: what it yields, and the circuit afterwards when that is another
/// than what is in the file.
fn step<T>(
    connection: &Connection,
    name: &str,
    settings: Option<CircuitSettings>,
    now: Timestamp,
    work: impl FnOnce(&mut CircuitBreaker) -> T,
) -> SqlResult<(T, Option<StoredCircuit>)> {
    let name = bounded(name);
    let known = find(connection, &name)?;
    let settings = settings.or(known.as_ref().map(|circuit| circuit.settings)).unwrap_or_default();
    let before = known.as_ref().map(|circuit| circuit.breaker.memory().clone()).unwrap_or_default();
    let mut breaker = CircuitBreaker::resume(settings, before.clone());
    let result = work(&mut breaker);
    let same_settings = known.is_none_or(|circuit| circuit.settings == settings);
    if *breaker.memory() == before && same_settings {
        return Ok((result, None));
    }
    let name = name.into_owned();
    Ok((result, Some(StoredCircuit { name, settings, breaker, changed: now })))
}

impl SharedState {
    /// Takes one step: on what everybody may read when it changes nothing, in a transaction when it
    /// does.
    async fn step<T: Send + 'static>(
        &self,
        name: &str,
        settings: Option<CircuitSettings>,
        durability: Durability,
        now: Timestamp,
        work: impl Fn(&mut CircuitBreaker) -> T + Send + 'static,
    ) -> Result<T, StorageError> {
        let (result, change) =
            self.read(|connection| step(connection, name, settings, now, &work))?;
        if change.is_none() {
            return Ok(result);
        }
        let name = name.to_owned();
        self.write(durability, move |connection, _| {
            let (result, change) = step(connection, &name, settings, now, &work)?;
            if let Some(circuit) = change {
                put(connection, &circuit)?;
            }
            Ok(result)
        })
        .await
    }

    /// Leave to send a request to the other side behind circuit `name`, or how long to wait before
    /// asking again.
    ///
    /// # Errors
    /// When the file fails; nothing was let out then.
    pub async fn permit(
        &self,
        name: &str,
        settings: &CircuitSettings,
        now: Timestamp,
    ) -> Result<Result<Permit, Refused>, StorageError> {
        self.step(name, Some(*settings), Durability::Process, now, move |breaker| {
            breaker.permit(now)
        })
        .await
    }

    /// Leave for up to `count` requests at once, and why there was no more.
    ///
    /// # Errors
    /// As [`SharedState::permit`].
    pub async fn permits(
        &self,
        name: &str,
        settings: &CircuitSettings,
        count: usize,
        now: Timestamp,
    ) -> Result<(Vec<Permit>, Option<Refused>), StorageError> {
        self.step(name, Some(*settings), Durability::Process, now, move |breaker| {
            let mut given = Vec::with_capacity(count);
            while given.len() < count {
                match breaker.permit(now) {
                    Ok(permit) => given.push(permit),
                    Err(refused) => return (given, Some(refused)),
                }
            }
            (given, None)
        })
        .await
    }

    /// Tells how requests behind circuit `name` ended; whoever has many of them tells them together,
    /// in the order in which they ended.
    ///
    /// # Errors
    /// When the file fails; nothing was noted then. The place of a probe lapses by itself.
    pub async fn record(
        &self,
        name: &str,
        settings: &CircuitSettings,
        ended: Vec<Ended>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.step(name, Some(*settings), Durability::Process, now, move |breaker| {
            for Ended { permit, ending, at } in &ended {
                match ending {
                    Ending::Succeeded => breaker.succeeded(*permit, *at),
                    Ending::Failed => breaker.failed(*permit, *at),
                    Ending::Abandoned => breaker.abandoned(*permit),
                }
            }
        })
        .await
    }

    /// An operator forces a circuit open or disables it, until `until` or until it is closed. Returns
    /// the circuit as it is then. Without `settings` it keeps those it was used with.
    ///
    /// # Errors
    /// When the file fails; the order is not in force then.
    pub async fn force_circuit(
        &self,
        name: &str,
        settings: Option<CircuitSettings>,
        order: Order,
        reason: &str,
        now: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<CircuitBreaker, StorageError> {
        let reason = reason.to_owned();
        self.step(name, settings, Durability::Disk, now, move |breaker| {
            breaker.force(order, reason.as_str(), now, until);
            breaker.clone()
        })
        .await
    }

    /// Ends an operator's order: after a forced open, probes decide first. Returns the circuit as it
    /// is then.
    ///
    /// # Errors
    /// When the file fails; the order stays in force then.
    pub async fn lift_circuit(
        &self,
        name: &str,
        settings: Option<CircuitSettings>,
        now: Timestamp,
    ) -> Result<CircuitBreaker, StorageError> {
        self.step(name, settings, Durability::Disk, now, move |breaker| {
            breaker.lift(now);
            breaker.clone()
        })
        .await
    }

    /// Ends an order, forgets failures and closes the circuit; what is out now decides nothing.
    /// Returns the circuit as it is then.
    ///
    /// # Errors
    /// When the file fails; the circuit stays as it is then.
    pub async fn close_circuit(
        &self,
        name: &str,
        settings: Option<CircuitSettings>,
        now: Timestamp,
    ) -> Result<CircuitBreaker, StorageError> {
        self.step(name, settings, Durability::Disk, now, |breaker| {
            breaker.reset();
            breaker.clone()
        })
        .await
    }

    /// Takes the circuit out of the file, orders included, as if it had never been used; `false` when
    /// it was not there.
    ///
    /// # Errors
    /// When the file fails; the circuit stays then.
    pub async fn forget_circuit(&self, name: &str) -> Result<bool, StorageError> {
        let name = bounded(name).into_owned();
        self.write(Durability::Disk, move |connection, _| {
            connection
                .execute("DELETE FROM resilience_circuit WHERE name = ?", [name])
                .map(|gone| gone > 0)
        })
        .await
    }

    /// One circuit; `None` when it was not used yet, and so is closed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn circuit(&self, name: &str) -> Result<Option<StoredCircuit>, StorageError> {
        self.read(|connection| find(connection, &bounded(name)))
    }

    /// All circuits by name.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn circuits(&self) -> Result<Vec<StoredCircuit>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!("{COLUMNS} ORDER BY name"))?;
            statement.query_map([], stored)?.collect()
        })
    }
}
