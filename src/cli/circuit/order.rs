//! `circuit open`, `disable`, `close` and `reset`: what an operator orders.

use std::sync::Arc;

use clap::Args;

use crate::base::suggest::nearest;
use crate::base::time::{HumanDuration, Timestamp};
use crate::resilience::circuit::{Circuit, CircuitBreaker, Order};

use crate::cli::consent::{self, Deed};
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::count;
use crate::cli::session::Session;
use crate::cli::state;

use super::Circuits;
use super::view::{CircuitChange, CircuitChangesView};

/// Arguments of `circuit open`.
#[derive(Debug, Args)]
#[command(
    after_help = "For all processes of this host that use the circuit. After its time, or once the \
    order is lifted, it is closed again only after probes have succeeded; `circuit close` closes it at \
    once.\n\nExamples:\n  \
    nexusctl circuit open payments --reason 'bank maintenance' --for 2h\n  \
    nexusctl circuit open payments --reason 'incident 42' --dry-run"
)]
pub(super) struct OrderArgs {
    /// The circuit
    name: String,
    /// Why: whoever is refused sees it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For so long; without it until it is closed
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<HumanDuration>,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `circuit disable`.
#[derive(Debug, Args)]
#[command(
    after_help = "For all processes of this host that use the circuit. After its time, and after \
    `circuit close`, it is closed and judges again.\n\nExamples:\n  \
    nexusctl circuit disable payments --reason 'false alarms' --for 30m\n  \
    nexusctl circuit disable payments --reason drill --dry-run"
)]
pub(super) struct DisableArgs {
    /// The circuit
    name: String,
    /// Why: whoever looks at the circuit sees it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For so long; without it until it is closed
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<HumanDuration>,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `circuit close`.
#[derive(Debug, Args)]
#[command(after_help = "Requests that are out now decide nothing any more.\n\nExamples:\n  \
    nexusctl circuit close payments\n  nexusctl circuit close payments --dry-run")]
pub(super) struct CloseArgs {
    /// The circuit
    name: String,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `circuit reset`.
#[derive(Debug, Args)]
#[command(after_help = "Asks before an operator's order is lost.\n\nExamples:\n  \
    nexusctl circuit reset payments\n  nexusctl circuit reset --all --yes")]
pub(super) struct ResetArgs {
    /// The circuits
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Vec<String>,
    /// All that were used
    #[arg(long)]
    all: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn open(args: OrderArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let OrderArgs { name, reason, duration, dry_run } = args;
    force(Order::Open, &name, &reason, duration, dry_run, session)
}

pub(super) fn disable(args: DisableArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DisableArgs { name, reason, duration, dry_run } = args;
    force(Order::Disable, &name, &reason, duration, dry_run, session)
}

pub(super) fn change(
    name: &str,
    before: Circuit,
    after: &CircuitBreaker,
    now: Timestamp,
) -> CircuitChange {
    let order = after.order(now);
    CircuitChange {
        name: name.to_owned(),
        before: before.as_str(),
        after: after.state(now).as_str(),
        reason: order.map(|order| order.reason.clone()),
        until: order.and_then(|order| order.until).map(|until| until.to_string()),
    }
}

/// A name that nobody could have meant would stay in the list for ever.
pub(super) fn check_name(name: &str) -> Result<(), CliError> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        let message = "a circuit's name has 1 to 255 bytes and no control characters";
        return Err(CliError::usage(message));
    }
    Ok(())
}

fn force(
    order: Order,
    name: &str,
    reason: &str,
    duration: Option<HumanDuration>,
    dry_run: bool,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    if reason.trim().is_empty() || reason.len() > 1000 {
        return Err(CliError::usage("--reason has to say something, in at most 1000 bytes"));
    }
    check_name(name)?;
    if duration.is_some_and(|duration| duration.0.is_zero()) {
        return Err(CliError::usage("--for has to be longer than nothing"));
    }
    let circuits = Circuits::of(session)?;
    if !circuits.has(name) {
        let names = circuits.names();
        let meant = nearest(name, names.iter().map(String::as_str));
        let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        session.ui.warning(format!(
            "nobody has used a circuit `{name}` yet, and nexus.yaml names none{meant}"
        ));
    }
    let now = session.clock.now();
    let until = duration.map(|duration| now.after(duration.0));
    let mut breaker = circuits.breaker(name);
    let before = breaker.state(now);
    if dry_run {
        breaker.force(order, reason, now, until);
    } else {
        let word = match order {
            Order::Open => "open",
            Order::Disable => "disable",
        };
        let what = format!("{word} circuit `{name}`");
        let settings = session.settings()?;
        consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
        let configured = circuits.configured.get(name).copied();
        breaker = session.drive(async {
            let state = state::open(&settings).await?;
            Ok(state.force_circuit(name, configured, order, reason, now, until).await?)
        })?;
    }
    let changes = vec![change(name, before, &breaker, now)];
    session.ui.report(&CircuitChangesView { changes, dry_run })?;
    Ok(ExitStatus::Done)
}

pub(super) fn close(args: CloseArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let CloseArgs { name, dry_run } = args;
    let circuits = Circuits::of(session)?;
    circuits.expect(&name)?;
    let now = session.clock.now();
    let mut breaker = circuits.breaker(&name);
    let before = breaker.state(now);
    if dry_run {
        breaker.reset();
    } else {
        let settings = session.settings()?;
        let what = format!("close circuit `{name}`");
        consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
        let configured = circuits.configured.get(&name).copied();
        breaker = session.drive(async {
            let state = state::open(&settings).await?;
            Ok(state.close_circuit(&name, configured, now).await?)
        })?;
    }
    let changes = vec![change(&name, before, &breaker, now)];
    session.ui.report(&CircuitChangesView { changes, dry_run })?;
    Ok(ExitStatus::Done)
}

pub(super) fn reset(args: ResetArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ResetArgs { name: names, all, dry_run } = args;
    let circuits = Circuits::of(session)?;
    for name in &names {
        circuits.expect(name)?;
    }
    let names = if all { circuits.stored.keys().cloned().collect() } else { names };
    let now = session.clock.now();
    let mut changes = Vec::new();
    let mut losses = Vec::new();
    for name in &names {
        let breaker = circuits.breaker(name);
        let before = breaker.state(now);
        if let Some(order) = breaker.order(now) {
            losses.push(format!("the order on `{name}` ({}): {}", before.as_str(), order.reason));
        }
        let fresh = CircuitBreaker::new(*breaker.settings());
        changes.push(change(name, before, &fresh, now));
    }
    if !dry_run && !names.is_empty() {
        let settings = session.settings()?;
        let what = format!("reset {}", count(names.len() as u64, "circuit"));
        consent::ask(session, &settings, &Deed { what, losses })?;
        let settings = Arc::clone(&settings);
        session.drive(async {
            let state = state::open(&settings).await?;
            for name in &names {
                state.forget_circuit(name).await?;
            }
            Ok(())
        })?;
    }
    session.ui.report(&CircuitChangesView { changes, dry_run })?;
    Ok(ExitStatus::Done)
}
