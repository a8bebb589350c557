//! What looks have cost so far: the most returns of a message that this machine has seen in a queue.
//!
//! No broker tells how many lives a message has left before it hands it out, and handing it out costs
//! one; so a look that ends in a refusal would cost as much as one that does not. What a look sees is
//! therefore noted beside the state file, and the next look is refused before it begins.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::broker::BrokerIdentity;

/// Queues that are remembered; those looked at longest ago go first.
const MOST: usize = 1000;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {
    queues: BTreeMap<String, Note>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Note {
    returns: u64,
    at_unix_s: i64,
}

/// The notes about one queue.
#[derive(Debug)]
pub(in crate::cli) struct Ledger {
    path: PathBuf,
    key: String,
}

impl Ledger {
    /// The notes about `queue`, kept beside the state file.
    pub(in crate::cli) fn of(
        state: &Path,
        identity: &BrokerIdentity,
        place: &str,
        queue: &str,
    ) -> Self {
        let key = format!("{} {} {} {queue}", identity.cluster_name, place, identity.vhost);
        Ledger { path: state.with_file_name("peeks.json"), key }
    }

    fn read(&self) -> Notes {
        // Notes that cannot be read are no reason not to work; the next look writes them anew.
        fs::read(&self.path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// The most returns that are known.
    pub(in crate::cli) fn returns(&self) -> u64 {
        self.read().queues.get(&self.key).map_or(0, |note| note.returns)
    }

    /// Notes what a look has seen; 0 forgets the queue.
    pub(in crate::cli) fn note(&self, returns: u64, at_unix_s: i64) -> io::Result<()> {
        let mut notes = self.read();
        if returns == 0 && notes.queues.remove(&self.key).is_none() {
            return Ok(());
        }
        if returns > 0 {
            notes.queues.insert(self.key.clone(), Note { returns, at_unix_s });
        }
        while notes.queues.len() > MOST {
            let oldest = notes.queues.iter().min_by_key(|(_, note)| note.at_unix_s);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            notes.queues.remove(&oldest);
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        // Two looks at once may forget one of their notes, and never leave half a file.
        let new = self.path.with_extension(format!("json.{}", std::process::id()));
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec(&notes)?)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)
    }
}
