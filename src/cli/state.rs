//! The state that the processes of this host share: circuits, limits and sequences in the state file.

use std::time::Duration;

use crate::base::suggest::nearest;
use crate::resilience::SharedState;
use crate::storage::StorageError;

use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::settings::Settings;

/// Opens the shared state; the file is made when it is not there.
///
/// # Errors
/// When the file cannot be used.
pub(super) async fn open(settings: &Settings) -> Result<SharedState, CliError> {
    Ok(SharedState::open(&settings.state.value, settings.timeout()).await?)
}

/// Opens the shared state to look at it: `None` when nobody has used it yet, since looking makes no
/// file.
///
/// # Errors
/// When the file cannot be used.
pub(super) async fn look(settings: &Settings) -> Result<Option<SharedState>, CliError> {
    if settings.state.value.try_exists().is_ok_and(|exists| !exists) {
        return Ok(None);
    }
    open(settings).await.map(Some)
}

impl From<StorageError> for CliError {
    fn from(error: StorageError) -> Self {
        let status = match &error {
            StorageError::Busy { .. } => ExitStatus::TryLater,
            StorageError::Statement { .. } => ExitStatus::Internal,
            _ => ExitStatus::Unavailable,
        };
        let shown = CliError::new(code::STATE, status, error.to_string());
        match error.hint() {
            Some(hint) => shown.hint(hint),
            None => shown,
        }
    }
}

/// There is no such thing: what may have been meant among `known`.
pub(super) fn unknown(noun: &str, name: &str, known: &[String]) -> CliError {
    const SHOWN: usize = 6;
    let names = known.iter().map(String::as_str);
    let hint = match nearest(name, names) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if known.is_empty() => {
            format!("there is none yet: `{noun}s` in nexus.yaml makes some")
        }
        None => {
            let more = if known.len() > SHOWN { ", …" } else { "" };
            format!("there are: {}{more}", known[..known.len().min(SHOWN)].join(", "))
        }
    };
    let message = format!("there is no {noun} `{name}`");
    CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message).object(name).hint(hint)
}

/// Milliseconds, rounded up: who waits so long does not wait in vain.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
