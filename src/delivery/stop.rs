//! How a running job is told to stop: first to finish what is in flight, then to drop it.

use std::sync::Arc;

use tokio::sync::watch;

/// What is wished of a running job. Only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Go on.
    Run,
    /// Begin nothing new; settle and report what is in flight.
    Finish,
    /// Stop waiting for anything.
    Now,
}

/// Shared between whoever asks and whoever stops.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<Wish>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::Sender::new(Wish::Run)))
    }
}

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for `wish`; asking for less than before changes nothing.
    pub fn ask(&self, wish: Wish) {
        self.0.send_if_modified(|current| {
            let more = wish > *current;
            *current = wish.max(*current);
            more
        });
    }

    /// What is wished now.
    pub fn wish(&self) -> Wish {
        *self.0.borrow()
    }

    /// Returns when at least `wish` is asked for.
    pub async fn until(&self, wish: Wish) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|current| *current >= wish).await;
    }
}
