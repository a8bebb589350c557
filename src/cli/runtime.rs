//! The asynchronous runtime, made only for commands that wait for something.

use std::future::Future;
use std::time::Duration;

use crate::delivery::Wish;

use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::signals::{self, Stop};

/// How long work may take to report what it leaves, once it is asked to end now.
const LAST_WORDS: Duration = Duration::from_millis(250);

async fn after_now(stop: &Stop) {
    stop.job().until(Wish::Now).await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Waits for `work` that changes nothing and may be dropped at any time; the first wish to stop ends it.
///
/// # Errors
/// What `work` fails with, or that it was stopped.
pub async fn unless_stopped<T>(
    stop: &Stop,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        biased;
        () = stop.job().until(Wish::Finish) => Err(CliError::new(
            code::STOPPED,
            stop.status(),
            "stopped before anything was changed",
        )),
        result = work => result,
    }
}

/// Runs `work` to its end. An immediate stop drops it where it stands; a graceful one is for `work`
/// itself to notice.
///
/// One worker beside this thread: `work` may be stuck in a write here while it still hears a signal.
///
/// # Errors
/// What `work` fails with, or that it was stopped, or that the machine gives no runtime.
pub fn drive<T>(
    stop: &Stop,
    listen: bool,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let fault = |error: std::io::Error| {
        CliError::new(code::INTERNAL, ExitStatus::Internal, format!("cannot start: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(fault)?;
    if listen {
        signals::listen(&runtime, stop).map_err(fault)?;
    }
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            () = after_now(stop) => Err(CliError::new(
                code::STOPPED,
                stop.status(),
                "stopped at once; what was in flight is unknown",
            )),
        }
    });
    // A thread that waits for standard input must not keep the process.
    runtime.shutdown_background();
    result
}
