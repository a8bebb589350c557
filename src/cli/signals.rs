//! SIGINT and SIGTERM as a value with two strengths.
//!
//! The first signal asks for a graceful end: take nothing new, finish what is half done, report, exit
//! with 130 or 143. The second ends at once: connections are dropped, leases go back to their queue.
//! No command installs a handler itself; tests ask for a stop through the handle.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::delivery::{self, Wish};

use super::exit::ExitStatus;

/// Which signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, usually Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// The status after a clean stop by this signal.
    pub const fn status(self) -> ExitStatus {
        match self {
            Signal::Interrupt => ExitStatus::Interrupted,
            Signal::Terminate => ExitStatus::Terminated,
        }
    }
}

/// The handle by which a stop is asked for and noticed. Clones are the same handle.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    job: delivery::Stop,
    first: Arc<OnceLock<Signal>>,
}

impl Stop {
    /// Asks for a stop: to finish what is in flight the first time, at once from then on. Returns what
    /// is wished now.
    pub fn ask(&self, signal: Signal) -> Wish {
        let wish = match self.first.set(signal) {
            Ok(()) => Wish::Finish,
            Err(_) => Wish::Now,
        };
        self.job.ask(wish);
        wish
    }

    /// The handle that running jobs watch.
    pub fn job(&self) -> &delivery::Stop {
        &self.job
    }

    /// The signal that asked first, if any did.
    pub fn signal(&self) -> Option<Signal> {
        self.first.get().copied()
    }

    /// The status of a run that was asked to stop and did.
    pub fn status(&self) -> ExitStatus {
        self.signal().unwrap_or(Signal::Interrupt).status()
    }
}

/// How long an immediate stop may take before the process is ended whatever it is doing.
const LAST_RESORT: Duration = Duration::from_millis(600);

/// Listens to the process's signals for as long as the runtime lives.
///
/// A second signal wakes whoever watches `stop`; should the main thread be stuck in a write that
/// nobody reads, the process is ended from here.
///
/// # Errors
/// When the operating system does not let a handler be installed.
pub(super) fn listen(runtime: &tokio::runtime::Runtime, stop: &Stop) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let _entered = runtime.enter();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let stop = stop.clone();
    runtime.spawn(async move {
        loop {
            let came = tokio::select! {
                Some(()) = interrupts.recv() => Signal::Interrupt,
                Some(()) = terminations.recv() => Signal::Terminate,
                else => return,
            };
            if stop.ask(came) == Wish::Now {
                tokio::time::sleep(LAST_RESORT).await;
                end_process(stop.status());
            }
        }
    });
    Ok(())
}

#[expect(clippy::exit, clippy::disallowed_methods, reason = "main may be stuck in a system call")]
fn end_process(status: ExitStatus) -> ! {
    std::process::exit(i32::from(status.number()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_ask_is_to_finish_and_the_second_to_end_now_under_the_first_signal() {
        let stop = Stop::default();
        assert_eq!(stop.signal(), None);
        assert_eq!(stop.ask(Signal::Terminate), Wish::Finish);
        stop.job().until(Wish::Finish).await;
        let now = tokio::time::timeout(Duration::from_millis(10), stop.job().until(Wish::Now));
        assert!(now.await.is_err());
        assert_eq!(stop.ask(Signal::Interrupt), Wish::Now);
        stop.job().until(Wish::Now).await;
        assert_eq!(stop.status(), ExitStatus::Terminated);
    }
}
