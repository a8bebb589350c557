//! `circuit try` and `circuit record`: a circuit around something that a script does.

use std::str::FromStr;

use clap::Args;

use crate::resilience::circuit::Permit;
use crate::resilience::store::{Ended, Ending};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::state;

use super::Circuits;
use super::order::{change, check_name};
use super::view::{CircuitChangesView, CircuitTryView};

/// Arguments of `circuit try`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints a permit, to be told with the result: permit=$(nexusctl circuit try payments) \
    && curl … && nexusctl circuit record payments \"$permit\" succeeded. Status 75 when nothing is let \
    out now: then the report says for how long. A circuit that nexus.yaml does not name has the \
    defaults.\n\nExamples:\n  nexusctl circuit try payments\n  nexusctl circuit try payments --dry-run -o json"
)]
pub(super) struct TryArgs {
    /// The circuit
    name: String,
    /// Say whether something would be let out, and let nothing out
    #[arg(long)]
    dry_run: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
struct Told(Ending);

impl FromStr for Told {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "succeeded" => Ok(Told(Ending::Succeeded)),
            "failed" => Ok(Told(Ending::Failed)),
            "abandoned" => Ok(Told(Ending::Abandoned)),
            _ => Err(format!("`{text}` is none of succeeded, failed and abandoned")),
        }
    }
}

/// Arguments of `circuit record`.
#[derive(Debug, Args)]
#[command(
    after_help = "A permit from before the circuit changed its state decides nothing. `failed` is for \
    what speaks against the other side; what failed for a reason of its own is `abandoned`.\n\n\
    Examples:\n  nexusctl circuit record payments 0-1700000000000 succeeded\n  \
    nexusctl circuit record payments 0-1700000000000 failed"
)]
pub(super) struct RecordArgs {
    /// The circuit
    name: String,
    /// What `circuit try` has printed
    permit: Permit,
    /// How it ended: succeeded, failed or abandoned
    result: Told,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn try_now(args: TryArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let TryArgs { name, dry_run } = args;
    check_name(&name)?;
    let mut breaker = Circuits::of(session)?.breaker(&name);
    let now = session.clock.now();
    let answer = if dry_run {
        breaker.permit(now)
    } else {
        let around = session.settings()?;
        session.drive(async {
            let state = state::open(&around).await?;
            Ok(state.permit(&name, breaker.settings(), now).await?)
        })?
    };
    let cause = breaker.order(now).map(|order| order.reason.clone());
    let cause = cause.or_else(|| breaker.opened().map(|(cause, ..)| cause.to_string()));
    let refused = answer.err();
    let state = refused.map_or_else(|| breaker.state(now), |refused| refused.state);
    session.ui.report(&CircuitTryView {
        name,
        state: state.as_str(),
        let_out: answer.is_ok(),
        permit: answer.ok().filter(|_| !dry_run).map(|permit| permit.to_string()),
        retry_after_ms: refused.and_then(|refused| refused.wait).map(state::ms),
        cause: cause.filter(|_| refused.is_some()),
        dry_run,
    })?;
    Ok(if answer.is_ok() { ExitStatus::Done } else { ExitStatus::TryLater })
}

pub(super) fn record(args: RecordArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RecordArgs { name, permit, result: Told(ending), dry_run } = args;
    check_name(&name)?;
    let mut breaker = Circuits::of(session)?.breaker(&name);
    let now = session.clock.now();
    let before = breaker.state(now);
    if dry_run {
        match ending {
            Ending::Succeeded => breaker.succeeded(permit, now),
            Ending::Failed => breaker.failed(permit, now),
            Ending::Abandoned => breaker.abandoned(permit),
        }
    } else {
        let around = session.settings()?;
        let settings = *breaker.settings();
        session.drive(unless_stopped(&session.stop, async {
            let state = state::open(&around).await?;
            let ended = vec![Ended { permit, ending, at: now }];
            Ok(state.record(&name, &settings, ended, now).await?)
        }))?;
        breaker = Circuits::of(session)?.breaker(&name);
    }
    let changes = vec![change(&name, before, &breaker, now)];
    session.ui.report(&CircuitChangesView { changes, dry_run })?;
    Ok(ExitStatus::Done)
}
