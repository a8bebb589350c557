//! Locks by name in the state file; each belongs to a session and ends with its process.

use std::sync::Arc;

use async_trait::async_trait;

use crate::base::time::Timestamp;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Lock, LockError, LockHolder};
use crate::storage::Durability;

use super::shared::Shared;
use super::store::LockRow;

/// See [`Lock`].
#[derive(Debug)]
pub(super) struct EmbeddedLock {
    shared: Arc<Shared>,
    name: String,
    token: i64,
    released: bool,
}

impl EmbeddedLock {
    pub(super) async fn take(
        shared: Arc<Shared>,
        name: &str,
        holder: &LockHolder,
    ) -> Result<Box<dyn Lock>, LockError> {
        let wanted = name.to_owned();
        let holder = holder.clone();
        let taken = shared
            .call(&format!("take the lock `{name}`"), Durability::Process, move |engine, store| {
                engine.reap(store)?;
                if let Some(lock) = store.lock(engine.vhost_id, &wanted)? {
                    return Ok(Err(LockHolder {
                        who: lock.who,
                        since: Timestamp::from_unix_ms(lock.since),
                    }));
                }
                let token = store.random()?;
                let lock = LockRow {
                    token,
                    session: engine.session,
                    who: holder.who,
                    since: holder.since.unix_ms(),
                };
                store.put_lock(engine.vhost_id, &wanted, &lock)?;
                Ok(Ok(token))
            })
            .await?;
        match taken {
            Ok(token) => {
                Ok(Box::new(EmbeddedLock { shared, name: name.to_owned(), token, released: false }))
            }
            Err(holder) => Err(LockError::Held { holder: Some(holder) }),
        }
    }
}

#[async_trait]
impl Lock for EmbeddedLock {
    async fn check(&self) -> Result<(), BrokerError> {
        let attempted = format!("keep the lock `{}`", self.name);
        let (name, token) = (self.name.clone(), self.token);
        let held = self
            .shared
            .call(&attempted, Durability::Process, move |engine, store| {
                let lock = store.lock(engine.vhost_id, &name)?;
                Ok(lock.is_some_and(|lock| lock.token == token && lock.session == engine.session))
            })
            .await?;
        if held {
            Ok(())
        } else {
            Err(BrokerError::new(ErrorKind::Locked, attempted, "the lock is no longer held"))
        }
    }

    async fn release(mut self: Box<Self>) -> Result<(), BrokerError> {
        self.released = true;
        let (name, token) = (self.name.clone(), self.token);
        self.shared
            .call(
                &format!("let go of the lock `{name}`"),
                Durability::Process,
                move |engine, store| Ok(store.delete_lock(engine.vhost_id, &name, token)?),
            )
            .await
    }
}

impl Drop for EmbeddedLock {
    fn drop(&mut self) {
        if !self.released {
            let (name, token) = (self.name.clone(), self.token);
            self.shared
                .tell(move |engine, store| Ok(store.delete_lock(engine.vhost_id, &name, token)?));
        }
    }
}
