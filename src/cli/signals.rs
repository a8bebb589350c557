//! SIGINT and SIGTERM as a value with two strengths.
//!
//! The first signal asks for a graceful end: take nothing new, finish what is half done, report, exit
//! with 130 or 143. The second ends at once: connections are dropped, leases go back to their queue.
//! No command installs a handler itself; tests ask for a stop through the handle.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

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

/// How urgently the run should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    None,
    /// Finish what is half done, then end.
    Graceful(Signal),
    /// End now.
    Immediate(Signal),
}

/// The handle by which a stop is asked for and noticed. Clones are the same handle.
#[derive(Clone, Debug)]
pub struct Stop {
    wish: Arc<watch::Sender<Wish>>,
}

impl Default for Stop {
    fn default() -> Self {
        Stop { wish: Arc::new(watch::Sender::new(Wish::None)) }
    }
}

impl Stop {
    /// Asks for a stop: graceful the first time, immediate from then on.
    pub fn ask(&self, signal: Signal) -> Wish {
        self.wish.send_modify(|wish| {
            *wish = match *wish {
                Wish::None => Wish::Graceful(signal),
                Wish::Graceful(first) | Wish::Immediate(first) => Wish::Immediate(first),
            };
        });
        *self.wish.borrow()
    }

    /// What is asked for now.
    pub fn wish(&self) -> Wish {
        *self.wish.borrow()
    }

    /// The signal that asked first, if any did.
    pub fn signal(&self) -> Option<Signal> {
        match self.wish() {
            Wish::None => None,
            Wish::Graceful(signal) | Wish::Immediate(signal) => Some(signal),
        }
    }

    /// Returns when a stop of any strength is asked for. Cancel-safe.
    pub async fn graceful(&self) -> Signal {
        self.when(|wish| match wish {
            Wish::None => None,
            Wish::Graceful(signal) | Wish::Immediate(signal) => Some(signal),
        })
        .await
    }

    /// Returns when an immediate stop is asked for. Cancel-safe.
    pub async fn immediate(&self) -> Signal {
        self.when(|wish| match wish {
            Wish::Immediate(signal) => Some(signal),
            Wish::None | Wish::Graceful(_) => None,
        })
        .await
    }

    async fn when(&self, pick: impl Fn(Wish) -> Option<Signal>) -> Signal {
        let mut seen = self.wish.subscribe();
        let found = seen.wait_for(|wish| pick(*wish).is_some()).await.map(|wish| pick(*wish));
        match found {
            Ok(Some(signal)) => signal,
            // The sender lives in `self`, so it cannot have gone away.
            _ => std::future::pending().await,
        }
    }
}

/// How long an immediate stop may take before the process is ended whatever it is doing.
const LAST_RESORT: Duration = Duration::from_millis(300);

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
            if let Wish::Immediate(first) = stop.ask(came) {
                tokio::time::sleep(LAST_RESORT).await;
                end_process(first.status());
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

    #[test]
    fn the_first_ask_is_graceful_and_the_second_immediate_under_the_first_signal() {
        let stop = Stop::default();
        assert_eq!(stop.wish(), Wish::None);
        assert_eq!(stop.ask(Signal::Terminate), Wish::Graceful(Signal::Terminate));
        assert_eq!(stop.ask(Signal::Interrupt), Wish::Immediate(Signal::Terminate));
        assert_eq!(stop.signal().map(Signal::status), Some(ExitStatus::Terminated));
    }

    #[tokio::test]
    async fn a_watcher_wakes_for_the_strength_it_waits_for() {
        let stop = Stop::default();
        stop.ask(Signal::Interrupt);
        assert_eq!(stop.graceful().await, Signal::Interrupt);
        let immediate = tokio::time::timeout(Duration::from_millis(10), stop.immediate()).await;
        assert!(immediate.is_err());
        stop.ask(Signal::Interrupt);
        assert_eq!(stop.immediate().await, Signal::Interrupt);
    }
}
