//! What a run has done so far, on disk before and after each batch, so that a killed run goes on.
//!
//! NDJSON: the plan, then what was started, done and failed, then the end. The plan is in it because
//! a broker in mid-replacement no longer shows which bindings it had.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

use super::plan::Plan;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted} journal {}: {why}", .path.display())]
pub struct JournalError {
    /// `read`, `write`.
    pub attempted: &'static str,
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "record")]
enum Record {
    Begin { format: u32, at: Timestamp, plan: Box<Plan> },
    Start { steps: Vec<String> },
    Done { steps: Vec<String> },
    Failed { step: String, error: String },
    End { at: Timestamp },
}

/// A run that was begun and not ended.
#[derive(Debug)]
pub struct Unfinished {
    /// What it was to do.
    pub plan: Plan,
    /// Since when.
    pub since: Timestamp,
    /// Steps it began.
    pub started: BTreeSet<String>,
    /// Steps it finished and verified.
    pub done: BTreeSet<String>,
}

/// Where a run is written down. Without a path it writes nothing.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
}

/// Reads the run that `path` holds, when it was not ended. A last line without its line break was
/// cut off by a kill and counts as not written.
pub fn unfinished(path: &Path) -> Result<Option<Unfinished>, JournalError> {
    let wrong = |why: String| JournalError { attempted: "read", path: path.to_owned(), why };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let mut run: Option<Unfinished> = None;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if !line.ends_with('\n') {
            break;
        }
        let record: Record = serde_json::from_str(line)
            .map_err(|error| wrong(format!("line {}: {error}", index + 1)))?;
        match (record, &mut run) {
            (Record::Begin { format: 1, at, plan }, run) => {
                *run = Some(Unfinished {
                    plan: *plan,
                    since: at,
                    started: BTreeSet::new(),
                    done: BTreeSet::new(),
                });
            }
            (Record::Begin { format, .. }, _) => {
                return Err(wrong(format!("it has format {format}, and this program reads 1")));
            }
            (Record::Start { steps }, Some(run)) => run.started.extend(steps),
            (Record::Done { steps }, Some(run)) => run.done.extend(steps),
            (Record::Failed { .. }, _) => {}
            (Record::End { .. }, run) => *run = None,
            (Record::Start { .. } | Record::Done { .. }, None) => {
                return Err(wrong(format!("line {}: a step without a plan", index + 1)));
            }
        }
    }
    Ok(run)
}

impl Journal {
    /// Begins a run: what `path` held before is replaced, in one step, by the plan.
    pub fn begin(path: Option<&Path>, plan: &Plan, at: Timestamp) -> Result<Self, JournalError> {
        let Some(path) = path else {
            return Ok(Journal { path: PathBuf::new(), file: None });
        };
        let wrong = |error: io::Error| JournalError {
            attempted: "write",
            path: path.to_owned(),
            why: error.to_string(),
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            std::fs::create_dir_all(parent).map_err(wrong)?;
        }
        let fresh = path.with_extension("new");
        let mut journal =
            Journal { path: path.to_owned(), file: Some(File::create(&fresh).map_err(wrong)?) };
        journal.write(&Record::Begin { format: 1, at, plan: Box::new(plan.clone()) }, true)?;
        std::fs::rename(&fresh, path).map_err(wrong)?;
        // The new name is only safe once its directory is.
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|dir| dir.sync_all())
            .map_err(wrong)?;
        Ok(journal)
    }

    /// Goes on with the run that `path` holds.
    pub fn resume(path: &Path) -> Result<Self, JournalError> {
        let wrong = |error: io::Error| JournalError {
            attempted: "write",
            path: path.to_owned(),
            why: error.to_string(),
        };
        // A line that was cut off must not swallow the next one.
        let text = std::fs::read(path).map_err(wrong)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let file = OpenOptions::new().append(true).open(path).map_err(wrong)?;
        file.set_len(whole as u64).map_err(wrong)?;
        Ok(Journal { path: path.to_owned(), file: Some(file) })
    }

    fn write(&mut self, record: &Record, sync: bool) -> Result<(), JournalError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let wrong = |why: String| JournalError { attempted: "write", path: self.path.clone(), why };
        let mut line = serde_json::to_string(record).map_err(|error| wrong(error.to_string()))?;
        line.push('\n');
        file.write_all(line.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        if sync {
            file.sync_data().map_err(|error| wrong(error.to_string()))?;
        }
        Ok(())
    }

    /// On disk before the steps are tried.
    pub fn start(&mut self, steps: &[String]) -> Result<(), JournalError> {
        self.write(&Record::Start { steps: steps.to_vec() }, true)
    }

    /// On disk once the steps have been verified.
    pub fn done(&mut self, steps: &[String]) -> Result<(), JournalError> {
        self.write(&Record::Done { steps: steps.to_vec() }, true)
    }

    /// For whoever reads it later.
    pub fn failed(&mut self, step: &str, error: &str) -> Result<(), JournalError> {
        self.write(&Record::Failed { step: step.to_owned(), error: error.to_owned() }, false)
    }

    /// The run is over; nothing is left to go on with.
    pub fn end(&mut self, at: Timestamp) -> Result<(), JournalError> {
        self.write(&Record::End { at }, true)
    }
}
